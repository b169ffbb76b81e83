"""The process that draws: `python -m jensen.apps.captcha.pool RUN`. The only file here that knows torch.

It keeps pictures between two marks. Each is drawn for a random text, turned into bytes, read from these by a reader
that the model was not trained with, and kept if the reader reads the text.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from jensen.apps.captcha.answers import new_id, text_digest
from jensen.apps.captcha.clips import packed
from jensen.apps.captcha.clock import now
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.logs import say, start_logs
from jensen.apps.captcha.parent import end_with_parent
from jensen.apps.captcha.settings import Settings, read_settings
from jensen.apps.captcha.speech import Speaker, Speechless
from jensen.apps.captcha.store import Picture, Store, Unavailable, open_store
from jensen.core.protocols import Sampleable
from jensen.data.pictures import to_image
from jensen.data.space import Text
from jensen.recipes.sources.captcha import Captcha, TextReader
from jensen.report.gallery import as_bytes
from jensen.runs.opening import Run, open_other, open_run
from jensen.shipped import said

MEDIA = "image/webp"
PAUSE = 1.0  # seconds between two looks at a pool that is full, or a store that is not reached
NICE = 10  # requests come first


class Drawer(Protocol):
    """What draws pictures of texts, and what reads them.

    Attributes:
        source: what it is, in words.
        texts: the texts that it draws.
        reader: reads pictures of them.
        batch: number of pictures that it draws together; fewer take as long.
    """

    source: str
    texts: Text
    reader: TextReader
    batch: int

    def draw(self, texts: Sequence[str]) -> Tensor:
        """Pictures of the texts, uint8 (N, C, H, W); others each time."""


class Trained:
    """A run's model.

    Raises:
        ValueError: if the run does not draw CAPTCHAs from their texts, or there is no reader of its pictures.
    """

    def __init__(self, run: Run):
        recipe, texts = run.recipe, run.space.cond
        place, drawn = said(run.folder), isinstance(run.model, Sampleable) and recipe.family.conditional(run.space)
        if not isinstance(recipe.data, Captcha) or not isinstance(texts, Text) or not drawn:
            raise ValueError(f"RUN must draw CAPTCHAs from their texts, got {place}, a run of {recipe.name}")
        reader = recipe.data.open_reader(open_other)
        if reader is None:
            raise ValueError(f"RUN must have a reader of its pictures (data.reader), got {place} without one")
        self.source, self.texts, self.reader = f"the run {recipe.name}", texts, reader
        self.batch, self._run = run.together, run

    def draw(self, texts: Sequence[str]) -> Tensor:
        return as_bytes(self._run.draw(len(texts), cond=self.texts.encode(texts), seed=secrets.randbits(64)))


@dataclass
class Tally:
    """What was drawn since the process began, and how much of it the reader read.

    Attributes:
        drawn, accepted: pictures.
        characters, read: characters in the pictures that were drawn, and those that were read.
        seconds: time of drawing and reading.
    """

    drawn: int = 0
    accepted: int = 0
    characters: int = 0
    read: int = 0
    seconds: float = 0.0

    def status(self) -> dict[str, Any]:
        """Numbers for the store."""
        return {
            "drawn": self.drawn,
            "accepted": self.accepted,
            "accept_rate": self.accepted / max(1, self.drawn),
            "legibility": self.read / max(1, self.characters),
            "rate": self.accepted / max(self.seconds, 1e-9),
        }


@dataclass
class Pool:
    """Fills the store's pool."""

    drawer: Drawer
    store: Store
    settings: Settings
    speaker: Speaker | None = None
    tally: Tally = field(default_factory=Tally)
    filling: bool = True

    def __post_init__(self) -> None:
        self._keys = Keys(self.settings.secrets())

    def wanted(self) -> int:
        """Number of pictures to draw now: from below the low mark up to the high one, or the most bytes."""
        count, size = self.store.waiting()
        if count >= self.settings.pool_high or size >= self.settings.pool_bytes:
            self.filling = False
        elif count < self.settings.pool_low:
            self.filling = True
        return min(self.drawer.batch, self.settings.pool_high - count) if self.filling else 0

    def add(self, count: int) -> int:
        """Draw pictures, keep those that are read; returns their number."""
        began = time.perf_counter()
        texts = [_random_text(self.drawer.texts) for _ in range(count)]
        pictures = self.drawer.draw([_styled(text, self.drawer.texts) for text in texts])
        read = self.drawer.texts.decode(self.drawer.reader.read(pictures.float() / 127.5 - 1))
        kept = [k for k in range(count) if read[k] == texts[k]]
        for k in kept:
            self.store.add(self._picture(texts[k], pictures[k]))
        self._count(texts, read, len(kept), time.perf_counter() - began)
        return len(kept)

    def _picture(self, text: str, pixels: Tensor) -> Picture:
        name, key = new_id(), self._keys.current
        audio = packed(self.speaker.clips(text)) if self.speaker else b""
        return Picture(name, now(), key, text_digest(self._keys, key, name, text), MEDIA, encoded(pixels), audio)

    def _count(self, texts: Sequence[str], read: Sequence[str], kept: int, seconds: float) -> None:
        tally = self.tally
        tally.drawn += len(texts)
        tally.accepted += kept
        tally.characters += sum(map(len, texts))
        tally.read += sum(sum(map(eq, *pair)) for pair in zip(texts, read, strict=True))
        tally.seconds += seconds
        self.report()

    def report(self) -> None:
        """Tell the store what draws, and how much it has drawn."""
        self.store.write_status({"source": self.drawer.source, "at": now(), **self.tally.status()})

    def keep(self, stop: threading.Event) -> None:
        """Keep the pool full until it is to stop. A store that is not reached is asked again."""
        reached: bool | None = None
        while not stop.is_set():
            try:
                if not reached:
                    self.report()
                count, reached = self.wanted(), True
                if count:
                    self.add(count)
            except Unavailable as error:
                if reached is not False:
                    say("the store cannot be reached", logging.ERROR, because=str(error))
                count, reached = 0, False
            if not count:
                stop.wait(PAUSE)


def _random_text(texts: Text) -> str:
    characters = texts.alphabet.replace(" ", "")
    length = secrets.choice(range(max(1, texts.least), texts.length + 1))
    return "".join(secrets.choice(characters) for _ in range(length))


def described(texts: Text) -> dict[str, Any]:
    """Length of the texts, and number of different characters, for the log."""
    least = max(1, texts.least)
    length = f"{least} to {texts.length}" if least < texts.length else texts.length
    return {"length": length, "alphabet": len(texts.alphabet.replace(" ", ""))}


def _styled(text: str, texts: Text) -> str:
    """The text with a random style of each kind; most of their combinations never occur in data."""
    return " ".join([text, *(secrets.choice(names) for names in texts.styles)])


def encoded(pixels: Tensor) -> bytes:
    """A picture (C, H, W) as lossless WebP, which holds pixels and nothing else, in fewer bytes than PNG."""
    file = io.BytesIO()
    to_image(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


def speaker(settings: Settings, alphabet: str) -> Speaker | None:
    """What speaks the texts; None, and a line in the log, if they cannot be spoken."""
    if not settings.speech:
        return None
    try:
        return Speaker(settings.speech, alphabet.replace(" ", ""))
    except Speechless as error:
        say("challenges have no audio", logging.WARNING, because=str(error))
        return None


def main(words: Sequence[str]) -> int:
    """Fill the pool of the environment's settings; returns 2 if it cannot begin."""
    start_logs()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    end_with_parent()
    try:
        settings = read_settings()
        run = open_run(Path(*words))
        chosen = Trained(run)
        store = open_store(settings.store)
    except (ValueError, OSError, Unavailable) as error:
        sys.stderr.write(f"jensen: {' '.join(str(error).split())}\n")
        return 2
    for note in run.notes:
        say(note, logging.WARNING)
    say("drawing begins", drawer=chosen.source, **described(chosen.texts))
    os.nice(NICE)
    Pool(chosen, store, settings, speaker(settings, chosen.texts.alphabet)).keep(stop)
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
