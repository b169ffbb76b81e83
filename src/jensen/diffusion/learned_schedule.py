"""A learned schedule: its end points minimise the bound, its interior the variance of the loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_count
from jensen.diffusion.schedule import Schedule


class LearnedSchedule(Schedule):
    r"""A monotone network between two end points: $\lambda(t) = \lambda_{max} - (\lambda_{max}-\lambda_{min})\, r(t)$.

    $r(t) = \frac{g(t) - g(0)}{g(1) - g(0)}$ with $g(t) = t + \sum_j e^{w_j} S(e^{a_j} (t - c_j))$, S the logistic
    function: one hidden layer with positive weights, so that r increases from 0 to 1 for any parameters. It is nearly
    linear at initialisation. In continuous time r affects only the variance of the bound's estimate
    (`jensen.objectives.VariationalDiffusion` trains r to reduce it); the end points affect its other terms.

    The network's time input is not t but the log-SNR, rescaled by the initial end points: what it has learned about a
    noise level then stays valid while the schedule changes.

    Args:
        highest, lowest: log-SNR at t = 0 and at t = 1.
        hidden: number of hidden units, at least 1.
        learn_ends: whether the end points are trained too.

    Raises:
        ValueError: unless lowest < highest, or for hidden < 1.

    Source: Kingma et al., VDM (2021), appendix H for the network, I.2 for what trains it.

    >>> LearnedSchedule(6.0, -6.0).log_snr(torch.tensor([0.0, 1.0])).tolist()
    [6.0, -6.0]
    """

    reference: Tensor

    def __init__(
        self, highest: float = 13.3, lowest: float = -5.0, *, hidden: int = 32, learn_ends: bool = False
    ) -> None:
        super().__init__()
        if not lowest < highest:
            raise ValueError(f"log-SNR must fall with t: lowest must be below highest, got {lowest} and {highest}")
        check_count(hidden=hidden)
        self.weight = nn.Parameter(torch.full((hidden,), -math.log(20.0 * hidden)))
        self.steepness = nn.Parameter(torch.full((hidden,), math.log(4.0 + hidden)))
        self.centre = nn.Parameter((torch.arange(hidden) + 0.5) / hidden)
        self.lowest = nn.Parameter(torch.tensor(float(lowest)), requires_grad=learn_ends)
        self.stretch = nn.Parameter(torch.zeros(()), requires_grad=learn_ends)  # the range, as a logarithm
        self.register_buffer("reference", torch.tensor([highest, lowest], dtype=torch.float32))

    def ends(self) -> list[nn.Parameter]:
        """The parameters of the end points."""
        return [self.lowest, self.stretch]

    def interior(self) -> list[nn.Parameter]:
        """The parameters of everything between the end points."""
        return [self.weight, self.steepness, self.centre]

    def _rise(self, t: Tensor) -> Tensor:
        """$g(t)$, in the dtype of t."""
        weight, steepness, centre = (p.to(t) for p in self.interior())
        units = torch.sigmoid(steepness.exp() * (t[..., None] - centre))
        return t + (weight.exp() * units).sum(-1)

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        first, last = self._rise(torch.tensor([0.0, 1.0]).to(t))
        left = (last - self._rise(t)) / (last - first)  # 1 - r(t): 1 at t = 0, 0 at t = 1
        highest, lowest = self.reference.to(t)
        log_snr: Tensor = self.lowest.to(t) + (highest - lowest) * self.stretch.to(t).exp() * left
        return log_snr

    def clock(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        highest, lowest = self.reference.to(t)
        share: Tensor = (highest - self.log_snr(t)) / (highest - lowest)
        return share
