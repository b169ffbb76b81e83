"""Distributions against SciPy, closed forms and finite differences; draws follow a given generator."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.distributions import kl_divergence

from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    AutoregressiveBits,
    Bernoulli,
    BernoulliLogits,
    Categorical,
    CategoricalLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Erlang,
    Flat,
    FlatPrior,
    GaussianPrior,
    Gompertz,
    IsotropicGaussian,
    Levels,
    OneHot,
    OneHotLogits,
    StraightThroughOneHot,
    gumbel_softmax,
    soft_clamp,
)
from kolmogorov import kolmogorov

F64 = torch.float64
T = torch.tensor


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
    with pytest.raises(ValueError, match=r"^inputs must have a batch axis before 3 event axes, got shape \(1, 4, 4\)$"):
        q(c[0, 0])


def test_a_conditional_owns_what_its_family_learns():
    decoder = Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5, learned=True))
    assert "family.log_std" in dict(decoder.named_parameters())
    assert "family.log_std" not in dict(Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5)).named_parameters())
    decoder(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).sum().backward()
    assert decoder.family.log_std.grad is not None


def test_soft_clamp():
    """Maps onto (low, high), increasing, with slope equal to a difference of two sigmoids, close to the identity
    inside.
    """
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
OFF = "data must lie on the 256 levels of [-1, 1], got values in [{}]: scale them by 2 i / 255 - 1"
BITS = "a Bernoulli's data must be 0 or 1, got values in [{}]: binarize them"
IMPROPER = "a flat prior is improper and cannot be sampled: choose another prior, or sample a posterior"


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
            "axis -1 of the output must be even (means and scales), got shape (2, 3)",
        ),
        (lambda: IsotropicGaussian(0.0), SINGLE + "0.0"),
        (lambda: Levels(event_dims=0), RANK),
        (lambda: Levels(min_scale=0.0), "bounds must be 0 < min_scale < max_scale, got 0.0 and 100.0"),
        (lambda: OneHotLogits(2, 3, temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: StraightThroughOneHot(-1.0, torch.zeros(3)), "temperature must be positive, got -1.0"),
        (lambda: gumbel_softmax(torch.zeros(3), 0.0), "temperature must be positive, got 0.0"),
        (lambda: Gompertz(T([1.0, -2.0]), 1.0), "shape must be positive and finite, got -2"),
        (lambda: Gompertz(1.0, math.inf), "rate must be positive and finite, got inf"),
        (lambda: Erlang(T([1.0, 2.5]), 1.0), "shape must be an integer of at least 1, got 2.5"),
        (lambda: Erlang(0, 1.0), "shape must be an integer of at least 1, got 0"),
        (lambda: Erlang(2, 0.0), "rate must be positive and finite, got 0"),
        (lambda: DiscretizedGaussian(0.0, 0.0), "scale must be positive and finite, got 0"),
        (lambda: DiscretizedGaussian(math.inf, 1.0), "loc must be finite, got inf"),
        (lambda: Levels(levels=1), "levels must be at least 2, got 1"),
        (lambda: GaussianPrior(2, mean=math.nan), "mean must be finite, got nan"),
        (lambda: GaussianPrior((2, 0)), "shape must be at least 1 on each axis, got (2, 0)"),
        (lambda: FlatPrior(-1), "shape must be at least 1 on each axis, got (-1,)"),
        (lambda: Gompertz(1.0, 1.0).icdf(T([0.5, 1.5])), "a probability must be in [0, 1], got 1.5"),
        (lambda: DiscretizedGaussian(0.0, 1.0, levels=1), "levels must be at least 2, got 1"),
        (lambda: DiscretizedGaussian(0.0, 1.0).log_prob(T([0.3])), OFF.format("0.3, 0.3")),
        (lambda: DiscretizedLogistic(0.0, 1.0).log_prob(T([1 + 2 / 255, 1.0])), OFF.format("1, 1.008")),
        (lambda: DiscretizedLogistic(0.0, 1.0).cdf(T([0.0])), OFF.format("0, 0")),
        (lambda: Levels()(torch.zeros(1, 2)).log_prob(T([[math.nan]])), OFF.format("nan, nan")),
        (lambda: OneHotLogits(0, 3), "groups must be at least 1 and classes at least 2, got 0 and 3"),
        (lambda: OneHotLogits(2, 3)(torch.zeros(2, 5)), "the last axis must hold 2 x 3 logits, got shape (2, 5)"),
        (lambda: GaussianPrior(2, std=-1.0), SINGLE + "-1.0"),
        (lambda: GaussianPrior(2, mean=torch.zeros(3)), "mean must broadcast to (2,), got shape (3,)"),
        (lambda: CategoricalPrior(1, 1), "groups must be at least 1 and classes at least 2, got 1 and 1"),
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
    """KL(N(m, s^2)

    N(mu, sigma^2 I)) and the KL to uniform classes in closed form, for each batch row.
    """
    m, s = torch.randn(5, 3, dtype=F64), torch.rand(5, 3, dtype=F64) + 0.5
    q = D.Independent(D.Normal(m, s), 1)
    prior = GaussianPrior(3, mean=0.3, std=1.7).double()
    exact = (((s**2 + (m - 0.3) ** 2) / 1.7**2 - 1) / 2 - (s / 1.7).log()).sum(1)
    torch.testing.assert_close(kl_divergence(q, prior()), exact, rtol=1e-6, atol=1e-6)
    q = OneHotLogits(2, 4)(torch.randn(5, 8))
    torch.testing.assert_close(kl_divergence(q, CategoricalPrior(2, 4)()), 2 * math.log(4) - q.entropy())


def test_kl_of_bernoullis_is_that_of_torch():
    """A subclass uses the closed forms of its parent."""
    a, b = torch.randn(4), torch.randn(4)
    ours = kl_divergence(BernoulliLogits()(a[None]), BernoulliLogits()(b[None]))
    torch.testing.assert_close(ours, kl_divergence(D.Bernoulli(logits=a), D.Bernoulli(logits=b)).sum()[None])


def test_flat_prior():
    q = D.Independent(D.Normal(torch.randn(5, 3), torch.rand(5, 3)), 1)
    p = FlatPrior(3)()
    assert p.log_prob(torch.randn(7, 5, 3, dtype=F64)).dtype == F64
    assert (p.log_prob(torch.randn(7, 5, 3)) == torch.zeros(7, 5)).all()
    torch.testing.assert_close(kl_divergence(q, p), -q.entropy())


def test_flat_priors_of_a_batch():
    p = Flat((2,)).expand((5, 1))
    assert (p.batch_shape, p.event_shape) == ((5, 1), (2,))
    assert p.log_prob(torch.zeros(3, 2)).shape == (5, 3)
    assert p.support.event_dim == 1
    q = D.Independent(D.Normal(torch.zeros(3, 2), 1.0), 1)
    torch.testing.assert_close(kl_divergence(q, p), -q.entropy().expand(5, 3))


@pytest.mark.parametrize(
    "prior", [GaussianPrior(400, mean=0.3, std=2.0), CategoricalPrior(100, 7)], ids=["normal", "one-hot"]
)
def test_priors_in_half_precision_are_single_in_density(prior):
    """The density of the rounded parameters of a bfloat16 copy, computed and summed in single precision."""
    half = copy.deepcopy(prior).bfloat16()
    z = prior().sample((3,))
    exact = copy.deepcopy(half).double()().log_prob(z.double())
    assert half().log_prob(z).dtype == torch.float32
    torch.testing.assert_close(half().log_prob(z), exact.float(), rtol=2e-6, atol=0)
    noise = Conditional(nn.Identity(), IsotropicGaussian(0.3)).bfloat16()
    x = torch.zeros(400, dtype=torch.bfloat16)
    exact = IsotropicGaussian(0.3)
    exact.log_std.copy_(noise.family.log_std)
    torch.testing.assert_close(noise(x).log_prob(torch.ones(400)), exact(x.float()).log_prob(torch.ones(400)))


# -- what all share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "q",
    [
        Gompertz(T([0.5, 1.0]), 2.0),
        Erlang(T([1, 3]), 2.0),
        DiscretizedGaussian(T([0.1, 0.4]), 0.2),
        DiscretizedLogistic(T([0.1, 0.4]), 0.2, levels=16),
        StraightThroughOneHot(0.5, torch.randn(2, 3)),
        Categorical(logits=torch.randn(2, 3)),
        OneHot(logits=torch.randn(2, 3)),
        Bernoulli(logits=torch.randn(2)),
        AutoregressiveBits(3, 4)(torch.randn(2, 7)),
    ],
    ids=lambda q: type(q).__name__,
)
def test_expand_and_draw_by_one_generator(q):
    wide = q.expand(torch.Size((4, 2)))
    assert type(wide) is type(q)
    draws = []
    for rng in (generator(3), generator(3), generator(4)):
        with drawing(rng):
            draws.append(wide.sample((5,)))
    assert draws[0].shape == (5, 4, 2, *q.event_shape)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.testing.assert_close(wide.log_prob(draws[0]), q.log_prob(draws[0]))


# -- one-hot -----------------------------------------------------------------------------------------------


def test_gumbel_max_is_exact():
    """A million draws of five classes: chi-square above 18.5 with probability 0.001; relaxed draws have the same
    largest entry.
    """
    logits = T([0.5, -1.0, 2.0, 0.0, -3.0])
    q, n = StraightThroughOneHot(0.7, logits), 1_000_000
    with drawing(generator(0)):
        z = q.rsample((n,))
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(-1) == 1).all()
    expected = n * torch.softmax(logits, 0)
    assert float(((z.sum(0) - expected) ** 2 / expected).sum()) < 18.5
    with drawing(generator(0)):
        soft = gumbel_softmax(logits.expand(n, 5), 0.7)
    assert torch.equal(soft.argmax(-1), z.argmax(-1))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_relaxed_draws_follow_their_law(temperature):
    """For two classes P(y_1 <= c) = sigmoid(tau logit(c) - l), where l is the difference of the logits: n = 1e5."""
    with drawing(generator(0)):
        y = gumbel_softmax(T([0.8, -0.3], dtype=F64).expand(100_000, 2), temperature)
    torch.testing.assert_close(y.sum(-1), torch.ones(100_000, dtype=F64))
    assert kolmogorov(torch.sigmoid(temperature * (y[:, 0].log() - y[:, 1].log()) - 1.1)) < 1.95


def test_straight_through_is_hard_forward_and_relaxed_backward():
    logits, w = torch.randn(50, 4, requires_grad=True), torch.randn(50, 4)
    grads = []
    for hard in (True, False):
        with drawing(generator(0)):
            y = gumbel_softmax(logits, 0.6, hard=hard)
        grads.append(torch.autograd.grad((w * y).sum(), logits)[0])
    torch.testing.assert_close(*grads)
    q = OneHotLogits(2, 3, temperature=0.5)(torch.randn(7, 6, requires_grad=True))
    assert q.has_rsample
    assert q.rsample((2,)).requires_grad
    torch.testing.assert_close(kl_divergence(q, CategoricalPrior(2, 3)()), 2 * math.log(3) - q.entropy())
