"""Train a reader, a network that recognises the characters of a picture, or the class of an example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, entry


class Reading(Objective):
    """Cross-entropy per character or class, in nats, on examples with noise and, if they are pictures, random shifts.

    Args:
        model: (B, ...) -> (B, length, alphabet) logits.
        noise: largest standard deviation of the noise, uniform over rows.
        shift: largest shift in pixels, drawn once per batch.

    Raises:
        ValueError: for a noise or a shift below 0; when called, unless x and cond have equally many rows.
    """

    def __init__(self, model: nn.Module, *, noise: float = 0.15, shift: int = 2):
        super().__init__()
        if not noise >= 0 or not shift >= 0:
            raise ValueError(f"noise and shift must be at least 0, got {noise} and {shift}")
        self.model, self.noise, self.shift = model, noise, shift

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x, text = entry(batch, "x"), entry(batch, "cond")
        if len(x) != len(text):
            raise ValueError(f"x and cond must have equally many rows, got {len(x)} and {len(text)}")
        if self.noise:
            x = x + torch.randn_like(x) * self.noise * torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)
        if self.shift:
            down, right = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
            x = torch.roll(x, (down, right), (2, 3))
        logits = self.model(x).float()
        text = text[:, : logits.shape[1]]  # styles are not read
        loss = F.cross_entropy(logits.flatten(0, 1), text.flatten())
        right_share = (logits.argmax(-1) == text).all(1).float()
        return {"model": Loss.of(loss, exact=right_share)}
