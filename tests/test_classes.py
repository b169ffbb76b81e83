"""Bits and classes, as integers and one-hot: errors for invalid values, moments, divergences at extreme logits,
decoders.
"""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.distributions import kl_divergence

from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    Bernoulli,
    BernoulliLogits,
    Categorical,
    CategoricalLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    GaussianPrior,
    Levels,
    OneHot,
    OneHotLogits,
    StraightThroughOneHot,
    gumbel_softmax,
)
from jensen.models import VAE

F64 = torch.float64
T = torch.tensor
LOGITS = T([0.3, -1.0, 2.0, 0.5], dtype=F64)


def test_moments_of_classes_are_those_of_the_integers():
    """By hand; torch returns nan."""
    q = Categorical(logits=LOGITS)
    p = torch.softmax(LOGITS, 0)
    mean = float(p[1] + 2 * p[2] + 3 * p[3])
    assert float(q.mean) == pytest.approx(mean, rel=1e-15)
    assert float(q.variance) == pytest.approx(float(p[1] + 4 * p[2] + 9 * p[3]) - mean**2, rel=1e-13)
    assert D.Categorical(logits=LOGITS).mean.isnan()
    wide = q.expand(torch.Size((5, 2)))
    assert type(wide) is Categorical
    assert wide.mean.shape == (5, 2)


def test_classes_given_as_floats_are_those_given_as_integers():
    q, k = Categorical(logits=LOGITS), torch.arange(4)
    torch.testing.assert_close(q.log_prob(k), torch.log_softmax(LOGITS, 0))
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        assert torch.equal(q.log_prob(k.to(dtype)), q.log_prob(k))
    assert torch.equal(OneHot(logits=LOGITS).log_prob(torch.eye(4)), q.log_prob(k))


CLASSES = "classes must be integers from 0 to 3, got "
VECTORS = "one-hot vectors must have one 1 and zeros otherwise, got "
ONE_HOT = [OneHot(logits=torch.zeros(4)), StraightThroughOneHot(0.5, torch.zeros(4))]
ONE_HOT += [OneHotLogits(2, 4)(torch.zeros(8)), OneHotLogits(2, 4, 0.5)(torch.zeros(8)), CategoricalPrior(2, 4)()]


@pytest.mark.parametrize("value", [1.7, 4.0, -1.0, math.nan, math.inf])
def test_what_is_no_class_is_refused(value):
    """For 1.7 torch returns the log-probability of class 1."""
    for q in (Categorical(logits=torch.zeros(3, 4)), CategoricalLogits()(torch.zeros(2, 3, 4))):
        with pytest.raises(ValueError) as caught:
            q.log_prob(T([0.0, value, 1.0]))
        assert str(caught.value) == CLASSES + f"{value:.4g}"


@pytest.mark.parametrize("q", ONE_HOT, ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("row", [(0.4, 0.6, 0, 0), (1, 1, 0, 0), (0, 0, 0, 0), (2, 0, 0, -1), (math.nan, 1, 0, 0)])
def test_what_is_not_one_hot_is_refused(q, row):
    """torch returns the log-probability of the largest entry, whatever its value."""
    x = torch.eye(4)[:2].expand(*q.batch_shape, *q.event_shape[:-1], 4).clone() if q.event_shape[:-1] else torch.eye(4)
    x[-1] = T(row)
    with pytest.raises(ValueError) as caught:
        q.log_prob(x)
    assert str(caught.value) == VECTORS + "[" + ", ".join(f"{v:.4g}" for v in row) + "]"
    q.log_prob(q.sample((50,)))


EXTREME = [0.0, 1.0, -16.0, 17.5, 40.0, -120.0, 300.0]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_divergence_of_bits_at_extreme_logits(dtype):
    """Against mpmath with forty digits. KL(B(1/2)

    B(logit 17.5)) is 8.06, but infinite in torch in single precision.
    """
    with mpmath.workdps(40):
        for a in EXTREME:
            for b in EXTREME:
                ours = kl_divergence(Bernoulli(logits=T(a, dtype=dtype)), Bernoulli(logits=T(b, dtype=dtype)))
                one, other = (mpmath.mpf(v) for v in (a, b))
                p = 1 / (1 + mpmath.exp(-one))
                up, down = (mpmath.log1p(mpmath.exp(s * other)) - mpmath.log1p(mpmath.exp(s * one)) for s in (-1, 1))
                exact = float(p * up + (1 - p) * down)
                assert float(ours) == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps, abs=1e-15)
    half = D.Bernoulli(logits=T(0.0)), D.Bernoulli(logits=T(17.5))
    assert float(kl_divergence(*half)) == math.inf
    parameters = [T([0.3, -20.0], dtype=F64, requires_grad=True), T([30.0, 0.1], dtype=F64, requires_grad=True)]
    assert torch.autograd.gradcheck(
        lambda a, b: kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)), parameters, atol=1e-7
    )


def test_bits_that_are_certain():
    """With infinite logits: log-probabilities 0 and -inf, entropy 0, divergences 0, -l and infinity; torch returns
    nan.
    """
    q = Bernoulli(logits=T([math.inf, -math.inf]))
    assert q.log_prob(T([1.0, 0.0])).tolist() == [0, 0]
    assert q.log_prob(T([0.0, 1.0])).tolist() == [-math.inf, -math.inf]
    assert q.entropy().tolist() == [0, 0]
    assert kl_divergence(q, q).tolist() == [0, 0]
    assert kl_divergence(q, Bernoulli(logits=T(0.0))).tolist() == pytest.approx([math.log(2)] * 2)
    assert kl_divergence(Bernoulli(logits=T(0.0)), q).tolist() == [math.inf] * 2
    x = torch.linspace(-30, 30, 121, dtype=F64)
    torch.testing.assert_close(Bernoulli(logits=x).entropy(), D.Bernoulli(logits=x).entropy())


@pytest.mark.parametrize("kind", [Categorical, OneHot])
def test_divergence_of_classes_at_extreme_logits(kind):
    """sum p log(p / q) with a logit of -200 in q: infinite in torch in single precision; here only if q is 0."""
    p, q = T([0.0, 1.0, -300.0]), T([0.0, -200.0, 50.0])
    exact = (torch.softmax(p.double(), 0) * (torch.log_softmax(p.double(), 0) - torch.log_softmax(q.double(), 0))).sum()
    assert float(kl_divergence(kind(logits=p), kind(logits=q))) == pytest.approx(float(exact), rel=1e-6)
    assert float(kl_divergence(kind(logits=p), kind(logits=T([0.0, -math.inf, 0.0])))) == math.inf
    assert float(kl_divergence(kind(logits=T([0.0, -math.inf])), kind(logits=T([0.0, 0.0])))) == pytest.approx(
        math.log(2)
    )


# -- as decoders ----------------------------------------------------------------------------------------------


def classes_decoder():
    return Conditional(nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (3, 4))), CategoricalLogits())


NETS = {
    "linear": nn.Linear(3, 4),
    "flat": nn.Sequential(nn.Flatten(), nn.Linear(3, 4)),
    "embedding": nn.Sequential(nn.Embedding(4, 5), nn.Flatten(-2), nn.Linear(15, 4)),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_decoder_of_classes(net):
    """For both encodings, its draws can be encoded again, and its mean is that of the integers."""
    model = VAE(Conditional(net, DiagonalGaussian()), classes_decoder(), GaussianPrior(2))
    assert model.measure == "mass"
    x = model.sample(6)
    assert x.dtype == torch.int64
    trace = model.trace(x, samples=2)
    trace.log_px.sum().backward()
    assert torch.isfinite(trace.log_px).all()
    z = torch.randn(5, 2)
    p = torch.softmax(model.decoder.net(z), -1)
    torch.testing.assert_close(model.decode(z), p @ torch.arange(4.0))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_bits_of_any_dtype_are_encoded(dtype):
    x = torch.rand(7, 1, 4, 4) < 0.5
    encoder = Conditional(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 4)), DiagonalGaussian()
    )
    decoder = Conditional(nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, (1, 4, 4))), BernoulliLogits(3))
    assert torch.equal(encoder(x.to(dtype)).mean, encoder(x.float()).mean)
    logits = decoder.net(torch.zeros(7, 2))
    exact = -nn.functional.binary_cross_entropy_with_logits(logits, x.float(), reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(decoder(torch.zeros(7, 2)).log_prob(x.to(dtype)), exact)


# -- half precision ----------------------------------------------------------------------------------------------

FAMILIES = {
    "Gaussian": (DiagonalGaussian(), 1568, lambda g: torch.randn(784, generator=g)),
    "bits": (BernoulliLogits(), 784, lambda g: (torch.rand(784, generator=g) < 0.5).float()),
    "one-hot": (OneHotLogits(196, 4), 784, lambda g: torch.eye(4)[torch.randint(4, (196,), generator=g)]),
    "levels": (Levels(), 1568, lambda g: torch.randint(256, (784,), generator=g) / 127.5 - 1),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_gives_a_law_in_single(name, dtype):
    """Its log-density is computed from the network's output in single precision; half precision would lose nats."""
    family, outputs, draw = FAMILIES[name]
    net = nn.Linear(3, outputs).to(dtype)
    q, c, x = Conditional(net, family), torch.randn(2, 3), draw(torch.Generator().manual_seed(0))
    exact = family(net(c.to(dtype)).double()).log_prob(x.double())
    ours = q(c).log_prob(x)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact.float(), rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gumbels_trick_in_half_precision(dtype):
    """Each draw is that of single precision: half-precision noise would produce ties, which go to the first class."""
    logits = T([0.0, 0.5, 0.0], dtype=dtype).expand(20_000, 3)
    draws = []
    for at in (logits, logits.float()):
        with drawing(generator(0)):
            draws.append(gumbel_softmax(at, 0.5, hard=True))
    assert draws[0].dtype == dtype
    assert torch.equal(draws[0].float(), draws[1])
