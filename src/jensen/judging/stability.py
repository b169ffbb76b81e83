"""Stability of the game at the end of training. Eigenvalues of its vector field and of a training step.

Both use plain gradients. Adam's updates differ, but have the same fixed points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jensen.adversarial import stability as linearise
from jensen.adversarial.dynamics import Rates, Rule
from jensen.judging.case import Case, judge
from jensen.report import plots
from jensen.report.findings import Finding, Part, sentence
from jensen.training import descend

PRODUCTS, DENSE, SECONDS = 400, 400, 120.0  # limits of each of the two linearisations
LARGE, FEW = 100_000, 16  # number of weights above which only a few rows are used
WAYS = {"flow": "the flow", "training": "a training step"}
LEADING = {"flow": "largest real part", "training": "largest modulus"}


@judge
def stability(case: Case) -> Part | None:
    """The leading eigenvalues of the game on one batch, with the run's own order of players, update rule and learning
    rates.

    For a large game only the first rows of the batch are used, since each product needs several passes in double
    precision.
    """
    if not case.stability or case.game is None:
        return None
    game, ways = case.game, {}
    weights = sum(p.numel() for group in game.objective.players().values() for p in group)
    most = FEW if weights > LARGE else None
    batch = {name: rows[:most].to(case.device) for name, rows in next(game.stream(0)).items()}
    own: Rule = "phases" if game.update is descend else game.update
    rates: Rates = {name: player.optimizer.param_groups[0]["lr"] for name, player in game.players.items()}
    for key, update, step_size in (("flow", None, None), ("training", own, rates)):
        total = min(weights, PRODUCTS)
        advance = case.track(f"stability of {WAYS[key]}", total)
        kept: dict[str, Any] = {"seed": case.seed, "step": game.step, "products": PRODUCTS, "dense": DENSE}
        try:
            found = linearise(
                game.objective, batch, update, step_size=step_size, seconds=SECONDS, advance=advance, **kept
            )
        except ValueError as error:
            ways[key] = {"refused": str(error)}
            continue
        advance(max(0, total - found.products))
        ways[key] = found.as_dict()
    return part(ways, len(next(iter(batch.values()))), game.step)


def part(ways: Mapping[str, Mapping[str, Any]], rows: int, step: int) -> Part:
    """The part of the report about the eigenvalues of the flow and of a training step, on a batch of `rows` rows."""
    words = [
        f"The game at the end of training, linearised on one batch of {rows}, with plain gradients. For the flow, "
        "eigenvalues left of the imaginary axis make neighbouring paths converge, and an eigenvalue right of it "
        "makes them diverge. For a training step the same holds inside and outside the unit circle. Eigenvalues "
        "on the axis or circle decide nothing.",
        *(_sentence(key, way) for key, way in ways.items()),
    ]
    charts = []
    for key, way in ways.items():
        if values := way.get("eigenvalues"):
            title, circle = f"eigenvalues of {WAYS[key]}", key == "training"
            charts.append(plots.complex_plane(values, title=title, tolerance=way["tolerance"], circle=circle))
    found = [finding for key, way in ways.items() for finding in _findings(key, way)]
    return Part("Stability", " ".join(words), found, plots=charts, details={"stability": {"step": step, **ways}})


def _findings(key: str, way: Mapping[str, Any]) -> list[Finding]:
    if "refused" in way:
        return []
    name = WAYS[key]
    found = [Finding(f"{key}_speed", f"norm of the vector field, {name}", way["speed"], best=0.0)]
    if way["leading"] is not None:
        what, note = f"{LEADING[key]} of an eigenvalue, {name}", f"{way['verdict']}; {_seen(way)}"
        found.append(Finding(f"{key}_leading", what, way["leading"], best=None, note=note))
    if way["step_size_below"] is not None:
        what = "simultaneous gradient steps converge for step sizes below"
        found.append(Finding(f"{key}_step_size", what, way["step_size_below"], best=None))
    return found


def _sentence(key: str, way: Mapping[str, Any]) -> str:
    if "refused" in way:
        return sentence(f"{WAYS[key]}: {way['refused']}")
    leading = "none found" if way["leading"] is None else f"{LEADING[key]} {way['leading']:.6g}"
    leading += "" if way["converged"] else ", the decisive ones were not found"
    below = way["step_size_below"]
    steps = "" if below is None else f". Simultaneous gradient steps with step sizes below {below:.3g} would converge"
    return sentence(
        f"{WAYS[key]}, with {way['weights']:,} weights: {way['verdict']}; {leading}, of {_seen(way)}. The norm of the "
        f"vector field is {way['speed']:.3g}: the point is an equilibrium only if it is 0{steps}"
    )


def _seen(way: Mapping[str, Any]) -> str:
    return "all" if way["complete"] else f"{len(way['eigenvalues'])} found in {way['products']} products"
