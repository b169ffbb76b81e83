"""Scores of noised data: their error if the density is known, and annealed Langevin against the exact result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from jensen.core.seeding import derived, generators
from jensen.data.dataset import LogDensity
from jensen.judging.bounds import diffusion_of, judged_span
from jensen.judging.case import Case, judge
from jensen.metrics import energy_distance, variance_ratio
from jensen.models import KernelDensityModel, ScoreModel
from jensen.models.score import LANGEVIN
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table, estimated
from jensen.score import KernelDensity, Score, annealed_variance, relative_score_error, score_of

LEVELS = 12  # number of times of a diffusion model at which its score is compared
EXACT = 500  # number of samples drawn with the exact score


@judge
def score_error(case: Case) -> Part | None:
    """The relative squared error of the score on noised data, at each noise level."""
    log_p = case.data.truths.log_p
    if log_p is None or case.conditional or not (scores := noised_scores(case)):
        return None
    x, rng = case.test["x"].to(case.device), case.rng("score")
    errors = []
    for sigma, score in scores:
        noised = x + sigma * torch.randn(x.shape, generator=rng, device=x.device)
        with torch.no_grad():
            errors.append(relative_score_error(score, noised, exact_score(log_p, sigma)))
    sigmas, mean = [sigma for sigma, _ in scores], sum(errors) / len(errors)
    several = len(errors) > 1
    note = f"mean over {len(errors)} noise levels; largest {max(errors):.3g}" if several else ""
    finding = Finding("score_error", "relative squared error of the score", mean, note=note)
    text = (
        f"E|s - score|^2 / E|score|^2 on held-out data{' with noise of each level added' * several}: 0 is exact, and "
        "a score of zero everywhere has an error of 1. The exact score is the gradient of the log density of the "
        f"data{', convolved with the noise' * several}."
    )
    drawn = []
    if several:
        drawn.append(plots.curves(sigmas, {"": errors}, title="relative squared error", xlabel="noise level", log=True))
    details = {"score_error": {"sigma": sigmas, "error": errors}}
    return Part("Error of the score", text, [finding], plots=drawn, details=details)


def noised_scores(case: Case) -> list[tuple[float, Score]]:
    """The model's score of noised data, with the standard deviation sigma of the noise, for several sigma.

    For a score model, the noise levels are those of its ladder; for a diffusion model, those of evenly spaced times
    without the end time; for a kernel density, only sigma = 0; [] for other models.
    """
    if isinstance(case.model, KernelDensityModel):
        return [(0.0, case.model.score)]
    model = diffusion_of(case.model)
    if model is None:
        return []
    schedule = model.denoiser.schedule
    if isinstance(case.model, ScoreModel):
        times = schedule.time(-2 * case.model.sigmas.double().log()).clamp(0, 1)
    else:
        times = torch.linspace(*judged_span(case, model), LEVELS + 1, dtype=torch.float64)[:-1]
    alpha, sigma = schedule.alpha_sigma(times)
    levels = (sigma / alpha * model.scale.double().cpu()).tolist()
    return [(level, partial(model.score, t=t)) for level, t in zip(levels, times, strict=True)]


@judge
def annealing(case: Case) -> Part | None:
    """Variance and energy distance of samples by annealed Langevin dynamics, compared with those of the exact score."""
    model = case.model
    if not isinstance(model, ScoreModel) or model.sampling.sampler != LANGEVIN:
        return None
    train, x, sampling, levels = case.train[:]["x"], case.test["x"], model.sampling, len(model.sigmas)
    comparable = case.data.space.comparable
    covariance = model.standardize(train.to(model.centre)).double().flatten(1).T.cov()
    spread = torch.linalg.eigvalsh(torch.atleast_2d(covariance)).cpu()  # of one dimension it is a number
    spread = spread[spread > 1e-9 * spread[-1]]  # a pixel that never changes has no variance
    sigmas = model.sigmas.double().cpu()
    equilibrium = float((spread**2 / (spread + sigmas[-1] ** 2)).sum() / spread.sum())
    rows = []
    for steps, made in case.by_steps.items():
        share = variance_ratio(comparable(made), comparable(train))
        exact = annealed_variance(spread, sigmas, sampling.step_size, steps, denoise=sampling.denoise)
        rows.append((steps, share.value, share.stderr, float(exact.sum() / spread.sum())))
    own = next(row for row in rows if row[0] == sampling.steps)
    n = min(case.settings.samples, EXACT)
    rng = generators(derived(case.seed, "exact score"), range(n))
    distance = energy_distance(comparable(exact_model(case, n).sample(n, generator=rng).cpu()), comparable(x))
    law = "data" if case.data.truths.log_p is not None else "training data"
    name = "total variance of samples, relative to that of the data"
    note = "floor: a Gaussian with the data's covariance, annealed in the same way with its exact score, in closed form"
    moves = f"{sampling.steps} moves per level, {n} samples"
    findings = [
        Finding("variance", name, own[1], own[2], floor=own[3], best=own[3], note=note),
        estimated("energy_exact", f"energy distance with the exact score of the {law}", distance, note=moves),
    ]
    text = (
        "The floor of the variance is its value for a Gaussian with the data's covariance, annealed in the same way "
        f"along its exact score. The difference between this value and that of the equilibrium, {equilibrium:.3f}, is "
        "the error of the sampler, which no network corrects."
    )
    table = Table(
        ("moves a level", "evaluations", "variance", "with the exact score"),
        [(f"{k}", f"{k * levels}", f"{share:.3f} ± {error:.3f}", f"{exact:.3f}") for k, share, error, exact in rows],
    )
    keys = ("steps", "variance", "stderr", "exact")
    details = {"annealing": {"equilibrium": equilibrium, "rows": [dict(zip(keys, row, strict=True)) for row in rows]}}
    return Part("Annealed Langevin", text, findings, tables=[table], details=details)


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.forward = function


def exact_model(case: Case, chunk: int) -> ScoreModel:
    """A score model with the same ladder and annealing and the exact score of the data, or of the training data."""
    ours = case.model
    assert isinstance(ours, ScoreModel)

    def score(z: Tensor, sigma: Tensor) -> Tensor:
        level, log_p = float(sigma[0]), case.data.truths.log_p
        if log_p is None:  # that of the training data
            return KernelDensity(ours.standardize(case.train[:]["x"].to(z.device)), level).score(z)
        return ours.scale * exact_score(log_p, level * float(ours.scale))(ours.restore(z))

    model = ScoreModel(_Function(score), ours.shape, ours.sigmas, replace(ours.sampling, chunk=chunk)).to(ours.centre)
    model.centre, model.scale = ours.centre, ours.scale
    return model


def exact_score(log_p: LogDensity, sigma: float) -> Score:
    """The exact score of the data with added noise of standard deviation sigma."""
    return score_of(lambda x: log_p(x, sigma))
