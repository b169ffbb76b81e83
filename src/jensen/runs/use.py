"""The user's own sources, families, judges and recipes, from a Python file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from jensen.core.naming import path_of
from jensen.core.settings import Kind
from jensen.judging.case import JUDGES, Judge, judge
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import Source

Own = type[Kind] | Judge | Recipe | Path | str
"""A source or family class (registered when it was defined), a judge, a recipe, or a file that defines any of these."""


def use(things: Iterable[Own]) -> None:
    """Register what a user defined: judges are applied to every run, and recipes can be used by name.

    Raises:
        ValueError: for a file that does not exist, raises an exception, or defines none of these.
    """
    if not isinstance(things, Iterable):
        raise ValueError(f"use must list sources, families, judges, recipes or files, got {things!r}")
    for thing in [things] if isinstance(things, str) else things:
        if isinstance(thing, Path | str):
            run_file(path_of(thing, "use"))
        elif isinstance(thing, Recipe):
            PRESETS[thing.name] = thing
        elif not isinstance(thing, type):
            if not callable(thing):
                raise ValueError(f"use must list sources, families, judges, recipes or files, got {thing!r}")
            judge(thing)


def run_file(path: Path) -> None:
    """Run a Python file and register what it defines: sources, families, functions marked @judge, recipes.

    Raises:
        ValueError: see `use`.
    """
    if not path.is_file():
        raise ValueError(f"--use: there is no file {path}")
    spec = spec_from_file_location(f"jensen_use_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--use: {path} must be a Python file, ending in .py")
    before = (*Source.kinds.values(), *Family.kinds.values(), *JUDGES.values())
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # so that annotations are found
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--use: {path} fails with {type(error).__name__}: {error}") from error
    recipes = [value for value in vars(module).values() if isinstance(value, Recipe)]
    use(recipes)
    found = [v for v in (*Source.kinds.values(), *Family.kinds.values(), *JUDGES.values()) if v not in before]
    if not found and not recipes:
        raise ValueError(f"--use: {path} defines no Source, Family, Recipe or function marked @judge")
