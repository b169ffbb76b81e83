"""Protocols: examples by index; models that can be sampled, that have a likelihood, that encode."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from jensen.core.seeding import Rng
from jensen.core.types import Likelihood


@runtime_checkable
class Indexed(Protocol):
    """Examples (N, ...) by index: a tensor, or an object that reads only the rows that are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice, /) -> Tensor: ...


@runtime_checkable
class Sampleable(Protocol):
    """Draws x, (n, *event)."""

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None) -> Tensor: ...


@runtime_checkable
class Bounded(Protocol):
    """Returns log p(x), a bound on it or an estimate of it, per example in nats."""

    def log_likelihood(self, x: Tensor, *, cond: Tensor | None = None, generator: Rng = None) -> Likelihood: ...


@runtime_checkable
class Coding(Protocol):
    """Encodes data into codes, continuous or one-hot, and decodes them."""

    def codes(self, x: Tensor) -> Tensor:
        """The code of each row, (B, *event of the code); its mean if codes are random."""
        ...

    def from_codes(self, z: Tensor) -> Tensor:
        """The mean of x given a code, (B, *event)."""
        ...

    def reconstruct(self, x: Tensor) -> Tensor:
        """Each row after encoding and decoding, (B, *event)."""
        ...


@runtime_checkable
class Translating(Protocol):
    """Translates pictures (B, C, H, W) to a side, "a" or "b"."""

    def translate(self, x: Tensor, to: str = "b") -> Tensor: ...
