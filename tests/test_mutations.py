"""Mutation tests: jensen is broken on purpose, one token or term at a time, and the law that checks it must fail.

mutations.tsv lists the mutations, each with the law that must catch it. Each runs in a forked child process, which
imports the changed module, and all modules that depend on it, again. A law catches a mutation if one of its claims
fails or if jensen raises an error during the trial; an error during the import does not count. The same laws must hold
on the unchanged code.
"""

from __future__ import annotations

import csv
import importlib
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import grimp
import pytest
import torch

import jensen
from jensen.check.evidence import Evidence, Report
from jensen.check.laws import FAMILIES

SOURCE = Path(jensen.__file__).parent
REFUSALS = (
    "ValueError",
    "UserWarning",
    "NonFiniteLoss",
    "RuntimeError",
    "LinAlgError",
    "ZeroDivisionError",
    "OverflowError",
)
FAMILY_FOLDERS = {
    "distributions",
    "estimators",
    "variational",
    "diffusion",
    "score",
    "adversarial",
    "training",
    "metrics",
    "data",
}
PATIENCE = 60  # seconds
IMPORTS = grimp.build_graph("jensen", cache_dir=None)
CLEAN = {}  # the modules of jensen, imported without the hook of conftest.py that checks shapes


@pytest.fixture(scope="module", autouse=True)
def _clean():
    """Import what all children need once, here: jensen without the hook, and what an optimizer's first step imports."""
    p = torch.zeros(1, requires_grad=True)
    p.sum().backward()
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        kind([p], lr=0.1).step()
    finders, hooked = sys.meta_path[:], {name: sys.modules.pop(name) for name in _loaded()}
    _remove_hook()
    importlib.import_module("jensen.check.laws")
    CLEAN.update({name: sys.modules.pop(name) for name in _loaded()})
    sys.meta_path[:] = finders
    sys.modules.update(hooked)
    yield
    CLEAN.clear()


def _remove_hook() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "jensen"]


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs once in `file`, is replaced by `new`; `law` must fail."""

    file: str
    old: str
    new: str
    law: str

    @property
    def module(self) -> str:
        return "jensen." + self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def text(self) -> str:
        return (SOURCE / self.file).read_text(encoding="utf-8").replace(self.old, self.new)

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()} -> {self.new.strip()}"


def _table() -> tuple[Mutation, ...]:
    with (Path(__file__).parent / "mutations.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple(Mutation(**row) for row in rows)


MUTATIONS = _table()
LAWS = {law.name: law for laws in FAMILIES.values() for law in laws}


class _Loader(SourceFileLoader):
    """Loads a module from a given text instead of its file."""

    def __init__(self, name: str, path: str, text: str):
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutation: Mutation):
        self.mutation = mutation

    def find_spec(self, name, path, target=None):
        if name != self.mutation.module:
            return None
        file = str(SOURCE / self.mutation.file)
        inside = [str(Path(file).parent)] if file.endswith("__init__.py") else None
        loader = _Loader(name, file, self.mutation.text)
        return spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)


def _until_one_fails(claims: Iterable[Evidence] | Report) -> Iterator[Evidence]:
    for claim in claims.evidence if hasattr(claims, "evidence") else claims:
        yield claim
        if not claim.holds:
            return


def _trial(names: list[str], mutation: Mutation | None, end) -> None:
    """In the child process: import the changed code, test the laws, send each outcome."""
    torch.set_num_threads(1)
    try:
        _remove_hook()
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(CLEAN)
        if mutation is not None:
            for name in {mutation.module} | IMPORTS.find_downstream_modules(mutation.module):
                sys.modules.pop(name, None)
            sys.meta_path.insert(0, _Finder(mutation))
        families = importlib.import_module("jensen.check.laws").FAMILIES
        run = importlib.import_module("jensen.check.certificate").run
        laws = {law.name: law for family in families.values() for law in family}
        for name in names:
            trial = laws[name].trial
            outcome = run(replace(laws[name], trial=lambda precision, t=trial: _until_one_fails(t(precision))))
            end.send(([str(e) for e in outcome.report.failed], outcome.error, outcome.holds))
    except BaseException as broken:  # noqa: BLE001 (sent to the parent)
        end.send(([], f"not run: {type(broken).__name__}: {broken}", False))


def trials(names: list[str], mutation: Mutation | None = None) -> list[tuple[list[str], str, bool]]:
    """For each law: the first claim that failed, the error that the trial raised, and whether the law held."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_trial, args=(names, mutation, there))
    child.start()
    there.close()
    found = []
    try:
        for _ in names:
            found.append(here.recv() if here.poll(PATIENCE) else ([], "not run: no answer in time", False))
            if found[-1][1].startswith("not run"):
                break
    except EOFError:
        found.append(([], "not run: the process ended without an answer", False))
    finally:
        child.kill()
        child.join()
    return found


def test_there_are_forty_over_all_families_and_each_is_one_place():
    assert len(MUTATIONS) >= 40
    assert {mutation.file.split("/")[0] for mutation in MUTATIONS} >= FAMILY_FOLDERS
    assert len(set(MUTATIONS)) == len(MUTATIONS)
    assert f"We broke {len(MUTATIONS)} places" in (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    for mutation in MUTATIONS:
        text = (SOURCE / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, f"{mutation}: {text.count(mutation.old)} places"
        assert mutation.old != mutation.new
        assert mutation.law in LAWS, mutation.law
        compile(mutation.text, mutation.file, "exec")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_laws_hold_as_they_are(family):
    names = sorted({mutation.law for mutation in MUTATIONS} & {law.name for law in FAMILIES[family]})
    assert names
    found = dict(zip(names, trials(names), strict=True))
    assert all(holds for _, _, holds in found.values()), {k: v for k, v in found.items() if not v[2]}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_the_law_catches_it(mutation):
    [(failed, error, holds)] = trials([mutation.law], mutation)
    assert not holds, f"{mutation.law} does not see it"
    assert failed or error.startswith(REFUSALS), error
