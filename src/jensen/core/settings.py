"""Nodes of a configuration: frozen, complete, validated; and nodes that are chosen by their kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)
from pydantic_core import ErrorDetails

from jensen.core.naming import nearest

MOST_ROWS = 10_000_000  # rows, samples and draws that are held in memory
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Number of units, channels or latents of a layer."""
Depth = Annotated[int, Field(ge=1, le=1_000)]
"""Number of layers or blocks."""
WHOLE, REAL = 2**31 - 1, 1e38  # largest numbers of a configuration; torch counts in 64 bits and computes in float32


class IdleSetting(ValueError):
    """Raised for a setting that has no effect but is not at its default.

    Attributes:
        key: key of the setting, relative to its node.
        default: the value it must have.
    """

    def __init__(self, key: str, because: str, value: Any, default: Any):
        instead = "leave it out" if default is None else f"leave it at {default}"
        super().__init__(f"{key} is not used {because}, got {value}: {instead}")
        self.key, self.default = key, default


class Settings(BaseModel):
    """A node of a configuration tree: frozen, and unknown keys are errors.

    The docstring below an attribute is its description in `jensen recipes NAME`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _representable(cls, value: Any) -> Any:
        """Refuse numbers that torch cannot hold; a setting's own limits are narrower."""
        for number in value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,):
            most = WHOLE if isinstance(number, int) else REAL
            if isinstance(number, int | float) and not -most <= number <= most:
                raise ValueError(f"must be from {-most} to {most}, got {number}")
        return value

    def __init__(self, /, **values: Any):
        """Raises a ValueError of one sentence for settings that cannot be used."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # a node of a tree keeps its errors

    def refuse_idle(self, because: str, *names: str, prefix: str = "") -> None:
        """Raise an IdleSetting for the first of these settings that is not at its default.

        Args:
            because: the end of the message "... is not used", for example "without a penalty".
            names: names of the settings.
            prefix: prefix of their keys, such as "game.".
        """
        for name in names:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise IdleSetting(f"{prefix}{name}", because, value, default)


class Kind(Settings):
    """A node whose class is chosen by the name of its kind, such as a data source or a model family.

    A direct subclass is a group of kinds with a separate registry; each concrete class below it is one kind,
    named by its class attribute `kind`, or after its class: `class TwoMoons` is "two-moons". A class that a user
    defines is therefore registered when its module is imported, and configurations can name it like jensen's own.

    >>> class Shape(Kind): ...
    >>> class Square(Shape):
    ...     side: float = 1.0
    >>> Shape.parse({"kind": "square", "side": 2.0})
    Square(side=2.0)
    >>> Square().model_dump()
    {'kind': 'square', 'side': 1.0}
    """

    kind: ClassVar[str] = ""
    what: ClassVar[str] = ""
    """The name of such a node in a sentence: "data source", "family"."""
    kinds: ClassVar[dict[str, type[Kind]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if Kind in cls.__bases__:
            cls.kinds = {}
            cls.what = cls.what or cls.__name__.lower()
        elif not inspect.isabstract(cls):
            if "kind" not in cls.__dict__:
                cls.kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()
            cls.kinds[cls.kind] = cls

    @classmethod
    def parse(cls, value: Any) -> Self:
        """A node from a mapping that names its kind; nodes are returned as they are.

        Raises:
            ValueError: for a mapping without a kind, or with an unknown kind; the message names the nearest known one.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or "kind" not in value:
            raise ValueError(f"a {cls.what} must be a mapping with a kind, got {value!r}")
        name = value["kind"]
        if not isinstance(name, str) or name not in cls.kinds:
            known = ", ".join(sorted(cls.kinds))
            raise ValueError(
                f"{cls.what} must be one of {known}, got {name!r}{nearest(str(name), cls.kinds)}; "
                "load your own with --use FILE.py, or jensen.open(path, use=[...])"
            )
        found = cls.kinds[name].model_validate({key: v for key, v in value.items() if key != "kind"})
        assert isinstance(found, cls)
        return found

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


MUST_BE = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "string_pattern_mismatch": "of the form {pattern}",
    "literal": "{expected}",
    "greater_than": "above {gt:.10g}",
    "greater_than_equal": "at least {ge:.10g}",
    "less_than": "below {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "multiple_of": "a multiple of {multiple_of}",
    "tuple": "a list, as in [1, 2]",
    "dict": "a mapping",
    "too_short": "a list of {min_length} or more values",
    "too_long": "a list with at most {max_length} values",
    "missing": "given",
}
"""What a setting must be, by the type of pydantic's error or the first word of that type."""


MEMBERS = ("int", "float", "bool", "str")  # what pydantic adds to the place of an error in a union


def explain(error: ValidationError) -> str:
    """The first error in a configuration, in one sentence: X must be Y, got Z."""
    first, *others = error.errors(include_url=False)
    key = _key(first)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"there is no setting {key!r}"
    if first["type"] == "value_error":
        joint = " " if message.startswith("must be ") else ": "
        return f"{key}{joint}{message}" if key and not message.startswith(key) else message
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # in a list, whose last value is missing too
        length = 1 + max(k for e in (first, *others) if e["type"] == "missing" and isinstance(k := e["loc"][-1], int))
        return f"{key} must be a list of {length} values, got {first['input']!r}"
    union = [other for other in others if _key(other) == key and other["input"] is first["input"]]
    choices = dict.fromkeys(map(must_be, (first, *union)))
    return f"{key} must be {', or '.join(choices)}, got {first['input']!r}"


def _key(error: ErrorDetails) -> str:
    """The dotted key of a setting, without places in a list and pydantic's labels of the members of a union."""
    named = [k for k in error["loc"] if isinstance(k, str) and k.isidentifier() and k not in ("family", *MEMBERS)]
    return ".".join(named)


def must_be(error: ErrorDetails) -> str:
    """What a value must be, to follow "must be"."""
    template = MUST_BE.get(error["type"]) or MUST_BE.get(error["type"].partition("_")[0], f"valid ({error['msg']})")
    return template.format(**error.get("ctx", {}))
