"""Judges of models with latents, on models whose likelihoods, gaps and codes are known."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributions import Categorical, kl_divergence

from gaussians import draws, hierarchy, linear
from jensen.core.protocols import Coding
from jensen.core.seeding import drawing, generator
from jensen.data.dataset import Data, Truths
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.distributions import (
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    GaussianPrior,
    IsotropicGaussian,
    OneHotLogits,
)
from jensen.judging import likelihood as likelihoods
from jensen.judging.case import Case, drawer
from jensen.judging.latents import collapse, interpolations, reconstructions, traversals
from jensen.judging.settings import Judging
from jensen.models import HVAE, VAE, Autoencoder, traversal
from jensen.recipes.words import changed, preset
from jensen.report.findings import Evaluation
from jensen.report.gallery import gallery
from jensen.runs.preview import preview as save_preview
from jensen.variational import Estimate, GaussianMixtureVI, LinearGaussian, MixturePrior

F64 = torch.float64
WEIGHT, BIAS, NOISE = torch.tensor([[1.0], [-0.5], [2.0]], dtype=F64), torch.tensor([0.1, 0.2, -0.3], dtype=F64), 0.3
ORACLE = LinearGaussian(WEIGHT, BIAS, NOISE)


def data_of(x, space=None, train=None, **more):
    cond = more.pop("cond", None)
    rows = Tensors(x=x) if cond is None else Tensors(x=x, cond=cond)
    return Data("test data", "0", space or Space(tuple(x.shape[1:])), train or rows, rows, **more)


def case_of(model, data, **settings):
    return Case(model, data, draw=None, settings=Judging(**{"importance": 400, "refine_rows": 20, **settings}))


def linear_vae(shift=0.0):
    """One latent; the encoder is the posterior with its mean shifted by `shift`."""
    precision = 1 + float(WEIGHT.square().sum()) / NOISE
    slope = WEIGHT.T / NOISE / precision
    log_std = torch.tensor([-0.5 * math.log(precision)], dtype=F64)
    encoder = linear(
        torch.cat([slope, torch.zeros(1, 3, dtype=F64)]),
        torch.cat([shift - slope @ BIAS, log_std]),
        DiagonalGaussian(min_std=1e-9, max_std=1e9),
    )
    return VAE(encoder, linear(WEIGHT, BIAS, IsotropicGaussian(NOISE**0.5).double()), GaussianPrior(1).double())


# likelihoods --------------------------------------------------------------------------------------------------------


def test_an_exact_encoder_leaves_no_gap_and_no_noise():
    """All weights are p(x): log p, bound and gap to 1e-6; the standard error is over the data only."""
    x, train = ORACLE.sample(40, generator=generator(0)), ORACLE.sample(60, generator=generator(1))
    case = case_of(
        linear_vae(), data_of(x, train=Tensors(x=train), truths=Truths(log_p=lambda x, _: ORACLE.log_prob(x)))
    )
    found = Evaluation([likelihoods.likelihood(case), likelihoods.posterior_gap(case)])
    exact = ORACLE.log_prob(x)
    for key in ("log_p", "elbo", "log_p_data"):
        assert found[key].value == pytest.approx(float(exact.mean()), abs=1e-6)
        assert found[key].stderr == pytest.approx(float(exact.std()) / 40**0.5, rel=1e-5)
    assert found["log_p"].floor == found["log_p_data"].value
    assert found["log_p"].facts == {"kind": "estimate", "measure": "density", "dims": 3}
    assert found["elbo"].facts["kind"] == "lower bound"
    assert "bits_per_dim" not in found  # for a density, bits per dimension depend on its units
    assert found["effective_samples"].value == pytest.approx(400, rel=1e-6)
    assert found["unreliable"].value == 0
    for key in ("gap", "gap_approximation", "gap_amortization", "gap_left"):
        assert found[key].value == pytest.approx(0, abs=1e-4)
    few = {tuple(row) for row in train.tolist()}
    chosen = [row for row in likelihoods.some(case.data.train, 40)["x"].tolist() if tuple(row) in few]
    assert found["log_p_training"].value == pytest.approx(
        float(ORACLE.log_prob(torch.tensor(chosen, dtype=F64)).mean())
    )


def test_a_wrong_encoder_loses_what_its_divergence_says():
    """Its mean is off by 0.1: KL(q

    posterior) is 0.1^2 / 2 times the precision, entirely amortization gap.
    """
    x, model = ORACLE.sample(40, generator=generator(0)), linear_vae(0.1)
    lost = 0.1**2 / 2 * (1 + float(WEIGHT.square().sum()) / NOISE)
    assert float(ORACLE.kl(model.encoder(x), x).detach().mean()) == pytest.approx(lost)
    case = case_of(model, data_of(x))
    found = Evaluation([likelihoods.likelihood(case), likelihoods.posterior_gap(case)])
    noise = {key: float(found[key].note.split("error ")[1].split(";")[0]) for key in ("log_p", "elbo", "gap")}
    assert found["log_p"].value == pytest.approx(float(ORACLE.log_prob(x).mean()), abs=4 * noise["log_p"])
    assert found["elbo"].value == pytest.approx(float(ORACLE.log_prob(x).mean()) - lost, abs=4 * noise["elbo"])
    assert found["gap"].value == pytest.approx(lost, abs=4 * noise["gap"])
    assert found["gap_amortization"].value == pytest.approx(lost, abs=4 * noise["gap"])
    assert found["gap_approximation"].value == pytest.approx(0, abs=4 * noise["gap"])


def test_a_mixture_is_judged_by_its_exact_density_and_the_components_it_uses():
    """Three clusters and five components: three are used, each with a third of the data; the prior adds 1/5 of an
    observation to each component.
    """
    centres = 6 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=F64)
    x = (centres[:, None] + 0.3 * draws(3, 100, 2)).flatten(0, 1)
    model = GaussianMixtureVI(5, MixturePrior.around(x, 5))
    model.fit(x, generator=generator(0))
    case = case_of(model, data_of(x))
    found = Evaluation([likelihoods.likelihood(case), likelihoods.components(case)])
    assert found["log_p"].value == pytest.approx(float(model.log_prob(x).mean()))
    assert found["log_p"].facts["kind"] == "exact"
    assert {"elbo", "pareto_k", "effective_samples"} & set(found) == set()
    shares = torch.tensor([100.2] * 3 + [0.2] * 2, dtype=F64) / 301
    assert found["components"].value == pytest.approx(float(Categorical(shares).entropy().exp()), rel=1e-4)
    assert found["evidence_bound"].value == pytest.approx(float(model.elbo(x)) / 300)
    assert likelihoods.posterior_gap(case) is None


def test_every_log_p_without_an_error_is_counted():
    """Four examples: k above its limit, unknown k with few effective samples and with many, and a good k."""
    nan, inf = math.nan, math.inf
    columns = {"stderr": [inf, inf, 0.1, 0.2], "ess": [1.0, 1.0, 100.0, 2500.0], "pareto_k": [inf, nan, nan, 0.3]}
    found = Estimate(torch.zeros(4), "estimate", "mass", **{name: torch.tensor(v) for name, v in columns.items()})
    tails = likelihoods.tails(found, 5000)
    assert (tails["largest"], tails["limit"], tails["beyond"]) == (inf, 0.7, 2)
    none = Estimate(
        torch.zeros(1), "estimate", "mass", torch.tensor([inf]), ess=torch.ones(1), pareto_k=torch.tensor([nan])
    )
    assert likelihoods.tails(none, 50)["median"] is None
    assert [f.key for f in likelihoods.weights_found(none, 50)] == ["effective_samples", "unreliable"]


# latents ------------------------------------------------------------------------------------------------------------


def test_reconstructions_are_measured_on_held_out_data():
    """A linear autoencoder that encodes the first two of three numbers loses the square of the third, a third of the
    total.
    """
    keep = torch.eye(3, dtype=F64)[:2]
    encoder = nn.Linear(3, 2, bias=False).double()
    encoder.weight.data = keep
    model = Autoencoder(encoder, linear(keep.T, torch.zeros(3), IsotropicGaussian(1.0)), GaussianPrior(2).double())
    x = draws(50, 3)
    (finding,) = reconstructions(case_of(model, data_of(x))).findings
    assert finding.value == pytest.approx(float(x[:, 2].square().mean()) / 3)
    assert collapse(case_of(model, data_of(x))) is None
    assert likelihoods.likelihood(case_of(model, data_of(x))) is None


class OneAxis:
    """Reads pictures of 1 x 1 x 3 by the sign of their first number."""

    clear_means = "not asked"

    def read(self, x):
        return (x[:, 0, 0, :1] > 0).long()


def test_collapse_has_the_closed_forms_of_its_layer():
    x, model = ORACLE.sample(200, generator=generator(0)), linear_vae()
    (part,) = [collapse(case_of(model, data_of(x)))]
    found = Evaluation([part])
    exact = kl_divergence(model.encoder(x), model.prior()).detach()
    assert found["kl"].value == pytest.approx(float(exact.mean()))
    assert found["kl"].stderr == pytest.approx(float(exact.std()) / 200**0.5)
    assert found["information"].value + found["aggregate_kl"].value == pytest.approx(float(exact.mean()), abs=0.2)
    assert found["active_units"].value == 1
    assert "accuracy_lost" not in found
    assert part.details["collapse"]["layers"][0]["verdict"] == "used"


def test_every_layer_has_keys_of_its_own_and_only_the_top_one_an_aggregate():
    model, oracle = hierarchy()
    found = Evaluation([collapse(case_of(model, data_of(oracle.sample(40, generator=generator(0)))))])
    names = ("active_units", "kl", "information", "log_px_lost")
    assert set(found) == {f"{name}_{k}" for name in names for k in (1, 2)} | {"aggregate_kl_2"}


def test_what_a_reader_reads_is_lost_without_the_latents():
    """The latent determines the sign that is read: half of the draws from the prior are read correctly, and nearly
    all from q.
    """
    x = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64).repeat(200, 1).view(400, 1, 1, 3)
    inside = nn.Sequential(nn.Flatten(), nn.Linear(3, 2).double())
    inside[1].weight.data = torch.tensor([[3.0, 0, 0], [0, 0, 0]], dtype=F64)
    inside[1].bias.data = torch.tensor([0.0, -3.0], dtype=F64)
    back = nn.Sequential(nn.Linear(1, 3).double(), nn.Unflatten(-1, (1, 1, 3)))
    back[0].weight.data, back[0].bias.data = torch.eye(3, 1, dtype=F64), torch.zeros(3, dtype=F64)
    model = VAE(
        Conditional(inside, DiagonalGaussian()),
        Conditional(back, IsotropicGaussian(0.5, event_dims=3)),
        GaussianPrior(1).double(),
    )
    labels = torch.tensor([0, 1]).repeat(200)[:, None]
    space = Space((1, 1, 3), cond=Classes(("left", "right")))
    data = data_of(x, space, cond=labels, truths=Truths(reader=OneAxis()))
    lost = Evaluation([collapse(case_of(model, data))])["accuracy_lost"]
    assert abs(lost.value - 0.5) < 4 * 0.5 / 400**0.5
    assert lost.form == "share"


# codes --------------------------------------------------------------------------------------------------------------


def gaussian(a, b):
    return Conditional(nn.Linear(a, 2 * b), DiagonalGaussian())


def one_hot():
    decoder = Conditional(nn.Sequential(nn.Flatten(-2), nn.Linear(12, 5)), IsotropicGaussian())
    return VAE(Conditional(nn.Linear(5, 12), OneHotLogits(3, 4)), decoder, CategoricalPrior(3, 4))


MODELS = {
    "one layer": lambda: VAE(gaussian(5, 4), gaussian(4, 5), GaussianPrior(4)),
    "two layers": lambda: HVAE([gaussian(5, 3), gaussian(3, 2)], [gaussian(3, 5), gaussian(2, 3)], GaussianPrior(2)),
    "one-hot": one_hot,
    "autoencoder": lambda: Autoencoder(nn.Linear(5, 4), gaussian(4, 5), GaussianPrior(4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_traversal_moves_one_coordinate_a_row(name):
    model = MODELS[name]().requires_grad_(False)
    x = draws(10, 5).to(next(model.parameters()).dtype)
    assert isinstance(model, Coding)
    with drawing(generator(0)):
        codes, again = model.codes(x), model.codes(x)
    assert torch.equal(codes, again) == (name != "two layers")  # its top layer depends on a draw
    rows, names = traversal(model, x, rows=2, steps=11)
    assert rows.shape == (2, 11, 5)
    assert len(names) == 2
    assert bool((rows.diff(dim=1).abs().sum(2) > 0).all())
    if name == "one-hot":
        torch.testing.assert_close(rows[:, 0], rows[:, 4])  # the fifth step is the first of four classes again
    elif name != "two layers":
        order = codes.std(0).argsort(descending=True)[:2]
        assert names == [f"coordinate {d + 1}" for d in order.tolist()]
        for row, d in zip(rows, order.tolist(), strict=True):
            ends = codes[0].repeat(2, 1)
            ends[:, d] = codes[:, d].mean() + 2.5 * codes[:, d].std() * torch.tensor([-1, 1])
            torch.testing.assert_close(row[[0, -1]], model.from_codes(ends), rtol=1e-5, atol=1e-5)
            step = row.diff(dim=0)  # the decoders are linear
            torch.testing.assert_close(step, step[:1].expand_as(step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["one layer", "two layers", "autoencoder"])
def test_ends_of_an_interpolation_are_draws_of_the_prior(name):
    model = MODELS[name]().requires_grad_(False)
    made, ends = model.interpolate(generator(3), generator(4), 5), []
    for seed in (3, 4):
        with drawing(generator(seed)):
            ends.append(model.prior().sample())
    torch.testing.assert_close(made[[0, -1]], model.from_codes(torch.stack(ends)), rtol=1e-5, atol=1e-5)
    if name == "two layers":  # every layer below at its mean
        top, first = model.decoders[1], model.decoders[0]
        torch.testing.assert_close(made[0], first(top(ends[0][None]).mean).mean[0])


def test_an_interpolation_on_a_line_is_straight_and_of_classes_there_is_none():
    model = linear_vae()
    made = model.interpolate(generator(0), generator(1), 6)
    torch.testing.assert_close(made.diff(dim=0), made.diff(dim=0)[:1].expand(5, 3))
    with pytest.raises(ValueError, match="no points between two classes"):
        one_hot().interpolate(generator(0), generator(1), 3)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        model.interpolate(generator(0), generator(1), 1)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_points_are_drawn(name):
    model = MODELS[name]().requires_grad_(False)
    case = case_of(model, data_of(draws(20, 5).to(next(model.parameters()).dtype)))
    for judge in (reconstructions, traversals):
        assert [picture.image.size for picture in judge(case).pictures] == [(667, 667)]  # pairs of columns
    assert (interpolations(case) is None) == (name == "one-hot")


def test_previews_of_a_decoder_of_levels_show_means_below_draws(tmp_path):
    recipe = changed(preset("digits-vae"), ["network.hidden=8", "network.latents=[2]"])
    space = Space((1, 4, 4), 2)
    data = data_of(torch.ones(4, 1, 4, 4), space)
    torch.manual_seed(0)
    model = recipe.family.model(space).eval()
    save_preview(recipe, model, data, tmp_path / "p.png")
    draw = drawer(model, space, recipe.seed)
    shown = torch.cat([draw(32), draw(32, mean=True)])
    assert 0 < shown[32:].abs().max() < 1  # means of black and white are grey
    assert shown[:32].abs().min() == 1
    assert Image.open(tmp_path / "p.png").tobytes() == gallery(shown, columns=16, scale=4).tobytes()
