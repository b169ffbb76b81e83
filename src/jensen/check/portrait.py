"""Phase portraits of games with two weights: the field as arrows, and orbits by the flow or by training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from jensen.adversarial import DiracGAN, stability, trajectory
from jensen.adversarial.dynamics import Rule
from jensen.adversarial.field import Frozen
from jensen.core.objective import Objective
from jensen.report.plots import GREY, _svg
from jensen.training import consensus

INK = "#2b3440"
TIME = LinearSegmentedColormap.from_list("time", ["#9cc3fb", "#3b82f6", "#14356f"])
ARROWS = 13  # along each axis


@dataclass(frozen=True)
class Panel:
    """A phase portrait of one game.

    Attributes:
        title: title of the panel.
        game: a game with two weights.
        update: None for the flow, or how players move; see `jensen.adversarial.trajectory`.
        step_size: step size of the players, or the time between points of the flow.
        steps: number of steps of each orbit.
        starts: initial weights of the orbits.
        at: the equilibrium, at which the game is linearised; it is marked.
        labels: labels of the axes; by default the names of the players.
    """

    title: str
    game: Objective
    update: Rule | None = None
    step_size: float = 0.1
    steps: int = 200
    starts: Sequence[tuple[float, float]] = ((1.5, 0.0),)
    at: tuple[float, float] = (0.0, 0.0)
    labels: tuple[str, str] | None = None

    def verdict(self) -> str:
        """The result of the linearisation at the equilibrium, in one line."""
        size = None if self.update is None else self.step_size
        try:
            found = stability(self.game, update=self.update, step_size=size, at=self.at)
        except ValueError:
            return "a jump or a kink: no linearisation"
        name = r"Re$\,\lambda$" if self.update is None else r"$|\lambda|$"
        return f"{name} = {round(found.leading, 3) + 0.0:g}: {found.verdict}"

    def names(self) -> tuple[str, str]:
        """The labels of the axes."""
        if self.labels is not None:
            return self.labels
        owners = [(name, p.numel()) for name, ps in self.game.players().items() for p in ps]
        across, up = (name for name, n in owners for _ in range(n))
        return across, up


def dirac_panels() -> list[Panel]:
    """The Dirac-GAN under eight rules; with the logistic f except for WGAN-GP."""
    circles = ((0.6, 0.0), (1.2, 0.0), (1.8, 0.0))
    far = ((1.8, 0.0),)
    gp = DiracGAN("wasserstein", gradient_penalty=0.2)
    dirac = partial(Panel, labels=("generator θ", "critic ψ"))
    return [
        dirac("flow", DiracGAN(), None, 0.1, 190, circles),
        dirac("simultaneous, $h = 0.3$", DiracGAN(), "simultaneous", 0.3, 150, ((0.3, 0.0),)),
        dirac("alternating, $h = 0.3$", DiracGAN(), "alternating", 0.3, 125, circles),
        dirac("extragradient, $h = 0.6$", DiracGAN(), "extragradient", 0.6, 125, far),
        dirac(r"instance noise, $\sigma = 1$, flow", DiracGAN(instance_noise=1.0), None, 0.1, 300, far),
        dirac(r"R1, $\gamma = 0.3$, $h = 0.3$", DiracGAN(r1=0.3), "simultaneous", 0.3, 200, far),
        dirac(r"consensus, $\gamma = 0.3$, $h = 0.3$", DiracGAN(), consensus(0.3), 0.3, 300, ((1.2, 0.0),)),
        dirac(r"WGAN-GP, $\lambda = 0.2$, $h = 0.1$", gp, "alternating", 0.1, 500, ((1.8, 0.0), (0.1, 0.1))),
    ]


def phase_portrait(panels: Sequence[Panel], *, columns: int = 4, extent: float = 2.2, scale: int = 2) -> Image.Image:
    """Draw panels as one picture; each panel is 260 * scale pixels wide.

    Args:
        panels: at least one.
        columns: number of panels in a row.
        extent: both axes go from -extent to extent.
        scale: factor for the resolution.

    Raises:
        ValueError: for no panel, or a game that does not have two weights.
    """
    figure = _drawn(panels, columns, extent)
    figure.set_dpi(100 * scale)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def phase_portrait_svg(panels: Sequence[Panel], *, columns: int = 4, extent: float = 2.2) -> str:
    """The same portraits as inline SVG, for a page."""
    return _svg(_drawn(panels, columns, extent))


def _drawn(panels: Sequence[Panel], columns: int, extent: float) -> Figure:
    if not panels:
        raise ValueError("a phase portrait needs at least one panel")
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * min(columns, len(panels)), 2.95 * rows), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, min(columns, len(panels)), squeeze=False, sharex=True, sharey=True).flatten()
    for k, (panel, place) in enumerate(zip(panels, axes, strict=False)):
        _panel(place, panel, extent)
        across, up = panel.names()
        if k % columns == 0:
            place.set_ylabel(up, fontsize=8, color=GREY)
        if k >= len(panels) - columns:
            place.set_xlabel(across, fontsize=8, color=GREY)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    return figure


def _panel(axes: Any, panel: Panel, extent: float) -> None:
    _arrows(axes, panel.game, extent)
    for start in panel.starts:
        path = trajectory(panel.game, panel.update, panel.step_size, panel.steps, start=start)
        _orbit(axes, path, dots=panel.update is not None)
    axes.plot(*panel.at, marker="+", color=INK, markersize=7, markeredgewidth=1.1, zorder=5)
    axes.set_title(panel.title, fontsize=9.5, color=INK, loc="left", pad=16)
    axes.text(0, 1.02, panel.verdict(), transform=axes.transAxes, fontsize=7.5, color=GREY)
    axes.set_xlim(-extent, extent)
    axes.set_ylim(-extent, extent)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(colors=GREY, labelsize=7, length=2)
    for side in axes.spines.values():
        side.set_color("#dfe3e8")


def _arrows(axes: Any, game: Objective, extent: float) -> None:
    """The direction of the flow, with arrows of equal length."""
    frozen = Frozen(game)
    if len(frozen.weights) != 2:
        raise ValueError(f"a phase portrait needs a game with two weights, got {len(frozen.weights)}")
    line = torch.linspace(-extent, extent, ARROWS + 2, dtype=torch.float64)[1:-1]
    points = torch.cartesian_prod(line, line)
    v = -torch.stack([frozen.field(w) for w in points])
    v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-9)
    axes.quiver(*points.T, *v.T, color="#cfd5dd", angles="xy", pivot="mid", width=0.0045, headwidth=4, scale=24)


def _orbit(axes: Any, path: Tensor, *, dots: bool) -> None:
    """A line whose colour darkens with time, and dots at the training steps."""
    points = path.numpy()
    shade = np.linspace(0, 1, len(points))
    pieces = np.stack([points[:-1], points[1:]], 1)
    axes.add_collection(
        LineCollection(list(pieces), colors=TIME(shade[:-1]), linewidths=0.9 if dots else 1.4, zorder=3)
    )
    if dots:
        axes.scatter(*points.T, c=shade, cmap=TIME, s=3.2, linewidths=0, zorder=4)
    axes.plot(*points[0], marker="o", color="white", markeredgecolor=TIME(0.5), markersize=4.5, zorder=6)
