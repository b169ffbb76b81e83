"""The sprites' recipes: trained and judged from the command line, and scores that know the right answer."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jensen.cli.main import main
from jensen.distributions import BernoulliLogits, Conditional, DiagonalGaussian, GaussianPrior
from jensen.models import VAE
from jensen.recipes import configure

TINY = {
    "data.size": 12,
    "data.scales": 2,
    "data.orientations": 2,
    "data.positions": 4,
    "data.test": 40,
    "network.hidden": 32,
    "network.depth": 1,
    "judging.samples": 20,
    "judging.rows": 30,
    "judging.refine_rows": 4,
    "judging.refine_steps": 3,
    "training.batch_size": 16,
    "training.log_every": 10,
    "training.previews": 1,
}
WORDS = [f"{key}={value}" for key, value in TINY.items()]
SETTINGS = [word for setting in WORDS for word in ("--set", setting)]


def train(recipe, out, *more, steps=30):
    return main(["train", recipe, "--out", str(out), "--steps", str(steps), *SETTINGS, *more])


def scores(found):
    return [found["mig"], *found["dci"].values(), found["factor_vae"]["value"]]


@pytest.mark.parametrize("recipe", ["sprites-vae", "sprites-beta-vae"])
def test_trained_judged_and_drawn_from(tmp_path, capsys, recipe):
    out = tmp_path / "run"
    assert train(recipe, out) == 0
    printed = capsys.readouterr().out
    evaluation = json.loads((out / "evaluation.json").read_text())
    found = evaluation["disentanglement"]
    assert found["rows"] == 3 * 2 * 2 * 4 * 4
    assert all(0 <= score <= 1 for score in scores(found))
    assert f"{found['mig']:.3f}, 192 pictures" in printed
    assert f"{found['factor_vae']['value']:.3f}, [" in printed
    page = (out / "report.html").read_text()
    assert "Which latent stands for what" in page
    assert all(f"{value:.3f}</td>" in page for value in scores(found))
    assert [row["levels"] for row in found["factors"]] == [3, 2, 2, 4, 4]
    assert all(len(row["shares"]) == 10 for row in found["factors"])
    picture = tmp_path / "x.png"
    assert main(["sample", str(out), "-n", "4", "--out", str(picture)]) == 0
    assert len(set(Image.open(picture).convert("L").tobytes())) > 1
    assert main(["sample", str(out), "-n", "2", "--interpolate", "5", "--out", str(picture)]) == 0


class Reader(nn.Module):
    """Looks a picture up and says its code, (means, log variances)."""

    def __init__(self, pictures: Tensor, codes: Tensor):
        super().__init__()
        self.pictures, self.codes = pictures.flatten(1), codes.float()

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cdist(x.flatten(1), self.pictures).argmin(1)
        return torch.cat([self.codes[found], torch.zeros(len(x), self.codes.shape[1])], 1)


def coded(recipe, codes):
    """A VAE whose posterior means are these, one row a picture of the grid."""
    pictures, _ = recipe.data.grid()
    size = pictures[0].numel()
    decoder = nn.Sequential(nn.Linear(codes.shape[1], size), nn.Unflatten(-1, pictures.shape[1:]))
    return VAE(
        Conditional(Reader(pictures, codes), DiagonalGaussian()),
        Conditional(decoder, BernoulliLogits(event_dims=3)),
        GaussianPrior(codes.shape[1]),
    )


@pytest.fixture(scope="module")
def recipe():
    """A grid all of whose pictures differ, so that a picture tells its factors."""
    return configure("sprites-vae", ["data.scales=2", "data.orientations=2", "data.positions=4", "data.test=40"])


def test_one_latent_a_factor_scores_one(recipe):
    """Factors scaled, turned over and in another order, two latents that say nothing beside them: 1 by every score."""
    pictures, factors = recipe.data.grid()
    assert len(pictures.flatten(1).unique(dim=0)) == len(pictures)
    codes = torch.zeros(len(factors), 7)
    codes[:, [4, 0, 6, 2, 3]] = factors * torch.tensor([-0.5, 1.5, 2.0, -1.0, 0.3])
    found = recipe.disentanglement(coded(recipe, codes))
    assert scores(found) == pytest.approx([1.0] * 5, abs=1e-6)
    assert [max(range(7), key=f["shares"].__getitem__) for f in found["factors"]] == [4, 0, 6, 2, 3]


def test_factors_spread_over_latents_and_no_factors_score_less(recipe):
    """Each factor written twice has no gap, but is told and held; codes dealt out anew tell what chance tells."""
    _, factors = recipe.data.grid()
    twice = recipe.disentanglement(coded(recipe, torch.cat([factors, -factors], 1)))
    assert twice["mig"] == pytest.approx(0, abs=1e-9)
    assert twice["dci"]["disentanglement"] == pytest.approx(1, abs=1e-6)
    assert twice["factor_vae"]["value"] == 1
    dealt = factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]
    none = recipe.disentanglement(coded(recipe, dealt))
    # I of independent codes of V levels is about (V - 1)^2 / 2N with N = 192: at most 0.024 nats of log 4
    assert none["mig"] < 0.05
    chance = sum(1 / row["levels"] for row in none["factors"]) / 5
    assert none["dci"]["informativeness"] < chance + 0.15  # 48 pictures kept for each of five: 4 standard errors, 0.13
    assert none["factor_vae"]["value"] < 0.5


WRONG = [
    ("data.scales=1", ["'data.scales' got 1", "greater than or equal to 2"]),
    ("data.positions=21", ["'data.positions' got 21", "less than or equal to 20"]),
    ("network.latents=[1]", ["network.latents must end in 2 or more", "[1]"]),
]


@pytest.mark.parametrize(("word", "parts"), WRONG)
def test_wrong_settings_are_refused(capsys, tmp_path, word, parts):
    assert main(["train", "sprites-vae", "--out", str(tmp_path / "x"), "--set", word]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts)
    assert not (tmp_path / "x").exists()
