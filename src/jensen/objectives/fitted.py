"""Models that are fitted in another way than by gradient steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, Phase


class Fitted(Objective):
    """An objective without players: training leaves the model as it is.

    >>> Fitted(nn.Linear(2, 1)).players()
    {}
    """

    phases: tuple[Phase, ...] = ()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def players(self) -> Mapping[str, list[nn.Parameter]]:
        return {}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        return {}
