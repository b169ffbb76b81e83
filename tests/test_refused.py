"""Wrong things given from Python are refused in one sentence, and leave no folder."""

from __future__ import annotations

import io
import re
import tempfile

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import jensen
from jensen.adversarial import margin_loss
from jensen.cli import commands
from jensen.cli.main import main
from jensen.data.space import Space
from jensen.diffusion import DDIM, CosineSchedule, GaussianOracle, NetworkDenoiser, integrate
from jensen.models import Diffusion
from jensen.objectives import Denoising
from jensen.recipes.families.base import Family
from jensen.recipes.families.vae import VAE
from jensen.recipes.sources.base import source
from jensen.recipes.sources.memory import memory
from jensen.recipes.sources.pair import Pair
from jensen.recipes.sources.pictures import Pictures
from jensen.recipes.usual import usual
from jensen.recipes.words import changed, settings
from jensen.runs import measure
from jensen.runs.own import objective_of
from refusals import PAGE, page, workplace

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 3
PICTURES = (X[:, :1, None] > 3).expand(60, 4, 4)


@pytest.fixture(autouse=True)
def _untyped(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production, without type checks


class Net(nn.Linear):
    def forward(self, z, t):
        return super().forward(z)


def test_the_page_of_what_is_refused():
    """Every row is run: one sentence and its exit code, and nothing is made, changed or unpickled."""
    with workplace() as place:
        before = contents(place)
        made = page(place)
        assert contents(place) == before
    assert made == PAGE.read_text(encoding="utf-8"), "to write docs/refused.md again: python tests/refusals.py"
    assert made.count("\n| `` jensen") >= 100


def contents(place):
    return {path: path.is_dir() or path.read_bytes() for path in place.rglob("*")}


def test_an_unforeseen_exception_is_a_sentence_that_names_the_file_of_its_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(commands, "curves", lambda *_: {}["nothing\nof the kind"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["curves", "run"]) == 1
    (file,) = tmp_path.iterdir()
    assert capsys.readouterr().err == f"jensen: KeyError: 'nothing\\nof the kind'; the traceback is in {file}\n"
    assert "Traceback" in file.read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert main(["curves", "run"]) == 1
    assert "its traceback could not be written" in capsys.readouterr().err


def denoiser(**changes):
    return NetworkDenoiser(Net(2, 2), **{"schedule": CosineSchedule(), "output": "v", **changes})


def test_parts_of_a_diffusion_model_are_refused_when_they_are_made():
    for make, said in (
        (lambda: denoiser(output="epsilon"), "output must be one of x, eps, v, flow, edm, got 'epsilon'"),
        (lambda: denoiser(schedule="cosine"), r"schedule must be a Schedule, .*, got 'cosine'"),
        (lambda: denoiser(schedule=CosineSchedule), "schedule must be a Schedule, .*, got <class"),
        (lambda: Diffusion(Net(2, 2), (2,)), r"denoiser must be a Denoiser, .*, got Net$"),
        (lambda: Denoising(Net(2, 2)), "model must be a Diffusion, got Net"),
        (lambda: Denoising(Diffusion(denoiser(), (2,)), loss="eps"), r"loss must be a function .*, got 'eps'"),
        (lambda: margin_loss(lambda m, k: m), "a margin loss must be a function of one argument"),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_data_in_memory_are_refused():
    for data, said in (
        (X[:, :0], r"no empty axis, got shape \(60, 0\)"),
        (np.ones((9, 4, 4), np.uint16), "data must hold pictures as bytes .*, got int64 from 1 to 1"),
        ({1, 2}, "a stream must give batches of rows, got int"),
        (X.tolist(), "a batch must have rows, got a single number as x"),
        (io.StringIO("1,2"), "data must be a path, .*, got StringIO"),
        (b"12", "data must be a path, .*, got bytes"),
        (nn.Linear(2, 2), "data must be a path, .*, got Linear"),
        (lambda: iter([X]), "a stream that is a function must take one argument"),
        (torch.utils.data.TensorDataset(X, X, X), r"an example must be x, \(x, class\) or a mapping, got 3 parts"),
    ):
        with pytest.raises(ValueError, match=said):
            memory(data)


def test_a_pair_of_rows_and_classes_is_understood_and_classes_may_be_true_or_false():
    label = X[:, 0] > 3
    source = memory((X, label))
    assert source.classes == ("False", "True")
    assert torch.equal(source.held.rows.tensors["cond"], label.long()[:, None])
    assert source.held.rows.tensors["x"].shape == (60, 2)


def test_sides_of_a_translation_must_be_pictures(tmp_path):
    pictures = (255 * torch.rand(60, 4, 4)).to(torch.uint8)
    with pytest.raises(ValueError, match=r"data.a and data.b must be pictures, got \(1, 4, 4\) and \(2,\)"):
        jensen.train("translation", tmp_path / "run", data=pictures, data_b=X)
    assert not (tmp_path / "run").exists()


def test_pictures_between_0_and_1_are_not_taken_for_pictures_between_minus_1_and_1():
    with pytest.raises(ValueError, match=r"got numbers in \[0, 1\]: give 2 \* x - 1"):
        measure.rows(Space((1, 4, 4)), PICTURES[:, None].float())
    assert measure.rows(Space((1, 4, 4)), 2 * PICTURES[:, None].float() - 1).unique().tolist() == [-1.0, 1.0]


def test_losses_and_objectives_are_refused_and_leave_no_folder(tmp_path):
    net, wide = nn.Linear(2, 1), Diffusion(denoiser(), (3,))
    for start, more, said in (
        (lambda: net(X).mean(), {"model": net}, "your loss must be a function of one argument, the batch"),
        (Denoising, {}, r"the first argument must be .*, got the class Denoising"),
        (net, {}, r"the first argument must be .*, got Linear"),
        (lambda batch: torch.ones(()), {"model": net}, "must be a differentiable real number, and is not"),
        (lambda batch: 1j * net(batch["x"]).mean(), {"model": net}, "must be a differentiable real number"),
        (Denoising(wide), {}, r"x must be rows of the model's shape, \(3,\), got \(2,\)"),
        (Denoising(wide), {"data": {"x": X, "label": X[:, 0]}}, "Denoising takes data named x and cond, got 'label'"),
        ("vae", {"minutes": 1.0}, "at most one of steps and minutes can be given, got 2 and 1.0"),
        ("vae", {"settings": ["training.warmup=2"]}, "settings must be a mapping of keys to values, got list"),
        ("vae", {"use": "nowhere.py"}, "there is no file nowhere.py"),
    ):
        with pytest.raises(ValueError, match=said):
            jensen.train(start, tmp_path / "run", **{"data": X, "steps": 2, **more})
        assert not (tmp_path / "run").exists()
    assert objective_of(lambda batch, scale=2: scale * net(batch["x"]).mean(), net).model is net


def test_numbers_of_numpy_and_torch_are_settings(tmp_path):
    settings = {"training.warmup": np.int64(3), "training.betas": torch.tensor([0.5, 0.25]), "training.previews": 0}
    loss = lambda batch: net(batch["x"]).mean()  # noqa: E731
    net = nn.Linear(2, 1)
    run = jensen.train(
        loss, tmp_path / "run", model=net, data=X, steps=np.int64(2), rate=torch.tensor(0.5), settings=settings
    )
    training = run.recipe.training
    assert (training.warmup, training.betas, training.steps, training.rate) == (3, (0.5, 0.25), 2, 0.5)
    with pytest.raises(ValueError, match="device must be a device of this machine, got 'gpu'"):
        jensen.open(tmp_path / "run", model=net, device="gpu")


def test_comparisons_and_samplers_are_refused():
    oracle = GaussianOracle(torch.zeros(2), torch.ones(2), CosineSchedule())

    class Short:
        def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
            return z[:, :1], None

    model = Diffusion(oracle, (2,))
    for request, said in (
        (lambda: jensen.compare(X), 'contestants must be runs, .* {"mine": x}, got Tensor'),
        (lambda: jensen.compare({"a": X, "b": X}, data=X, judge_steps=0), "judge_steps must be at least 1, got 0"),
        (lambda: integrate(Short(), oracle, X, torch.tensor([0.9, 0.5])), r"Short.step must return .*, \(60, 2\)"),
        (lambda: model.sample(2, sampler=DDIM), "sampler must be a name, or have a method step, .*, got <class"),
        (lambda: model.sample(2, steps=2.5), "steps must be at least 1 and whole, got 2.5"),
        (lambda: model.sample(2, guidance="big"), "guidance must be at least 0 and finite, got big"),
    ):
        with pytest.raises(ValueError, match=said):
            request()


class Broad(Family):
    """A family of the user's own."""

    width: int = 4

    def model(self, space):
        return nn.Linear(self.width, 1)

    def objective(self, model, space):
        raise NotImplementedError


Family.kinds.pop("broad")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Broad(width="wide"), "width must be a whole number, got 'wide'"),
        (lambda: Broad(widht=4), "there is no setting 'widht'"),
        (lambda: VAE(network={"latents": [4, "x"]}), "network.latents must be a whole number, got 'x'"),
        (lambda: Pictures(size=0), "size must be at least 4, got 0"),
        (lambda: Pictures(size=(8, 2000)), "size must be at most 1024, got 2000"),
        (lambda: Pictures(size=(0, 2000)), "size must be at least 4, got 0"),
        (lambda: Pictures(size="big"), "size must be a number of pixels or HEIGHTxWIDTH, such as 64 or 48x64, got 'b"),
        (lambda: Pair(a={"kind": "pictures", "size": 0}), "a.size must be at least 4, got 0"),
    ],
)
def test_settings_made_by_hand_are_refused_in_one_sentence(made, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*$"):  # a dot is no new line
        made()


@pytest.mark.parametrize("word", ["-1", "[-1]", "[1,2,3,4]"])
def test_no_setting_is_named_by_a_place_in_its_list_or_a_member_of_its_union(word):
    refused = []
    for kind, data in (("diffusion", "digits"), ("vae", "moons"), ("gan", "sprites")):
        start = usual(kind, source(data)).model_copy(update={"data": source(data)})
        for key in settings(start):
            if key == "training.rates":
                continue
            try:
                changed(start, [f"{key}={word}"])
            except ValueError as error:
                refused.append((key, str(error)))
    assert len(refused) > 100
    for key, message in refused:
        assert f"{key}." not in message
        assert "\n" not in message
    pictures = usual("diffusion", Pictures())
    with pytest.raises(ValueError, match=r"^data\.size must be "):
        changed(pictures, [f"data.size={word}"])
