"""JSON that every parser accepts: numbers that are not finite are written as words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(tree: Any, *, indent: int | None = None) -> str:
    """A tree of plain values as JSON; numbers that JSON cannot express become "NaN", "Infinity" and "-Infinity".

    Raises:
        TypeError: for a value that is not plain.

    Source: RFC 8259, section 6; the words are those of Protocol Buffers' JSON.

    >>> dumps({"mean": float("-inf"), "n": 3})
    '{"mean": "-Infinity", "n": 3}'
    """
    return json.dumps(_said(tree), indent=indent, allow_nan=False)


def loads(text: str) -> Any:
    """The tree that `dumps` wrote, with those three words as numbers again.

    Raises:
        json.JSONDecodeError: if the text is not JSON, or is nested more deeply than Python's stack.

    >>> loads('{"mean": "-Infinity", "n": 3}')
    {'mean': -inf, 'n': 3}
    """
    return parsed(text, _meant)


def parsed(text: str, read: Callable[[Any], Any] = lambda tree: tree) -> Any:
    """The tree of a JSON text, as `read` reads it.

    Raises:
        json.JSONDecodeError: if the text is not JSON, nested too deeply, or has a number that Python does not read.
    """
    try:
        return read(json.loads(text))
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text[:100], 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # advice to programmers
        raise json.JSONDecodeError("a number has thousands of digits", text[:100], 0) from None


def _said(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _inside(value, _said)


def _meant(value: Any) -> Any:
    return WORDS.get(value, value) if isinstance(value, str) else _inside(value, _meant)


def _inside(value: Any, change: Any) -> Any:
    """`change` applied to every value of a mapping or a list."""
    if isinstance(value, Mapping):
        return {key: change(v) for key, v in value.items()}
    return [change(v) for v in value] if isinstance(value, list | tuple) else value
