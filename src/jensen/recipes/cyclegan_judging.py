"""How translators are judged: by readers that know the target side alone, and by what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jensen.data.pictures import sheet
from jensen.data.pool import to_bytes
from jensen.metrics import Proportion, wilson
from jensen.models import CycleGAN
from jensen.recipes import stability
from jensen.recipes.base import Track
from jensen.recipes.folder import command, save_image
from jensen.report.page import Card, Picture, Section, Table, previews, training_curves, write_page

if TYPE_CHECKING:
    from jensen.recipes.cyclegan import TranslationRecipe

CLASSES = 10
NAMES = {"a": "handwritten", "b": "printed"}
OTHER = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Judge:
    """Trained translators under judgement."""

    recipe: TranslationRecipe
    model: CycleGAN
    samples: Path
    track: Track

    def everything(self) -> dict[str, Any]:
        """The evaluation: JSON values; pictures beside it."""
        recipe = self.recipe
        train, test = recipe.training_data(), recipe.test_data()
        beside = None if recipe.judging.beside is None else recipe.beside()
        advance = self.track("readers of either kind", 2)
        readers = {}
        for side in "ab":
            readers[side] = Reader(train[side], train[f"{side}_labels"])
            advance(1)
        found: dict[str, Any] = {
            "training": {side: len(train[side]) for side in "ab"},
            "readers": {side: asdict(readers[side].share(test[side], test[f"{side}_labels"])) for side in "ab"},
            "directions": directions(self.model, readers, train, test),
        }
        if beside is not None:
            found["beside"] = {
                "run": recipe.judging.beside,
                "directions": directions(beside, readers, train, test),
            }
        self._draw(test)
        return found

    def _draw(self, test: Mapping[str, Tensor]) -> None:
        for side in "ab":
            x = test[side][chosen(test, side, 2)]
            rows = torch.cat(there_and_back(self.model, x, side))
            save_image(sheet(to_bytes(rows), len(x), scale=3), self.samples / f"from-{side}.png")

    @staticmethod
    def headline(found: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows to print."""
        rows = []
        for side, way in found["directions"].items():
            name = f"{NAMES[side]} as {NAMES[OTHER[side]]}"
            rows += [
                (f"{name}, read right", f"{said(way['translated'])}, untranslated {said(way['untranslated'])}"),
                ("  after the best renaming of classes", said(way["renamed"])),
            ]
            if "unseen" in way:
                words = f"{said(way['unseen']['translated'])}, untranslated {said(way['unseen']['untranslated'])}"
                rows.append(("  in fonts never trained on", words))
            cycle, kept = way["cycle"], f"{said(way['kept'])}, {said(found['readers'][side])} at first"
            rows += [
                ("  read right after there and back", kept),
                (
                    "  error a pixel after there and back",
                    f"{cycle['error']:.4f}; of one picture for all {cycle['one']:.4f}",
                ),
            ]
        for side, way in found.get("beside", {}).get("directions", {}).items():
            name = f"{found['beside']['run']}: {NAMES[side]} as {NAMES[OTHER[side]]}"
            rows.append((name, f"{said(way['translated'])}, there and back {said(way['kept'])}"))
        return rows


# measuring ---------------------------------------------------------------------------------


class Reader:
    """A support vector machine that was shown one kind of pictures, with their labels; deterministic.

    Args:
        pictures: (N, C, H, W).
        labels: (N,).
    """

    def __init__(self, pictures: Tensor, labels: Tensor):
        from sklearn.svm import SVC  # seconds to import

        self.machine = SVC(C=10.0, gamma="scale").fit(pictures.flatten(1).numpy(), labels.numpy())

    def __call__(self, pictures: Tensor) -> Tensor:
        """Labels, (N,)."""
        return torch.from_numpy(self.machine.predict(pictures.flatten(1).numpy()))

    def share(self, pictures: Tensor, labels: Tensor) -> Proportion:
        """How many are read as labelled."""
        return share(self(pictures), labels)


def share(read: Tensor, labels: Tensor) -> Proportion:
    """How many agree, with an interval."""
    return wilson(int((read == labels).sum()), len(read))


def confusion(labels: Tensor, read: Tensor) -> Tensor:
    """How many of each class (row) were read as each class (column)."""
    return torch.bincount(labels * CLASSES + read, minlength=CLASSES**2).view(CLASSES, CLASSES)


def best_renaming(table: Tensor) -> tuple[list[int], int]:
    """The one-to-one renaming of classes under which most agree, and how many: what a permuted translation got right.

    Args:
        table: (K, K) counts, rows by label, columns by what was read.

    >>> best_renaming(torch.tensor([[0, 9], [8, 1]]))
    ([1, 0], 17)
    """
    rows, columns = linear_sum_assignment(-table.numpy())
    return columns.tolist(), int(np.asarray(table)[rows, columns].sum())


@torch.no_grad()
def there_and_back(model: CycleGAN, x: Tensor, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of a side, their translations, and these translated back; on the CPU."""
    device = next(model.parameters()).device
    there = model.translate(x.to(device), OTHER[side])
    return x, there.cpu(), model.translate(there, side).cpu()


def directions(
    model: CycleGAN, readers: Mapping[str, Reader], train: Mapping[str, Tensor], test: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What is measured of both ways, by the side where they start: JSON values."""
    return {side: _direction(model, readers, train, test, side) for side in "ab"}


def _direction(
    model: CycleGAN, readers: Mapping[str, Reader], train: Mapping[str, Tensor], test: Mapping[str, Tensor], side: str
) -> dict[str, Any]:
    x, labels = test[side], test[f"{side}_labels"]
    _, there, back = there_and_back(model, x, side)
    reader = readers[OTHER[side]]
    before, after = reader(x), reader(there)
    table = confusion(labels, after)
    renaming, right = best_renaming(table)
    one = train[side].median(0).values  # the picture with the least absolute error to all of them
    found: dict[str, Any] = {
        "n": len(x),
        "untranslated": asdict(share(before, labels)),
        "translated": asdict(share(after, labels)),
        "renamed": asdict(wilson(right, len(x))),
        "renaming": renaming,
        "confusion": table.tolist(),
        "kept": asdict(readers[side].share(back, labels)),
        "moved": float((there - x).abs().mean()),
        "cycle": {"error": float((back - x).abs().mean()), "one": float((one - x).abs().mean())},
    }
    unseen = test.get(f"{side}_unseen")
    if unseen is not None:
        found["unseen"] = {
            "untranslated": asdict(share(before[unseen], labels[unseen])),
            "translated": asdict(share(after[unseen], labels[unseen])),
        }
    return found


# looking -----------------------------------------------------------------------------------


def chosen(test: Mapping[str, Tensor], side: str, each: int) -> Tensor:
    """Places of so many pictures of each class, the first and, of print, the last: a font never trained on."""
    places = []
    for label in range(CLASSES):
        of_class = (test[f"{side}_labels"] == label).nonzero()[:, 0]
        picked = torch.linspace(0, len(of_class) - 1, each).round().long()
        places.append(of_class[picked])
    return torch.cat(places)


def strip(model: CycleGAN, test: Mapping[str, Tensor]) -> Image.Image:
    """A picture of each class of either kind, above its translation, above the way back."""
    rows = [there_and_back(model, test[side][chosen(test, side, 1)], side) for side in "ab"]
    pictures = torch.cat([torch.cat([a, b]) for a, b in zip(*rows, strict=True)])
    return sheet(to_bytes(pictures), 2 * CLASSES, scale=2)


def said(found: Mapping[str, Any]) -> str:
    """A share in words."""
    return str(Proportion(**found))


def percent(found: Mapping[str, Any]) -> str:
    return f"{100 * found['value']:.1f}%"


def write_report(recipe: TranslationRecipe, folder: Path, found: dict[str, Any]) -> None:
    """Write report.html below a run's folder."""
    samples, ways = folder / "samples", found["directions"]
    cards = [
        Card(
            f"{NAMES[side]} as {NAMES[OTHER[side]]}, read right",
            percent(way["translated"]),
            f"untranslated {percent(way['untranslated'])}; {way['n']} pictures",
        )
        for side, way in ways.items()
    ]
    cards += [
        Card(
            f"{NAMES[side]}, read right after there and back",
            percent(way["kept"]),
            f"at first {percent(found['readers'][side])}",
        )
        for side, way in ways.items()
    ]
    sections: list[Section | None] = [
        *(
            Section(
                f"{NAMES[side].capitalize()} as {NAMES[OTHER[side]]}, and back",
                "Above, pictures it was not trained on; below them their translations; below these the way back."
                + (" Every second one is in a font never trained on." if side == "b" else ""),
                [Picture(samples / f"from-{side}.png", f"{NAMES[side]} digits, translated, and back")],
            )
            for side in ways
        ),
        Section(
            "Who reads them",
            "A support vector machine that was shown pictures of the target side alone, with their labels, reads "
            "the translations, and for comparison the pictures as they were. Training without pairs may exchange "
            "classes; the best renaming is the one-to-one exchange after which most agree. 95 percent intervals.",
            table=_readings(found),
        ),
        Section(
            "There and back",
            "Mean absolute error a pixel of pictures in [-1, 1] after both translations, beside the error of one "
            "picture for all (the median of the training pictures). A translator that changed nothing would have none, "
            "so what it changed stands beside it.",
            table=_trips(found),
        ),
        *(
            Section(
                f"What {NAMES[side]} digits became",
                f"Rows: the label; columns: as what the reader of {NAMES[OTHER[side]]} digits took the translation.",
                table=Table(
                    ("", *map(str, range(CLASSES))),
                    [[str(k), *(str(n) if n else "" for n in row)] for k, row in enumerate(way["confusion"])],
                ),
            )
            for side, way in ways.items()
        ),
        stability.section(found.get("stability")),
        Section("Training", plots=training_curves(folder, *CURVES)),
        Section(
            "Over training",
            "Left handwritten, right printed digits that it was not trained on; below them their translations, below "
            "these the way back.",
            previews(folder),
        ),
        Section("Next", code=f"{recipe.example(folder)}\n{command('evaluate', folder, '--stability')}"),
    ]
    lead = (
        f"{recipe.summary[0].upper()}{recipe.summary[1:]}: {found['training']['a']} handwritten and "
        f"{found['training']['b']} printed ones to train on, judged on {ways['a']['n']} and {ways['b']['n']} others."
    )
    write_page(folder, lead, cards, [s for s in sections if s is not None], recipe.model_dump(mode="json"))


CURVES = (
    ("translators/game", "the translators' loss in the game"),
    ("critics/loss", "the critics' loss"),
    ("translators/cycle", "error after there and back, both ways"),
    ("translators/identity", "change to pictures of the target side"),
    ("translators/distance", "distance to the pair's other half"),
)


def _named(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Ways of this run and of the other: whose, from which side, what was measured."""
    ways = [("", side, way) for side, way in found["directions"].items()]
    if "beside" in found:
        run = Path(found["beside"]["run"]).name
        ways += [(f"{run}: ", side, way) for side, way in found["beside"]["directions"].items()]
    return ways


def _readings(found: dict[str, Any]) -> Table:
    rows = []
    for run, side, way in _named(found):
        name = f"{run}{NAMES[side]} as {NAMES[OTHER[side]]}"
        rows.append((name, said(way["untranslated"]), said(way["translated"]), said(way["renamed"]), said(way["kept"])))
        if "unseen" in way:
            unseen = way["unseen"]
            rows.append((f"{name}, unseen fonts", said(unseen["untranslated"]), said(unseen["translated"]), "", ""))
    for side, real in found["readers"].items():
        rows.append((f"real {NAMES[side]}, their own reader", said(real), "", "", ""))
    return Table(("", "untranslated", "translated", "best renaming", "there and back"), rows)


def _trips(found: dict[str, Any]) -> Table:
    rows = [
        (
            f"{run}{NAMES[side]}",
            f"{way['cycle']['error']:.4f}",
            f"{way['cycle']['one']:.4f}",
            f"{way['moved']:.4f}",
        )
        for run, side, way in _named(found)
    ]
    return Table(("", "error", "one picture for all", "changed by the translation"), rows)
