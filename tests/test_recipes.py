"""Every small recipe from the command line: trained, judged, drawn from; and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil

import pytest
import torch
from PIL import Image

from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.diffusion import Reconstruction
from jensen.models.score import as_diffusion
from jensen.recipes import RECIPES, configure, open_run
from jensen.recipes.base import Request
from jensen.recipes.data import DigitsData
from jensen.recipes.digit_reader import ceiling, share_read
from jensen.recipes.judging import nats
from jensen.recipes.latent_judging import STEPS, interpolations, traversal
from jensen.recipes.score_judging import exact_score
from jensen.training.strict_json import loads
from jensen.variational import elbo, log_likelihood

LATENT = {
    "network.hidden": 16,
    "judging.samples": 20,
    "judging.rows": 12,
    "judging.refine_rows": 4,
    "judging.refine_steps": 5,
}
DIFFUSION = {
    "network.width": 16,
    "network.blocks": 1,
    "judging.samples": 20,
    "judging.steps": [2, 3],
    "judging.ode_rows": 4,
}
ADVERSARIAL = {"judging.samples": 20, "judging.critic_steps": 3, "judging.critic_batch": 8}
POINTS_GAN = ADVERSARIAL | {"data.points": 100, "data.test": 20, "network.width": 16, "network.critic_width": 16}
DIGITS_GAN = ADVERSARIAL | {"network.width": 4, "network.critic_width": 16}
TRANSLATION = {
    "network.width": 8,
    "network.blocks": 1,
    "network.critic": [8],
    "data.printed": 60,
    "data.test": 40,
}
SMALL = {
    "digits-vae": LATENT,
    "digits-iwae": LATENT,
    "digits-hvae": LATENT,
    "digits-beta-vae": LATENT,
    "digits-categorical": LATENT,
    "digits-grey-vae": LATENT,
    "moons-diffusion": DIFFUSION | {"data.points": 100, "data.test": 20, "judging.bound_steps": 5},
    "digits-ddpm": DIFFUSION | {"judging.bound_steps": 5},
    "digits-vdm": DIFFUSION | {"judging.bound_steps": 5},
    "moons-score": DIFFUSION | {"data.points": 100, "data.test": 20, "network.levels": 4, "sampling.steps": 3},
    "digits-score": DIFFUSION | {"network.levels": 4, "sampling.steps": 3},
    "ring-gan": POINTS_GAN,
    "grid-gan": POINTS_GAN,
    "grid-pacgan": POINTS_GAN,
    "digits-gan": DIGITS_GAN,
    "digits-wgan": DIGITS_GAN,
    "digits-exponential-gan": DIGITS_GAN,
    "stacked-digits-gan": DIGITS_GAN | {"judging.read": 40, "data.points": 100, "data.test": 20},
    "digits-cyclegan": TRANSLATION | {"weights.pool": 4},
    "digits-pix2pix": TRANSLATION,
}
TRANSLATE = ("digits-cyclegan", "digits-pix2pix")
POINTS = ("moons-diffusion", "moons-score", "ring-gan", "grid-gan", "grid-pacgan")


def words_of(settings):
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [word for key, value in said.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tiny run of a recipe, trained and judged on first use."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in made:
            more = words_of(SMALL[name] | {"training.batch_size": 8, "training.previews": 1, "training.log_every": 2})
            assert main(["train", name, "--out", str(folder / name), "--steps", "4", *more]) == 0
            made[name] = folder / name
        return made[name]

    return run


def refused(capsys, words, *parts):
    """Exit code 2 and one line on standard error that says these things."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jensen: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_no_recipe_is_left_out():
    elsewhere = {"captcha", "captcha-reader", "mnist-vae", "sprites-vae", "sprites-beta-vae"}
    assert set(SMALL) == set(RECIPES) - elsewhere


@pytest.mark.parametrize("name", SMALL)
def test_a_run_is_trained_judged_and_has_its_page(runs, name):
    folder = runs(name)
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.json",
        "evaluation.json",
        "journal.jsonl",
        "model.safetensors",
        "report.html",
        "samples",
        "state",
    }
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64,") >= 3
    assert "nan" not in json.dumps(json.loads((folder / "evaluation.json").read_text())).lower().split()
    film = folder / "samples" / "film.gif"
    assert film.exists() == ("judging.ode_rows" in SMALL[name])
    if film.exists():
        with Image.open(film) as frames:
            assert frames.is_animated


@pytest.mark.parametrize("name", [name for name in SMALL if name not in TRANSLATE])
def test_what_a_comparison_asks(runs, name):
    """Data never trained on, of the scale that is drawn; log p by kind and measure as the evaluation has it."""
    recipe, model = open_run(runs(name))
    real, made = recipe.real(), recipe.drawing(model, Request(n=2)).draw(lambda _: None)
    assert real.test.shape[1:] == real.train.shape[1:] == made.shape[1:]
    assert real.settled(real.test[:5]).equal(real.test[:5])
    assert name in POINTS or bool((real.settled(made).abs() <= real.test.abs().max()).all())
    found = recipe.likelihoods(json.loads((runs(name) / "evaluation.json").read_text()))
    if name.endswith("gan"):
        assert not found
        return
    assert {v.measure for v in found} == {"density" if name in POINTS else "mass"}
    assert all(v.stderr > 0 and v.dims == real.test[0].numel() for v in found)
    assert len({v.name for v in found}) == len(found) >= 2


def test_translators_are_not_compared(runs, capsys):
    refused(capsys, ["compare", *(str(runs(name)) for name in TRANSLATE)], TRANSLATE[0])


@pytest.mark.parametrize("name", SMALL)
def test_samples_are_a_function_of_the_seed(runs, tmp_path, name):
    folder = runs(name)
    ending = ".csv" if name in POINTS else ".png"
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / (out + ending)
        assert main(["sample", str(folder), "-n", "5", "--seed", str(seed), "--out", str(path)]) == 0
    a, b, c = ((tmp_path / (name + ending)).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_points_are_written_as_numbers_and_as_a_picture(runs, tmp_path):
    folder = runs("moons-diffusion")
    out = tmp_path / "x.csv"
    assert main(["sample", str(folder), "-n", "7", "--out", str(out)]) == 0
    with out.open() as file:
        rows = [[float(v) for v in row] for row in csv.reader(file)]
    recipe, model = open_run(folder)
    assert torch.allclose(torch.tensor(rows), recipe.draw(model, 7, 0), atol=1e-4)
    assert main(["sample", str(folder), "-n", "7", "--out", str(tmp_path / "x.png"), "--scale", "2"]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width == 240


@pytest.mark.parametrize("name", ["digits-vae", "digits-hvae", "digits-ddpm"])
def test_interpolations_have_a_row_a_pair(runs, tmp_path, name):
    out = tmp_path / "x.png"
    words = ["sample", str(runs(name)), "-n", "3", "--interpolate", "5", "--scale", "1", "--out", str(out)]
    assert main(words) == 0
    with Image.open(out) as picture:
        assert picture.size == (5 * (8 + 6) + 6, 3 * (8 + 6) + 6)


def test_classes_can_be_asked_for(runs, tmp_path):
    folder = runs("digits-ddpm")
    _, model = open_run(folder)
    out = tmp_path / "some"
    assert main(["sample", str(folder), "--text", "3", "7", "--seed", "4", "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 2
    with torch.no_grad():  # the network is told the class: its answer changes once its weights see it
        torch.nn.init.normal_(model.denoiser.net.exit.weight)
        a, b = (model.sample(1, cond=torch.tensor([[k]]), generator=[generator(0)]) for k in (3, 7))
    assert not torch.equal(a, b)


def test_ends_of_an_interpolation_are_draws_of_the_prior(runs):
    _, model = open_run(runs("digits-vae"))
    made = interpolations(model, 2, 5, generator(3)).reshape(2, 5, 1, 8, 8)
    z = model.prior().sample  # the same draws, by hand
    torch.manual_seed(3)
    ends = z((2, 2))
    assert torch.allclose(model.decode(ends[0]), made[:, 0], atol=1e-5)
    assert torch.allclose(model.decode(ends[1]), made[:, -1], atol=1e-5)


@pytest.mark.parametrize("name", ["digits-vae", "digits-hvae", "digits-categorical"])
def test_a_traversal_moves_one_coordinate_a_row(runs, name):
    recipe, model = open_run(runs(name))
    x = recipe.pictures()[1][:10]
    grid, names = traversal(model, x, generator(0), most=3)
    assert grid.shape == (3 * STEPS, 1, 8, 8)
    assert len(names) == 3
    if name == "digits-categorical":
        assert torch.allclose(grid[0], grid[10])  # eleven steps through ten classes: the first comes back
    rows = grid.reshape(3, STEPS, -1)
    assert bool((rows.diff(dim=1).abs().sum(2) > 0).all())


def test_judged_numbers_are_those_of_the_model(runs):
    """Log p is one of the estimates by K = 20 draws, within 4 standard deviations of 50 others."""
    folder = runs("digits-vae")
    recipe, model = open_run(folder)
    found = loads((folder / "evaluation.json").read_text())
    x = recipe.pictures()[1][:12]
    others = [log_likelihood(model, x, samples=20, generator=generator(k)).value.mean() for k in range(9, 59)]
    error = float(torch.stack(others).std()) * (1 + 1 / 50) ** 0.5
    assert found["log_p"]["mean"] == pytest.approx(float(torch.stack(others).mean()), abs=4 * error)
    bound = elbo(model.trace(x, samples=2000)).mean()
    assert found["elbo"]["mean"] == pytest.approx(float(bound), abs=0.2)
    gap = found["gap"]
    assert gap["whole"]["mean"] == pytest.approx(gap["approximation"]["mean"] + gap["amortization"]["mean"], abs=1e-5)
    assert found["bits_per_dim"] == pytest.approx(-found["log_p"]["mean"] / 64 / 0.6931471805599453, abs=1e-6)


def test_the_bound_that_is_printed_is_the_sum_of_its_terms(runs):
    folder = runs("digits-vdm")
    found = json.loads((folder / "evaluation.json").read_text())["likelihood"]
    for name in ("discrete", "continuous"):
        terms = found[name]["terms"]
        total = terms["prior"] + terms["diffusion"] + terms["reconstruction"]
        assert found[name]["mean"] == pytest.approx(-total, rel=1e-5)
        assert sum(terms["each"]) == pytest.approx(terms["diffusion"], rel=1e-5)
    assert found["measure"] == "mass"
    recipe, model = open_run(folder)
    data = recipe.test_data()
    kept = {"cond": data["cond"], "reconstruction": Reconstruction("denoised", recipe.bins())}
    again = model.bound(data["x"], span=(recipe.judging.first, 1.0), generator=generator(1), **kept).likelihood
    error = (found["continuous"]["noise"] ** 2 + float(again.stderr.square().mean()) / len(data["x"])) ** 0.5
    assert abs(found["continuous"]["mean"] - float(again.value.mean())) < 4 * error


@pytest.mark.parametrize("name", ["moons-diffusion", "digits-ddpm", "digits-vdm", "moons-score", "digits-score"])
def test_a_bound_says_where_it_starts_and_a_card_how_it_is_drawn(runs, capsys, name):
    """The first level beside every bound, in JSON, terminal, page and comparison; the energy and the digits read are
    those of the recipe's own number of steps, whatever `judging.steps` are; a VDM's bound is its training's too."""
    recipe, model = open_run(runs(name))
    found = json.loads((runs(name) / "evaluation.json").read_text())
    page = (runs(name) / "report.html").read_text().replace("&#39;", "'")
    cards = dict(reversed(card) for card in re.findall(r"<b>(.*?)</b><span>(.*?)</span>", page))
    diffusion = as_diffusion(model) if name.endswith("score") else model
    said = found.get("likelihood", found)
    bounds = {key: said[key] for key in ("discrete", "continuous", "trained", "bound", "ode") if key in said}
    assert ("trained" in bounds) == (name == "digits-vdm")
    for key, bound in bounds.items():
        start = 0.0 if key == "trained" or name.endswith("score") else 0.03
        level = float(diffusion.denoiser.schedule.log_snr(torch.tensor(start)))
        assert bound["first"] == pytest.approx({"time": start, "log_snr": level}, rel=1e-4)
        words = f"log-SNR {level:.2f} (t = {start:g})"
        assert page.count(words) >= 2
        assert any(words in line and nats(bound) in value for line, value in recipe.headline(found))
        assert any(words in likely.name and likely.mean == bound["mean"] for likely in recipe.likelihoods(found))
    drawn, steps = found["samples"], recipe.sampling.steps
    assert [row["steps"] for row in drawn["rows"]] == sorted({2, 3, steps})
    (own,) = (row for row in drawn["rows"] if row["steps"] == steps)
    assert cards["energy distance"] == f"{own['energy']:.5f}"
    if "ceiling" in drawn:
        assert cards["digits read as asked"] == f"{100 * own['read']['value']:.1f}%"


def test_the_bound_a_vdm_is_trained_on_is_its_objectives(runs):
    """The objective's loss over the test data, its mean over 60 passes, within 4 standard errors of both."""
    recipe, model = open_run(runs("digits-vdm"))
    found = json.loads((runs("digits-vdm") / "evaluation.json").read_text())["likelihood"]["trained"]
    objective = recipe.setting(model).objective
    objective.drop = 0.0  # the class is told to every row of the test data
    torch.manual_seed(0)
    with torch.no_grad():
        losses = torch.stack([objective(("model",), recipe.test_data(), 0)["model"].total for _ in range(60)])
    error = math.hypot(float(losses.std()) / 60**0.5, found["noise"])
    assert found["mean"] == pytest.approx(-float(losses.mean()), abs=4 * error)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("digits-ddpm", ["-n", "1", "--interpolate", "2", "--guidance", "3"], "--guidance does nothing without --text"),
        ("digits-ddpm", ["-n", "1", "--guidance", "3"], ""),  # digits without a text are of all classes in turn
        ("digits-ddpm", ["--text", "3", "--interpolate", "2", "--guidance", "3"], ""),
        ("moons-diffusion", ["-n", "1", "--scale", "2", "--out", "x.csv"], "--scale does nothing"),
    ],
)
def test_what_does_nothing_is_said(runs, tmp_path, capsys, monkeypatch, name, words, said):
    folder = runs(name)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["sample", str(folder), *words, *([] if "--out" in words else ["--out", "x.png"])]) == 0
    err = capsys.readouterr().err
    assert err.startswith(f"jensen: {said}") if said else err == ""


@pytest.mark.parametrize("name", ["moons-score", "digits-score"])
def test_a_score_models_bound_is_the_sum_of_its_terms(runs, name):
    found = json.loads((runs(name) / "evaluation.json").read_text())
    terms = found["bound"]["terms"]
    assert found["bound"]["mean"] == pytest.approx(-sum(terms.values()), rel=1e-5)
    assert found["bound"]["measure"] == found["ode"]["measure"] == ("mass" if name == "digits-score" else "density")
    assert all(error > 0 for error in found["round_trip"]["error"])


@pytest.mark.parametrize("name", ["moons-score", "digits-score"])
def test_a_score_models_samples_stand_beside_those_of_the_exact_score(runs, name):
    found = json.loads((runs(name) / "evaluation.json").read_text())["samples"]
    assert [row["steps"] for row in found["rows"]] == [2, 3]
    assert all(row["exact_variance"] > found["equilibrium"] > 0.5 for row in found["rows"])  # 12 moves: far from it
    assert found["rows"][0]["exact_variance"] > found["rows"][1]["exact_variance"]
    assert all(row["variance_stderr"] > 0 for row in found["rows"])
    law = "data" if name == "moons-score" else "training data"
    assert found["exact"]["of"] == law
    page = (runs(name) / "report.html").read_text()
    assert f"Along the exact score of the {law}, 3 moves a level, " in page
    assert f"{found['exact']['energy']:.5f} ± {found['exact']['stderr']:.5f}" in page
    assert f"{found['rows'][1]['exact_variance']:.3f}" in page
    assert f"{found['equilibrium']:.3f}, is the sampler" in page


def test_the_exact_score_of_digits_is_that_of_their_mixture():
    """Of data whose law is not known: the gradient of log mean_i N(x; x_i, sigma^2 I) over the training data."""
    recipe = configure("digits-score")
    data, sigma = recipe.training_data().double(), 0.7
    x = recipe.test_data()[:3].double().requires_grad_(True)
    log_p = torch.logsumexp(-(x[:, None] - data).square().flatten(2).sum(2) / (2 * sigma**2), 1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(exact_score(recipe, sigma)(x.detach()), score)


def test_the_reader_of_digits_reads_real_ones_and_not_noise():
    assert ceiling("grey").value > 0.98
    assert ceiling("ink").value > 0.95
    x, labels = DigitsData(scale="grey").test()
    assert share_read(x[torch.randperm(len(x))], labels, "grey").high < 0.25


def test_a_run_stopped_and_gone_on_with_is_the_same(tmp_path):
    words = words_of(SMALL["digits-iwae"] | {"training.batch_size": 8, "training.previews": 0})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ["--no-evaluate", "--set", "training.save_every=3"]
    assert main(["train", "digits-iwae", "--out", str(whole), "--steps", "6", *words, *more]) == 0
    shutil.copytree(whole, parts)
    later = max((parts / "state").glob("*"), key=lambda p: p.name)
    assert len(list((parts / "state").glob("*"))) >= 2
    shutil.rmtree(later) if later.is_dir() else later.unlink()
    (parts / "model.safetensors").unlink()
    assert main(["train", "digits-iwae", "--out", str(parts), "--resume", "--no-evaluate"]) == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def write_idx(path, array):
    shape = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + bytes(array.flatten().tolist()))


def test_pictures_of_an_idx_file(tmp_path, capsys):
    pictures = (torch.rand(40, 6, 5, generator=generator(0)) * 255).int()
    write_idx(tmp_path / "pictures.idx", pictures)
    settings = LATENT | {
        "data.images": str(tmp_path / "pictures.idx"),
        "data.height": 6,
        "data.width": 5,
        "data.test": 12,
        "network.latents": [3],
        "training.batch_size": 8,
        "training.previews": 1,
    }
    out = tmp_path / "run"
    assert main(["train", "mnist-vae", "--out", str(out), "--steps", "3", *words_of(settings)]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert (found["rows"], found["dims"]) == (12, 30)
    recipe, _ = open_run(out)
    assert torch.equal(recipe.pictures()[1][:, 0], (pictures[-12:] >= 128).float())
    (tmp_path / "pictures.idx").unlink()  # a run can be drawn from without its data, but not judged
    assert main(["sample", str(out), "-n", "2", "--out", str(tmp_path / "x.png")]) == 0
    refused(capsys, ["evaluate", str(out)], "there is no file")


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("mnist-vae", {}, ["data.images is not set", "--set data.images=PATH"]),
        ("mnist-vae", {"data.images": "nowhere"}, ["there is no file", "nowhere"]),
        ("digits-vae", {"bound.beta": 2, "bound.kl_limit": 1}, ["bound.kl_limit does not go with bound.beta"]),
        ("digits-vae", {"bound.gradient": "dreg"}, ["dreg goes with bound.name iwae"]),
        ("digits-vae", {"bound.samples": 0}, ["bound.samples", "greater than or equal to 1"]),
        ("digits-vae", {"network.direction": "ladder"}, ["at least two layers in network.latents"]),
        ("digits-vae", {"data.scale": "grey"}, ["data.scale must be ink"]),
        ("digits-categorical", {"bound.samples": 1}, ["bound.samples of at least 2"]),
        ("digits-categorical", {"network.latents": [4, 4]}, ["one layer"]),
        ("digits-ddpm", {"network.schedule": "learned"}, ["learned is trained by loss.name bound"]),
        (
            "digits-vdm",
            {"network.output": "x", "network.highest": 300},
            ["finite x and eps, got t = 0.03", "sigma = 0"],
        ),
        ("digits-vdm", {"network.lowest": 20}, ["network.lowest must be below network.highest"]),
        ("digits-ddpm", {"network.highest": 12}, ["network.highest is of network.schedule learned, not of cosine"]),
        ("moons-diffusion", {"loss.drop": 0.3}, ["loss.drop is of models that are told a class"]),
        ("digits-vdm", {"loss.times": "logit-normal"}, ["loss.times is of weighted losses"]),
        ("digits-ddpm", {"loss.drop": 0}, ["sampling.guidance must be 1, got 2", "loss.drop 0"]),
        ("digits-ddpm", {"network.output": "eps", "sampling.start": 1}, ["no finite x at t = 1", "sampling.start"]),
        ("digits-ddpm", {"network.output": "eps", "sampling.start": 0.99999999}, ["no finite x at t = 1"]),  # float32
        (
            "digits-ddpm",
            {"network.output": "eps", "sampling.start": 0.01},
            ["judging.first must be below", "t = 0.01, got 0.03"],
        ),
        ("moons-diffusion", {"sampling.clip": True}, ["sampling.clip is for pictures"]),
        ("moons-diffusion", {"sampling.guidance": 2}, ["sampling.guidance must be 1, got 2", "no classes"]),
        ("moons-score", {"network.smallest": 9}, ["smallest must be below largest"]),
        ("moons-diffusion", {"data.noise": 0}, ["data.noise", "greater than 0"]),
    ],
)
def test_wrong_settings(capsys, tmp_path, monkeypatch, name, settings, parts):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["train", name, "--out", "run", *words_of(settings)], *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("digits-vae", ["--steps", "3"], "--steps is not for a run of digits-vae"),
        ("digits-vae", ["--text", "3"], "--text is not for a run of digits-vae"),
        ("digits-categorical", ["--interpolate", "3"], "nothing between two classes"),
        ("digits-ddpm", ["--text", "x"], "--text takes classes, 0 to 9, got 'x'"),
        ("digits-ddpm", ["--interpolate", "5", "--sampler", "ancestral"], "draws noise"),
        ("digits-ddpm", ["--interpolate", "1"], "--interpolate must be from 2"),
        ("moons-diffusion", ["--text", "3"], "--text is not for a run of moons-diffusion"),
        ("moons-diffusion", ["--guidance", "2"], "--guidance is not for this run: there are no classes"),
        ("moons-diffusion", ["--out", "folder"], "must end in .png or .csv"),
        ("moons-score", ["--sampler", "euclid"], "sampler must be one of langevin, dpm++,"),
        ("moons-score", ["--steps", "0"], "steps must be at least 1, got 0"),
        ("ring-gan", ["--steps", "3"], "--steps is not for a run of ring-gan"),
        ("grid-pacgan", ["--interpolate", "1"], "--interpolate must be from 2"),
    ],
)
def test_wrong_requests(capsys, runs, tmp_path, monkeypatch, name, words, part):
    folder = runs(name)
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "x.png"]
    refused(capsys, ["sample", str(folder), *words, *out], part)
    assert list(tmp_path.iterdir()) == []


def test_every_recipe_can_be_configured_by_its_defaults():
    for name in RECIPES:
        assert configure(name).recipe == name
