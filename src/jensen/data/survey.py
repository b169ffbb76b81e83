"""A survey of pictures: formats, sizes, colours, classes, captions and copies, and the settings that suit them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

from jensen.data.decode import Fit, Form, decode, opened
from jensen.data.listing import Entry, Listing

MOST = 1000  # pictures whose headers are read
GREY = 64  # pictures without any colour after which all are taken to be grey
NEUTRAL = 8  # difference between the channels of a pixel, in levels of 256, below which it has no colour
SIDE, MULTIPLE = 32, 8  # longest side that is suggested; sides that are scaled down are multiples
LOSS, SHARE = 0.2, 0.1  # pictures are padded if more than this share of them would lose more than this by cropping

T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """The contents of a folder of pictures.

    Attributes:
        pictures: number of pictures.
        seen: number of pictures whose headers were read without error; the next six fields count these.
        formats, modes: numbers of pictures by file format, and by Pillow's mode.
        sizes: numbers of pictures by (height, width), the most frequent first.
        alpha: number of pictures that may be transparent.
        animated: number of animations.
        turned: number of pictures that are rotated or flipped by their EXIF data.
        classes: numbers of pictures by label, sorted by label.
        captions: number of pictures with a text.
        longest: number of characters of the longest text.
        alphabet: characters of the texts, sorted.
        channels: 1 if the pictures are grey, 3 if there is colour.
    """

    pictures: int
    seen: int
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]
    alpha: int
    animated: int
    turned: int
    classes: Mapping[str, int]
    captions: int
    longest: int
    alphabet: str
    channels: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of more than half of the pictures, otherwise the medians."""
        size, count = next(iter(self.sizes.items()))
        if 2 * count > self.seen:
            return size
        heights, widths = zip(*(s for s, n in self.sizes.items() for _ in range(n)), strict=True)
        return median_low(heights), median_low(widths)

    def form(self, size: tuple[int, int] | None = None, *, side: int = SIDE) -> Form:
        """The settings that suit the pictures: grey or colour, transparent pixels on white, cropped or padded.

        Args:
            size: height and width; None: those of the pictures, scaled down to at most `side`, square if nearly so.
            side: the longest side that is suggested.
        """
        height, width = size or _scaled(self.size, side)
        sides = [(w * height, h * width, n) for (h, w), n in self.sizes.items()]
        lost = sum(n for a, b, n in sides if min(a, b) < (1 - LOSS) * max(a, b))
        fit: Fit = "pad" if lost > SHARE * self.seen else "crop"
        return Form(self.channels, height, width, fit)


@dataclass(frozen=True)
class Header:
    """What the header of a picture says; height and width are those of the upright picture."""

    format: str
    mode: str
    height: int
    width: int
    alpha: bool
    animated: bool
    turned: bool


def survey(listing: Listing, most: int | None = MOST) -> Survey:
    """Survey a listing; the headers of at most `most` pictures, evenly spaced, are read, or of all if it is None.

    Raises:
        ValueError: if none of these can be read.
    """
    found = [(entry, h) for entry in _spaced(listing.entries, most) if (h := header(entry)) is not None]
    if not found:
        raise ValueError(f"{listing.root} must hold pictures that can be read, got {len(listing.entries)} broken ones")
    headers = [h for _, h in found]
    texts = [entry.text for entry in listing.entries if entry.text is not None]
    labels = Counter(entry.label for entry in listing.entries if entry.label is not None)
    return Survey(
        pictures=len(listing.entries),
        seen=len(found),
        formats=_counted(h.format for h in headers),
        modes=_counted(h.mode for h in headers),
        sizes=_counted((h.height, h.width) for h in headers),
        alpha=sum(h.alpha for h in headers),
        animated=sum(h.animated for h in headers),
        turned=sum(h.turned for h in headers),
        classes=dict(sorted(labels.items(), key=lambda pair: natural(pair[0]))),
        captions=len(texts),
        longest=max(map(len, texts), default=0),
        alphabet="".join(sorted(set().union(*texts))),
        channels=3 if _coloured([entry for entry, h in found if h.mode[0] not in "1LIF" or h.mode == "LAB"]) else 1,
    )


def header(entry: Entry) -> Header | None:
    """The header of a picture, or None if it is broken."""
    try:
        with opened(entry.source.read()) as image:
            tagged = image.format != "PNG" or "exif" in image.info  # other PNG files would be decoded for their tags
            exif = image.getexif() if tagged else Image.Exif()
            turn = exif.get(ExifTags.Base.Orientation, 1)
            stored = image.size
            if image.format == "TIFF":  # whose size is that of the upright picture in newer versions of Pillow
                stored = exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength]
            height, width = stored if turn in (5, 6, 7, 8) else stored[::-1]
            return Header(
                image.format or "",
                image.mode,
                height,
                width,
                image.has_transparency_data,
                getattr(image, "is_animated", False),
                turn in range(2, 9),
            )
    except (ValueError, OSError):
        return None


def duplicates(listing: Listing) -> list[tuple[str, ...]]:
    """Names of pictures whose files have the same bytes, in groups; only files of equal length are read."""
    lengths, groups = defaultdict(list), defaultdict(list)
    for entry in listing.entries:
        lengths[entry.source.length].append(entry)
    for entry in (e for same in lengths.values() if len(same) > 1 for e in same):
        try:
            groups[hashlib.sha256(entry.source.read()).digest()].append(entry.name)
        except OSError:
            continue  # a file that cannot be read is named where it is decoded
    return sorted(tuple(names) for names in groups.values() if len(names) > 1)


def natural(label: str) -> tuple[int, float, str]:
    """A sort key: whole numbers by value, before words.

    >>> sorted(["10", "9", "cat"], key=natural)
    ['9', '10', 'cat']
    """
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)


def _spaced(entries: Sequence[Entry], most: int | None) -> Sequence[Entry]:
    """At most `most` entries, evenly spaced."""
    if most is None or len(entries) <= most:
        return entries
    return [entries[k * len(entries) // most] for k in range(most)]


def _counted(values: Iterable[T]) -> dict[T, int]:
    return dict(Counter(values).most_common())


def _coloured(entries: Sequence[Entry]) -> bool:
    """Whether any pixel of some pictures is coloured."""
    for entry in _spaced(entries, GREY):
        try:
            x = decode(entry.source.read(), Form(3, SIDE, SIDE, "stretch")).astype(np.int16)
        except (ValueError, OSError):
            continue
        if (x.max(0) - x.min(0)).max() >= NEUTRAL:
            return True
    return False


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width scaled to at most `side`, to multiples of 8 where they are scaled."""
    height, width = size if max(size) > 1.25 * min(size) else (min(size),) * 2
    scale = side / max(height, width)
    if scale >= 1:
        return height, width
    return _multiple(height * scale), _multiple(width * scale)


def _multiple(length: float) -> int:
    return max(MULTIPLE, MULTIPLE * math.floor(length / MULTIPLE + 0.5))
