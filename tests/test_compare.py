"""Comparisons of runs: the findings shown, what is never ranked, and errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import jensen
from jensen.cli import comparing
from jensen.cli.main import main
from jensen.metrics import auc
from jensen.recipes.sources.digits import Digits
from jensen.report.findings import Evaluation, Finding, Part
from jensen.runs.compare import _critic, bits, compare, line
from jensen.runs.comparison import likelihood_table, parts, write_comparison
from jensen.runs.evaluate import case_of
from jensen.runs.opening import open_run
from jensen.training.strict_json import dumps
from test_cli import refused
from tiny import tiny

KINDS = {
    "vae": ("digits-grey-vae", {}),
    "gan": ("digits-gan", {}),
    "ddpm": ("digits-ddpm", {"sampling__steps": 6}),
    "ink": ("digits-vae", {}),
    "moons": ("moons-score", {"data__test": 60}),
    "moons-2": ("moons-diffusion", {"data__test": 60}),
    "two": ("digits-pix2pix", {}),
}
METRICS = {"frechet", "frechet_extrapolated", "kernel", "energy", "precision", "recall", "density", "coverage", "c2st"}
METRICS |= {"c2st_auc", "classes", "sharpness", "copies"}


def likelihood(name, value, kind, measure, dims=64):
    facts = {"kind": kind, "measure": measure, "dims": dims}
    return Finding(f"key of {name}", name, value, 0.5, best="high", form="nats", facts=facts)


SAID = Evaluation(
    [
        Part(
            "Likelihood",
            findings=[
                likelihood("log p(x)", -99.0, "estimate", "mass"),
                likelihood("ELBO", -101.0, "lower bound", "mass"),
                Finding("gap", "gap", 2.0, form="nats"),
            ],
        )
    ]
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny runs, and the evaluation of one of them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (recipe, more) in KINDS.items():
        words = tiny(recipe, training__previews=0, **more)
        assert main(["train", recipe, "--out", str(folder / name), "--steps", "4", "--no-evaluate", *words]) == 0
    (folder / "vae" / "evaluation.json").write_text(dumps(SAID.as_dict()))
    return folder


@pytest.fixture(scope="module")
def found(runs):
    return compare([runs / name for name in ("vae", "gan", "ddpm")], n=200, judge_steps=20)


def test_everything_of_everyone(found):
    assert [c.name for c in found.contestants] == ["vae", "gan", "ddpm"]
    assert [c.recipe for c in found.contestants] == ["digits-grey-vae", "digits-gan", "digits-ddpm"]
    for c in found.contestants:
        assert set(c.metrics) == set(found.floor) == METRICS
        assert all(math.isfinite(f.value) and f.spread >= 0 for f in c.metrics.values())
        assert c.judgement.seen == found.judged_floor.seen
        assert c.judgement.accuracy.n == found.judged_floor.accuracy.n
        assert set(c.critics) == {"gan"}
        assert c.between.shape == (36, 1, 8, 8)
        assert c.cost.steps == 4
        assert torch.equal(found.data.space.settled(c.samples), c.samples)
    vae, gan, ddpm = found.contestants
    assert (vae.cost.evaluations, gan.cost.evaluations) == (1, 1)
    assert ddpm.cost.evaluations == 6  # one per step: guidance evaluates both predictions in one call
    assert (gan.likelihoods, ddpm.likelihoods) == ([], [])
    assert [(f.facts["kind"], f.facts["measure"], f.value) for f in vae.likelihoods] == [
        ("estimate", "mass", -99.0),
        ("lower bound", "mass", -101.0),
    ]
    assert found.floor["frechet"].value < min(c.metrics["frechet"].value for c in found.contestants)
    assert found.floor["copies"].value == 0.5
    assert found.judged_floor.accuracy.low < 0.5 < found.judged_floor.accuracy.high


def test_copies_are_those_of_a_runs_own_training_data(tmp_path):
    """Runs with two seeds have different training sets of the same distribution; each of these two models returns
    its own.
    """
    for seed in (0, 1):
        settings = {"density.bandwidth": 1e-5, "data.points": 100, "data.test": 60, "training.previews": 0}
        jensen.train("moons-kernel", tmp_path / str(seed), seed=seed, settings=settings)
    found = compare([tmp_path / "0", tmp_path / "1"], n=60, judge_steps=2)
    assert [c.metrics["copies"].value for c in found.contestants] == [1.0, 1.0]


def test_samples_are_those_of_the_seed_and_of_held_out_conditions(found, runs):
    run = open_run(runs / "ddpm")
    made = run.draw(32, cond=found.data.asked(32), seed=0)
    torch.testing.assert_close(found.data.space.settled(made), found.contestants[2].samples)


def test_it_is_a_function_of_the_seed(runs):
    folders = [runs / "vae", runs / "gan"]
    first, again, other = (
        compare(folders, n=60, judge_steps=3, features="raw", seed=seed).as_dict() for seed in (0, 0, 1)
    )
    for told in (first, again, other):
        for run in told["runs"]:
            run["cost"].pop("milliseconds")
            run.pop("line")
    assert first == again
    assert first["runs"][0]["metrics"] != other["runs"][0]["metrics"]


def test_the_critic_of_training_is_the_one_in_the_checkpoint(found, runs):
    """Its logits on packs of one equal those at the end of training; a VAE has no critic."""
    run, x = open_run(runs / "gan"), found.data.test[torch.arange(30)]["x"]
    game = case_of(run, found.data).game
    torch.testing.assert_close(_critic(run, found.data)(x), game.objective.critic(x).detach())
    assert _critic(open_run(runs / "vae"), found.data) is None


def test_a_line_says_what_is_beyond_the_errors(found):
    def values(**changed):
        given = dict.fromkeys(METRICS, (1.0, 0.1)) | {"copies": (1.0, 0.01)} | changed
        plain = found.contestants[0].metrics
        return {
            key: replace(plain[key], value=v, stderr=e, interval=None, form="number") for key, (v, e) in given.items()
        }

    even = [
        replace(
            c,
            metrics=values(),
            judgement=replace(c.judgement, auc=auc(torch.arange(9.0), torch.arange(9.0) + 2)),
            cost=replace(c.cost, milliseconds=1.0),
        )
        for c in found.contestants
    ]

    def said(first):
        return line(replace(found, contestants=[first, *even[1:]]), first)

    assert said(even[0]) == "No significant difference from the other runs."
    close = values(frechet=(0.75, 0.1))
    assert said(replace(even[0], metrics=close)) == "No significant difference from the other runs."
    changed = values(frechet=(0.5, 0.1), sharpness=(0.1, 0.1), precision=(0.5, 0.1), copies=(0.9, 0.001))
    assert said(replace(even[0], metrics=changed, cost=replace(even[0].cost, milliseconds=50.0))) == (
        "Best at: Frechet distance (0.5), nearness to training data (0.9). "
        "Worst at: precision (0.5), sharpness (0.1), sampling time (50 ms per sample)."
    )


def test_a_mass_is_never_ranked_against_a_density(found):
    said = [
        [likelihood("a", -5.0, "estimate", "mass"), likelihood("b", 9.0, "exact", "density")],
        [likelihood("c", -3.0, "lower bound", "mass")],
    ]
    contestants = [replace(c, likelihoods=v) for c, v in zip(found.contestants, said, strict=False)]
    names = {m: [row[1] for row in likelihood_table(contestants, m).rows] for m in ("mass", "density")}
    assert names == {"mass": ["c", "a"], "density": ["b"]}
    assert bits(likelihood("a", -64 * math.log(2), "exact", "mass")) == pytest.approx(1.0)


def test_the_page_stands_alone(found, tmp_path):
    write_comparison(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 4 + 3  # held-out data and three, then three interpolations
    assert page.count("<svg") == 8 + 1
    assert page.count('<span class="what">') == 3
    for part in parts(found):
        assert f"<h2>{part.title}</h2>" in page
    for words in (
        found.features,
        "critic of gan, AUC",
        "the model has none or was not evaluated: gan, ddpm",
        "its floor",
    ):
        assert words in page.replace("&#39;", "'")
    for c in found.contestants:
        assert line(found, c) in page


def test_features_of_the_users_own(runs):
    found = compare([runs / "vae", runs / "gan"], n=60, judge_steps=2, features=lambda x: x.flatten(1)[:, 20:30])
    assert "classes" not in found.floor
    assert found.features == "your own features, <lambda>"


def test_points_of_two_families(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "compared", partial(compare, judge_steps=5))
    words = ["compare", str(runs / "moons"), str(runs / "moons-2"), "-n", "60"]
    assert main([*words, "--html", str(tmp_path / "p.html"), "--json", str(tmp_path / "n.json")]) == 0
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["features"] == "the raw numbers"
    assert {run["recipe"] for run in told["runs"]} == {"moons-score", "moons-diffusion"}
    assert "sharpness" not in told["floor"]
    assert (tmp_path / "p.html").read_text().count("data:image/png") == 3


def test_data_of_equal_settings_are_opened_once(runs, monkeypatch):
    opened, real = [], Digits.open
    monkeypatch.setattr(Digits, "open", lambda self, *words: opened.append(self.scale) or real(self, *words))
    compare([runs / "vae", runs / "gan"], n=40, judge_steps=2, features="raw")
    assert opened == ["grey"]


def test_refusals(runs, tmp_path, capsys):
    vae, gan, ink, moons = (str(runs / name) for name in ("vae", "gan", "ink", "moons"))
    refused(
        capsys,
        ["compare", vae, ink],
        "vae and ink cannot be compared: vae was trained on scikit-learn's digits, grey, 8 x 8, shape (1, 8, 8)",
        "and ink was trained on scikit-learn's digits, two levels, 8 x 8",
    )
    refused(capsys, ["compare", vae, moons], "cannot be compared", "(1, 8, 8)", "(2,)")
    refused(capsys, ["compare", vae, str(runs / "two")], "two cannot be compared: a run of digits-pix2pix cannot draw")
    refused(capsys, ["compare", vae], "at least two runs, got 1")
    refused(capsys, ["compare", vae, str(Path(vae) / ".." / "vae")], "cannot be compared with itself")
    refused(capsys, ["compare", vae, str(tmp_path / "none")], "there is no run folder")
    refused(capsys, ["compare", vae, ink, "--html", str(tmp_path / "page.txt")], "must end in .html")
    refused(capsys, ["compare", vae, gan, "-n", "39"], "n must be from 40 to 1437, ", "got 39")
    refused(capsys, ["compare", vae, gan, "--features", "inception"], "features must be one of")
    (runs / "ddpm" / "evaluation.json").write_text('{"dims": 64}')
    refused(capsys, ["compare", vae, str(runs / "ddpm"), "-n", "40"], "evaluation.json is broken or from another")
    (runs / "ddpm" / "evaluation.json").unlink()
