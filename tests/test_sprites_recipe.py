"""Disentanglement of codes with known scores, and a run on sprites that is judged by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import jensen
from jensen.distributions import BinaryLogits, Conditional, DiagonalGaussian, GaussianPrior
from jensen.judging.case import Case
from jensen.judging.factors import disentanglement
from jensen.judging.settings import Judging
from jensen.models import VAE
from jensen.recipes.families import vae
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.sprites import Sprites
from jensen.report.findings import Evaluation
from jensen.runs.evaluate import evaluate
from jensen.runs.train import train

SOURCE = Sprites(scales=2, orientations=2, positions=4, test=40)
SCORES = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae")


@pytest.fixture(scope="module")
def data():
    """A grid of factors whose pictures all differ, so that a picture determines its factors."""
    found = SOURCE.open(0)
    x = found.truths.factors.x.flatten(1)
    assert len(x.unique(dim=0)) == len(x) == 3 * 2 * 2 * 4 * 4
    return found


class Lookup(nn.Module):
    """An encoder that looks up the code of a picture, (means, log variances)."""

    def __init__(self, pictures: Tensor, codes: Tensor):
        super().__init__()
        self.pictures, self.codes = pictures.flatten(1), codes.float()

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cdist(x.flatten(1), self.pictures).argmin(1)
        return torch.cat([self.codes[found], torch.zeros(len(x), self.codes.shape[1])], 1)


def judged(data, codes):
    """The judgement of a VAE with these posterior means, one row per picture of the grid."""
    x = data.truths.factors.x
    decoder = nn.Sequential(nn.Linear(codes.shape[1], x[0].numel()), nn.Unflatten(-1, x.shape[1:]))
    model = VAE(
        Conditional(Lookup(x, codes), DiagonalGaussian()),
        Conditional(decoder, BinaryLogits(3)),
        GaussianPrior(codes.shape[1]),
    )
    return disentanglement(Case(model, data, draw=None))


def test_one_latent_a_factor_scores_one(data):
    """Scaled, negated and permuted factors plus two constant latents: all scores are 1."""
    factors = data.truths.factors.values
    codes = torch.zeros(len(factors), 7)
    codes[:, [4, 0, 6, 2, 3]] = factors * torch.tensor([-0.5, 1.5, 2.0, -1.0, 0.3])
    part = judged(data, codes)
    found = Evaluation([part])
    assert [found[key].value for key in SCORES] == pytest.approx([1.0] * 5, abs=1e-6)
    assert [row["levels"] for row in part.details["factors"]] == [3, 2, 2, 4, 4]
    assert [row[2] for row in part.tables[0].rows] == ["5", "1", "7", "3", "4"]
    assert found["mig"].note.startswith("192 examples")


def test_factors_spread_over_latents_and_no_factors_score_less(data):
    """Each factor in two latents has no gap, but is predicted and held fixed; permuted codes score at chance."""
    factors = data.truths.factors.values
    twice = Evaluation([judged(data, torch.cat([factors, -factors], 1))])
    assert twice["mig"].value == pytest.approx(0, abs=1e-9)
    assert twice["dci_disentanglement"].value == pytest.approx(1, abs=1e-6)
    assert twice["factor_vae"].value == 1
    dealt = factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]
    part = judged(data, dealt)
    none = Evaluation([part])
    # I of independent codes of V levels is about (V - 1)^2 / 2N with N = 192: at most 0.024 nats of log 4
    assert none["mig"].value < 0.05
    chance = sum(1 / row["levels"] for row in part.details["factors"]) / 5
    assert none["dci_informativeness"].value < chance + 0.15  # 48 kept for each of five: 4 standard errors, 0.13
    assert none["factor_vae"].value < 0.5


def test_a_single_latent_cannot_be_compared(data):
    assert judged(data, data.truths.factors.values[:, :1]) is None


def test_a_run_on_sprites_is_judged_by_its_factors(tmp_path):
    recipe = Recipe(
        name="sprites",
        data=SOURCE,
        family=vae.VAE(network=vae.Network(kind="mlp", latents=(10,), hidden=32, depth=1)),
        training=Training(steps=30, batch_size=16, log_every=10, previews=1),
        judging=Judging(samples=40, importance=20, rows=30, refine_rows=4, refine_steps=3),
    )
    train(recipe, tmp_path / "run")
    found = evaluate(tmp_path / "run")
    assert all(0 <= found[key].value <= 1 for key in SCORES)
    assert all(len(row["shares"]) == 10 for row in found.details["factors"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Disentanglement" in page
    assert "FactorVAE score" in page
    made = jensen.open(tmp_path / "run").interpolate(2, 5).x
    assert made.shape == (10, 1, 20, 20)
    assert bool((made.abs() <= 1).all())
