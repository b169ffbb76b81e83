"""The types that all model families share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import count
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.failure import Failure

Batch = Mapping[str, Tensor]
"""One batch of data, as named tensors: "x", "cond", "index"; or "a" and "b" for unpaired data."""

Measure = Literal["mass", "density"]
"""Whether a log-likelihood is that of a probability mass (Bernoulli) or a density (Gaussian); the two are never
compared."""

Stream = Callable[[int], Iterator[Batch]]
"""Opened at batch number n; each batch is a function of (seed, n) alone, so that a resumed run continues exactly."""


@dataclass(frozen=True)
class Draws:
    """A `Stream` whose rows can be drawn separately: row k of batch n is a function of (seed, n, k).

    So the rows of a batch do not depend on the number of processes that share them; see
    `jensen.training.distributed.shard`.

    Attributes:
        draw: called with (n, rows), returns these rows of batch n, in the order of `rows`.
        batch_size: number of rows of a whole batch.
        rows: the rows that the stream draws.

    >>> import torch
    >>> squares = Draws(lambda n, rows: {"x": (10 * n + torch.arange(4))[rows]}, 4)
    >>> next(squares(1))["x"].tolist(), next(Draws(squares.draw, 4, slice(1, None, 2))(1))["x"].tolist()
    ([10, 11, 12, 13], [11, 13])
    """

    draw: Callable[[int, slice], Batch]
    batch_size: int
    rows: slice = field(default_factory=lambda: slice(None))

    def __call__(self, start: int) -> Iterator[Batch]:
        return (self.draw(n, self.rows) for n in count(start))


@dataclass(frozen=True)
class Loss:
    """The loss that one player minimises.

    Attributes:
        total: (), differentiable.
        terms: named numbers to log, (), detached.
        aux: named tensors for `Objective.after`, detached.

    >>> import torch
    >>> Loss.of(torch.tensor(2.0), kl=torch.tensor([1.0, 3.0])).terms["kl"]
    tensor(2.)
    """

    total: Float[Tensor, ""]
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, total: Tensor, **terms: Tensor) -> Loss:
        """A loss whose terms are the detached means of the given tensors, and the total as "loss"."""
        means = {name: value.detach().mean() for name, value in terms.items()}
        return cls(total, {"loss": total.detach(), **means})

    @classmethod
    def mean(cls, parts: Sequence[Loss]) -> Loss:
        """The loss of a batch from those of its equal parts: means of numbers, and all rows of the other tensors.

        >>> import torch
        >>> Loss.mean([Loss.of(torch.tensor(1.0)), Loss.of(torch.tensor(3.0))]).terms
        {'loss': tensor(2.)}
        """
        if len(parts) == 1:
            return parts[0]
        terms = {name: torch.stack([part.terms[name] for part in parts]).mean(0) for name in parts[0].terms}
        rows = {name: [part.aux[name] for part in parts] for name in parts[0].aux}
        aux = {name: torch.cat(v) if v[0].ndim else torch.stack(v).mean(0) for name, v in rows.items()}
        return cls(torch.stack([part.total for part in parts]).mean(), terms, aux)


@dataclass(frozen=True)
class Phase:
    """Players that are updated together, `repeats` times in a row.

    A step of training is a tuple of phases: `(Phase(("g", "d")),)` is simultaneous,
    `(Phase(("d",)), Phase(("g",)))` alternating, `(Phase(("d",), repeats=5), Phase(("g",)))` is 5:1.

    Attributes:
        players: names of the players; one forward pass gives all their losses.
        repeats: number of repetitions, at least 1.
        fresh: draw a new batch for each repetition; False reuses the step's batch.
    """

    players: tuple[str, ...]
    repeats: int = 1
    fresh: bool = True

    def __post_init__(self) -> None:
        if not self.players or len(set(self.players)) != len(self.players):
            raise ValueError(f"a phase must name at least one player, and none twice, got {self.players}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


@dataclass(frozen=True)
class Likelihood:
    """log p(x) per example in nats; higher is better, never its negative.

    Attributes:
        value: (B,) nats.
        kind: whether it is log p(x) itself, a lower bound on it, or a Monte Carlo estimate of it.
        measure: whether p is a probability mass or a density; the two are never compared.
        stderr: (B,) standard error, for estimates.
    """

    value: Float[Tensor, " b"]
    kind: Literal["exact", "lower bound", "estimate"]
    measure: Measure
    stderr: Float[Tensor, " b"] | None = None


def entry(batch: Batch, name: str) -> Tensor:
    """The batch's entry of this name: rows, of floating-point numbers if they are data.

    Raises:
        ValueError: if there is no such entry, it has no rows or data are whole numbers, or the batch is not a mapping.

    >>> import torch
    >>> entry({"x": torch.ones(2)}, "y")
    Traceback (most recent call last):
    ...
    ValueError: the batch must hold 'y', got ['x']
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"a batch must map names to tensors, got {type(batch).__name__}")
    try:
        rows = batch[name]
    except KeyError:
        raise ValueError(f"the batch must hold {name!r}, got {sorted(batch)}") from None
    if not rows.ndim or not len(rows):
        raise ValueError(f"the batch's {name} must have at least one row, got shape {tuple(rows.shape)}")
    if rows.is_floating_point() != (name not in ("cond", "index")):
        kind = "whole" if name in ("cond", "index") else "floating-point"
        raise ValueError(f"the batch's {name} must be {kind} numbers, got {str(rows.dtype).removeprefix('torch.')}")
    return rows


def takes(function: Callable[..., object]) -> bool:
    """Whether a function can be called with one argument, as far as its signature tells.

    >>> takes(len), takes(lambda: 0), takes(lambda a, b: 0)
    (True, False, False)
    """
    try:
        return bool(signature(function).bind(None))
    except TypeError:
        return False
    except ValueError:  # no signature
        return True


def mapped(stream: Stream, change: Callable[[Batch], Batch]) -> Stream:
    """The same batches, changed by a function that is applied to each row separately."""
    if isinstance(stream, Draws):
        return replace(stream, draw=lambda n, rows: change(stream.draw(n, rows)))
    return lambda start: map(change, stream(start))


class NonFiniteLoss(Failure):
    """A loss or the state of a player became infinite or nan: training stops, and the last checkpoint stays valid."""

    def __init__(self, step: int, player: str, term: str, what: str = "the loss", skipped: int = 0):
        after = f", after {skipped} skipped in a row" * (skipped > 0)
        super().__init__(
            f"{what} of player {player!r} is not finite at step {step} (term {term!r}){after}: "
            "train again with a lower learning rate"
        )
        self.step, self.player, self.term, self.what = step, player, term, what


def first_non_finite(loss: Loss) -> str | None:
    """The name of the first non-finite term, or "total"; None if the total is finite."""
    if math.isfinite(loss.total.detach()):
        return None
    for name, value in loss.terms.items():
        if name != "loss" and not math.isfinite(value):
            return name
    return "total"
