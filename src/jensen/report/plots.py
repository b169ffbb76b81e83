"""Small plots as inline SVG for light and dark pages, legible on a phone."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

BLUE, ORANGE, GREY, GREEN, PURPLE = "#3b82f6", "#f08c2e", "#8a94a3", "#2f9e68", "#9b6ad8"
COLOURS = (BLUE, ORANGE, GREY, GREEN, PURPLE)
WIDTH, HEIGHT = 4.6, 3.0  # inches: a phone's column shows a point of type as 1.06 of its pixels
TYPE, TITLE = 11, 12  # points
MOST_TICKS, LINE = 6, 46  # ticks of an axis; characters of a line of the legend


def curves(
    x: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
    log: bool = False,
    markers: bool = True,
    limits: tuple[float, float] | None = None,
) -> str:
    """Named lines over a common axis x; `log` makes both axes logarithmic, `limits` are those of the vertical axis."""
    figure, axes = _axes(title, xlabel)
    marker = "o" if markers else None
    drawn = {}
    for (name, values), colour in zip(rows.items(), cycle(COLOURS)):
        (drawn[name],) = axes.plot(x, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        every = -(-len(x) // MOST_TICKS)
        axes.set_xticks(x[::every], labels=[f"{value:.3g}" for value in x[::every]])
        values = [v for row in rows.values() for v in row if v > 0]
        if values and max(values) < 100 * min(values):
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.3g"))
        axes.minorticks_off()
    if limits is not None:
        axes.set_ylim(*limits)
    return _svg(_named(figure, drawn))


def intervals(x: Sequence[float], rows: Sequence[Mapping[str, float]], *, title: str, xlabel: str) -> str:
    """Points with error bars; each series has values and the ends of their intervals."""
    figure, axes = _axes(title, xlabel)
    values = [row["value"] for row in rows]
    reach = [[row["value"] - row["low"] for row in rows], [row["high"] - row["value"] for row in rows]]
    axes.errorbar(x, values, yerr=reach, color=BLUE, marker="o", markersize=4, capsize=3, linewidth=1.4)
    return _svg(figure)


def histograms(rows: Mapping[str, Sequence[float]], *, title: str, xlabel: str, ylabel: str = "") -> str:
    """Histograms of values on 40 shared bins; the lowest and highest half percent are in the outermost bins."""
    figure, axes = _axes(title, xlabel, ylabel)
    everything = np.concatenate([*rows.values()])
    low, high = np.quantile(everything, (0.005, 0.995))
    edges, drawn = np.histogram_bin_edges(everything.clip(low, high), 40), {}
    for (name, values), colour in zip(rows.items(), cycle(COLOURS)):
        drawn[name] = axes.hist(np.clip(values, low, high), bins=edges, color=colour, alpha=0.55)[2][0]
    return _svg(_named(figure, drawn))


def shares(
    found: Sequence[float],
    expected: Sequence[float],
    *,
    title: str,
    names: Sequence[str] | None = None,
    xlabel: str = "",
    labels: tuple[str, str] = ("samples", "data"),
) -> str:
    """Shares of classes as bars, each with a line at its expected share; `labels` names bars and lines.

    Without `names` the classes are numbered from 1.
    """
    figure, axes = _axes(title, xlabel)
    places = range(1, len(found) + 1)
    bars = axes.bar(places, found, width=0.8, color=BLUE, alpha=0.8)
    lines = axes.hlines(expected, [k - 0.45 for k in places], [k + 0.45 for k in places], color=ORANGE, linewidth=2)
    top = max(*found, *expected)
    axes.set_ylim(0, 1.0 if 0.8 < top <= 1 else 1.1 * top)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=None if top > 0.05 else 1))
    axes.grid(visible=False, axis="x")
    if names is not None:
        long = sum(map(len, names)) > LINE
        axes.set_xticks(places, labels=[literal(name) for name in names], rotation=90 if long else 0)
    return _svg(_named(figure, dict(zip(labels, (bars, lines), strict=True))))


def bars(names: Sequence[str], values: Sequence[float], *, title: str, xlabel: str) -> str:
    """Named numbers as horizontal bars, the first on top."""
    figure, axes = _rows(names, title, xlabel)
    axes.barh(range(len(names)), values, color=BLUE, alpha=0.8)
    return _svg(figure)


def rivals(
    names: Sequence[str], values: Sequence[tuple[float, float]], *, title: str, floor: tuple[float, float] | None = None
) -> str:
    """Named numbers with bars of two standard errors on either side, from top to bottom; `floor` is a band."""
    figure, axes = _rows(names, title, "")
    if floor is not None:
        axes.axvspan(floor[0] - 2 * floor[1], floor[0] + 2 * floor[1], color=GREEN, alpha=0.18, linewidth=0)
        axes.axvline(floor[0], color=GREEN, linewidth=1.2)
    for k, ((value, error), colour) in enumerate(zip(values, cycle((BLUE, ORANGE, GREY, PURPLE)))):
        axes.errorbar(value, k, xerr=2 * error, color=colour, marker="o", markersize=5, capsize=3, linewidth=1.4)
    return _svg(figure)


def complex_plane(
    values: Sequence[Sequence[float]], *, title: str, tolerance: float = 0.0, circle: bool = False
) -> str:
    """Complex numbers [real, imaginary]; those right of the axis, or outside the unit circle, have another colour."""
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


def blank(width: float, height: float, dpi: int) -> Figure:
    """A figure with this width and height in inches, for pixel output."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def framed(axes: Any, title: str = "") -> None:
    """A thin frame, small numbers and a title."""
    axes.tick_params(colors=GREY, labelsize=8)
    axes.set_title(title, fontsize=10, color="#303030")
    for side in axes.spines.values():
        side.set_color("#dfe3e8")


def png(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    buffer = io.BytesIO()
    with quiet():
        figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _axes(title: str, xlabel: str, ylabel: str = "", height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=TITLE, color=GREY, loc="left")
    axes.set_xlabel(xlabel, fontsize=TYPE, color=GREY)
    axes.set_ylabel(ylabel, fontsize=TYPE, color=GREY)
    axes.tick_params(colors=GREY, labelsize=TYPE)
    axes.locator_params(axis="both", nbins=MOST_TICKS)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _rows(names: Sequence[str], title: str, xlabel: str) -> tuple[Figure, Any]:
    """Axes with a row for each name, the first on top."""
    figure, axes = _axes(title, xlabel, height=0.9 + 0.34 * len(names) + 0.2 * bool(xlabel))
    axes.set_yticks(range(len(names)), labels=[literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes


def _named(figure: Figure, drawn: Mapping[str, Any]) -> Figure:
    """Add a legend below the axes if there are two names or more."""
    if len(drawn) > 1:
        columns = max(1, min(len(drawn), LINE // (max(map(len, drawn)) + 6)))
        figure.set_figheight(HEIGHT + 0.21 * -(-len(drawn) // columns))
        figure.legend(
            list(drawn.values()),
            [literal(name) for name in drawn],
            loc="outside lower left",
            ncols=columns,
            fontsize=TYPE,
            frameon=False,
            labelcolor=GREY,
            handlelength=1.2,
            columnspacing=1.2,
            borderpad=0.1,
        )
    return figure


def literal(name: str) -> str:
    """A user's name, drawn as it is: dollar signs are no mathematics, and control characters are replaced."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", name).replace("$", r"\$")


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of characters that matplotlib's font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with quiet(), matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
