"""The length of training, and learning rates as functions of the fraction that is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jensen.core.shapes import check_at_least_zero, check_count
from jensen.training.distributed import agree


@dataclass
class Budget:
    """The length of a run, in steps or in minutes of training.

    A run given in minutes depends on the clock, and the journal records its steps; a run given in steps does not. The
    clock counts only training: `pause` it while pictures and checkpoints are written, and restore `elapsed` on resume.

    Attributes:
        steps, minutes: exactly one is given.
        elapsed: seconds of training so far.

    >>> Budget(steps=10).progress(5)
    0.5
    """

    steps: int | None = None
    minutes: float | None = None
    elapsed: float = 0.0
    _since: float | None = field(default=None, repr=False)
    _seen: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a budget must be either steps or minutes, got both or neither")
        if self.steps is not None:
            check_count(steps=self.steps)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes must be positive and finite, got {self.minutes}")
        check_at_least_zero(elapsed=self.elapsed)

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        self.elapsed, self._since = self.seconds(), None

    def seconds(self) -> float:
        """Seconds of training so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.elapsed + running

    def look(self) -> None:
        """Read the clock once per step; all processes use the clock of the first."""
        self._seen = agree(self.seconds()) if self.minutes is not None else self.seconds()

    def progress(self, step: int) -> float:
        """The fraction of the budget used, in [0, 1]; for a budget in minutes, as of the last `look`."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.minutes is not None
        return min(self._seen / (60 * self.minutes), 1.0)

    def done(self, step: int) -> bool:
        return step > 0 and self.progress(step) >= 1

    def remaining(self, step: int) -> float | None:
        """The remaining seconds; for a budget in steps, estimated from the pace so far."""
        if self.minutes is not None:
            return max(60 * self.minutes - self.seconds(), 0.0)
        progress = self.progress(step)
        return self.seconds() * (1 - progress) / progress if progress > 0 else None


def warm_then_decay(peak: float, budget: Budget, *, warmup: int = 100, decay: float = 0.4) -> Callable[[int], float]:
    """Rise linearly over `warmup` steps, stay at `peak`, fall linearly to zero over the last fraction `decay`.

    Raises:
        ValueError: unless peak and warmup are at least 0 and finite, and 0 < decay <= 1.

    >>> rate = warm_then_decay(1.0, Budget(steps=1000), warmup=10, decay=0.5)
    >>> rate(0), rate(300), rate(750)
    (0.1, 1.0, 0.5)
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    check_at_least_zero(peak=peak, warmup=warmup)

    def rate(step: int) -> float:
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return peak * min(rising, (1 - budget.progress(step)) / decay)

    return rate
