"""Contenders that take turns, so that a change in the machine's speed affects all."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Contender:
    """One library's step.

    Attributes:
        name: name of the contender.
        go: makes some steps and returns their number.
        speeds: steps per second in each turn.
    """

    name: str
    go: Callable[[], int]
    speeds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)

    def turn(self, seconds: float) -> None:
        """Make steps for at least this time, and record their speed."""
        start, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds:
            steps += self.go()
        self.speeds.append(steps / passed)


def take_turns(what: str, found: Sequence[Contender], *, repeats: int, seconds: float) -> None:
    """`repeats` turns of each contender, after one warm-up turn."""
    for turn in range(repeats + 1):
        for c in found:
            c.turn(seconds)
        seen = ", ".join(f"{c.name} {c.speeds[-1]:.0f}" for c in found)
        print(f"{what}, turn {turn} of {repeats}: {seen} steps/s", file=sys.stderr, flush=True)
    for c in found:
        del c.speeds[0]


def summary(what: str, found: Sequence[Contender]) -> list[dict[str, Any]]:
    """One row per contender; its ratio is the speed of the first divided by its own, per turn."""
    rows = []
    for c in found:
        ratios = [a / b for a, b in zip(found[0].speeds, c.speeds, strict=True)]
        rows.append(
            {
                "networks": what,
                "library": c.name,
                "steps_per_second": c.speed,
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "turns": c.speeds,
            }
        )
    return rows


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    ratio = (
        "" if row["library"] == "jensen" else f"{row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    )
    return row["networks"], row["library"], f"{row['steps_per_second']:.0f}", ratio


HEADER = ("networks of", "library", "steps/s", "jensen is")
