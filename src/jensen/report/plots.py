"""Small plots as inline SVG that suit a light and a dark page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from torch import Tensor

from jensen.data.pool import refuse_nonfinite

BLUE, ORANGE, GREY = "#3b82f6", "#f08c2e", "#8a94a3"
MOST_TICKS = 6
GREEN, PURPLE = "#2f9e68", "#9b6ad8"


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, color=GREY, loc="left")
    axes.set_xlabel(xlabel, fontsize=9, color=GREY)
    axes.set_ylabel(ylabel, fontsize=9, color=GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _as_it_is(name: str) -> str:
    """A name that a user gave, none of which is mathematics."""
    return name.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curve(
    x: Sequence[float],
    y: Sequence[float],
    *,
    title: str,
    xlabel: str,
    ylabel: str = "",
    limits: tuple[float, float] | None = None,
    markers: bool = False,
) -> str:
    """One line."""
    figure, axes = _axes(title, xlabel, ylabel)
    axes.plot(x, y, color=BLUE, linewidth=1.6, marker="o" if markers else None, markersize=3.5)
    if limits is not None:
        axes.set_ylim(*limits)
    return _svg(figure)


def intervals(x: Sequence[float], rows: Sequence[dict[str, float]], *, title: str, xlabel: str, ylabel: str) -> str:
    """Points with intervals: rows hold value, low and high."""
    figure, axes = _axes(title, xlabel, ylabel)
    values = [r["value"] for r in rows]
    errors = [[r["value"] - r["low"] for r in rows], [r["high"] - r["value"] for r in rows]]
    axes.errorbar(x, values, yerr=errors, color=BLUE, marker="o", markersize=4, capsize=3, linewidth=1.4)
    return _svg(figure)


def histograms(rows: Mapping[str, Sequence[float]], *, title: str, xlabel: str) -> str:
    """Two or more densities on shared bins."""
    figure, axes = _axes(title, xlabel, "pictures")
    everything = [v for values in rows.values() for v in values]
    span = (min(everything), max(everything) or 1.0)
    for (name, values), colour in zip(rows.items(), (BLUE, ORANGE, GREY), strict=False):
        axes.hist(values, bins=40, range=span, color=colour, alpha=0.55, label=name)
    axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(figure)


def counts(edges: Sequence[float], rows: Mapping[str, Sequence[float]], *, title: str, xlabel: str) -> str:
    """Two or more histograms, already counted, on shared bins: N + 1 edges and N counts each."""
    figure, axes = _axes(title, xlabel, "")
    for (name, values), colour in zip(rows.items(), (BLUE, ORANGE, GREY), strict=False):
        axes.stairs(values, edges, fill=True, color=colour, alpha=0.55, label=name)
    axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(figure)


def curves(
    x: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    log: bool = False,
    markers: bool = True,
) -> str:
    """A few lines over one axis; with `log`, both axes are logarithmic."""
    figure, axes = _axes(title, xlabel, "")
    lines = [
        axes.plot(x, values, color=colour, linewidth=1.5, marker="o" if markers else None, markersize=3.5)[0]
        for values, colour in zip(rows.values(), cycle((BLUE, ORANGE, GREY, GREEN, PURPLE)))
    ]
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        every = -(-len(x) // MOST_TICKS)
        axes.set_xticks(x[::every], labels=[f"{value:.3g}" for value in x[::every]])
        axes.minorticks_off()
    axes.legend(lines, [_as_it_is(name) for name in rows], fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(figure)


def shares(found: Sequence[float], expected: Sequence[float], *, title: str, xlabel: str) -> str:
    """Shares of numbered classes as bars, with a line where each should end."""
    figure, axes = _axes(title, xlabel, "")
    numbers = range(1, len(found) + 1)
    axes.bar(numbers, found, width=0.8, color=BLUE, alpha=0.8, label="samples")
    axes.hlines(expected, [k - 0.5 for k in numbers], [k + 0.5 for k in numbers], color=ORANGE, label="data")
    axes.set_ylim(0, 1.25 * max(*found, *expected))
    axes.legend(fontsize=8, frameon=False, labelcolor=GREY, ncols=2, loc="upper right")
    return _svg(figure)


def complex_plane(
    values: Sequence[Sequence[float]], *, title: str, tolerance: float = 0.0, circle: bool = False
) -> str:
    """Numbers as [real, imaginary], those right of the axis, or outside the unit circle, in another colour."""
    figure, axes = _axes(title, "real part", "imaginary part")
    if circle:
        axes.add_patch(Circle((0, 0), 1, fill=False, color=GREY, linewidth=1.0))
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes.axvline(0, color=GREY, linewidth=1.0)
    beyond = [math.hypot(*v) - 1 if circle else v[0] for v in values]
    colours = [ORANGE if b > tolerance else BLUE for b in beyond]
    axes.scatter([v[0] for v in values], [v[1] for v in values], s=22, c=colours, linewidths=0)
    return _svg(figure)


def bars(names: Sequence[str], values: Sequence[float], *, title: str, xlabel: str) -> str:
    """Named numbers as horizontal bars, the first on top."""
    figure, axes = _axes(title, xlabel, "")
    axes.barh(names, values, color=BLUE, alpha=0.8)
    axes.invert_yaxis()
    return _svg(figure)


def points(samples: Tensor, *, behind: Tensor | None = None, scale: int = 4, title: str = "") -> Image.Image:
    """Points of the plane as a picture, 120 `scale` pixels wide; `behind` lies below them in grey, and sets the frame.

    Args:
        samples: (N, 2).
        behind: (M, 2), the data to compare with.
        scale: of the picture.
        title: above it.

    Raises:
        ValueError: for a point that is not finite, which would be left out.
    """
    refuse_nonfinite(samples)
    figure = Figure(figsize=(4, 3), dpi=30 * scale, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if behind is not None:
        axes.scatter(behind[:, 0].cpu(), behind[:, 1].cpu(), s=3, color="#c4cad2", linewidths=0)
        low, high = behind.min(0).values.tolist(), behind.max(0).values.tolist()
        axes.set_xlim(low[0] - 0.25, high[0] + 0.25)
        axes.set_ylim(low[1] - 0.25, high[1] + 0.25)
    axes.scatter(samples[:, 0].cpu(), samples[:, 1].cpu(), s=3.5, color=BLUE, alpha=0.65, linewidths=0)
    axes.set_aspect("equal")
    axes.tick_params(colors=GREY, labelsize=8)
    axes.set_title(title, fontsize=10, color="#303030")
    for side in axes.spines.values():
        side.set_color("#dfe3e8")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def rivals(
    names: Sequence[str], values: Sequence[tuple[float, float]], *, title: str, floor: tuple[float, float] | None = None
) -> str:
    """A number of each of a few, with twice its error either way, the first on top; `floor` as a band behind them."""
    figure = Figure(figsize=(4.8, 0.9 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, color=GREY, loc="left")
    axes.tick_params(colors=GREY, labelsize=8)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6, axis="x")
    for side in axes.spines.values():
        side.set_visible(False)
    if floor is not None:
        axes.axvspan(floor[0] - 2 * floor[1], floor[0] + 2 * floor[1], color=GREEN, alpha=0.18, linewidth=0)
        axes.axvline(floor[0], color=GREEN, linewidth=1.2)
    for k, ((value, error), colour) in enumerate(zip(values, cycle((BLUE, ORANGE, GREY, PURPLE)))):
        axes.errorbar(value, k, xerr=2 * error, color=colour, marker="o", markersize=5, capsize=3, linewidth=1.4)
    axes.set_yticks(range(len(names)), labels=[_as_it_is(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    return _svg(figure)
