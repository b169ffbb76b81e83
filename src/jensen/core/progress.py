"""Progress reports of long computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Advance = Callable[[int], None]
"""Called with the number of items just done."""
Track = Callable[[str, int], Advance]
"""Opens a progress bar with a name and a total."""
Watch = Callable[[int, float, float | None, Mapping[str, float]], None]
"""Called with the training step, the share of the budget used, the seconds left if known, and numbers to show."""


def silent(name: str, total: int) -> Advance:  # noqa: ARG001
    """A `Track` that shows nothing."""
    return lambda _: None
