"""Protocols for models that can be sampled and models with a likelihood."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from jensen.core.seeding import Rng
from jensen.core.types import Likelihood


@runtime_checkable
class Sampleable(Protocol):
    """Draws x, (n, *event)."""

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None) -> Tensor: ...


@runtime_checkable
class Bounded(Protocol):
    """Returns log p(x), a bound on it or an estimate of it, per example in nats."""

    def log_likelihood(self, x: Tensor, *, cond: Tensor | None = None, generator: Rng = None) -> Likelihood: ...
