"""`jensen evaluate RUN --stability`: the game of the run, as training left it and as training plays it."""

from __future__ import annotations

import json

import pytest
import torch

from jensen.adversarial import stability
from jensen.cli.main import main
from jensen.objectives.adversarial import alternating
from jensen.recipes import open_run
from jensen.recipes.folder import load_game
from jensen.recipes.stability import rows, section
from test_gan import TINY

SMALL = ("network.width=8", "network.critic_width=8", "network.layers=1", "network.critic_layers=1")
OWN = (
    "game.critic_steps=3",
    "rates.generator=0.003",
    "rates.critic=0.002",
    "judging.samples=100",
    "judging.critic_steps=5",
    "training.previews=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `ring-gan` with three critic's moves for each of the generator's, asked whether it is stable."""
    folder = tmp_path_factory.mktemp("runs") / "ring"
    said = [w for word in (*TINY, *SMALL, *OWN) for w in ("--set", word)]
    assert main(["train", "ring-gan", "--out", str(folder), "--steps", "30", "--no-evaluate", *said]) == 0
    assert main(["evaluate", str(folder), "--stability"]) == 0
    return folder


def as_rows(found):
    return [[value.real, value.imag] for value in found.eigenvalues.tolist()]


def test_it_is_the_game_where_training_left_it(run):
    found = json.loads((run / "evaluation.json").read_text())["stability"]
    recipe, _ = open_run(run)
    torch.manual_seed(1)
    setting = recipe.setting(recipe.model())
    batch = next(setting.stream(0))
    untrained = stability(setting.objective, batch, seed=recipe.seed, step=0)
    assert load_game(setting.objective, run) == found["step"] == 30
    flow = stability(setting.objective, batch, seed=recipe.seed, step=30)
    assert found["flow"]["complete"]
    assert torch.tensor(found["flow"]["eigenvalues"]) == pytest.approx(torch.tensor(as_rows(flow)), abs=1e-9)
    assert not torch.allclose(torch.tensor(as_rows(untrained)), torch.tensor(as_rows(flow)), atol=1e-3)


def test_the_step_is_the_runs_own(run):
    """Its order, 3:1, its rates; alternating once each is another map."""
    found = json.loads((run / "evaluation.json").read_text())["stability"]["training"]
    assert (found["update"], found["step_size"]) == ("phases", {"generator": 0.003, "critic": 0.002})
    recipe, _ = open_run(run)
    setting = recipe.setting(recipe.model())
    load_game(setting.objective, run)
    batch = next(setting.stream(0))
    own, other = (
        stability(setting.objective, batch, alternating(n), step_size=found["step_size"], seed=recipe.seed, step=30)
        for n in (3, 1)
    )
    seen = torch.tensor(found["eigenvalues"])
    assert seen == pytest.approx(torch.tensor(as_rows(own)), abs=1e-9)
    assert not torch.allclose(seen, torch.tensor(as_rows(other)), atol=1e-4)


def test_the_page_shows_both(run):
    page = (run / "report.html").read_text()
    for part in (
        "Stability",
        ": not an equilibrium; linearised: ",
        "eigenvalues of the flow",
        "eigenvalues of its training",
        "--stability",
    ):
        assert part in page
    assert main(["evaluate", str(run)]) == 0
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
    found = {"batch": 64, "flow": settled, "training": way}
    text = section(found).text
    for part in ("one batch of 64", "1,234 weights: undecided", "largest real part -1, of all", "0.25 would converge"):
        assert part in text
    assert "largest modulus -1, those that decide not among them, of 2 found in 77 products" in text
    assert len(section(found).plots) == 2
    said = dict(rows(found))
    assert said["stability of the flow"] == (
        "not an equilibrium; linearised: converges linearly, |v| = 0.5: 0 at an equilibrium"
    )
    assert "The flow, of 1,234 weights: not an equilibrium; linearised: converges linearly" in text
    assert said["  simultaneous plain steps converge below"] == "0.25"
    refused = section(found | {"flow": {"refused": "the vector field jumps here"}})
    assert "The flow: the vector field jumps here." in refused.text
    assert len(refused.plots) == 1
    assert dict(rows(found | {"flow": {"refused": "it jumps"}}))["stability of the flow"] == "it jumps"
    assert section(None) is None
    assert rows(None) == []
