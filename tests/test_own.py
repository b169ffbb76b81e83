"""A user's data source, family and judge, each in a separate file: train, judge, sample, open."""

from __future__ import annotations

import json

import pytest
import torch

import jensen
from jensen.cli.main import main
from jensen.core.settings import Kind
from jensen.judging.case import JUDGES
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.sources.base import Source

SOURCE = """
import torch

from jensen.core.seeding import derived, generator
from jensen.data.dataset import Data, spaced
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.recipes.sources.base import Source, fingerprint


class Spiral(Source):
    turns: float = 2.0
    '''turns of the spiral'''

    def open(self, seed, track=None, runs=None):
        def points(use):
            t = torch.rand(200, generator=generator(derived(seed, use)))
            angle = 6.283 * self.turns * t
            return torch.stack([t * angle.cos(), t * angle.sin()], 1)

        train = Tensors(x=points("train"))
        space = spaced(Space((2,)), train)
        return Data("a spiral", fingerprint(self), space, train, Tensors(x=points("test")))
"""

FAMILY = """
import torch
from torch import nn

from jensen.core.objective import Objective
from jensen.core.seeding import normal
from jensen.core.types import Loss
from jensen.recipes.families.base import Family


class Network(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.zeros(dims))

    def sample(self, n, *, cond=None, generator=None):
        return self.mean + self.log_std.exp() * normal((n, len(self.mean)), generator, like=self.mean)


class MaximumLikelihood(Objective):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, players, batch, step):
        q = torch.distributions.Normal(self.model.mean, self.model.log_std.exp())
        return {"model": Loss.of(-q.log_prob(batch["x"]).sum(1).mean())}


class DiagonalGaussian(Family):
    kind = "gaussian"
    scale: float = 1.0
    '''unused, but documented'''

    def model(self, space):
        return Network(space.dims)

    def objective(self, model, space):
        return MaximumLikelihood(model)
"""

JUDGE = """
from jensen.judging.case import judge
from jensen.report.findings import Finding, Part


@judge
def centre(case):
    away = case.samples.mean(0) - case.test["x"].mean(0)
    return Part("Centre", "How far the centres are apart.", [Finding("centre", "distance", float(away.norm()))])
"""

RECIPE = """
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training

recipe = Recipe(
    name="mine",
    about="a Gaussian of a spiral",
    data={"kind": "spiral", "turns": 1.0},
    family={"kind": "gaussian"},
    training=Training(steps=300, rate=0.05, warmup=1, log_every=100, previews=1),
)
"""


@pytest.fixture
def forgotten():
    """Removes what a test registered."""
    kept = [(known, dict(known)) for known in (Source.kinds, Family.kinds, JUDGES, PRESETS)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


@pytest.fixture
def files(tmp_path, forgotten):
    texts = {"source": SOURCE, "family": FAMILY, "judge": JUDGE, "recipe": RECIPE}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return [word for name in texts for word in ("--use", str(tmp_path / f"{name}.py"))]


def test_a_source_a_family_and_a_judge_of_ones_own(files, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "mine", "--out", str(run), *files]) == 0
    assert main(["sample", str(run), "-n", "5", "--out", str(tmp_path / "x.csv"), *files]) == 0
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 5
    found = json.loads((run / "evaluation.json").read_text())
    assert found["findings"]["centre"]["value"] < 0.1
    assert found["data"]["name"] == "a spiral"
    assert "How far the centres are apart." in (run / "report.html").read_text()
    weights = jensen.open(run).model
    train = jensen.open(run).open_data().train.tensors["x"]
    torch.testing.assert_close(weights.mean, train.mean(0), atol=0.02, rtol=0)  # the maximum of the likelihood
    torch.testing.assert_close(weights.log_std.exp(), train.std(0, correction=0), atol=0.02, rtol=0)
    assert main(["recipes", "mine", *files]) == 0
    assert "turns of the spiral" in capsys.readouterr().out


def test_a_run_does_not_import_what_its_configuration_names(files, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "mine", "--out", str(run), "--steps", "2", "--no-evaluate", *files]) == 0
    for kind, name in ((Source, "spiral"), (Family, "gaussian")):
        known = kind.kinds.pop(name)
        capsys.readouterr()
        assert main(["sample", str(run)]) == 2
        said = capsys.readouterr().err
        assert f"got '{name}'" in said
        assert "--use FILE.py" in said
        assert said.count("\n") == 1
        kind.kinds[name] = known
    with pytest.raises(ValueError, match=r"there is no file nowhere\.py"):
        jensen.open(run, use=["nowhere.py"])
    with pytest.raises(ValueError, match="use must list sources, families, judges, recipes or files, got 3"):
        jensen.open(run, use=[3])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no Source, Family, Recipe or function marked @judge"),
        ("1 / 0", "fails with ZeroDivisionError: division by zero"),
        ("def", "fails with SyntaxError"),
    ],
)
def test_a_file_that_gives_nothing_is_refused(tmp_path, capsys, text, said):
    (tmp_path / "my.py").write_text(text)
    assert main(["train", "mine", "--use", str(tmp_path / "my.py")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_kinds_are_named_after_their_class_and_registered_below_their_base():
    class Colour(Kind): ...

    class DarkBlue(Colour):
        depth: int = 3

    class HTMLRed(Colour): ...

    assert Colour.kinds == {"dark-blue": DarkBlue, "html-red": HTMLRed}
    assert Colour.parse(DarkBlue(depth=4).model_dump()) == DarkBlue(depth=4)
    assert "dark-blue" not in Source.kinds
    with pytest.raises(ValueError, match="did you mean 'dark-blue'"):
        Colour.parse({"kind": "dark-blu"})
    with pytest.raises(ValueError, match="a mapping with a kind"):
        Colour.parse({"depth": 3})
