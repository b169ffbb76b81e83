"""A user's pictures: a folder, .tar files, or a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived
from jensen.core.types import Stream
from jensen.data.dataset import Data, spaced
from jensen.data.decode import Form
from jensen.data.listing import Listing, list_pictures
from jensen.data.pack import Pack, PackRows, cached_pack, is_pack, open_pack
from jensen.data.pool import drawn_rows
from jensen.data.space import Classes, Space, Text
from jensen.data.split import held_out
from jensen.data.survey import natural, survey
from jensen.data.tables import names_rows
from jensen.data.unpaired import transformed
from jensen.recipes.sources.base import (
    HeldOut,
    Opener,
    Place,
    PlaceOrNone,
    Source,
    fingerprint,
    no_runs,
    refuse_few,
    untrained,
)

LARGEST = 32  # pixels along the shorter side, where no size is given: what two cores can train on
LONGEST = 64  # characters of a caption
MOST_CLASSES = 1000
CHANNELS = {"grey": 1, "rgb": 3, "rgba": 4}


def _sides(value: Any) -> Any:
    """Parses 64, "64", "48x64" or [48, 64] as height and width."""
    if isinstance(value, str) and all(part.isdecimal() for part in value.split("x")):
        value = tuple(int(part) for part in value.split("x"))
        value = value * 2 if len(value) == 1 else value
    elif isinstance(value, str):
        raise ValueError(f"must be a number of pixels or HEIGHTxWIDTH, such as 64 or 48x64, got {value!r}")
    return (value, value) if isinstance(value, int) else value


FEWEST, MOST = 4, 1024  # pixels along a side
Side = Annotated[int, Field(ge=FEWEST, le=MOST)]


class Pictures(Source):
    """Pictures in a folder, in .tar files, or in a pack made by `jensen data pack`."""

    path: PlaceOrNone = ""
    """the folder, .tar file or pack"""
    size: Annotated[tuple[Side, Side] | None, BeforeValidator(_sides)] = None
    """height and width, as 64 or 48x64; null: those of most pictures, reduced to 32 along the shorter side"""
    channels: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    """auto: grey if all pictures are, otherwise rgb"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """how pictures with a different aspect ratio are fitted to the size"""
    alpha: Literal["white", "black"] = "white"
    """background of transparent pictures, for channels other than rgba"""
    cond: Literal["auto", "none", "classes", "text"] = "auto"
    """condition of a picture: its class (from metadata or subfolders), its caption, or none; auto: the first of these
    that the data have"""
    flip: bool = False
    """mirror each picture of a batch with probability 1/2"""
    test: HeldOut = 0.1
    """share of the pictures that is held out"""
    held_out: Place | None = None
    """folder of the held-out pictures, instead of a share"""
    strict: bool = False
    """refuse a folder with broken pictures instead of leaving them out"""

    @model_validator(mode="after")
    def _used(self) -> Pictures:
        if self.channels == "rgba":
            self.refuse_idle("with channels rgba", "alpha")
        if self.held_out is not None:
            self.refuse_idle("with data.held_out", "test")
        return self

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """A folder, which may have subfolders train and test (or val); a .tar file; or a pack."""
        if not path.is_dir() and path.suffix.lower() != ".tar":
            return None
        held = next((path / name for name in ("test", "val", "validation") if (path / name).is_dir()), None)
        if held is not None and (path / "train").is_dir():
            return cls(path=str(path / "train"), held_out=str(held))
        return cls(path=str(path))

    def settled(self, space: Space) -> Pictures:
        """The same source, with the size and channels of the space."""
        channels, height, width = space.shape
        named = next(name for name, count in CHANNELS.items() if count == channels)
        return self.model_copy(update={"size": (height, width), "channels": named})

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        packs = [pack := self._pack(self._place, track)]
        if self.held_out is None:
            held = held_out(pack.names, self.test)
            refuse_few(held, self.test)
        else:
            held = torch.zeros(len(pack.names), dtype=torch.bool)
            packs.append(self._pack(Path(self.held_out), track, pack.form))
        cond = self._condition(packs)
        train = _rows(pack, cond, ~held)
        test = _rows(pack, cond, held) if self.held_out is None else _rows(packs[1], cond)
        form = pack.form
        settings = ("path", "held_out", "size", "channels", "fit", "alpha", "flip", "strict")  # the content has them

        def flipped(batch_size: int, seed: int) -> Stream:
            return transformed(drawn_rows(train, batch_size, seed), mirror, torch.rand, derived(seed, "flip"))

        return Data(
            f"{self._place.name}, pictures of {form.height} x {form.width}",
            fingerprint(self, *(p.fingerprint for p in packs), without=settings),
            spaced(Space(form.shape, 256, cond=cond), train),
            train,
            test,
            streams=flipped if self.flip else None,
            names=tuple(name for name, out in zip(pack.names, held.tolist(), strict=True) if not out),
            notes=(*self._said(pack, cond, len(test)), *untrained(cond, train.tensors.get("cond"))),
        )

    @property
    def _place(self) -> Path:
        return Path(self._file("a folder of pictures, a .tar file or a pack"))

    def _pack(self, path: Path, track: Track, like: Form | None = None) -> Pack:
        """The pictures at a path, decoded to the form that the settings or other pictures have.

        Raises:
            ValueError: if their form is not that of the settings, or has sides that `size` refuses.
        """
        pack = self._found(path, track, like)
        sides = pack.form.height, pack.form.width
        if min(sides) < FEWEST or max(sides) > MOST:
            again = "pack it again" if is_pack(path) else "give a larger --set data.size"
            raise ValueError(
                f"pictures of {path} must have sides of {FEWEST} to {MOST} pixels, got {sides[0]} x {sides[1]}: {again}"
            )
        return pack

    def _found(self, path: Path, track: Track, like: Form | None) -> Pack:
        if is_pack(path):
            pack = open_pack(path)
            asked = (*(self.size or (None, None)), CHANNELS.get(self.channels))
            had = (pack.form.height, pack.form.width, pack.form.channels)
            for name, mine, its in zip(("size", "size", "channels"), asked, had, strict=True):
                if mine not in (None, its):
                    raise ValueError(
                        f"data.{name} must be that of the pack {path}, {its}, got {mine}: pack the pictures again"
                    )
            return pack
        listing = list_pictures(path)
        return cached_pack(listing, like or self._form(listing), strict=self.strict, track=track)

    def _form(self, listing: Listing) -> Form:
        """The form that the settings specify; what they leave open is that of most pictures."""
        found = survey(listing).form(self.size, side=LARGEST)
        channels = CHANNELS.get(self.channels, found.channels)
        return replace(found, channels=channels, fit=self.fit, alpha="keep" if channels == 4 else self.alpha)

    def _condition(self, packs: Sequence[Pack]) -> Classes | Text | None:
        """The condition of pictures; training and held-out pictures have the same classes or letters."""
        names = [name for pack in packs for name in pack.names]
        given = {
            "classes": [v for pack in packs for v in pack.labels],
            "text": [v for pack in packs for v in pack.texts],
        }
        choice = self.cond
        if choice == "auto":
            classes = 0 if None in given["classes"] else len(set(given["classes"]))
            several = 1 < classes <= MOST_CLASSES and not names_rows(given["classes"])
            choice = "classes" if several else "none" if None in given["text"] else "text"
        if choice == "none":
            return None
        if None in given[choice]:
            lacking, what = names[given[choice].index(None)], "a class" if choice == "classes" else "a caption"
            raise ValueError(f"data.cond {choice} needs {what} for every picture, and {lacking} has none")
        if choice == "classes":
            return Classes(tuple(sorted({str(v) for v in given[choice]}, key=natural)))
        texts = captions(given[choice])
        return Text("".join(sorted({*"".join(texts), " "})), max(map(len, texts)) or 1, written=False)

    def _said(self, pack: Pack, cond: Classes | Text | None, held: int) -> list[str]:
        form, n = pack.form, len(pack.names) + held * (self.held_out is not None)
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}[form.channels]
        what = {Classes: "with {} classes", Text: "with captions of up to {} characters"}
        number = cond.size if isinstance(cond, Classes) else 0 if cond is None else cond.length
        given = what[type(cond)].format(number) if cond is not None else "without a condition"
        said = [f"{n:,} {colours} pictures at {form.height} x {form.width}, {given}; {held:,} are held out"]
        lacking = [name for name, text in zip(pack.names, pack.texts, strict=True) if text is None]
        if 0 < len(lacking) < len(pack.names) and cond is None and self.cond == "auto":
            first = f"{len(lacking):,} pictures have none, the first is {lacking[0]}"
            said.append(f"captions are not used: {first}")
        if self.size is None and not is_pack(self._place):
            said.append(f"the size was chosen automatically; set it by --set data.size={form.height}x{form.width}")
        if pack.broken:
            name, why = next(iter(pack.broken.items()))
            said.append(
                f"{len(pack.broken)} broken files are left out, the first is {name}: {why}; "
                "`jensen data check` lists them"
            )
        return said


def _rows(pack: Pack, cond: Classes | Text | None, which: Tensor | None = None) -> PackRows:
    """Some or all rows of a pack, with their conditions."""
    if cond is None:
        return pack.rows(which)
    values = [str(v) for v in pack.labels] if isinstance(cond, Classes) else captions(pack.texts)
    return pack.rows(which, cond=cond.encode(values))


def captions(texts: Sequence[str | None]) -> list[str]:
    """At most `LONGEST` characters of each caption."""
    return [str(v)[:LONGEST].strip() for v in texts]


def mirror(x: Tensor, u: Tensor) -> Tensor:
    """Each picture x (B, C, H, W) whose u (B,) is at least 1/2 is mirrored."""
    return torch.where(u[:, None, None, None] < 0.5, x, x.flip(3))
