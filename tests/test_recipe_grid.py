"""Every way to set a diffusion recipe up: it trains, looks, draws and judges, or is refused before anything is made."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partialmethod
from typing import get_args

import pytest
import torch
from PIL import Image
from torch import nn

from jensen.core.seeding import generator
from jensen.data.pool import refuse_nonfinite
from jensen.diffusion import SAMPLERS
from jensen.models import Diffusion
from jensen.recipes import captcha_judging, configure, diffusion_judging, score_judging
from jensen.recipes.base import Request, silent
from jensen.recipes.captcha import Captcha, CaptchaNetwork
from jensen.recipes.diffusion import DiffusionLoss, DiffusionNetwork
from jensen.recipes.running import new_state
from jensen.recipes.score import ScoreNetwork
from jensen.report import plots
from jensen.training import fit


def choices(settings, name):
    return get_args(settings.model_fields[name].annotation)


OUTPUTS, SCHEDULES = (choices(DiffusionNetwork, name) for name in ("output", "schedule"))
LOSSES = choices(DiffusionLoss, "name")
outputs = pytest.mark.parametrize("output", OUTPUTS)
SINGULAR = {"x": ("cosine", "linear", "rectified"), "eps": ("cosine", "rectified")}  # at t = 0 and at t = 1
TINY = (
    *("data.points=60", "data.test=20", "network.width=8", "network.blocks=1", "training.batch_size=8"),
    *("training.steps=2", "judging.samples=16", "judging.steps=[2]", "judging.ode_rows=2", "sampling.steps=2"),
)


@pytest.fixture
def quick(monkeypatch):
    """Pictures of a few pixels, bounds of a few strata, one way there and back."""
    monkeypatch.setattr(plots, "points", lambda x, **_: refuse_nonfinite(x) or Image.new("RGB", (8, 6)))
    monkeypatch.setattr(Diffusion, "bound", partialmethod(Diffusion.bound, strata=2))
    for judging in (diffusion_judging, captcha_judging, score_judging):
        monkeypatch.setattr(judging, "TRIPS", (2,))


def trained(recipe, folder):
    """Two steps and a look: the averaged model, as a run's folder keeps it."""
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    setting, budget = recipe.setting(model), recipe.training.budget()
    state = new_state(recipe, setting.objective, budget)
    fit(state, setting.stream, budget)
    recipe.preview(state.average, setting, folder, state.step)
    return state.average.eval().requires_grad_(False)


def finite(found):
    """Every number of an evaluation."""
    return json.dumps(found, allow_nan=False) != ""


# every triple of view, schedule and loss ------------------------------------------------------------------------------


@outputs
def test_every_view_schedule_and_loss(output, tmp_path, quick):
    """200 triples in all: 165 train and draw, and 35 are refused, since a learned schedule is for the bound alone.
    Judging knows of the loss only whether it is the bound: it is tried with that on all, and with one other on one."""
    (tmp_path / "samples").mkdir()
    refused = 0
    for schedule in SCHEDULES:
        for loss in LOSSES:
            words = (f"network.output={output}", f"network.schedule={schedule}", f"loss.name={loss}")
            if schedule == "learned" and loss != "bound":
                with pytest.raises(ValueError, match=f"learned is trained by loss.name bound, not by {loss}"):
                    configure("moons-diffusion", [*TINY, *words])
                refused += 1
                continue
            recipe = configure("moons-diffusion", [*TINY, "judging.bound_steps=2", *words])
            model = trained(recipe, tmp_path)
            if loss == "bound" or (loss, schedule) == ("v", "cosine"):
                found = recipe.evaluate(model, tmp_path)
                assert finite(found)
                assert ("trained" in found["likelihood"]) == (loss == "bound")
                assert found["round_trip"]["end"] == (0.03 if output == "x" and schedule in SINGULAR["x"] else 0)
                assert len({likely.name for likely in recipe.likelihoods(found)}) == 3 + (loss == "bound")
    assert refused == 7


@outputs
def test_every_sampler_from_pure_noise(output):
    """Drawn in three steps by each sampler from t = 1, on each schedule, and from one noise to another: 275 in all, of
    which 22 are refused, those of eps where alpha is 0. They are drawn from t = 0.999."""
    for schedule in SCHEDULES:
        words = [*TINY, f"network.output={output}", f"network.schedule={schedule}"]
        words += ["loss.name=bound"] if schedule == "learned" else []
        start = 1.0
        if output == "eps" and schedule in SINGULAR["eps"]:
            for sampler in SAMPLERS:
                with pytest.raises(ValueError, match=r"eps has no finite x at t = 1 of the .*: set sampling.start"):
                    configure("moons-diffusion", [*words, "sampling.start=1", f"sampling.sampler={sampler}"])
            start = 0.999
        torch.manual_seed(0)
        recipe = configure("moons-diffusion", [*words, f"sampling.start={start}"])
        model = recipe.model().requires_grad_(False)
        nn.init.normal_(model.denoiser.net.exit.weight, std=0.1)
        for sampler in SAMPLERS:
            asked = Request(n=2, changes={"sampler": sampler, "steps": 3})
            assert bool(recipe.drawing(model, asked).draw(silent("", 0)).isfinite().all()), (schedule, sampler)
        between = Request(n=1, between=3, changes={"steps": 3})
        assert bool(recipe.drawing(model, between).draw(silent("", 0)).isfinite().all())


class Gaussian(nn.Module):
    """The exact network for N(0, 1) data on the cosine schedule, where z has variance 1 at every time."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, t):
        alpha, sigma = torch.cos(t * math.pi / 2)[:, None], torch.sin(t * math.pi / 2)[:, None]
        views = {"x": alpha, "eps": sigma, "v": 0, "flow": sigma - alpha, "edm": 0}
        return views[self.output] * z


@outputs
def test_every_view_of_one_model_has_the_likelihood_of_it(output):
    """The model of exact views is x = z / alpha with z of N(0, I) at the first level: the ODE's log p is that
    Gaussian's at every datum, to the solver's tolerance, whatever the view and wherever it is singular."""
    recipe = configure("moons-diffusion", [*TINY, f"network.output={output}", "judging.bound_steps=2"])
    model = recipe.model()
    recipe.setting(model)
    model.denoiser.net = Gaussian(output)
    model.centre.fill_(0.3)
    x = recipe.test_data()["x"]
    judge = diffusion_judging.Judge(recipe, model, None, silent)
    found = judge._likelihood(x, None, generator(0))
    alpha = math.cos(recipe.judging.first * math.pi / 2)
    law = torch.distributions.Normal(0.3, float(model.scale) / alpha)
    for name, rows in (("ode", recipe.judging.ode_rows), ("continuous", len(x)), ("discrete", len(x))):
        exact = float(law.log_prob(x[:rows]).sum(1).mean())
        if name == "ode":
            assert found[name]["mean"] == pytest.approx(exact, abs=2e-3)
        else:  # a bound on the law of the reverse diffusion of the same denoiser, which is that Gaussian noised
            assert found[name]["mean"] < exact + 4 * found[name]["noise"]
    assert found["ode"]["first"] == pytest.approx({"time": 0.03, "log_snr": -2 * math.log(math.tan(0.015 * math.pi))})


# others that are diffusions -------------------------------------------------------------------------------------------


def test_every_view_schedule_and_loss_of_captcha(tmp_path, quick, monkeypatch):
    """80 triples: the loss; of each view and schedule a picture with a text and one without, and the way there and
    back."""
    pictures = torch.randint(256, (8, 1, 24, 64), dtype=torch.uint8, generator=generator(0))
    texts = torch.randint(10, (8, 4), generator=generator(0))
    monkeypatch.setattr(Captcha, "training_pictures", lambda self, track: (pictures, texts))
    monkeypatch.setattr(Captcha, "reader", lambda self: None)
    tiny = (
        "network.widths=[8]",
        "network.blocks=1",
        "sampling.steps=2",
        "training.batch_size=2",
        "sampling.start=0.999",
    )
    for output in choices(CaptchaNetwork, "output"):
        for schedule in choices(CaptchaNetwork, "schedule"):
            words = [*tiny, f"network.output={output}", f"network.schedule={schedule}"]
            model = configure("captcha", words).model().requires_grad_(False)
            model.sampling = replace(model.sampling, chunk=2)
            for loss in choices(CaptchaNetwork, "loss"):
                recipe = configure("captcha", [*words, f"network.loss={loss}"])
                setting = recipe.setting(model)
                assert bool(setting.objective(("model",), next(setting.stream(0)), 0)["model"].total.isfinite())
            for asked in (Request(texts=("0123",)), Request(n=1)):
                recipe.drawing(model, asked).draw(silent("", 0))
            judge = captcha_judging.Judge(recipe, model, None, tmp_path, silent)
            assert finite(judge.round_trip(pictures[:2], texts[:2]))


@pytest.mark.parametrize("loss", choices(ScoreNetwork, "loss"))
def test_every_loss_of_a_score_model(loss, tmp_path, quick):
    (tmp_path / "samples").mkdir()
    words = [*TINY, "network.levels=3", "judging.steps=[1]", "sampling.steps=1"]
    recipe = configure("moons-score", [*words, f"network.loss={loss}"])
    model = trained(recipe, tmp_path)
    found = recipe.evaluate(model, tmp_path)
    assert finite(found)
    sigma = 0.05
    for name in ("bound", "ode"):
        assert found[name]["first"] == pytest.approx({"time": 0.0, "log_snr": -2 * math.log(sigma)}, rel=1e-5)
