"""Stacked digits: three digits as the three channels of a picture: a thousand modes with known probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from jensen.core.seeding import checked_seed, numbered
from jensen.core.types import Batch, Draws
from jensen.data.mixtures import geometric_weights

DIGITS, CHANNELS = 10, 3
MODES = DIGITS**CHANNELS


def digit_shares(balance: float = 1.0) -> Tensor:
    r"""Shares of the ten digits, $s_k \propto \beta^{k/9}$: (10,) float64; the share of 9 is beta times that of 0.

    Args:
        balance: beta, above 0 and at most 1; at 1 all shares are equal.

    Raises:
        ValueError: for a balance outside (0, 1].

    >>> float(digit_shares(0.125)[9] / digit_shares(0.125)[0])
    0.125
    """
    shares = geometric_weights(DIGITS, balance).double()
    return shares / shares.sum()


def mode_shares(balance: float = 1.0) -> Tensor:
    r"""Shares of the thousand modes, $w_{100a + 10b + c} = s_a s_b s_c$: (1000,) float64.

    >>> bool(torch.isclose(mode_shares(0.125)[123], digit_shares(0.125)[1:4].prod()))
    True
    """
    s = digit_shares(balance)
    return torch.einsum("a,b,c->abc", s, s, s).flatten()


def expected_modes(n: int, shares: Tensor) -> float:
    r"""$\sum_k 1 - (1 - w_k)^n$: expected number of modes among n draws of the data.

    Args:
        n: at least 1.
        shares: share w of each mode, (K,), with sum 1.

    Raises:
        ValueError: for n below 1.

    >>> expected_modes(2, torch.tensor([0.5, 0.5]))
    1.5
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return float((1 - (1 - shares.double()) ** n).sum())


def stacked(
    pictures: Tensor, labels: Tensor, n: int, *, balance: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw n pictures; each channel is a random picture of a digit that is drawn by `digit_shares`.

    Args:
        pictures: (N, 1, H, W), of all ten digits.
        labels: (N,), 0 to 9.
        n: at least 1.
        balance: share of the rarest digit divided by that of the most frequent one; 1 if all are equal.
        generator: random generator of all draws.

    Returns:
        pictures (n, 3, H, W) and their modes (n,), 100 a + 10 b + c for digits a, b, c in the channels.

    Raises:
        ValueError: for n below 1, a balance outside (0, 1], pictures with more than one channel, or a digit without
            pictures.

    Source: Metz et al. (2017), section 3.3.1, and Srivastava et al. (2017), section 4.1, of MNIST's digits.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rows, modes = _Pool(pictures, labels).rows(digit_shares(balance), n, generator)
    return pictures[rows, 0], modes


def stacked_stream(pictures: Tensor, labels: Tensor, batch_size: int, seed: int, *, balance: float = 1.0) -> Draws:
    """Batches {"x": (B, 3, H, W)} of new draws; draw n depends on (seed, n) alone.

    Raises:
        ValueError: see `stacked`.
    """
    checked_seed(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    pool, shares = _Pool(pictures, labels), digit_shares(balance)

    def draw(n: int, part: slice) -> Batch:
        rows, _ = pool.rows(shares, batch_size, numbered(seed, n))
        return {"x": pictures[rows[part], 0]}

    return Draws(draw, batch_size)


class _Pool:
    """Rows of pictures in the order of their digits, the first place and the number of rows of each digit."""

    def __init__(self, pictures: Tensor, labels: Tensor):
        if pictures.ndim != 4 or pictures.shape[1] != 1 or labels.shape != pictures.shape[:1]:
            raise ValueError(
                f"pictures must be (N, 1, H, W) with one label each, got {tuple(pictures.shape)} and "
                f"{tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < DIGITS:
            raise ValueError(f"labels must be from 0 to 9, got {int(labels.min())} to {int(labels.max())}")
        self.counts = labels.bincount(minlength=DIGITS)
        if not bool((self.counts > 0).all()):
            raise ValueError(f"pictures must show every digit, got none of {int(self.counts.argmin())}")
        self.order = labels.argsort(stable=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def rows(self, shares: Tensor, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Rows of a random picture for each channel, (n, 3), of digits drawn by their shares; and the modes, (n,)."""
        digits = torch.multinomial(shares, n * CHANNELS, replacement=True, generator=generator).reshape(n, CHANNELS)
        u = torch.rand(n, CHANNELS, generator=generator, dtype=torch.float64)
        counts = self.counts[digits]
        places = self.starts[digits] + (u * counts).long().clamp(max=counts - 1)
        return self.order[places], digits @ torch.tensor([100, 10, 1])
