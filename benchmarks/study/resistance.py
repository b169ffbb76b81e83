"""How many labelled pictures an attacker's reader needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from jensen.core.seeding import derived
from jensen.data.captcha import HUES, Split, Style
from jensen.data.space import Text
from jensen.metrics import Proportion
from jensen.recipes.presets import OTHER_FONTS
from jensen.recipes.sources.captcha import TextReader
from study.pictures import HEIGHT, Sizes, Study, fitted, labels, reduced, right, share

INK = (60, 140)  # luminances of the attacker's inks
RATE = 1e-3  # of training on labelled pictures
EXPONENT = 0.35  # steps rise with this power of the number of labelled pictures


@dataclass(frozen=True)
class Attack:
    """An attacker's reader after training on labelled pictures of the service.

    Attributes:
        labelled: number of these pictures.
        minutes: training on them.
        read: served pictures of held-out texts whose whole text is read.
        real: the classical drawer's pictures of the same labels.
    """

    labelled: int
    minutes: float
    read: Proportion
    real: Proportion


@dataclass(frozen=True)
class Resistance:
    """What was found.

    Attributes:
        fonts: of the attacker's own classical pictures; none: the font of the captcha package.
        pictures, minutes: their number, and the minutes of training on them.
        own: held-out pictures of this kind that the reader reads after it.
        filtered: whether only pictures that the service's filter keeps are used; it is false if it keeps none.
        attacks: by the number of labelled pictures.
        insider: served pictures that the second reader reads, which was trained on the drawer itself; None without one.
    """

    fonts: tuple[str, ...]
    pictures: int
    minutes: float
    own: Proportion
    filtered: bool
    attacks: list[Attack]
    insider: Proportion | None


def measure(study: Study) -> Resistance:
    """Train the attacker's reader on classical pictures, then on more and more of the service's."""
    style, sizes = classical(study.style), study.sizes
    characters, x = own_pictures(study, style, sizes.classical, "train")
    start, minutes = fitted(study, "attacker", x, characters, unstyled(study.texts), steps=sizes.classical_steps)
    characters, x = own_pictures(study, style, sizes.asked, "test")
    own, rows = share(right(start, x, characters)), anything(study.accepted)
    insider = None
    if study.second is not None:
        insider = share(right(study.second, study.asked_pictures[0][rows], study.characters(study.asked)[rows]))
    filtered = bool(study.accepted.any())
    return Resistance(style.fonts, sizes.classical, minutes, own, filtered, attacks(study, start, rows), insider)


def attacks(study: Study, start: TextReader, rows: Tensor) -> list[Attack]:
    """What the attacker's reader reads of these rows of the held-out texts, after more and more labelled pictures."""
    asked, shown = study.characters(study.asked)[rows], [reduced(x[rows]) for x in study.asked_pictures]
    many = labels(study.style, requests(study, share(study.accepted).low), "train", "attack")
    x, characters = study.drawn("pictures that the attacker labels", many), study.characters(many)
    kept = anything(right(study.reader, x, characters))
    x, characters = reduced(x[kept]), characters[kept]
    found = []
    for n in sorted({0, *(min(n, len(x)) for n in study.sizes.attack)}):
        reader, minutes = start, 0.0
        if n:
            own = {"rate": RATE, "start": start.network, "steps": steps(study.sizes, n)}
            name = f"attacker with {n:,} pictures"
            reader, minutes = fitted(study, name, x[:n], characters[:n], unstyled(study.texts), **own)
        found.append(Attack(n, minutes, *(share(right(reader, pictures, asked)) for pictures in shown)))
    return found


def steps(sizes: Sizes, n: int) -> int:
    """Steps of training on n labelled pictures."""
    return max(1, round(sizes.tune_steps * (n / sizes.attack[0]) ** EXPONENT))


def requests(study: Study, kept: float) -> int:
    """How many pictures to draw so that as many as the attacker labels are kept; at most twice as many."""
    most = study.sizes.attack[-1]
    return min(2 * most, math.ceil(most / max(kept, 0.1)))


def anything(kept: Tensor) -> Tensor:
    """What is kept, or everything if nothing is, (N,) bool."""
    return kept if bool(kept.any()) else ~kept


def unstyled(texts: Text) -> Text:
    """The same texts without styles, which the attacker does not read."""
    return Text(texts.alphabet, texts.length, texts.shortest)


def classical(style: Style) -> Style:
    """What an attacker can draw without having seen the service: other fonts on plain paper, in any ink, small.

    For a run without named fonts, it is the captcha package as it is.
    """
    factor = max(1, style.height // HEIGHT)
    small = replace(style, height=style.height // factor, width=style.width // factor)
    if not style.fonts:
        return small
    fonts = tuple(name for name in OTHER_FONTS if name not in style.fonts)
    return replace(small, fonts=fonts, papers=("plain",), inks=tuple(HUES), ink=INK)


def own_pictures(study: Study, style: Style, n: int, split: Split) -> tuple[Tensor, Tensor]:
    """Characters and pictures of the attacker's own."""
    found, x = study.random(f"the attacker's own, {split}", style, n, split, derived(0, "attacker", split))
    return style.texts.legible(style.texts.encode(found)), x.contiguous()
