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
ROWS = 1024  # thumbnails made and compared at a time


def held_out(names: Sequence[str], share: float) -> Tensor:
    """Which names are held out, (N,) bool: those whose SHA-256, as a fraction of 1, is below `share`.

    Each name is decided alone, so that names that are added change nothing for the others.

    Raises:
        ValueError: for a share outside [0, 1].

    >>> held_out(["a.png", "b.png", "c.png", "d.png"], 0.5).tolist()
    [True, True, True, False]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    hashes = (hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names)
    return torch.tensor([int.from_bytes(h, "big") < share * 2**64 for h in hashes], dtype=torch.bool)


def near_duplicates(x: np.ndarray, test: Tensor, *, tolerance: float = TOLERANCE) -> list[tuple[int, int]]:
    r"""Pairs of a training row and a held-out row that show nearly the same picture: copies, also resized, recompressed
    or slightly brightened ones; at most one pair for each held-out row, with its nearest training row.

    Pictures are averaged to thumbnails $t$ of 16 x 16 pixels. A pair is near if
    $\lVert t - t' \rVert \le \max(\epsilon \lVert t' - \bar t' \rVert, \sqrt{D})$, for a tolerance $\epsilon$: a tenth
    of the held-out picture's contrast, or one level of 256 in flat pictures.

    Args:
        x: (N, C, H, W) uint8, such as the x of a pack; it is read in slices.
        test: which rows are held out, (N,) bool.
        tolerance: epsilon.

    Raises:
        ValueError: if `test` has another number of rows.

    >>> x = np.random.default_rng(0).integers(0, 255, (3, 1, 16, 16), np.uint8)
    >>> near_duplicates(np.concatenate([x, x[1:2] + 1]), torch.tensor([False, False, False, True]))
    [(1, 3)]
    """
    if test.shape != (len(x),):
        raise ValueError(f"test must say of each of {len(x)} pictures whether it is held out, got {tuple(test.shape)}")
    small = torch.cat([_thumbnails(x[k : k + ROWS]) for k in range(0, len(x), ROWS)])
    train, held = (~test).nonzero()[:, 0], test.nonzero()[:, 0]
    if not len(train) or not len(held):
        return []
    contrast = (small - small.mean(1, keepdim=True)).norm(dim=1)
    allowed = (tolerance * contrast).clamp(min=small.shape[1] ** 0.5)
    pairs = []
    for rows in held.split(ROWS):
        near = [torch.cdist(small[rows], small[part]).min(1) for part in train.split(8 * ROWS)]
        distance, place = torch.stack([n.values for n in near]).min(0)
        index = torch.stack([n.indices for n in near])[place, torch.arange(len(rows))] + 8 * ROWS * place
        close = distance <= allowed[rows]
        pairs += list(zip(train[index[close]].tolist(), rows[close].tolist(), strict=True))
    return pairs


def _thumbnails(x: np.ndarray) -> Tensor:
    """(N, D), from pictures (N, C, H, W)."""
    pictures = torch.from_numpy(np.array(x)).float()
    return F.adaptive_avg_pool2d(pictures, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))).flatten(1)
