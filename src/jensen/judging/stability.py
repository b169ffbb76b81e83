"""Stability of the game at the end of training. Eigenvalues of its vector field and of a training step.

Both use plain gradients. Adam's updates differ, but have the same fixed points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jensen.adversarial import stability as linearise
from jensen.adversarial.dynamics import Rates, Rule
from jensen.core.types import Batch
from jensen.judging.case import Case, Played, judge
from jensen.report import plots
from jensen.report.findings import Finding, Part
from jensen.training import descend

PRODUCTS, DENSE, SECONDS = 400, 400, 120.0  # of the flow, and again of the training
LARGE, FEW = 100_000, 16  # number of weights above which only a few rows are used
WAYS = {"flow": "the flow", "training": "a step of training"}


@judge
def stability(case: Case) -> Part | None:
    """The leading eigenvalues of the game on one batch, with the run's own order of players, update rule and learning
    rates.

    For a large game only the first rows of the batch are used, since each product needs several passes in double
    precision.
    """
    if not case.stability or case.game is None:
        return None
    game, batch = case.game, _batch(case, case.game)
    rates = {name: player.optimizer.param_groups[0]["lr"] for name, player in game.players.items()}
    own: Rule = "phases" if game.update is descend else game.update
    ways = {
        "flow": _linearised(case, game, batch, None, None, "flow"),
        "training": _linearised(case, game, batch, own, rates, "training"),
    }
    rows = len(next(iter(batch.values())))
    return part(ways, rows, game.step)


def _batch(case: Case, game: Played) -> Batch:
    batch = {name: rows.to(case.device) for name, rows in next(game.stream(0)).items()}
    return {name: rows[:FEW] for name, rows in batch.items()} if _weights(game) > LARGE else batch


def _weights(game: Played) -> int:
    return sum(p.numel() for ps in game.objective.players().values() for p in ps)


def _linearised(
    case: Case, game: Played, batch: Batch, update: Rule | None, rates: Rates | None, key: str
) -> dict[str, Any]:
    """The result as from `Stability.as_dict`, or {"refused": the reason why there is no linearisation}."""
    total = min(_weights(game), PRODUCTS)
    advance = case.track(f"stability of {WAYS[key]}", total)
    try:
        found = linearise(
            game.objective,
            batch,
            update,
            step_size=rates,
            seed=case.seed,
            step=game.step,
            products=PRODUCTS,
            dense=DENSE,
            seconds=SECONDS,
            advance=advance,
        )
    except ValueError as error:
        return {"refused": str(error)}
    advance(max(0, total - found.products))
    return found.as_dict()


def part(ways: Mapping[str, Mapping[str, Any]], rows: int, step: int) -> Part:
    """The part of the report about the eigenvalues of the flow and of a training step, on a batch of `rows` rows."""
    words = [
        f"The game at the end of training, linearised on one batch of {rows}, with plain gradients. For the flow, "
        "eigenvalues left of the imaginary axis make neighbouring paths converge, and an eigenvalue right of it "
        "makes them diverge. For a step of training the same holds inside and outside the unit circle. Eigenvalues "
        "on the axis or circle decide nothing.",
        *(_sentence(key, way) for key, way in ways.items()),
    ]
    charts = [
        plots.complex_plane(
            way["eigenvalues"],
            title=f"eigenvalues of {WAYS[key]}",
            tolerance=way["tolerance"],
            circle=key == "training",
        )
        for key, way in ways.items()
        if way.get("eigenvalues")
    ]
    found = [finding for key, way in ways.items() for finding in _findings(key, way)]
    return Part("Stability", " ".join(words), found, plots=charts, details={"stability": {"step": step, **ways}})


def _findings(key: str, way: Mapping[str, Any]) -> list[Finding]:
    if "refused" in way:
        return []
    what = "largest real part of an eigenvalue" if key == "flow" else "largest modulus of an eigenvalue"
    found = [Finding(f"{key}_speed", f"norm of the vector field, {WAYS[key]}", way["speed"], best=0.0)]
    if way["leading"] is not None:
        note = f"{way['verdict']}; {_seen(way)}"
        found.append(Finding(f"{key}_leading", f"{what}, {WAYS[key]}", way["leading"], best=None, note=note))
    if way["step_size_below"] is not None:
        name = "simultaneous gradient steps converge for step sizes below"
        found.append(Finding(f"{key}_step_size", name, way["step_size_below"], best=None))
    return found


def _sentence(key: str, way: Mapping[str, Any]) -> str:
    name = WAYS[key][0].upper() + WAYS[key][1:]
    if "refused" in way:
        return f"{name}: {way['refused']}."
    below = way["step_size_below"]
    steps = "" if below is None else f" Simultaneous gradient steps with step sizes below {below:.3g} would converge."
    return (
        f"{name}, with {way['weights']:,} weights: {way['verdict']}; {_leading(key, way)}, of {_seen(way)}. The norm "
        f"of the vector field is {way['speed']:.3g}: the point is an equilibrium only if it is 0.{steps}"
    )


def _seen(way: Mapping[str, Any]) -> str:
    return "all" if way["complete"] else f"{len(way['eigenvalues'])} found in {way['products']} products"


def _leading(key: str, way: Mapping[str, Any]) -> str:
    what = "largest real part" if key == "flow" else "largest modulus"
    leading = "none found" if way["leading"] is None else f"{what} {way['leading']:.6g}"
    return leading if way["converged"] else f"{leading}, the decisive ones not found"
