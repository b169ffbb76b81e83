"""Classical CAPTCHA pictures, drawn by the `captcha` package, each a pure function of (seed, index).

The package draws from `secrets`, so it cannot be seeded. `Painter` runs a *private copy* of its module
whose `secrets` is a seeded generator: nothing global is patched, and other code that uses the package stays random.
Many pictures at once are drawn by worker processes (`python -m jensen.data.captcha`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from jensen.core.failure import Failure
from jensen.data.fonts import font_path
from jensen.data.looks import HUES, PAPERS, inked, paper, towards
from jensen.data.space import Text
from jensen.data.workers import cores

Split = Literal["train", "test"]
Pictures = NDArray[np.uint8]

NATIVE_HEIGHT = 60  # the package's own picture height; its fonts, dots and curve are made for it
UNNAMED = 0.15  # share of labels without the name of the font; of the paper; of the ink
FULL = 129  # luminance at which the package's mask is opaque
_SALT = "jensen/captcha/32"  # with this salt exactly 2,000 of the 10,000 four-digit strings are held out


@dataclass(frozen=True)
class Style:
    """The style of CAPTCHA pictures: alphabet, length, size, and how they look.

    With named fonts, papers and inks, each picture has one of each, and they are part of its label. Half of the pairs
    of a font and a paper, and half of those of a font and an ink, never occur in data; see `together`.

    Args:
        alphabet: the characters that texts are made of, without repeats.
        length: number of characters in a text, or the most.
        height, width: size of a picture in pixels, from 16 to 1024.
        ink: lowest and highest luminance of the ink, from 60 to 200, on paper of 238 to 255. The package pastes
            a glyph with its own luminance as the mask, so that darker ink would print fainter: 70 and 140 both
            print at about 136, and 10 at 225. Named inks print as dark as they are.
        colour: three channels with a random hue, or one channel.
        shortest: fewest characters in a text; None: `length`.
        fonts: names of font files of captcha and matplotlib; none: the package's font, without a name.
        papers: names among `PAPERS`; none with unnamed fonts.
        inks: names among `HUES`; none with unnamed fonts.

    Raises:
        ValueError: if a value is outside its range.

    >>> Style(length=5, width=80).channels
    1
    """

    alphabet: str = "0123456789"
    length: int = 4
    height: int = 24
    width: int = 64
    ink: tuple[int, int] = (70, 140)
    colour: bool = False
    shortest: int | None = None
    fonts: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()
    inks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet) or len(self.alphabet) < 2:
            raise ValueError(f"alphabet must have at least two characters without repeats, got {self.alphabet!r}")
        if not all(c.isascii() and c.isprintable() and not c.isspace() for c in self.alphabet):
            raise ValueError(f"alphabet must be of printable ASCII characters, got {self.alphabet!r}")
        if not 1 <= self.length <= 16:
            raise ValueError(f"length must be from 1 to 16, got {self.length}")
        if not 1 <= self.least <= self.length:
            raise ValueError(f"shortest must be from 1 to {self.length}, the length, got {self.shortest}")
        if len(self.alphabet) ** self.least < 100:
            raise ValueError(
                f"alphabet and length must give at least 100 texts, got {len(self.alphabet) ** self.least}"
            )
        if any(not 16 <= side <= 1024 for side in (self.height, self.width)):
            raise ValueError(f"height and width must be from 16 to 1024, got {self.height} and {self.width}")
        if not 60 <= self.ink[0] <= self.ink[1] <= 200:
            raise ValueError(f"ink must be two luminances, 60 <= low <= high <= 200, got {self.ink}")
        self._check_looks()

    def _check_looks(self) -> None:
        if any(self.looks) and not (all(self.looks) and self.colour):
            raise ValueError("fonts, papers and inks must all be named, with colour, or none of them")
        for what, names in (("fonts", self.fonts), ("papers", self.papers), ("inks", self.inks)):
            if twice := [name for k, name in enumerate(names) if name in names[:k]]:
                raise ValueError(f"{what} must be different, got {twice[0]!r} twice")
        for name in self.fonts:
            font_path(name)
        for what, names, known in (("papers", self.papers, PAPERS), ("inks", self.inks, HUES)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what} must be among {', '.join(known)}, got {name!r}")

    @property
    def channels(self) -> int:
        return 3 if self.colour else 1

    @property
    def least(self) -> int:
        """Fewest characters in a text."""
        return self.length if self.shortest is None else self.shortest

    @property
    def looks(self) -> tuple[tuple[str, ...], ...]:
        """Names of the fonts, the papers and the inks."""
        return self.fonts, self.papers, self.inks

    @property
    def texts(self) -> Text:
        """The texts, with the names of fonts, papers and inks, if they have names."""
        pad, styles = " " * (self.least < self.length), self.looks if self.fonts else ()
        return Text(self.alphabet + pad, self.length, self.least if pad else 0, styles=styles)

    def check(self, text: str) -> str:
        """Return `text`, which may name styles, if it can be drawn in this style, else raise a `ValueError`."""
        self.texts.encode([text])
        return text

    def together(self, font: int, paper: int, ink: int) -> bool:
        """Whether a font, a paper and an ink, by number, occur together in data: each font with half of the papers and
        half of the inks.

        >>> names = ("plain", "stripes", "dots", "grid")
        >>> style = Style(colour=True, fonts=("cmr10", "cmtt10"), papers=names, inks=("red", "blue"))
        >>> [[p for p in range(4) if style.together(f, p, f)] for f in range(2)]
        [[0, 1], [1, 2]]
        """
        papers, inks = len(self.papers), len(self.inks)
        return 2 * ((paper - font) % papers) < papers and 2 * ((ink - font) % inks) < inks


def held_out(text: str) -> bool:
    """Whether `text` is held out: a hash selects one text in five, for every alphabet and length.

    Held-out texts are never used to train generators or readers.

    >>> sum(held_out(f"{i:04d}") for i in range(10_000))
    2000
    """
    return int.from_bytes(hashlib.sha256(f"{_SALT}/{text}".encode()).digest()[:8], "big") % 5 == 0


def random_text(rng: random.Random, style: Style, split: Split) -> str:
    """A uniformly random text of one split; all lengths are equally frequent."""
    while True:
        length = style.length if style.least == style.length else rng.randint(style.least, style.length)
        text = "".join(rng.choices(style.alphabet, k=length))
        if held_out(text) == (split == "test"):
            return text


class _Seeded(random.Random):
    """The functions of `secrets` that the package uses, with a seeded generator."""

    def randbelow(self, n: int) -> int:
        return self.randrange(n)

    def randbits(self, k: int) -> int:
        return self.getrandbits(k)


def _private_copy(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Painter:
    """Draws classical CAPTCHAs: a picture of the package at its original size, reduced to the size of the style.

    With named styles, the package draws only the text, with dots and a curve, and its darkness is the share of ink
    over paper.

    >>> painter = Painter(Style())
    >>> text, picture = painter.paint(seed=0, index=7)
    >>> picture.shape, painter.paint(seed=0, index=7)[0] == text
    ((24, 64, 1), True)
    """

    def __init__(self, style: Style):
        self.style = style
        self._module = _private_copy("captcha.image")
        size = round(style.width * NATIVE_HEIGHT / style.height), NATIVE_HEIGHT
        fonts: list[list[str] | None] = [[str(font_path(name))] for name in style.fonts]
        self._images = [self._module.ImageCaptcha(*size, fonts=font) for font in fonts or [None]]

    def paint(self, seed: int, index: int, *, split: Split = "train", text: str | None = None) -> tuple[str, Pictures]:
        """Label and picture (height, width, channels) number `index` of stream `seed`.

        A label is a text and, of named styles, most of the names; those that a given text lacks are drawn at random.
        """
        rng = _Seeded(f"{seed}/{index}")
        chosen = random_text(rng, self.style, split)
        text = chosen if text is None else self.style.check(text)
        self._module.secrets = rng  # type: ignore[attr-defined]
        if self.style.fonts:
            return self._styled(rng, text)
        ink = (*_ink(rng, self.style), 255)
        paper = (rng.randint(238, 255),) * 3
        image = self._written(0, text, ink, paper)
        return text, np.asarray(image, dtype=np.uint8).reshape(self.style.height, self.style.width, -1)

    def _written(
        self, font: int, text: str, ink: tuple[int, int, int, int], paper: tuple[int, int, int]
    ) -> Image.Image:
        captcha = self._images[font]
        image = captcha.create_captcha_image(text, ink, paper)
        captcha.create_noise_dots(image, ink)
        captcha.create_noise_curve(image, ink)
        image = image.filter(self._module.SMOOTH).convert("RGB" if self.style.colour else "L")
        return image.resize((self.style.width, self.style.height), Image.Resampling.BOX)

    def _styled(self, rng: _Seeded, text: str) -> tuple[str, Pictures]:
        style, looks = self.style, self.style.looks
        text, *given = text.split()
        named = [next((name for name in given if name in names), "") for names in looks]
        drawn = _look(rng, style, anything=any(named))
        font, sheet, hue = (name or names[k] for name, names, k in zip(named, looks, drawn, strict=True))
        label = [name for name in (font, sheet, hue) if rng.random() >= UNNAMED or name in named]
        ink = inked(rng.randint(*style.ink), towards(hue, rng))
        back = paper(sheet, rng, style.height, style.width)[:, :, None]
        image = self._written(style.fonts.index(font), text, (FULL, FULL, FULL, 255), (0, 0, 0))
        share = np.minimum(np.asarray(image, dtype=np.float64)[:, :, :1] / FULL, 1)
        picture = (1 - share) * back + share * np.array(ink)
        return " ".join([text, *label]), picture.round().astype(np.uint8)


def _look(rng: random.Random, style: Style, *, anything: bool) -> tuple[int, int, int]:
    """Numbers of a font, a paper and an ink that occur together in data, or of any."""
    while True:
        font, paper, ink = (rng.randrange(len(names)) for names in style.looks)
        if anything or style.together(font, paper, ink):
            return font, paper, ink


def _ink(rng: random.Random, style: Style) -> tuple[int, int, int]:
    """An ink colour with a luminance drawn from the range of the style; grey, or with a random hue."""
    luminance = rng.randint(*style.ink)
    if not style.colour:
        return (luminance,) * 3
    return inked(luminance, (rng.random(), rng.random(), rng.random()))


def draw(
    style: Style,
    count: int,
    seed: int,
    *,
    split: Split = "train",
    texts: Sequence[str] | None = None,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[str], Pictures]:
    """Draw `count` pictures in worker processes; the result does not depend on the number of processes.

    Args:
        style: style of the pictures.
        count: number of pictures.
        seed: the stream; picture i is a pure function of (style, seed, i, its text).
        split: split of the random texts.
        texts: `count` texts to draw instead of random ones; they may name styles.
        workers: number of processes, by default one per core; 0 draws in this process.
        on_progress: called with the number of new pictures.

    Returns:
        the labels, and the pictures (count, height, width, channels), uint8.

    Raises:
        ValueError: if a text cannot be drawn in the style, or the number of texts is not `count`.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if texts is not None and len(texts) != count:
        raise ValueError(f"texts must be {count}, one per picture, got {len(texts)}")
    if texts is not None:
        style.texts.encode(texts)
    workers = min(cores(), -(-count // 256)) if workers is None else workers
    report = on_progress or (lambda _: None)
    if workers < 2:
        painter, names, pictures = Painter(style), [], []
        for i in range(count):
            name, picture = painter.paint(seed, i, split=split, text=texts[i] if texts else None)
            names.append(name)
            pictures.append(picture)
            report(1)
        return names, np.stack(pictures)
    return _draw_in_workers(style, count, seed, split, texts, workers, report)


def _draw_in_workers(
    style: Style,
    count: int,
    seed: int,
    split: Split,
    texts: Sequence[str] | None,
    workers: int,
    report: Callable[[int], None],
) -> tuple[list[str], Pictures]:
    shape = (style.height, style.width, style.channels)
    letters = _letters(style)
    size = letters + int(np.prod(shape))
    jobs = []
    for w in range(workers):
        job: dict[str, object] = {"style": asdict(style), "seed": seed, "split": split}
        job |= {"start": w, "step": workers, "count": count, "texts": list(texts[w::workers]) if texts else None}
        jobs.append(json.dumps(job).encode())
    names: list[str] = [""] * count
    pictures = np.empty((count, *shape), dtype=np.uint8)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(_start(job) for job in jobs)
        for i in range(count):  # in turns: a process that is not read from fills its pipe and waits
            process = processes[i % workers]
            assert process.stdout is not None
            row = process.stdout.read(size)
            if len(row) != size:
                raise Failure(f"a drawing process stopped early, with exit code {process.wait()}")
            names[i] = row[:letters].decode("ascii").rstrip()
            pictures[i] = np.frombuffer(row[letters:], np.uint8).reshape(shape)
            report(1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return names, pictures


def _letters(style: Style) -> int:
    """Length of the longest label."""
    return style.length + sum(1 + max(map(len, names)) for names in style.looks if names)


def _start(job: bytes) -> subprocess.Popen[bytes]:
    """Start a drawing process; the option -P prevents imports from the current folder."""
    command = [sys.executable, "-P", "-m", "jensen.data.captcha"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(job)
    process.stdin.close()
    return process


def _worker() -> None:
    """Read one job from standard input, write text and picture of each of its indices."""
    job = json.load(sys.stdin)
    painter = Painter(TypeAdapter(Style).validate_python(job["style"]))
    letters = _letters(painter.style)
    out = sys.stdout.buffer
    for k, i in enumerate(range(job["start"], job["count"], job["step"])):
        text = job["texts"][k] if job["texts"] else None
        text, picture = painter.paint(job["seed"], i, split=job["split"], text=text)
        out.write(text.ljust(letters).encode("ascii") + picture.tobytes())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    try:
        _worker()
    except BrokenPipeError:  # the parent has gone
        os._exit(1)
