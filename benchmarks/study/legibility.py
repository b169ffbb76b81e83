"""Whether readers read what was asked for: two networks and an off-the-shelf program."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.data.pictures import to_image
from jensen.data.space import Text
from jensen.data.workers import cores
from jensen.metrics import Proportion, confusion, legibility, relative
from study.pictures import Study, in_data, read, share

PROGRAM = "tesseract"
LINE = 96  # height in pixels of the pictures that it gets


@dataclass(frozen=True)
class Legible:
    """How one reader reads pictures.

    Attributes:
        name: the reader.
        samples, real: the model's pictures, and the classical drawer's of the same labels, that are read as asked.
        relative: the first as a share of the second; None unless the second's interval is above a half.
        shuffled: samples that are read as another one's text.
        characters, real_characters: single characters; None for a program that may find more or fewer.
        parts: whole texts of samples, and of real pictures, by length and by whether the style occurs in data.
        confused: the most frequent confusions: asked, read, number.
    """

    name: str
    samples: Proportion
    real: Proportion
    relative: Proportion | None
    shuffled: Proportion
    characters: Proportion | None
    real_characters: Proportion | None
    parts: dict[str, tuple[Proportion | None, Proportion | None]]
    confused: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Legibility:
    """What was found.

    Attributes:
        readers: by each reader.
        kept: pictures that the service's filter keeps.
        served: of these, those that the second reader reads.
        alphabet, table: characters, and their counts as asked (rows) and read (columns), by the last network.
        scanned: whether the off-the-shelf program was there, and its version.
    """

    readers: list[Legible]
    kept: Proportion
    served: Proportion | None
    alphabet: str
    table: list[list[int]]
    scanned: str | None


def measure(study: Study) -> Legibility:
    """Read the pictures of held-out texts by all readers."""
    asked, (made, real) = study.characters(study.asked), study.asked_pictures
    groups = parts(study)
    found, table = [], list[list[int]]()
    for name, reader in study.readers.items():
        answers = read(reader, made)
        found.append(judged(name, answers, read(reader, real), asked, groups, study.texts))
        table = confusion(asked.flatten(), answers.flatten(), len(study.texts.alphabet)).tolist()
    version = scanner()
    if version is not None:
        few = slice(study.sizes.scanned)
        answers = [scan(x[few], study.texts, study.track) for x in (made, real)]
        shown = {key: rows[few] for key, rows in groups.items()}
        found.append(judged(version, *answers, asked[few], shown, study.texts, aligned=False))
    second = found[1].samples if study.second is not None else None
    served = None
    if second is not None and study.second is not None:
        kept = study.accepted
        served = share((read(study.second, made[kept]) == asked[kept]).all(1)) if kept.any() else None
    kept_share = share(study.accepted)
    assert kept_share is not None
    return Legibility(found, kept_share, served, study.texts.alphabet, table, version)


def parts(study: Study) -> dict[str, Tensor]:
    """Which of the asked labels are of each length, and of styles that occur in data or never do."""
    lengths = torch.tensor([len(label.split()[0]) for label in study.asked])
    found = {f"{n} characters": lengths == n for n in sorted(set(lengths.tolist()))}
    if study.texts.styles:
        known = in_data(study.style, study.asked)
        found |= {"styles that occur together in data": known, "styles that never do": ~known}
    return found


def judged(
    name: str,
    made: Tensor,
    real: Tensor,
    asked: Tensor,
    groups: dict[str, Tensor],
    texts: Text,
    *,
    aligned: bool = True,
) -> Legible:
    """Compare what was read in samples and in real pictures, each (N, length), with what was asked."""
    drawn, ceiling = legibility(made, asked), legibility(real, asked)
    right, right_real = ((x == asked).all(1) for x in (made, real))
    return Legible(
        name,
        drawn.exact,
        ceiling.exact,
        relative(drawn.exact, ceiling.exact) if ceiling.exact.low > 0.5 else None,
        legibility(made, asked.roll(1, 0)).exact,
        drawn.character if aligned else None,
        ceiling.character if aligned else None,
        {key: (share(right[rows]), share(right_real[rows])) for key, rows in groups.items()},
        confused(confusion(asked.flatten(), made.flatten(), len(texts.alphabet)), texts.alphabet) if aligned else [],
    )


def confused(table: Tensor, alphabet: str, most: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent confusions of a table: asked, read, number."""
    off = table - torch.diag(table.diag())
    counts, place = off.flatten().sort(descending=True, stable=True)
    pairs = zip(counts.tolist()[:most], place.tolist()[:most], strict=True)
    return [(alphabet[k // len(alphabet)], alphabet[k % len(alphabet)], n) for n, k in pairs if n]


def scanner() -> str | None:
    """The off-the-shelf program and its version, if it is installed."""
    if shutil.which(PROGRAM) is None:
        return None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout or said.stderr).split()[:2])


def scan(x: Tensor, texts: Text, track: Track = silent) -> Tensor:
    """The characters that the program reads in pictures, uint8 (N, C, H, W); -1 where it reads no text of the alphabet.

    It gets each picture as a single line, enlarged, and the characters of the alphabet.
    """
    advance = track(PROGRAM, len(x))
    alphabet = texts.alphabet.replace(" ", "")
    words = ["stdout", "--psm", "7", "-c", f"tessedit_char_whitelist={alphabet}"]
    alone = {**os.environ, "OMP_THREAD_LIMIT": "1"}

    def line(picture: Tensor) -> str:
        image = to_image(picture)
        size = max(1, round(LINE * image.width / image.height)), LINE
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            image.resize(size, Image.Resampling.BICUBIC).save(file.name)
            command = [PROGRAM, file.name, *words]
            said = subprocess.run(command, capture_output=True, text=True, env=alone, check=False).stdout
        advance(1)
        return "".join(said.split())

    with ThreadPoolExecutor(cores()) as pool:
        return as_characters(list(pool.map(line, x)), texts)


def as_characters(said: Sequence[str], texts: Text) -> Tensor:
    """Characters (N, length) of texts; -1 everywhere for what is no text of this alphabet and length."""
    rows = []
    for text in said:
        try:
            rows.append(texts.legible(texts.encode([text]))[0])
        except ValueError:
            rows.append(torch.full((texts.length,), -1))
    return torch.stack(rows)
