"""Progress reports of long computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Advance = Callable[[int], None]
"""Called with the number of items just done."""
Track = Callable[[str, int], Advance]
"""Opens a progress bar with a name and a total."""
Watch = Callable[[int, float, float | None, Mapping[str, float]], None]
"""Called with the training step, the share of the budget used, the seconds left if known, and numbers to show."""


def check_functions(**given: object) -> None:
    """Raise unless each is a function, or None.

    >>> check_functions(watch=3)
    Traceback (most recent call last):
    ValueError: watch must be a function, got 3
    """
    for name, function in given.items():
        if not (function is None or callable(function)):
            raise ValueError(f"{name} must be a function, got {function!r}")


def silent(name: str, total: int) -> Advance:  # noqa: ARG001
    """A `Track` that shows nothing."""
    return lambda _: None
