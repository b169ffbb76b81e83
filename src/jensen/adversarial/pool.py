"""A pool of generated pictures: the critic also sees what the generator made earlier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_count


class ImagePool(nn.Module):
    """A buffer of `size` earlier generated pictures, some of which replace new ones in the critic's input.

    `forward` only draws; `push`, called in `Objective.after` of the generator, stores: an objective's forward changes
    no state. The pictures and their number are buffers, and draws come from torch's global generator, so a resumed run
    continues exactly.

    Args:
        size: number of pictures held, at least 0; 0 returns every picture unchanged.
        event_shape: shape of one picture.

    Raises:
        ValueError: for a negative size; when called, for pictures of another shape.

    Source: Shrivastava et al. (2017), section 2.3; Zhu et al. (2017), section 4, with 50 pictures.

    >>> pool = ImagePool(50, (1, 2, 2))
    >>> pool.push(torch.zeros(4, 1, 2, 2))
    >>> int(pool.count), pool(torch.ones(3, 1, 2, 2)).shape
    (4, torch.Size([3, 1, 2, 2]))
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, event_shape: Sequence[int]):
        super().__init__()
        if size < 0:
            raise ValueError(f"size must be at least 0, got {size}")
        if size:
            check_count(size=size)
        self.size = size
        self.register_buffer("images", torch.zeros(size, *event_shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, fresh: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Replace each picture with probability 1/2 by a random picture of the pool; none while the pool is empty."""
        self._check(fresh)
        held = int(self.count)
        if not held:
            return fresh
        old = torch.rand(len(fresh), device=fresh.device) < 0.5
        place = torch.randint(held, (len(fresh),), device=fresh.device)
        return torch.where(old.reshape(-1, *[1] * (fresh.ndim - 1)), self.images[place].to(fresh), fresh)

    @torch.no_grad()
    def push(self, fresh: Float[Tensor, "..."]) -> None:
        """Store all pictures until the pool is full, then each with probability 1/2 at a random place.

        No two pictures of one call are stored at the same place.
        """
        self._check(fresh)
        held = int(self.count)
        first, rest = fresh[: self.size - held], fresh[self.size - held :]
        self.images[held : held + len(first)] = first.detach().to(self.images)
        self.count += len(first)
        if not len(rest) or not self.size:
            return
        kept = rest[torch.rand(len(rest), device=rest.device) < 0.5][: self.size]
        place = torch.randperm(self.size, device=self.images.device)[: len(kept)]
        self.images[place] = kept.detach().to(self.images)

    def _check(self, fresh: Tensor) -> None:
        if fresh.shape[1:] != self.images.shape[1:]:
            raise ValueError(f"pictures must be of shape {tuple(self.images.shape[1:])}, got {tuple(fresh.shape[1:])}")
