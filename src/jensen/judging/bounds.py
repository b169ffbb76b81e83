"""Likelihoods of diffusion and score models: the terms of variational bounds, and the likelihood of the
probability-flow ODE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jensen.core.types import Likelihood
from jensen.diffusion import Bins, Bound, Reconstruction, Span, as_mass, dequantize, whole_span
from jensen.judging.case import Case, judge
from jensen.judging.likelihood import joined, known_density, measured
from jensen.metrics import bits_per_dim
from jensen.models import Diffusion, ScoreModel, as_diffusion
from jensen.objectives import VariationalDiffusion
from jensen.report import plots
from jensen.report.findings import Part

T = TypeVar("T")
CHUNK = 200  # rows between two updates of the progress bar
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}  # of the ODE's solver
CARDS = ("bound", "ode")
STRATA = 64  # strata of the bounds in continuous time
EXACT = 16  # dimensions up to which the ODE's divergence is computed exactly


def diffusion_of(model: nn.Module) -> Diffusion | None:
    """The model as a diffusion model that shares its network, or None if it cannot be seen as one."""
    if isinstance(model, ScoreModel) and len(model.sigmas) > 1:
        return as_diffusion(model)
    return model if isinstance(model, Diffusion) else None


def judged_span(case: Case, model: Diffusion) -> Span:
    """Times of the lowest and highest noise level of the bounds and the ODE; for a score model, its whole ladder."""
    first, last = whole_span(model.denoiser)
    return (first if isinstance(case.model, ScoreModel) else case.settings.first), last


@judge
def bounds(case: Case) -> Part | None:
    """Bounds in discrete and in continuous time, the training bound, and the likelihood of the probability-flow ODE."""
    model, settings = diffusion_of(case.model), case.settings
    if model is None or not (settings.bound_steps or settings.ode_rows):
        return None
    space, span, schedule = case.data.space, judged_span(case, model), model.denoiser.schedule
    bins = None if space.levels is None else Bins(space.levels)
    truth, details, terms = known_density(case, case.test["x"]), {}, None
    findings = [] if truth is None else [truth]

    def add(key: str, name: str, found: Likelihood, first: float, **more: Any) -> None:
        level = float(schedule.log_snr(torch.tensor(first, dtype=torch.float64)))
        bits = float(bits_per_dim(found.value.mean(), space.dims))
        note = f"from log-SNR {level:.2f} (t = {first:g}); {bits:.4f} bits per dimension"
        kind = "estimate" if found.kind == "exact" else found.kind  # the ODE is solved in steps
        facts = {"kind": kind, "measure": found.measure, "dims": space.dims}
        floor, card = None if truth is None else truth.value, key in CARDS
        findings.append(measured(key, name, found, floor=floor, best="high", note=note, facts=facts, card=card))
        details[key] = {"bits_per_dim": bits, "first": {"time": first, "log_snr": level}, **more}

    if settings.bound_steps:
        reconstruction = Reconstruction("denoised", bins)
        kept: dict[str, Any] = {"span": span, "reconstruction": reconstruction}
        terms = _bound(case, model, f"bound in {settings.bound_steps} steps", steps=settings.bound_steps, **kept)
        name = f"variational bound, {settings.bound_steps} steps"
        add("bound_discrete", name, terms.likelihood, span[0], **terms.means(), steps=settings.bound_steps)
        found = _bound(case, model, "bound in continuous time", **kept)
        add("bound", "variational bound, continuous time", found.likelihood, span[0], **found.means())
        game = case.game.objective if case.model is model and case.game is not None else None
        if isinstance(game, VariationalDiffusion):
            own = game.span or whole_span(model.denoiser)
            found = _bound(case, model, "bound used in training", span=own, reconstruction=game.reconstruction)
            add("bound_trained", "variational bound used in training", found.likelihood, own[0], **found.means())
    if settings.ode_rows:
        likelihood, evaluations = _ode(case, model, span, bins)
        add("ode", "likelihood of the probability-flow ODE", likelihood, span[0], evaluations=evaluations)
    drawn = []
    if terms is not None:
        steps = terms.steps.mean(0).tolist()
        times, title = [(k + 1) / len(steps) for k in range(len(steps))], "L_(t-1) of each step, nats"
        drawn.append(plots.curves(times, {"": steps}, title=title, xlabel="step / T", markers=False))
    return Part("Likelihood", _text(case, terms), findings, plots=drawn, details={"likelihood": details})


def _text(case: Case, terms: Bound | None) -> str:
    words = (
        f"Mean log {'density' if case.data.space.levels is None else 'mass'} of held-out data in "
        f"nats{', given their conditions' if case.conditional else ''}, with its standard error over the choice of "
        "data. A model decodes x at its lowest noise level, so bounds with two different lowest levels belong to two "
        "different models. The variational bounds hold for the reverse diffusion. The ODE is a different model with "
        "the same denoiser: neither likelihood bounds the other."
    )
    if terms is None:
        return words
    found = terms.means()
    return (
        f"{words} The bound in {terms.steps.shape[1]} steps is -(L_T + the sum of L_(t-1) + L_0) = "
        f"-({found['prior']:.3f} + {found['diffusion']:.3f} + {found['reconstruction']:.3f})."
    )


def _each(
    case: Case, name: str, f: Callable[[Tensor, Tensor | None, torch.Generator], T], most: int | None = None
) -> list[T]:
    """The values of f(rows, conditions, generator) for chunks of held-out rows."""
    return case.each(name, f, case.test["x"][:most], CHUNK, case.test["cond"][:most] if case.conditional else None)


def _bound(case: Case, model: Diffusion, name: str, **settings: Any) -> Bound:
    def of(x: Tensor, cond: Tensor | None, rng: torch.Generator) -> Bound:
        return model.bound(x, cond=cond, strata=STRATA, generator=rng, **settings)

    return Bound.joined(_each(case, name, of))


def _ode(case: Case, model: Diffusion, span: Span, bins: Bins | None) -> tuple[Likelihood, int]:
    """Log p under the ODE (for discrete data a lower bound, by dequantization), and the number of evaluations."""
    dims = case.data.space.dims
    trace = "exact" if dims <= EXACT else "hutchinson"
    log_width = 0.0 if bins is None else dims * float(torch.as_tensor(bins.width).log())

    def of(x: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Likelihood, int]:
        spread = x if bins is None else dequantize(x, bins.width, rng)
        flow = model.ode_log_likelihood(spread, trace=trace, span=span, **TOLERANCE, cond=cond, generator=rng)
        return flow.likelihood if bins is None else as_mass(flow.likelihood, log_width), flow.evaluations

    name = "likelihood of the probability-flow ODE"
    parts, evaluations = zip(*_each(case, name, of, case.settings.ode_rows), strict=True)
    return joined(parts), max(evaluations)
