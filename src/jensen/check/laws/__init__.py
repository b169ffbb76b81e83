"""The propositions behind jensen, by family: what `jensen check` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jensen.check.law import Law

FAMILIES: Mapping[str, Sequence[Law]] = {}
