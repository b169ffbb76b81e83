"""`jensen check` on diffusion: what the checks pass and what they catch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from jensen import check
from jensen.diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    Heun,
    MixtureOracle,
    PredictorCorrector,
    Process,
    RectifiedSchedule,
    Schedule,
    min_snr,
    simple,
)

F64 = torch.float64
COSINE = CosineSchedule()


def claims(report):
    return [e.claim.partition(",")[0] for e in report.failed]


# schedules -------------------------------------------------------------------------------


def levels(t):
    return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


def whole(schedule, **settings):
    process = Process(schedule)
    return check.schedule(schedule, transition=process.transition, posterior=process.posterior, **settings)


def test_a_right_schedule_passes_whole():
    whole(COSINE).require()
    whole(RectifiedSchedule(), variance_preserving=False).require()
    assert claims(whole(RectifiedSchedule())) == ["variance is preserved: alpha^2 + sigma^2 = 1"]


class Rising(Schedule):
    def log_snr(self, t):
        return 10 * t - 5


def transition(s, t):
    a = levels(t)[0] / levels(s)[0]
    return a, torch.sqrt(levels(t)[1] ** 2 - a**2 * levels(s)[1] ** 2)


def bayes(z, x, s, t, *, power=1, weigh=lambda s, t: s, factor=1.0):
    """The posterior of Bayes' rule; each argument introduces an error."""
    (_, sigma_s), (_, sigma_t) = levels(s), levels(t)
    a, spread = transition(s, t)
    alpha = levels(weigh(s, t))[0]
    mean = (a**power * sigma_s**2 / sigma_t**2)[:, None] * z + (alpha * spread**2 / sigma_t**2)[:, None] * x
    return mean, (factor * spread * sigma_s / sigma_t)[:, None]


def test_a_schedule_of_plain_functions():
    log_snr = lambda t: -2 * torch.log(torch.tan(t * math.pi / 2))  # noqa: E731
    inverse = lambda v: torch.atan(torch.exp(-v / 2)) * 2 / math.pi  # noqa: E731
    check.schedule(levels, log_snr=log_snr, time=inverse, transition=transition, posterior=bayes).require()


@pytest.mark.parametrize(
    ("broken", "claim"),
    [
        ({"log_snr": lambda t: torch.log(levels(t)[0] / levels(t)[1] ** 2)}, "log_snr is"),
        ({"log_snr": lambda t: torch.log(levels(t)[0] / levels(t)[1])}, "log_snr is"),
        ({"time": lambda v: torch.atan(torch.exp(v / 2)) * 2 / math.pi}, "time is the inverse"),
        ({"transition": lambda s, t: transition(s, t)[::-1]}, "transition: a alpha_s"),
        ({"transition": lambda s, t: (transition(s, t)[0], levels(t)[1] - levels(s)[1])}, "transition: a^2"),
        ({"posterior": lambda *v: bayes(*v, power=2)}, "posterior: its mean"),
        ({"posterior": lambda *v: bayes(*v, weigh=lambda s, t: t)}, "posterior: its mean"),
        ({"posterior": lambda *v: bayes(*v, factor=2.0)}, "posterior: its variance"),
    ],
)
def test_a_wrong_schedule_is_caught(broken, claim):
    failed = claims(check.schedule(levels, **broken))
    assert any(found.startswith(claim) for found in failed), failed


def test_wrong_levels_are_caught():
    assert any(claim.startswith("log-SNR decreases") for claim in claims(check.schedule(Rising())))
    assert claims(check.schedule(lambda t: levels(0.9 * t))) == ["alpha / sqrt(alpha^2 + sigma^2) at the last time"]
    assert "sigma / alpha at the first time" in claims(check.schedule(lambda t: levels(0.1 + 0.9 * t)))
    doubled = lambda t: (levels(t)[0], 2 * levels(t)[1])  # noqa: E731
    assert "variance is preserved: alpha^2 + sigma^2 = 1" in claims(check.schedule(doubled))


def test_refusals_of_the_schedule_check():
    with pytest.raises(ValueError, match=r"times must be \(N,\) with at least eight increasing times"):
        check.schedule(levels, times=torch.linspace(1, 0, 20))
    with pytest.raises(ValueError, match="levels must be one per time"):
        check.schedule(lambda t: (t[:2], t[:2]))


# samplers --------------------------------------------------------------------------------

QUICK = {"counts": (8, 16, 32), "steps": 100, "draws": 3000}


def test_right_samplers_pass():
    check.sampler(Heun(), order=2, **QUICK).require()
    check.sampler(DDIM(), deterministic=True, oracle=MixtureOracle([1.0], [[0.5]], [[0.7]], COSINE), **QUICK).require()
    check.sampler(Ancestral(), deterministic=False, **QUICK).require()


def path(update):
    """A sampler from one function: update(p, z, (alpha_t, sigma_t), (alpha_s, sigma_s), noise) -> z."""

    def run(denoiser, z, times, generator):
        for t, s in pairwise(times):
            noise = torch.randn(z.shape, dtype=z.dtype, generator=generator)
            z = update(denoiser(z, t.expand(len(z))), z, levels(t), levels(s), noise)
        return z

    return run


def ancestral(p, z, at, to, noise, deviation=lambda forward, at, to: forward * to[1] / at[1]):
    a = at[0] / to[0]
    forward = torch.sqrt(at[1] ** 2 - a**2 * to[1] ** 2)
    mean = (a * to[1] ** 2 * z + to[0] * forward**2 * p.x) / at[1] ** 2
    return mean + deviation(forward, at, to) * noise


def outside(p, z, at, to, noise):
    """DDIM with eta = 1, with the variance subtracted outside the square root."""
    d = torch.sqrt(at[1] ** 2 - (at[0] / to[0] * to[1]) ** 2) * to[1] / at[1]
    return to[0] * p.x + (to[1] - d**2) * p.eps + d * noise


PATHS = {
    "right": (lambda p, z, at, to, noise: to[0] * p.x + to[1] * p.eps, None),
    "right, with noise": (ancestral, None),
    "alpha at t": (lambda p, z, at, to, noise: at[0] * p.x + to[1] * p.eps, "order of convergence to the exact path"),
    "sign": (lambda p, z, at, to, noise: to[0] * p.x - to[1] * p.eps, "order of convergence to the exact path"),
    "factor 2": (lambda p, z, at, to, noise: to[0] * p.x + 2 * to[1] * p.eps, "order of convergence to the exact path"),
    "batch": (
        lambda p, z, at, to, noise: to[0] * p.x + to[1] * p.eps / p.eps.std().clamp(min=0.1),
        "a row does not depend on the other rows",
    ),
    "noise twice": (
        lambda *v: ancestral(*v, lambda forward, at, to: 2 * forward * to[1] / at[1]),
        "the marginal after 100 steps: mean of (2u - 1)^2 of the quantiles u",
    ),
    "variance for deviation": (
        lambda *v: ancestral(*v, lambda forward, at, to: (forward * to[1] / at[1]) ** 2),
        "the marginal after 100 steps: mean of (2u - 1)^2 of the quantiles u",
    ),
    "outside the root": (outside, "the marginal after 300 steps: mean of (2u - 1)^2 of the quantiles u"),
    "unseeded": (
        lambda p, z, at, to, noise: ancestral(p, z, at, to, torch.randn_like(z)),
        "the same generator gives the same draws",
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_wrong_samplers_are_caught(name):
    update, claim = PATHS[name]
    finer = {"steps": 300, "draws": 10_000} if name == "outside the root" else {}  # a little wrong
    report = check.sampler(path(update), encodes=False, **QUICK | finer)
    if claim is None:
        report.require()
    else:
        assert claim in [e.claim for e in report.failed], str(report)


def test_what_a_sampler_claims_is_held_against_it():
    assert claims(check.sampler(DDIM(), order=2, **QUICK))[0] == "order of convergence to the exact path"
    assert "stochastic: difference between the results of two generators" in claims(
        check.sampler(DDIM(), deterministic=False, **QUICK)
    )
    found = claims(check.sampler(path(ancestral), deterministic=True, encodes=False, **QUICK))
    assert "deterministic: difference between the results of two generators" in found


def test_a_corrector_of_long_moves_is_caught():
    report = check.sampler(PredictorCorrector(DDIM(), step_size=8.0), **QUICK)
    assert any("marginal" in e.claim for e in report.failed)


def test_one_way_encoding_is_caught():
    """A sampler that assumes decreasing times: its encoding is wrong."""

    def once(denoiser, z, times, generator):
        return path(PATHS["right"][0])(denoiser, z, times.sort(descending=True).values, generator)

    found = claims(check.sampler(once, **QUICK))
    assert "order of convergence of encoding" in found
    assert "round-trip error of encoding and decoding in 32 steps" in found


def test_refusals_of_the_sampler_check():
    plane = MixtureOracle([1.0], [[0.0, 0.0]], [[1.0, 1.0]], COSINE)
    with pytest.raises(ValueError, match="one dimension, got 2"):
        check.sampler(DDIM(), plane)
    with pytest.raises(ValueError, match="counts must be at least two"):
        check.sampler(DDIM(), counts=(8,))


# losses ----------------------------------------------------------------------------------


def snr(t):
    return 1 / torch.tan(t * math.pi / 2) ** 2


def of_eps(noised=levels, target=lambda x, eps, a, s: eps, error=torch.square, view="eps"):
    """The simple loss; each argument introduces an error."""

    def loss(denoiser, x, t, eps):
        alpha, sigma = (v[:, None] for v in noised(t))
        right = [v[:, None] for v in levels(t)]
        p = denoiser(alpha * x + sigma * eps, t)
        return error(getattr(p, view) - target(x, eps, *right)).mean(1)

    return loss


def test_right_losses_pass():
    check.denoising_loss(of_eps(), weight=snr).require()
    check.denoising_loss(of_eps(target=lambda x, eps, a, s: a * eps - s * x, view="v")).require()
    check.denoising_loss(check.of_prediction(min_snr), weight=lambda t: snr(t).clamp(max=5)).require()


@pytest.mark.parametrize(
    ("loss", "claim"),
    [
        (of_eps(target=lambda x, eps, a, s: -eps), "the mean loss is minimal at the exact denoiser"),
        (of_eps(target=lambda x, eps, a, s: x), "the mean loss is minimal at the exact denoiser"),
        (
            of_eps(target=lambda x, eps, a, s: s * x - a * eps, view="v"),
            "the mean loss is minimal at the exact denoiser",
        ),
        (of_eps(noised=lambda t: levels(0.9 * t)), "at the exact denoiser the losses for +h g and -h g are equal"),
        (
            of_eps(noised=lambda t: (levels(t)[0], levels(t)[1] ** 2)),
            "at the exact denoiser the losses for +h g and -h g are equal",
        ),
        (of_eps(error=torch.abs), "the loss is w |x_hat - x|^2 with the same w for every row"),
        (of_eps(error=lambda e: e**2 / (e**2).mean()), "a row's loss does not depend on the other rows"),
        (of_eps(error=lambda e: e * e.detach()), "the loss's gradient by autograd is its numerical derivative"),
        (
            of_eps(error=lambda e: (e**2).detach() + 0 * e),
            "the loss's gradient by autograd is its numerical derivative",
        ),
    ],
)
def test_wrong_losses_are_caught(loss, claim):
    found = claims(check.denoising_loss(loss, times=(0.4,)))
    assert claim in found, found


@pytest.mark.parametrize(
    "wrong", [lambda t: levels(t)[0] / levels(t)[1] ** 2, lambda t: 2 * snr(t), lambda t: 1 / snr(t)]
)
def test_a_wrong_weight_is_caught(wrong):
    assert claims(check.denoising_loss(of_eps(), weight=wrong, times=(0.4,))) == ["weight w(t)"]


def test_refusals_of_the_loss_check():
    with pytest.raises(ValueError, match=r"one number per row, \(\d+,\), got \(\)"):
        check.denoising_loss(lambda denoiser, x, t, eps: (denoiser(x, t).eps - eps).square().mean())
    with pytest.raises(ValueError, match="inside"):
        check.denoising_loss(check.of_prediction(simple), times=(0.0,))
    with pytest.raises(ValueError, match="one dimension, got 2"):
        check.denoising_loss(check.of_prediction(simple), MixtureOracle([1.0], [[0.0, 0.0]], [[1.0, 1.0]], COSINE))
