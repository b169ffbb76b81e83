"""Translations: how readers of the target side classify them, and round-trip errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jensen.data.dataset import Data, some
from jensen.data.pool import Tensors
from jensen.judging.case import Case, judge
from jensen.metrics import Proportion, wilson
from jensen.report.findings import Finding, Part, Picture, Table, proportion, sentence
from jensen.report.gallery import fitting_scale, gallery

OTHER = {"a": "b", "b": "a"}
CLASSES = 10  # columns of a sheet, at most


@runtime_checkable
class Translator(Protocol):
    """Translates pictures to a side, "a" or "b"."""

    def translate(self, x: Tensor, to: str = "b") -> Tensor: ...


@dataclass(frozen=True)
class Side:
    """Held-out pictures of one side and their labels.

    Attributes:
        x: (N, C, H, W).
        labels: classes (N,), or None.
        unseen: which pictures are of a kind that does not occur in training, (N,) bool, or None.
        middle: the pixelwise median of the training pictures.
        data: the data of this side.
    """

    x: Tensor
    labels: Tensor | None
    unseen: Tensor | None
    middle: Tensor
    data: Data

    @classmethod
    def of(cls, data: Data, rows: int) -> Side:
        test = some(data.test, rows)
        unseen = None if data.unseen is None else some(Tensors(unseen=data.unseen), rows)["unseen"]
        labels = test["cond"][:, 0] if "cond" in test and test["cond"].shape[1] == 1 else None
        return cls(test["x"], labels, unseen, some(data.train, rows)["x"].median(0).values, data)

    def read(self, x: Tensor) -> Tensor | None:
        """The classes that this side's reader reads in pictures, (N,)."""
        reader = self.data.truths.reader
        return None if reader is None else reader.read(x)[:, 0]


def sides(data: Data, rows: int) -> dict[str, Side]:
    assert data.b is not None
    return {"a": Side.of(data, rows), "b": Side.of(data.b, rows)}


@dataclass(frozen=True)
class Way:
    """Measurements of one direction, from a side to the other and back.

    Attributes:
        n: number of pictures.
        untranslated, translated, renamed, kept: shares read as labelled: by the target side's reader before and after
            translation, and after the best renaming of classes; by the side's own reader after the round trip.
        own: share of pictures read as labelled by the side's own reader.
        unseen: untranslated and translated among the pictures of unseen kinds.
        confusion: (K, K) counts, rows by label, columns by what was read.
        renaming: the permutation of classes under which most readings agree with the labels.
        cycle: mean absolute error per pixel after the round trip.
        one: the same error for a constant picture: the median of the training pictures.
        moved: mean absolute change per pixel by the translation.
    """

    n: int
    cycle: float
    one: float
    moved: float
    untranslated: Proportion | None = None
    translated: Proportion | None = None
    renamed: Proportion | None = None
    kept: Proportion | None = None
    own: Proportion | None = None
    unseen: tuple[Proportion, Proportion] | None = None
    confusion: Tensor | None = None
    renaming: tuple[int, ...] = ()

    def details(self) -> dict[str, Any]:
        """JSON values."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        return {"n": self.n, "renaming": list(self.renaming), "confusion": confusion}


@torch.no_grad()
def round_trip(model: Translator, x: Tensor, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of a side, their translations, and these translated back; on the CPU."""
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, torch.nn.Module) else ()
    made = x.to(tensors[0].device) if tensors else x
    there = model.translate(made, OTHER[side])
    return x, there.cpu(), model.translate(there, side).cpu()


def way(model: Translator, known: Mapping[str, Side], side: str) -> Way:
    """Measure the direction from one side to the other and back."""
    here, target = known[side], known[OTHER[side]]
    x, there, back = round_trip(model, here.x, side)
    found: dict[str, Any] = {
        "n": len(x),
        "cycle": float((back - x).abs().mean()),
        "one": float((here.middle - x).abs().mean()),
        "moved": float((there - x).abs().mean()),
    }
    before, after, own = target.read(x), target.read(there), here.read(x)
    if here.labels is None or before is None or after is None:
        return Way(**found)
    labels, cond = here.labels, here.data.space.cond
    table = confusion(labels, after, cond.size if cond is not None else int(labels.max()) + 1)
    renaming, right = best_renaming(table)
    found |= {
        "untranslated": share(before, labels),
        "translated": share(after, labels),
        "renamed": wilson(right, len(x)),
        "confusion": table,
        "renaming": tuple(renaming),
    }
    if own is not None:
        returned = here.read(back)
        assert returned is not None
        found |= {"own": share(own, labels), "kept": share(returned, labels)}
    if here.unseen is not None and bool(here.unseen.any()):
        new = here.unseen
        found["unseen"] = (share(before[new], labels[new]), share(after[new], labels[new]))
    return Way(**found)


def share(read: Tensor, labels: Tensor) -> Proportion:
    """The share that agree, with an interval."""
    return wilson(int((read == labels).sum()), len(read))


def confusion(labels: Tensor, read: Tensor, classes: int) -> Tensor:
    """The confusion matrix: counts by class (row) and class read (column)."""
    return torch.bincount(labels * classes + read, minlength=classes**2).view(classes, classes)


def best_renaming(table: Tensor) -> tuple[list[int], int]:
    """The permutation of classes under which most readings agree with the labels, and the number of those that agree.

    Args:
        table: (K, K) counts, rows by label, columns by what was read.

    >>> best_renaming(torch.tensor([[0, 9], [8, 1]]))
    ([1, 0], 17)
    """
    rows, columns = linear_sum_assignment(-table.numpy())
    return columns.tolist(), int(np.asarray(table)[rows, columns].sum())


# what is said --------------------------------------------------------------------------------


@judge
def translation(case: Case) -> Part | None:
    """Translations as pictures, as read by readers, and after the round trip."""
    model, data = case.model, case.data
    if data.b is None or not isinstance(model, Translator):
        return None
    known = sides(data, case.settings.rows)
    names = {"a": data.name, "b": data.b.name}
    advance = case.track("translating", 2)
    ways = {}
    for side in "ab":
        ways[side] = way(model, known, side)
        advance(1)
    every = [("", ways)]
    if case.beside is not None:
        name, other = case.beside
        assert isinstance(other, Translator)
        every.append((f"{name}: ", {side: way(other, known, side) for side in "ab"}))
    text = (
        f"Side a: {names['a']}; side b: {names['b']}. A reader that was trained only on labelled pictures of the "
        "target side reads the translations, and the untranslated pictures for comparison. Training without pairs "
        "can permute the classes: the best renaming is the permutation under which most readings agree with the "
        "labels. The round-trip error is the mean absolute error per pixel after both translations. A translator "
        "that changed nothing would have no round-trip error, so the change by each translation is also given. For "
        "reference, the error of the best constant picture, the median of the training pictures, is given too. The "
        "sheets show held-out pictures, their translations, and the translations back."
    )
    details = {f"{prefix}{side}": w.details() for prefix, group in every for side, w in group.items()}
    return Part(
        "Translation and round-trip error",
        text,
        [finding for side, w in ways.items() for finding in _findings(side, w)],
        [_rows(model, known, side) for side in "ab"],
        tables=[_table(every), *(_confusions(side, w, data) for side, w in ways.items() if w.confusion is not None)],
        details={"translation": details},
    )


def _arrow(side: str) -> str:
    return f"{side} to {OTHER[side]}"


def _findings(side: str, w: Way) -> list[Finding]:
    key, name = f"{side}_to_{OTHER[side]}", _arrow(side)
    found = []
    if w.translated is not None and w.untranslated is not None:
        note = f"untranslated {w.untranslated}; n = {w.n}"
        found.append(proportion(key, f"{name}, read as labelled", w.translated, note=note, card=True))
    if w.renamed is not None:
        found.append(proportion(f"{key}_renamed", f"{name}, after the best renaming of classes", w.renamed))
    if w.unseen is not None:
        note = f"untranslated {w.unseen[0]}"
        found.append(
            proportion(f"{key}_unseen", f"{name}, kinds that do not occur in training", w.unseen[1], note=note)
        )
    if w.kept is not None and w.own is not None:
        words = f"{side} after the round trip, read as labelled"
        found.append(proportion(f"{key}_kept", words, w.kept, floor=w.own.value, note="floor: before it"))
    note = f"constant picture: {w.one:.4f}"
    return [
        *found,
        Finding(f"{key}_cycle", f"round-trip error of {side}", w.cycle, note=note),
        Finding(f"{key}_moved", f"change by the translation {name}", w.moved, best=None),
    ]


def _table(every: list[tuple[str, dict[str, Way]]]) -> Table:
    """All directions of this run and of the run it is compared with, and the readers' accuracy on real pictures."""
    read, errors = ("untranslated", "translated", "best renaming", "round trip"), ("round-trip error", "one picture")
    rows = []
    for prefix, ways in every:
        for side, w in ways.items():
            shares = ("" if v is None else str(v) for v in (w.untranslated, w.translated, w.renamed, w.kept))
            numbers = (f"{v:.4f}" for v in (w.cycle, w.one, w.moved))
            rows.append((f"{prefix}{_arrow(side)}", *shares, *numbers))
            if w.unseen is not None:
                rows.append((f"{prefix}{_arrow(side)}, unseen", *map(str, w.unseen), *[""] * 5))
    real = [(f"real {side}, their own reader", str(w.own), *[""] * 6) for side, w in every[0][1].items() if w.own]
    return Table(("", *read, *errors, "change"), [*rows, *real])


def _confusions(side: str, w: Way, data: Data) -> Table:
    assert w.confusion is not None
    cond = data.space.cond
    names = list(getattr(cond, "names", ())) or [str(k) for k in range(len(w.confusion))]
    rows = [[name, *(str(n) if n else "" for n in row)] for name, row in zip(names, w.confusion.tolist(), strict=True)]
    return Table(("", *names), rows, f"{_arrow(side)}: rows by label, columns by what the target side's reader read")


def chosen(side: Side, each: int) -> Tensor:
    """Indices of this many pictures of each class, including the first and last; without classes, of all pictures."""
    if side.labels is None:
        return torch.linspace(0, len(side.x) - 1, min(CLASSES * each, len(side.x))).round().long()
    places = []
    for label in side.labels.unique()[:CLASSES]:
        of_class = (side.labels == label).nonzero()[:, 0]
        places.append(of_class[torch.linspace(0, len(of_class) - 1, each).round().long()])
    return torch.cat(places)


def _rows(model: Translator, known: Mapping[str, Side], side: str) -> Picture:
    x = known[side].x[chosen(known[side], 2)]
    page = gallery(torch.cat(round_trip(model, x, side)), columns=len(x), scale=fitting_scale(known[side].data.space))
    words = f"{_arrow(side)}: pictures, their translations, and the translations back"
    return Picture(f"from-{side}", page, words, sentence(words))


def strip(model: torch.nn.Module, data: Data) -> Image.Image:
    """A held-out picture of each class of both sides, above its translation, above the translation back; a is on the
    left.
    """
    assert isinstance(model, Translator)
    known = sides(data, 2000)
    rows = [round_trip(model, known[side].x[chosen(known[side], 1)], side) for side in "ab"]
    both = torch.cat([torch.cat([a, b]) for a, b in zip(*rows, strict=True)])
    return gallery(both, columns=len(rows[0][0]) + len(rows[1][0]), scale=2)
