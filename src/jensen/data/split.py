"""Held-out pictures, by a hash of their names, and near duplicates between them and the training pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 16  # of the thumbnails that are compared
TOLERANCE = 0.1  # difference of near duplicates, as a share of their contrast
ROWS = 512  # thumbnails made and compared at a time
MOST_TRAIN, MOST_TEST = 50_000, 2_000  # rows that are compared


def held_out(names: Sequence[str], share: float) -> Tensor:
    """Which names are held out, (N,) bool: those whose SHA-256, as a fraction of 1, is below `share`.

    The choice for a name does not depend on the other names.

    Raises:
        ValueError: for a share outside [0, 1].

    >>> held_out(["a.png", "b.png", "c.png", "d.png"], 0.5).tolist()
    [True, True, True, False]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    hashes = (hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names)
    return torch.tensor([int.from_bytes(h, "big") < share * 2**64 for h in hashes], dtype=torch.bool)


def held_out_rows(n: int, share: float) -> Tensor:
    """Which of the n rows of a file are held out, (n,) bool, by the hashes of their numbers.

    Rows that are appended change nothing.

    >>> held_out_rows(6, 0.5).tolist() == held_out_rows(9, 0.5)[:6].tolist()
    True
    """
    return held_out([str(k) for k in range(n)], share)


def equal_rows(x: np.ndarray) -> list[tuple[int, ...]]:
    """Numbers of the rows (N, ...) that are exactly equal, in groups.

    >>> equal_rows(np.array([[1, 2], [3, 4], [1, 2]]))
    [(0, 2)]
    """
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(x):
        groups.setdefault(hashlib.sha256(row.tobytes()).digest(), []).append(k)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def near_duplicates(x: np.ndarray, test: Tensor, *, tolerance: float = TOLERANCE) -> list[tuple[int, int]]:
    r"""Pairs of a training row and a held-out row that show nearly the same picture. They may be resized, recompressed
    or slightly brightened copies; each held-out row is paired at most once, with its nearest training row.

    Pictures are averaged to thumbnails $t$ of 16 x 16 pixels. A pair is near if
    $\lVert t - t' \rVert \le \max(\epsilon \lVert t' - \bar t' \rVert, \sqrt{D})$, for a tolerance $\epsilon$: a tenth
    of the held-out picture's contrast, or one level of 256 in flat pictures.

    Args:
        x: (N, C, H, W) uint8, such as the x of a pack; it is read in parts.
        test: which rows are held out, (N,) bool.
        tolerance: epsilon.

    Raises:
        ValueError: if `test` has another number of rows.

    >>> x = np.random.default_rng(0).integers(0, 255, (3, 1, 16, 16), np.uint8)
    >>> near_duplicates(np.concatenate([x, x[1:2] + 1]), torch.tensor([False, False, False, True]))
    [(1, 3)]
    """
    if test.shape != (len(x),):
        raise ValueError(f"test must have one value for each of {len(x)} pictures, got {tuple(test.shape)}")
    train, held = _spaced((~test).nonzero()[:, 0], MOST_TRAIN), _spaced(test.nonzero()[:, 0], MOST_TEST)
    if not len(train) or not len(held):
        return []
    known, small = _thumbnails(x, train), _thumbnails(x, held)
    contrast = (small - small.mean(1, keepdim=True)).norm(dim=1)
    allowed = (tolerance * contrast).clamp(min=small.shape[1] ** 0.5)
    nearest = [torch.cdist(part, known).min(1) for part in small.split(ROWS)]
    distance, place = torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])
    close = distance <= allowed
    return list(zip(train[place[close]].tolist(), held[close].tolist(), strict=True))


def _spaced(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spaced."""
    return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]


def _thumbnails(x: np.ndarray, rows: Tensor) -> Tensor:
    """(n, D), of n rows of pictures (N, C, H, W)."""
    side = min(SIDE, x.shape[2]), min(SIDE, x.shape[3])
    parts = (torch.from_numpy(np.asarray(x[part.numpy()])).float() for part in rows.split(ROWS))
    return torch.cat([F.adaptive_avg_pool2d(part, side).flatten(1) for part in parts])
