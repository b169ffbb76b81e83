"""Packs: the pixels of a folder, bit for bit, also after interruptions; and which pictures are held out."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jensen.data import cache
from jensen.data import pack as packs
from jensen.data.decode import Form, decode
from jensen.data.listing import list_pictures
from jensen.data.pack import cached_pack, is_pack, open_pack, write_pack
from jensen.data.pool import drawn_rows
from jensen.data.split import MOST_TEST, held_out, near_duplicates

FORM = Form(3, 4, 4)


def as_file(x, kind="PNG", **more):
    file = io.BytesIO()
    Image.fromarray(x).save(file, kind, **more)
    return file.getvalue()


def folder_of(path, n, broken=()):
    """n random pictures of 4 x 4, even and odd ones in folders, some cut short; the pixels of the others by name."""
    x = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
    pixels = {}
    for k in range(n):
        name = f"{('even', 'odd')[k % 2]}/{k:04d}.png"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(as_file(x[k])[: 60 if k in broken else None])
        if k not in broken:
            pixels[name] = x[k].transpose(2, 0, 1)
    return dict(sorted(pixels.items()))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pack_holds_the_pictures_bit_for_bit(tmp_path):
    pixels = folder_of(tmp_path / "in", 30, broken=(4, 5))
    (tmp_path / "in" / "even" / "0002.txt").write_text("two")
    (tmp_path / "in" / "notes.md").write_text("x")
    made = write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack")
    assert made.names == tuple(pixels)
    assert made.labels == tuple(name.split("/")[0] for name in pixels)
    assert made.texts == tuple("two" if name == "even/0002.png" else None for name in pixels)
    assert set(made.broken) == {"even/0004.png", "odd/0005.png"}
    assert set(made.skipped) == {*made.broken, "notes.md"}
    assert (np.load(tmp_path / "pack" / "x.npy") == np.stack(list(pixels.values()))).all()
    assert sorted(os.listdir(tmp_path)) == ["in", "pack"]
    again = open_pack(str(tmp_path / "pack"))
    assert (again.x == made.x).all()
    assert (again.form, again.names, again.fingerprint) == (FORM, made.names, made.fingerprint)
    assert is_pack(tmp_path / "pack")
    assert not is_pack(tmp_path / "in")


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    pixels = np.stack(list(folder_of(tmp_path / "in", 20).values()))
    made = write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack")
    chosen, cond = torch.arange(20) % 3 == 0, torch.arange(20)[:, None]
    rows = made.rows(chosen, cond=cond)
    batch = rows[torch.tensor([6, 0, 0])]
    assert len(rows) == 7
    assert batch["cond"].tolist() == [[18], [0], [0]]
    assert (batch["x"] == torch.from_numpy(pixels[[18, 0, 0]]) / 127.5 - 1).all()
    assert len(made.rows()) == 20
    assert made.rows(torch.tensor([5]))[torch.tensor([0])]["x"].shape == (1, 3, 4, 4)
    drawn = next(drawn_rows(rows, 4, 0)(0))
    assert (drawn["x"] == rows[drawn["index"]]["x"]).all()
    with pytest.raises(ValueError, match="cond must have a row for each of 20 pictures, got 7"):
        made.rows(chosen, cond=cond[chosen])
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        made.rows(torch.zeros(20, dtype=torch.bool))


def test_another_process_opens_the_file_and_is_not_sent_the_pixels(tmp_path):
    folder_of(tmp_path / "in", 600)
    rows = write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack").rows(torch.arange(5))
    sent = pickle.dumps(rows)
    assert len(sent) < 2000 < rows.pack.x.nbytes
    index = torch.arange(5)
    assert (pickle.loads(sent)[index]["x"] == rows[index]["x"]).all()


# this program has no `if __name__ == "__main__"`, and kills itself at the 300th picture
PROGRAM = """
import os, signal, sys
from jensen.data.decode import Form
from jensen.data.listing import list_pictures
from jensen.data.pack import write_pack

def track(name, total):
    seen = [0]
    def advance(n):
        seen[0] += n
        if seen[0] >= 300:
            os.kill(os.getpid(), signal.SIGKILL)
    return advance

write_pack(list_pictures(sys.argv[1]), Form(3, 4, 4), sys.argv[2], processes=2, track=track)
"""


def test_a_killed_pack_goes_on_and_has_the_same_bytes(tmp_path, monkeypatch):
    folder_of(tmp_path / "in", 640, broken=(7, 500))
    listing = list_pictures(tmp_path / "in")
    whole = write_pack(listing, FORM, tmp_path / "whole")
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "in"), str(tmp_path / "pack")]
    stopped = subprocess.run(
        words, capture_output=True, timeout=120
    )  # returns when the processes that decode have ended
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert not (tmp_path / "pack").exists()
    journal = (tmp_path / ".pack.part" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["done"] for line in journal[1:]] == [packs.COMMIT]
    with open(tmp_path / ".pack.part" / "journal.jsonl", "a") as file:
        file.write('{"done": 512, "bro')  # a line that was cut
    counts = []
    monkeypatch.setattr(packs, "decoded", lambda places, *more: counts.append(len(places)) or decode_each(places, FORM))
    made = write_pack(listing, FORM, tmp_path / "pack")
    assert counts == [640 - packs.COMMIT]
    assert made.fingerprint == whole.fingerprint
    assert files(tmp_path / "pack") == files(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["in", "pack", "program.py", "whole"]


def decode_each(places, form):
    for place in places:
        try:
            yield decode(place.read(), form)
        except ValueError as error:
            yield str(error)


def test_what_was_begun_for_other_pictures_is_not_continued(tmp_path):
    pixels = folder_of(tmp_path / "in", 10)
    part = tmp_path / ".pack.part"
    part.mkdir()
    (part / "journal.jsonl").write_text('{"key": "another"}\n{"done": 8, "broken": {}}\n')
    (part / "x.npy").write_bytes(bytes(10_000))
    made = write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack")
    assert (made.x == np.stack(list(pixels.values()))).all()


def test_several_processes_write_the_same_bytes(tmp_path):
    folder_of(tmp_path / "in", 100, broken=(50,))
    listing = list_pictures(tmp_path / "in")
    one, two = (write_pack(listing, FORM, tmp_path / f"{n}", processes=n) for n in (1, 2))
    assert files(one.path) == files(two.path)
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        write_pack(listing, FORM, tmp_path / "none", processes=0)


def test_broken_files_are_refused_if_strict_or_if_there_is_nothing_else(tmp_path):
    folder_of(tmp_path / "in", 4, broken=(1,))
    with pytest.raises(ValueError, match=r"pictures must not be broken, got 1 broken ones: odd/0001.png: .*truncated"):
        write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack", strict=True)
    folder_of(tmp_path / "all", 5, broken=range(5))
    with pytest.raises(ValueError, match=r"got 5 broken ones: .*; \.\.\.$"):
        write_pack(list_pictures(tmp_path / "all"), FORM, tmp_path / "pack")
    assert sorted(os.listdir(tmp_path)) == ["all", "in"]


def test_a_pack_is_never_overwritten(tmp_path):
    folder_of(tmp_path / "in", 4)
    listing = list_pictures(tmp_path / "in")
    made = write_pack(listing, FORM, tmp_path / "pack")
    before = files(made.path)
    assert write_pack(listing, FORM, tmp_path / "pack").fingerprint == made.fingerprint
    for place, form in ((tmp_path / "pack", Form(1, 4, 4)), (tmp_path / "in", FORM)):
        with pytest.raises(ValueError, match=r"must be written to a new folder, got .*, which already exists"):
            write_pack(listing, form, place)
    assert files(made.path) == before


def test_the_cache_decodes_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    folder_of(tmp_path / "in", 12)
    first = cached_pack(list_pictures(tmp_path / "in"), FORM)
    assert tmp_path / "cache" in first.path.parents
    monkeypatch.setattr(packs, "decoded", None)  # a second decoding would fail
    (tmp_path / "in").rename(tmp_path / "moved")
    (tmp_path / "moved" / "new.md").write_text("x")
    again = cached_pack(list_pictures(tmp_path / "moved"), FORM)
    assert again.path == first.path
    assert again.skipped == {"new.md": "not a picture"}
    monkeypatch.undo()
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    others = [cached_pack(list_pictures(tmp_path / "moved"), Form(1, 4, 4))]
    os.utime(tmp_path / "moved" / "odd" / "0001.png", ns=(0, 0))
    others.append(cached_pack(list_pictures(tmp_path / "moved"), FORM))
    (tmp_path / "moved" / "odd" / "0001.txt").write_text("a caption")
    others.append(cached_pack(list_pictures(tmp_path / "moved"), FORM))
    assert len({first.path, *(other.path for other in others)}) == 4
    assert others[-1].texts.count("a caption") == 1


def test_the_cache_deletes_the_least_recently_used_packs_but_none_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    folder_of(tmp_path / "in", 12)
    listing = list_pictures(tmp_path / "in")
    made = [cached_pack(listing, Form(1, side, side)) for side in (8, 9, 10, 11)]
    for k, pack in enumerate(made):
        os.utime(pack.path.parent, (k, k))
    size = sum(file.stat().st_size for pack in made for file in pack.path.iterdir())
    places = tmp_path / "cache" / "packs"
    assert cache.trim(places) == []
    assert cache.trim(places, 0) == []  # this process uses all of them
    for pack in made:
        os.close(cache.USED.pop(pack.path / "x.npy"))
    cached_pack(listing, Form(1, 8, 8))  # the oldest is used again
    assert cache.trim(places, size) == []
    assert cache.trim(places, size - 1) == [made[1].path.parent]
    assert [is_pack(pack.path) for pack in made] == [True, False, True, True]
    monkeypatch.setattr(cache, "MOST", 1)
    written = cached_pack(listing, Form(1, 9, 9))  # deletes those that are not in use
    assert [is_pack(pack.path) for pack in made] == [True, True, False, False]
    assert written.x.shape == (12, 1, 9, 9)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("x.npy", lambda data: data[:-1], "is a broken pack"),
        ("x.npy", lambda data: data + b"0", "must be 320 bytes, got 321"),
        ("x.npy", lambda data: b"nothing", "is a broken pack"),
        ("pack.json", lambda data: b"{", "is a broken pack"),
        ("pack.json", lambda data: b"{}", "is a broken pack: 'version'"),
        (
            "pack.json",
            lambda data: data.replace(b'"version": 1', b'"version": 9'),
            "of version 1, got 9: pack it again",
        ),
        ("pack.json", lambda data: data.replace(b'"height": 4', b'"height": 5'), "must be .* uint8, got"),
        ("pack.json", lambda data: data.replace(b'"skipped"', b'"lost"'), "is a broken pack: 'skipped'"),
        ("pack.json", None, "is not a pack: it must hold x.npy and pack.json"),
    ],
)
def test_broken_packs_are_refused(tmp_path, name, change, why):
    folder_of(tmp_path / "in", 4)
    path = write_pack(list_pictures(tmp_path / "in"), FORM, tmp_path / "pack").path / name
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=why) as error:
        open_pack(tmp_path / "pack")
    assert "\n" not in str(error.value)


# ---- what is held out ----------------------------------------------------------------------------------------------


def test_a_name_is_held_out_by_its_hash():
    # SHA-256 of "a", "b", "c" begins with ca, 3e, 2e: 0.791, 0.243, 0.182 of the range
    assert held_out(["a", "b", "c"], 0.2).tolist() == [False, False, True]
    assert held_out(["a", "b", "c"], 0.79).tolist() == [False, True, True]
    assert held_out(["a", "b", "c"], 0.8).all()
    assert not held_out(["a", "b", "c"], 0.0).any()
    with pytest.raises(ValueError, match="share must be from 0 to 1, got 2"):
        held_out(["a"], 2)


def test_files_that_are_added_leave_the_split_as_it_is():
    names = [f"class/{k}.png" for k in range(20_000)]
    test = held_out(names, 0.1)
    assert abs(float(test.double().mean()) - 0.1) < 5 * (0.1 * 0.9 / 20_000) ** 0.5
    more = sorted([*names, *(f"class/new {k}.png" for k in range(1000))])
    again = dict(zip(more, held_out(more, 0.1).tolist(), strict=True))
    assert [again[name] for name in names] == test.tolist()


def smooth(n, side=128, seed=0):
    """Random pictures with structure at a scale of a quarter of their side."""
    noise = np.random.default_rng(seed).integers(0, 256, (n, 5, 5, 3), np.uint8)
    return [Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in noise]


def test_copies_across_the_split_are_found_and_others_are_not():
    form = Form(3, 32, 32)
    originals = smooth(40)

    def packed(image, kind="PNG", **more):
        return decode(as_file(np.asarray(image), kind, **more), form)

    copies = [
        packed(originals[3]),
        packed(originals[7].resize((48, 48))),
        packed(originals[11], "JPEG", quality=40),
        packed(originals[15].resize((80, 80)), "WEBP", quality=50),
        packed(originals[19].point(lambda v: min(255, v + 3))),
    ]
    x = np.stack([*map(packed, originals), *copies, *map(packed, smooth(40, seed=1))])
    test = torch.arange(len(x)) >= 40
    assert near_duplicates(x, test) == [(3, 40), (7, 41), (11, 42), (15, 43), (19, 44)]


def test_flat_pictures_are_near_only_if_their_levels_are():
    levels = np.array([0, 255, 100, 101, 250], np.uint8)
    x = np.broadcast_to(levels[:, None, None, None], (5, 1, 8, 8))
    assert near_duplicates(x, torch.tensor([False, False, False, True, True])) == [(2, 3)]
    assert near_duplicates(x, torch.zeros(5, dtype=torch.bool)) == []
    with pytest.raises(ValueError, match="each of 5 pictures"):
        near_duplicates(x, torch.zeros(4, dtype=torch.bool))


def test_the_nearest_picture_is_found_among_many():
    x = np.random.default_rng(0).integers(0, 256, (8000, 1, 4, 4), np.uint8)
    test = held_out([str(k) for k in range(len(x))], 0.1)
    train, held = (~test).nonzero()[:, 0], test.nonzero()[:, 0]
    for k in (0, 700):
        x[held[k]] = x[train[7000 - k]]
    assert {(int(train[7000 - k]), int(held[k])) for k in (0, 700)} <= set(near_duplicates(x, test))
    many = np.zeros((60_000, 1, 1, 1), np.uint8)  # all alike, of which a part is compared
    assert len(near_duplicates(many, held_out([str(k) for k in range(60_000)], 0.1))) == MOST_TEST
