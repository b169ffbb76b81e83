"""A user's data: tables, arrays, folders and pairs of folders are read exactly, and invalid input is refused."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image

import jensen
from cases import whole
from jensen.cli.files import writable
from jensen.cli.main import main
from jensen.core.seeding import derived
from jensen.data.dataset import some
from jensen.data.split import held_out
from jensen.data.tables import read_table
from jensen.recipes.sources.arrays import Arrays
from jensen.recipes.sources.base import source
from jensen.recipes.sources.memory import memory
from jensen.recipes.sources.pair import Pair
from jensen.recipes.sources.pictures import Pictures
from jensen.recipes.sources.table import Table
from jensen.recipes.words import configure
from jensen.report.samples import Samples
from jensen.report.scatter import Classes as Coloured

RNG = np.random.default_rng(0)
N = 80
POINTS = RNG.normal(size=(N, 2)) * [0.5, 20] + [0, 100]
KINDS = RNG.integers(0, 3, N)
BYTES = RNG.integers(0, 256, (N, 4, 6), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def idx(path, array, packed=False):
    """Write an IDX file of bytes; returns its name."""
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype("u1").tobytes()
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    return str(path)


def csv(path, header="length,mass,kind", separator=","):
    lines = [separator.join((repr(a), repr(b), "abc"[k])) for (a, b), k in zip(POINTS.tolist(), KINDS, strict=True)]
    path.write_text("\n".join([*[header.replace(",", separator)] * bool(header), *lines]) + "\n")
    return str(path)


def folder(path, sizes=((8, 6),), classes=("cat", "dog"), each=12, start=0):
    """A folder of pictures, each of one colour that depends on its number."""
    for c, name in enumerate(classes):
        (path / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            colour = (start + 20 * k, 100 * c, 7)
            Image.new("RGB", sizes[k % len(sizes)][::-1], colour).save(path / name / f"{k}.png")
    return str(path)


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_is_read_as_it_is_and_each_column_has_its_own_scale(tmp_path, separator):
    found = source(csv(tmp_path / "points.csv", separator=separator))
    assert found == Table(path=str(tmp_path / "points.csv"), label="kind")
    data = found.open(0)
    assert torch.equal(whole(data), torch.from_numpy(POINTS).float())
    assert data.space.columns == ("length", "mass")
    assert data.space.cond.decode(whole(data, "cond")) == ["abc"[k] for k in KINDS]
    train = some(data.train)["x"].double()
    mean, std = data.space.moments()
    assert torch.allclose(mean.double(), train.mean(0), rtol=1e-5)
    assert torch.allclose(std.double(), train.std(0), rtol=1e-5)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_points_unless_a_number_has_one(tmp_path, separator):
    rows = [["länge", "breite", "sorte"], ["1,5", "2", "a"], ["2,25", "-3,75", "b"], [",5", "1,0e3", "a"]]
    text = "\n".join(map(separator.join, rows))
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    table = read_table(tmp_path / "x.csv")
    assert {name: table.columns[name].tolist() for name in table.numeric} == {
        "länge": [1.5, 2.25, 0.5], "breite": [2, -3.75, 1000]}  # fmt: skip
    assert table.label == "sorte"
    (tmp_path / "x.csv").write_text(text.replace("2,25", "2.25"), encoding="utf-8")  # is 1,5 fifteen or one and a half?
    with pytest.raises(ValueError, match=r"column länge .* must have finite numbers|must have a column of numbers"):
        source(tmp_path / "x.csv").open(0)


def test_every_file_of_one_table_gives_the_same_points(tmp_path):
    from pyarrow import parquet, table

    np.save(tmp_path / "x.npy", POINTS)
    np.savez(tmp_path / "x.npz", points=POINTS, labels=KINDS)
    parquet.write_table(
        table({"length": POINTS[:, 0], "mass": POINTS[:, 1], "kind": ["abc"[k] for k in KINDS]}), tmp_path / "x.parquet"
    )
    csv(tmp_path / "bare.csv", header="")
    for name in ("x.npy", "x.npz", "x.parquet", "bare.csv"):
        data = source(tmp_path / name).open(0)
        assert torch.equal(whole(data), torch.from_numpy(POINTS).float()), name
        assert (data.space.cond is None) == (name == "x.npy")
        assert data.space.columns == (("length", "mass") if name == "x.parquet" else ())


def test_held_out_rows_are_spread_and_stay_when_rows_are_added(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(4000.0)[:, None])
    first = some(Table(path=str(path)).open(0).test)["x"][:, 0]
    assert abs(len(first) / 4000 - 0.1) < 5 * (0.1 * 0.9 / 4000) ** 0.5
    assert abs(float(first.mean()) - 2000) < 5 * 4000 / (12 * len(first)) ** 0.5  # not the last rows
    np.save(path, np.arange(5000.0)[:, None])
    later = some(Table(path=str(path)).open(0).test)["x"][:, 0]
    assert torch.equal(later[later < 4000], first)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("a,b\n1,2\n3,\n5,6\n", {}, "column b of .* must have finite numbers, got none in row 2"),
        ("a,b\n1,2\n3,\n", {}, "none in row 2; data.missing=drop leaves them out"),
        ("a,b\n1,2\n3,inf\n4,5\n", {"missing": "drop"}, "column b of .* must have finite numbers, got 'inf' in row 2$"),
        ("a,b\n,2\n3,\n", {"missing": "drop"}, "must have a row without missing numbers, got none"),
        ("a,b\n1,2\n3,inf\nnan,nan\n", {}, "column a of .* must have finite numbers, got none in row 3"),
        ("a,b\n1,2\n3,NA\n4,5\n", {}, "column b of .* must have finite numbers, got none in row 2"),
        ("a,b\n1,2\n3,?\n4,5\n", {}, "finite numbers, got '\\?' in row 2; classes need data.label=b"),
        ("a,b\n1,\n3,\n4,NA\n", {"columns": ["b"]}, "data.columns must be columns of numbers, got 'b'"),
        ("a,b\n1,x\n3,\n4,y\n", {"label": "b"}, "column b of .* must have a class in every row, got none in row 2"),
        ("a,b\n1,2\n3\n", {}, "every row of .* must have 2 columns, got 1 in row 3"),
        ("a,a\n1,2\n3,4\n", {}, "must have different names, got 'a' twice"),
        ("a\nx\ny\n", {}, "must have a column of numbers"),
        ("", {}, "must have at least one row and one column"),
        ("a,b\n1,2\n3,4\n", {"columns": ["c"]}, "data.columns must name columns of .*, which are a, b, got 'c'"),
        ("a,b\n1,x\n3,y\n", {"columns": ["b"]}, "data.columns must be columns of numbers, got 'b'"),
        ("a,b\n1,2\n3,4\n", {"label": "c"}, "data.label must name columns of .*, which are a, b, got 'c'"),
        ("a,b\n" + "1,2\n1,4\n1,5\n1,6\n" * 20, {}, "column a must have at least two different values"),
        ("t\n" + "".join(f"{1.7e9 + k}\n" for k in range(50)), {}, "must vary by more than 1 / 100,000 of its mean"),
        ("a,b\n1,2\n3,4\n", {}, "data.test must leave at least 2 examples"),
    ],
)
def test_tables_that_cannot_be_learnt_are_refused(tmp_path, text, settings, said):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        Table(path="x.csv", **settings).open(0)


def test_rows_with_something_missing_are_left_out_if_asked(tmp_path):
    """Only of the columns that are used: the rest of the table may be incomplete."""
    numbers = [["" if k % 7 == 3 else k, k**2, "NA" if k % 2 else k] for k in range(60)]
    rows = "".join(f"{a},{b},{c},{'' if k % 10 == 9 else 'uv'[k % 2]}\n" for k, (a, b, c) in enumerate(numbers))
    (tmp_path / "x.csv").write_text(f"a,b,c,kind\n{rows}")
    table = source(tmp_path / "x.csv").model_copy(update={"columns": ("a", "b"), "missing": "drop"})
    data = table.open(0)
    kept = [k for k in range(60) if k % 7 != 3 and k % 10 != 9]
    assert torch.equal(whole(data).sort(0).values, torch.tensor([[k, k**2] for k in kept]).float())
    assert f"{60 - len(kept)} rows with something missing are left out" in data.notes
    complete = Table(path=str(tmp_path / "x.csv"), columns=("b",))
    assert len(whole(complete.open(0))) == 60


def test_words_that_are_mostly_numbers_are_classes_only_where_they_are_named(tmp_path):
    rows = "".join(f"{k / 7},{'3b' if k == 5 else k % 2}\n" for k in range(44))
    for name in ("class", "code"):
        (tmp_path / f"{name}.csv").write_text(f"x,{name}\n{rows}")
    named, code = (source(tmp_path / f"{name}.csv") for name in ("class", "code"))
    assert (named.label, code.label) == ("class", None)
    (tmp_path / "empty.csv").write_text("x,note\n" + "".join(f"{k / 7},\n" for k in range(44)))
    empty = source(tmp_path / "empty.csv")
    said = "columns of words are not used: note; data.label chooses the one with the classes"
    assert (empty.label, empty.open(0).notes[1]) == (None, said)
    for table in (named, code.model_copy(update={"label": "code"})):
        assert table.open(0).space.cond.names == ("0", "1", "3b")


def test_a_column_of_whole_numbers_or_words_is_the_label_and_no_other(tmp_path):
    """Classes keep all their digits, in the order of numbers; a column y of real numbers is a column of points."""
    rows = [(k / 7, 1_234_567 + k % 11 if k % 2 else k % 11) for k in range(44)]
    (tmp_path / "POINTS.CSV").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in rows))
    (tmp_path / "plane.csv").write_text("x,y\n" + "".join(f"{x},{y + 0.5}\n" for x, y in rows))
    named, plane = (source(tmp_path / name).open(0).space for name in ("POINTS.CSV", "plane.csv"))
    assert named.cond.names == tuple(map(str, sorted({y for _, y in rows})))
    assert (plane.columns, plane.cond) == (("x", "y"), None)
    (tmp_path / "quoted.csv").write_text("x,kind\n" + '1.5,"big\ncat"\n2.5,dog\u2028s\n' * 22)
    assert source(tmp_path / "quoted.csv").open(0).space.cond.names == ("big\ncat", "dog\u2028s")


def test_a_column_that_names_its_rows_is_no_class(tmp_path):
    """Most of its words occur once. Given explicitly, words and whole numbers are classes; real numbers are not."""
    rows = "".join(f"{k / 7},{k * k},n{k},{'ab'[k % 2]}\n" for k in range(44))
    (tmp_path / "x.csv").write_text(f"x,label,name,kind\n{rows}")
    (tmp_path / "y.csv").write_text("x,id\n" + "".join(f"{k / 7},n{k}\n" for k in range(44)))
    assert (source("x.csv").label, source("y.csv").label) == ("kind", None)
    for column in ("label", "name"):
        assert Table(path="x.csv", label=column).open(0).space.cond.size == 44
    said = "data.label must be a column of classes, got 'x', a column of real numbers that are nearly all different"
    with pytest.raises(ValueError, match=said):
        Table(path="x.csv", label="x").open(0)
    few = Table(path="x.csv", columns=("label",), label="half")
    (tmp_path / "x.csv").write_text("label,half\n" + "".join(f"{k * k},{k % 3 / 2}\n" for k in range(44)))
    assert few.open(0).space.cond.names == ("0", "1", "0.5")


def test_a_folder_for_each_picture_is_no_class(tmp_path):
    folder(tmp_path / "pictures", classes=[f"n{k}" for k in range(30)], each=1)
    assert source("pictures").open(0).space.cond is None
    assert source("pictures").model_copy(update={"cond": "classes"}).open(0).space.cond.size == 30


# -- pictures in one file ---------------------------------------------------------------------------------------------


def test_every_file_of_the_same_pictures_gives_the_same_pictures(tmp_path):
    labels = np.array([3, 7, 9])[KINDS]
    idx(tmp_path / "t-images-idx3-ubyte.gz", BYTES, packed=True)
    idx(tmp_path / "t-labels-idx1-ubyte.gz", labels, packed=True)
    np.save(tmp_path / "x.npy", BYTES[..., None])
    np.savez(tmp_path / "x.npz", pictures=BYTES[:, None], labels=labels)
    np.savez(tmp_path / "y.npz", x=BYTES, cond=labels)
    for name in ("t-images-idx3-ubyte.gz", "x.npy", "x.npz", "y.npz"):
        data = source(tmp_path / name).open(0)
        assert torch.equal(whole(data), torch.from_numpy(BYTES[:, None]).float() / 127.5 - 1), name
        assert data.space.shape == (1, 4, 6)
        assert data.space.levels == 256
        if name != "x.npy":
            assert [int(v) for v in data.space.cond.decode(whole(data, "cond"))] == labels.tolist()
    np.savez(tmp_path / "z.npz", x=BYTES, kinds=labels)
    with pytest.raises(ValueError, match=r"must have classes under label, .*, cond, got kinds"):
        source(tmp_path / "z.npz").open(0)
    colour = RNG.integers(0, 256, (N, 5, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "c.npy", colour)
    assert torch.equal(whole(source(tmp_path / "c.npy").open(0)), torch.from_numpy(colour).movedim(3, 1) / 127.5 - 1)


@pytest.mark.parametrize(("divisor", "levels"), [(255, 256), (251, None)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pictures_of_floats_are_the_same_from_a_file_and_from_memory(tmp_path, divisor, levels, dtype):
    x = (BYTES // 2 / divisor).astype(dtype)
    x[0, 0, 0] = 1
    np.savez(tmp_path / "x.npz", images=x, labels=KINDS)
    levels = None if dtype == np.float16 else levels  # a rounding of more than a hundredth of a level
    file, held = source("x.npz").open(0), memory((x, KINDS)).open(0)
    assert (file.space, file.space.levels) == (held.space, levels)
    for name in ("x", "cond"):
        assert torch.equal(whole(file, name), whole(held, name))
    black = Arrays(path="x.npz", levels=2).open(0)
    assert black.space.levels == 2
    assert torch.equal(whole(black)[:, 0] == 1, torch.from_numpy((x * 255.0).round() >= 128))


def test_a_family_that_is_not_conditioned_says_so(tmp_path, capsys):
    """Captions of half of the pictures are not used, and the first that has none is named."""
    place = folder(tmp_path / "pictures", classes=("all",))
    small = ["--data", place, "--set", "data.test=0.3", "--steps", "1", "--no-evaluate", "--set", "training.previews=0"]
    for k in range(6):
        (tmp_path / "pictures" / "all" / f"{k}.txt").write_text("a cat")
    assert main(["train", "vae", *small, "--out", "some"]) == 0
    said = capsys.readouterr().err
    assert "12 RGB pictures at 8 x 6, without a condition; " in said
    assert "captions are not used: 6 pictures have none, the first is all/10.png\n" in said
    for k in range(6, 12):
        (tmp_path / "pictures" / "all" / f"{k}.txt").write_text("a cat")
    assert main(["train", "vae", *small, "--out", "every"]) == 0
    said = capsys.readouterr().err
    assert "12 RGB pictures at 8 x 6, with captions of up to 5 characters; " in said
    assert "family vae does not use the captions: samples cannot be asked for by them\n" in said
    assert main(["train", "reader", *small, "--out", "read"]) == 0
    assert "does not use" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits-ddpm"], "recipe digits-ddpm has settings for digits: train diffusion, which has some for your data"),
        (
            ["captcha"],
            "network.kind must be mlp for points, got unet; recipe captcha has settings for captcha: train d",
        ),
        (["kernel", "--steps", "2"], "family kernel is fitted before its first step: set training.steps to 1"),
        (["mixture", "--steps", "2"], "family mixture is fitted before its first step: set training.steps to 1"),
    ],
)
def test_a_recipe_of_other_data_names_the_family_for_these(tmp_path, capsys, words, said):
    large = folder(tmp_path / "pictures", sizes=((32, 32),))
    path = large if words == ["digits-ddpm"] else csv(tmp_path / "x.csv")
    assert main(["train", *words, "--data", path, "--out", "run"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert configure("kernel", ["density.learned=true", "training.steps=2"], data="moons").training.steps == 2


def test_black_and_white_by_threshold_and_drawn_for_each_batch(tmp_path):
    """The mean of 4,000 draws of each of 24 pixels is within 5 standard errors of its brightness."""
    np.save(tmp_path / "x.npy", np.repeat(BYTES[:1], N, 0))
    still = Arrays(path="x.npy", levels=2).open(0)
    assert torch.equal(whole(still)[0, 0] == 1, torch.from_numpy(BYTES[0] >= 128))
    data = Arrays(path="x.npy", levels=2, binarize="dynamic").open(0)
    stream = data.stream(4000, 0)
    x = next(stream(3))["x"]
    assert torch.equal(next(data.stream(4000, 0)(3))["x"], x)
    assert not torch.equal(next(stream(4))["x"], x)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    p = torch.from_numpy(BYTES[0]).double() / 255
    off = ((x[:, 0].double() + 1) / 2).mean(0) - p
    assert bool((off.abs() <= 5 * (p * (1 - p) / 4000).sqrt() + 1e-12).all())
    assert torch.equal(some(data.test)["x"], some(Arrays(path="x.npy", levels=2, binarize="dynamic").open(7).test)["x"])


@pytest.mark.parametrize(
    ("array", "labels", "said"),
    [
        (255.0 * BYTES, None, r"must hold pictures as bytes .* got float32 from 0 to 65025: divide them by 65025"),
        (1.0 * BYTES, None, r"or floats in \[0, 1\] or \[-1, 1\], got float32 from 0 to 255: divide them by 255"),
        (BYTES.astype(int) % 17, None, r"got int64 from 0 to 16: divide them by 16"),
        (np.full((9, 4, 6), np.nan), None, r"got float32 from nan to nan$"),
        (np.zeros((9, 4, 6), bool), None, r"must hold pictures as numbers, got bool"),
        (np.zeros((80, 5, 6, 2), np.uint8), None, r"must hold pictures .*, got \(80, 5, 6, 2\)"),
        (BYTES, np.zeros(3, int), r"must hold a whole number for each of 80 pictures, got int64 \(3,\)"),
        (BYTES, np.zeros(N), r"must hold a whole number for each of 80 pictures, got float64 \(80,\)"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, array, labels, said):
    np.save(tmp_path / "x.npy", array)
    if labels is not None:
        np.save(tmp_path / "y.npy", labels)
    with pytest.raises(ValueError, match=said):
        Arrays(path="x.npy", labels=None if labels is None else "y.npy").open(0)


def test_places_are_kept_as_absolute_ones(tmp_path):
    assert Arrays(path="x", labels="y").model_dump(mode="json")["path"] == str(tmp_path / "x")
    assert Arrays(path="x", labels="y").labels == str(tmp_path / "y")


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_split_by_names_and_read_as_it_is(tmp_path):
    data = source(folder(tmp_path / "pets")).open(0)
    assert data.space.shape == (3, 8, 6)
    assert data.space.cond.names == ("cat", "dog")
    names = sorted(f"{c}/{k}.png" for c in ("cat", "dog") for k in range(12))
    test = held_out(names, 0.1)
    assert list(data.names) == [name for name, out in zip(names, test.tolist(), strict=True) if not out]
    for rows, kept in ((data.train, ~test), (data.test, test)):
        found = some(rows)
        for x, cond, name in zip(found["x"], found["cond"], np.array(names)[kept.numpy()], strict=True):
            c, k = name.removesuffix(".png").split("/")
            pixel = [20 * int(k), 100 * (c == "dog"), 7]
            assert ((x + 1) * 127.5).round().flatten(1).unique(dim=1)[:, 0].tolist() == pixel
            assert data.space.cond.decode(cond[None]) == [c]


def test_what_a_folder_leaves_open_is_settled_when_it_is_opened(tmp_path):
    recipe = configure("gan", data=folder(tmp_path / "pets", sizes=((80, 120), (80, 120), (40, 40))))
    assert recipe.data.size is None
    data = recipe.data.open(0)
    settled = recipe.on(data.space).data
    assert (settled.size, settled.channels) == ((24, 32), "rgb")
    for k in range(40):  # most pictures are now of another size
        Image.new("L", (10, 10)).save(tmp_path / "pets" / "cat" / f"new{k}.png")
    again = settled.open(0)
    assert again.space.shape == data.space.shape
    before, after = set(data.names), set(again.names)
    assert before < after  # what was held out stays so
    assert {name for name in after - before if "new" not in name} == set()


def test_a_folder_with_training_and_test_folders(tmp_path):
    folder(tmp_path / "all" / "train")
    folder(tmp_path / "all" / "test", each=3, start=5)
    data = source(tmp_path / "all").open(0)
    assert (len(data.train), len(data.test)) == (24, 6)
    assert float(some(data.test)["x"][0, 0, 0, 0]) == pytest.approx(5 / 127.5 - 1)


def test_pictures_held_out_in_a_folder_have_their_say_in_conditions_and_comparisons(tmp_path):
    folder(tmp_path / "all" / "train")
    folder(tmp_path / "all" / "test", each=3)
    one = source(tmp_path / "all").open(0)
    folder(tmp_path / "all" / "test", classes=("owl",), each=3)
    other = source(tmp_path / "all").open(0)
    assert (
        len({one.fingerprint, other.fingerprint, Pictures(path=str(tmp_path / "all" / "train")).open(0).fingerprint})
        == 3
    )
    assert other.space.cond.names == ("cat", "dog", "owl")
    assert sorted(some(other.test)["cond"][:, 0].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [note for note in other.notes if "no training example has the class owl" in note]
    assert not [note for note in one.notes if "no training example" in note]
    for part, said in (("train", "red"), ("test", "dark blue")):
        for path in (tmp_path / "all" / part).rglob("*.png"):
            path.with_suffix(".txt").write_text(said)
    told = Pictures(path=str(tmp_path / "all" / "train"), held_out=str(tmp_path / "all" / "test"), cond="text").open(0)
    assert (told.space.cond.alphabet, told.space.cond.length) == (" abdeklru", 9)
    assert set(told.space.cond.decode(some(told.test)["cond"])) == {"dark blue"}


def test_captions_condition_and_shorter_ones_end_in_spaces(tmp_path):
    folder(tmp_path / "told", classes=("",), each=10)
    lines = [{"file_name": f"{k}.png", "text": "red" if k % 2 else "dark red"} for k in range(10)]
    (tmp_path / "told" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = Pictures(path="told", test=0.3).open(0)
    cond = data.space.cond
    assert (cond.alphabet, cond.length) == (" adekr", 8)
    assert set(cond.decode(some(data.train)["cond"])) == {"red", "dark red"}
    with pytest.raises(ValueError, match="texts must be at most 8 characters"):
        cond.encode(["dark dark"])


def test_flips_are_drawn_for_each_picture_of_a_batch(tmp_path):
    """The share of mirrored pictures among 4,000 is within 5 standard errors of 1/2."""
    (tmp_path / "one").mkdir()
    picture = np.zeros((4, 6), np.uint8)
    picture[:, 0] = 255
    for k in range(6):
        Image.fromarray(picture).save(tmp_path / "one" / f"{k}.png")
    data = Pictures(path="one", flip=True, test=0.4).open(0)
    x = next(data.stream(4000, 0)(0))["x"]
    left, right = x[:, 0, 0, 0] == 1, x[:, 0, 0, 5] == 1
    assert bool((left ^ right).all())
    assert abs(float(left.double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    assert bool((some(data.train)["x"][:, 0, 0, 0] == 1).all())  # the rows themselves are not mirrored


def test_broken_pictures_are_named_and_left_out_or_refused(tmp_path):
    folder(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"\x89PNG nothing")
    data = Pictures(path="pets").open(0)
    assert len(data.train) + len(data.test) == 24
    assert any("1 broken files are left out, the first is cat/broken.png" in note for note in data.notes)
    with pytest.raises(ValueError, match=r"cat/broken\.png"):
        Pictures(path="pets", strict=True).open(0)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_two_sides(tmp_path):
    folder(tmp_path / "two" / "trainA", classes=("",))
    folder(tmp_path / "two" / "trainB", sizes=((20, 20),), classes=("",), start=3)
    found = source(tmp_path / "two")
    assert isinstance(found, Pair)
    data = found.open(0)
    assert data.space.shape == data.space.b.shape == (3, 8, 6)
    batch = next(data.stream(500, 0)(0))
    a, b = (((batch[side][:, 0, 0, 0] + 1) * 127.5).round().int() for side in "ab")
    assert set((a % 20).tolist()) == {0}
    assert set((b % 20).tolist()) == {3}
    assert len(set((b - a).tolist())) > 2
    (tmp_path / "two" / "trainB" / "0.png").unlink()  # the rows of a pair have different numbers on the two sides
    paired = found.model_copy(update={"pairing": "by-name"}).open(0)
    assert paired.space.paired
    batch = next(paired.stream(50, 0)(0))
    a, b = (((batch[side][:, 0, 0, 0] + 1) * 127.5).round().int() for side in "ab")
    assert set((b - a).tolist()) == {3}
    given = configure("translation", data=str(tmp_path / "two" / "trainA"), data_b=str(tmp_path / "two" / "trainB"))
    assert given.data.open(0).space == data.space


@pytest.mark.parametrize("grey", ["trainA", "trainB"])
def test_sides_of_a_pair_are_both_in_colour_and_of_one_size(tmp_path, grey):
    for name in ("trainA", "trainB"):
        folder(tmp_path / "two" / name, sizes=((8, 6),) if name == "trainA" else ((30, 20),), classes=("",))
    for path in (tmp_path / "two" / grey).glob("*.png"):
        Image.open(path).convert("L").save(path)
    recipe = configure("translation", data=tmp_path / "two")
    data = recipe.data.open(0)
    assert data.space.shape == data.space.b.shape == (3, 8, 6)
    settled = recipe.on(data.space).data
    assert (settled.a.size, settled.b.size, settled.a.channels, settled.b.channels) == ((8, 6), (8, 6), "rgb", "rgb")
    assert settled.open(0).space == data.space
    asked = configure("translation", ["data.a.channels=grey"], data=tmp_path / "two").data.open(0)
    assert asked.space.shape == asked.space.b.shape == (1, 8, 6)


def test_pairs_that_do_not_match_are_refused(tmp_path):
    folder(tmp_path / "two" / "trainA", classes=("x",), each=40)
    folder(tmp_path / "two" / "trainB", classes=("y",), each=40)
    with pytest.raises(ValueError, match=r"data\.pairing by-name needs pictures of the same name on both sides"):
        source(tmp_path / "two").model_copy(update={"pairing": "by-name"}).open(0)


def test_the_sides_of_a_pair_are_drawn_as_each_of_them_is(tmp_path):
    """With flips, and bit for bit what each source gives alone."""
    for name in ("trainA", "trainB"):
        for k in range(40):
            (tmp_path / "two" / name).mkdir(parents=True, exist_ok=True)
            pixels = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "two" / name / f"{k}.png")
    pair = configure("translation", ["data.a.flip=true"], data=tmp_path / "two").data
    stream = pair.open(0).stream(64, 3)
    batch, later = (next(stream(n)) for n in (0, 5))
    for n, found in ((0, batch), (5, later)):
        for name, side in (("a", pair.a), ("b", pair.b)):
            assert torch.equal(found[name], next(side.open(0).stream(64, derived(3, name))(n))["x"])
    still = configure("translation", data=tmp_path / "two").data.open(0)
    unflipped = next(still.stream(64, 3)(0))
    assert torch.equal(unflipped["b"], batch["b"])
    turned = (unflipped["a"] != batch["a"]).flatten(1).any(1)
    assert 0 < turned.sum() < 64
    with pytest.raises(ValueError, match=r"data\.pairing must be unpaired for a side .*, got by-name"):
        pair.model_copy(update={"pairing": "by-name"}).open(0)


def test_pairs_by_name_are_mirrored_together_and_trained_from_the_command_line(tmp_path, monkeypatch):
    """Side b is side a in negative: every pair of a batch is still one, whether it was mirrored or not."""
    monkeypatch.chdir(tmp_path)
    for name in ("trainA", "trainB"):
        (tmp_path / "two" / name).mkdir(parents=True)
    for k in range(40):
        pixels = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "two" / "trainA" / f"{k}.png")
        Image.fromarray(255 - pixels).save(tmp_path / "two" / "trainB" / f"{k}.bmp")
    still, flipped = (
        configure("translation", ["data.pairing=by-name", f"data.flip={flip}"], data="two").data.open(0)
        for flip in ("false", "true")
    )
    before, after = (next(data.stream(64, 3)(2)) for data in (still, flipped))
    assert torch.allclose(after["a"], -after["b"], atol=1e-6)
    turned = (before["a"] != after["a"]).flatten(1).any(1)
    assert 16 < turned.sum() < 48  # of 64, four standard errors
    assert torch.equal(after["a"][turned], before["a"][turned].flip(3))
    with pytest.raises(ValueError, match=r"flip is not used with pairing unpaired"):
        Pair(flip=True)
    words = ["--set", "data.pairing=by-name", "--set", "data.flip=true"]
    small = [w for word in ("network.width=8", "network.critic=[8]") for w in ("--set", word)]
    run = ["--steps", "2", "--batch-size", "4", "--out", "run", "--no-evaluate"]
    assert main(["train", "translation", "--data", "two", *words, *small, *run]) == 0
    assert jensen.open("run").recipe.family.paired(jensen.open("run").space)


# -- words ------------------------------------------------------------------------------------------------------------


def test_a_built_in_source_by_its_kind_and_a_preset_on_other_data(tmp_path):
    assert configure("vae", data="moons").data.kind == "moons"
    recipe = configure("mnist-vae", ["data.test=0.2"], data=idx(tmp_path / "x", BYTES))
    assert (recipe.data.levels, recipe.data.test) == (2, 0.2)  # the preset's levels
    with pytest.raises(ValueError, match=r"sampling\.clip needs pictures, got points"):
        configure("digits-ddpm", data="moons")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diffusion"], "family diffusion needs data: give --data PATH"),
        (["diffusion", "--data", "nowhere"], "there is no file or folder nowhere"),
        (["diffusion", "--data", "moon"], "did you mean 'moons'?"),
        (["vae", "--data", "x.txt"], "data must be a folder of pictures, a .csv"),
        (["difusion", "--data", "x.txt"], "there is no recipe 'difusion'; did you mean 'diffusion'?"),
        (["vae", "--data-b", "x.txt"], "--data-b needs --data"),
        (["translation", "--data", "pets"], "needs data with two sides"),
        (
            ["gan", "--data", "pets", "--set", "data.size=16x"],
            "data.size must be a number of pixels or HEIGHTxWIDTH, such as 64 or 48x64, got '16x'",
        ),
        (
            ["gan", "--data", "dots"],
            "dots must have sides of 4 to 1024 pixels, got 1 x 3: give a larger --set data.size",
        ),
        (["gan", "--data", "word.csv"], "must have a column of numbers, got only words, such as 'yes' in column '1'"),
        (["gan", "--data", "empty"], "must hold pictures, got none"),
    ],
)
def test_wrong_data_are_refused_and_leave_nothing(tmp_path, capsys, words, said):
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "pets")
    folder(tmp_path / "dots", sizes=((1, 3),))
    (tmp_path / "word.csv").write_text("a;b\nyes;no\n")
    assert main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_without_its_data_given_again(tmp_path, capsys):
    small = ["--set", "network.width=8", "--set", "network.blocks=1", "--set", "training.previews=0", "--no-evaluate"]
    start = ["train", "diffusion", "--data", csv(tmp_path / "x.csv"), *small]
    assert main([*start, "--steps", "2"]) == 0
    assert "80 points with 2 columns and 3 classes from column kind" in capsys.readouterr().err
    again = ["train", "diffusion", "--out", "runs/diffusion-x", "--resume", "--no-evaluate", "--steps"]
    assert main([*again, "3"]) == 0
    assert main([*again, "4", "--data", "x.csv"]) == 0
    assert main([*again, "5", "--data", "moons"]) == 2
    assert "--resume uses the data of" in capsys.readouterr().err
    assert main(["sample", "runs/diffusion-x", "-n", "5", "--out", "y.csv"]) == 0
    lines = (tmp_path / "y.csv").read_text().splitlines()
    assert lines[0] == "length,mass,class"
    assert [line.rpartition(",")[2] for line in lines[1:]] == ["a", "b", "c", "a", "b"]  # in turn
    made = jensen.open("runs/diffusion-x").sample(cond=["c", "a"])
    assert made.columns == ("length", "mass")
    assert [made.classes.names[k] for k in made.classes.index] == ["c", "a"]
    assert "function" not in repr(made)


def test_samples_of_points_are_a_table_that_can_be_trained_on(tmp_path):
    x, classes = torch.arange(8.0).view(4, 2), Coloured(torch.tensor([1, 0, 1, 0]), ("a, b", "c"))
    for columns, named, read in (
        (("mass", "class"), True, ("mass", "class", "label")),
        ((), True, ("column 1", "column 2", "class")),
        (("mass", "size"), False, ("mass", "size")),
        ((), False, ("1", "2")),
    ):
        Samples(x, columns, classes if named else None).save(tmp_path / "s.csv")
        table = read_table(tmp_path / "s.csv")
        assert (tuple(table.columns), len(table)) == (read, 4)
        assert table.label == (read[-1] if named else None)
        if named:
            assert table.columns[read[-1]].tolist() == ["c", "a, b", "c", "a, b"]


def test_a_folder_with_files_gets_no_samples(tmp_path):
    """Those of an earlier call could not be told from the new ones."""
    made = Samples(torch.zeros(2, 1, 4, 4))
    made.save(tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 2
    with pytest.raises(ValueError, match="new is not empty: give another --out"):
        made.save(tmp_path / "new")
    with pytest.raises(ValueError, match="new is not empty: give another --out"):
        writable(tmp_path / "new", ".png", "")
