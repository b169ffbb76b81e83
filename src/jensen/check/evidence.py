"""What a law returns: a claim, the exact number, the measured number, and the largest allowed difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.core.shapes import check_broadcast

ERRORS = 5.0
"""Standard errors allowed for a statistical claim: one of 1.7 million true claims would fail."""

POWER = 2.0
"""Standard errors beyond the tolerance from which an error is detected 98 times in 100."""

Relation = Literal["equal", "at most", "at least"]
Claims = Iterator["Evidence"]
SIGNS: dict[str, str] = {"equal": "=", "at most": "≤", "at least": "≥"}


@dataclass(frozen=True)
class Evidence:
    r"""One claim about one number.

    It holds if $|m - e| \le t$, or $m \le e + t$, or $m \ge e - t$, with m measured, e expected and t the tolerance;
    never if m is not finite.

    Attributes:
        claim: a sentence about what is measured.
        expected: e, exact.
        measured: m.
        tolerance: t, at least 0.
        relation: "equal", "at most" or "at least".
        stderr: standard error of m, where it is statistical.

    Raises:
        ValueError: for an unknown relation, a negative tolerance, or an expected value that is not finite.

    >>> below = Evidence("the ELBO is below log p", expected=-1.5, measured=-1.7, tolerance=0.0, relation="at most")
    >>> below.holds, below.detectable
    (True, 0.0)
    """

    claim: str
    expected: float
    measured: float
    tolerance: float
    relation: Relation = "equal"
    stderr: float | None = None

    def __post_init__(self) -> None:
        if self.relation not in SIGNS:
            raise ValueError(f"relation must be one of {', '.join(SIGNS)}, got {self.relation!r}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be at least 0 and finite, got {self.tolerance}")
        if not math.isfinite(self.expected):
            raise ValueError(f"expected must be finite, got {self.expected}")

    @property
    def excess(self) -> float:
        """The amount by which m violates the relation, at least 0; infinite if m is not finite."""
        if not math.isfinite(self.measured):
            return math.inf
        off = self.measured - self.expected
        return {"equal": abs(off), "at most": max(off, 0.0), "at least": max(-off, 0.0)}[self.relation]

    @property
    def holds(self) -> bool:
        return self.excess <= self.tolerance

    @property
    def detectable(self) -> float:
        """The smallest error that would be detected: t, or for a mean t + 2 stderr, detected 98 times in 100."""
        return self.tolerance + POWER * (self.stderr or 0.0)

    def __str__(self) -> str:
        within = f"± {self.tolerance:.2g}"
        if self.stderr:
            within = f"within {self.tolerance / self.stderr:.3g} standard errors of {self.stderr:.2g}"
            within += f", sees errors from {self.detectable:.2g}"
        verdict = "holds" if self.holds else "FAILS"
        return f"{verdict}: {self.claim}: {self.measured:.6g} {SIGNS[self.relation]} {self.expected:.6g} ({within})"

    def as_dict(self) -> dict[str, Any]:
        """The evidence as JSON values."""
        finite = math.isfinite(self.measured)
        return {
            "claim": self.claim,
            "relation": self.relation,
            "expected": self.expected,
            "measured": self.measured if finite else str(self.measured),
            "tolerance": self.tolerance,
            "stderr": self.stderr,
            "detectable": self.detectable,
            "holds": self.holds,
        }


def close(claim: str, expected: Tensor | float, measured: Tensor | float, tolerance: float) -> Evidence:
    """Equality of every entry within a tolerance: reports the entry that is furthest off.

    Raises:
        ValueError: for tensors that do not broadcast, or are empty.

    >>> close("both are 1", 1.0, torch.tensor([1.0, 1.1]), 0.2).measured
    1.100000023841858
    """
    a, b = _broadcast(expected, measured)
    worst = int(torch.nan_to_num((a - b).abs(), nan=math.inf).argmax())
    return Evidence(claim, float(a[worst]), float(b[worst]), tolerance)


def bounded(
    claim: str, measured: Tensor | float, limit: Tensor | float, tolerance: float = 0.0, *, relation: Relation
) -> Evidence:
    """Every entry "at most" or "at least" a limit: reports the entry that is closest to it or furthest beyond.

    >>> bounded("decreasing", torch.tensor([-1.0, -0.1]), 0.0, relation="at most").measured
    -0.10000000149011612
    """
    e, m = _broadcast(limit, measured)
    off = (m - e) if relation == "at most" else (e - m)
    worst = int(torch.nan_to_num(off, nan=math.inf).argmax())
    return Evidence(claim, float(e[worst]), float(m[worst]), tolerance, relation)


def differs(claim: str, exact: Tensor | float, wrong: Tensor | float, least: float) -> Evidence:
    """The error of a wrong formula is at least a stated amount.

    >>> differs("n! for (n - 1)!, n = 4,", 6.0, 24.0, 10.0).holds
    True
    """
    a, b = _broadcast(exact, wrong)
    return bounded(f"{claim} is off by", (b - a).abs(), least, relation="at least")


def estimate_is(
    claim: str, expected: float, measured: Tensor | float, stderr: Tensor | float, *, bias: float = 0.0
) -> Evidence:
    """An estimate with a given standard error against its exact value: five standard errors are allowed.

    Args:
        claim: a sentence about what is measured.
        expected: the exact value.
        measured: the estimate, one number.
        stderr: its standard error.
        bias: allowed bias, added to the tolerance.

    >>> estimate_is("a mean of 100 draws", 0.0, 0.3, 0.1).holds
    True
    """
    error = float(stderr)
    return Evidence(claim, expected, float(measured), ERRORS * error + bias, stderr=error)


def mean_is(
    claim: str,
    expected: float,
    draws: Tensor,
    *,
    relation: Relation = "equal",
    errors: float = ERRORS,
    bias: float = 0.0,
) -> Evidence:
    """The mean of independent draws against its exact value, within a number of standard errors.

    Args:
        claim: a sentence about what is measured.
        expected: the exact value.
        draws: (N,), independent, N at least 2.
        relation: "equal", "at most" or "at least".
        errors: standard errors allowed.
        bias: allowed bias, added to the tolerance.

    >>> rng = torch.Generator().manual_seed(0)
    >>> mean_is("a standard normal has mean 0", 0.0, torch.randn(1000, generator=rng)).holds
    True
    """
    if draws.ndim != 1 or len(draws) < 2:
        raise ValueError(f"draws must be (N,) with N at least 2, got {tuple(draws.shape)}")
    x = draws.detach().double()
    stderr = float(x.std() / len(x) ** 0.5)
    if not math.isfinite(stderr):
        return Evidence(claim, expected, math.nan, 0.0, relation)
    return Evidence(claim, expected, float(x.mean()), errors * stderr + bias, relation, stderr)


def means_are(claim: str, expected: Tensor, draws: Tensor, *, errors: float = ERRORS) -> Evidence:
    """The mean of independent rows (N, ...) against its exact value (...), at the entry with the largest error.

    >>> rng = torch.Generator().manual_seed(0)
    >>> means_are("two means are 0", torch.zeros(2), torch.randn(1000, 2, generator=rng)).holds
    True
    """
    if draws.ndim < 1 or len(draws) < 2 or (draws[0].shape != expected.shape and expected.ndim):
        shapes = f"{tuple(draws.shape)} and {tuple(expected.shape)}"
        raise ValueError(f"draws must be (N, ...), N at least 2, and expected (...) or (), got {shapes}")
    x = draws.detach().double().flatten(1) if draws.ndim > 1 else draws.detach().double()[:, None]
    e = expected.detach().double().expand(draws.shape[1:]).reshape(-1)
    stderr = x.std(0) / len(x) ** 0.5
    off = (x.mean(0) - e).abs()
    ratio = torch.where(off == 0, torch.zeros_like(off), off / stderr)
    worst = int(torch.nan_to_num(ratio, nan=math.inf).argmax())
    return mean_is(claim, float(e[worst]), x[:, worst], errors=errors)


@dataclass(frozen=True)
class Report:
    """The evidence on one implementation.

    >>> report = Report((Evidence("one is one", 1.0, 1.0, 0.0), Evidence("one is two", 2.0, 1.0, 0.1)))
    >>> report.holds, [e.claim for e in report.failed]
    (False, ['one is two'])
    """

    evidence: tuple[Evidence, ...]

    @classmethod
    def of(cls, evidence: Iterable[Evidence]) -> Report:
        return cls(tuple(evidence))

    @property
    def holds(self) -> bool:
        """Whether there is evidence and all of it holds."""
        return bool(self.evidence) and all(e.holds for e in self.evidence)

    @property
    def failed(self) -> tuple[Evidence, ...]:
        return tuple(e for e in self.evidence if not e.holds)

    def named(self, name: str) -> Iterator[Evidence]:
        """The evidence, each claim prefixed by a name."""
        return (replace(e, claim=f"{name}: {e.claim}") for e in self.evidence)

    def failures(self, name: str = "") -> Evidence:
        """One claim for the whole report: the number of failed claims is 0."""
        said = f"failed claims out of {len(self.evidence)}"
        if self.evidence:
            said += f" (worst: {max(self.evidence, key=lambda e: e.excess - e.tolerance).claim})"
        return Evidence(f"{name}: {said}" if name else said, 0.0, len(self.failed), 0.0)

    def require(self) -> None:
        """Raise an error if a claim fails, for tests.

        Raises:
            AssertionError: with every claim that fails.
        """
        if not self.evidence:
            raise AssertionError("there is no evidence")
        if self.failed:
            raise AssertionError("\n".join(str(e) for e in self.failed))

    def __str__(self) -> str:
        return "\n".join(str(e) for e in self.evidence)


def _broadcast(expected: Tensor | float, measured: Tensor | float) -> tuple[Tensor, Tensor]:
    values = (torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in (expected, measured))
    wanted, found = values
    check_broadcast(expected=wanted, measured=found)
    a, b = torch.broadcast_tensors(wanted, found)
    if not a.numel():
        raise ValueError("there must be at least one number to compare, got none")
    return a.reshape(-1), b.reshape(-1)
