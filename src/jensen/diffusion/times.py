"""Training times, drawn with low discrepancy from torch's global generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count
from jensen.diffusion.schedule import Schedule

Times = Callable[[int], Float[Tensor, " b"]]

HALF_A_DRAW = 2.0**-25  # torch draws multiples of 2^-24 in [0, 1): shifted by half a step they are inside (0, 1)


def rounded_down(t: Float[Tensor, "*b"], dtype: torch.dtype) -> Float[Tensor, "*b"]:
    """The largest numbers of this dtype that are at most t: times below 1 stay below 1.

    >>> late = torch.tensor(1 - 1e-9, dtype=torch.float64)
    >>> bool(late.float() == 1), bool(rounded_down(late, torch.float32) < 1)
    (True, True)
    """
    near = t.to(dtype)
    return torch.where(near > t, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)


def uniform_times(n: int) -> Float[Tensor, " n"]:
    """One uniform draw in each of n equal strata of [0, 1], in a random order; never 0 or 1 itself.

    The variance of their mean is 1 / (12 n^3), compared with 1 / (12 n) for independent draws.

    Source: Kingma et al. (2021), appendix I.1, in its stratified form.

    >>> t = uniform_times(8)
    >>> sorted((8 * t).int().tolist()), bool(((t > 0) & (t < 1)).all())
    ([0, 1, 2, 3, 4, 5, 6, 7], True)
    """
    check_count(n=n)
    return rounded_down(_stratified(n), _dtype())


def _dtype() -> torch.dtype:
    """The default dtype, at least float32: half precision cannot represent most of a thousand levels."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def _stratified(n: int) -> Tensor:
    """`uniform_times` in double precision."""
    return (torch.randperm(n) + (torch.rand(n, dtype=torch.float32).double() + HALF_A_DRAW)) / n


def discrete_times(steps: int) -> Times:
    r"""The times of DDPM's T levels, $i / T$ with i uniform on $\{1, \ldots, T\}$, stratified.

    Args:
        steps: number of steps T, at least 1.
    """
    check_count(steps=steps)

    def times(n: int) -> Tensor:
        return ((1 + (_stratified(n) * steps).floor()) / steps).to(_dtype())

    return times


def logit_normal_times(mean: float = 0.0, std: float = 1.0, edge: float = 1e-4) -> Times:
    r"""Times whose logit is $N(\mu, s^2)$, stratified: most of them at intermediate noise levels.

    Args:
        mean, std: mean and standard deviation of the logit; a positive mean favours higher noise.
        edge: both tails are cut off at this quantile and at this time, so that times stay inside (0, 1).

    Raises:
        ValueError: for a std that is not positive, or an edge outside [1e-7, 1/2).

    Source: Esser et al. (2024), equation 19.
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    if not 1e-7 <= edge < 0.5:
        raise ValueError(f"edge must be in [1e-7, 0.5), got {edge}")

    def times(n: int) -> Tensor:
        quantile = uniform_times(n).clamp(edge, 1 - edge)
        return torch.sigmoid(mean + std * torch.special.ndtri(quantile)).clamp(edge, 1 - edge)

    return times


def log_normal_times(schedule: Schedule, mean: float = -1.2, std: float = 1.2, data_std: float = 0.5) -> Times:
    r"""Times whose noise level is log-normal, $\log(s\, \sigma_t / \alpha_t) \sim N(\mu, \tau^2)$, stratified.

    Args:
        schedule: noise schedule of standardised data; levels beyond its ends are moved to them.
        mean, std: mean and standard deviation of the logarithm, on the scale of the data.
        data_std: s, the standard deviation of the data.

    Raises:
        ValueError: for a standard deviation that is not positive.

    Source: Karras et al. (2022), table 1.
    """
    if not (std > 0 and data_std > 0):
        raise ValueError(f"std and data_std must be positive, got {std} and {data_std}")

    def times(n: int) -> Tensor:
        level = mean - math.log(data_std) + std * torch.special.ndtri(_stratified(n))
        return rounded_down(schedule.time(-2 * level), _dtype())

    return times
