"""Latent traversals: how samples change as one coordinate of the code varies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from jensen.core.protocols import Coding
from jensen.core.shapes import check_count, checked

SPAN = 2.5  # standard deviations in both directions


@checked
def traversal(
    model: Coding, x: Float[Tensor, "b ..."], *, rows: int = 8, steps: int = 11
) -> tuple[Float[Tensor, "rows steps ..."], list[str]]:
    """Samples as one coordinate of the code varies and all others are fixed, one row per coordinate.

    For continuous codes: the coordinates that vary most over `x`, by 2.5 standard deviations around their mean,
    starting at the code of the first example. For one-hot codes: all classes of the first groups.

    Args:
        model: model that encodes and decodes.
        x: (B, ...), from which the range of the coordinates is taken.
        rows: maximum number of coordinates.
        steps: number of values of each coordinate.

    Returns:
        (rows, steps, *event), and the names of the coordinates, counted from 1.

    >>> from types import SimpleNamespace
    >>> identity = SimpleNamespace(codes=lambda x: x, from_codes=lambda z: z, reconstruct=lambda x: x)
    >>> made, names = traversal(identity, torch.tensor([[0.0, 0.0], [1.0, 9.0]]), rows=1, steps=5)
    >>> made.shape, names
    (torch.Size([1, 5, 2]), ['coordinate 2'])
    """
    check_count(examples=len(x), rows=rows, steps=steps)
    codes = model.codes(x)
    start = codes[0]
    if start.ndim == 2:
        groups, classes = min(len(start), rows), start.shape[1]
        moved = one_hot(start.argmax(1), classes).repeat(groups, steps, 1, 1).to(start)
        for g in range(groups):
            moved[g, :, g] = one_hot(torch.arange(steps, device=start.device) % classes, classes).to(start)
        names = [f"group {g + 1}" for g in range(groups)]
    else:
        centre, spread = codes.mean(0), codes.std(0)
        order = spread.argsort(descending=True)[:rows].tolist()
        moved = start.repeat(len(order), steps, 1)
        for row, d in enumerate(order):
            moved[row, :, d] = centre[d] + spread[d] * torch.linspace(-SPAN, SPAN, steps, device=start.device)
        names = [f"coordinate {d + 1}" for d in order]
    return model.from_codes(moved.flatten(0, 1)).unflatten(0, moved.shape[:2]), names
