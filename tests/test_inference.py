"""Inference in the linear-Gaussian model, where the best q, its bound, its optimization path and all gaps are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from gaussians import draws, hierarchy
from jensen.core.seeding import generator
from jensen.core.types import Likelihood
from jensen.distributions import CategoricalPrior, Conditional, DiagonalGaussian, IsotropicGaussian, OneHotLogits
from jensen.models import VAE
from jensen.variational import (
    LinearGaussian,
    ascend_theta,
    elbo,
    fit_posterior,
    gap_split,
    log_weights,
    lower_bound,
    posterior_table,
    posterior_trace,
    refine,
    stochastic_vi,
)
from jensen.variational.gaps import Gap

F64 = torch.float64
ROOT = torch.tensor([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]], dtype=F64)


def model(encoder=None):
    """Posterior precision [[4.5, 2.1], [2.1, 5.85]]: a correlation of -0.41."""
    return LinearGaussian(ROOT, torch.tensor([0.1, -0.2, 0.3], dtype=F64), 0.4, encoder=encoder)


PRECISION = torch.eye(2, dtype=F64) + ROOT.T @ ROOT / 0.4
KL = float(PRECISION.diagonal().log().sum() - torch.logdet(PRECISION)) / 2  # KL from the best factors to the posterior


def best(x):
    """The factorised q nearest to the posterior: its mean, and the inverse diagonal of its precision as variances."""
    return Independent(Normal(model().posterior(x).mean, PRECISION.diagonal().rsqrt().expand(len(x), 2)), 1)


def perturbed(x):
    """The best factors, shifted by half a standard deviation and a tenth too wide."""
    q = best(x)
    return Independent(Normal(q.mean + 0.5 * q.stddev, 1.1 * q.stddev), 1)


AMORTIZED = 2 * (0.5 * 1.1**2 - 0.5 - math.log(1.1)) + 0.5 * float(
    (0.5 * PRECISION.diagonal().rsqrt()) @ PRECISION @ (0.5 * PRECISION.diagonal().rsqrt())
)  # tr(P S)/2 and log det change by the widths, m'Pm/2 by the shift


def test_the_closed_forms_of_this_file():
    x = draws(5, 3)
    torch.testing.assert_close(model().kl(best(x), x), torch.full((5,), KL, dtype=F64))
    torch.testing.assert_close(model().kl(perturbed(x), x), torch.full((5,), KL + AMORTIZED, dtype=F64))
    assert KL > 0.08
    assert AMORTIZED > 0.2


# a q of one's own ---------------------------------------------------------------------------------------------------


def test_any_q_leaves_a_trace():
    """The weights are p(x, z) / q(z); the gradients split into a pathwise and a score part as for an encoder."""
    x = draws(4, 3)
    shift = torch.zeros(2, dtype=F64, requires_grad=True)
    q = (Independent(Normal(best(x).mean + shift, best(x).stddev), 1),)
    torch.manual_seed(3)
    ours = posterior_trace(model(), x, q, samples=6)
    torch.manual_seed(3)
    theirs = model(lambda _: q[0]).trace(x, samples=6)
    torch.testing.assert_close(log_weights(ours), log_weights(theirs))
    slopes = []
    for trace in (ours, theirs):
        shift.grad = None
        (elbo(trace).sum() + (trace.log_q[0] * trace.log_px.detach()).sum()).backward()
        slopes.append(shift.grad)
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(ours.log_q[0], theirs.log_q[0])
    assert (ours.analytic, ours.pathwise) == ((False,), (True,))
    still = posterior_trace(model(), x, q, reparameterized=False)
    assert still.pathwise == (False,)
    assert not still.log_px.requires_grad
    assert still.log_q[0].requires_grad


def test_a_hierarchy_takes_one_q_a_layer():
    deep, flat = hierarchy()
    x = draws(3, 5)
    q = (Independent(Normal(draws(3, 3), 1.0), 1), Independent(Normal(draws(3, 2), 1.0), 1))
    trace = posterior_trace(deep, x, q, samples=20_000)
    log_w = log_weights(trace)
    assert log_w.shape == (20_000, 3)
    assert bool((log_w.mean(0) < flat.log_prob(x)).all())
    with pytest.raises(ValueError, match="one distribution per layer, 2, got 1"):
        posterior_trace(deep, x, q[:1])


# a datum at a time, all at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_the_best_factors_are_found(start):
    """Means, variances and bound in closed form; the bound within 3e-3 nats with 8 draws per step."""
    x = 2 * draws(20, 3)
    (q,) = fit_posterior(model(), x, start=start, generator=generator(0))
    exact = model().log_prob(x) - KL
    found = model().elbo(q, x)
    assert bool((found <= exact + 1e-9).all())  # the optimum is an upper bound
    assert float((exact - found).max()) < 3e-3
    assert float((q.mean - best(x).mean).abs().max()) < 0.03
    assert float((q.stddev / best(x).stddev - 1).abs().max()) < 0.05


def test_a_posterior_within_the_family_is_met_exactly():
    """At the optimum all draws have the same gradient, 0, so the result is exact to 1e-6 nats."""
    alone = LinearGaussian(torch.diag(torch.tensor([0.5, 3.0], dtype=F64)), torch.zeros(2), 0.3)
    x = draws(10, 2)
    (q,) = fit_posterior(alone, x, steps=1000, samples=2, generator=generator(0))
    assert float(alone.kl(q, x).max()) < 1e-6


def test_no_datum_feels_another():
    x, y = draws(2, 4, 3)
    both = [torch.cat([x, other]) for other in (y, 9 * y)]
    first, second = (fit_posterior(model(), v, steps=30, generator=generator(0))[0] for v in both)
    assert bool((first.mean[:4] == second.mean[:4]).all())
    assert not bool((first.mean[4:] == second.mean[4:]).any())


def test_starts():
    x = draws(6, 3)

    def encoder(x):
        return MultivariateNormal(x[:, :2], torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64))

    q = encoder(x)
    for start in ("encoder", (q,)):
        (begun,) = fit_posterior(model(encoder), x, steps=0, start=start)
        torch.testing.assert_close(begun.mean, q.mean)
        torch.testing.assert_close(begun.variance, q.variance)
    (begun,) = fit_posterior(model(), x, steps=0)
    assert float(begun.mean.abs().max()) < 4 / 16  # 256 draws of the prior
    assert float((begun.stddev - 1).abs().max()) < 4 / 512**0.5


def test_a_hierarchy_starts_at_the_moments_of_its_encoders():
    """q(z2|x) by the law of total variance: z1 ~ N(m, s^2), z2 | z1 ~ N(U z1, t^2), 16 draws, mean within 4 standard
    errors.
    """
    deep, _ = hierarchy()
    up = deep.encoders[1].net
    with torch.no_grad():
        up.weight[:2].copy_(draws(2, 3, seed=6))
    x = draws(200, 5)
    first, second = fit_posterior(deep, x, steps=0, start="encoder", generator=generator(0))
    one = torch.full((), deep.encoders[0](x).stddev[0, 0].item(), dtype=F64)
    between = up.weight[:2].square().sum(1) * one**2
    assert float(first.stddev.std()) < 1e-12
    variance = second.variance.mean(0)
    exact = deep.encoders[1](torch.zeros(1, 3, dtype=F64)).variance[0] + between * 15 / 16
    error = between * math.sqrt(2 / 16 / 200)
    assert bool(((variance - exact).abs() < 4 * error).all())


def test_a_hierarchy_is_fitted():
    """The refined bound is above that of the encoders and below log p."""
    deep, flat = hierarchy()
    x = flat.sample(8, generator=generator(1))
    q = fit_posterior(deep, x, steps=300, generator=generator(0))
    assert [tuple(v.event_shape) for v in q] == [(3,), (2,)]
    found, before = (lower_bound(deep, x, 2000, v, generator(2)) for v in (q, "encoder"))
    assert bool((found.value < flat.log_prob(x)).all())
    assert bool((found.value > before.value + 1).all())
    assert all(p.grad is None for p in deep.parameters())


def test_memory_only_cuts_the_data():
    x = draws(6, 3)
    (q,) = fit_posterior(model(), x, steps=300, generator=generator(0), memory=0.02)
    assert float((model().log_prob(x) - KL - model().elbo(q, x)).max()) < 0.01


# an encoder refined -------------------------------------------------------------------------------------------------


def test_refinement_is_gradient_ascent():
    """The gradient with respect to a mean is linear: E m_t = m* + (1 - rate p)^t (m_0 - m*); 4,000 runs, 4 standard
    errors.
    """
    one = LinearGaussian([[1.0]], [0.0], 0.5)
    x = torch.ones(4000, 1)
    precision, target = 3.0, 2 / 3
    start = (Independent(Normal(torch.full((4000, 1), -1.0), torch.full((4000, 1), 0.3)), 1),)
    (q,) = refine(one, x, start, steps=6, rate=0.05, generator=generator(0))
    expected = target + (1 - 0.05 * precision) ** 6 * (-1 - target)
    assert abs(float(q.mean.mean()) - expected) < 4 * float(q.mean.std()) / 4000**0.5
    (same,) = refine(one, x, start, steps=0)
    assert bool((same.mean == start[0].mean).all())


def test_refinement_is_differentiable_through_every_step():
    """Gradients of the refined bound with respect to the encoder's output and the decoder's weight, against
    differences.
    """
    x, raw = draws(3, 3), draws(2, 3, 2, seed=4)

    def bound(raw, weight, differentiable=True):
        at = LinearGaussian(weight, torch.zeros(3), 0.4)
        q = (Independent(Normal(raw[0], raw[1].exp()), 1),)
        q = refine(at, x, q, steps=4, rate=0.1, differentiable=differentiable, generator=generator(1))
        return at.elbo(q[0], x).sum()

    leaves = [raw.clone().requires_grad_(), ROOT.clone().requires_grad_()]
    assert torch.autograd.gradcheck(bound, leaves, eps=1e-6, atol=1e-6)
    held = bound(*leaves, differentiable=False)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(held, leaves[0])


def test_refinement_without_an_encoder_still_moves():
    q = refine(model(), draws(2, 3), (best(draws(2, 3)),), steps=1, differentiable=True)
    assert q[0].mean.shape == (2, 2)


# stochastic inference -----------------------------------------------------------------------------------------------


def test_only_the_rows_of_the_batch_move():
    """With dense gradients and plain Adam, rows would also move in steps that do not include them."""
    x = draws(12, 3)
    table = posterior_table(12, 2).double()
    stochastic_vi(model(), x, [table], steps=1, batch=4, generator=generator(0))
    moved = (table.net.weight != 0).any(1)
    assert int(moved.sum()) == 4
    dense = nn.Embedding(12, 4, dtype=F64)
    nn.init.zeros_(dense.weight)
    adam, before = torch.optim.Adam(dense.parameters()), None
    for rows in (torch.arange(4), torch.arange(4, 8)):
        adam.zero_grad()
        dense(rows).sub(1).square().sum().backward()
        adam.step()
        before = dense.weight.detach().clone() if before is None else before
    assert bool((dense.weight[:4] != before[:4]).all())  # absent in the second step


class Learned(LinearGaussian):
    """A decoder whose weight is a parameter."""

    def __init__(self, weight, bias, noise):
        super().__init__(weight, bias, noise)
        del self.weight
        self.weight = nn.Parameter(weight)


def test_theta_is_learned_with_the_table():
    """One latent: the best q is the posterior, so the bound reaches the maximum of log p over the weight."""
    x = draws(100, 1) @ torch.tensor([[1.5, -1.0, 0.5]], dtype=F64) + 0.5 * draws(100, 3, seed=1)
    fitted = LinearGaussian.fit(x, 1)
    start = Learned(torch.full((3, 1), 0.1, dtype=F64), fitted.bias, fitted.noise)
    table = posterior_table(100, 1).double()
    before = start.log_prob(x).mean().detach()
    stochastic_vi(
        start, x, [table], steps=500, batch=50, rate=0.1, samples=2, learn=[start.weight], generator=generator(0)
    )
    reached = start.log_prob(x).mean().detach()
    assert float(fitted.log_prob(x).mean() - before) > 0.5
    assert 0 <= float(fitted.log_prob(x).mean() - reached) < 2e-3


# gaps ---------------------------------------------------------------------------------------------------------------


def test_the_sampled_bound_knows_its_error():
    """z-scores of 400 data against the closed form: mean 0 and standard deviation 1 within 4 standard errors, in
    several chunks.
    """
    x = draws(400, 3)
    exact = model().elbo(perturbed(x), x)
    for q, at in (((perturbed(x),), model()), ("encoder", model(perturbed))):
        bound = lower_bound(at, x, 300, q, generator(0), memory=1.0)
        z = (bound.value - exact) / bound.stderr
        assert abs(float(z.mean())) < 4 / 20
        assert abs(float(z.std()) - 1) < 4 / 800**0.5
        assert (bound.kind, bound.measure) == ("lower bound", "density")


@pytest.mark.parametrize("given", [True, False])
def test_the_whole_gap_splits_into_family_and_encoder(given):
    """Closed forms of both gaps and of their sum; 4 standard errors, and 1e-3 nats for the fit."""
    x = draws(20, 3)
    at = model(perturbed)
    log_p = at.log_likelihood(x) if given else None
    split = gap_split(at, x, log_p=log_p, samples=4000, generator=generator(0))
    for gap, exact in ((split.approximation, KL), (split.amortization, AMORTIZED), (split.total, KL + AMORTIZED)):
        assert bool(((gap.value - exact).abs() < 4 * gap.stderr + 1e-3).all())
    torch.testing.assert_close(split.approximation.value + split.amortization.value, split.total.value)
    assert split.log_p.kind == ("exact" if given else "estimate")
    z = (split.total.value - KL - AMORTIZED) / split.total.stderr
    assert abs(float(z.std()) - 1) < 4 / 40**0.5


def test_errors_of_a_gap_add_in_squares():
    def given(value, stderr):
        return Likelihood(
            torch.tensor([value]), "lower bound", "density", None if stderr is None else torch.tensor([stderr])
        )

    gap = Gap.between(given(2.0, 0.3), given(1.5, 0.4))
    assert (gap.value.item(), gap.stderr.item()) == (0.5, pytest.approx(0.5))
    assert Gap.between(given(2.0, None), given(1.5, 0.4)).stderr.item() == pytest.approx(0.4)
    assert Gap.between(given(2.0, None), given(1.5, None)).stderr.item() == 0


# bad input ----------------------------------------------------------------------------------------------------------


def discrete():
    flatten = nn.Sequential(nn.Flatten(-2), nn.Linear(6, 3))
    encoder = Conditional(nn.Linear(3, 6), OneHotLogits(2, 3))
    return VAE(encoder, Conditional(flatten, IsotropicGaussian()), CategoricalPrior(2, 3))


X = draws(4, 3)
WRONG = Independent(Normal(draws(4, 5), 1.0), 1)
FULL = MultivariateNormal(draws(4, 2), torch.eye(2, dtype=F64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior_trace(model(), X, (best(X),), samples=0), "samples must be at least 1, got 0"),
        (lambda: posterior_trace(model(), X, (WRONG,)), r"event shape \(2,\), got \(4,\) and \(5,\)"),
        (lambda: posterior_trace(model(), X, (best(X[:3]),)), r"batch shape \(4,\) and event shape \(2,\), got \(3,\)"),
        (lambda: fit_posterior(model(), X, steps=-1), "steps must be at least 0, got -1"),
        (lambda: fit_posterior(model(), X, samples=0), "samples must be at least 1, got 0"),
        (lambda: fit_posterior(model(), X, rate=0.0), "rate must be positive, got 0.0"),
        (lambda: fit_posterior(model(), X, start="data"), "start must be 'prior', 'encoder' .* got 'data'"),
        (lambda: fit_posterior(model(), X, start=(WRONG,)), r"event shape \(2,\), got \(4,\) and \(5,\)"),
        (
            lambda: fit_posterior(discrete(), X.float()),
            "fitting a posterior needs reparameterized latents, and the draws of layer 1",
        ),
        (lambda: refine(model(), X, (best(X),), steps=-1), "steps must be at least 0, got -1"),
        (lambda: refine(model(), X, (best(X),), rate=0.0), "rate must be positive, got 0.0"),
        (lambda: refine(model(), X, (best(X),), samples=0), "samples must be at least 1, got 0"),
        (lambda: refine(model(), X, (WRONG,)), r"event shape \(2,\), got \(4,\) and \(5,\)"),
        (lambda: posterior_table(0, 2), "data and latents must be at least 1, got 0 and 2"),
        (lambda: stochastic_vi(model(), X, [posterior_table(4, 2)], steps=0), "steps must be at least 1, got 0"),
        (
            lambda: stochastic_vi(model(), X, [posterior_table(4, 2)], batch=5),
            "batch must be between 1 and 4, .* got 5",
        ),
        (lambda: stochastic_vi(model(), X, [posterior_table(4, 2)], batch=4, rate=0.0), "rate must be positive"),
        (lambda: stochastic_vi(model(), X, [posterior_table(4, 2)], batch=4, samples=0), "samples must be at least 1"),
        (lambda: stochastic_vi(model(), X, [posterior_table(5, 2)], batch=4), r"a row for each datum, 4, got \[5\]"),
        (
            lambda: stochastic_vi(model(), X, [Conditional(nn.Embedding(4, 4), DiagonalGaussian())], batch=4),
            "a table must be an embedding with sparse gradients",
        ),
        (
            lambda: stochastic_vi(model(), X, [posterior_table(4, 3)], batch=4),
            r"event shape \(2,\), got \(1,\) and \(3,\)",
        ),
        (lambda: lower_bound(model(), X, 1), "samples must be at least 2, for a standard error, got 1"),
        (lambda: lower_bound(model(), X, 9, "prior"), "q must be 'encoder' or one distribution per layer, got 'prior'"),
        (lambda: lower_bound(model(), X, 9, (FULL,)), "q must be mean-field Gaussians"),
        (lambda: lower_bound(model(), X, 9, (WRONG,)), r"event shape \(2,\), got \(4,\) and \(5,\)"),
        (lambda: ascend_theta(model(), X, best(X), steps=0), "steps must be at least 1, got 0"),
        (lambda: ascend_theta(model(), X, best(X), rate=0.0), "rate must be positive, got 0.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
