"""Small plots as inline SVG that suit a light and a dark page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b82f6", "#f08c2e", "#8a94a3"


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


def histograms(rows: dict[str, Sequence[float]], *, title: str, xlabel: str) -> str:
    """Two or more densities on shared bins."""
    figure, axes = _axes(title, xlabel, "pictures")
    everything = [v for values in rows.values() for v in values]
    span = (min(everything), max(everything) or 1.0)
    for (name, values), colour in zip(rows.items(), (BLUE, ORANGE, GREY), strict=False):
        axes.hist(values, bins=40, range=span, color=colour, alpha=0.55, label=name)
    axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(figure)
