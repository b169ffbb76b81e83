"""Training curves: the held-out loss, which does not change training; CSV; TensorBoard."""

from __future__ import annotations

import csv
import math
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import jensen
from jensen.cli.main import main
from jensen.core.seeding import begin_globally, derived
from jensen.data.dataset import some
from jensen.recipes.families.autoencoder import Autoencoder
from jensen.recipes.families.gan import GAN
from jensen.recipes.families.score import Score
from jensen.recipes.families.vae import VAE
from jensen.recipes.words import configure
from jensen.runs.board import Board
from jensen.runs.curves import curves
from jensen.runs.held_out import _batches
from jensen.runs.opening import open_data
from jensen.training.journal import read_journal
from test_cli import refused

pytestmark = pytest.mark.usefixtures("blank_plots")
X = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 5.0]) + 3
SHORT = {"training.log_every": 2, "training.save_every": 2, "training.previews": 2, "training.average": 0.9}
SMALL = {"data": X, "steps": 4, "batch_size": 16, "rate": 1e-2}
SCORE = Score.model_validate({"network": {"width": 16, "blocks": 1, "levels": 3}, "sampling": {"steps": 2}})
LATENT = VAE.model_validate({"network": {"hidden": 16, "latents": [2]}})
GAME = GAN.model_validate({"network": {"critic_width": 16, "width": 16, "spectral": True}})


def held_out(run):
    """Held-out losses of the journal: by step, by name."""
    lines = read_journal(run.folder / "journal.jsonl")
    return {line["step"]: kept for line in lines if (kept := {k: v for k, v in line.items() if "held_out" in k})}


@pytest.mark.parametrize("family", [SCORE, LATENT, GAME], ids=["score", "vae", "gan"])
def test_a_look_at_held_out_data_leaves_training_as_it_is(tmp_path, family):
    """With and without previews: bitwise equal weights, buffers, optimizers and random state."""
    states = []
    for previews in (0, 4):
        settings = SHORT | {"training.previews": previews}
        run = jensen.train(family, tmp_path / str(previews), settings=settings, **SMALL)
        assert len(held_out(run)) == previews
        states.append(torch.load(run.folder / "state" / "000000004.pt", weights_only=True))
    pairs = [[state["objective"], state["memory"], *state["averages"]] for state in states]
    for ours, theirs in zip(*pairs, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert torch.equal(states[0]["rng"], states[1]["rng"])
    assert str(states[0]["optimizers"]) == str(states[1]["optimizers"])


def test_held_out_rows_are_judged_in_the_parts_that_a_process_trains_on(monkeypatch):
    monkeypatch.setattr("jensen.recipes.settings.processes", lambda: 4)
    recipe = configure("moons-vae", ["training.batch_size=64", "training.accumulate=2"])
    data = open_data(recipe)
    assert [len(batch["x"]) for batch in _batches(recipe.on(data.space), data)] == [8] * 32


def test_the_held_out_loss_is_the_objectives_with_averaged_weights(tmp_path):
    run = jensen.train(SCORE, tmp_path / "run", settings=SHORT, **SMALL)
    assert list(held_out(run)) == [2, 4]
    objective = SCORE.objective(run.model, run.space)
    begin_globally(derived(0, "held-out loss"))
    x = some(run.open_data().test)["x"]
    parts = torch.cat([x, x])[:64].split(16)
    losses = [float(objective(("model",), {"x": part}, 4)["model"].total) for part in parts]
    assert held_out(run)[4] == {"held_out/loss": pytest.approx(sum(losses) / 4, rel=1e-6)}


def test_a_loss_that_refers_to_its_model_is_of_averaged_weights_too(tmp_path):
    """Batch norm in evaluation mode, and dropout that is off: the loss of the averaged model, to the last bit."""
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def loss(batch):
        return (net(batch["x"]) - batch["x"]).square().mean()

    run = jensen.train(loss, tmp_path / "run", model=net, settings=SHORT, **SMALL)
    x = some(run.open_data().test)["x"]
    parts = torch.cat([x, x])[:64].split(16)
    expected = sum(float((run.model(part) - part).square().mean()) for part in parts) / 4
    assert held_out(run)[4] == {"held_out/loss": pytest.approx(expected, rel=1e-6)}
    assert net.training


def test_each_player_has_its_own(tmp_path):
    run = jensen.train(GAME, tmp_path / "run", settings=SHORT, **SMALL)
    assert set(held_out(run)[4]) == {"held_out/generator/loss", "held_out/critic/loss"}
    free = Autoencoder.model_validate({"network": {"hidden": 16, "latents": 2}})
    assert set(held_out(jensen.train(free, tmp_path / "free", settings=SHORT, **SMALL))[4]) == {"held_out/loss"}
    own = VAE.model_validate({"network": {"hidden": 16, "latents": [2]}, "inference": "per-datum"})
    assert held_out(jensen.train(own, tmp_path / "own", settings=SHORT, **SMALL)) == {}  # q of training rows alone


def test_curves_are_a_table(tmp_path, capsys):
    run = jensen.train(LATENT, tmp_path / "run", settings=SHORT | {"training.log_every": 3}, **SMALL)
    found = run.curves()
    assert found["step"] == [2, 3, 4]
    assert math.isnan(found["loss"][0])
    assert math.isnan(found["held_out/loss"][1])
    lines = read_journal(run.folder / "journal.jsonl")
    assert found["kl"][1:] == [line["kl"] for line in lines if "kl" in line]
    assert main(["curves", str(run.folder)]) == 0
    assert main(["curves", str(run.folder), "--out", str(tmp_path / "c.csv")]) == 0
    assert (tmp_path / "c.csv").read_text() == (run.folder / "curves.csv").read_text()
    head, *rows = csv.reader((tmp_path / "c.csv").read_text().splitlines())
    assert head == list(found)
    assert rows[0][head.index("loss")] == ""
    for name, column in zip(head, zip(*rows, strict=True), strict=True):
        assert [float(v or "nan") for v in column] == pytest.approx(found[name], nan_ok=True, rel=1e-9)
    refused(capsys, ["curves", str(run.folder), "--out", str(tmp_path / "c.txt")], "must end in .csv")
    refused(capsys, ["curves", str(tmp_path / "nowhere")], "there is no run folder")


def test_a_note_is_no_row_of_the_curves(tmp_path):
    lines = ['{"step": 1, "seconds": 1.0, "note": "one"}', '{"step": 2, "seconds": 3.0, "loss": 5.0}']
    (tmp_path / "journal.jsonl").write_text("\n".join(lines) + "\n")
    assert curves(tmp_path) == {"step": [2.0], "seconds": [3.0], "loss": [5.0]}


def test_tensorboard_is_refused_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        ValueError, match=r"training.tensorboard needs tensorboard: install jensen with the extra tensorboard"
    ):
        jensen.train(LATENT, tmp_path / "run", settings=SHORT | {"training.tensorboard": True}, **SMALL)
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_back_every_number_of_the_journal(tmp_path):
    """After resuming too, when it no longer shows numbers that had been written after the checkpoint."""
    settings = SHORT | {"training.tensorboard": True}
    run = jensen.train(LATENT, tmp_path / "run", settings=settings, **SMALL)
    Board(run.folder / "tensorboard", 4).write(5, {"loss": 99.0})
    jensen.train(LATENT, tmp_path / "run", settings=settings, resume=True, **{**SMALL, "steps": 6})
    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
    found = curves(run.folder)
    steps = found.pop("step")
    assert steps == [2, 4, 6]
    assert set(shown) == set(found)
    for name, values in found.items():
        kept = {k: v for k, v in zip(steps, values, strict=True) if not math.isnan(v)}
        assert shown[name] == pytest.approx(kept, rel=1e-6)  # float32
