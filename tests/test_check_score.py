"""`jensen check` for scores and Markov chains: what passes and what is caught."""

from __future__ import annotations

import math

import pytest
import torch

from jensen import check
from jensen.score import KernelDensity, denoising, explicit, implicit, langevin, mala, sliced

F64 = torch.float64
NORMAL = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
DATA = torch.tensor([[-1.0], [0.2], [1.5]], dtype=F64)
KERNELS = KernelDensity(DATA, 0.5)


def claims(report):
    return [e.claim for e in report.failed]


# losses ----------------------------------------------------------------------------------


def test_right_losses_pass():
    check.score(implicit, NORMAL).require()
    check.score(lambda s, x: sliced(s, x, torch.ones_like(x)), KERNELS).require()
    check.score(lambda s, x: explicit(s, x, KERNELS.score), KERNELS).require()
    check.score(lambda s, x, eps: 0.25 * denoising(s, x, eps, 0.5), KERNELS, sigma=0.5, scale=0.25).require()


def parts(s, x, detached=False):
    """The trace of the Jacobian and the squared norm of a score, computed by hand."""
    x = x.detach().requires_grad_()
    value = s(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=not detached)
    return slope[:, 0], value[:, 0] ** 2


@pytest.mark.parametrize(
    ("loss", "claim"),
    [
        (lambda trace, square: trace + square, "the mean loss is minimal at the score of the density"),
        (lambda trace, square: -trace + square / 2, "the mean loss is minimal at the score of the density"),
        (lambda trace, square: 2 * trace + square / 2, "the mean loss is minimal at the score of the density"),
        (lambda trace, square: 2 * trace + square, "the mean loss is explicit score matching plus a constant"),
        (lambda trace, square: trace + square / 2 - square.mean(), "a row's loss does not depend on the other rows"),
    ],
)
def test_wrong_losses_are_caught(loss, claim):
    assert claim in claims(check.score(lambda s, x: loss(*parts(s, x)), NORMAL))


def test_a_detached_trace_is_caught():
    """Its value is right; only its gradient is wrong."""

    def loss(s, x):
        trace, square = parts(s, x, detached=False)
        return trace.detach() + square / 2

    assert set(claims(check.score(loss, NORMAL))) == {
        "the loss's gradient is that of explicit score matching, direction x",
        "the loss's gradient is that of explicit score matching, direction sin x",
    }


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, x, eps: (s(x + eps) - eps).square().sum(1) / 2,  # wrong sign
        lambda s, x, eps: (s(x) + eps).square().sum(1) / 2,  # evaluated at the clean datum
        lambda s, x, eps: (s(x + eps) + 2 * eps).square().sum(1) / 2,
        lambda s, x, eps: explicit(s, x, torch.neg),  # fits the clean density
    ],
)
def test_wrong_denoising_is_caught(loss):
    found = claims(check.score(loss, NORMAL, sigma=1.0))
    assert "the mean loss is explicit score matching plus a constant" in found


def test_refusals_of_the_score_check():
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        check.score(implicit, NORMAL, sigma=0.0)
    with pytest.raises(ValueError, match=r"one number per row, \(801,\), got \(\)"):
        check.score(lambda s, x: implicit(s, x).mean(), NORMAL)
    with pytest.raises(ValueError, match="widen it"):
        check.score(implicit, NORMAL, span=(-1.0, 1.0))
    with pytest.raises(ValueError, match="two places in order"):
        check.score(implicit, NORMAL, span=(1.0, -1.0))


# scores ----------------------------------------------------------------------------------


def test_a_kernel_score_passes_and_wrong_ones_are_caught():
    check.score_function(KERNELS.score, KERNELS).require()
    check.score_function(lambda x: -x, lambda x: -(x**2) / 2, normalised=False).require()
    for wrong in (lambda x: 3 * KERNELS.score(x), lambda x: -KERNELS.score(x), lambda x: 0.25 * KERNELS.score(x)):
        assert "the mean of x s(x) is -1" in claims(check.score_function(wrong, KERNELS))
    centred = lambda x: KERNELS.score(x) - KERNELS.score(x).mean()  # noqa: E731
    assert "a row's score does not depend on the other rows" in claims(check.score_function(centred, KERNELS))


def test_a_density_without_its_normalisation_is_caught():
    """A sum of M kernels instead of their mean: the score is right, the density is too large by the factor M."""
    summed = lambda x: KERNELS.log_prob(x) + math.log(3)  # noqa: E731
    assert claims(check.score_function(KERNELS.score, summed)) == ["p integrates to 1: log of its integral"]
    with pytest.raises(ValueError, match="shape of x"):
        check.score_function(lambda x: KERNELS.score(x)[:, 0], KERNELS)


# chains ----------------------------------------------------------------------------------


def log_p(x):
    return -x.square().sum(1) / 2


def adjusted(x, generator):
    return mala(log_p, x, 0.8, 1, generator=generator).x


def metropolis(x, generator, *, ratio=lambda new, old: new - old, proposal=0.0):
    """A Metropolis step of a random walk; the ratio and the drift are arguments."""
    y = x + proposal + 1.5 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    u = torch.rand(len(x), dtype=x.dtype, generator=generator)
    return torch.where((u.log() < ratio(log_p(y), log_p(x)))[:, None], y, x)


def turn(x, generator):
    """A kernel that rotates quantiles: it preserves the distribution but is not reversible."""
    return NORMAL.icdf((NORMAL.cdf(x) + 0.1) % 1)


def test_right_kernels_pass():
    check.mcmc(adjusted, NORMAL, chains=5000).require()
    check.mcmc(metropolis, log_p, chains=5000).require()
    check.mcmc(turn, NORMAL, chains=5000, reversible=False, moves=3).require()
    small = lambda x, g: langevin(torch.neg, x, 0.01, 1, generator=g)  # noqa: E731
    check.mcmc(small, NORMAL, chains=5000, bias=0.005).require()


@pytest.mark.parametrize(
    ("kernel", "claim"),
    [
        (lambda x, g: langevin(torch.neg, x, 0.8, 1, generator=g), "mean of (2u - 1)^2 of the quantiles u"),
        (lambda x, g: langevin(lambda x: x, x, 0.2, 1, generator=g), "mean of (2u - 1)^2 of the quantiles u"),
        (
            lambda x, g: x - 0.1 * x + 0.1**0.5 * torch.randn(x.shape, dtype=F64, generator=g),
            "mean of (2u - 1)^2 of the quantiles u",
        ),
        (lambda x, g: metropolis(x, g, ratio=lambda new, old: old - new), "largest gap"),
        (
            lambda x, g: metropolis(x, g, ratio=lambda new, old: 2 * (new - old)),
            "mean of (2u - 1)^2 of the quantiles u",
        ),
        (lambda x, g: metropolis(x, g, proposal=0.7), "mean of the quantiles"),
        (turn, "detailed balance"),
        (lambda x, g: x, "chains move: mean change of the quantile"),
        (lambda x, g: adjusted(x, None), "the same generator"),
        (
            lambda x, g: torch.where(torch.rand((), generator=g) < 0.5, adjusted(x, g), x * x.std().clamp(0.99, 1.01)),
            "other chains",
        ),
    ],
)
def test_wrong_kernels_are_caught(kernel, claim):
    found = claims(check.mcmc(kernel, NORMAL, chains=10_000))
    assert any(claim in one for one in found), found


def test_refusals_of_the_chain_check():
    with pytest.raises(ValueError, match="moves must be at least 1"):
        check.mcmc(adjusted, NORMAL, moves=0)
    with pytest.raises(ValueError, match="chains at least 1,000, got 10 and 999"):
        check.mcmc(adjusted, NORMAL, chains=999)
    with pytest.raises(ValueError, match="keep the shape"):
        check.mcmc(lambda x, g: x[:1], NORMAL)
