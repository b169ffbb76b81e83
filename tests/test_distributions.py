"""Distributions against scipy, closed forms and finite differences; draws that follow one generator."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.distributions import kl_divergence

from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    Bernoulli,
    BernoulliLogits,
    CategoricalLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    Flat,
    FlatPrior,
    GaussianPrior,
    IsotropicGaussian,
    OneHotLogits,
    soft_clamp,
)

F64 = torch.float64
T = torch.tensor


# -- drawing ------------------------------------------------------------------------------------------------


def everything():
    """One of each distribution that torch can sample."""
    a, b, p = T([1.5, 2.5]), T([0.7, 1.3]), T([0.3, 0.6])
    eye = torch.eye(2)
    return [
        *(D.Bernoulli(p), D.Beta(a, b), D.Binomial(5, p), D.Categorical(p), D.Cauchy(a, b), D.Chi2(a)),
        *(D.ContinuousBernoulli(p), D.Dirichlet(a), D.Exponential(b), D.FisherSnedecor(a, b), D.Gamma(a, b)),
        *(D.Geometric(p), D.Gumbel(a, b), D.HalfCauchy(b), D.HalfNormal(b), D.InverseGamma(a, b), D.Kumaraswamy(a, b)),
        *(D.Laplace(a, b), D.LKJCholesky(3, 1.5), D.LogNormal(a, b), D.LogisticNormal(a, b), D.Multinomial(9, p)),
        *(D.LowRankMultivariateNormal(a, torch.ones(2, 1), b), D.MultivariateNormal(a, eye), D.Normal(a, b)),
        *(D.MixtureSameFamily(D.Categorical(p), D.Normal(a, b)), D.NegativeBinomial(5.0, p), D.OneHotCategorical(p)),
        *(D.OneHotCategoricalStraightThrough(p), D.Pareto(a, b), D.Poisson(a), D.RelaxedBernoulli(T(0.5), p)),
        *(D.RelaxedOneHotCategorical(T(0.5), p), D.StudentT(a, a, b), D.Uniform(-a, b), D.VonMises(a, b)),
        *(D.Weibull(a, b), D.Wishart(T(4.0), eye), D.GeneralizedPareto(a, b, T(0.3)), D.Independent(D.Normal(a, b), 1)),
        D.TransformedDistribution(D.Normal(a, b), [D.ExpTransform()]),
    ]


def test_the_list_has_every_distribution_of_torch():
    abstract = {"Distribution", "ExponentialFamily"}
    known = {c.__name__ for q in everything() for c in type(q).__mro__}
    assert {n for n in D.__all__ if isinstance(getattr(D, n), type)} - known - abstract - set(
        D.transforms.__all__
    ) == set()


@pytest.mark.filterwarnings("ignore:Singular sample")  # torch's Wishart warns of its own draws
@pytest.mark.parametrize("q", everything(), ids=lambda q: type(q).__name__)
def test_one_generator_makes_every_draw(q):
    """Equal generators give equal draws, a moved-on one others, and torch's own generator does not move."""
    before, g = torch.get_rng_state(), generator(3)
    draws = []
    for rng in (g, generator(3), g):
        with drawing(rng):
            draws.append(q.sample((20,)))
            if q.has_rsample:
                draws[-1] = draws[-1], q.rsample((20,))
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    first, third = (d[0] if isinstance(d, tuple) else d for d in (draws[0], draws[2]))
    assert not torch.equal(first, third)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_global_one_draws():
    q = D.Normal(T(0.0), T(1.0))
    torch.manual_seed(5)
    with drawing(None):
        inside = q.sample((4,))
    torch.manual_seed(5)
    assert torch.equal(inside, q.sample((4,)))


def test_a_draw_with_its_own_generator_keeps_it():
    outer = generator(1)
    state = outer.get_state()
    with drawing(outer):
        x = torch.randn(3, generator=generator(2))
        nested = []
        with drawing(generator(4)):
            nested.append(torch.rand(3))
    assert torch.equal(outer.get_state(), state)
    assert torch.equal(x, torch.randn(3, generator=generator(2)))
    assert torch.equal(nested[0], torch.rand(3, generator=generator(4)))


def test_draws_come_back_on_the_device_they_were_asked_for():
    g = generator(1)
    state = g.get_state()
    with drawing(g):
        assert torch.rand(3, device="meta").device.type == "meta"
        assert torch.empty(3, device="meta").normal_().device.type == "meta"
    assert not torch.equal(g.get_state(), state)


def test_gradients_flow_through_a_draw():
    shape = T([1.5, 2.5], requires_grad=True)
    with drawing(generator(0)):
        D.Gamma(shape, 1.0).rsample().sum().backward()
    assert (shape.grad > 0).all()


def test_threads_draw_from_their_own_generators():
    q, out, barrier = D.Gamma(T(2.0), T(1.0)), {}, threading.Barrier(4)

    def work(seed):
        with drawing(generator(seed)):
            barrier.wait()
            out[seed] = torch.stack([q.sample() for _ in range(50)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in range(4):
        with drawing(generator(seed)):
            assert torch.equal(out[seed], torch.stack([q.sample() for _ in range(50)]))


def test_drawing_wants_one_generator():
    with pytest.raises(ValueError, match=r"^drawing takes one torch.Generator or None, got list$"):
        drawing([generator(0)])


# -- conditional families ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "out", "event"),
    [
        (DiagonalGaussian(), (6,), (3,)),
        (DiagonalGaussian(event_dims=3), (4, 5, 5), (2, 5, 5)),
        (IsotropicGaussian(0.3), (6,), (6,)),
        (IsotropicGaussian(0.3, learned=True, event_dims=3), (1, 4, 4), (1, 4, 4)),
        (BernoulliLogits(), (6,), (6,)),
        (BernoulliLogits(event_dims=3), (1, 4, 4), (1, 4, 4)),
        (OneHotLogits(3, 4), (12,), (3, 4)),
        (CategoricalLogits(), (6, 4), (6,)),
        (CategoricalLogits(event_dims=3), (1, 4, 4, 7), (1, 4, 4)),
    ],
)
@pytest.mark.parametrize("lead", [(2,), (5, 2)])
def test_batch_axes_lead_and_the_event_is_all_of_x(family, out, event, lead):
    q = family(torch.randn(*lead, *out))
    assert (q.batch_shape, q.event_shape) == (lead, event)
    x = q.sample((7,))
    assert x.shape == (7, *lead, *event)
    assert q.log_prob(x).shape == (7, *lead)


def test_conditional_is_its_family_of_its_network():
    net = nn.Linear(5, 4)
    q, c = Conditional(net, DiagonalGaussian()), torch.randn(3, 5)
    mean, raw = net(c).chunk(2, -1)
    assert torch.equal(q(c).mean, mean)
    torch.testing.assert_close(q(c).stddev, soft_clamp(raw, math.log(1e-3), math.log(1e2)).exp())


def test_a_network_of_one_batch_axis_takes_sample_axes_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    q, c = Conditional(net, DiagonalGaussian(event_dims=3), input_dims=3), torch.randn(2, 3, 1, 4, 4)
    assert q(c).batch_shape == (2, 3)
    torch.testing.assert_close(q(c).mean[1], q(c[1]).mean)
    with pytest.raises(ValueError, match=r"^inputs must have a batch axis before 3 of their own, got \(1, 4, 4\)$"):
        q(c[0, 0])


def test_a_conditional_owns_what_its_family_learns():
    decoder = Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5, learned=True))
    assert "family.log_std" in dict(decoder.named_parameters())
    assert "family.log_std" not in dict(Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5)).named_parameters())
    decoder(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).sum().backward()
    assert decoder.family.log_std.grad is not None


def test_soft_clamp():
    """Onto (low, high), rising, its slope the difference of two sigmoids, near the identity inside."""
    low, high = -7.0, 5.0
    x = torch.linspace(-60, 60, 2401, dtype=F64, requires_grad=True)
    y = soft_clamp(x, low, high)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert abs(y.min() - low) < 1e-9
    assert abs(y.max() - high) < 1e-9
    assert (y.diff() > -1e-8).all()  # softplus turns linear at 20
    inside = (x > low - 29) & (x < high + 29)
    torch.testing.assert_close(slope[inside], (torch.sigmoid(x - low) - torch.sigmoid(x - high))[inside])
    assert (y - x).detach().abs()[(x > low + 5) & (x < high - 5)].max() < 7e-3  # log(1 + e^-5)
    assert soft_clamp(T([1e30, -1e30]), low, high).tolist() == [high, low]


SINGLE = "std must be positive and finite, got "
RANK = "event_dims must be at least 1, got 0"
BITS = "a Bernoulli's data must be 0 or 1, got values in [{}]: binarize them"
IMPROPER = "a flat prior is improper and cannot be sampled: draw z from a posterior, or choose another"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalGaussian(event_dims=0), RANK),
        (lambda: IsotropicGaussian(event_dims=0), RANK),
        (lambda: BernoulliLogits(0), RANK),
        (lambda: CategoricalLogits(0), RANK),
        (lambda: DiagonalGaussian(1, 2.0, 1.0), "bounds must be 0 < min_std < max_std, got 2.0 and 1.0"),
        (
            lambda: DiagonalGaussian()(torch.zeros(2, 3)),
            "a mean and a spread need an even number of outputs on axis -1, got shape (2, 3)",
        ),
        (lambda: IsotropicGaussian(0.0), SINGLE + "0.0"),
        (lambda: OneHotLogits(0, 3), "there must be at least 1 group of 2 classes, got 0 of 3"),
        (lambda: OneHotLogits(2, 3)(torch.zeros(2, 5)), "the last axis must hold 2 x 3 logits, got shape (2, 5)"),
        (lambda: GaussianPrior(2, std=-1.0), SINGLE + "-1.0"),
        (lambda: GaussianPrior(2, mean=torch.zeros(3)), "mean of shape (3,) does not broadcast to (2,)"),
        (lambda: CategoricalPrior(1, 1), "there must be at least 1 group of 2 classes, got 1 of 1"),
        (lambda: FlatPrior(2)().sample(), IMPROPER),
        (lambda: FlatPrior(2)().rsample((3,)), IMPROPER),
        (lambda: FlatPrior(2)().log_prob(torch.zeros(4, 3)), "values must end in (2,), got (4, 3)"),
        (lambda: kl_divergence(GaussianPrior(3)(), Flat(2)), "event shapes must agree, got (3,) and (2,)"),
        (lambda: BernoulliLogits()(torch.zeros(1, 2)).log_prob(T([[0.2, 1.0]])), BITS.format("0.2, 1")),
        (lambda: Bernoulli(logits=torch.zeros(1)).log_prob(T([-1.0])), BITS.format("-1, -1")),
        (lambda: Bernoulli(logits=torch.zeros(1)).log_prob(T([math.nan])), BITS.format("nan, nan")),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


# -- priors ------------------------------------------------------------------------------------------------


def test_gaussian_prior():
    prior = GaussianPrior((2, 3), mean=0.5, std=2.0, learned=True)
    assert (prior().batch_shape, prior().event_shape) == ((), (2, 3))
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(prior().log_prob(x), D.Normal(0.5, 2.0).log_prob(x).sum((1, 2)))
    assert {n: p.shape for n, p in prior.named_parameters()} == {"mean": (2, 3), "log_std": ()}
    assert not list(GaussianPrior((2, 3)).parameters())


def test_kl_to_the_priors():
    """KL(N(m, s^2) || N(mu, sigma^2 I)) and the one to uniform classes in closed form, batch by batch."""
    m, s = torch.randn(5, 3, dtype=F64), torch.rand(5, 3, dtype=F64) + 0.5
    q = D.Independent(D.Normal(m, s), 1)
    prior = GaussianPrior(3, mean=0.3, std=1.7).double()
    exact = (((s**2 + (m - 0.3) ** 2) / 1.7**2 - 1) / 2 - (s / 1.7).log()).sum(1)
    torch.testing.assert_close(kl_divergence(q, prior()), exact, rtol=1e-6, atol=1e-6)
    q = OneHotLogits(2, 4)(torch.randn(5, 8))
    torch.testing.assert_close(kl_divergence(q, CategoricalPrior(2, 4)()), 2 * math.log(4) - q.entropy())


def test_flat_prior():
    q = D.Independent(D.Normal(torch.randn(5, 3), torch.rand(5, 3)), 1)
    p = FlatPrior(3)()
    assert p.log_prob(torch.randn(7, 5, 3, dtype=F64)).dtype == F64
    assert (p.log_prob(torch.randn(7, 5, 3)) == torch.zeros(7, 5)).all()
    torch.testing.assert_close(kl_divergence(q, p), -q.entropy())
