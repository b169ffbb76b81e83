"""Errors that the checks of users' code must detect: plateaus, jumps, extrapolation, missing steps, lost
corrections, 5% too much noise.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from jensen import check
from jensen.check.evidence import Evidence
from jensen.cli.main import main
from jensen.core.seeding import normal
from jensen.diffusion import (
    DDIM,
    Adams,
    Ancestral,
    DPMSolver,
    PredictorCorrector,
    Process,
    Sampler,
    UniPC,
    integrate,
)
from jensen.diffusion.samplers.langevin import langevin_move

F64 = torch.float64


def claims(report):
    return [e.claim.partition(":")[0] for e in report.failed]


# evidence --------------------------------------------------------------------------------


def test_evidence_says_the_smallest_error_it_could_have_seen(tmp_path, capsys):
    """The tolerance; for means of draws, two standard errors more, an error that is detected in 98 of 100 cases."""
    draws = torch.randn(400, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = check.mean_is("mean", 0.0, draws)
    stderr = float(draws.std()) / 20
    assert found.detectable == pytest.approx(7 * stderr)
    many = torch.randn(300, 400, dtype=F64, generator=torch.Generator().manual_seed(1))
    seen = [not check.mean_is("mean", 0.35, row).holds for row in many]  # 7 / 20
    assert sum(seen) / 300 == pytest.approx(0.977, abs=0.03)
    assert found.as_dict()["detectable"] == found.detectable
    assert str(found).endswith(f"within 5 standard errors of {stderr:.2g}, sees errors from {7 * stderr:.2g})")
    assert Evidence("c", 1.0, 1.0, 0.25).detectable == 0.25
    words = ["check", "dirac-gan/equilibrium", "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "b.html")]
    assert main(words) == 0
    assert "sees from" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "a.json").read_text())
    assert [e["detectable"] for e in row["evidence"]] == [e["tolerance"] for e in row["evidence"]]
    assert "<th>sees errors from</th>" in (tmp_path / "b.html").read_text()


# schedules -------------------------------------------------------------------------------


def cosine(t):
    return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


FALLS, JUMPS, BETWEEN = (
    "log-SNR decreases from each of 1001 times to the next",
    "no jump",
    "number of inner times with alpha > 0 and sigma > 0",
)
WRONG = {
    "plateau": (lambda t: t.clamp(max=0.4) + (t - 0.405).clamp(min=0) / 0.595 * 0.6, {FALLS}),
    "stairs": (lambda t: (20 * t).ceil() / 20, {FALLS, JUMPS}),
    "jump": (lambda t: 0.9 * t + 0.1 * (t > 0.37).double(), {JUMPS}),
    "small jump": (lambda t: 0.99999 * t**3 + 0.00001 * (t > 0.0701234).double(), {JUMPS}),
    "back and forth": (lambda t: t + 0.02 * torch.sin(20 * t * math.pi), {FALLS}),
    "no noise until 0.1": (lambda t: ((t - 0.1) / 0.9).clamp(min=0), {FALLS, BETWEEN}),
    "all or nothing": (lambda t: (t > 0.5).double(), {FALLS, JUMPS, BETWEEN}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_schedule_that_rests_or_jumps_is_caught(name):
    warp, wanted = WRONG[name]
    found = claims(check.schedule(lambda t: cosine(warp(t))))
    if name == "all or nothing":  # exactly (1, 0) and (0, 1), as cosine itself is not
        found = claims(check.schedule(lambda t: (1 - warp(t), warp(t))))
    assert set(found) == wanted


@pytest.mark.parametrize(
    "warp",
    [torch.sqrt, torch.square, lambda t: t**6, lambda t: (t + t**8) / 2, lambda t: torch.expm1(7 * t) / math.expm1(7)],
)
def test_a_steep_or_a_slow_schedule_passes(warp):
    """An infinite slope at 0 is no jump, and a zero slope there is no plateau."""
    check.schedule(lambda t: cosine(warp(t))).require()


def test_few_times_are_enough():
    check.schedule(cosine, times=torch.linspace(0, 1, 8), transition=lambda s, t: transition(s, t)).require()


def transition(s, t):
    a = cosine(t)[0] / cosine(s)[0]
    return a, torch.sqrt(cosine(t)[1] ** 2 - a**2 * cosine(s)[1] ** 2)


# penalties -------------------------------------------------------------------------------


def taken_at(share, add=0.0):
    """A penalty at points between generated and real examples, at the fraction share(eps)."""

    def penalty(critic, real, fake):
        eps = share(torch.rand(len(real), 1, dtype=real.dtype))
        x = (fake + eps * (real - fake) + add).detach().requires_grad_()
        (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        norm = (g.square().flatten(1).sum(1) + 1e-30).sqrt()
        return (norm - 1).square()

    return lambda critic, real, fake: (
        penalty(critic, real.flatten(1), fake.flatten(1))
        if real.ndim == 2
        else penalty(lambda x: critic(x.reshape(real.shape)), real.flatten(1), fake.flatten(1))
    )


OUTSIDE = {
    "a sign": lambda eps: -eps,  # fake + eps (fake - real)
    "the other side": lambda eps: 1 + eps,
    "both sides": lambda eps: 2 * eps - 0.5,
    "a little beyond": lambda eps: 1.001 * eps,
    "a little before": lambda eps: 1.001 * eps - 0.001,
    "the middle": lambda eps: 0 * eps + 0.5,
    "near the middle": lambda eps: 0.1 + 0.8 * eps,
    "near the real ones": lambda eps: eps.sqrt(),
    "one for all": lambda eps: eps[:1].expand_as(eps),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_penalty_that_extrapolates_is_caught(name):
    square = lambda g: (g - 1) ** 2  # noqa: E731
    assert claims(check.penalty(taken_at(OUTSIDE[name]), square, at="between")), name


def test_a_penalty_beside_the_segment_is_caught_and_one_on_it_passes():
    square = lambda g: (g - 1) ** 2  # noqa: E731
    check.penalty(taken_at(lambda eps: eps), square, at="between").require()
    check.penalty(taken_at(lambda eps: 1 - eps), square, at="between").require()
    assert claims(check.penalty(taken_at(lambda eps: eps, add=0.05), square, at="between"))
    mean = lambda *args: taken_at(OUTSIDE["a sign"])(*args).mean()  # noqa: E731 (of a batch: 200 draws)
    assert claims(check.penalty(mean, square, at="between"))


# samplers --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Louder(Ancestral):
    """Ancestral sampling with its noise multiplied by `factor`."""

    factor: float = 1.0

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        law = Process(denoiser.schedule).posterior(z, denoiser(z, t.expand(len(z))).x, s, t)
        return law.mean + self.factor * law.stddev * normal(z.shape, generator, like=z), None


def test_the_counts_see_five_percent_of_noise():
    """40,000 draws after 200 steps: 5% too much noise changes the spread of the quantiles by 0.0147; the tolerance
    is 0.0100.
    """
    check.sampler(Ancestral(), counts=(8, 16)).require()
    report = check.sampler(Louder(factor=1.05), counts=(8, 16))
    spread = "the marginal after 200 steps: mean of (2u - 1)^2 of the quantiles u"
    (found,) = (e for e in report.failed if e.claim == spread)
    assert found.measured - 1 / 3 == pytest.approx(0.0147, abs=0.003)
    assert found.detectable < found.measured - 1 / 3


@dataclasses.dataclass(frozen=True)
class Losing(PredictorCorrector):
    """Reports the corrected z as the predictor's own result: the predictor repeats its step from memory and loses
    the correction.
    """

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        z, memory = self.predictor.step(denoiser, z, t, s, memory, generator=generator)
        z = langevin_move(denoiser, z, s, step_size=self.step_size, cond=cond, generator=generator)
        return z, dataclasses.replace(memory, made=z)


@pytest.mark.parametrize(
    ("predictor", "claim"),
    [(UniPC(), "mean of (2u - 1)^2 of the quantiles u"), (Adams(), "squared distance from a mode")],
)
def test_lost_corrections_are_caught(predictor, claim):
    counts = {"counts": (8, 16), "steps": 32, "bias": 0.002}
    check.sampler(PredictorCorrector(predictor), **counts).require()
    assert any(claim in e.claim for e in check.sampler(Losing(predictor), **counts).failed)


@dataclasses.dataclass(frozen=True)
class Short:
    """A sampler that omits the last step of paths with more than `least` steps."""

    sampler: Sampler
    least: int = 0

    def __call__(self, denoiser, z, times, generator):
        made = times[: len(times) - (len(times) > self.least + 1)]
        return integrate(self.sampler, denoiser, z, made, generator=generator) if len(made) > 1 else z


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver(), Ancestral()])
def test_a_sampler_that_skips_its_last_step_is_caught(sampler):
    quick = {"counts": (8, 16), "steps": 64, "draws": 1000, "encodes": False}
    check.sampler(sampler, **quick).require()
    assert "distance moved by a path of one step" in claims(check.sampler(Short(sampler), **quick))
    for least in (1, 7):
        failed = claims(check.sampler(Short(sampler, least), **quick))
        assert {f"the last of {n} steps is taken" for n in (8, 16)} <= set(failed)


def test_a_sampler_of_its_own_times_is_not_asked_for_another_last_one():
    def by_its_own(denoiser, z, times, generator):
        return integrate(DDIM(), denoiser, z, torch.linspace(0.9, 0.1, len(times), dtype=torch.float64))

    report = check.sampler(by_its_own, counts=(8, 16), steps=64, draws=1000, encodes=False)
    report.require()
    assert not any("the last of" in e.claim for e in report.evidence)
