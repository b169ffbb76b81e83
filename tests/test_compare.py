"""Runs side by side: what is said of samples that are known, of what is never ranked, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.stats import norm

from jensen.cli import comparing
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.metrics import auc
from jensen.recipes.base import Likely, Real
from jensen.recipes.comparing import bits, compare, line
from jensen.recipes.comparing_page import likelihood_table, write_comparison
from jensen.recipes.data import DigitsData
from jensen.recipes.features import features_of
from jensen.recipes.fresh_judge import judge
from jensen.recipes.sample_metrics import METRICS, Value, measured
from test_recipes import DIFFUSION, LATENT, refused, words_of

KINDS = {
    "vae": ("digits-grey-vae", LATENT),
    "gan": ("digits-gan", {"network.width": 4, "network.critic_width": 16}),
    "ddpm": ("digits-ddpm", DIFFUSION | {"judging.bound_steps": 5, "sampling.steps": 6}),
    "ink": ("digits-vae", LATENT),
    "moons": ("moons-score", DIFFUSION | {"data.points": 100, "data.test": 60, "network.levels": 4}),
    "moons-2": ("moons-diffusion", DIFFUSION | {"data.points": 100, "data.test": 60, "judging.bound_steps": 5}),
}
SAID = {
    "dims": 64,
    "rows": 30,
    "samples": 20,
    "measure": "mass",
    "pareto_k": {"beyond": 4},
    "log_p": {"mean": -99.0, "stderr": 0.5},
    "elbo": {"mean": -101.0, "stderr": 0.5},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny runs, and an evaluation of one of them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (recipe, small) in KINDS.items():
        words = words_of(small | {"training.batch_size": 16, "training.previews": 0, "training.log_every": 2})
        assert main(["train", recipe, "--out", str(folder / name), "--steps", "4", "--no-evaluate", *words]) == 0
    (folder / "vae" / "evaluation.json").write_text(json.dumps(SAID))
    return folder


@pytest.fixture(scope="module")
def features():
    return features_of("classifier", DIGITS)


@pytest.fixture(scope="module")
def found(runs):
    return compare([runs / name for name in ("vae", "gan", "ddpm")], n=200, judge_steps=20)


# numbers of samples that are known ------------------------------------------------------------------------------------

DIGITS = DigitsData(scale="grey").real()


def test_other_data_of_the_same_law_are_at_the_floor(features):
    """Training digits in the samples' place, n = 500: what has an exact value has it within 4 standard errors."""
    values = measured(DIGITS, DIGITS.train[:500], features, 0)
    assert set(values) == set(METRICS)
    for key, exact in (("kernel", 0), ("density", 1), ("c2st", 0.5), ("sharpness", 1)):
        assert values[key].value == pytest.approx(exact, abs=4 * values[key].stderr), key
    assert values["copies"].value == 1 > 1 - values["copies"].stderr  # they are
    assert values["classes"].value < 0.02


def test_blur_and_collapse_are_seen(features):
    blurred = (DIGITS.train[:300] + DIGITS.train[:300].roll(1, 3)) / 2
    assert measured(DIGITS, blurred, features, 0)["sharpness"].value < 0.6
    threes = DIGITS.train[DIGITS.labels[0] == 3][:100]
    one = measured(DIGITS, threes, features, 0)
    share = float((DIGITS.labels[0] == 3).double().mean())
    assert one["classes"].value == pytest.approx(-math.log(share), rel=0.1)
    assert one["coverage"].value < 0.2
    assert one["precision"].value > 0.8
    assert one["c2st"].value > 0.8


def test_what_is_concentrated_is_near_the_data_and_no_copy():
    """N(0, 1/9) beside N(0, 1) in the plane, n = 400: no sample is drawn from the training data, and yet it says 2/3,
    as the page warns."""
    train, test, drawn = (torch.randn(400, 2, generator=generator(k)) for k in range(3))
    found = measured(Real("points", train, test), drawn / 3, features_of("raw", Real("points", train, test)), 0)
    assert found["copies"].value > 0.5 + 6 * found["copies"].stderr


def test_what_is_between_the_levels_is_stored_on_them():
    x = torch.tensor([-1.3, -0.99, 0.06, 0.07, 2.0])
    assert DIGITS.settled(x).tolist() == [-1.0, -1.0, 0.0, 0.125, 1.0]
    assert torch.equal(DIGITS.settled(DIGITS.test), DIGITS.test)
    assert torch.equal(replace(DIGITS, levels=None).settled(x), x)


# features -------------------------------------------------------------------------------------------------------------


def test_the_classifier_is_a_function_of_the_data_and_says_which_it_is(features):
    a, b = features, features_of(None, DIGITS)
    assert a.name == b.name
    assert "weights" in a.name
    assert torch.equal(a(DIGITS.test), b(DIGITS.test))
    assert a(DIGITS.test).shape == (360, 32)
    right = float((a.read(DIGITS.test) == DIGITS.labels[1]).double().mean())
    assert right > 0.95
    assert f"{100 * right:.1f}%" in a.name


def test_projections_and_the_numbers_themselves():
    random = features_of("random", DIGITS)
    x, y = DIGITS.test[:50], DIGITS.train[:50]
    torch.testing.assert_close(random(x + y), random(x) + random(y))
    assert random(x).shape == (50, 32)
    assert torch.equal(features_of("raw", DIGITS)(x), x.flatten(1))
    points = Real("points", torch.randn(50, 2), torch.randn(50, 2))
    assert features_of(None, points).name == "the numbers themselves"
    with pytest.raises(ValueError, match="no labels for a classifier to learn"):
        features_of("classifier", points)
    with pytest.raises(ValueError, match="features must be one of classifier, random, raw, got 'inception'"):
        features_of("inception", DIGITS)


# judges ---------------------------------------------------------------------------------------------------------------


def rows(n, shift, seed):
    return shift + torch.randn(n, 1, generator=generator(seed))


def test_a_fresh_judge_of_two_gaussians_one_apart():
    """The best is right with probability Phi(1/2), and its AUC is Phi(1 / sqrt 2), the latter wherever its threshold
    stands after its last batches: n = 4,000 tried, within 4 standard errors and a percent that a network loses."""
    found = judge((rows(4000, 0, 0), rows(2000, 0, 1)), (rows(4000, 1, 2), rows(2000, 1, 3)), steps=200)
    best = norm.cdf(0.5)
    assert found.accuracy.value == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 4000) + 0.01)
    assert found.auc.value == pytest.approx(norm.cdf(0.5**0.5), abs=4 * found.auc.stderr)
    assert (found.accuracy.n, found.auc.n, found.seen) == (4000, 4000, 4000)
    assert found.steps[0] == 1
    assert found.steps[-1] == 200
    assert len(found.curve) == len(found.steps)
    assert found.curve[-1] == found.accuracy.value


def test_a_fresh_judge_of_equals_and_of_strangers():
    same = judge((rows(300, 0, 0), rows(2000, 0, 1)), (rows(300, 0, 2), rows(2000, 0, 3)), steps=50)
    assert same.accuracy.value == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 4000))
    far = judge((rows(300, 0, 0), rows(200, 0, 1)), (rows(300, 9, 2), rows(200, 9, 3)), steps=50, seed=1)
    assert (far.accuracy.value, far.auc.value) == (1, 1)
    again = judge((rows(300, 0, 0), rows(200, 0, 1)), (rows(300, 9, 2), rows(200, 9, 3)), steps=50, seed=1)
    assert far == again
    with pytest.raises(ValueError, match=r"as many of each, got \[3, 2\] and \[3, 3\]"):
        judge((rows(3, 0, 0), rows(2, 0, 0)), (rows(3, 0, 0), rows(3, 0, 0)))


# the comparison -------------------------------------------------------------------------------------------------------


def test_everything_of_everyone(found):
    assert [c.name for c in found.contestants] == ["vae", "gan", "ddpm"]
    for c in found.contestants:
        assert set(c.metrics) == set(found.floor) == set(METRICS)
        assert all(math.isfinite(v.value) and v.stderr >= 0 for v in c.metrics.values())
        assert c.judgement.seen == found.judged_floor.seen
        assert c.judgement.accuracy.n == found.judged_floor.accuracy.n
        assert set(c.critics) == {"gan"}
        assert c.between.shape == (36, 1, 8, 8)
        assert c.cost.steps == 4
        assert torch.equal(DIGITS.settled(c.samples), c.samples)
    vae, gan, ddpm = found.contestants
    assert (vae.cost.evaluations, gan.cost.evaluations) == (1, 1)
    assert ddpm.cost.evaluations == 6  # steps; guided, with the class and without in one call
    assert gan.likelihoods == []
    assert [(v.kind, v.measure, v.mean) for v in vae.likelihoods] == [
        ("estimate", "mass", -99.0),
        ("lower bound", "mass", -101.0),
    ]
    assert found.floor["frechet"].value < min(c.metrics["frechet"].value for c in found.contestants)
    assert found.floor["copies"].value == pytest.approx(0.5, abs=4 * found.floor["copies"].stderr)
    assert found.judged_floor.accuracy.low < 0.5 < found.judged_floor.accuracy.high


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


def test_a_line_says_what_is_beyond_the_errors(found):
    plain = [
        replace(
            c,
            metrics={key: Value(1.0, 0.01 if key == "copies" else 0.1) for key in c.metrics},
            judgement=replace(c.judgement, auc=auc(torch.arange(9.0), torch.arange(9.0) + 2)),
            cost=replace(c.cost, milliseconds=1.0),
        )
        for c in found.contestants
    ]
    even = replace(found, contestants=plain)
    assert line(even, plain[0]) == "Apart from the others in nothing beyond the errors."
    close = replace(plain[0], metrics=plain[0].metrics | {"frechet": Value(0.75, 0.1)})
    assert "Apart" in line(replace(found, contestants=[close, *plain[1:]]), close)
    changed = {
        "frechet": Value(0.5, 0.1),
        "sharpness": Value(0.1, 0.1),
        "precision": Value(0.5, 0.1),
        "copies": Value(0.9, 0.001),
    }
    better = replace(plain[0], metrics=plain[0].metrics | changed, cost=replace(plain[0].cost, milliseconds=50.0))
    uneven = replace(found, contestants=[better, *plain[1:]])
    assert line(uneven, better) == (
        "Best at: Frechet distance (0.5), neither copying nor straying (0.9). "
        "Worst at: precision (0.5), sharpness (0.1), time to draw (50 ms a sample)."
    )


def test_a_mass_is_never_ranked_against_a_density(found):
    said = [
        [Likely("a", -5.0, 0.1, "estimate", "mass", 64), Likely("b", 9.0, 0.1, "exact", "density", 64)],
        [Likely("c", -3.0, 0.1, "lower bound", "mass", 64)],
    ]
    contestants = [replace(c, likelihoods=v) for c, v in zip(found.contestants, said, strict=False)]
    names = {m: [row[1] for row in likelihood_table(contestants, m).rows] for m in ("mass", "density")}
    assert names == {"mass": ["c", "a"], "density": ["b"]}
    assert bits(Likely("a", -64 * math.log(2), 0, "exact", "mass", 64)) == pytest.approx(1.0)


def test_the_page_stands_alone(found, tmp_path):
    write_comparison(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 4 + 3  # real data and three, then three with ways between
    assert page.count("<svg") == 8 + 1
    for words in (
        found.features,
        "the critic of gan",
        "gan, ddpm: none",
        "the floor",
        "of copies, which training data are, for one half of the test data beside the other",
        "towards 1 for copies or for samples concentrated where data are dense",
        *(line(found, c) for c in found.contestants),
    ):
        assert words in page.replace("&#39;", "'")


def test_features_of_the_users_own(runs):
    found = compare([runs / "vae", runs / "gan"], n=60, judge_steps=2, features=lambda x: x.flatten(1)[:, 20:30])
    assert "classes" not in found.floor
    assert found.features == "features of the user's own"


def test_points_of_two_families(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "compared", partial(compare, judge_steps=5))
    words = ["compare", str(runs / "moons"), str(runs / "moons-2"), "-n", "60"]
    assert main([*words, "--html", str(tmp_path / "p.html"), "--json", str(tmp_path / "n.json")]) == 0
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["features"] == "the numbers themselves"
    assert {run["recipe"] for run in told["runs"]} == {"moons-score", "moons-diffusion"}
    assert "sharpness" not in told["floor"]
    assert (tmp_path / "p.html").read_text().count("data:image/png") == 3


def test_refusals(runs, tmp_path, capsys):
    vae, ink, moons = (str(runs / name) for name in ("vae", "ink", "moons"))
    refused(
        capsys,
        ["compare", vae, ink],
        "vae and ink cannot be compared: vae draws scikit-learn's digits, grey levels in [-1, 1]",
        "and ink draws scikit-learn's digits, ink in {0, 1}",
    )
    refused(capsys, ["compare", vae, moons], "cannot be compared", "(1, 8, 8)", "(2,)")
    refused(capsys, ["compare", vae], "at least two runs to compare, got 1")
    refused(capsys, ["compare", vae, str(Path(vae) / ".." / "vae")], "cannot be compared with itself")
    refused(capsys, ["compare", vae, str(tmp_path / "none")], "there is no run folder")
    refused(capsys, ["compare", vae, ink, "--html", str(tmp_path / "page.txt")], "must end in .html")
    gan = str(runs / "gan")
    refused(capsys, ["compare", vae, gan, "-n", "39"], "n must be from 40 to the 1437 training data", "got 39")
    refused(capsys, ["compare", vae, gan, "--features", "inception"], "features must be one of")
    (runs / "ddpm" / "evaluation.json").write_text('{"dims": 64}')
    refused(capsys, ["compare", vae, str(runs / "ddpm"), "-n", "40"], "evaluation.json is broken or of another version")
    (runs / "ddpm" / "evaluation.json").unlink()
