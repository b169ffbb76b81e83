"""Translations: their classes as read by readers of the target side, and round-trip errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jensen.core.protocols import Translating
from jensen.data.dataset import Data, some
from jensen.data.pool import Tensors
from jensen.data.space import Classes
from jensen.judging.case import Case, device_of, judge
from jensen.judging.features import features_of
from jensen.metrics import Distance, Proportion, best_renaming, confusion, kernel_distance, wilson
from jensen.report.findings import Finding, Part, Picture, Table, estimated, proportion, sentence
from jensen.report.gallery import fitting_scale, gallery

OTHER = {"a": "b", "b": "a"}
CLASSES = 10  # columns of a sheet, at most
LEAST = 20  # pictures from which a kernel distance is computed


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

    @property
    def names(self) -> tuple[str, ...]:
        cond = self.data.space.cond
        return cond.names if isinstance(cond, Classes) else ()

    def read(self, x: Tensor) -> Tensor | None:
        """The classes that this side's reader reads in pictures, (N,)."""
        reader = self.data.truths.reader
        return None if reader is None else reader.read(x)[:, 0]


def sides(data: Data, rows: int) -> dict[str, Side]:
    """The two sides, with at most `rows` held-out pictures each."""
    assert data.b is not None
    found = {}
    for name, side in (("a", data), ("b", data.b)):
        test, cond = some(side.test, rows), side.space.cond
        unseen = None if side.unseen is None else some(Tensors(unseen=side.unseen), rows)["unseen"]
        labels = test["cond"][:, 0] if isinstance(cond, Classes) else None
        found[name] = Side(test["x"], labels, unseen, some(side.train, rows)["x"].median(0).values, side)
    return found


@dataclass(frozen=True)
class Way:
    """Measurements of one direction, from one side to the other and back.

    Attributes:
        n: number of pictures.
        cycle: mean absolute error per pixel after the round trip.
        constant: the same error for a constant picture: the median of the training pictures.
        moved: mean absolute change per pixel by the translation.
        shares: shares of pictures read as labelled; empty without labels and readers. By the target side's reader:
            "untranslated", "translated", "renamed" (after the best renaming of classes), and for unseen kinds "unseen
            untranslated" and "unseen". By the reader of the source side: "own", and "kept" after the round trip.
        kernel: kernel distances to held-out pictures of the target side, in features of a convolutional network with
            random weights: of the "translated" pictures, the "untranslated" ones, and "training" pictures of the
            target side; empty for too few pictures.
        confusion: (K, K) counts, rows by label, columns by what was read.
        renaming: the permutation of classes under which most readings agree with the labels.
    """

    n: int
    cycle: float
    constant: float
    moved: float
    shares: Mapping[str, Proportion]
    kernel: Mapping[str, Distance]
    confusion: Tensor | None = None
    renaming: tuple[int, ...] = ()


@torch.no_grad()
def round_trip(model: Translating, x: Tensor, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of a side, their translations, and the translations back, on the CPU."""
    there = model.translate(x.to(device_of(model)), OTHER[side])
    return x, there.cpu(), model.translate(there, side).cpu()


def way(model: Translating, known: Mapping[str, Side], side: str) -> Way:
    """Measure the direction from one side to the other and back."""
    here, target = known[side], known[OTHER[side]]
    x, there, back = round_trip(model, here.x, side)
    cycle, constant, moved = (float((x - y).abs().mean()) for y in (back, here.middle, there))
    kernel = nearness(target, x, there)
    before, after = target.read(x), target.read(there)
    own, returned, labels = here.read(x), here.read(back), here.labels
    if labels is None or before is None or after is None:
        return Way(len(x), cycle, constant, moved, {}, kernel)
    table = confusion(labels, after, len(here.names))
    renaming, right = best_renaming(table)
    shares = {"untranslated": share(before, labels), "translated": share(after, labels)}
    shares["renamed"] = wilson(right, len(x))
    if own is not None and returned is not None:
        shares |= {"own": share(own, labels), "kept": share(returned, labels)}
    if (new := here.unseen) is not None and bool(new.any()):
        shares |= {"unseen untranslated": share(before[new], labels[new]), "unseen": share(after[new], labels[new])}
    return Way(len(x), cycle, constant, moved, shares, kernel, table, tuple(renaming))


def nearness(target: Side, x: Tensor, there: Tensor) -> dict[str, Distance]:
    """Kernel distances of pictures, of their translations and of training pictures to a target side's held-out ones."""
    sets = {"translated": there, "untranslated": x, "training": some(target.data.train, len(target.x))["x"]}
    if min(len(target.x), *map(len, sets.values())) < LEAST:
        return {}
    features = features_of("convolutional", target.data)
    return {name: kernel_distance(features(target.x), features(v)) for name, v in sets.items()}


def share(read: Tensor, labels: Tensor) -> Proportion:
    """The share of pictures that are read as their label, with an interval."""
    return wilson(int((read == labels).sum()), len(read))


# what is said --------------------------------------------------------------------------------


@judge
def translation(case: Case) -> Part | None:
    """Translations as pictures, as read by readers, and after the round trip."""
    model, data = case.model, case.data
    if data.b is None or not isinstance(model, Translating):
        return None
    known = sides(data, case.settings.rows)
    translators = [("", model)] if case.beside is None else [("", model), case.beside]
    advance = case.track("translating", 2 * len(translators))
    every: list[tuple[str, dict[str, Way]]] = []
    for name, translator in translators:
        assert isinstance(translator, Translating)
        every.append((name and f"{name}: ", {}))
        for side in "ab":
            every[-1][1][side] = way(translator, known, side)
            advance(1)
    ways = every[0][1]
    text = (
        f"Side a: {data.name}; side b: {data.b.name}. The round-trip error is the mean absolute error per pixel after "
        "both translations. A translator that changed nothing would have no round-trip error, so the change by each "
        "translation is also given. For reference, the error of the best constant picture, the median of the training "
        "pictures, is given too. The kernel distance compares translations with held-out pictures of the target side, "
        "by features of a convolutional network with random weights; its floor is that of training pictures of the "
        "target side. The sheets show held-out pictures, their translations, and the translations back."
    )
    if any(w.shares for w in ways.values()):
        text += (
            " A reader that was trained only on labelled pictures of the target side reads the translations, and the "
            "untranslated pictures for comparison. Training without pairs can permute the classes: the best renaming "
            "is the permutation under which most readings agree with the labels."
        )
    tables = ((side, w.confusion) for side, w in ways.items())
    confusions = [_confusions(side, table, known[side].names) for side, table in tables if table is not None]
    details: dict[str, Any] = {}
    for prefix, group in every:
        for side, w in group.items():
            table = None if w.confusion is None else w.confusion.tolist()
            details[prefix + side] = {"n": w.n, "renaming": list(w.renaming), "confusion": table}
    return Part(
        "Translation and round-trip error",
        text,
        [finding for side, w in ways.items() for finding in _findings(side, w)],
        [_rows(model, known, side) for side in "ab"],
        tables=[*[_table(every)] * (len(every) > 1 or bool(confusions)), *confusions],
        details={"translation": details},
    )


def _arrow(side: str) -> str:
    return f"{side} to {OTHER[side]}"


def _findings(side: str, w: Way) -> list[Finding]:
    key, name, shares, found = f"{side}_to_{OTHER[side]}", _arrow(side), w.shares, []
    if shares:
        note = f"untranslated {shares['untranslated']}; n = {w.n}"
        found += [
            proportion(key, f"{name}, read as labelled", shares["translated"], note=note, card=True),
            proportion(f"{key}_renamed", f"{name}, after the best renaming of classes", shares["renamed"]),
        ]
    if "unseen" in shares:
        note = f"untranslated {shares['unseen untranslated']}"
        kinds = f"{name}, kinds that do not occur in training"
        found.append(proportion(f"{key}_unseen", kinds, shares["unseen"], note=note))
    if "kept" in shares:
        words, floor = f"{side} after the round trip, read as labelled", shares["own"].value
        found.append(proportion(f"{key}_kept", words, shares["kept"], floor=floor, note="floor: before the round trip"))
    if w.kernel:
        near, far, real = (w.kernel[name] for name in ("translated", "untranslated", "training"))
        words, note = f"{name}, kernel distance to side {OTHER[side]}", f"untranslated {far.value:.3g}"
        found.append(estimated(f"{key}_kernel", words, near, floor=real.value, note=note, card=not shares))
    return [
        *found,
        Finding(f"{key}_cycle", f"round-trip error of {side}", w.cycle, note=f"constant picture: {w.constant:.4f}"),
        Finding(f"{key}_moved", f"change by the translation {name}", w.moved, best=None),
    ]


def _table(every: list[tuple[str, dict[str, Way]]]) -> Table:
    """All directions of this run and of the run that it is compared with, and the readers' accuracy on real
    pictures.
    """
    rows, read = [], any(w.shares for _, ways in every for w in ways.values())
    for prefix, ways in every:
        for side, w in ways.items():
            shares = [str(w.shares.get(key, "")) for key in ("untranslated", "translated", "renamed", "kept")]
            errors = (f"{v:.4f}" for v in (w.cycle, w.constant, w.moved))
            rows.append((f"{prefix}{_arrow(side)}", *shares * read, *errors))
            if "unseen" in w.shares:
                unseen = (str(w.shares[key]) for key in ("unseen untranslated", "unseen"))
                rows.append((f"{prefix}{_arrow(side)}, unseen", *unseen, *[""] * 5))
    own = ((side, w.shares["own"]) for side, w in every[0][1].items() if "own" in w.shares)
    rows += [(f"real {side}, read by the reader of this side", str(v), *[""] * 6) for side, v in own]
    head = ["untranslated", "translated", "best renaming", "round trip"] * read
    return Table(("", *head, "round-trip error", "constant picture", "change"), rows)


def _confusions(side: str, table: Tensor, names: Sequence[str]) -> Table:
    rows = [[name, *(str(n) if n else "" for n in row)] for name, row in zip(names, table.tolist(), strict=True)]
    return Table(("", *names), rows, f"{_arrow(side)}: rows by label, columns by what the target side's reader read")


def chosen(side: Side, each: int) -> Tensor:
    """Indices of `each` pictures of every class, from those of kinds seen in training to those unseen; without classes,
    of all pictures.
    """
    if side.labels is None:
        return torch.linspace(0, len(side.x) - 1, min(CLASSES * each, len(side.x))).round().long()
    places = []
    for label in side.labels.unique()[:CLASSES]:
        of_class = (side.labels == label).nonzero()[:, 0]
        if side.unseen is not None:
            of_class = of_class[side.unseen[of_class].long().argsort(stable=True)]
        places.append(of_class[torch.linspace(0, len(of_class) - 1, each).round().long()])
    return torch.cat(places)


def _rows(model: Translating, known: Mapping[str, Side], side: str) -> Picture:
    x = known[side].x[chosen(known[side], 2)]
    page = gallery(torch.cat(round_trip(model, x, side)), columns=len(x), scale=fitting_scale(known[side].data.space))
    words = f"{_arrow(side)}: pictures, their translations, and the translations back"
    return Picture(f"from-{side}", page, words, sentence(words))


def strip(model: torch.nn.Module, data: Data) -> Image.Image:
    """A held-out picture of each class of both sides, its translation below it, and the translation back at the bottom;
    side a is on the left.
    """
    assert isinstance(model, Translating)
    known = sides(data, 2000)
    rows = [round_trip(model, known[side].x[chosen(known[side], 1)], side) for side in "ab"]
    both = torch.cat([torch.cat([a, b]) for a, b in zip(*rows, strict=True)])
    return gallery(both, columns=len(rows[0][0]) + len(rows[1][0]), scale=2)
