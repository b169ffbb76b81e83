"""Points as an image: a histogram of one column, a plot of two, pairwise plots of more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from jensen.data.pool import refuse_nonfinite
from jensen.report.plots import BLUE, GREY, blank, framed, png

COLUMNS = 5  # of pairwise plots, at most
SHOWN = 1000  # points of a pairwise plot, at most
BEHIND = "#c4cad2"
MARGIN = 0.08  # around the data, relative to their range
SQUARE = 4  # ratio of two ranges up to which both axes have one scale
BINS = 36


def scatter(samples: Tensor, *, behind: Tensor | None = None, scale: int = 4, names: Sequence[str] = ()) -> Image.Image:
    """Points (N, D) as an image; for more than two columns, all pairs of the first five, and a histogram of each.

    Args:
        samples: the points.
        behind: (M, D), drawn below them in grey; they set the limits.
        scale: the image is 120 `scale` pixels wide for one or two columns, up to 167 `scale` for more.
        names: names of the columns.

    Raises:
        ValueError: for a point that is not finite, since it would not be drawn.
    """
    refuse_nonfinite(samples)
    x = samples.detach().cpu().double().numpy()
    y = None if behind is None else behind.detach().cpu().double().numpy()
    width = min(x.shape[1], COLUMNS)
    x, y = x[:, :width], None if y is None else y[:, :width]
    named = [_plain(name) for name in names[:width]] or [f"column {k + 1}" for k in range(width)]
    limits = [_limits(column) for column in (x if y is None else y).T]
    if width == 1:
        return _single(x[:, 0], None if y is None else y[:, 0], limits[0], named[0] * bool(names), scale)
    if width == 2:
        return _plane(x, y, limits, named if names else ["", ""], scale)
    return _pairs(x, y, limits, named, scale)


def _plain(name: str) -> str:
    return name.replace("$", r"\$")


def _limits(column: np.ndarray) -> tuple[float, float]:
    low, high = float(column.min()), float(column.max())
    edge = MARGIN * (high - low) or 1.0
    return low - edge, high + edge


def _single(x: np.ndarray, y: np.ndarray | None, limits: tuple[float, float], name: str, scale: int) -> Image.Image:
    figure = blank(4, 2.4, 30 * scale)
    axes = figure.subplots()
    _histogram(axes, x, y, limits)
    framed(axes)
    axes.set_yticks([])
    axes.set_xlabel(name, fontsize=8, color=GREY)
    return png(figure)


def _plane(
    x: np.ndarray, y: np.ndarray | None, limits: Sequence[tuple[float, float]], names: Sequence[str], scale: int
) -> Image.Image:
    figure = blank(4, 3, 30 * scale)
    axes = figure.subplots()
    _dots(axes, x, y, limits, 3.5)
    ranges = [high - low for low, high in limits]
    if max(ranges) <= SQUARE * min(ranges):
        axes.set_aspect("equal")
    framed(axes)
    axes.set_xlabel(names[0], fontsize=8, color=GREY)
    axes.set_ylabel(names[1], fontsize=8, color=GREY)
    return png(figure)


def _pairs(
    x: np.ndarray, y: np.ndarray | None, limits: Sequence[tuple[float, float]], names: Sequence[str], scale: int
) -> Image.Image:
    """Histograms on the diagonal, pairs below it, row against column."""
    n = len(names)
    figure = blank(1.15 * n, 1.15 * n, 29 * scale)
    figure.set_layout_engine("none")  # one constrained layout of many axes takes seconds
    grid = figure.add_gridspec(n, n, left=0.62 / n, bottom=0.4 / n, right=0.99, top=0.99, wspace=0.08, hspace=0.08)
    for column, row in combinations_with_replacement(range(n), 2):
        axes = figure.add_subplot(grid[row, column])
        if column == row:
            _histogram(axes, x[:, row], None if y is None else y[:, row], limits[row])
            axes.set_yticks([])
        else:
            pair = [column, row]
            behind = None if y is None else y[:SHOWN, pair]
            _dots(axes, x[:SHOWN, pair], behind, [limits[k] for k in pair], 1.5)
            axes.locator_params(axis="y", nbins=3)
        axes.locator_params(axis="x", nbins=2)
        framed(axes)
        below, beside = row == n - 1, column == 0 < row
        axes.tick_params(labelsize=6, length=2, labelbottom=below, bottom=below, labelleft=beside, left=beside)
        if below:
            axes.set_xlabel(names[column], fontsize=8, color=GREY)
        if beside:
            axes.set_ylabel(names[row], fontsize=8, color=GREY)
            axes.yaxis.set_label_coords(-0.4, 0.5)
    return png(figure)


def _dots(axes: Any, x: np.ndarray, y: np.ndarray | None, limits: Sequence[tuple[float, float]], size: float) -> None:
    if y is not None:
        axes.scatter(*y.T, s=size, color=BEHIND, linewidths=0)
    axes.scatter(*x.T, s=size, color=BLUE, alpha=0.65, linewidths=0)
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])


def _histogram(axes: Any, x: np.ndarray, y: np.ndarray | None, limits: tuple[float, float]) -> None:
    """Histograms: of the data as a grey area, of the samples as a line; values outside the limits are not drawn."""
    edges = np.linspace(*limits, BINS + 1)
    for values, style in ((y, {"histtype": "stepfilled", "color": BEHIND}), (x, {"histtype": "step", "color": BLUE})):
        if values is not None:
            axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), **style)
    axes.set_xlim(*limits)
