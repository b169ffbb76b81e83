"""Pictures in users' folders: which files are found, and arrays of the same kind from all file formats."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from jensen.data.decode import Form, decode
from jensen.data.listing import list_pictures
from jensen.data.survey import duplicates, survey


def as_file(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def grey(rows):
    return Image.fromarray(np.array(rows, np.uint8))


def one(mode, value, kind="PNG", **more):
    return as_file(Image.new(mode, (1, 1), value), kind, **more)


def pixel(data, channels=3, **form):
    return decode(data, Form(channels, 1, 1, **form))[:, 0, 0].tolist()


# pixels by hand: alpha 51 is a fifth, and 118 = floor(.299 * 200 + .587 * 100 + .114 * 0) is the grey of that orange
@pytest.mark.parametrize(
    ("channels", "alpha", "expected"),
    [
        (3, "white", [200 // 5 + 204, 100 // 5 + 204, 204]),
        (3, "black", [40, 20, 0]),
        (4, "keep", [200, 100, 0, 51]),
        (1, "white", [24 + 204]),
        (1, "black", [24]),
    ],
)
def test_colours_are_laid_on_white_or_black_by_their_alpha(channels, alpha, expected):
    assert pixel(one("RGBA", (200, 100, 0, 51)), channels, alpha=alpha) == expected


def test_fully_transparent_pixels_have_no_colour():
    clear = one("RGBA", (9, 99, 199, 0))
    assert pixel(clear) == [255, 255, 255]
    assert pixel(clear, alpha="black") == [0, 0, 0]
    assert pixel(clear, 4, alpha="keep") == [0, 0, 0, 0]


def test_an_opaque_picture_keeps_its_colours_and_gets_full_alpha():
    assert pixel(one("RGB", (1, 2, 3))) == [1, 2, 3]
    assert pixel(one("RGB", (1, 2, 3)), 4, alpha="keep") == [1, 2, 3, 255]


def test_grey_with_alpha_palettes_and_transparent_colours():
    assert pixel(one("LA", (100, 51)), 1) == [100 // 5 + 204]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    both = Form(3, 1, 2)
    assert decode(as_file(palette), both)[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode(as_file(palette, transparency=0), both)[:, 0].T.tolist() == [[255] * 3, [40, 50, 60]]
    assert decode(as_file(palette, transparency=bytes([51, 255])), both)[:, 0, 0].tolist() == [206, 208, 210]
    assert pixel(one("RGB", (1, 2, 3), transparency=(1, 2, 3))) == [255] * 3
    assert pixel(one("L", 7, transparency=7), 1) == [255]


def test_one_bit_and_sixteen_bits_fill_the_scale():
    assert decode(as_file(grey([[0, 255]]).convert("1")), Form(1, 1, 2)).tolist() == [[[0, 255]]]
    deep = Image.fromarray(np.array([[0, 257, 0x8080, 65535]], np.uint16))
    for kind in ("PNG", "TIFF"):
        assert decode(as_file(deep, kind), Form(1, 1, 4)).tolist() == [[[0, 1, 128, 255]]]
    share = Image.fromarray(np.array([[0, 0.2, 1]], np.float32))
    assert decode(as_file(share, "TIFF"), Form(1, 1, 3)).tolist() == [[[0, 51, 255]]]
    with pytest.raises(ValueError, match="levels must be from 0 to 1, got -1 to 0"):
        decode(as_file(Image.fromarray(np.array([[-1, 0]], np.float32)), "TIFF"), Form(1, 1, 2))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours_are_those_of_pillow(mode):
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (4, 4), np.random.default_rng(0).bytes(16 * bands))
    found = decode(as_file(image, "TIFF"), Form(3, 4, 4))
    assert (found == np.asarray(image.convert("RGB")).transpose(2, 0, 1)).all()


TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = as_file(grey(TURNED[1]), kind, exif=exif, **lossless)
    expected = TURNED[orientation]
    assert decode(file, Form(1, len(expected), len(expected[0]))).tolist() == [expected]
    found = survey(list_pictures(fill(tmp_path, {f"x.{kind.lower()}": file})))
    assert (found.sizes, found.turned) == ({(len(expected), len(expected[0])): 1}, orientation > 1)


def test_the_first_frame_of_an_animation():
    frames = [grey([[level] * 4] * 4) for level in (10, 200)]
    for kind in ("GIF", "PNG", "WEBP"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        file = as_file(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        assert set(decode(file, Form(1, 4, 4)).flatten().tolist()) == {10}


@pytest.mark.parametrize(("width", "left"), [(6, 1), (7, 1), (8, 2), (9, 2)])
def test_cropping_keeps_the_middle(width, left):
    columns = np.arange(4 * width, dtype=np.uint8).reshape(4, width)
    assert (decode(as_file(grey(columns)), Form(1, 4, 4)) == columns[:, left : left + 4]).all()
    assert (decode(as_file(grey(columns.T)), Form(1, 4, 4)) == columns[:, left : left + 4].T).all()


def test_padding_puts_the_whole_picture_in_the_middle():
    wide = np.arange(1, 9, dtype=np.uint8).reshape(2, 4)
    for alpha, ground in (("white", 255), ("black", 0)):
        found = decode(as_file(grey(wide)), Form(1, 5, 4, "pad", alpha))
        assert found.tolist() == [[[ground] * 4, *wide.tolist(), [ground] * 4, [ground] * 4]]
    kept = decode(as_file(grey(wide.T)), Form(4, 4, 5, "pad", "keep"))
    assert kept[3].tolist() == [[0, 255, 255, 0, 0]] * 4
    assert (kept[:3, :, 1:3] == wide.T).all()
    assert not kept[:, :, [0, 3, 4]].any()


def test_stretching_shows_every_pixel():
    halves = np.repeat(np.array([[10, 200]], np.uint8), 32, 1).repeat(16, 0)
    found = decode(as_file(grey(halves)), Form(1, 8, 8, "stretch"))[0]
    assert (found[:, 0] == 10).all()
    assert (found[:, 7] == 200).all()


def test_shrinking_averages():
    ramp = np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(64, 0)
    found = decode(as_file(grey(ramp)), Form(1, 32, 32))[0]
    assert (found[:, 4:28] == 8 * np.arange(4, 28) + 2).all()  # the mean of 8 k and 8 k + 4
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(decode(as_file(grey(checks)), Form(1, 16, 16))[0].astype(int) - 127.5).max() <= 1


def test_hidden_colours_do_not_bleed_when_shrinking():
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (15, 0, 32, 32))
    red, green, blue = decode(as_file(image), Form(3, 8, 8))
    assert (red == 255).all()
    assert (green == blue).all()
    assert green[0, 0] < 10 < 245 < green[0, -1]


def test_resampling_leaves_no_colour_where_nothing_is_seen():
    x = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    x[..., 3] = np.random.default_rng(1).integers(0, 8, (16, 16)).repeat(4, 0).repeat(4, 1) == 7
    x[..., 3] *= 255
    found = decode(as_file(Image.fromarray(x)), Form(4, 32, 32, "stretch", "keep"))
    assert 100 < (found[3] == 0).sum() < 1000
    assert not found[:3, found[3] == 0].any()


def test_a_large_jpeg_is_decoded_smaller_at_once():
    tiles = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    large = Image.fromarray(tiles).resize((1200, 800), Image.Resampling.BICUBIC)
    file = as_file(large, "JPEG", quality=95)
    exact = decode(as_file(Image.open(io.BytesIO(file))), Form(3, 24, 24))
    assert np.abs(decode(file, Form(3, 24, 24)).astype(int) - exact).max() <= 3


def bomb():
    """The header of a PNG of 50,000 x 50,000 pixels."""
    bodies = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(b) - 4) + b + struct.pack(">I", zlib.crc32(b)) for b in bodies]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"no picture", "no picture of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no picture of a known format"),
        (as_file(NOISE)[:6000], "truncated"),
        (as_file(NOISE, "JPEG", quality=95)[:2000], "truncated"),
        (as_file(NOISE, "GIF")[:1500], "truncated"),
        (as_file(NOISE, "TIFF")[:3000], "truncated"),
        (bomb(), "at most 134,217,728 pixels"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(data, why):
    with pytest.raises(ValueError, match=why) as error:
        decode(data, Form())
    assert str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"channels": 2}, "channels must be 1, 3 or 4, got 2"),
        ({"height": 0}, "height and width must be from 1 to 4096, got 0 x 64"),
        ({"fit": "squeeze"}, "fit must be crop, pad or stretch, got 'squeeze'"),
        ({"alpha": "red"}, "alpha must be white, black or keep, got 'red'"),
        ({"alpha": "keep"}, "alpha must be keep for 4 channels and only then, got keep for 3"),
        ({"channels": 4}, "alpha must be keep for 4 channels and only then, got white for 4"),
    ],
)
def test_forms_are_checked(settings, why):
    with pytest.raises(ValueError, match=why):
        Form(**settings)


# ---- what is in a folder -------------------------------------------------------------------------------------------


def fill(folder, files):
    """Write files by name: bytes, text, or a grey picture of this level."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = as_file(grey([[content] * 4] * 4)) if isinstance(content, int) else content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def labels(listing):
    return {entry.name: entry.label for entry in listing.entries}


def texts(listing):
    return {entry.name: entry.text for entry in listing.entries}


def test_folders_of_classes(tmp_path):
    listing = list_pictures(fill(tmp_path, {"dog/b.PNG": 1, "cat/deep/a.png": 2, "cat/c.JpG": 3}))
    assert labels(listing) == {"cat/c.JpG": "cat", "cat/deep/a.png": "cat", "dog/b.PNG": "dog"}
    below = list_pictures(fill(tmp_path / "more", {"train/dog/a.png": 1, "train/cat/a.png": 2}))
    assert labels(below) == {"train/cat/a.png": "cat", "train/dog/a.png": "dog"}
    halves = fill(tmp_path / "halves", {"train/dog/a.png": 1, "train/cat/b.png": 2, "test/cat/c.png": 3})
    assert set(labels(list_pictures(halves)).values()) == {"cat", "dog"}
    assert set(labels(list_pictures(fill(tmp_path / "plain", {"train/a.png": 1, "val/b.png": 2}))).values()) == {None}
    fill(tmp_path, {"loose.png": 4})
    assert set(labels(list_pictures(tmp_path)).values()) == {None}


def test_what_is_no_picture_is_named_and_what_is_hidden_ignored(tmp_path):
    files = {"a.png": 1, "notes.md": "x", "b.zip": "x", ".hidden.png": 2, ".git/c.png": 3, "__MACOSX/a.png": 4}
    listing = list_pictures(fill(tmp_path, files))
    assert list(labels(listing)) == ["a.png"]
    assert listing.skipped == {
        "b.zip": "a packed archive: unpack it, or repack it as .tar",
        "notes.md": "not a picture",
    }


def test_links_are_followed_once(tmp_path):
    inside, outside = fill(tmp_path / "in", {"a.png": 1, "sub/b.png": 2}), fill(tmp_path / "out", {"c.png": 3})
    links = {
        "again.png": inside / "a.png",
        "gone.png": tmp_path / "nothing",
        "loop": inside,
        "sub/up": tmp_path,
        "two": inside / "sub",
        "elsewhere": outside,
        "z-elsewhere": outside,
        "itself": inside / "itself",
    }
    for name, target in links.items():
        (inside / name).symlink_to(target)
    listing = list_pictures(inside)
    found = {name.split("/")[-1] for name in labels(listing)}
    assert found == {"a.png", "b.png", "c.png"}
    assert len(listing.entries) == 3
    assert listing.skipped["again.png"] == "the same as a.png"
    assert listing.skipped["gone.png"] == "cannot be read: No such file or directory"
    assert listing.skipped["loop"] == "the same as this folder"
    assert listing.skipped["sub/up"] == "the same as a folder that contains this one"
    assert listing.skipped["two"] == "the same as sub"
    assert {"elsewhere", "z-elsewhere"} & set(listing.skipped)
    assert "itself" in listing.skipped


def test_metadata_give_labels_and_texts(tmp_path):
    rows = [{"file_name": "a.png", "label": 3, "text": "a cat"}, {"file_name": "sub/b.png", "label": None, "text": ""}]
    files = {"a.png": 1, "sub/b.png": 2, "metadata.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n"}
    listing = list_pictures(fill(tmp_path / "jsonl", files))
    assert labels(listing) == {"a.png": "3", "sub/b.png": None}
    assert texts(listing) == {"a.png": "a cat", "sub/b.png": None}
    table = '\ufefffile_name,label,text\nb.png,dog,"two\nlines, one comma"\nmissing.png,cat,\n'
    listing = list_pictures(fill(tmp_path / "csv", {"top.png": 1, "sub/b.png": 2, "sub/metadata.csv": table}))
    assert labels(listing) == {"sub/b.png": "dog", "top.png": None}
    assert texts(listing)["sub/b.png"] == "two\nlines, one comma"
    assert listing.skipped == {"sub/missing.png": "named in sub/metadata.csv, but there is no such picture"}


def test_a_broken_line_of_metadata_is_named_by_its_number(tmp_path):
    text = json.dumps({"file_name": "a.png", "text": "x"}) + "\n\n{broken\n"
    with pytest.raises(ValueError, match=r"metadata\.jsonl is broken: .* in line 3, column 2$"):
        list_pictures(fill(tmp_path / "x", {"a.png": 1, "metadata.jsonl": text}))
    said = "must have a file_name, and a label or a text, got none in row 1, which has file, caption"
    with pytest.raises(ValueError, match=said):
        list_pictures(fill(tmp_path / "y", {"a.png": 1, "metadata.csv": "file,caption\na.png,x\n"}))


def test_an_empty_caption_is_none(tmp_path):
    rows = [{"file_name": "c.png", "label": " ", "text": "\t"}]
    files = {"a.png": 1, "a.txt": "", "b.png": 2, "b.txt": " \n", "b.cls": "", "c.png": 3}
    listing = list_pictures(fill(tmp_path / "x", {**files, "metadata.jsonl": json.dumps(rows[0])}))
    assert texts(listing) == labels(listing) == dict.fromkeys(("a.png", "b.png", "c.png"))


def test_stylegan_labels_and_files_beside_the_pictures(tmp_path):
    pairs = json.dumps({"labels": [["00/a.png", 7], ["00/b.png", 0]]})
    listing = list_pictures(fill(tmp_path / "gan", {"00/a.png": 1, "00/b.png": 2, "dataset.json": pairs}))
    assert labels(listing) == {"00/a.png": "7", "00/b.png": "0"}
    files = {
        "a.png": 1,
        "a.txt": " a caption\n",
        "b.jpg": 2,
        "b.cls": "5",
        "other.txt": "x",
        "c.png": 1,
        "c.txt": b"\xff",
    }
    listing = list_pictures(fill(tmp_path / "side", files))
    assert texts(listing) == {"a.png": "a caption", "b.jpg": None, "c.png": None}
    assert labels(listing) == {"a.png": None, "b.jpg": "5", "c.png": None}
    assert listing.skipped == {"c.txt": "not text in UTF-8", "other.txt": "not a picture"}


def row(**values):
    return json.dumps(values)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("metadata.jsonl", row(file_name="../a.png", label="x"), "must name files in its own folder, got '../a.png'"),
        ("metadata.jsonl", row(file_name="sub/../../a.png", label="x"), "must name files in its own folder"),
        ("metadata.jsonl", row(file_name="..\\a.png", label="x"), "must name files in its own folder"),
        ("metadata.jsonl", row(file_name="/etc/passwd", text="x"), "must name files in its own folder"),
        ("metadata.csv", "file_name,label\n../../a.png,x\n", "must name files in its own folder"),
        ("dataset.json", '{"labels": [["/a.png", 1]]}', "must name files in its own folder"),
        ("dataset.json", '{"labels": [["a.png", [0, 1]]]}', "pairs of a name and a whole number"),
        ("dataset.json", '{"labels": ', "dataset.json is broken"),
        ("dataset.json", '{"labels": [["a.png", ' + "1" * 5000 + "]]}", "broken: a number has thousands of digits"),
        ("metadata.jsonl", "{", "metadata.jsonl is broken"),
        ("metadata.jsonl", row(label="x"), "must have a file_name, and a label or a text, got none in row 1"),
        ("metadata.jsonl", row(file_name="a.png", caption="x"), r"a label or a text, got \['caption', 'file_name'\]"),
        ("metadata.jsonl", row(file_name="a.png", label=[1]), r"a word or a number in metadata.jsonl, got \[1\]"),
        ("metadata.csv", "file_name,label\na.png,x\na.png,y\n", "one label for each picture, got two for a.png"),
    ],
)
def test_malformed_and_hostile_metadata_are_refused(tmp_path, name, content, why):
    fill(tmp_path, {"a.png": 1})
    with pytest.raises(ValueError, match=why):
        list_pictures(fill(tmp_path / "in", {"a.png": 1, name: content}))


def tar(path, files, links=()):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = as_file(grey([[content] * 4] * 4)) if isinstance(content, int) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return path


def test_tar_files_are_read_in_place(tmp_path):
    files = {"./top/cat/1.png": 10, "./top/dog/2.png": 20, "./top/dog/2.txt": b"a dog", "../evil.png": 1, "/abs.png": 1}
    listing = list_pictures(tar(tmp_path / "all.tar", files, links=["top/link.png"]))
    assert labels(listing) == {"top/cat/1.png": "cat", "top/dog/2.png": "dog"}
    assert texts(listing)["top/dog/2.png"] == "a dog"
    assert set(listing.skipped) == {"../evil.png", "/abs.png", "top/link.png"}
    assert [pixel(entry.source.read(), 1) for entry in listing.entries] == [[10], [20]]
    assert os.listdir(tmp_path) == ["all.tar"]


def test_a_folder_of_shards(tmp_path):
    tar(tmp_path / "0.tar", {"1.png": 1, "1.cls": b"3"})
    tar(tmp_path / "1.tar", {"1.png": 2, "1.cls": b"4"})
    fill(tmp_path, {"2.tar": "no tar file"})
    listing = list_pictures(tmp_path)
    assert labels(listing) == {"0.tar/1.png": "3", "1.tar/1.png": "4"}
    assert listing.skipped == {"2.tar": "a broken tar file"}
    with pytest.raises(ValueError, match="is a broken tar file"):
        list_pictures(tmp_path / "2.tar")


def test_names_are_the_same_on_every_machine(tmp_path):
    fill(tmp_path, {"e\u0301.png": 1})
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert list(labels(list_pictures(tmp_path))) == ["\\xff.png", "\u00e9.png"]


def test_places_without_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file or folder .*nothing"):
        list_pictures(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"must hold pictures, got none$"):
        list_pictures(tmp_path)
    with pytest.raises(ValueError, match=r"must hold pictures, got 1 other files, such as a.md \(not a picture\)"):
        list_pictures(fill(tmp_path, {"a.md": "x"}))


# ---- a survey ------------------------------------------------------------------------------------------------------


def test_a_survey_counts_and_suggests(tmp_path):
    wide, tall = Image.new("RGB", (100, 50), "red"), Image.new("RGBA", (50, 100))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {f"{k}.png": as_file(wide) for k in range(3)}
    files |= {"tall.png": as_file(tall), "turned.jpg": as_file(tall.convert("RGB"), "JPEG", exif=exif), "bad.png": "x"}
    files |= {"0.txt": "ab", "1.txt": "bcd"}
    listing = list_pictures(fill(tmp_path, files))
    found = survey(listing)
    assert (found.pictures, found.seen) == (6, 5)
    assert found.sizes == {(50, 100): 4, (100, 50): 1}
    assert found.formats == {"PNG": 4, "JPEG": 1}
    assert (found.alpha, found.turned, found.animated) == (1, 1, 0)
    assert (found.captions, found.longest, found.alphabet) == (2, 3, "abcd")
    assert found.form() == Form(3, 16, 32, "pad")  # a fifth of them would lose three quarters by cropping
    assert found.form((8, 8)) == Form(3, 8, 8, "pad")
    assert duplicates(listing) == [("0.png", "1.png", "2.png")]


def test_grey_is_suggested_only_where_no_pixel_has_a_colour(tmp_path):
    files = {f"{k}.png": as_file(Image.new("RGB", (28, 28), (k,) * 3)) for k in range(40)}
    assert survey(list_pictures(fill(tmp_path, files))).form() == Form(1, 28, 28)
    image = Image.new("RGB", (28, 28), "white")
    image.paste("red", (0, 0, 4, 4))
    assert survey(list_pictures(fill(tmp_path, {"z.png": as_file(image)}))).channels == 3


def test_a_folder_of_broken_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold pictures that can be read, got 1 broken ones"):
        survey(list_pictures(fill(tmp_path, {"a.png": "x"})))
