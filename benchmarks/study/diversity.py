"""How different the pictures of one string are, and whether they have the styles that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jensen.data.captcha import Style
from jensen.data.pool import from_bytes
from jensen.data.space import Text
from jensen.metrics import Proportion, mean_over_pairs
from jensen.nn import Recogniser
from jensen.recipes.sources.captcha import TextReader
from study.pictures import CHUNK, Study, fitted, in_data, labels, read, reduced, share

KINDS = ("font", "paper", "ink")
Z = 1.959963984540054


@dataclass(frozen=True)
class Spread:
    """How far two pictures of one string are apart on average, with 95 percent intervals.

    Attributes:
        name: what drew them, and what was asked for.
        n: number of pictures.
        pixels: root mean square distance, in levels of 255.
        features: the same between features of the filter's reader, in units of those of the classical drawer's styled
            pictures (or of its default ones, if the run has no styles).
    """

    name: str
    n: int
    pixels: Proportion
    features: Proportion


@dataclass(frozen=True)
class Reached:
    """Combinations of styles that are reached by the pictures of one string.

    Attributes:
        name: what drew them.
        combinations: number of different ones that are found in n pictures.
        n: number of pictures.
        same: how often two pictures have the same combination.
        unknown: share of pictures whose combination never occurs in data.
    """

    name: str
    combinations: int
    n: int
    same: Proportion
    unknown: Proportion


@dataclass(frozen=True)
class Found:
    """How often the style that was asked for is found.

    Attributes:
        kind: font, paper, ink, or all three.
        samples, real: pictures with combinations that occur in data, by the model and by the classical drawer.
        new_samples, new_real: the same for combinations that never occur in data.
    """

    kind: str
    samples: Proportion | None
    real: Proportion | None
    new_samples: Proportion | None
    new_real: Proportion | None


@dataclass(frozen=True)
class Diversity:
    """What was found; `reached` and `found` are empty and `combinations` and `known` 0 for a run without styles.

    Attributes:
        text: the one string.
        style: the one style, or "".
        spreads: distances between pictures of the string.
        reached: combinations of styles.
        combinations, known: number of all combinations, and of those that occur in data.
        found: styles asked and found.
    """

    text: str
    style: str
    spreads: list[Spread]
    reached: list[Reached]
    combinations: int
    known: int
    found: list[Found]


def measure(study: Study) -> Diversity:
    """Draw one string many times, and read the styles of pictures."""
    style, n = study.style, study.sizes.same
    text, *named = one(style).split()
    plain = replace(style, fonts=(), papers=(), inks=())
    drawn = [
        ("model", study.drawn("one string", [text] * n)),
        ("classical drawer, default style", study.real("one string, default style", [text] * n, plain)),
    ]
    if named:
        label = " ".join([text, *named])
        drawn += [
            ("classical drawer, all its styles", study.real("one string", [text] * n)),
            ("model, one style", study.drawn("one string, one style", [label] * n)),
            ("classical drawer, one style", study.real("one string, one style", [label] * n)),
        ]
    unit = drawn[2 if named else 1][1]
    spreads = spread(drawn, study.reader.network, unit)
    if not named:
        return Diversity(text, "", spreads, [], 0, 0, [])
    reader = style_reader(study)
    shown = [(name, read(reader, reduced(x))) for name, x in (drawn[0], drawn[2])]
    every = torch.cartesian_prod(*(torch.arange(len(names)) for names in style.looks))
    known = int(together(style, every).sum())
    counted = [reached(name, found, style) for name, found in shown]
    return Diversity(text, " ".join(named), spreads, counted, len(every), known, asked_and_found(study, reader))


def one(style: Style) -> str:
    """A held-out text of the greatest length, with a style that occurs in data."""
    many = labels(style, 400, "test", "one")
    fits = in_data(style, many).tolist() if style.fonts else [True] * len(many)
    return next(k for k, fit in zip(many, fits, strict=True) if fit and len(k.split()[0]) == style.length)


def spread(drawn: Sequence[tuple[str, Tensor]], network: Recogniser, unit: Tensor) -> list[Spread]:
    """Mean distances between pictures, uint8, by name; features are relative to those of `unit`."""
    scale = apart(features(network, unit)).value
    found = []
    for name, x in drawn:
        pixels, inner = apart(x.flatten(1).double()), apart(features(network, x) / scale)
        found.append(Spread(name, len(x), pixels, inner))
    return found


def features(network: Recogniser, x: Tensor) -> Tensor:
    """The last features of a reader's convolutions, (N, d), of pictures, uint8."""
    assert hasattr(network, "features")
    with torch.no_grad():
        return torch.cat([network.features(from_bytes(part)).flatten(1) for part in x.split(CHUNK)]).double()


def apart(x: Tensor) -> Proportion:
    """The mean root mean square distance between two rows, (N, d), with its interval."""
    return estimate(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5)


def estimate(values: Tensor) -> Proportion:
    """The mean over pairs of a symmetric matrix of numbers from 0, with its interval."""
    found = mean_over_pairs(values)
    low, high = max(0.0, found.value - Z * found.stderr), found.value + Z * found.stderr
    return Proportion(found.value, low, high, len(values))


def style_reader(study: Study) -> TextReader:
    """A reader of font, paper and ink, trained on pictures of the classical drawer in all combinations."""
    named = labels(study.style, study.sizes.styles, "train", "styles")
    x, numbers = reduced(study.real("reader of styles", named)), styles_of(study.style, named)
    texts = Text("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: max(map(len, study.style.looks))], len(KINDS))
    return fitted(study, "styles", x, numbers, texts, steps=study.sizes.style_steps)[0]


def styles_of(style: Style, named: Sequence[str]) -> Tensor:
    """Numbers of font, paper and ink of labels that name all three, (N, 3)."""
    return style.texts.encode(named)[:, style.length :] - 1


def together(style: Style, numbers: Tensor) -> Tensor:
    """Which combinations (N, 3) occur in data, (N,) bool."""
    return torch.tensor([style.together(*row) for row in numbers.tolist()])


def reached(name: str, numbers: Tensor, style: Style) -> Reached:
    """Combinations (N, 3) that are reached, and how often two pictures have the same."""
    same = (numbers[:, None] == numbers).all(2).double()
    known = sum(
        all(k < len(names) for k, names in zip(row, style.looks, strict=True)) and style.together(*row)
        for row in numbers.tolist()
    )
    unknown = share(torch.arange(len(numbers)) >= known)
    assert unknown is not None
    return Reached(name, len(numbers.unique(dim=0)), len(numbers), estimate(same), unknown)


def asked_and_found(study: Study, reader: TextReader) -> list[Found]:
    """How often each kind of style is found as asked, by whether the combination occurs in data."""
    asked, known = styles_of(study.style, study.asked), in_data(study.style, study.asked)
    right = [read(reader, reduced(x)) == asked for x in study.asked_pictures]
    right = [torch.cat([v, v.all(1, keepdim=True)], 1) for v in right]
    return [
        Found(kind, *(share(v[rows, k]) for rows in (known, ~known) for v in right))
        for k, kind in enumerate((*KINDS, "all three"))
    ]
