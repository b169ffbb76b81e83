"""The contents of a folder or a tar file: pictures by name, with their labels and texts.

This file and `decode` do not import torch, so that the processes that decode pictures start quickly.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jensen.core.naming import path_of
from jensen.training.strict_json import parsed

PICTURES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".jp2"),
)
ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
METADATA, DATASET = ("metadata.jsonl", "metadata.csv"), "dataset.json"
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")
TEXT, CLASS = ".txt", ".cls"


@dataclass(frozen=True)
class Place:
    """A file, or a part of one.

    Attributes:
        path: path of the file.
        start: first byte.
        length: number of bytes.
        changed: time of the file's last change, in nanoseconds.
    """

    path: Path
    start: int
    length: int
    changed: int

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)


@dataclass(frozen=True)
class Entry:
    """A picture.

    Attributes:
        name: path relative to the folder, with forward slashes on every machine.
        source: the location of its bytes.
        label: its class.
        text: its caption.
    """

    name: str
    source: Place
    label: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder or a tar file, sorted by name.

    Attributes:
        root: the folder or file.
        entries: its pictures.
        skipped: other files by name, and why each was skipped.
    """

    root: Path
    entries: tuple[Entry, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)


def list_pictures(path: Path | str) -> Listing:
    """The pictures in a folder, at any depth, and in the .tar files in it; or those in one .tar file.

    Labels come from `metadata.jsonl` or `metadata.csv` (columns `file_name` and `label`, `text` or both), StyleGAN's
    `dataset.json`, or `.cls` files beside the pictures. Without any of these they are the names of the folders below
    the one that all pictures share, if each picture is in such a folder; folders named train, test or validation are
    not classes. Texts come from the metadata or from `.txt` files beside the pictures. Hidden files and `__MACOSX` are
    ignored. A symbolic link is followed unless what it points to is listed already.

    Raises:
        ValueError: if there is no such folder or tar file, it has no pictures, or its metadata are malformed or name a
            file outside of their folder.
    """
    path = path_of(path, "path")
    skipped: dict[str, str] = {}
    if path.is_dir():
        files = _files(path, skipped)
        shards = {name: files.pop(name) for name in [n for n in files if _ending(n) == ".tar"]}
        containers = [("", files), *((f"{n}/", _shard(n, place, skipped)) for n, place in shards.items())]
    elif path.is_file() and path.suffix.lower() == ".tar":
        containers = [("", _members(_place(path), skipped))]
    elif not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    else:
        raise ValueError(f"data must be a folder of pictures or a .tar file, got the file {path}")
    found: list[tuple[str, Entry]] = []
    for prefix, inside in containers:
        found += [(prefix, entry) for entry in _entries(inside, prefix, skipped)]
    if not found:
        first = next((f"{len(skipped)} other files, such as {k} ({why})" for k, why in skipped.items()), "none")
        raise ValueError(f"{path} must hold pictures, got {first}")
    if all(entry.label is None for _, entry in found):
        classes = _folders([entry.name for _, entry in found])
        found = [(p, Entry(e.name, e.source, classes.get(e.name), e.text)) for p, e in found]
    entries = (Entry(prefix + e.name, e.source, e.label, e.text) for prefix, e in found)
    return Listing(path, tuple(sorted(entries, key=lambda e: e.name)), dict(sorted(skipped.items())))


def _entries(files: Mapping[str, Place], prefix: str, skipped: dict[str, str]) -> list[Entry]:
    """The pictures among files by name, with the labels and texts that the other files give."""
    pictures = {name: place for name, place in files.items() if _ending(name) in PICTURES}
    stems = {posixpath.splitext(name)[0]: name for name in pictures}
    given: dict[str, dict[str, str]] = {"label": {}, "text": {}}

    def give(kind: str, name: str, value: str, where: str) -> None:
        if name not in pictures:
            skipped.setdefault(prefix + name, f"named in {where}, but there is no such picture")
        elif given[kind].setdefault(name, value) != value:
            raise ValueError(f"{where} must give one {kind} for each picture, got two for {name}")

    for name, place in files.items():
        folder, file = posixpath.split(name)
        stem, ending = posixpath.splitext(name)
        if name in pictures:
            continue
        if file in METADATA:
            for row in _rows(name, place):
                for kind in ("label", "text"):
                    if row[kind] is not None:
                        give(kind, _within(folder, row["file_name"], prefix + name), row[kind], prefix + name)
        elif file == DATASET and (pairs := _pairs(name, place)) is not None:
            for target, label in pairs:
                give("label", _within(folder, target, prefix + name), label, prefix + name)
        elif ending in (TEXT, CLASS) and stem in stems:
            try:
                value = place.read().decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                skipped[prefix + name] = "not text in UTF-8"
                continue
            if value:  # an empty file says nothing about its picture
                give("text" if ending == TEXT else "label", stems[stem], value, prefix + name)
        else:
            archive = _ending(name) in ARCHIVES
            skipped[prefix + name] = "a packed archive: unpack it, or repack it as .tar" if archive else "not a picture"
    labels, texts = given["label"], given["text"]
    return [Entry(name, place, labels.get(name), texts.get(name)) for name, place in pictures.items()]


def _rows(name: str, place: Place) -> Iterator[dict[str, Any]]:
    """Rows of a metadata file with the keys file_name, label and text; the latter two may be None."""
    try:
        text = place.read().decode("utf-8-sig")
        if _ending(name) == ".csv":
            rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        else:
            rows = [_json(line, k) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{name} is broken: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            has = f"none in row {number}" + f", which has {', '.join(map(str, row))}" * isinstance(row, dict)
            raise ValueError(f"each row of {name} must have a file_name, and a label or a text, got {has}")
        if not {"label", "text"} & set(row):
            raise ValueError(f"each row of {name} must have a label or a text, got {sorted(map(str, row))}")
        values = {kind: row.get(kind) for kind in ("label", "text")}
        for kind, value in values.items():
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"{kind} must be a word or a number in {name}, got {value!r} in row {number}")
        words = {kind: None if value is None else str(value).strip() or None for kind, value in values.items()}
        yield {"file_name": row["file_name"], **words}


def _json(line: str, number: int) -> Any:
    try:
        return parsed(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {number}, column {error.colno}") from error


def _pairs(name: str, place: Place) -> list[tuple[str, str]] | None:
    """Names and labels of StyleGAN's dataset.json; None if the file is of a different kind."""
    try:
        data = place.read()
        tree = parsed(data.decode(json.detect_encoding(data)))
    except ValueError as error:
        raise ValueError(f"{name} is broken: {error}") from error
    if not isinstance(tree, dict) or "labels" not in tree:
        return None
    pairs = tree["labels"] or []
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int):
            raise ValueError(f"labels of {name} must be pairs of a name and a whole number, got {pair!r}")
    return [(target, str(label)) for target, label in pairs]


def _within(folder: str, name: str, where: str) -> str:
    """The name of a file, from its name in the metadata of `folder`."""
    path = posixpath.normpath(_text(name).replace("\\", "/"))
    if posixpath.isabs(path) or path.split("/")[0] == "..":
        raise ValueError(f"{where} must name files in its own folder, got {name!r}")
    return posixpath.join(folder, path)


def _folders(names: list[str]) -> dict[str, str]:
    """Labels of pictures: the names of the folders below the folder that all share, or below train, test and similar
    ones.

    {} unless every picture is in such a folder.
    """
    shared = posixpath.commonpath([posixpath.dirname(name) for name in names])
    below = {name: posixpath.relpath(name, shared or ".").split("/") for name in names}
    if all(parts[0].lower() in SPLITS for parts in below.values()):
        below = {name: parts[1:] for name, parts in below.items()}
    return {name: parts[0] for name, parts in below.items()} if all(len(p) > 1 for p in below.values()) else {}


def _files(root: Path, skipped: dict[str, str]) -> dict[str, Place]:
    """All files below a folder by name; each is read once, however many links point to it."""
    files: dict[str, Place] = {}
    names = {
        _identity(folder.stat()): "a folder that contains this one" for folder in root.absolute().resolve().parents
    }
    names[_identity(root.stat())] = "this folder"
    links: list[tuple[str, str]] = []

    def visit(path: str, name: str) -> None:
        """List a file or a folder that is not a link; links are collected and followed at the end."""
        todo = [(path, name)]
        while todo:
            path, name = todo.pop()
            try:
                state = os.stat(path)
                inside = sorted(os.listdir(path)) if os.path.isdir(path) else None
            except OSError as error:
                skipped[name] = f"cannot be read: {error.strerror}"
                continue
            if name and (known := names.setdefault(_identity(state), name)) != name:
                skipped[name] = f"the same as {known}"
            elif inside is None:
                if os.path.isfile(path):
                    files[name] = Place(Path(path), 0, state.st_size, state.st_mtime_ns)
                else:
                    skipped[name] = "not a regular file"
            else:
                for item in reversed(inside):
                    if not item.startswith(".") and item != "__MACOSX":
                        below = os.path.join(path, item), posixpath.join(name, _text(item))
                        (links if os.path.islink(below[0]) else todo).append(below)

    visit(str(root), "")
    while links:
        visit(*links.pop())
    return files


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _place(path: Path) -> Place:
    state = path.stat()
    return Place(path, 0, state.st_size, state.st_mtime_ns)


def _shard(name: str, place: Place, skipped: dict[str, str]) -> dict[str, Place]:
    """The files of one of several tar files; a broken tar file is skipped."""
    found: dict[str, str] = {}
    try:
        members = _members(place, found)
    except ValueError:
        skipped[name] = "a broken tar file"
        return {}
    skipped.update({f"{name}/{member}": why for member, why in found.items()})
    return members


def _members(place: Place, skipped: dict[str, str]) -> dict[str, Place]:
    """The files of a tar file by name; they are read inside the tar file and never extracted."""
    files: dict[str, Place] = {}
    try:
        with tarfile.open(place.path, "r:") as archive:
            for member in archive:
                name = posixpath.normpath(_text(member.name))
                parts = name.split("/")
                if member.isdir() or any((p.startswith(".") and p != "..") or p == "__MACOSX" for p in parts):
                    continue
                if posixpath.isabs(name) or ".." in parts:
                    skipped[name] = "a name outside of the archive"
                elif not member.isfile() or member.issparse():
                    skipped[name] = "not a regular file"
                else:
                    files[name] = Place(place.path, member.offset_data, member.size, place.changed)
    except tarfile.TarError as error:
        raise ValueError(f"{place.path} is a broken tar file: {error}") from error
    return files


def _ending(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _text(name: str) -> str:
    """A file's name in composed Unicode, since systems differ; bytes that are not UTF-8 are escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
