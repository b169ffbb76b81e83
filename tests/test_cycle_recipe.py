"""Handwritten digits as printed ones: the data, the readers that judge, and what the recipes refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.data.printed import enlarge
from jensen.models import CycleGAN
from jensen.recipes import configure, open_run
from jensen.recipes.cyclegan_data import HANDWRITTEN, PairedKinds, UnpairedKinds, handwritten
from jensen.recipes.cyclegan_judging import Reader, best_renaming, chosen, confusion, directions
from jensen.recipes.data import all_digits

SMALL = {
    "network.width": 8,
    "network.blocks": 1,
    "network.critic": [8],
    "data.printed": 200,
    "data.test": 60,
    "training.batch_size": 8,
    "training.previews": 1,
}


def words_of(settings):
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [word for key, value in said.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny runs, trained but not judged, on first use."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name, *more):
        if name not in made:
            words = ["train", name, "--out", str(folder / name), "--steps", "3", "--no-evaluate", *more]
            assert main(words) == 0
            made[name] = folder / name
        return made[name]

    return run


# -- data -------------------------------------------------------------------------------------------------------------


def rows_of(pictures):
    return {x.numpy().tobytes() for x in pictures}


TINY_GAN = ["network.width=4", "network.critic_width=16", "training.batch_size=8", "training.previews=0"]
TINY_GAN += ["judging.samples=40", "judging.critic_steps=2"]


def test_a_small_side_and_its_gan_from_the_command_line(tmp_path, capsys):
    folders = {}
    for kind in ("handwritten", "printed"):
        folders[kind] = str(tmp_path / kind)
        words = [w for v in (*TINY_GAN, f"data.kind={kind}", "data.pictures=50") for w in ("--set", v)]
        assert main(["train", "digits-gan", "--out", folders[kind], "--steps", "3", *words]) == 0
        own = json.loads((tmp_path / kind / "evaluation.json").read_text())["own"]
        assert 0 <= own["copies"]["nearer"] <= 1
        assert "nearer" in capsys.readouterr().out
        assert (tmp_path / kind / "report.html").exists()
    more = {"data.handwritten": 50, "data.printed": 50, "data.share": 0.2}
    more |= {"data.enlarge_a": folders["handwritten"], "data.enlarge_b": folders["printed"]}
    out = tmp_path / "run"
    assert main(["train", "digits-cyclegan", "--out", str(out), "--steps", "2", *words_of(SMALL | more)]) == 0
    assert json.loads((out / "evaluation.json").read_text())["training"] == {"a": 50, "b": 50}
    assert "50 handwritten and 50 printed ones to train on" in (out / "report.html").read_text()
    recipe, _ = open_run(out)
    for heap, (side, folder) in zip(recipe.data.heaps(), zip("ab", folders.values(), strict=True), strict=True):
        assert torch.equal(heap[:50], recipe.data.training()[side])
        drawn = open_run(Path(folder), "cpu")[1].sample(12, generator=generator(13))  # 12 of 62 are a share of 0.2
        assert torch.equal(heap[50:], enlarge(drawn.clamp(-1, 1), 16))
    wrong = (
        ({"data.handwritten": 40}, "data.enlarge_a", "not among the 40 of this side: train it on these alone"),
        ({"data.printed": 51}, "data.enlarge_b", "as digits-gan does with data.pictures=51"),
        ({"data.side": 32}, "data.enlarge_b", "draws pictures of shape (1, 16, 16), and (1, 32, 32) is wanted"),
        ({"data.handwritten": 1438}, "data.handwritten", "less than or equal to 1437"),
        ({"data.handwritten": 9}, "data.handwritten", "greater than or equal to 10"),
    )
    for change, key, part in wrong:
        capsys.readouterr()
        words = words_of(SMALL | more | change)
        assert main(["train", "digits-cyclegan", "--out", str(tmp_path / "no"), "--steps", "1", *words]) == 2
        err = capsys.readouterr().err
        assert key in err
        assert part in err
        assert err.count("\n") == 1
        assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match="pictures must be at most 1437 of handwritten digits, got 1500"):
        configure("digits-gan", ["data.pictures=1500"])
    assert len(configure("digits-gan", ["data.kind=printed", "data.pictures=1500"]).training_data()) == 1500


# -- judging ----------------------------------------------------------------------------------------------------------


def test_the_best_renaming_is_the_permutation():
    order = torch.randperm(10, generator=generator(0))
    labels = torch.arange(10).repeat(7)
    read = order[labels]
    read[:5] = labels[:5]  # five that were not renamed
    renaming, right = best_renaming(confusion(labels, read))
    assert renaming == order.tolist()
    assert right == 70 - int((order[labels[:5]] != labels[:5]).sum())
    assert confusion(torch.tensor([1, 1, 2]), torch.tensor([3, 3, 0]))[1].tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]


class Renamer(nn.Module):
    """Gives for a picture of one kind one of the other kind, whose label is the picture's after a renaming."""

    def __init__(self, sources, labels, targets, target_labels, renaming):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        by_label = [targets[target_labels == k] for k in range(10)]
        self.known = {
            x.numpy().tobytes(): by_label[renaming[y]][k % len(by_label[renaming[y]])]
            for k, (x, y) in enumerate(zip(sources, labels.tolist(), strict=True))
        }

    def forward(self, x):
        return torch.stack([self.known[row.numpy().tobytes()] for row in x])


def test_readings_of_translators_that_are_known():
    """One that renames classes is read wrong and, after the best renaming, right; one that keeps them, right."""
    data = UnpairedKinds(printed=600, test=200)
    train, test = data.training(), data.held_out()
    readers = {side: Reader(train[side], train[f"{side}_labels"]) for side in "ab"}
    nothing = directions(CycleGAN(Empty(), Empty()), readers, train, test)
    for side in "ab":
        way = nothing[side]
        assert way["translated"] == way["untranslated"]
        assert way["cycle"]["error"] == way["moved"] == 0
        x = test[side]
        grid = [(level - x).abs().mean(0) for level in torch.linspace(-1, 1, 33)]
        least = torch.stack(grid).amin(0).mean()  # of the training pictures' median, on others
        assert float(least) - 1e-6 <= way["cycle"]["one"] < 1.05 * float(least)
    for renaming in (list(range(10)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]):
        there = Renamer(test["a"], test["a_labels"], train["b"], train["b_labels"], renaming)
        # the way back from those is by nearest label again: rename back
        back = Renamer(
            train["b"], train["b_labels"], train["a"], train["a_labels"], [renaming.index(k) for k in range(10)]
        )
        back.known.update(Renamer(test["b"], test["b_labels"], train["a"], train["a_labels"], renaming).known)
        there.known.update(
            Renamer(
                train["a"], train["a_labels"], train["b"], train["b_labels"], [renaming.index(k) for k in range(10)]
            ).known
        )
        found = directions(CycleGAN(there, back), readers, train, test)
        for side in "ab":
            way, kept = found[side], renaming[0] == 0
            assert way["renamed"]["value"] > 0.99
            assert way["renaming"] == renaming
            assert (way["translated"]["value"] > 0.99) == kept
            if not kept:
                assert way["translated"]["value"] < 0.01
            assert way["kept"]["value"] > 0.99
            assert sum(map(sum, way["confusion"])) == way["n"] == len(test[side])


class Empty(nn.Module):
    """The identity."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x


# -- the command line -------------------------------------------------------------------------------------------------


def test_samples_are_held_out_pictures_and_their_translations(runs, tmp_path, capsys):
    folder = runs("digits-cyclegan", *words_of(SMALL))
    out = tmp_path / "some"
    assert main(["sample", str(folder), "-n", "3", "--seed", "1", "--out", str(out), "--scale", "1"]) == 0
    assert "handwritten, as printed; printed, as handwritten" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert names[:4] == [f"00000-{part}.png" for part in ("as-handwritten", "as-printed", "handwritten", "printed")]
    assert len(names) == 12
    recipe, model = open_run(folder)
    test = recipe.test_data()
    whole = {side: {bytes(to_bytes_of(x)) for x in test[side]} for side in "ab"}
    for k in range(3):
        for part, side, to in (("handwritten", "a", "printed"), ("printed", "b", "handwritten")):
            with Image.open(out / f"{k:05d}-{part}.png") as picture:
                source = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
            assert bytes(source.numpy()) in whole[side]
            x = next(x for x in test[side] if bytes(to_bytes_of(x)) == bytes(source.numpy()))
            with torch.no_grad():
                made = model.translate(x[None], "b" if side == "a" else "a")[0]
            with Image.open(out / f"{k:05d}-as-{to}.png") as picture:
                found = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).int()
            assert int((found - torch.frombuffer(to_bytes_of(made), dtype=torch.uint8).int()).abs().max()) <= 1
    sheet = tmp_path / "x.png"
    assert main(["sample", str(folder), "-n", "5", "--out", str(sheet), "--scale", "1"]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (16 * 22 + 6, 2 * 22 + 6)
    capsys.readouterr()
    assert main(["sample", str(folder), "-n", "61", "--out", str(sheet)]) == 2
    assert "-n must be at most 60, the held-out pictures of a kind, got 61" in capsys.readouterr().err


def to_bytes_of(x):
    return bytearray(((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy().tobytes())


def test_another_run_is_judged_beside(runs, tmp_path, capsys):
    other = runs("digits-pix2pix", *words_of(SMALL))
    words = words_of(SMALL | {"judging.beside": str(other)})
    out = tmp_path / "run"
    assert main(["train", "digits-cyclegan", "--out", str(out), "--steps", "2", *words]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    recipe, model = open_run(other)
    train, test = recipe.training_data(), recipe.test_data()
    readers = {side: Reader(train[side], train[f"{side}_labels"]) for side in "ab"}
    assert found["beside"]["directions"] == json.loads(json.dumps(directions(model, readers, train, test)))
    assert "digits-pix2pix: handwritten as printed" in (out / "report.html").read_text()
    vae = runs("digits-vae", *words_of({"network.hidden": 16}))
    for wrong, part in ((str(vae), "a run of digits-vae"), ("nowhere", "there is no run folder nowhere")):
        capsys.readouterr()
        words = words_of(SMALL | {"judging.beside": wrong})
        assert main(["train", "digits-cyclegan", "--out", str(tmp_path / "no"), "--steps", "1", *words]) == 2
        assert part in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_settings_reach_the_game():
    words = ["shown.loss=hinge", "shown.noise=0.4", "shown.noise_end=0.2", "shown.noise_steps=10", "shown.penalty=2"]
    recipe = configure("digits-cyclegan", [*words, 'shown.augmentation=["crop","mosaic"]', "weights.pool=0"])
    game = recipe.objective(recipe.model())
    assert [game.noise(step) for step in (5, 10, 99)] == pytest.approx([0.3, 0.2, 0.2])
    assert game.pools is None
    assert game.penalty is not None
    assert len(game.augmentation.keywords["transforms"]) == 2
    x = torch.ones(1, 1, 2, 2)
    linear = lambda x: x.sum((1, 2, 3))  # noqa: E731
    assert float(game.penalty(linear, x, x)) == pytest.approx(4.0)  # 2/2 |gradient|^2, four ones
    plain = configure("digits-cyclegan").objective(recipe.model())
    assert "flip" not in str(plain.augmentation).lower()
    for words in ("[rotate]", "crop"):
        with pytest.raises(ValueError) as refused:
            configure("digits-cyclegan", [f"shown.augmentation={words}"])
        assert str(refused.value) == (
            "shown.augmentation: a list of crop, mosaic, flip, colour, translation, cutout is wanted, "
            f'written as in ["crop"], got {words}'
        )
    with pytest.raises(ValueError, match=r"'rotate'.*'crop', 'mosaic'"):
        configure("digits-cyclegan", ['shown.augmentation=["rotate"]'])
    with pytest.raises(ValueError, match=r"data\.side must be a multiple of network\.patch, got 17"):
        configure("digits-cyclegan", ["data.side=17"])
    for words in (["training.rate=0.1"], ["training.weight_decay=0.5"]):
        with pytest.raises(ValueError, match=r"moves nobody here: set rates\.translators and rates\.critics"):
            configure("digits-cyclegan", words)
