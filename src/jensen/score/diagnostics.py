"""Convergence diagnostics of Markov chains: R-hat and effective sample sizes. Draws are (steps, chains, ...)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor

Draws = Num[Tensor, "..."]  # (steps, chains, ...)


def r_hat(draws: Draws) -> Float[Tensor, "..."]:
    r"""Rank-normalised split R-hat: the larger of R-hat of the draws and R-hat of their distances to the median.

    Every chain is split into halves, and draws are replaced by the normal quantiles of their ranks; then $\hat R^2 =
    \frac{n-1}{n} + \frac{B}{nW}$ with B/n the variance of the chains' means and W the mean of their variances. R-hat is
    1 if the chains agree in location (the first) and in spread (the second); above 1.01 they have not mixed.

    Args:
        draws: (steps, chains, ...), at least 4 steps.

    Returns:
        (...), one for each coordinate: float64 for integer draws, otherwise the dtype of the draws, but at least
        float32. Infinite if every half-chain is constant but they differ, nan if all draws are equal.

    Raises:
        ValueError: for fewer than 4 steps, or draws that are not finite.

    Source: Vehtari et al. (2021), equations 4 and 14 and section 4.1.

    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(r_hat(x) < 1.01 < 1.05 < r_hat(x + torch.tensor([0.0, 0.0, 0.0, 1.0])))
    True
    """
    x = _halves(draws)
    folded = (x - _median(x)).abs()
    # where one is nan, as for distances to the median that are all equal, the other is taken
    return _as(draws, torch.fmax(_plain_r_hat(_normal_ranks(x)), _plain_r_hat(_normal_ranks(folded))))


def effective_sample_size(draws: Draws, kind: str = "bulk") -> Float[Tensor, "..."]:
    r"""The number of independent draws whose mean would be equally precise: $SC / (1 + 2 \sum_t \hat\rho_t)$, S steps,
    C chains.

    Autocorrelations are pooled over half-chains and include the variance between them; the sum runs over neighbouring
    pairs as long as these are positive, made monotone (Geyer's initial monotone sequence). For an AR(1) chain with
    coefficient rho it is $N (1 - \rho) / (1 + \rho)$, above N for negative rho; at most $N \log_{10} N$.

    Args:
        draws: (steps, chains, ...), at least 4 steps.
        kind: "bulk", for the rank-normalised draws; "tail", the smaller value for the 5% and 95% quantiles; "mean", for
            the draws themselves, to get the error of their mean.

    Returns:
        (...), one for each coordinate.

    Raises:
        ValueError: for fewer than 4 steps, draws that are not finite, or an unknown kind.

    Source: Vehtari et al. (2021), equations 10 to 13 and sections 4.1 and 4.3; Geyer (1992), section 3.3.

    >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> bool((effective_sample_size(x) - 4000).abs() < 400)
    True
    """
    x = _halves(draws)
    match kind:
        case "bulk":
            size = _plain_size(_normal_ranks(x))
        case "tail":
            low, high = (_plain_size((x <= _quantile(draws.double(), q)).double()) for q in (0.05, 0.95))
            size = torch.minimum(low, high)
        case "mean":
            size = _plain_size(x)
        case _:
            raise ValueError(f"kind must be bulk, tail or mean, got {kind!r}")
    return _as(draws, size)


def mean_error(draws: Draws) -> Float[Tensor, "..."]:
    r"""Standard error of the mean over steps and chains, $\mathrm{sd} / \sqrt{\mathrm{ESS}}$, (...).

    Args:
        draws: (steps, chains, ...), at least 4 steps.

    Source: Vehtari et al. (2021), equation 15.
    """
    size = effective_sample_size(draws.double(), "mean")
    return _as(draws, draws.double().flatten(0, 1).std(0) / size.sqrt())


def _halves(draws: Tensor) -> Tensor:
    """Each chain split into two, (S // 2, 2C, ...), float64; the middle draw of an odd number is left out."""
    if draws.ndim < 2 or len(draws) < 4 or not draws.numel() or draws.is_complex():
        raise ValueError(
            f"draws must be (steps, chains, ...), real, with at least 4 steps, got {draws.dtype} {tuple(draws.shape)}"
        )
    if not bool(torch.isfinite(draws).all()):
        raise ValueError("draws must be finite")
    half = len(draws) // 2
    return torch.cat([draws[:half], draws[-half:]], 1).double()


def _as(draws: Tensor, found: Tensor) -> Tensor:
    """Convert to the dtype of the draws, at least float32; to float64 for integers."""
    return found.to(torch.promote_types(draws.dtype, torch.float32)) if draws.is_floating_point() else found


def _each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of all draws, (N, coordinates), to draws (S, C, ...)."""
    return function(x.reshape(x.shape[0] * x.shape[1], -1))


def _median(x: Tensor) -> Tensor:
    return _quantile(x, 0.5)


def _quantile(x: Tensor, q: float) -> Tensor:
    """The quantile over all steps and chains, (...), linear between order statistics."""
    ordered = _each(lambda flat: flat.sort(0).values, x)
    place = q * (len(ordered) - 1)
    below = min(math.floor(place), len(ordered) - 2)
    share = place - below
    return ((1 - share) * ordered[below] + share * ordered[below + 1]).view(x.shape[2:])


def _normal_ranks(x: Tensor) -> Tensor:
    """Normal quantiles of the ranks among all draws; equal draws get the mean of their ranks."""

    def ranks(flat: Tensor) -> Tensor:
        columns = flat.T.contiguous()
        ordered = columns.sort(1).values
        below, upto = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
        return ((below + upto + 1) / 2).T.to(flat)

    places = (_each(ranks, x) - 0.375) / (x.shape[0] * x.shape[1] + 0.25)
    ranked: Tensor = torch.special.ndtri(places).reshape(x.shape)
    return ranked


def _plain_r_hat(x: Tensor) -> Tensor:
    n, low, high = len(x), x.amin(0), x.amax(0)
    within = torch.where(high > low, x.var(0), 0.0).mean(0)  # exactly 0 for equal draws, without rounding errors
    between = torch.where(high.amax(0) > low.amin(0), x.mean(0).var(0), 0.0)
    return torch.sqrt((n - 1) / n + between / within)


def _plain_size(x: Tensor) -> Tensor:
    n, total = len(x), x.shape[0] * x.shape[1]
    covariance = _autocovariance(x).mean(1)  # over chains, (n, ...)
    within = covariance[0] * n / (n - 1)
    pooled = covariance[0] + x.mean(0).var(0)
    rho = 1 - (within - covariance) / pooled
    rho[0] = 1
    count = max(1, (n - 1) // 2)
    pairs = rho[: 2 * count].unflatten(0, (count, 2))  # (rho_0, rho_1), (rho_2, rho_3), ...
    sums = pairs.sum(1)
    positive = (sums >= 0).long().cumprod(0)  # up to the first pair of negative sum
    stop = positive.sum(0, keepdim=True)
    # the first of the pair that ends the sum still counts if it is positive
    last = torch.where(stop < count, pairs[:, 0].gather(0, stop.clamp(max=count - 1)), 0.0).clamp(min=0)[0]
    tau = -1 + 2 * (positive * sums.cummin(0).values).sum(0) + last
    tau = tau.clamp(min=1 / math.log10(total))
    return torch.where(x.amax((0, 1)) > x.amin((0, 1)), total / tau, float(total))


def _autocovariance(x: Tensor) -> Tensor:
    """Autocovariances along the first axis, about the mean of each chain, divided by its length."""
    n = len(x)
    spectrum = torch.fft.rfft(x - x.mean(0), n=2 * n, dim=0)
    covariance: Tensor = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n] / n
    return covariance
