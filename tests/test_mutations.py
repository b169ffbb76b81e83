"""The laws can tell: the library is broken on purpose, a token or a term at a time, and the law named must fail.

Each mutation runs in a forked child, which has torch at hand already and imports jensen anew with that one module's
text changed. They are listed in mutations.tsv, each beside the law that catches it. A law counts as catching it if a
claim of its fails, or if jensen itself refuses what it then meets; an import that fails does not count. Each law is
shown to hold, in the same way, on the text as it is.
"""

from __future__ import annotations

import csv
import importlib
import multiprocessing
import sys
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import torch

import jensen
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
}
KEPT = ("jensen.recipes", "jensen.cli")  # laws need their plots alone
PATIENCE = 60  # seconds


@pytest.fixture(scope="module", autouse=True)
def _warm():
    """What an optimizer's first step imports, once for all children."""
    p = torch.zeros(1, requires_grad=True)
    p.sum().backward()
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        kind([p], lr=0.1).step()


@dataclass(frozen=True)
class Mutation:
    """In `file` the text `old`, which occurs once, becomes `new`; `law` fails."""

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
    """One module from another text."""

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


def _trial(names: list[str], mutation: Mutation | None, end) -> None:
    """In the child: import anew, run, tell of each law."""
    torch.set_num_threads(1)
    try:
        sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("jaxtyping")]
        for name in [n for n in sys.modules if n.partition(".")[0] == "jensen" and not n.startswith(KEPT)]:
            del sys.modules[name]
        if mutation is not None:
            sys.meta_path.insert(0, _Finder(mutation))
        families = importlib.import_module("jensen.check.laws").FAMILIES
        run = importlib.import_module("jensen.check.certificate").run
        laws = {law.name: law for family in families.values() for law in family}
        for name in names:
            outcome = run(laws[name])
            end.send(([str(e) for e in outcome.report.failed], outcome.error, outcome.holds))
    except BaseException as broken:  # noqa: BLE001 (told to the parent)
        end.send(([], f"not run: {type(broken).__name__}: {broken}", False))


def trials(names: list[str], mutation: Mutation | None = None) -> list[tuple[list[str], str, bool]]:
    """Of each law, claims that failed, what it broke off with, whether it held."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_trial, args=(names, mutation, there))
    child.start()
    there.close()
    found = []
    try:
        for _ in names:
            found.append(here.recv() if here.poll(PATIENCE) else ([], "not run: no word in time", False))
            if found[-1][1].startswith("not run"):
                break
    except EOFError:
        found.append(([], "not run: ended without a word", False))
    finally:
        child.kill()
        child.join()
    return found


def test_there_are_forty_over_all_families_and_each_is_one_place():
    assert len(MUTATIONS) >= 40
    assert {mutation.file.split("/")[0] for mutation in MUTATIONS} >= FAMILY_FOLDERS
    assert len(set(MUTATIONS)) == len(MUTATIONS)
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
