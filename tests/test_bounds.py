"""Bounds against closed forms, and all gradients against exact ones by quadrature on chains of Gaussians."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, OneHotCategorical

from jensen.distributions import GaussianPrior
from jensen.models import HVAE
from jensen.variational import (
    Constraint,
    Trace,
    annealed,
    beta,
    cyclical,
    dreg,
    elbo,
    free_bits,
    iwae,
    linear,
    log_weights,
    scored,
    sticking_the_landing,
)

F64 = torch.float64
X = 1.3
Q = [[0.4, 0.1, -0.6], [0.5, -0.3, -0.4]]  # slope, offset, log standard deviation of q(z1 | x), q(z2 | z1)
P = [[0.9, 0.2, -0.3], [0.8, 0.1, -0.2]]  # of p(x | z1), p(z1 | z2)


class Affine(nn.Module):
    """N(slope c + offset, std^2) with separate parameters for each row, so that the gradient of each row can be
    read.
    """

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta], dtype=F64))

    def forward(self, c):
        slope, offset, log_std = self.theta.split(1, dim=1)
        mean = slope * c + offset
        return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)


def chain(layers, rows, q=Q, p=P):
    model = HVAE([Affine(t) for t in q[:layers]], [Affine(t) for t in p[:layers]], GaussianPrior(1).double())
    for module in [*model.encoders, *model.decoders]:
        module.theta = nn.Parameter(module.theta.detach().repeat(rows, 1))
    return model, torch.full((rows, 1), X, dtype=F64)


def normal_log_prob(v, mean, log_std):
    return -((v - mean) ** 2) / (2 * torch.exp(2 * log_std)) - log_std - math.log(2 * math.pi) / 2


def exact(layers, samples, nodes=20, q=Q, p=P):
    """E log mean_k w_k by Gauss-Hermite quadrature over all K x L noise variables, and its gradients, (2, L, 3)."""
    q, p = (torch.tensor(v[:layers], dtype=F64, requires_grad=True) for v in (q, p))
    points, weights = (torch.tensor(v, dtype=F64) for v in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    count = samples * layers
    eps = torch.cartesian_prod(*[points] * count).view(-1, samples, layers)
    weight = torch.cartesian_prod(*[weights] * count).view(-1, count).prod(1)
    below, log_w, z = torch.tensor(X, dtype=F64), 0.0, []
    for layer in range(layers):
        slope, offset, log_std = q[layer]
        z.append(slope * below + offset + log_std.exp() * eps[..., layer])
        log_w = log_w - normal_log_prob(z[-1], slope * below + offset, log_std)
        below = z[-1]
    outcomes = [torch.tensor(X, dtype=F64), *z]
    for layer in range(layers):
        slope, offset, log_std = p[layer]
        log_w = log_w + normal_log_prob(outcomes[layer], slope * z[layer] + offset, log_std)
    log_w = log_w + normal_log_prob(z[-1], torch.zeros((), dtype=F64), torch.zeros((), dtype=F64))
    value = (weight * (log_w.logsumexp(1) - math.log(samples))).sum()
    return value.detach(), torch.stack(torch.autograd.grad(value, (q, p)))


def gradients(model, value):
    """The gradient of each row, (rows, 2, L, 3)."""
    value.sum().backward()
    return torch.stack([torch.stack([m.theta.grad for m in part], 1) for part in (model.encoders, model.decoders)], 1)


def assert_mean(draws, expected, errors=4.0):
    """Each mean is within `errors` standard errors of the expected value; equal if the draws do not vary."""
    mean, stderr = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    worst = ((mean - expected).abs() / (stderr + 1e-12)).max()
    assert worst < errors, float(worst)


def test_the_quadrature_is_the_closed_form_of_a_linear_gaussian():
    """One layer, one sample: log p(x) - KL(q

    posterior), in closed form.
    """
    (a, b, log_s), (w, c, log_t) = Q[0], P[0]
    precision = 1 + w**2 * math.exp(-2 * log_t)
    mean = w * (X - c) * math.exp(-2 * log_t) / precision
    variance = w**2 + math.exp(2 * log_t)
    log_p = -((X - c) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2
    m, s2 = a * X + b, math.exp(2 * log_s)
    kl = (s2 * precision + (m - mean) ** 2 * precision - 1 - math.log(s2 * precision)) / 2
    assert float(exact(1, 1)[0]) == pytest.approx(log_p - kl, abs=1e-12)


@pytest.mark.parametrize(("layers", "samples"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_iwae_is_the_integral(layers, samples):
    """n = 200,000, 4 standard errors; by sampling and, for the ELBO, with the KL of the top layer in closed form."""
    model, x = chain(layers, 200_000)
    expected = exact(layers, samples)[0]
    with torch.no_grad():
        assert_mean(iwae(model.trace(x, samples=samples)), expected)
        if samples == 1:
            trace = model.trace(x, analytic=True)
            assert trace.analytic == (False,) * (layers - 1) + (True,)
            assert_mean(elbo(trace), expected)


ESTIMATES = {
    "standard": lambda model, x, k: iwae(model.trace(x, samples=k)),
    "score": lambda model, x, k: scored(iwae)(model.trace(x, samples=k, reparameterized=False)),
    "stl": lambda model, x, k: iwae(sticking_the_landing(model.trace(x, samples=k))),
    "dreg": lambda model, x, k: dreg(model.trace(x, samples=k)),
}


@pytest.mark.parametrize(
    ("name", "layers", "samples"),
    [
        *[(name, layers, 1) for name in ESTIMATES for layers in (1, 2)],
        *[(name, 1, 3) for name in ("standard", "score", "dreg")],
        *[(name, 2, 2) for name in ("standard", "score", "dreg")],
    ],
)
def test_gradients_are_unbiased(name, layers, samples):
    """n = 200,000 rows with one gradient each: all coordinates within 4 standard errors of the exact gradient."""
    model, x = chain(layers, 200_000)
    found = gradients(model, ESTIMATES[name](model, x, samples))
    _, expected = exact(layers, samples)
    players = slice(0, 1) if name == "dreg" else slice(0, 2)
    assert_mean(found[:, players], expected[players])


@pytest.mark.parametrize("bound", [elbo, beta(2.5)])
def test_the_elbos_gradients_with_several_samples(bound):
    """n = 100,000, K = 3: the ELBO's score-function gradient with leave-one-out baseline, and sticking the landing."""
    model, x = chain(1, 100_000)
    weight = 1.0 if bound is elbo else 2.5
    q, p = (torch.tensor(v[:1], dtype=F64, requires_grad=True) for v in (Q, P))
    (a, b, log_s), (w, c, log_t) = q[0], p[0]
    mean, variance = a * X + b, (2 * log_s).exp()
    rebuilt = (
        normal_log_prob(torch.tensor(X, dtype=F64), w * mean + c, log_t) - w**2 * variance / 2 * (-2 * log_t).exp()
    )
    kl = (mean**2 + variance - 1) / 2 - log_s
    expected = torch.stack(torch.autograd.grad(rebuilt - weight * kl, (q, p)))
    for trick, reparameterized in ((scored(bound), False), (lambda t: bound(sticking_the_landing(t)), True)):
        model.zero_grad()
        found = gradients(model, trick(model.trace(x, samples=3, reparameterized=reparameterized)))
        assert_mean(found, expected)


def test_sticking_the_landing_is_biased_for_iwae():
    """n = 200,000, K = 3: the encoder's gradient is off by more than 8 standard errors in some coordinate, the
    model's is unbiased.
    """
    model, x = chain(1, 200_000)
    found = gradients(model, ESTIMATES["stl"](model, x, 3))
    _, expected = exact(1, 3)
    assert_mean(found[:, 1], expected[1])
    with pytest.raises(AssertionError):
        assert_mean(found[:, 0], expected[0], errors=8)


def posterior(layers):
    """The exact posterior of the chain `P`: slope, offset and log standard deviation of each factor."""
    prior_mean, prior_variance, laws = 0.0, 1.0, []
    for slope, offset, log_std in reversed(P[:layers]):  # from p(z_L) down: the law of z_l, and z_l given z_{l-1}
        noise = math.exp(2 * log_std)
        precision = 1 / prior_variance + slope**2 / noise
        gain = slope / noise / precision
        laws.insert(0, [gain, prior_mean / prior_variance / precision - gain * offset, -math.log(precision) / 2])
        prior_mean, prior_variance = slope * prior_mean + offset, slope**2 * prior_variance + noise
    return laws, float(normal_log_prob(torch.tensor(X), prior_mean, torch.tensor(math.log(prior_variance) / 2)))


@pytest.mark.parametrize("layers", [1, 2])
def test_at_the_posterior_every_draw_is_exact_and_sticking_the_landing_stands_still(layers):
    """log w = log p(x) for all draws and all K; the sticking-the-landing gradient of the encoder is 0 for each draw,
    the standard gradient is not.
    """
    q, log_p = posterior(layers)
    model, x = chain(layers, 500, q)
    trace = model.trace(x, samples=3)
    torch.testing.assert_close(log_weights(trace), torch.full((3, 500), log_p, dtype=F64), rtol=0, atol=1e-6)
    for bound in (elbo, iwae):
        model.zero_grad()
        stuck = gradients(model, bound(sticking_the_landing(model.trace(x, samples=3))))
        assert float(stuck[:, 0].abs().max()) < 1e-12
        model.zero_grad()
        plain = gradients(model, bound(model.trace(x, samples=3)))
        assert float(plain[:, 0].std(0).min()) > 0.1


def test_signal_to_noise_of_the_encoders_gradient():
    """The signal-to-noise ratio falls like K^(-1/2) for IWAE and grows like K^(1/2) with double reparameterization;
    n = 10,000, slopes within 0.12. Both use the mean of the doubly reparameterized gradient. The slope is fitted to
    the last three of five K, where the rates are asymptotic; q is wider than the posterior, so that all moments of
    the weights are finite.
    """
    wide = [[0.4, 0.1, -0.1]]
    counts, ratios, variances = (1, 4, 16, 64, 256), {"standard": [], "dreg": []}, []
    for k in counts:
        found = {}
        for name in ratios:
            model, x = chain(1, 10_000, wide)
            found[name] = gradients(model, ESTIMATES[name](model, x, k))[:, 0, 0, 1]
        mean = float(found["dreg"].mean().abs())
        variances.append(float(found["dreg"].var()))
        for name, draws in found.items():
            ratios[name].append(mean / float(draws.std()))
    assert variances == sorted(variances, reverse=True)
    for name, slope in (("standard", -0.5), ("dreg", 0.5)):
        fitted = np.polyfit(np.log(counts[2:]), np.log(ratios[name][2:]), 1)[0]
        assert fitted == pytest.approx(slope, abs=0.12), name


class Classes(nn.Module):
    """A one-hot variable with separate logits for each row: softmax of `theta`, or of its column for the class of
    the layer above.
    """

    def __init__(self, theta, rows):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=F64).repeat(rows, 1))

    def forward(self, x):
        return OneHotCategorical(logits=self.theta)


class Means(nn.Module):
    """N(mean of the class, 1)."""

    def forward(self, z):
        mean = (z * torch.tensor([-1.0, 0.5, 2.0], dtype=F64)).sum(-1, keepdim=True)
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


class Uniform(nn.Module):
    def forward(self):
        return OneHotCategorical(logits=torch.zeros(3, dtype=F64))


def categorical(rows):
    model = HVAE([Classes([0.3, -0.5, 0.1], 1)], [Means()], Uniform())
    model.encoders[0] = Classes([0.3, -0.5, 0.1], rows)
    return model, torch.full((rows, 1), X, dtype=F64)


def enumerated(bound, samples):
    """The expectation of the bound over all 3^K draws, and its gradient with respect to the logits."""
    theta = torch.tensor([0.3, -0.5, 0.1], dtype=F64, requires_grad=True)
    log_q = theta.log_softmax(0)
    log_px = normal_log_prob(X, torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.zeros((), dtype=F64))
    log_w = log_px - math.log(3) - log_q
    draws = torch.cartesian_prod(*[torch.arange(3)] * samples).view(-1, samples)
    value = log_w[draws].mean(1) if bound is elbo else log_w[draws].logsumexp(1) - math.log(samples)
    expected = (log_q[draws].sum(1).exp() * value).sum()
    return expected.detach(), torch.autograd.grad(expected, theta)[0]


@pytest.mark.parametrize("bound", [elbo, iwae])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_categorical_latents_by_enumeration(bound, samples):
    """n = 200,000: value and score-function gradient with leave-one-out baseline, within 4 standard errors."""
    model, x = categorical(200_000)
    value = scored(bound)(model.trace(x, samples=samples))
    value.sum().backward()
    expected, gradient = enumerated(bound, samples)
    assert_mean(value.detach(), expected)
    assert_mean(model.encoders[0].theta.grad, gradient)


def test_baselines_leave_the_mean_and_lower_the_variance():
    """n = 200,000. K = 1: a constant near the bound; K = 4: leave-one-out at least halves the variance."""
    near = enumerated(elbo, 1)[0].expand(200_000)
    for samples, baseline, other in ((1, torch.zeros_like(near), near), (4, torch.zeros_like(near), None)):
        _, expected = enumerated(elbo, samples)
        variances = []
        for b in (baseline, other):
            model, x = categorical(200_000)
            scored(elbo, b)(model.trace(x, samples=samples)).sum().backward()
            grad = model.encoders[0].theta.grad
            assert_mean(grad, expected)
            variances.append(float(grad.var(0).sum()))
        assert variances[1] < 0.5 * variances[0]


def made(samples=3, batch=4, layers=2, analytic=False, pathwise=True):
    return Trace(
        torch.randn(samples, batch, dtype=F64),
        tuple(torch.rand(samples, batch, dtype=F64, requires_grad=True) for _ in range(layers)),
        tuple(torch.randn(samples, batch, dtype=F64, requires_grad=True) for _ in range(layers)),
        (analytic,) * layers,
        (pathwise,) * layers,
    )


def test_tricks_leave_every_value_to_the_last_bit():
    path, score = made(), made(pathwise=False)
    for bound in (elbo, iwae, beta(3.0), free_bits(0.6)):
        assert torch.equal(bound(sticking_the_landing(path)), bound(path))
        assert torch.equal(scored(bound)(score), bound(score))
        assert torch.equal(scored(bound, torch.ones(4, dtype=F64))(score), bound(score))
    assert torch.equal(dreg(path), iwae(path))
    assert torch.equal(
        iwae(path), iwae(replace(path, kl=(sum(path.kl),), log_q=path.log_q[:1], analytic=(False,), pathwise=(True,)))
    )


def test_free_bits_are_of_each_layers_batch_mean():
    """The mean KL of layer 1 is below its free bits although one example is far above; that of layer 2 is above
    although one example has 0.
    """
    low = torch.tensor([[0.0, 0.0, 2.7]], dtype=F64, requires_grad=True)
    high = torch.tensor([[0.0, 1.5, 3.0]], dtype=F64, requires_grad=True)
    trace = Trace(torch.zeros(1, 3, dtype=F64), (low, high), (low, high), (False,) * 2, (True,) * 2)
    value = free_bits(1.0)(trace)
    torch.testing.assert_close(value, torch.tensor([-1.0, -2.5, -4.0], dtype=F64))
    value.mean().backward()
    assert float(low.grad.abs().max()) == 0
    torch.testing.assert_close(high.grad, torch.full((1, 3), -1 / 3, dtype=F64))
    published = -max(1.0, float(low.detach().mean())) - max(1.0, float(high.detach().mean()))
    assert float(value.detach().mean()) == pytest.approx(published)


def test_beta_and_its_schedules():
    trace = made()
    total = trace.log_px - 2.5 * (trace.kl[0] + trace.kl[1])
    torch.testing.assert_close(beta(2.5)(trace), total.mean(0))
    torch.testing.assert_close(annealed(linear(10)).at(4)(trace), beta(0.4)(trace))
    torch.testing.assert_close(annealed(linear(10, start=0.5)).at(4)(trace), beta(0.7)(trace))
    weight = cyclical(100, rise=0.25)
    assert [weight(s) for s in (0, 10, 25, 99, 100, 310)] == pytest.approx([0, 0.4, 1, 1, 0, 0.4])


def test_the_constraint_is_a_lagrangian():
    """Its value, and the multiplier's step: an increase proportional to the excess KL."""
    trace, bound = made(), Constraint(0.3, start=1.7).double()
    excess = (trace.kl[0] + trace.kl[1]).mean(0) - 0.3
    value = bound(trace)
    torch.testing.assert_close(value, trace.log_px.mean(0) - 1.7 * excess, rtol=1e-6, atol=1e-6)
    value.mean().backward()
    torch.testing.assert_close(bound.log_multiplier.grad, -1.7 * excess.mean().detach(), rtol=1e-6, atol=1e-6)


def test_refusals():
    path, closed, score = made(), made(analytic=True), made(pathwise=False)
    for bound in (iwae, dreg, log_weights):
        with pytest.raises(ValueError, match="weights need sampled terms, and layer 1's is analytic"):
            bound(closed)
    empty = Trace(torch.zeros(0, 2), (torch.zeros(0, 2),), (torch.zeros(0, 2),), (False,), (True,))
    for bound in (elbo, iwae, beta(2.0), free_bits(1.0)):
        with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
            bound(empty)
    for trick in (sticking_the_landing, dreg):
        with pytest.raises(ValueError, match="reparameterized draws, and layer 1's are not"):
            trick(score)
    with pytest.raises(ValueError, match="sticking the landing needs sampled terms"):
        sticking_the_landing(closed)
    with pytest.raises(ValueError, match="one entry per layer"):
        replace(path, analytic=(False,))
    for build, message in (
        (lambda: beta(-1.0), "beta must be at least 0"),
        (lambda: beta(math.inf), "beta must be at least 0"),
        (lambda: free_bits(-0.1), "free bits must be at least 0"),
        (lambda: linear(0), "steps must be at least 1"),
        (lambda: linear(3, start=2.0), "start must be in"),
        (lambda: cyclical(0), "period must be at least 1"),
        (lambda: cyclical(3, rise=0.0), "rise must be in"),
        (lambda: Constraint(0.0), "nats must be positive"),
        (lambda: Constraint(1.0, start=-1.0), "start must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
