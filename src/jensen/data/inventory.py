"""An inventory of a data set of pictures: what a user should know before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jensen.core.naming import path_of
from jensen.core.progress import Track, silent
from jensen.data.listing import list_pictures
from jensen.data.pack import Pack, cached_pack, is_pack, open_pack
from jensen.data.split import equal_rows, held_out, near_duplicates
from jensen.data.survey import Survey, duplicates, survey

TEST = 0.1  # share that is held out


@dataclass(frozen=True)
class Inventory:
    """Decoded pictures, and what is known about them.

    Attributes:
        path: the folder, the tar file or the pack.
        pack: the decoded pictures.
        survey: survey of the files; None for a pack.
        copies: names of pictures whose files have the same bytes, in groups; of a pack, those with the same pixels.
        test: which pictures are held out, (N,) bool.
        near: near duplicates: pairs of a training row and a held-out row.
    """

    path: Path
    pack: Pack
    survey: Survey | None
    copies: Sequence[tuple[str, ...]]
    test: Tensor
    near: Sequence[tuple[int, int]]

    @property
    def near_names(self) -> list[tuple[str, str]]:
        """The names of the near duplicates."""
        return [(self.pack.names[a], self.pack.names[b]) for a, b in self.near]


def inventory(
    path: Path | str,
    size: tuple[int, int] | None = None,
    *,
    held: Sequence[str] = (),
    strict: bool = False,
    track: Track = silent,
) -> Inventory:
    """Make the inventory of a folder, a tar file or a pack. All pictures are decoded, into the cache.

    Args:
        path: path of the pictures.
        size: height and width of the decoded pictures; None: the suggested ones.
        held: folders in `path` whose pictures are held out; empty: a tenth of all, by a hash of their names.
        strict: refuse broken files.
        track: shows progress.

    Raises:
        ValueError: if there are no pictures, a size is given for a pack, or, if strict, a file is broken.
    """
    path = path_of(path, "path")
    if is_pack(path):
        if size is not None:
            raise ValueError(f"size must not be given for a pack, got {size[0]} x {size[1]} for {path}")
        pack, seen = open_pack(path), None
        copies = [tuple(pack.names[k] for k in group) for group in equal_rows(pack.x)]
    else:
        listing = list_pictures(path)
        seen = survey(listing, most=None)
        pack = cached_pack(listing, seen.form(size), strict=strict, track=track)
        copies = duplicates(listing)
    folders = tuple(f"{name}/" for name in held)
    test = torch.tensor([n.startswith(folders) for n in pack.names]) if folders else held_out(pack.names, TEST)
    return Inventory(path, pack, seen, copies, test, near_duplicates(pack.x, test))
