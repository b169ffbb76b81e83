"""Presets from the command line: training, judging, bitwise equal resuming, sampling, and error messages."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import jensen
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.recipes.presets import PRESETS
from jensen.recipes.recipe import Recipe
from jensen.recipes.words import configure, parse
from jensen.report.findings import Evaluation
from jensen.runs.opening import open_run
from jensen.training.strict_json import loads
from test_cli import refused
from tiny import TINY, tiny, words_of

pytestmark = pytest.mark.usefixtures("short_judging")
TRANSLATE = ("digits-cyclegan", "digits-pix2pix")
POINTS = tuple(name for name in TINY if PRESETS[name].data.kind in ("moons", "ring", "grid"))
FILES = {"config.json", "evaluation.json", "journal.jsonl", "model.safetensors", "report.html", "samples", "state"}
FITTED = ("moons-mixture", "moons-kernel")  # fitted without training steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tiny run of a preset, trained and judged on first use."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in made:
            steps = "1" if name in FITTED else "4"
            assert main(["train", name, "--out", str(folder / name), "--steps", steps, *tiny(name)]) == 0
            made[name] = folder / name
        return made[name]

    return run


def test_no_preset_is_left_out():
    assert set(TINY) == set(PRESETS) - {"mnist-vae"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_value_that_comes_back_from_json(name):
    recipe = PRESETS[name]
    assert type(recipe) is Recipe
    assert parse(json.loads(json.dumps(recipe.tree()))) == recipe == configure(name)
    assert recipe.about
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


def test_what_a_preset_sets_goes_back_to_its_default_where_nothing_uses_it():
    """So `--set game.penalty=none` is sufficient; a setting given on the command line that has no effect is refused."""
    assert PRESETS["digits-gan"].family.game.penalty_weight == 0.3
    assert configure("digits-gan", ["game.penalty=none"]).family.game.penalty_weight == 1.0
    assert configure("digits-hvae", ["bound.warm=none"]).family.bound.warm == "none"
    with pytest.raises(ValueError, match=r"game\.penalty_weight is not used by this game, got 3\.0"):
        configure("digits-gan", ["game.penalty=none", "game.penalty_weight=3"])
    with pytest.raises(ValueError, match=r"game\.penalty_weight is not used by this game, got 3\.0"):
        configure("digits-gan", ["family.game.penalty=none", "family.game.penalty_weight=3"])


@pytest.mark.parametrize("name", TINY)
def test_a_run_is_trained_judged_and_has_its_page(runs, name):
    folder = runs(name)
    assert {p.name for p in folder.iterdir()} == FILES
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    found = Evaluation.parse(loads((folder / "evaluation.json").read_text()))
    assert any(finding.card for finding in found.values())
    for finding in found.values():
        assert finding.said(finding.value) in page
    assert all(path.stat().st_size > 0 for path in (folder / "samples").iterdir())
    assert list((folder / "samples").glob("step-*.png")) or "reader" in name


@pytest.mark.parametrize("name", TINY)
def test_a_run_stopped_and_resumed_is_the_uninterrupted_run(runs, tmp_path, name):
    whole, part = runs(name), tmp_path / "part"
    shutil.copytree(whole, part)
    saved = sorted((part / "state").glob("[0-9]*.pt"))
    saved[-1].unlink()
    (part / "model.safetensors").unlink()
    assert main(["train", name, "--out", str(part), "--resume", "--no-evaluate"]) == 0
    ours, theirs = (load_file(run / "model.safetensors") for run in (whole, part))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    states = [torch.load(run / "state" / saved[-1].name, weights_only=True)["objective"] for run in (whole, part)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", [name for name in TINY if "reader" not in name])
def test_samples_are_a_function_of_the_seed(runs, tmp_path, name):
    ending = ".csv" if name in POINTS else ".png"
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / (out + ending)
        assert main(["sample", str(runs(name)), "-n", "5", "--seed", str(seed), "--out", str(path)]) == 0
    a, b, c = ((tmp_path / (name + ending)).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("name", [name for name in TINY if name not in TRANSLATE and "reader" not in name])
def test_the_first_samples_do_not_depend_on_how_many_there_are(runs, name):
    run = open_run(runs(name))
    few, many = run.draw(3, seed=7), run.draw(5, seed=7)
    torch.testing.assert_close(few, many[:3], rtol=1e-5, atol=1e-5)


def test_points_are_written_as_numbers_and_as_a_picture(runs, tmp_path):
    folder, out = runs("moons-diffusion"), tmp_path / "x.csv"
    assert main(["sample", str(folder), "-n", "7", "--out", str(out)]) == 0
    with out.open() as file:
        rows = [[float(v) for v in row] for row in csv.reader(file)]
    torch.testing.assert_close(torch.tensor(rows), open_run(folder).draw(7, seed=0), rtol=0, atol=1e-4)
    assert main(["sample", str(folder), "-n", "7", "--out", str(tmp_path / "x.png"), "--scale", "2"]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width == 240


@pytest.mark.parametrize("name", ["digits-vae", "digits-hvae", "digits-ddpm", "digits-gan"])
def test_interpolations_are_rows_between_two_samples(runs, tmp_path, name):
    out = tmp_path / "x.png"
    words = ["sample", str(runs(name)), "-n", "3", "--interpolate", "5", "--scale", "1", "--out", str(out)]
    assert main(words) == 0
    with Image.open(out) as picture:
        assert picture.size == (5 * (8 + 6) + 6, 3 * (8 + 6) + 6)


def test_classes_can_be_asked_for(runs, tmp_path):
    folder, out = runs("digits-ddpm"), tmp_path / "some"
    assert main(["sample", str(folder), "--text", "3", "7", "--seed", "4", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["00000-3.png", "00001-7.png"]
    model = open_run(folder).model
    with torch.no_grad():  # the network is given the class: its answer changes once its weights see it
        torch.nn.init.normal_(model.denoiser.net.exit.weight)
        a, b = (model.sample(1, cond=torch.tensor([[k]]), generator=[generator(0)]) for k in (3, 7))
    assert not torch.equal(a, b)


def test_a_run_from_python(runs, tmp_path):
    run = jensen.open(runs("digits-ddpm"))
    samples = run.sample(4, cond="3", seed=5, guidance=3.0, steps=2)
    assert samples.pixels.shape == (4, 1, 8, 8)
    assert samples.pixels.dtype == torch.uint8
    torch.testing.assert_close(samples.x, run.sample(cond=["3"] * 4, seed=5, guidance=3.0, steps=2).x)
    with pytest.raises(ValueError, match=r"pictures must be saved as a \.png or in a folder"):
        samples.save(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="n must be the number of conditions, 2, or left out, got 3"):
        run.sample(3, cond=["1", "2"])
    samples.save(tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    trained = jensen.train("ring-gan", tmp_path / "ring", steps=2, settings={"data.points": 100, "data.test": 20})
    assert trained.recipe.training.steps == 2
    assert trained.sample(3).x.shape == (3, 2)
    with pytest.raises(ValueError, match="--guidance cannot be used with a run of ring-gan"):
        trained.sample(3, guidance=2.0)


def test_a_run_can_be_drawn_from_without_its_data_but_not_judged(tmp_path, capsys):
    pictures = (torch.rand(60, 6, 5, generator=generator(0)) * 255).int()
    header = b"".join(int(n).to_bytes(4, "big") for n in pictures.shape)
    (tmp_path / "x.idx").write_bytes(bytes([0, 0, 8, 3]) + header + bytes(pictures.flatten().tolist()))
    words = words_of(TINY["digits-vae"] | {"data.test": 0.3, "network.latents": [3], "training.batch_size": 8})
    out = tmp_path / "run"
    assert (
        main(["train", "mnist-vae", "--data", str(tmp_path / "x.idx"), "--out", str(out), "--steps", "3", *words]) == 0
    )
    (tmp_path / "x.idx").unlink()
    assert main(["sample", str(out), "-n", "2", "--out", str(tmp_path / "x.png")]) == 0
    refused(capsys, ["evaluate", str(out)], "there is no file")


def test_data_that_changed_are_not_judged_by(runs, tmp_path, capsys):
    shutil.copytree(runs("ring-gan"), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["radius"] = 2.0
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    refused(capsys, ["evaluate", str(tmp_path / "run")], "no longer the data that this run was trained on")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("digits-ddpm", ["-n", "1", "--guidance", "3"], ""),  # without a text, digits of all classes are drawn in turn
        ("digits-ddpm", ["--text", "3", "--interpolate", "2", "--guidance", "3"], ""),
        ("moons-diffusion", ["-n", "1", "--scale", "2", "--out", "x.csv"], "--scale has no effect"),
    ],
)
def test_what_does_nothing_is_said(runs, tmp_path, capsys, monkeypatch, name, words, said):
    folder = runs(name)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["sample", str(folder), *words, *([] if "--out" in words else ["--out", "x.png"])]) == 0
    err = capsys.readouterr().err
    assert err.startswith(f"jensen: {said}") if said else err == ""


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("mnist-vae", {}, ["data.path", "--data PATH"]),
        ("mnist-vae", {"data.path": "nowhere"}, ["there is no file", "nowhere"]),
        ("digits-vae", {"bound.beta": 2, "bound.kl_limit": 1}, ["bound.kl_limit", "bound.beta"]),
        ("digits-vae", {"bound.gradient": "dreg"}, ["dreg needs bound.name iwae"]),
        ("digits-vae", {"bound.samples": 0}, ["bound.samples", "at least 1"]),
        ("digits-vae", {"network.direction": "ladder"}, ["at least two layers in network.latents"]),
        ("digits-categorical", {"bound.samples": 1}, ["bound.samples"]),
        ("digits-ddpm", {"network.schedule": "learned"}, ["loss.name"]),
        ("digits-vdm", {"network.lowest": 20}, ["network.lowest must be below network.highest"]),
        ("digits-ddpm", {"network.highest": 12}, ["network.highest"]),
        ("moons-diffusion", {"loss.drop": 0.3}, ["loss.drop"]),
        ("digits-vdm", {"loss.times": "logit-normal"}, ["loss.times must be uniform"]),
        ("digits-ddpm", {"loss.drop": 0}, ["sampling.guidance must be 1, got 2"]),
        ("digits-ddpm", {"network.output": "eps", "sampling.start": 1}, ["no finite x at t = 1", "sampling.start"]),
        ("moons-diffusion", {"sampling.clip": True}, ["sampling.clip needs pictures"]),
        ("moons-diffusion", {"network.kind": "unet"}, ["unet"]),
        ("moons-score", {"network.smallest": 9}, ["network.smallest must be below network.largest, got 9 and 8"]),
        ("moons-diffusion", {"data.noise": 0}, ["data.noise", "above 0"]),
        ("ring-gan", {"game.augmentation": "fixed"}, ["game.augmentation must be none for points"]),
        ("ring-gan", {"game.penalty_weight": 3}, ["game.penalty_weight"]),
        ("ring-gan", {"training.rates.critics": 0.1}, ["training.rates must name players, critic, generator"]),
        ("digits-gan", {"judging.importance": 3}, ["judging.importance is not used by family gan"]),
    ],
)
def test_wrong_settings(capsys, tmp_path, monkeypatch, name, settings, parts):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["train", name, "--out", "run", *words_of(settings)], *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("digits-vae", ["--steps", "3"], "--steps cannot be used with a run of digits-vae"),
        ("digits-vae", ["--text", "3"], "--text cannot be used with a run of digits-vae"),
        ("digits-categorical", ["--interpolate", "3"], "between two classes"),
        ("digits-ddpm", ["--text", "x"], "a class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got 'x'"),
        ("digits-ddpm", ["--interpolate", "5", "--sampler", "ancestral"], "Ancestral draws noise"),
        ("digits-ddpm", ["--interpolate", "1"], "--interpolate must be from 2"),
        ("digits-ddpm", ["--eta", "0.5"], "eta is a setting of sampler 'ddim'"),
        ("digits-unconditional", ["--text", "3"], "--text cannot be used with a run of digits-unconditional"),
        ("moons-diffusion", ["--text", "3"], "--text cannot be used with a run of moons-diffusion"),
        ("moons-diffusion", ["--out", "folder"], "must end in .png or .csv"),
        ("moons-score", ["--sampler", "euclid"], "sampler must be one of langevin, dpm++,"),
        ("moons-score", ["--steps", "0"], "steps must be from 1 to 1000000, got 0"),
        ("ring-gan", ["--steps", "3"], "--steps cannot be used with a run of ring-gan"),
        ("grid-pacgan", ["--interpolate", "1"], "--interpolate must be from 2"),
        ("captcha-reader", ["-n", "1"], "samples cannot be drawn from a run of captcha-reader"),
    ],
)
def test_wrong_requests(capsys, runs, tmp_path, monkeypatch, name, words, part):
    folder = runs(name)
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "x.png"]
    refused(capsys, ["sample", str(folder), *words, *out], part)
    assert list(tmp_path.iterdir()) == []
