"""Composed bounds against closed forms of a linear-Gaussian model; score-function gradients by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, OneHotCategorical

from jensen.core.seeding import generator
from jensen.distributions import (
    BernoulliLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    GaussianPrior,
    OneHotLogits,
)
from jensen.models import HVAE, VAE
from jensen.variational import (
    Layer,
    LinearGaussian,
    Penalized,
    Scheduled,
    Trace,
    annealed,
    beta,
    cyclical,
    elbo,
    free_bits,
    iwae,
    linear,
    scored,
    sticking_the_landing,
)

F64 = torch.float64
ROWS, DIMS = 3, 3


def linear_gaussian():
    """Trainable means, log standard deviations and decoder weight; data; the KL of each coordinate."""
    mean = torch.tensor([[0.1, 1.5, -0.4], [-0.2, -1.0, 0.9], [0.3, 0.8, 0.2]], dtype=F64, requires_grad=True)
    log_std = torch.tensor([[-0.1, -0.9, -0.3]], dtype=F64).repeat(ROWS, 1).requires_grad_()
    weight = torch.randn(4, DIMS, dtype=F64, generator=generator(0)).requires_grad_()
    return mean, log_std, weight, torch.randn(ROWS, 4, dtype=F64, generator=generator(1))


def traced(mean, log_std, weight, x):
    """Draws at plus and minus one standard deviation of each coordinate, whose means of quadratic functions of z are
    exact.
    """
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=DIMS)), dtype=F64)[:, None]
    q = Independent(Normal(mean, log_std.exp()), 1)
    layer = Layer(mean + log_std.exp() * signs, q, GaussianPrior(DIMS).double()(), q, divergence=True)
    (kl, closed), k = layer.coordinates(analytic=True), len(signs)
    assert closed
    log_px = Independent(Normal(layer.z @ weight.T, 0.5**0.5), 1).log_prob(x)
    kl = kl.expand(k, -1, -1)
    return Trace(log_px, (kl.sum(-1),), (kl.sum(-1),), (True,), (True,), (kl,))


def exact(mean, log_std, weight, x, price, floor, dimensions):
    """The batch mean of E log p(x | z), from the oracle, minus the penalty on the KL: its weighted mean or free
    bits.
    """
    kl = (mean**2 + (2 * log_std).exp() - 1) / 2 - log_std
    spread = weight.square().sum(0) @ (2 * log_std).exp().T / 0.5
    error = (x - mean @ weight.T).square().sum(1) / 0.5
    log_px = -(error + spread + 4 * math.log(2 * math.pi * 0.5)) / 2
    oracle = LinearGaussian(weight.detach(), torch.zeros(4, dtype=F64), 0.5)
    by_oracle = oracle.elbo(Independent(Normal(mean, log_std.exp()), 1), x) + kl.sum(1)
    torch.testing.assert_close(log_px, by_oracle)
    groups = kl.mean(0) if dimensions else kl.sum(1).mean()[None]
    return log_px.mean() - price * groups.clamp_min(floor).sum(), groups.detach()


NONE = -math.inf
COMPOSED = {
    "beta": (beta(4.0), 4.0, NONE, False),
    "beta of beta": (beta(4.0, beta(0.5)), 2.0, NONE, False),
    "warm-up": (annealed(linear(10)).at(3), 0.3, NONE, False),
    "beta with warm-up": (annealed(linear(10), beta(4.0)).at(3), 1.2, NONE, False),
    "free bits of a layer, paid": (free_bits(1.5), 1.0, 1.5, False),
    "free bits of a layer": (free_bits(0.3), 1.0, 0.3, False),
    "free bits of a dimension": (free_bits(0.2, "dimension"), 1.0, 0.2, True),
    "beta, free bits": (beta(3.0, free_bits(0.2, "dimension")), 3.0, 0.2, True),
    "warm-up, free bits": (annealed(linear(10), free_bits(0.2, "dimension")).at(5), 0.5, 0.2, True),
    "warm-up, beta, free bits": (annealed(linear(10), beta(4.0, free_bits(1.5))).at(5), 2.0, 1.5, False),
    "two schedules": (annealed(cyclical(8), annealed(linear(10), beta(2.0))).at(2), 2 * 0.2 * 0.5, NONE, False),
    "fewer bits": (
        Scheduled(lambda step: free_bits(2 * (1 - linear(10)(step)), "dimension")).at(9),
        1.0,
        0.2,
        True,
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_bounds_are_their_closed_forms(name):
    """Value and gradients with respect to means, standard deviations and decoder, to rounding; with the KL above and
    below the free bits.
    """
    bound, price, floor, dimensions = COMPOSED[name]
    *leaves, x = linear_gaussian()
    value, (expected, groups) = bound(traced(*leaves, x)), exact(*leaves, x, price, floor, dimensions)
    if dimensions:
        assert float(groups.min()) < floor < float(groups.max())
    torch.testing.assert_close(value.mean(), expected, rtol=1e-12, atol=1e-12)
    found, exactly = (torch.autograd.grad(v, leaves) for v in (value.mean(), expected))
    torch.testing.assert_close(found, exactly, rtol=1e-10, atol=1e-12)


def test_a_floor_of_a_dimension_is_not_one_of_its_layer():
    """With one unused and one active dimension the KL of the layer is far above 1 nat, but free bits per dimension
    still apply to the unused one.
    """
    kl = torch.tensor([[[0.0, 3.0], [0.0, 5.0]]])
    trace = Trace(torch.zeros(1, 2), (kl.sum(-1),), (kl.sum(-1),), (True,), (True,), (kl,))
    assert free_bits(1.0)(trace).tolist() == [-3, -5]
    assert free_bits(1.0, "dimension")(trace).tolist() == [-4, -6]


# Where the coordinates come from ------------------------------------------------------------------------------------


def affine(a, b):
    return Conditional(torch.nn.Linear(a, 2 * b), DiagonalGaussian())


def test_a_models_terms_are_the_sums_of_their_coordinates():
    """For Gaussian layers, in closed form and from draws; for groups of classes; and for a q that does not
    factorise.
    """
    model, x = HVAE([affine(5, 3), affine(3, 2)], [affine(3, 5), affine(2, 3)], GaussianPrior(2)), torch.randn(4, 5)
    for analytic in (True, False):
        trace = model.trace(x, samples=2, analytic=analytic)
        assert [tuple(c.shape) for c in trace.coordinates] == [(2, 4, 3), (2, 4, 2)]
        for kl, coordinates in zip(trace.kl, trace.coordinates, strict=True):
            torch.testing.assert_close(kl, coordinates.sum(-1))
    z = model.infer(x)[1]
    closed = (z.q.mean**2 + z.q.variance - 1) / 2 - z.q.stddev.log()
    torch.testing.assert_close(z.coordinates(True)[0], closed)
    decoder = Conditional(torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(12, 5)), BernoulliLogits())
    classes = VAE(Conditional(torch.nn.Linear(5, 12), OneHotLogits(3, 4)), decoder, CategoricalPrior(3, 4))
    trace = classes.trace(torch.ones(4, 5), analytic=True)
    p = classes.encoder(torch.ones(4, 5)).base_dist.probs
    torch.testing.assert_close(trace.coordinates[0][0], (p * (4 * p).log()).sum(-1))
    full = MultivariateNormal(torch.zeros(4, 2), torch.eye(2))
    whole, closed = Layer(torch.zeros(1, 4, 2), full, full, full, divergence=True).coordinates(True)
    assert closed
    assert whole.shape == (4, 1)


# The score function under a floor -------------------------------------------------------------------------------------


class Bits:
    """Rows of two binary latents with their own logits: all outcomes, their probabilities and traces."""

    def __init__(self, rows, samples):
        self.rows, self.samples = rows, samples
        self.theta = torch.linspace(-1.2, 0.8, rows * 4, dtype=F64).view(rows, 2, 2).requires_grad_()
        self.weight = torch.tensor(0.7, dtype=F64, requires_grad=True)
        log_q = self.theta.log_softmax(-1)
        self.outcomes = [
            self.of(torch.tensor(bits).view(samples, rows, 2), log_q)
            for bits in itertools.product((0, 1), repeat=samples * rows * 2)
        ]

    def of(self, bits, log_q):
        z = torch.nn.functional.one_hot(bits, 2).double()
        each = (z * log_q).sum(-1)
        target = torch.linspace(-1, 2, self.rows, dtype=F64)
        log_px = -((target - self.weight * (bits[..., 0] + 2 * bits[..., 1])) ** 2)
        coordinates = each - (z * torch.tensor([0.05, 0.95], dtype=F64).log()).sum(-1)
        trace = Trace(log_px, (coordinates.sum(-1),), (each.sum(-1),), (False,), (False,), (coordinates,))
        return each.sum().exp(), trace

    def gradients(self, bound, estimate):
        """The gradient of E sum_b F_b and the mean of its estimates, both exact."""
        leaves = (self.theta, self.weight)
        expected = sum(p * bound(trace).sum() for p, trace in self.outcomes)
        found = sum(p.detach() * estimate(trace).sum() for p, trace in self.outcomes)
        return [torch.autograd.grad(v, leaves, retain_graph=True) for v in (expected, found)]


@pytest.mark.parametrize("per", ["layer", "dimension"])
@pytest.mark.parametrize(("rows", "samples"), [(3, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("with_baseline", [False, True])
def test_the_score_function_is_unbiased_under_free_bits(per, rows, samples, with_baseline):
    """Over all outcomes of all rows, to 1e-12: a draw that lifts the batch mean above the free bits changes the
    bound of all rows.
    """
    bits, bound = Bits(rows, samples), beta(2.0, free_bits(0.3, per))
    baseline = torch.linspace(-2, 1, rows, dtype=F64) if with_baseline else None
    expected, found = bits.gradients(bound, scored(bound, baseline))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "samples"), [(3, 1), (2, 2)])
def test_row_by_row_it_would_be_biased(rows, samples):
    """The same bound as a plain function, where the learning signal of each row is its own value only."""
    bits, bound = Bits(rows, samples), free_bits(0.3)
    expected, found = bits.gradients(bound, scored(lambda trace: bound(trace)))
    assert float((found[0] - expected[0]).abs().max()) > 0.02


def test_where_the_floor_is_out_of_reach_it_is_the_bounds_own_estimate():
    """If no draw reaches the free bits, the gradient of each draw is that of the bound without them, for any
    baseline."""
    bits = Bits(2, 2)
    for _, trace in bits.outcomes[::37]:
        for baseline in (None, torch.tensor([0.3, -1.0], dtype=F64)):
            values = (scored(b, baseline)(trace).sum() for b in (Penalized(1.5, -100.0, "dimension"), beta(1.5)))
            far, plain = (torch.autograd.grad(v, (bits.theta, bits.weight), retain_graph=True) for v in values)
            torch.testing.assert_close(far, plain, rtol=1e-10, atol=1e-12)


def test_what_does_not_compose_is_refused():
    z = torch.eye(3)[None, :2]
    law = OneHotCategorical(logits=torch.zeros(2, 3))
    whole = Trace(torch.zeros(1, 2), (law.log_prob(z),), (law.log_prob(z),), (False,), (True,))
    for call, message in (
        (lambda: beta(2.0, iwae), "iwae has no KL to weigh or to warm up"),
        (lambda: beta(-1.0, free_bits(1.0)), "beta must be at least 0"),
        (lambda: annealed(linear(3), iwae), "iwae has no KL to weigh or to warm up"),
        (lambda: free_bits(1.0, "group"), "per layer or dimension, got 'group'"),
        (lambda: free_bits(1.0, "dimension")(whole), "need a trace that holds the coordinates"),
        (lambda: free_bits(1.0, "dimension")(sticking_the_landing(whole)), "holds the coordinates"),
        (lambda: Trace(whole.log_px, (), (), (), (), (z,)), "one entry per layer"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert elbo(whole).shape == (2,)
