"""Packs: the decoded pictures of a listing in one file that is mapped into memory.

A pack is a folder: `x.npy`, (N, C, H, W) uint8, which `np.load` reads too, and `pack.json` with form, names, labels,
texts, what was skipped and a hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core.naming import path_of
from jensen.core.progress import Track, silent
from jensen.core.types import Batch
from jensen.data.cache import cache, keep, remove_stale, trim
from jensen.data.decode import Form
from jensen.data.listing import Entry, Listing
from jensen.data.pool import from_bytes
from jensen.data.workers import decoded
from jensen.training.checkpoint import sweep, write_text
from jensen.training.strict_json import parsed

VERSION = 1
PIXELS, FACTS, JOURNAL = "x.npy", "pack.json", "journal.jsonl"
HEADER = 128  # bytes of the header of an .npy file with four axes
COMMIT = 256  # pictures between two lines of the journal


@dataclass(frozen=True)
class Pack:
    """The pictures of a pack; rows are read from the file on access.

    Attributes:
        path: its folder.
        x: (N, C, H, W) uint8, mapped into memory.
        form: form of the pictures.
        names, labels, texts: names, labels and texts of the pictures; None where there is no label or text.
        broken: files that could not be decoded by name, and why.
        skipped: the broken files, and the files that are not pictures.
        fingerprint: a hash of pixels, form, names, labels and texts.
    """

    path: Path
    x: np.memmap
    form: Form
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    texts: tuple[str | None, ...]
    broken: Mapping[str, str]
    skipped: Mapping[str, str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_pack, (self.path,)  # another process maps the file, and is not sent the pixels

    def rows(self, index: Tensor | None = None, **tensors: Tensor) -> PackRows:
        """Rows for training: "x" in [-1, 1], and further tensors by name, such as "cond".

        Args:
            index: which pictures, (N,) bool or (n,) row numbers; None: all.
            tensors: (N, ...) each, a row for each picture of the pack.

        Raises:
            ValueError: if a tensor has another number of rows, or no picture is chosen.
        """
        chosen = torch.arange(len(self)) if index is None else torch.arange(len(self))[index]
        for name, tensor in tensors.items():
            if len(tensor) != len(self):
                raise ValueError(f"{name} must have a row for each of {len(self)} pictures, got {len(tensor)}")
        if not len(chosen):
            raise ValueError("rows must be at least 1, got 0")
        return PackRows(self, chosen, {name: tensor[chosen] for name, tensor in tensors.items()})


@dataclass(frozen=True)
class PackRows:
    """`jensen.data.pool.Rows` of a pack.

    Attributes:
        pack: holds the pictures.
        chosen: their row numbers, (n,).
        tensors: (n, ...) by name.
    """

    pack: Pack
    chosen: Tensor
    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Tensor) -> Batch:
        x = torch.from_numpy(np.asarray(self.pack.x[self.chosen[index].numpy()]))
        return {"x": from_bytes(x), **{name: v[index] for name, v in self.tensors.items()}}


def open_pack(path: Path | str) -> Pack:
    """Open a pack without reading its pictures.

    Raises:
        ValueError: if the folder is not a pack, has a different version, or its files do not match.
    """
    path = path_of(path, "path")
    if not is_pack(path):
        raise ValueError(f"{path} is not a pack: it must hold {PIXELS} and {FACTS}")
    try:
        facts = parsed((path / FACTS).read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise ValueError(f"{path} must be a pack of version {VERSION}, got {facts['version']}: pack it again")
        form = Form(**facts["form"])
        names = tuple(facts["names"])
        labels, texts = (tuple(value or None for value in facts[key]) for key in ("labels", "texts"))
        broken, skipped, fingerprint = facts["broken"], facts["skipped"], facts["sha256"]
        length = (path / PIXELS).stat().st_size
        x = np.lib.format.open_memmap(path / PIXELS, mode="r")
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is a broken pack: {error}") from error
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path} is a broken pack: {error}") from error
    shape = (len(names), *form.shape)
    if (x.shape, x.dtype) != (shape, np.uint8) or not len(names) == len(labels) == len(texts):
        raise ValueError(f"{path} is a broken pack: {PIXELS} must be {shape} uint8, got {x.shape} {x.dtype}")
    if length != HEADER + x.nbytes:
        raise ValueError(f"{path} is a broken pack: {PIXELS} must be {HEADER + x.nbytes} bytes, got {length}")
    return Pack(path, x, form, names, labels, texts, broken, {**skipped, **broken}, fingerprint)


def is_pack(path: Path | str) -> bool:
    """Whether a folder is a pack."""
    return all((Path(path) / name).is_file() for name in (PIXELS, FACTS))


def write_pack(
    listing: Listing,
    form: Form,
    out: Path | str,
    *,
    processes: int | None = None,
    strict: bool = False,
    track: Track = silent,
) -> Pack:
    """Decode the pictures of a listing into a pack.

    It is written beside `out` and renamed when it is complete. If it is interrupted, the next call continues, and the
    pack has the same bytes. Files that cannot be decoded are left out and named in the pack.

    Args:
        listing: the pictures.
        form: the form to which they are converted.
        out: the pack's folder. If it is a pack of the same listing and form already, it is opened.
        processes: number of processes that decode; None: one per core, or only this process for a few pictures.
        strict: refuse broken files.
        track: shows progress.

    Raises:
        ValueError: if `out` exists and is something else, if no picture can be decoded, or, if strict, if any picture
    is broken.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    out, key = path_of(out, "out"), listing_key(listing, form)
    with _alone(out):
        if out.exists():
            if not (is_pack(out) and parsed((out / FACTS).read_text(encoding="utf-8")).get("key") == key):
                raise ValueError(f"a pack must be written to a new folder, got {out}, which already exists")
        else:
            part = out.with_name(f".{out.name}.part")
            _complete(listing, form, part, key, processes, strict, track)
            os.rename(part, out)
    pack = open_pack(out)
    if strict:
        refuse_broken(pack.broken)
    return replace(pack, skipped={**listing.skipped, **pack.broken})  # other files may have come since it was written


def cached_pack(
    listing: Listing, form: Form, *, processes: int | None = None, strict: bool = False, track: Track = silent
) -> Pack:
    """The pack of a listing in the cache, written there if it is missing.

    A pack is identified by the names, sizes, modification times, labels and texts of its files, and by its form. Where
    the cache is and how large it may grow: see `jensen.data.cache`.

    Raises:
        ValueError: if the cache cannot be written; see `write_pack`.
    """
    out = cache() / "packs" / listing_key(listing, form)[:32] / "pack"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(cache() / "packs", out.parent)
    except OSError as error:
        what = f"the cache must be a folder that can be written, got {cache()} ({error.strerror})"
        raise ValueError(f"{what}: set JENSEN_CACHE to another folder") from error
    while True:
        pack = write_pack(listing, form, out, processes=processes, strict=strict, track=track)
        if keep(out / PIXELS):
            trim(cache() / "packs")
            return pack


def listing_key(listing: Listing, form: Form) -> str:
    """A hash of all that a pack depends on, without reading the files."""
    entries = [(e.name, e.source.length, e.source.changed, e.label, e.text) for e in listing.entries]
    return hashlib.sha256(json.dumps([VERSION, asdict(form), entries]).encode()).hexdigest()


def refuse_broken(broken: Mapping[str, str]) -> None:
    """Raise a ValueError that names broken files, if there are any."""
    if broken:
        named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:3])
        more = "; ..." * (len(broken) > 3)
        raise ValueError(f"pictures must not be broken, got {len(broken)} broken ones: {named}{more}")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock a place against other processes that write there; make its parent folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(out.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _complete(
    listing: Listing, form: Form, part: Path, key: str, processes: int | None, strict: bool, track: Track
) -> None:
    """Write all files of a pack to the folder `part`, which may contain pictures that an earlier call has decoded."""
    broken = _pixels(listing.entries, form, part, key, processes, track)
    if len(broken) == len(listing.entries) or (strict and broken):
        shutil.rmtree(part)
        refuse_broken(broken)
    kept = [entry for entry in listing.entries if entry.name not in broken]
    with open(part / PIXELS, "r+b") as file:
        file.write(_header((len(kept), *form.shape)))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
    content = {
        "form": asdict(form),
        "names": [e.name for e in kept],
        "labels": [e.label for e in kept],
        "texts": [e.text for e in kept],
    }
    digest.update(json.dumps(list(content.values())).encode())
    facts = {"version": VERSION, "key": key, "sha256": digest.hexdigest()}
    others = {"broken": broken, "skipped": dict(listing.skipped)}
    write_text(part / FACTS, json.dumps({**facts, **content, **others}, indent=1) + "\n")
    (part / JOURNAL).unlink()


def _pixels(
    entries: Sequence[Entry], form: Form, part: Path, key: str, processes: int | None, track: Track
) -> dict[str, str]:
    """Decode the pictures that an earlier call has not decoded, and append them; returns which are broken, and why."""
    _clean(part)
    done, broken = _resumed(part, key, math.prod(form.shape))
    advance = track("packing pictures", len(entries))
    advance(done)
    left, news = entries[done:], dict[str, str]()
    with (
        closing(decoded([e.source for e in left], form, processes)) as made,
        open(part / PIXELS, "ab") as pixels,
        open(part / JOURNAL, "a", encoding="utf-8") as journal,
    ):
        for entry, x in zip(left, made, strict=True):
            done += 1
            if isinstance(x, str):
                news[entry.name] = x
            else:
                pixels.write(x.tobytes())
            if done % COMMIT == 0 or done == len(entries):
                pixels.flush()
                os.fsync(pixels.fileno())
                journal.write(json.dumps({"done": done, "broken": news}) + "\n")
                journal.flush()
                broken, news = {**broken, **news}, {}
            advance(1)
    return broken


def _clean(part: Path) -> None:
    """Make the folder of an incomplete pack; links are not followed but removed, and files partly written too."""
    for path in (part, *(part / name for name in (PIXELS, FACTS, JOURNAL))):
        if path.is_symlink():
            path.unlink()
    part.mkdir(exist_ok=True)
    sweep(part)


def _resumed(part: Path, key: str, size: int) -> tuple[int, dict[str, str]]:
    """How many pictures an earlier call has decoded, and which were broken; the files are truncated or created
    accordingly.
    """
    done, broken, kept = 0, dict[str, str](), list[str]()
    try:
        lines = (part / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
        held = (part / PIXELS).stat().st_size
    except OSError:
        lines, held = [], 0
    if lines and lines[0] == json.dumps({"key": key}) + "\n":
        for line in lines[1:]:
            tree = parsed(line) if line.endswith("\n") else None
            if tree is None or HEADER + size * (tree["done"] - len(broken | tree["broken"])) > held:
                break
            done, broken = tree["done"], broken | tree["broken"]
            kept.append(line)
    write_text(part / JOURNAL, "".join([json.dumps({"key": key}) + "\n", *kept]))
    with open(part / PIXELS, "ab") as pixels:
        pixels.truncate(HEADER + size * (done - len(broken)))
    return done, broken


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert len(file.getvalue()) == HEADER
    return file.getvalue()
