"""Models that are not fitted by gradient steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, Phase


class Fitted(Objective):
    """An objective without players: training does not change the model.

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
