"""`jensen data` on the command line: a folder with all kinds of files is checked and packed; invalid input is
refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jensen import load_data
from jensen.cli.main import main
from jensen.data.pack import open_pack


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 pictures of 12 x 16 in two classes, one of them twice, with alpha and captions; a broken one and a note."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for k in range(40):
        name = tmp_path / "my pictures" / ("cats" if k < 25 else "dogs") / f"{k}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 4), np.uint8)).save(name)
        name.with_suffix(".txt").write_text(f"number {k}")
    (name.parent / "copy.png").write_bytes(name.read_bytes())
    (name.parent / "bad.png").write_bytes(name.read_bytes()[:99])
    (tmp_path / "my pictures" / "notes.md").write_text("x")
    return "my pictures"


def refused(capsys, words, *parts):
    """Exit code 2 and one line on standard error that contains these parts."""
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("jensen: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_check_says_what_is_there(folder, tmp_path, capsys):
    assert main(["data", "check", folder, "--json", "numbers.json", "--html", "page.html"]) == 0
    out = capsys.readouterr().out
    assert "jensen train diffusion --data 'my pictures'" in out
    assert "dogs/bad.png: " in out
    assert "12 x 16 pixels, colour, cropped to this aspect ratio, transparent pixels on white." in out
    tree = json.loads((tmp_path / "numbers.json").read_text())
    values = {key: finding["value"] for key, finding in tree["findings"].items()}
    expected = {"pictures": 41, "broken": 1, "skipped": 1, "classes": 2, "captions": 40, "copies": 1}
    assert values == {**expected, "longest": 9, "alphabet": 17, "near": len(tree["details"]["near"])}
    details = tree["details"]
    assert details["classes"] == {"cats": 25, "dogs": 16}
    assert details["copies"] == [["dogs/39.png", "dogs/copy.png"]]
    assert list(details["broken"]) == ["dogs/bad.png"]
    assert details["skipped"] == {"notes.md": "not a picture"}
    assert details["sizes"] == {"12 x 16": 42}
    assert details["form"] == {"channels": 3, "height": 12, "width": 16, "fit": "crop", "alpha": "white"}
    page = (tmp_path / "page.html").read_text()
    for said in ("my pictures", "dogs/bad.png", "notes.md", "not a picture", "data:image/png;base64", "number 0"):
        assert said in page


def test_a_copy_across_the_split_is_reported(tmp_path, folder, capsys):
    image = (tmp_path / folder / "cats" / "0.png").read_bytes()
    for k in range(60):  # of 60 copies of one picture some are held out, and have a copy in training
        (tmp_path / folder / "cats" / f"again {k}.png").write_bytes(image)
    assert main(["data", "check", folder, "--json", "numbers.json"]) == 0
    near = json.loads((tmp_path / "numbers.json").read_text())["details"]["near"]
    assert near
    assert all("again" in held or held == "cats/0.png" for _, held in near if held != "dogs/copy.png")


def test_check_names_the_family_of_two_sides_and_refuses_pictures_too_few_to_train_on(tmp_path, folder, capsys):
    for k, side in enumerate(("trainA", "trainB")):
        (tmp_path / "two" / side).mkdir(parents=True)
        (tmp_path / folder / "cats" / f"{k}.png").rename(tmp_path / "two" / side / "0.png")
    assert main(["data", "check", "two"]) == 2
    out, err = capsys.readouterr()
    assert "jensen train" not in out
    assert err.splitlines()[-1] == "jensen: training needs 2 pictures, and 2 that are held out, got 2 and 0"
    for side in ("trainA", "trainB"):
        for k in range(1, 40):
            shutil.copy(tmp_path / "two" / side / "0.png", tmp_path / "two" / side / f"{k}.png")
    for words, more in (([], ""), (["--size", "8x16"], " --set data.a.size=8x16")):
        assert main(["data", "check", "two", *words]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"jensen train translation --data two{more}"


def test_a_cache_that_cannot_be_written_is_named(folder, capsys, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", f"{folder}/notes.md")
    said = (
        "the cache must be a folder that can be written, got my pictures/notes.md (Not a directory): set JENSEN_CACHE"
    )
    refused(capsys, ["data", "check", folder], said)


TABLE = "length,mass,kind\n" + "".join(f"{k},{k * k},{'ab'[k % 2]}\n" for k in range(40))


def numbers(words, code=0):
    """The findings' values and the details that `data check` writes; its exit code."""
    assert main(["data", "check", *words, "--json", "numbers.json", "--html", "page.html"]) == code
    tree = json.loads(Path("numbers.json").read_text())
    return {key: finding["value"] for key, finding in tree["findings"].items()}, tree["details"]


def test_check_of_a_table_has_its_columns_and_what_a_run_would_use(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE + "3,9,b\n")
    values, details = numbers(["t.csv"])
    data = load_data("t.csv")
    sizes = {"rows": 41, "train": len(data.train), "test": len(data.test)}
    assert values == {**sizes, "columns": 2, "wrong": 0, "classes": 2, "copies": 1, "across": values["across"]}
    assert details["classes"] == {"a": 20, "b": 21}
    assert details["copied"] == [[4, 41]]
    length = np.append(np.arange(40.0), 3)
    expected = {"mean": length.mean(), "std": length.std(), "min": 0, "max": 39, "missing": 0}
    assert details["columns"]["length"] == pytest.approx(expected)
    out = capsys.readouterr().out
    assert "a: 20; b: 21" in out
    assert out.splitlines()[-3] == "jensen train diffusion --data t.csv"
    assert Path("page.html").read_text().count("<svg") == 3  # two columns and the classes


def test_check_names_every_cell_that_is_not_a_number(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE.replace("\n3,9,b", "\n,9,b").replace("\n5,25,", "\n5,inf,"))
    values, details = numbers(["t.csv"], 2)
    assert values["wrong"] == 2
    assert "train" not in values
    assert details["wrong"] == [[4, "length", "missing"], [6, "mass", "inf"]]
    assert details["columns"]["mass"]["max"] == 39**2
    out = capsys.readouterr().out
    assert "row 4, column length: missing" in out
    assert "Training refuses these data: column length of" in out
    assert "jensen train" not in out  # infinite numbers are not left out
    Path("some.csv").write_text("x,y\n,1\n" + "".join(f"{k},{k * k}\n" for k in range(99)))
    numbers(["some.csv"])
    command = "jensen train diffusion --data some.csv --set data.missing=drop"
    assert command in capsys.readouterr().out.splitlines()
    refused(capsys, ["data", "check", "t.csv", "--strict"], "must have finite numbers, got none in row 4")
    refused(capsys, ["train", "vae", "--data", "t.csv"], "must have finite numbers, got none in row 4")
    Path("t.csv").write_text("x,z\n" + "".join(f"{k},inf\n" for k in range(40)))
    assert numbers(["t.csv"], 2)[1]["columns"]["z"] == {"missing": 40}
    for word, said in (("n/a", "missing"), ("?", "?")):
        Path("t.csv").write_text(TABLE.replace("\n3,9,b", f"\n3,{word},b"))
        details = numbers(["t.csv"], 2)[1]  # too few rows are left
        assert (details["wrong"], details["classes"]) == ([[4, "mass", said]], {"a": 20, "b": 20})


def test_check_of_data_that_cannot_be_trained_on_gives_no_command(tmp_path, monkeypatch, capsys):
    """It exits with 2 after the report; columns whose range is lost beside their size have no histogram."""
    monkeypatch.chdir(tmp_path)
    for name, x, said in (
        ("big", np.full((60, 2), 1e38), "Training refuses these data: column 1 must have numbers from -1e+18 to 1e+18"),
        ("nan", np.full((60, 2), np.nan), "Training refuses these data: column 1 of"),
    ):
        np.save(f"{name}.npy", x)
        assert main(["data", "check", f"{name}.npy", "--html", "page.html"]) == 2
        out, err = capsys.readouterr()
        assert said in out
        assert ("jensen train" in out, err) == (False, "")
    Path("header.csv").write_text("a,b\n")
    refused(capsys, ["data", "check", "header.csv"], "header.csv must have rows below its header, got none")
    Path("latin.csv").write_bytes("l\xe4nge,b\n1,2\n3,4\n".encode("latin1"))
    refused(capsys, ["data", "check", "latin.csv"], "latin.csv is not UTF-8: save it as UTF-8")
    Path("empty.npy").write_bytes(b"")
    refused(capsys, ["data", "check", "empty.npy"], "empty.npy must be a .npy or .npz file of numbers: it is empty")
    np.save("objects.npy", np.array([{}]))
    refused(capsys, ["data", "check", "objects.npy"], "it has Python objects, or is of another format")


def test_check_takes_pictures_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), np.uint8)
    x[7] = x[9]
    np.savez("p.npz", x=x, labels=np.arange(60) % 3)
    Path("p.idx").write_bytes(bytes([0, 0, 8, 3]) + np.array([60, 6, 5], ">u4").tobytes() + x[..., 0].tobytes())
    values, details = numbers(["p.npz"])
    data = load_data("p.npz")
    sizes = {"rows": 60, "train": len(data.train), "test": len(data.test), "copies": 1}
    assert values == {**sizes, "levels": 256, "classes": 3, "near": values["near"]}
    assert details["shape"] == [3, 6, 5]
    assert details["classes"] == {"0": 20, "1": 20, "2": 20}
    assert details["copied"] == [[8, 10]]  # numbered as in the file, whichever rows are held out
    assert "data:image/png;base64" in Path("page.html").read_text()
    assert numbers(["p.idx"])[1]["shape"] == [1, 6, 5]
    refused(capsys, ["data", "check", "p.idx", "--size", "8"], "--size must be given for a folder of pictures")


def test_check_counts_the_held_out_folder_that_a_run_would_use(tmp_path, folder, capsys):
    (tmp_path / "split" / "test").mkdir(parents=True)
    (tmp_path / folder / "cats").rename(tmp_path / "split" / "train")
    for k in range(5):
        (tmp_path / "split" / "train" / f"{k}.png").rename(tmp_path / "split" / "test" / f"{k}.png")
    assert main(["data", "check", "split", "--json", "numbers.json"]) == 0
    tree = json.loads((tmp_path / "numbers.json").read_text())
    assert tree["findings"]["pictures"]["note"].startswith("5 of them held out")


def test_check_at_a_size_says_how_to_pack_it(folder, capsys):
    assert main(["data", "check", folder, "--size", "8x10"]) == 0
    out = capsys.readouterr().out
    assert "8 x 10 pixels" in out
    lines = out.splitlines()[-2:]
    assert lines == [
        "jensen data pack 'my pictures' --size 8x10 --out 'my pictures-8x10'",
        "jensen train diffusion --data 'my pictures-8x10'",
    ]
    assert main(["data", "pack", folder, "--size", "8x10", "--out", "my pictures-8x10"]) == 0
    assert open_pack("my pictures-8x10").form.shape == (3, 8, 10)
    assert main(["data", "check", "my pictures-8x10"]) == 0
    assert "41" in capsys.readouterr().out
    refused(
        capsys, ["data", "check", "my pictures-8x10", "--size", "8"], "size must not be given for a pack, got 8 x 8"
    )


def test_pack_takes_every_option(folder, capsys):
    words = ["--size", "6", "--fit", "pad", "--alpha", "keep", "--processes", "1", "--out", "deep/pack"]
    assert main(["data", "pack", folder, *words]) == 0
    out, err = capsys.readouterr()
    assert "packed 41 pictures, 4 x 6 x 6, pad: deep/pack" in out
    assert "left out dogs/bad.png" in err
    pack = open_pack("deep/pack")
    assert (pack.form.channels, pack.form.fit, pack.form.alpha) == (4, "pad", "keep")
    assert (pack.x[:, 3, 0] == 0).all()
    assert pack.x[:, 3, 2:4].any()
    assert main(["data", "check", "deep/pack", "--html", "page.html"]) == 0
    assert main(["data", "pack", folder, "--channels", "1", "--size", "6", "--out", "grey"]) == 0
    assert open_pack("grey").x.shape == (41, 1, 6, 6)


def test_a_pack_has_the_copies_of_its_folder(folder, capsys):
    """A pack holds no files to compare: its pictures are compared."""
    assert main(["data", "pack", folder, "--out", "pack"]) == 0
    for path, what in ((folder, "files with the same bytes as another file"), ("pack", "pictures equal to another")):
        assert main(["data", "check", path, "--json", f"{path}.json"]) == 0
        tree = json.loads(Path(f"{path}.json").read_text())
        assert tree["findings"]["copies"]["value"] == 1
        assert tree["findings"]["copies"]["note"].startswith(what)
        assert tree["details"]["copies"] == [["dogs/39.png", "dogs/copy.png"]]


def test_strict_refuses_broken_files_and_leaves_nothing(folder, tmp_path, capsys):
    refused(capsys, ["data", "check", folder, "--strict"], "must not be broken, got 1 broken ones: dogs/bad.png: ")
    refused(
        capsys,
        ["data", "pack", folder, "--strict", "--out", "p"],
        "must not be broken, got 1 broken ones: dogs/bad.png",
    )
    assert not (tmp_path / "p").exists()
    (tmp_path / folder / "dogs" / "bad.png").unlink()
    assert main(["data", "check", folder, "--strict"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "nothing"], "there is no file or folder nothing"),
        (["check", "my pictures", "--size", "big"], "--size must be a number of pixels or HEIGHTxWIDTH"),
        (["check", "my pictures", "--size", "0"], "height and width must be from 1 to 4096, got 0 x 0"),
        (["check", "my pictures", "--html", "page.txt"], "page.txt must end in .html"),
        (
            ["pack", "my pictures", "--out", "my pictures"],
            "must be written to a new folder, got my pictures, which already exists",
        ),
        (
            ["pack", "my pictures", "--out", "p", "--alpha", "keep", "--channels", "3"],
            "alpha must be keep for 4 channels",
        ),
        (["pack", "my pictures", "--out", "p", "--channels", "2"], "channels must be 1, 3 or 4, got 2"),
        (
            ["pack", "my pictures", "--out", "p", "--fit", "squeeze"],
            "--fit must be one of 'crop', 'pad', 'stretch', got 'squeeze'",
        ),
        (["pack", "my pictures", "--out", "p", "--processes", "0"], "processes must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, tmp_path, capsys, words, said):
    refused(capsys, ["data", *words], said)
    assert not (tmp_path / "p").exists()
