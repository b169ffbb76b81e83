"""Selecting laws, running them, and their outcomes."""

from __future__ import annotations

import difflib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch

from jensen.check.evidence import Report
from jensen.check.law import Law
from jensen.core.shapes import check_count

SEED = 0
MOST_PRECISE = 1000  # a law takes a second at precision 1


@dataclass(frozen=True)
class Outcome:
    """The outcome of a law.

    Attributes:
        law: its name.
        report: the evidence; empty if the trial raised an error.
        seconds: the time it took.
        error: the error that the trial raised, or "".
    """

    law: str
    report: Report
    seconds: float
    error: str = ""

    @property
    def holds(self) -> bool:
        return not self.error and self.report.holds

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "law": self.law,
            "holds": self.holds,
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "evidence": [e.as_dict() for e in self.report.evidence],
        }


def select(families: Mapping[str, Sequence[Law]], names: Sequence[str]) -> dict[str, list[Law]]:
    """The laws of these names, by family; a name is a family, a topic or a law. Without names: all laws.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    known = {name for family, laws in families.items() for law in laws for name in (family, law.topic, law.name)}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"there is no law or family of laws {name!r}{hint}")
    wanted = set(names)
    chosen = {
        family: [law for law in laws if not names or wanted & {family, law.topic, law.name}]
        for family, laws in families.items()
    }
    return {family: laws for family, laws in chosen.items() if laws}


def run(law: Law, precision: float = 1.0) -> Outcome:
    """Test one law; an error raised by its trial is part of the outcome. The global generator's state is restored."""
    start = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        try:
            report, error = law(precision), ""
        except Exception as broken:  # noqa: BLE001 (whatever a trial raises says that its law was not shown)
            report, error = Report(()), f"{type(broken).__name__}: {broken}"
    return Outcome(law.name, report, time.perf_counter() - start, error)


def run_all(
    laws: Iterable[Law],
    *,
    precision: float = 1.0,
    processes: int = 1,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Test laws, in one process or in several with one thread each.

    Args:
        laws: for several processes, laws of `jensen.check.laws`, which are found there by name.
        precision: factor, at most 1,000, for the number of draws.
        processes: number of processes, at least 1.
        on_outcome: called with each outcome.

    Returns:
        outcomes in the order of the laws.

    Raises:
        ValueError: for a precision out of range, or processes below 1.
    """
    if not 0 < precision <= MOST_PRECISE:
        raise ValueError(f"precision must be positive and at most {MOST_PRECISE}, got {precision}")
    check_count(processes=processes)
    laws = list(laws)
    found: dict[str, Outcome] = {}
    if processes == 1 or len(laws) < 2:
        for law in laws:
            found[law.name] = run(law, precision)
            on_outcome(found[law.name])
        return [found[law.name] for law in laws]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(_run_named, law.name, precision) for law in laws]
        for done in as_completed(waiting):
            outcome = done.result()
            found[outcome.law] = outcome
            on_outcome(outcome)
    return [found[law.name] for law in laws]


def _run_named(name: str, precision: float) -> Outcome:
    from jensen.check.laws import FAMILIES  # in another process: not at import, which would be circular

    return next(run(law, precision) for laws in FAMILIES.values() for law in laws if law.name == name)
