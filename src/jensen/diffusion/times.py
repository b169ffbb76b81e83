"""Times to train at, drawn with low discrepancy from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Times = Callable[[int], Float[Tensor, " b"]]


def uniform_times(n: int) -> Float[Tensor, " n"]:
    """One uniform draw in each of n equal strata of [0, 1], in a random order.

    Their mean has a variance of 1 / (12 n^3), where n independent draws have 1 / (12 n).

    Source: Kingma et al. (2021), appendix I.1, in its stratified form.
    """
    return (torch.randperm(n) + torch.rand(n)) / n


def discrete_times(steps: int) -> Times:
    r"""The times of DDPM's T levels, $i / T$ with $i \in \{1, \ldots, T\}$ evenly likely, stratified.

    Args:
        steps: T, at least 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    def times(n: int) -> Tensor:
        return (1 + (uniform_times(n) * steps).floor().clamp(max=steps - 1)) / steps

    return times


def logit_normal_times(mean: float = 0.0, std: float = 1.0, edge: float = 1e-4) -> Times:
    r"""Times whose logit is $N(\mu, s^2)$, stratified: most weight where neither data nor noise is clear.

    Args:
        mean, std: of the logit; a positive mean leans towards noise.
        edge: both tails are cut at this quantile and at this time, so that times stay inside (0, 1).

    Source: Esser et al. (2024), equation 19.
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")

    def times(n: int) -> Tensor:
        quantile = uniform_times(n).clamp(edge, 1 - edge)
        return torch.sigmoid(mean + std * torch.special.ndtri(quantile)).clamp(edge, 1 - edge)

    return times
