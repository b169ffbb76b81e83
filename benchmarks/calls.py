"""Functions called in turn on the same data: seconds, memory and results."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Turns(Generic[T]):
    """The measurements of one function.

    Attributes:
        found: its last result.
        seconds: seconds of each turn.
        mebibytes: peak memory during a turn, minus the memory before it; None where Linux does not count it.
    """

    found: T
    seconds: list[float] = field(default_factory=list)
    mebibytes: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(functions: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, Turns[T]]:
    """Each function once to warm up and measure its memory, then `repeats` times in turn."""
    runs: dict[str, Turns[T]] = {}
    for name, work in functions.items():
        found, held = _watched(work)
        runs[name] = Turns(found, mebibytes=held)
    for turn in range(1, repeats + 1):
        for name, work in functions.items():
            start = time.perf_counter()
            runs[name].found = work()
            runs[name].seconds.append(time.perf_counter() - start)
        seen = ", ".join(f"{name} {run.seconds[-1]:.2f}" for name, run in runs.items())
        print(f"turn {turn} of {repeats}: {seen} s", file=sys.stderr, flush=True)
    return runs


def _watched(work: Callable[[], T]) -> tuple[T, float | None]:
    """The result of a call, and its peak MiB in this process, sampled every millisecond."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return work(), None

    def held() -> int:
        return int(statm.read_text().split()[1])

    before, done = held(), threading.Event()
    most = before

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, held())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        found = work()
    finally:
        done.set()
        thread.join()
    return found, (most - before) * 4096 / 2**20
