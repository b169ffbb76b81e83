"""Is the game of a run stable where training left it? Its flow's eigenvalues and its training step's, and the words.

Both are of plain gradients: Adam moves by others, although it rests where they are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jensen.adversarial import stability
from jensen.adversarial.dynamics import Rates, Rule
from jensen.core.objective import Objective
from jensen.core.types import Batch
from jensen.recipes.base import Recipe, Track, silent
from jensen.recipes.folder import load_game
from jensen.report import plots
from jensen.report.page import Section
from jensen.training import descend

PRODUCTS, DENSE, SECONDS = 400, 400, 120.0  # of the flow, and again of the training
LARGE, FEW = 100_000, 16  # weights above which no more rows than a few are looked at
WAYS = {"flow": "the flow", "training": "its training"}


def of_run(recipe: Recipe, folder: Path, track: Track = silent) -> dict[str, Any]:
    """The leading eigenvalues of a run's game on one batch, by its flow and by a step of its training.

    Of a large game on the first `FEW` rows of the batch alone, since each product costs some passes over it in double
    precision.

    The step is in the run's own order of players and by its own rule, with plain gradients at the rates of its
    settings. Each of the two takes at most `PRODUCTS` matrix-vector products, and about `SECONDS`.

    Returns:
        "step" and "batch"; "flow" and "training": as `Stability.as_dict`, or "refused": why there is no linearisation.

    Raises:
        RunError: if the run has no checkpoint.
    """
    setting = recipe.setting(recipe.model(), track)
    objective = setting.objective
    step = load_game(objective, folder)
    batch = next(setting.stream(0))
    if sum(p.numel() for ps in objective.players().values() for p in ps) > LARGE:
        batch = {name: rows[:FEW] for name, rows in batch.items()}
    players = recipe.players(objective, recipe.training.budget())
    rates = {name: player.optimizer.param_groups[0]["lr"] for name, player in players.items()}
    own: Rule = "phases" if recipe.update() is descend else recipe.update()
    return {
        "step": step,
        "batch": len(next(iter(batch.values()))),
        "flow": _linearised(objective, batch, recipe.seed, step, None, None, track),
        "training": _linearised(objective, batch, recipe.seed, step, own, rates, track),
    }


def _linearised(
    objective: Objective, batch: Batch, seed: int, step: int, update: Rule | None, rates: Rates | None, track: Track
) -> dict[str, Any]:
    weights = sum(p.numel() for ps in objective.players().values() for p in ps)
    advance = track(f"stability of {WAYS['flow' if update is None else 'training']}", min(weights, PRODUCTS))
    try:
        found = stability(
            objective,
            batch,
            update,
            step_size=rates,
            seed=seed,
            step=step,
            products=PRODUCTS,
            dense=DENSE,
            seconds=SECONDS,
            advance=advance,
        )
    except ValueError as error:
        return {"refused": str(error)}
    advance(max(0, min(weights, PRODUCTS) - found.products))
    return found.as_dict()


def rows(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What the terminal says of it."""
    if found is None:
        return []
    said: list[tuple[str, str]] = []
    for key, name in WAYS.items():
        way = found[key]
        if "refused" in way:
            said.append((f"stability of {name}", way["refused"]))
            continue
        said.append((f"stability of {name}", f"{way['verdict']}, |v| = {way['speed']:.3g}: 0 at an equilibrium"))
        said.append((f"  eigenvalues, {_seen(way)}", _leading(key, way)))
        if way["step_size_below"] is not None:
            said.append(("  simultaneous plain steps converge below", f"{way['step_size_below']:.3g}"))
    return said


def section(found: Mapping[str, Any] | None) -> Section | None:
    """What a page says of it."""
    if found is None:
        return None
    ways = {key: found[key] for key in WAYS}
    words = [
        f"Where training left it, linearised on one batch of {found['batch']}, by plain gradients. Of the flow, "
        "eigenvalues left of the axis draw neighbouring paths together and one right of it drives them apart; of a "
        "step of training, those inside the circle and outside it. Those on it prove nothing.",
        *(_sentence(key, way) for key, way in ways.items()),
    ]
    drawn = [
        plots.complex_plane(
            way["eigenvalues"],
            title=f"eigenvalues of {WAYS[key]}",
            tolerance=way["tolerance"],
            circle=key == "training",
        )
        for key, way in ways.items()
        if way.get("eigenvalues")
    ]
    return Section("Stability", " ".join(words), plots=drawn)


def _sentence(key: str, way: Mapping[str, Any]) -> str:
    name = WAYS[key][0].upper() + WAYS[key][1:]
    if "refused" in way:
        return f"{name}: {way['refused']}."
    below = way["step_size_below"]
    steps = "" if below is None else f" Simultaneous plain steps below {below:.3g} would converge."
    return (
        f"{name}, of {way['weights']:,} weights: {way['verdict']}; {_leading(key, way)}, of {_seen(way)}. The field's "
        f"norm is {way['speed']:.3g}: only where it is 0 is this an equilibrium.{steps}"
    )


def _seen(way: Mapping[str, Any]) -> str:
    return "all" if way["complete"] else f"{len(way['eigenvalues'])} found in {way['products']} products"


def _leading(key: str, way: Mapping[str, Any]) -> str:
    what = "largest real part" if key == "flow" else "largest modulus"
    leading = "none found" if way["leading"] is None else f"{what} {way['leading']:.6g}"
    return leading if way["converged"] else f"{leading}, those that decide not among them"
