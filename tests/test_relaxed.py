"""Relaxed one-hot latents: densities and bounds by quadrature over logistic noise; an objective that is no bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from jensen.distributions import BernoulliLogits, CategoricalPrior, Conditional, DiagonalGaussian, OneHotLogits
from jensen.models import VAE
from jensen.objectives import Variational
from jensen.variational import Relaxation, cooling, dreg, elbo, free_bits, iwae, sticking_the_landing

F64 = torch.float64
LEVELS, NOISE = torch.tensor([-1.0, 2.0], dtype=F64), 0.6
POSTERIOR, PRIOR = 0.9, -0.5  # log-odds of the first of two classes


class Logits(nn.Module):
    """Log-odds of two classes, a separate parameter for each row, so that the gradient of each row can be read."""

    def __init__(self, odds, rows):
        super().__init__()
        self.odds = nn.Parameter(torch.full((rows, 1), odds, dtype=F64))

    def forward(self, x):
        return OneHotLogits(1, 2)(torch.cat([self.odds, torch.zeros_like(self.odds)], -1).expand(len(x), 2))


class Means(nn.Module):
    """N(z . LEVELS, NOISE^2), also for z between the classes."""

    def forward(self, z):
        return Independent(Normal((z[..., 0, :] @ LEVELS)[..., None], NOISE), 1)


class Prior(nn.Module):
    def forward(self):
        return OneHotLogits(1, 2)(torch.tensor([PRIOR, 0.0], dtype=F64))


def model_of(rows, x):
    model = VAE(Logits(POSTERIOR, 1), Means(), Prior())
    model.encoders[0] = Logits(POSTERIOR, rows)
    return model, torch.full((rows, 1), x, dtype=F64)


def log_density(odds, temperature, log_odds):
    """The density of the first share's log-odds l = (odds + noise) / temperature for logistic noise, written out."""
    noise = temperature * log_odds - odds
    return math.log(temperature) + nn.functional.logsigmoid(noise) + nn.functional.logsigmoid(-noise)


def log_px(log_odds, x):
    shares = torch.stack([log_odds.sigmoid(), (-log_odds).sigmoid()], -1)
    return Normal(shares @ LEVELS, NOISE).log_prob(torch.tensor(x, dtype=F64))


U = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000


def quadrature(x, temperature, prior_temperature, posterior=POSTERIOR):
    """The relaxed ELBO, its derivative with respect to the posterior's odds, and log p(x) of the relaxed model, by
    the midpoint rule.
    """
    odds = torch.tensor(posterior, dtype=F64, requires_grad=True)
    at = (odds + U.logit()) / temperature
    value = (log_px(at, x) + log_density(PRIOR, prior_temperature, at) - log_density(odds, temperature, at)).mean()
    evidence = log_px((PRIOR + U.logit()) / prior_temperature, x).exp().mean().log()
    return float(value.detach()), float(torch.autograd.grad(value, odds)[0]), float(evidence)


def categorical_kl(posterior=POSTERIOR):
    q, p = (torch.tensor([odds, 0.0], dtype=F64).log_softmax(0) for odds in (posterior, PRIOR))
    return float((q.exp() * (q - p)).sum())


def assert_mean(draws: Tensor, expected: float):
    assert float((draws.mean() - expected).abs()) < 4 * float(draws.std()) / len(draws) ** 0.5


@pytest.mark.parametrize(("temperature", "prior"), [(1.0, None), (0.4, None), (0.7, 0.5)])
def test_the_relaxed_bound_is_the_integral_and_below_the_relaxed_evidence(temperature, prior):
    """n = 100,000, 4 standard errors: the value; the gradient with and without the score term; K = 200 is close to
    log p.
    """
    how = Relaxation(temperature, prior_temperature=prior)
    value, slope, evidence = quadrature(0.3, temperature, prior or temperature)
    assert value < evidence - 0.05
    for trick in (lambda t: t, sticking_the_landing):
        model, x = model_of(100_000, 0.3)
        found = elbo(trick(how.trace(model, x)))
        found.sum().backward()
        assert_mean(found.detach(), value)
        assert_mean(model.encoder.odds.grad[:, 0], slope)
    model, x = model_of(2_000, 0.3)
    many = iwae(how.trace(model, x, samples=200)).detach()
    assert float(many.mean()) == pytest.approx(evidence, abs=0.02)


def discrete_evidence(x):
    p = torch.tensor([PRIOR, 0.0], dtype=F64).softmax(0)
    return float((p * Normal(LEVELS, NOISE).log_prob(torch.tensor(x, dtype=F64)).exp()).sum().log())


@pytest.mark.parametrize(("x", "posterior", "exceeds"), [(2.0, -6.0, "relaxed"), (0.5, 0.0, "discrete")])
def test_relaxed_draws_with_the_categorical_kl_are_no_bound(x, posterior, exceeds):
    """It exceeds log p(x) of the relaxed model at one x, and of the discrete model at an x between the classes. n =
    100,000: by more than 20 standard errors. Its value is E log p(x | z) minus the categorical KL, above the relaxed
    bound by the difference of the two divergences, by quadrature.
    """
    temperature = 2.0
    value, _, evidence = quadrature(x, temperature, temperature, posterior)
    at = (posterior + U.logit()) / temperature
    relaxed_kl = float((log_density(posterior, temperature, at) - log_density(PRIOR, temperature, at)).mean())
    expected = float(log_px(at, x).mean()) - categorical_kl(posterior)
    assert expected - value == pytest.approx(relaxed_kl - categorical_kl(posterior), abs=1e-9)
    assert relaxed_kl > categorical_kl(posterior)
    model, rows = model_of(100_000, x)
    model.encoder.odds.data.fill_(posterior)
    found = elbo(Relaxation(temperature, "gumbel-softmax").trace(model, rows)).detach()
    assert_mean(found, expected)
    ceiling = evidence if exceeds == "relaxed" else discrete_evidence(x)
    assert float(found.mean()) > ceiling + 20 * float(found.std()) / len(found) ** 0.5


def test_straight_through_is_the_discrete_bound():
    """n = 50,000, 4 standard errors, against the sum over both classes, for all temperatures; KL in closed form."""
    model, x = model_of(50_000, 0.3)
    q = torch.tensor([POSTERIOR, 0.0], dtype=F64).softmax(0)
    expected = float((q * Normal(LEVELS, NOISE).log_prob(x[0])).sum()) - categorical_kl()
    for temperature in (0.2, 3.0):
        trace = Relaxation(temperature, "straight-through").trace(model, x)
        assert_mean(elbo(trace).detach(), expected)
        torch.testing.assert_close(trace.kl[0], torch.full_like(trace.kl[0], categorical_kl()))
        assert bool(torch.autograd.grad(trace.log_px.sum(), model.encoder.odds)[0].all())
    with torch.no_grad():
        assert_mean(elbo(model.trace(x)), expected)  # the model itself is the discrete one, relaxed or not


def pictures():
    decoder = Conditional(nn.Sequential(nn.Flatten(2), nn.Linear(12, 5)), BernoulliLogits())
    return VAE(Conditional(nn.Linear(5, 12), OneHotLogits(3, 4)), decoder, CategoricalPrior(3, 4)), torch.ones(7, 5)


def test_a_cold_relaxation_in_single_precision_is_finite():
    """At temperature 0.02 the shares underflow in float32, but their logarithms do not."""
    model, x = pictures()
    with torch.no_grad():
        model.encoder.net.weight.mul_(20)
    trace = Relaxation(0.02).trace(model, x, samples=50)
    assert bool((trace.coordinates[0].abs() < 1e3).all())
    gradients = torch.autograd.grad(elbo(trace).sum(), list(model.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("kind", ["concrete", "gumbel-softmax", "straight-through"])
def test_the_objective_cools_and_says_what_it_raises(kind):
    """The temperature depends on the step; the trace's bound is maximised; free bits are per variable."""
    model, x = pictures()
    how = Relaxation(cooling(1.0, 0.25, 4), kind)
    objective, bound = (
        Variational(model, free_bits(0.1, "dimension"), samples=3, relaxation=how),
        free_bits(0.1, "dimension"),
    )
    for step, temperature in ((0, 1.0), (2, 0.5), (9, 0.25)):
        torch.manual_seed(3)
        loss = objective(("model",), {"x": x}, step)["model"]
        torch.manual_seed(3)
        expected = Relaxation(temperature, kind).trace(model, x, samples=3)
        torch.testing.assert_close(loss.total, -bound(expected).mean())
        name = {"concrete": "relaxed_elbo", "gumbel-softmax": "no_bound", "straight-through": "elbo"}[kind]
        assert set(loss.terms) == {"loss", name, "log_px", "kl", "temperature"}
        torch.testing.assert_close(loss.terms[name], elbo(expected).mean().detach())
        assert float(loss.terms["temperature"]) == pytest.approx(temperature)


def test_the_doubly_reparameterized_gradient_of_a_relaxed_bound():
    """Concrete draws are reparameterized: the encoder descends `dreg` of the relaxed trace."""
    model, x = pictures()
    objective = Variational(model, iwae, samples=4, gradient="dreg", relaxation=Relaxation(0.5))
    torch.manual_seed(3)
    loss = objective(("encoder",), {"x": x}, 0)["encoder"].total
    torch.manual_seed(3)
    expected = -dreg(Relaxation(0.5).trace(model, x, samples=4)).mean()
    found, exactly = (torch.autograd.grad(v, list(model.encoder.parameters())) for v in (loss, expected))
    torch.testing.assert_close(found, exactly)


def test_what_cannot_be_relaxed_is_refused():
    model, x = pictures()
    gaussian = VAE(
        Conditional(nn.Linear(5, 4), DiagonalGaussian()), Conditional(nn.Linear(2, 5), BernoulliLogits()), Unit()
    )
    concrete, straight = Relaxation(0.5), Relaxation(0.5, "straight-through")
    for call, message in (
        (lambda: Relaxation(0.0), "temperature must be positive, got 0"),
        (lambda: Relaxation(1.0, "warm"), "one of concrete, gumbel-softmax, straight-through, got 'warm'"),
        (lambda: Relaxation(1.0, "gumbel-softmax", prior_temperature=1.0), "is not relaxed"),
        (lambda: Relaxation(1.0, prior_temperature=-1.0), "temperature must be positive"),
        (lambda: Relaxation(lambda step: -1.0).trace(model, x), "temperature must be positive"),
        (lambda: concrete.trace(gaussian, x), "only one layer of groups of one-hot latents"),
        (lambda: cooling(0.5, 1.0, 3), "start and end must be 0 < end <= start < inf, got 0.5 and 1"),
        (lambda: cooling(1.0, 0.5, 0), "steps must be at least 1"),
        (
            lambda: Variational(model, gradient="score", samples=2, relaxation=concrete),
            "relaxed draws are reparameterized",
        ),
        (
            lambda: Variational(model, baseline=nn.Linear(5, 1), relaxation=concrete),
            "relaxed draws are reparameterized",
        ),
        (lambda: Variational(model, analytic=True, relaxation=concrete), "analytic must be False"),
        (lambda: Variational(model, iwae, relaxation=straight), "the KL of straight-through is in closed form"),
        (
            lambda: Variational(model, gradient="stl", relaxation=straight),
            "the KL of straight-through is in closed form",
        ),
        (lambda: iwae(straight.trace(model, x)), "weights need sampled terms"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


class Unit(nn.Module):
    def forward(self):
        return Independent(Normal(torch.zeros(2), 1.0), 1)


def test_rounded_relaxed_draws_follow_the_logits():
    """n = 60,000, 5 standard errors: the largest of four shares, at all temperatures."""
    model, _ = pictures()
    x = (torch.arange(5) % 2.0).expand(20_000, 5)
    seen = []
    hook = model.decoder.register_forward_hook(lambda _module, given, _out: seen.append(given[0].detach()))
    Relaxation(0.8).trace(model, x, samples=3)
    hook.remove()
    shares = nn.functional.one_hot(seen[0].argmax(-1), 4).double().flatten(0, 1).mean(0)
    expected = model.encoder(x[:1]).base_dist.probs[0].detach().double()
    assert float(((shares - expected).abs() / (expected * (1 - expected) / 60_000).sqrt()).max()) < 5


def test_densities_of_several_classes_are_normalised():
    """E p(z) / q(z) = 1 for each of three variables of four classes: n = 60,000, 4 standard errors."""
    model, _ = pictures()
    x = (torch.arange(5) % 2.0).expand(60_000, 5)
    with torch.no_grad():
        weights = (-Relaxation(0.6).trace(model, x).coordinates[0][0]).double().exp()
    for variable in weights.T:
        assert_mean(variable, 1.0)
        assert float(variable.std()) > 0.1
