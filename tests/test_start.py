"""Training that starts from the weights of another run."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from jensen.cli.main import main
from jensen.runs.folder import start_from
from jensen.runs.opening import open_run, read_config
from test_cli import journal_of, refused
from tiny import CAPTCHA, COMMON, words_of

TINY = words_of(COMMON | CAPTCHA | {"training.previews": 0})
NOTHING = "training.rate=1e-30"


def words(out, *more):
    settings = [word for setting in more for word in ("--set", setting)]
    return ["train", "captcha", "--out", str(out), "--steps", "2", "--no-evaluate", *TINY, *settings]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without self-attention, whose zero layers have learnt something."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(words(folder)) == 0
    path = folder / "model.safetensors"
    noise = torch.Generator().manual_seed(0)
    weights = {k: v + 0.1 * torch.randn(v.shape, generator=noise) for k, v in load_file(path).items()}
    save_file(weights, path)
    return folder


def test_the_model_has_the_weights_of_the_other_run_before_its_first_step(run, tmp_path):
    assert main(words(tmp_path / "next", f"training.start={run}", NOTHING)) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "next"))
    assert first.keys() == second.keys()
    assert all(torch.allclose(value, second[name], rtol=1e-6, atol=0) for name, value in first.items())
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    notes = [line["note"] for line in journal_of(tmp_path / "next") if "note" in line]
    assert notes[0] == f"starts from first, weights with sha256 {digest}"
    assert [note.rpartition(":")[0] for note in notes[1:]] == ["training.precision auto"]


def test_new_layers_leave_the_function_as_it_was(run, tmp_path):
    assert main(words(tmp_path / "next", "network.attention=64", f"training.start={run}", NOTHING)) == 0
    recipe, first = read_config(tmp_path / "next"), open_run(run)
    model = recipe.family.model(recipe.space).eval()
    other = open_run(tmp_path / "next").model
    noise = torch.Generator().manual_seed(0)
    x, cond = torch.randn(4, *recipe.space.shape, generator=noise), torch.tensor([[0, 1, 2, 3]] * 4)
    t = torch.linspace(0.1, 0.9, 4)
    with torch.no_grad():
        before = first.model.denoiser.net(x, t, cond)
        assert not torch.equal(before, model.denoiser.net(x, t, cond))
        note = start_from(model, run)
        assert torch.equal(before, model.denoiser.net(x, t, cond))
        torch.testing.assert_close(before, other.denoiser.net(x, t, cond), rtol=1e-5, atol=1e-6)
    new = set(model.state_dict()) - set(first.model.state_dict())
    assert new
    assert set(note.split("; new: ")[1].split(", ")) == new
    assert all(".own." in name for name in new)


def test_a_resumed_run_does_not_need_the_other(run, tmp_path):
    other, out = tmp_path / "other", tmp_path / "next"
    shutil.copytree(run, other)
    assert main(words(out, f"training.start={other}")) == 0
    shutil.rmtree(other)
    assert main(["train", "captcha", "--out", str(out), "--resume", "--no-evaluate", "--steps", "4"]) == 0
    assert read_config(out).training.start == str(other)


def test_a_run_that_is_resumed_before_its_first_checkpoint_starts_from_the_other_too(run, tmp_path):
    out = tmp_path / "next"
    assert main(words(out, f"training.start={run}", NOTHING)) == 0
    shutil.rmtree(out / "state")
    (out / "model.safetensors").unlink()
    assert main(["train", "captcha", "--out", str(out), "--resume", "--no-evaluate"]) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (run, out))
    assert all(torch.allclose(value, second[name], rtol=1e-6, atol=0) for name, value in first.items())


def test_what_does_not_fit_is_refused_and_leaves_nothing(run, tmp_path, capsys):
    out = tmp_path / "next"
    why = "training.start must be a run of a model with the same layers, and in "
    refused(capsys, words(out, f"training.start={run}", "network.widths=[16,16]"), why, "must be (")
    assert not out.exists()


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("nowhere", "training.start: there is no run folder nowhere"),
        ("captcha-releas", "training.start: there is no run folder captcha-releas; did you mean 'captcha-release'?"),
        ("", "training.start must be"),
    ],
)
def test_a_start_that_is_no_run_is_refused(start, why, tmp_path, capsys):
    refused(capsys, words(tmp_path / "next", f"training.start={start}"), why)
    assert not (tmp_path / "next").exists()


def test_a_run_without_weights_is_refused(run, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((run / "config.json").read_bytes())
    why = f"training.start must be a trained run, and {bare} has no model.safetensors"
    refused(capsys, words(tmp_path / "next", f"training.start={bare}"), why)
