"""`jensen evaluate RUN --stability`: the game of a run, with its trained weights and its own training step."""

from __future__ import annotations

import pytest
import torch

from jensen.adversarial import stability
from jensen.judging.stability import part
from jensen.objectives.adversarial import alternating
from jensen.runs.evaluate import case_of, evaluate
from jensen.runs.opening import open_run
from jensen.runs.train import train
from test_gan import recipe

SMALL = {"width": 4, "critic_width": 4, "layers": 1, "critic_layers": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the ring, after 30 steps with three moves of the critic for each of the generator."""
    folder = tmp_path_factory.mktemp("runs") / "ring"
    made = recipe(SMALL, {"critic_steps": 3}, steps=30, rate=3e-3, rates={"critic": 2e-3}, previews=0)
    judging = made.judging.model_copy(update={"samples": 100, "critic_steps": 5})
    train(made.model_copy(update={"judging": judging}), folder)
    return folder


@pytest.fixture(scope="module")
def found(run):
    return evaluate(run, stability=True)


def game_of(run):
    opened = open_run(run)
    game = case_of(opened, opened.open_data()).game
    return game, next(game.stream(0))


def values(eigenvalues):
    return torch.tensor([[v.real, v.imag] for v in eigenvalues.tolist()])


def test_it_is_the_game_where_training_left_it(run, found):
    said = found.details["stability"]
    game, batch = game_of(run)
    flow = stability(game.objective, batch, seed=0, step=30)
    assert said["step"] == game.step == 30
    assert said["flow"]["complete"]
    seen = torch.tensor(said["flow"]["eigenvalues"])
    assert seen == pytest.approx(values(flow.eigenvalues), abs=1e-9)
    assert found["flow_leading"].value == pytest.approx(float(seen[:, 0].max()), abs=1e-6)
    assert found["flow_speed"].value > 0
    untrained = open_run(run).recipe.family
    torch.manual_seed(1)
    space = open_run(run).space
    fresh = stability(untrained.objective(untrained.model(space), space), batch, seed=0, step=0)
    assert not torch.allclose(values(fresh.eigenvalues), seen, atol=1e-3)


def test_the_step_is_the_runs_own(run, found):
    """Its order, 3:1, and its learning rates; alternating single moves is a different map."""
    said = found.details["stability"]["training"]
    assert (said["update"], said["step_size"]) == ("phases", {"generator": 0.003, "critic": 0.002})
    game, batch = game_of(run)
    own, other = (
        stability(game.objective, batch, alternating(n), step_size=said["step_size"], seed=0, step=30) for n in (3, 1)
    )
    seen = torch.tensor(said["eigenvalues"])
    assert seen == pytest.approx(values(own.eigenvalues), abs=1e-9)
    assert not torch.allclose(seen, values(other.eigenvalues), atol=1e-4)
    assert found["training_leading"].value == pytest.approx(float(seen.norm(dim=1).max()), abs=1e-6)


def test_the_page_shows_both_where_they_were_asked_for(run, found):
    page = (run / "report.html").read_text()
    for words in (
        "Stability",
        ": not an equilibrium; linearised: ",
        "eigenvalues of the flow",
        "of a training step",
    ):
        assert words in page
    assert "flow_leading" not in evaluate(run)
    assert "eigenvalues of the flow" not in (run / "report.html").read_text()


def test_in_words():
    way = {
        "verdict": "undecided",
        "complete": False,
        "converged": False,
        "eigenvalues": [[-1.0, 2.0], [-1.0, -2.0]],
        "leading": -1.0,
        "weights": 1234,
        "speed": 0.5,
        "tolerance": 1e-6,
        "step_size_below": None,
        "products": 77,
    }
    settled = way | {
        "verdict": "not an equilibrium; linearised: converges linearly",
        "complete": True,
        "converged": True,
        "step_size_below": 0.25,
    }
    said = part({"flow": settled, "training": way}, 64, 5)
    for words in ("one batch of 64", "1,234 weights: undecided", "largest real part -1, of all", "0.25 would converge"):
        assert words in said.text
    assert "largest modulus -1, the decisive ones were not found, of 2 found in 77 products" in said.text
    assert "The flow, with 1,234 weights: not an equilibrium; linearised: converges linearly" in said.text
    assert len(said.plots) == 2
    by_key = {finding.key: finding for finding in said.findings}
    assert by_key["flow_step_size"].value == 0.25
    assert "training_step_size" not in by_key
    assert by_key["training_leading"].note == "undecided; 2 found in 77 products"
    refused = part({"flow": {"refused": "the vector field jumps here"}, "training": way}, 64, 5)
    assert "The flow: the vector field jumps here." in refused.text
    assert len(refused.plots) == 1
    assert not [finding for finding in refused.findings if finding.key.startswith("flow")]
