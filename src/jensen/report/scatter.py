"""Points as an image: a histogram of one column, a plot of two, pairwise plots of more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor

from jensen.data.pool import refuse_nonfinite
from jensen.report.plots import BLUE, GREY, blank, framed, literal, png

COLUMNS = 5  # of pairwise plots, at most
SHOWN = 1000  # points of a pairwise plot, at most
BEHIND, AREA = "#8f98a6", "#c4cad2"
FEW = 10  # classes that a legend names
MARGIN = 0.08  # around the data, relative to their range
SQUARE = 4  # ratio of two ranges up to which both axes have one scale
BINS = 36


Histogram = tuple[np.ndarray, float, dict[str, Any]]
"""Values, their number as a share of all of their kind, and how they are drawn."""


@dataclass(frozen=True)
class Classes:
    """The class of each point, (N,), drawn in a colour of its own, and the names of the classes."""

    index: Tensor
    names: Sequence[str]

    @property
    def colours(self) -> np.ndarray:
        """A colour for each class, (classes, 4)."""
        few = len(self.names) <= FEW
        return colormaps["tab10" if few else "turbo"](np.arange(len(self.names)) / (10 if few else len(self.names)))


@dataclass(frozen=True)
class _Points:
    """Points to draw: samples (N, D), (M, D) of the data or None, and the classes of the samples or None."""

    x: np.ndarray
    y: np.ndarray | None
    classes: Classes | None

    def dots(self, columns: Sequence[int], most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Two columns of samples and data, and the colour of each point, in a fixed random order."""
        x, colours = self.x[:most, columns], np.tile(to_rgba(BLUE), (len(self.x[:most]), 1))
        if self.classes is not None:
            colours = self.classes.colours[self.classes.index[:most].cpu().numpy()]
        if self.y is not None:
            y = self.y[:most, columns]
            x, colours = np.concatenate([x, y]), np.concatenate([colours, np.tile(to_rgba(BEHIND), (len(y), 1))])
        order = np.random.default_rng(0).permutation(len(x))
        return x[order], colours[order]

    def histograms(self, column: int) -> list[Histogram]:
        """Of the data as a grey area, of the samples, or of each class of them, as a line."""
        drawn: list[Histogram] = []
        if self.y is not None:
            drawn.append((self.y[:, column], 1.0, {"histtype": "stepfilled", "color": AREA}))
        if self.classes is None:
            return [*drawn, (self.x[:, column], 1.0, {"histtype": "step", "color": BLUE})]
        index = self.classes.index.cpu().numpy()
        parts = [self.x[index == k, column] for k in range(len(self.classes.names))]
        for part, colour in zip(parts, self.classes.colours, strict=True):
            drawn.append((part, len(part) / len(self.x), {"histtype": "step", "color": colour}))
        return drawn


def scatter(
    samples: Tensor,
    *,
    behind: Tensor | None = None,
    scale: int = 4,
    names: Sequence[str] = (),
    classes: Classes | None = None,
) -> Image.Image:
    """Points (N, D) as an image; for more than two columns, all pairs of the first five, and a histogram of each.

    Args:
        samples: the points.
        behind: (M, D) of the data, in grey; they set the limits. Both are drawn in one random order, so that neither
            hides the other.
        scale: the image is 120 `scale` pixels wide for one or two columns, up to 167 `scale` for more.
        names: names of the columns.
        classes: classes of the samples, each in a colour.

    Raises:
        ValueError: for a point that is not finite, since it would not be drawn.
    """
    refuse_nonfinite(samples)
    width = min(samples.shape[1], COLUMNS)
    x, y = (None if v is None else v.detach().cpu().double().numpy()[:, :width] for v in (samples, behind))
    assert x is not None
    points = _Points(x, y, classes)
    named = [literal(name) for name in names[:width]] or [f"column {k + 1}" for k in range(width)]
    limits = [_limits(column) for column in (x if y is None else y).T]
    if width == 1:
        return _single(points, limits[0], named[0] * bool(names), scale)
    if width == 2:
        return _plane(points, limits, named if names else ["", ""], scale)
    return _pairs(points, limits, named, scale, of=samples.shape[1])


def _limits(column: np.ndarray) -> tuple[float, float]:
    low, high = float(column.min()), float(column.max())
    edge = MARGIN * (high - low) or 1.0
    return low - edge, high + edge


def _single(points: _Points, limits: tuple[float, float], name: str, scale: int) -> Image.Image:
    figure = blank(4, 2.4, 30 * scale)
    axes = figure.subplots()
    _histogram(axes, points.histograms(0), limits)
    framed(axes)
    axes.set_yticks([])
    _legend(axes, points.classes)
    axes.set_xlabel(name, fontsize=8, color=GREY)
    return png(figure)


def _plane(points: _Points, limits: Sequence[tuple[float, float]], names: Sequence[str], scale: int) -> Image.Image:
    figure = blank(4, 3, 30 * scale)
    axes = figure.subplots()
    _dots(axes, *points.dots([0, 1]), limits, 3.5)
    _legend(axes, points.classes)
    ranges = [high - low for low, high in limits]
    if max(ranges) <= SQUARE * min(ranges):
        axes.set_aspect("equal")
    framed(axes)
    axes.set_xlabel(names[0], fontsize=8, color=GREY)
    axes.set_ylabel(names[1], fontsize=8, color=GREY)
    return png(figure)


def _pairs(
    points: _Points, limits: Sequence[tuple[float, float]], names: Sequence[str], scale: int, of: int
) -> Image.Image:
    """Histograms on the diagonal, pairs below it, row against column; of so many columns in total."""
    n = len(names)
    figure = blank(1.15 * n, 1.15 * n, 29 * scale)
    figure.set_layout_engine("none")  # one constrained layout of many axes takes seconds
    grid = figure.add_gridspec(n, n, left=0.62 / n, bottom=0.4 / n, right=0.99, top=0.99, wspace=0.08, hspace=0.08)
    for column, row in combinations_with_replacement(range(n), 2):
        axes = figure.add_subplot(grid[row, column])
        if column == row:
            _histogram(axes, points.histograms(row), limits[row])
            axes.set_yticks([])
        else:
            pair = [column, row]
            _dots(axes, *points.dots(pair, SHOWN), [limits[k] for k in pair], 1.5)
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
    if of > n:
        figure.text(0.42, 0.98, f"the first {n} of {of} columns", fontsize=8, color=GREY, va="top")
    _legend(figure, points.classes, loc="upper right")
    return png(figure)


def _dots(axes: Any, x: np.ndarray, colours: np.ndarray, limits: Sequence[tuple[float, float]], size: float) -> None:
    axes.scatter(*x.T, s=size, c=colours, alpha=0.75, linewidths=0)
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])


def _histogram(axes: Any, drawn: Sequence[Histogram], limits: tuple[float, float]) -> None:
    """Histograms of shares; values outside the limits are not drawn."""
    edges = np.linspace(*limits, BINS + 1)
    for values, share, style in drawn:
        axes.hist(values, bins=edges, weights=np.full(len(values), share / max(1, len(values))), **style)
    axes.set_xlim(*limits)


def _legend(place: Any, classes: Classes | None, **where: Any) -> None:
    if classes is not None and len(classes.names) <= FEW:
        marks = [Line2D([], [], marker="o", linestyle="", markersize=3, color=c) for c in classes.colours]
        named = [literal(name) for name in classes.names]
        place.legend(marks, named, fontsize=6, framealpha=0.7, handletextpad=0.1, **where)
