"""The settings of variational autoencoders: combinations, errors, warnings, training."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import OneHotCategorical

from jensen.cli.main import main
from jensen.core.objective import partition
from jensen.core.seeding import drawing, generator
from jensen.data.space import Classes, Space
from jensen.distributions.measure import measure
from jensen.models import HVAE, AutoDecoder, LadderVAE
from jensen.recipes.decoders import Decoder
from jensen.recipes.families.autoencoder import Autoencoder, Narrow
from jensen.recipes.families.vae import VAE, Bound, Network
from jensen.recipes.settings import Training
from jensen.runs.opening import open_run
from jensen.variational import Constraint, Penalized, Relaxation, elbo, iwae
from test_cli import refused
from tiny import tiny

INK = Space((1, 4, 5), 2, rows=30, cond=Classes(("a", "b")))
GREY = Space((3, 4, 5), 17, rows=30)
POINTS = Space((2,), None, mean=5.0, std=20.0, rows=30)
SPACES = pytest.mark.parametrize("space", [INK, GREY, POINTS], ids=["two levels", "17 levels", "points"])
TRAINING = Training(steps=4, warmup=1)


def small(**more):
    return Network(hidden=8, depth=1, **more)


# what composes ------------------------------------------------------------------------------------------------------


def test_settings_multiply():
    """All combinations of beta, free bits and warm-up; the other settings alone."""
    assert Bound().function() is elbo
    assert Bound(name="iwae").function() is iwae
    assert isinstance(Bound(kl_limit=3.0).function(), Constraint)
    assert Bound(beta=4.0).function() == Penalized(4.0)
    assert Bound(free_bits=0.5).function() == Penalized(1.0, 0.5, "layer")
    both = Bound(beta=4.0, free_bits=0.5, free_bits_per="dimension")
    assert both.function() == Penalized(4.0, 0.5, "dimension")
    for more, weight in (({}, 0.25), ({"beta": 4.0}, 1.0)):
        warm = Bound(warm="linear", warm_steps=200, free_bits=0.5, **more).function()
        assert warm.at(50) == Penalized(weight, 0.5, "layer")
        assert warm.at(900) == Penalized(4 * weight, 0.5, "layer")
    assert Bound(warm="cyclical", beta=2.0).function().at(250) == Penalized(1.0)


def test_a_relaxation_cools():
    relaxed = Bound(relaxation="concrete", temperature=1.0, coldest=0.25, cooling_steps=100).relaxed()
    assert isinstance(relaxed, Relaxation)
    assert [relaxed.at(step) for step in (0, 50, 100, 500)] == pytest.approx([1.0, 0.5, 0.25, 0.25])
    assert Bound().relaxed() is None


# what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "iwae", "beta": 2.0}, "bound.name iwae cannot be combined with bound.beta: choose one"),
        ({"name": "iwae", "free_bits": 2.0}, "bound.name iwae cannot be combined with bound.free_bits"),
        ({"name": "iwae", "kl_limit": 2.0}, "bound.name iwae cannot be combined with bound.kl_limit"),
        ({"kl_limit": 2.0, "warm": "linear"}, "bound.kl_limit cannot be combined with bound.warm"),
        ({"free_bits_per": "dimension"}, "bound.free_bits_per is not used without bound.free_bits, got"),
        ({"warm_steps": 50}, "bound.warm_steps is not used without bound.warm, got"),
        ({"temperature": 2.0}, "bound.temperature is not used without bound.relaxation, got"),
        ({"coldest": 0.1}, "bound.coldest is not used without bound.relaxation, got"),
        ({"gradient": "dreg"}, "dreg needs bound.name iwae"),
        ({"gradient": "stl", "free_bits": 1.0}, "stl is biased under bound.free_bits"),
        ({"relaxation": "concrete", "temperature": 0.2}, "coldest must be at most bound.temperature, 0.2, got 0.5"),
        ({"relaxation": "concrete", "gradient": "score"}, "must be standard with a bound.relaxation"),
        ({"relaxation": "straight-through", "name": "iwae"}, "needs bound.name elbo"),
        ({"relaxation": "gumbel-softmax", "gradient": "stl"}, "needs bound.name elbo and bound.gradient standard"),
    ],
)
def test_what_does_nothing_or_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Bound(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


CATEGORICAL = {"latent": "categorical"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bound": {"relaxation": "concrete"}}, "bound.relaxation needs categorical latents"),
        ({"network": {"classes": 5}}, "network.classes is not used by Gaussian latents, got 5"),
        ({"network": {"std": 0.5}}, "network.std is not used by network.noise predicted, got 0.5"),
        ({"network": {"direction": "ladder"}}, "at least two layers in network.latents"),
        (
            {"network": {"latents": (4, 4), **CATEGORICAL}},
            "network.latents must have one layer for categorical latents",
        ),
        (
            {"network": CATEGORICAL, "bound": {"gradient": "stl"}},
            "needs Gaussian latents, or bound.relaxation concrete",
        ),
        (
            {"network": CATEGORICAL},
            "bound.samples must be at least 2 for categorical latents without a bound.relaxation",
        ),
        (
            {"network": CATEGORICAL, "bound": {"samples": 2}, "prior": "learned"},
            "prior must be standard for categorical latents",
        ),
        ({"network": CATEGORICAL, "bound": {"samples": 2}, "inference": "per-datum"}, "needs network.latent gaussian"),
        ({"network": {"latents": (4, 4), "direction": "ladder"}, "inference": "per-datum"}, "has no encoder"),
        (
            {"network": {"latents": (4, 4), "direction": "ladder"}, "bound": {"name": "iwae", "gradient": "dreg"}},
            "needs network.direction bottom-up",
        ),
    ],
)
def test_what_does_not_go_with_the_latents_is_refused(settings, message):
    with pytest.raises(ValueError) as error:
        VAE(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_does_not_go_with_the_data_is_refused():
    for family, space, message in (
        (VAE(network=small(noise="learned")), INK, "network.noise must be predicted for data of two levels"),
        (Autoencoder(network=Narrow(noise="fixed")), GREY, "network.noise fixed needs data without levels, got 17"),
        (VAE(), Space((1, 4, 4), b=INK), "family vae needs data with one side"),
    ):
        with pytest.raises(ValueError, match=message):
            family.refuse(space, TRAINING)
    with pytest.raises(ValueError, match=r"amount is not used without a corruption, got 0.5"):
        Autoencoder(amount=0.5)


def test_only_what_needs_care_is_said():
    for settings, said in (
        ({}, []),
        ({"beta": 4.0, "free_bits": 1.0}, []),
        ({"gradient": "score", "samples": 2}, []),
        ({"name": "iwae", "gradient": "stl"}, []),
        ({"name": "iwae", "gradient": "dreg", "samples": 5}, []),
        ({"gradient": "score"}, ["one draw and no baseline is unbiased, but its variance"]),
        ({"relaxation": "gumbel-softmax"}, ["gumbel-softmax raises no bound on log p(x)"]),
        ({"relaxation": "straight-through"}, ["straight-through raises the ELBO of the discrete model, by a biased"]),
    ):
        notes = Bound(**settings).notes()
        assert len(notes) == len(said)
        assert all(part in note for part, note in zip(said, notes, strict=True))


# what trains --------------------------------------------------------------------------------------------------------


FAMILIES = {
    "plain": (VAE(network=small(latents=(3,))), {"model"}),
    "learned prior": (VAE(network=small(latents=(3,)), prior="learned"), {"model"}),
    "two layers": (VAE(network=small(latents=(3, 2))), {"model"}),
    "ladder": (VAE(network=small(latents=(3, 2), direction="ladder")), {"model"}),
    "categorical": (VAE(network=small(latents=(3,), latent="categorical"), bound=Bound(samples=2)), {"model"}),
    "relaxed": (
        VAE(network=small(latents=(3,), latent="categorical"), bound=Bound(relaxation="concrete", beta=2.0)),
        {"model"},
    ),
    "constrained": (VAE(network=small(latents=(3,)), bound=Bound(kl_limit=2.0)), {"model", "multiplier"}),
    "dreg": (
        VAE(network=small(latents=(3,)), bound=Bound(name="iwae", samples=3, gradient="dreg")),
        {"model", "encoder"},
    ),
    "per datum": (VAE(network=small(latents=(3, 2)), inference="per-datum"), {"model", "posterior"}),
    "autoencoder": (Autoencoder(network=Narrow(hidden=8, depth=1, latents=3)), {"model"}),
    "denoising": (Autoencoder(network=Narrow(hidden=8, depth=1, latents=3), corruption="mask"), {"model"}),
}


@SPACES
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_on_every_kind_of_data(name, space):
    """A step changes the parameters of all players; samples have the shape and the levels of the data."""
    family, names = FAMILIES[name]
    torch.manual_seed(0)
    family.refuse(space, TRAINING)
    model = family.model(space)
    objective = family.objective(model, space)
    players = family.players(objective, TRAINING, TRAINING.budget())
    assert set(players) == names == set(partition(objective))
    x = space.settled(space.mean + space.std * torch.randn(6, *space.shape))
    before = {name: [p.clone() for p in player.parameters] for name, player in players.items()}
    losses = objective(tuple(players), {"x": x, "index": torch.arange(6)}, 1)
    for player_name, player in players.items():
        grads = torch.autograd.grad(losses[player_name].total, player.parameters, retain_graph=True)
        for p, grad in zip(player.parameters, grads, strict=True):
            p.grad = grad
    for player_name, player in players.items():
        player.move(1)
        assert any(not torch.equal(a, b) for a, b in zip(before[player_name], player.parameters, strict=True))
    made = model.sample(5, generator=[generator(k) for k in range(5)])
    assert made.shape == (5, *space.shape)
    torch.testing.assert_close(space.settled(made), made)
    assert {key.removeprefix("model/") for key in family.curves()} & set(losses["model"].terms)


def test_what_a_family_builds():
    for settings, kind in (
        ({"network": small(latents=(3, 2))}, HVAE),
        ({"network": small(latents=(3, 2), direction="ladder")}, LadderVAE),
        ({"network": small(), "inference": "per-datum"}, AutoDecoder),
    ):
        assert isinstance(VAE(**settings).model(INK), kind)
    learned = VAE(network=small(), prior="learned").model(INK)
    assert {name for name, _ in learned.prior.named_parameters()} == {"mean", "log_std"}
    one = VAE(network=small(), bound=Bound(kl_limit=1.0))
    rated = TRAINING.model_copy(update={"rates": {"multiplier": 0.5}})
    for training, rate in ((TRAINING, 1e-2), (rated, 0.5)):
        player = one.players(one.objective(one.model(INK), INK), training, training.budget())["multiplier"]
        assert [player.rate(step) for step in (0, 3)] == [rate, rate]


def test_the_distribution_of_x_is_the_spaces():
    """Probabilities for levels, densities for points; a fixed, a shared and a predicted scale."""
    for noise in ("predicted", "learned"):
        decoder = Decoder(hidden=8, noise=noise).of_x(GREY, 3)
        law = decoder(torch.randn(6, 2, 3))
        assert (measure(law), law.batch_shape, law.event_shape) == ("mass", (6, 2), GREY.shape)
        scale = law.base_dist.scale.flatten(0, 1)
        assert bool((scale == scale[0]).all()) == (noise == "learned")
        parameters, law = Decoder(noise=noise).law(GREY)
        if noise == "learned":
            law.raw.data.fill_(-50.0)
        least = law(torch.full((1, 3 * parameters, 4, 5), -50.0)).base_dist.scale
        torch.testing.assert_close(least, torch.full_like(least, 0.02))  # 0.16 of a step of 1/8
    fixed = Decoder(hidden=8, noise="fixed", std=0.7).of_x(POINTS, 3)(torch.randn(4, 3))
    assert measure(fixed) == "density"
    torch.testing.assert_close(fixed.stddev, torch.full((4, 2), 0.7))
    assert measure(Decoder(hidden=8).of_x(INK, 3)(torch.randn(4, 3))) == "mass"


@pytest.mark.parametrize("noise", ["predicted", "learned"])
def test_points_are_modelled_in_their_own_units(noise):
    """A model of x = 5 + 20 u has the log density of a model of u minus log 20 per dimension, and its means are 20
    times as large.
    """
    u, found = torch.randn(6, 2, generator=generator(0)), []
    for space in (POINTS, Space((2,), None)):
        torch.manual_seed(0)
        model = VAE(network=small(latents=(3,), noise=noise)).model(space)
        x = space.mean + space.std * u
        with drawing(generator(1)):
            found.append((elbo(model.trace(x)), (model.codes(x), model.reconstruct(x))))
    torch.testing.assert_close(found[0][0], found[1][0] - 2 * math.log(20), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0][1][0], found[1][1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1][1], 5 + 20 * found[1][1][1], rtol=1e-4, atol=1e-3)


# from the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words", "terms", "said"),
    [
        (
            "digits-categorical",
            ["bound.relaxation=concrete", "bound.samples=1", "bound.free_bits=0.1", "bound.free_bits_per=dimension"],
            {"relaxed_elbo", "temperature"},
            "concrete raises a bound on log p(x) of the relaxed model, not of the discrete model",
        ),
        (
            "digits-vae",
            ["bound.name=iwae", "bound.samples=3", "bound.gradient=stl"],
            {"elbo"},
            "sticking the landing is biased for the encoder under IWAE with 3 draws",
        ),
    ],
)
def test_what_a_bound_is_stands_before_training_and_in_the_report(tmp_path, capsys, name, words, terms, said):
    """The evaluation uses the model itself, with one-hot latents instead of relaxed ones."""
    out, settings = tmp_path / "run", [part for word in words for part in ("--set", word)]
    assert main(["train", name, "--out", str(out), "--steps", "4", *tiny(name), *settings]) == 0
    assert capsys.readouterr().err.startswith(f"jensen: {said}")
    assert said[1:] in (out / "report.html").read_text().replace("&#39;", "'")
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert terms <= set(lines[-1])
    assert {"elbo", "relaxed_elbo", "no_bound"} & set(lines[-1]) <= terms
    model = open_run(out).model
    if name == "digits-categorical":
        laws = model.encoder(1 - 2 * torch.rand(2, 1, 8, 8).round())
        assert isinstance(laws.base_dist, OneHotCategorical)
        assert not laws.has_rsample
        assert "--interpolate" not in (out / "report.html").read_text()
        refused(capsys, ["sample", str(out), "--interpolate", "5"], "there are no points between two classes")


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("digits-vae", ["bound.beta=2", "bound.kl_limit=1"], "bound.kl_limit cannot be combined with bound.beta"),
        ("digits-vae", ["bound.samples=0"], "bound.samples must be at least 1, got 0"),
        ("digits-vae", ["network.direction=ladder"], "at least two layers in network.latents"),
        (
            "digits-vae",
            ["network.latent=categorical"],
            "bound.samples must be at least 2 for categorical latents without a bound.relaxation",
        ),
        ("digits-vae", ["network.noise=learned"], "must be predicted for data of two levels"),
        ("digits-svi", ["training.rates.encoder=0.1"], "training.rates must name players, model, posterior"),
        ("digits-vae", ["judging.critic_steps=5"], "judging.critic_steps is not used by family vae"),
        ("moons-mixture", ["training.steps=5"], "set training.steps to 1"),
        ("digits-vae", ["bound.betta=5"], "did you mean 'bound.beta'?"),
    ],
)
def test_wrong_settings(capsys, tmp_path, name, words, part):
    settings = [word for pair in words for word in ("--set", pair)]
    refused(capsys, ["train", name, "--out", str(tmp_path / "x"), *settings], part)
    assert not (tmp_path / "x").exists()
