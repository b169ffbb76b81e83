"""Train the bandwidth of a kernel density."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, entry
from jensen.models.kernel import KernelDensityModel
from jensen.score import leave_one_out_log_prob


class LeaveOneOut(Objective):
    r"""$-E_i \log \frac1{M-1} \sum_{j \ne i} N(x_i; x_j, h^2 \mathrm{diag}(s^2))$, nats, minimised over log h.

    The model's own points are its training set: a batch only determines how many points i are drawn at random. The
    density of each point i is computed from all other points.

    Args:
        model: kernel density of at least 2 points.

    Source: Duin (1976), equation 6.

    >>> model = KernelDensityModel(torch.tensor([[0.0], [1.0]]), 1.0)
    >>> round(float(LeaveOneOut(model)(("model",), {"x": torch.zeros(4, 1)}, 0)["model"].total.detach()), 4)
    1.4189
    """

    model: KernelDensityModel

    def __init__(self, model: KernelDensityModel):
        super().__init__()
        self.model = model

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        points = self.model.units
        rows = torch.randint(len(points), (len(entry(batch, "x")),), device=points.device)
        log_p = leave_one_out_log_prob(points, self.model.log_bandwidth.exp(), rows)
        return {"model": Loss.of(self.model.log_volume.to(log_p) - log_p.mean())}
