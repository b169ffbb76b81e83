"""The settings of a variational recipe's bound: what they compose to, what is refused, what is said."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from torch.distributions import OneHotCategorical

from jensen.cli.main import main
from jensen.recipes import configure, open_run
from jensen.recipes.latent import LatentBound
from jensen.recipes.settings import explain
from jensen.variational import Constraint, Penalized, Relaxation, elbo, iwae

TINY = {
    "network.hidden": 16,
    "judging.samples": 20,
    "judging.rows": 12,
    "judging.refine_rows": 4,
    "judging.refine_steps": 5,
    "training.batch_size": 8,
    "training.previews": 1,
    "training.log_every": 2,
}


def words_of(settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def test_settings_multiply():
    """Beta, free bits and warm-up in every combination; the others are alone."""
    assert LatentBound().function() is elbo
    assert LatentBound(name="iwae").function() is iwae
    assert isinstance(LatentBound(kl_limit=3.0).function(), Constraint)
    assert LatentBound(beta=4.0).function() == Penalized(4.0)
    assert LatentBound(free_bits=0.5).function() == Penalized(1.0, 0.5, "layer")
    both = LatentBound(beta=4.0, free_bits=0.5, free_bits_per="dimension")
    assert both.function() == Penalized(4.0, 0.5, "dimension")
    for more, weight in (({}, 0.25), ({"beta": 4.0}, 1.0)):
        warm = LatentBound(warm="linear", warm_steps=200, free_bits=0.5, **more).function()
        assert warm.at(50) == Penalized(weight, 0.5, "layer")
        assert warm.at(900) == Penalized(4 * weight, 0.5, "layer")
    assert LatentBound(warm="cyclical", beta=2.0).function().at(250) == Penalized(1.0)


def test_a_relaxation_cools():
    relaxed = LatentBound(relaxation="concrete", temperature=1.0, coldest=0.25, cooling_steps=100).relaxed()
    assert isinstance(relaxed, Relaxation)
    assert [relaxed.at(step) for step in (0, 50, 100, 500)] == pytest.approx([1.0, 0.5, 0.25, 0.25])
    assert LatentBound().relaxed() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "iwae", "beta": 2.0}, "bound.name iwae does not go with bound.beta: choose one"),
        ({"name": "iwae", "free_bits": 2.0}, "bound.name iwae does not go with bound.free_bits"),
        ({"name": "iwae", "kl_limit": 2.0}, "bound.name iwae does not go with bound.kl_limit"),
        ({"kl_limit": 2.0, "warm": "linear"}, "bound.kl_limit does not go with bound.warm"),
        ({"free_bits_per": "dimension"}, "bound.free_bits_per does nothing without bound.free_bits"),
        ({"warm_steps": 50}, "bound.warm_steps does nothing without bound.warm"),
        ({"temperature": 2.0}, "bound.temperature does nothing without bound.relaxation"),
        ({"coldest": 0.1}, "bound.coldest does nothing without bound.relaxation"),
        ({"gradient": "dreg"}, "dreg goes with bound.name iwae"),
        ({"gradient": "stl", "free_bits": 1.0}, "stl is biased under bound.free_bits"),
        ({"relaxation": "concrete", "temperature": 0.2}, "coldest must be at most bound.temperature, 0.2, got 0.5"),
        ({"relaxation": "concrete", "gradient": "score"}, "gives draws a path"),
        ({"relaxation": "straight-through", "name": "iwae"}, "goes with bound.name elbo"),
        ({"relaxation": "gumbel-softmax", "gradient": "stl"}, "goes with bound.name elbo, bound.gradient standard"),
    ],
)
def test_what_does_nothing_or_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValidationError) as error:
        LatentBound(**settings)
    assert message in explain(error.value)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("digits-vae", ["bound.relaxation=concrete"], "bound.relaxation is of categorical latents"),
        ("digits-vae", ["network.classes=5"], "network.classes is of categorical latents"),
        ("digits-categorical", ["bound.gradient=stl"], "needs Gaussian latents, or bound.relaxation concrete"),
        ("digits-categorical", ["bound.samples=1"], "bound.samples of at least 2"),
    ],
)
def test_what_does_not_go_with_the_latents_is_refused(recipe, words, message):
    with pytest.raises(ValueError, match=message):
        configure(recipe, words)
    configure("digits-categorical", ["bound.samples=1", "bound.relaxation=concrete", "bound.gradient=stl"])


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
        notes = LatentBound(**settings).notes()
        assert len(notes) == len(said)
        assert all(part in note for part, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("recipe", "settings", "terms", "said"),
    [
        (
            "digits-categorical",
            {
                "bound.relaxation": "concrete",
                "bound.samples": 1,
                "bound.free_bits": 0.1,
                "bound.free_bits_per": "dimension",
            },
            {"relaxed_elbo", "temperature"},
            "concrete raises a bound on log p(x) of the relaxed model, not of the discrete one",
        ),
        (
            "digits-vae",
            {"bound.name": "iwae", "bound.samples": 3, "bound.gradient": "stl"},
            {"elbo"},
            "sticking the landing is biased for the encoder under IWAE with 3 draws",
        ),
    ],
)
def test_what_a_bound_is_stands_before_training_and_in_the_report(tmp_path, capsys, recipe, settings, terms, said):
    """And in the rows after the evaluation, which is of the model itself: its latents are one-hot, not relaxed."""
    out = tmp_path / "run"
    assert main(["train", recipe, "--out", str(out), "--steps", "4", *words_of(TINY | settings)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"note: {said}")
    assert printed.count(said) == 2
    assert said[1:] in (out / "report.html").read_text().replace("&#39;", "'")
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert terms <= set(lines[-1])
    assert {"elbo", "relaxed_elbo", "no_bound"} & set(lines[-1]) <= terms
    made, model = open_run(out)
    if made.network.kind == "categorical":
        laws = model.encoder(made.pictures()[1][:2])
        assert isinstance(laws.base_dist, OneHotCategorical)
        assert not laws.has_rsample
