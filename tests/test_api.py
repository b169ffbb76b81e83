"""jensen from Python: data in memory, the user's objectives, the methods of a run, and types that an editor infers."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mypy import api as mypy
from torch import nn

import jensen
from jensen.core.objective import Objective
from jensen.core.seeding import begin_globally, drawing, generator
from jensen.core.types import Loss, Phase
from jensen.data.space import Space
from jensen.judging.case import Case
from jensen.recipes.families.gan import GAN
from jensen.recipes.families.score import Score
from jensen.recipes.families.vae import VAE
from jensen.recipes.sources.pictures import Pictures
from jensen.report.samples import Samples
from jensen.runs import measure

ROOT = Path(__file__).parent.parent
SHORT = {
    "training.previews": 1,
    "training.log_every": 2,
    "training.save_every": 2,
    "judging.samples": 40,
    "judging.rows": 40,
}
LATENT = SHORT | {"judging.importance": 20, "judging.refine_rows": 3, "judging.refine_steps": 3}
X = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 5.0]) + 3


def weights(model):
    return [v.clone() for v in model.state_dict().values()]


def same(a, b):
    return all(torch.equal(v, w) for v, w in zip(weights(a), weights(b), strict=True))


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda: jensen.train("vae", data=""),
        lambda: jensen.train("vae", "", data=X),
        lambda: jensen.load_data(""),
        lambda: jensen.open(""),
        lambda: jensen.compare("", ""),
        lambda: Pictures(path="x", held_out=""),
        lambda: Samples(X).save(""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(use):
    with pytest.raises(ValueError, match="must be a path, got an empty one"):
        use()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a" * 300, f"got one that is too long: {'a' * 40}..."),
        ("a/" * 3000, f"got one that is too long: {'a/' * 20}..."),
        ("a\0b", r"got 'a\x00b'"),
        ("\ud800", r"got '\ud800'"),
    ],
)
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("the run's folder", jensen.open),
        ("training.start", lambda word: jensen.train("vae", data=X, settings={"training.start": word})),
        ("judging.features", lambda word: jensen.configure("gan", [f"judging.features={word}"], data="digits")),
        ("", lambda word: jensen.configure("captcha", [f"data.reader={word}"])),
    ],
)
def test_a_word_that_no_file_system_can_hold_is_no_path(name, use, word, said):
    with pytest.raises(ValueError, match=re.escape(f"{name} must be a path, {said}".strip())):
        use(word)


# -- the package ------------------------------------------------------------------------------------------------------


def test_import_is_light_and_shows_everything():
    code = """
import sys, jensen
assert not {"torch", "numpy", "pydantic"} & set(sys.modules), sorted(sys.modules)
assert {"compare", "configure", "load_data", "open", "train"} <= set(dir(jensen)), dir(jensen)
assert set(jensen.__all__) <= set(dir(jensen))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in jensen.__all__:
        assert callable(getattr(jensen, name))
    with pytest.raises(AttributeError, match="has no attribute 'tran'"):
        jensen.tran  # noqa: B018


SCRIPT = """import jensen
run = jensen.train("diffusion", data="pictures", steps=10)
samples = run.sample(4, guidence=3.0)
kind: int = run.log_likelihood(samples.x).kind
reveal_type(jensen.compare(run, {"mine": samples.x}, data="pictures"))
"""


CHECKED = """[mypy]
mypy_path = src
cache_dir = /dev/null
follow_imports = skip
[mypy-jensen,jensen.runs.api,jensen.runs.opening,jensen.runs.compare,jensen.core.types]
follow_imports = silent
"""  # torch takes half a minute


def test_a_type_checker_finds_a_misspelt_argument_and_knows_what_is_returned(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "five.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CHECKED)
    said, _, code = mypy.run(["--config-file", str(tmp_path / "mypy.ini"), str(tmp_path / "five.py")])
    assert code == 1, said
    found = [line.partition(": ")[2] for line in said.splitlines() if "five.py:" in line]
    assert found[0].startswith('error: Unexpected keyword argument "guidence" for "sample" of "Run"; did you mean')
    assert any(line.startswith("error: Incompatible types in assignment") for line in found)
    assert any('Revealed type is "jensen.runs.compare.Comparison"' in line for line in found)


# -- data in memory ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vae"
    family = VAE.model_validate({"network": {"hidden": 16, "latents": [2]}})
    return jensen.train(family, folder, data=X, steps=4, batch_size=8, rate=1e-3, settings=LATENT)


def test_an_evaluation_releases_what_it_held_without_a_garbage_collection(vae):
    """A judge's case keeps up to 50,000 training rows: a cycle of references would keep them until one runs."""
    vae.evaluate()
    gc.collect()
    gc.disable()
    try:
        vae.evaluate()
        assert not [found for found in gc.get_objects() if type(found) is Case]
    finally:
        gc.enable()


def test_a_run_on_data_in_memory_opens_and_samples_without_them(vae):
    assert vae.recipe.training.rate == 1e-3
    assert set(vae.evaluate()) >= {"log_p", "frechet"}
    again = jensen.open(str(vae.folder))
    assert torch.equal(again.sample(5, seed=3).x, vae.sample(5, seed=3).x)
    with pytest.raises(ValueError, match=r"give them again, as in run.evaluate\(data=x\)"):
        again.evaluate()
    for other in (X + 1, "digits"):
        with pytest.raises(ValueError, match="data must be those that the run was trained on, got others"):
            again.evaluate(data=other)
    assert again.evaluate(data=X.numpy())["log_p"].value == vae.evaluate()["log_p"].value


def test_a_stopped_run_on_data_in_memory_continues_bit_for_bit(vae, tmp_path):
    def stop(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    given = {"data": X, "steps": 4, "batch_size": 8, "rate": 1e-3, "settings": LATENT}
    with pytest.raises(KeyboardInterrupt):
        jensen.train(vae.recipe.family, tmp_path / "run", watch=stop, **given)
    with pytest.raises(ValueError, match=r"uses the data of .*config.json: leave --data out"):
        jensen.train(vae.recipe.family, tmp_path / "run", resume=True, **{**given, "data": X + 1})
    assert same(jensen.train(vae.recipe.family, tmp_path / "run", resume=True, **given).model, vae.model)


def test_a_recipe_takes_data_and_settings(vae, tmp_path):
    run = jensen.train(
        vae.recipe.on(vae.space).model_copy(update={"space": None}), tmp_path / "a", data=X[:100], steps=2
    )
    assert run.recipe.training.steps == 2
    assert run.recipe.training.batch_size == 8
    assert run.space.rows < vae.space.rows


# -- what a run can do ------------------------------------------------------------------------------------------------


def test_codes_and_reconstructions_are_the_models(vae):
    z = vae.encode(X.numpy())
    assert torch.equal(z, vae.model.codes(X))
    assert torch.equal(vae.reconstruct(X), vae.reconstruct(X))
    with drawing(generator(0)):
        assert torch.equal(vae.reconstruct(X[:50]), vae.model.reconstruct(X[:50]))
    assert vae.interpolate(2, 5, seed=1).x.shape == (10, 2)


def test_a_likelihood_has_a_standard_error(vae):
    """20 importance samples against 20,000: 12 rows within 5 standard errors of the difference."""
    few, many = (vae.log_likelihood(X[:12], draws=k) for k in (20, 20_000))
    assert few.kind == "estimate"
    off = (few.value - many.value).abs() / (few.stderr.square() + many.stderr.square()).sqrt()
    assert off.max() < 5
    assert bool((many.stderr < few.stderr).all())


def test_a_likelihood_of_a_kernel_density_is_exact(tmp_path):
    run = jensen.train("kernel", tmp_path / "run", data=X)
    found = run.log_likelihood(X[:70])
    torch.testing.assert_close(found.value, run.model.log_prob(X[:70]))
    assert (found.kind, found.stderr) == ("exact", None)


def test_a_diffusion_model_encodes_and_bounds(tmp_path):
    settings = SHORT | {"network.width": 16, "network.blocks": 1}
    data = {"x": X, "cond": ["low" if v < 3 else "high" for v in X[:, 0]]}
    run = jensen.train("diffusion", tmp_path / "run", data=data, steps=2, settings=settings)
    assert run.space.cond.names == ("high", "low")
    z = run.encode(X[:9], cond="low")
    assert torch.equal(z, run.model.encode(X[:9], cond=torch.ones(9, 1, dtype=torch.long), sampler="ddim"))
    assert torch.equal(
        run.reconstruct(X[:9], cond=["low"] * 9), run.model.decode(z, cond=torch.ones(9, 1).long(), sampler="ddim")
    )
    names = ["low"] * 70 + ["high"] * 10  # beyond the rows that are taken at a time
    low, high = run.encode(X[:70], cond="low"), run.encode(X[70:80], cond="high")
    torch.testing.assert_close(run.encode(X[:80], cond=names), torch.cat([low, high]))
    assert run.log_likelihood(X[:9], cond="low").kind == "lower bound"
    assert run.sample(3, cond="low", guidance=2.0, sampler="ddim", steps=3, eta=0.5).x.shape == (3, 2)
    for request, said in (
        (lambda: run.encode(X[:9], cond="mid"), "a class must be one of high, low, got 'mid'"),
        (lambda: run.encode(X[:9], cond=["low"]), "cond must be one name, or one for each of 9 rows, got 1"),
        (lambda: run.log_likelihood(X[:9], draws=3), "cannot take draws: its likelihood is not estimated by"),
    ):
        with pytest.raises(ValueError, match=said):
            request()


def test_what_a_run_cannot_do_is_refused_in_a_sentence(tmp_path, vae):
    run = jensen.train("gan", tmp_path / "run", data=X, steps=2, settings=SHORT)
    for request, said in (
        (lambda: run.encode(X), "a run of gan cannot encode data: it has no encoder"),
        (lambda: run.reconstruct(X), "a run of gan cannot reconstruct data: it has no encoder"),
        (lambda: run.log_likelihood(X), r"a run of gan cannot say log p\(x\): it has no likelihood"),
        (lambda: run.sample(4, guidance=2.0), "--guidance cannot be used with a run of gan"),
        (lambda: vae.encode(X[:, :1]), r"x must be of shape \(N, 2\), got \(400, 1\)"),
        (lambda: vae.encode(X * torch.nan), "x must be finite"),
        (lambda: vae.encode(X, cond="a"), "cannot take conditions: the model has no conditions"),
        (lambda: jensen.train("gan", tmp_path / "b", data=X, model=nn.Linear(2, 2)), "model must be left out"),
    ):
        with pytest.raises(ValueError, match=said):
            request()


def test_an_exported_run_opens_without_its_state(vae, tmp_path):
    vae.export(str(tmp_path / "small"))
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"config.json", "model.safetensors"}
    assert same(jensen.open(tmp_path / "small").model, vae.model)
    with pytest.raises(ValueError, match="already contains a run"):
        vae.export(tmp_path / "small")


# -- the user's objectives ---------------------------------------------------------------------------------------------


SCORE = Score.model_validate({"network": {"width": 16, "blocks": 1, "levels": 3}, "sampling": {"steps": 2}})


@pytest.mark.parametrize("family", [SCORE, GAN()], ids=["one player", "two players"])
def test_an_objective_of_ones_own_trains_as_a_family_does(tmp_path, family):
    """The same objective, given as a family and from Python, with the same seed: bitwise equal weights."""
    settings = SHORT | {"training.clip": 1.0, "training.average": 0.9, "training.weight_decay": 0.01}
    given = {"data": X, "steps": 4, "batch_size": 16, "settings": settings | {"training.betas": [0.5, 0.9]}}
    usual = jensen.train(family, tmp_path / "family", rate=1e-3, **given)

    def objective():
        begin_globally(0)
        return family.objective(family.model(usual.space), usual.space)

    mine = objective()
    run = jensen.train(mine, tmp_path / "own", rate=dict.fromkeys(mine.players(), 1e-3), **given)
    assert same(run.model, usual.model)
    assert not same(run.model, mine.model)  # averaged, and the caller's
    opened = jensen.open(tmp_path / "own", model=family.model(usual.space))
    assert same(opened.model, usual.model)
    assert not opened.model.training


class Duel(Objective):
    """x descends x^2 / 2 + x y of a batch, y ascends it."""

    phases = (Phase(("x", "y")),)

    def __init__(self):
        super().__init__()
        self.model, self.rival = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def players(self):
        return {"x": self.model.parameters(), "y": self.rival.parameters()}

    def forward(self, players, batch, step):
        value = (self.model(batch["u"]) * self.rival(batch["u"])).mean() + torch.randn(()) * self.model.weight.sum()
        return {"x": Loss.of(value + self.model.weight.square().sum() / 2), "y": Loss.of(-value)}


def test_a_game_of_ones_own_is_stopped_and_continued_bit_for_bit(tmp_path):
    def stop(step, *_):
        if step == 6:
            raise KeyboardInterrupt

    def game():
        torch.manual_seed(3)
        return Duel()

    given = {
        "data": {"u": torch.arange(40.0)[:, None] / 40},
        "steps": 10,
        "batch_size": 4,
        "rate": {"x": 0.1, "y": 0.2},
    }
    given["settings"] = SHORT
    whole = jensen.train(game(), tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        jensen.train(game(), tmp_path / "parts", watch=stop, **given)
    parts = jensen.train(Duel(), tmp_path / "parts", resume=True, **given)
    assert same(parts.model, whole.model)
    assert whole.recipe.family.by == "Duel"
    with pytest.raises(ValueError, match=r"by a user's objective, Duel: give the model, a Linear, as in"):
        jensen.open(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"weight must be \(1, 2\), got \(1, 1\)"):
        jensen.open(tmp_path / "whole", model=nn.Linear(2, 1, bias=False))


def test_a_loss_of_ones_own_finds_the_least_squares(tmp_path):
    """Without noise the least squares are the line itself."""
    net = nn.Linear(2, 1)
    y = X @ torch.tensor([[0.3], [-0.1]]) + 0.2
    run = jensen.train(
        lambda batch: (net(batch["x"]) - batch["y"]).square().mean(),
        tmp_path / "run",
        data={"x": X, "y": y},
        model=net,
        steps=600,
        rate=0.05,
        settings={"training.weight_decay": 0.0, "training.average": 0.9},
    )
    torch.testing.assert_close(run.model(X), y, atol=2e-3, rtol=0)
    assert run.evaluate().facts["family"] == "own"


def test_what_is_no_objective_is_refused(tmp_path):
    net = nn.Linear(2, 1)
    for start, more, said in (
        (lambda b: net(b["x"]).mean(), {}, "your loss needs model=module, .*, got none"),
        (lambda b: net(b["x"]), {"model": net}, r"the loss must be a tensor of shape \(\), .*, got shape \(64, 1\)"),
        (lambda b: 3.0, {"model": net}, r"the loss must be a tensor of shape \(\), .*, got float"),
        (
            lambda b: b["x"].mean(),
            {"model": net},
            "the loss of player 'model' must be a differentiable real number, and is not",
        ),
        (Duel(), {"model": net}, "model must be left out for an Objective"),
        (3, {}, "the first argument must be the name of a recipe or a family, .*, got int"),
        (Duel(), {"rate": {"z": 1.0}}, "training.rates must name players, x, y, got 'z'"),
        (Duel(), {}, "the batch must hold|'u'"),
        (Duel(), {"data": None}, "needs data"),
    ):
        with pytest.raises((ValueError, RuntimeError, KeyError), match=said):
            jensen.train(start, tmp_path / "run", **{"data": X, "steps": 2, **more})
        assert not (tmp_path / "run").exists()


# -- comparison -------------------------------------------------------------------------------------------------------


def test_samples_of_any_model_are_compared_with_runs_and_alone(vae, tmp_path):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 5.0]) + 3
    given = {"good": x, "bad": x.numpy() + 9}
    found = jensen.compare(vae, given, judge_steps=3)
    assert [c.name for c in found.contestants] == ["vae", "good", "bad"]
    assert [c.cost is None for c in found.contestants] == [False, True, True]
    alone = jensen.compare(given, data=X, judge_steps=3)
    assert found.n == alone.n == 60
    for c in alone.contestants:  # the same samples, the same data
        assert c.metrics["frechet"] == next(d for d in found.contestants if d.name == c.name).metrics["frechet"]
    good, bad = (c.metrics["frechet"].value for c in alone.contestants)
    assert bad > good + 50  # the means differ by 9 and 9 / 5 standard deviations, which alone adds 84
    assert alone.as_dict()["runs"][0]["cost"] is None
    assert jensen.compare(str(vae.folder), given, data=X, judge_steps=3).as_dict() is not None
    for what, more, said in (
        ([given], {}, "samples must be compared with data"),
        ([{"a": x}], {"data": X}, "a comparison must be of at least two runs, got 1"),
        ([{"a": x, "b": x[:, :1]}], {"data": X}, r"x must be of shape \(N, 2\), got \(60, 1\)"),
        ([given], {"data": X, "n": 80}, "n must be from 40 to 60"),
        ([vae, {"vae": x}], {}, "samples must not have the name of a run, got 'vae'"),
        ([vae, given], {"data": X + 1}, "data must be those of vae"),
    ):
        with pytest.raises(ValueError, match=said):
            jensen.compare(*what, **more)


def test_pictures_of_whole_numbers_are_not_taken_for_the_scale_of_the_model():
    space, x = Space((1, 2, 2), 256), torch.tensor([[[[0, 64], [128, 255]]]])
    with pytest.raises(ValueError, match=r"x must be bytes or in \[-1, 1\], got numbers from 0 to 255"):
        measure.rows(space, x)
    assert torch.equal(measure.rows(space, x.byte()), x / 127.5 - 1)
