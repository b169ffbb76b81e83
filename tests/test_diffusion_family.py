"""Diffusion models as a family: each combination of settings trains and samples, or raises an error of one line."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import nn

from jensen.core.seeding import generator
from jensen.data.dataset import Data, some
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space, Text
from jensen.diffusion import SAMPLERS, CosineSchedule, GaussianOracle
from jensen.judging import Case, Played, bounds
from jensen.judging.case import drawer
from jensen.judging.settings import Judging
from jensen.models import Diffusion as Model
from jensen.objectives import Hybrid
from jensen.recipes.families.diffusion import Diffusion
from jensen.recipes.settings import Training
from jensen.training import TrainState, descend, fit

TRAINING = Training(steps=2, batch_size=8)
POINTS = Space((2,), rows=60)
PICTURES = Space((1, 8, 8), levels=17, cond=Classes(("a", "b", "c")), mean=-0.4, std=0.7, rows=60)
TEXTS = Space((3, 8, 16), levels=256, cond=Text("xyz", 4), rows=60)
FIELDS = {key: type(getattr(Diffusion(), key)).model_fields for key in ("network", "loss")}
OUTPUTS = get_args(FIELDS["network"]["output"].annotation)
SCHEDULES = get_args(FIELDS["network"]["schedule"].annotation)
LOSSES = get_args(FIELDS["loss"]["name"].annotation)
UNET = {"network.kind": "unet", "network.widths": (8, 16), "network.patch": 2, "network.blocks": 1}


def family(settings=None, **more):
    """The family with these dotted settings and a small network."""
    tree = {"network": {"blocks": 1}, "loss": {}, "sampling": {"steps": 2}}
    settings = {**(settings or {}), **more}
    if settings.get("network.kind") != "unet":
        settings = {"network.width": 8, **settings}
    for key, value in settings.items():
        group, name = key.split(".")
        tree[group][name] = value
    return Diffusion.model_validate(tree)


def data(space, n=60):
    x = space.settled(torch.randn(n, *space.shape, generator=generator(0)))
    cond = {}
    if space.cond is not None:
        cond["cond"] = torch.randint(space.cond.size, (n, space.cond.width), generator=generator(1))
    rows = Tensors(x=x, **cond)
    return Data("data", "0", space, rows, rows)


def trained(recipe, space, training=TRAINING):
    """The training state after a few steps."""
    recipe.refuse(space, training)
    torch.manual_seed(0)
    objective, budget = recipe.objective(recipe.model(space), space), training.budget()
    state = TrainState(objective, recipe.players(objective, training, budget))
    fit(state, recipe.stream(data(space), training.batch_size, 0), budget)
    return state


# every combination ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_view_schedule_and_loss(output):
    """All valid combinations have a finite loss and finite gradients."""
    batch = next(data(POINTS).stream(8, 0)(0))
    for schedule in SCHEDULES:
        for loss in LOSSES:
            settings = {"network.output": output, "network.schedule": schedule, "loss.name": loss}
            if schedule == "learned" and loss != "bound":
                with pytest.raises(ValueError, match=f"learned needs loss.name bound, got {loss}"):
                    family(settings)
                continue
            recipe = family(settings)
            recipe.refuse(POINTS, TRAINING)
            torch.manual_seed(0)
            objective = recipe.objective(recipe.model(POINTS), POINTS)
            losses = objective(objective.phases[0].players, batch, 0)
            sum(found.total for found in losses.values()).backward()
            grads = [p.grad for p in objective.parameters() if p.grad is not None]
            assert grads
            assert all(bool(grad.isfinite().all()) for grad in grads), (schedule, loss)


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_sampler(output):
    """Samples start at t = 1. Networks that predict eps refuse this where alpha is 0 at t = 1, and start at t =
    0.999."""
    for schedule in SCHEDULES:
        settings = {"network.output": output, "network.schedule": schedule, "sampling.start": 1.0}
        settings |= {"loss.name": "bound"} if schedule == "learned" else {}
        if output == "eps" and schedule in ("cosine", "rectified"):
            with pytest.raises(ValueError, match=r"eps has no finite x at t = 1 of the .*: set sampling.start lower"):
                family(settings).refuse(POINTS, TRAINING)
            settings["sampling.start"] = 0.999
        recipe = family(settings)
        recipe.refuse(POINTS, TRAINING)
        torch.manual_seed(0)
        model = recipe.model(POINTS).requires_grad_(False)
        nn.init.normal_(model.denoiser.net.exit.weight, std=0.1)
        for sampler in SAMPLERS:
            made = model.sample(2, sampler=sampler, steps=3, chunk=2)
            assert bool(made.isfinite().all()), (schedule, sampler)


@pytest.mark.parametrize(
    ("shape", "kind", "cpu", "gpu"),
    [
        ((2,), "mlp", 256, 256),
        ((1, 8, 8), "mlp", 256, 256),
        ((1, 24, 64), "unet", 32, 32),
        ((3, 48, 48), "unet", 16, 32),  # 65,536 / 2,304 = 28.4
        ((3, 48, 144), "unet", 8, 32),
        ((3, 1024, 1024), "unet", 1, 32),
    ],
)
def test_samples_that_are_drawn_together_fit_into_the_cache_of_a_cpu(monkeypatch, shape, kind, cpu, gpu):
    space, network = Space(shape, None if kind == "mlp" else 256), family({"network.kind": kind}).network
    for there, rows in ((False, cpu), (True, gpu)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert network.chunk(space) == rows


@pytest.mark.parametrize("space", [PICTURES, TEXTS, Space((2, 8, 8))], ids=["classes", "texts", "none"])
def test_every_kind_of_condition_with_a_unet(space):
    recipe = family(UNET)
    state = trained(recipe, space)
    assert recipe.conditional(space) == (space.cond is not None)
    cond = None if space.cond is None else torch.zeros(3, space.cond.width, dtype=torch.long)
    assert state.average.sample(3, cond=cond, chunk=4).shape == (3, *space.shape)
    assert state.average.sampling.chunk == 32
    parameters = dict(state.average.named_parameters())
    assert any(name.endswith("text.prior") for name in parameters) == isinstance(space.cond, Text)


def test_the_class_changes_what_a_unet_predicts():
    net = family(UNET).model(PICTURES).denoiser.net.requires_grad_(False)
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(2, 1, 8, 8, generator=generator(0)), torch.full((2,), 0.5)
    a, b = (net(x, t, torch.full((2, 1), k)) for k in (0, 1))
    assert not torch.allclose(a, b)
    bare = family(UNET).model(Space((1, 8, 8))).denoiser.net
    for wrong, takes in ((net, "a condition"), (bare, "no condition")):
        with pytest.raises(ValueError, match=f"this network takes {takes}, got"):
            wrong(x, t, *((torch.zeros(2, 1).long(),) if wrong is bare else ()))


def test_a_model_without_conditions():
    """With loss.drop 1 the network has no classes, and the trained weights do not depend on the conditions."""
    recipe = family({"loss.drop": 1.0})
    assert not recipe.conditional(PICTURES)
    state = trained(recipe, PICTURES)
    assert state.average.denoiser.null is None
    plain = trained(family(), Space((1, 8, 8), levels=17, mean=-0.4, std=0.7, rows=60))
    for ours, theirs in zip(state.average.parameters(), plain.average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_learned_variances_are_trained_and_drawn_from():
    recipe = family(
        {"loss.variance": "learned", "loss.levels": 4, "sampling.sampler": "ancestral", "sampling.variance": "learned"}
    )
    state = trained(recipe, POINTS, Training(steps=30, batch_size=8))
    assert isinstance(state.objective, Hybrid)
    assert state.objective.steps == 4
    weight = state.average.denoiser.net.exit.weight
    assert weight.shape[0] == 4
    assert bool((weight[2:] != 0).any())
    assert state.average.sample(3, chunk=4).shape == (3, 2)
    fraction = state.average.denoiser(torch.zeros(1, 2), torch.full((1,), 0.5)).fraction
    assert fraction.shape == (1, 2)


def test_the_scale_is_that_of_the_space():
    model = family().model(PICTURES)
    assert (float(model.centre), float(model.scale)) == pytest.approx((-0.4, 0.7))


# likelihoods ----------------------------------------------------------------------------------------------------------


class Gaussian(nn.Module):
    """The exact network for N(0, 1) data on the cosine schedule, where z has variance 1 at every time."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, t):
        alpha, sigma = torch.cos(t * math.pi / 2)[:, None], torch.sin(t * math.pi / 2)[:, None]
        views = {"x": alpha, "eps": sigma, "v": 0, "flow": sigma - alpha, "edm": 0}
        return views[self.output] * z


def case_of(model, space, rows, settings, **more):
    return Case(model.eval(), rows, drawer(model, space, 0), settings=settings, **more)


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_view_of_one_model_has_its_likelihood(output):
    """The exact network gives the model z / alpha with z ~ N(0, I) at the first level. The ODE's log p is that of
    this Gaussian to the solver's tolerance, and the continuous bound that of the oracle up to t = 0.999, within 4
    Monte Carlo errors, for all parametrizations, including singular ones.
    """
    model = family({"network.output": output}).model(POINTS)
    model.denoiser.net = Gaussian(output)
    model.centre.fill_(0.3)
    rows = data(POINTS, 100)
    x = some(rows.test, 100)["x"]
    part = bounds.bounds(case_of(model, POINTS, rows, Judging(bound_steps=2, ode_rows=20)))
    found = {finding.key: finding for finding in part.findings}
    law = torch.distributions.Normal(0.3, 1 / math.cos(0.03 * math.pi / 2))
    assert found["ode"].value == pytest.approx(float(law.log_prob(x[:20]).sum(1).mean()), abs=2e-3)
    last = 0.999 if output == "eps" else 1.0
    oracle = GaussianOracle(torch.zeros(2), torch.ones(2), CosineSchedule())
    exact = oracle.bound(x - 0.3, span=(0.03, last)).likelihood.value.mean()
    noise = float(found["bound"].note.split("Monte Carlo error ")[1].split(";")[0])
    assert found["bound"].value == pytest.approx(float(exact), abs=4 * noise)
    assert found["bound"].value < float(law.log_prob(x).sum(1).mean()) + 4 * noise


def test_the_bound_trained_on_is_the_objectives():
    """The mean training loss on the held-out data over 30 passes is within 4 standard errors of the bound."""
    recipe = family({"network.schedule": "learned", "loss.name": "bound", "loss.drop": 0.5})
    state = trained(recipe, PICTURES)
    rows, objective = data(PICTURES), state.objective
    objective.model = state.average
    played = Played(objective, descend, state.players, state.step, rows.stream(8, 0))
    settings = Judging(bound_steps=2, ode_rows=0)
    case = case_of(state.average, PICTURES, rows, settings, conditional=True, played=lambda: played)
    part = bounds.bounds(case)
    found = next(finding for finding in part.findings if finding.key == "bound_trained")
    assert part.details["likelihood"]["bound_trained"]["first"]["time"] == 0
    objective.drop = 0.0  # the class is given with every held-out row
    objective.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        batch = rows.test[torch.arange(60)]
        losses = torch.stack([objective(("model",), batch, 0)["model"].total for _ in range(30)])
    noise = float(found.note.split("Monte Carlo error ")[1].split(";")[0])
    error = math.hypot(float(losses.std()) / 30**0.5, noise)
    assert found.value == pytest.approx(-float(losses.mean()), abs=4 * error)


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network.lowest": 20, "network.schedule": "learned", "loss.name": "bound"}, "network.lowest must be below"),
        ({"network.highest": 12}, "network.highest is not used by schedule cosine, got 12.0: leave it at 9.0"),
        ({"loss.name": "bound", "loss.times": "logit-normal"}, "loss.times must be uniform"),
        ({"loss.time_mean": 0.5}, "loss.time_mean is not used by uniform times"),
        ({"loss.levels": 10}, "loss.levels is not used with fixed variances"),
        ({"loss.variance": "learned", "loss.name": "bound"}, "loss.variance learned needs a weighted loss"),
        ({"sampling.sampler": "ancestral", "sampling.variance": "learned"}, "needs loss.variance=learned"),
        ({"sampling.eta": 0.5}, "eta is a setting of sampler 'ddim', got sampler 'dpm\\+\\+'"),
        ({"sampling.sampler": "dpm"}, "sampler must be one of"),
        ({"sampling.guidance": 2, "sampling.style_guidance": 1e7}, "style_guidance must be at most 1000000"),
        (
            {"sampling.guidance": 2, "sampling.guidance_interval": (0.6, 0.2)},
            r"must be \[low, high\] with low <= high, got \[0.6, 0.2\]",
        ),
        ({"sampling.guidance": 2, "sampling.guidance_interval": (0.6, 1.2)}, "sampling.guidance_interval"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        family(settings)


@pytest.mark.parametrize(
    ("settings", "space", "scale"),
    [
        ({"sampling.guidance": None}, PICTURES, 1.25),
        ({"sampling.guidance": None, "loss.drop": 0.0}, PICTURES, 1.0),
        ({"sampling.guidance": None, "loss.drop": 1.0}, PICTURES, 1.0),
        ({"sampling.guidance": None}, POINTS, 1.0),
        ({"sampling.guidance": 3}, PICTURES, 3.0),
        ({}, PICTURES, 1.0),
    ],
)
def test_guidance_left_to_the_data(settings, space, scale):
    """null: 1.25 for pictures whose model can be guided, otherwise none."""
    diffusion = family(settings)
    diffusion.refuse(space, TRAINING)
    assert diffusion.model(space).sampling.guidance == scale


def test_styles_of_a_text_are_guided_by_a_scale_of_their_own():
    """Scale 0 of the styles draws what guidance by the text alone draws; the text's scale draws as without it."""
    styled = Space((3, 8, 16), levels=256, cond=Text("xyz", 4, styles=(("thin", "bold"), ("red",))), rows=60)
    diffusion = family(UNET | {"sampling.guidance": 3.0, "sampling.style_guidance": 0.0, "sampling.steps": 2})
    diffusion.refuse(styled, TRAINING)
    model, texts = diffusion.model(styled), styled.cond
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)

    def drawn(text, **changes):
        return model.sample(1, cond=texts.encode([text]), generator=torch.Generator().manual_seed(0), **changes)

    torch.testing.assert_close(drawn("zyxz bold red"), drawn("zyxz", style_guidance=None))
    same = drawn("zyxz bold red", style_guidance=None)
    torch.testing.assert_close(drawn("zyxz bold red", style_guidance=3.0), same)
    assert (drawn("zyxz bold red") - same).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ({"loss.drop": 0.3}, POINTS, "loss.drop is not used for data without conditions"),
        ({"sampling.clip": True}, POINTS, "sampling.clip needs pictures"),
        ({"sampling.guidance": 2}, POINTS, "sampling.guidance must be 1, got 2: the model has no conditions"),
        ({"loss.drop": 0.0, "sampling.guidance": 2}, PICTURES, "loss.drop 0 trains no example without"),
        ({"loss.drop": 1.0, "sampling.guidance": 2}, PICTURES, "loss.drop 1 trains no example with its condition"),
        ({"network.output": "eps", "sampling.start": 0.99999999}, POINTS, "eps has no finite x at t = 1"),  # float32
        ({"network.output": "eps", "loss.variance": "learned"}, POINTS, "t = 1 .* learned variances are trained there"),
        (
            {"network.output": "x", "network.highest": 300, "network.schedule": "learned", "loss.name": "bound"},
            POINTS,
            "finite x and eps, got t = 0, .* sigma = 0",
        ),
        (
            {"sampling.guidance": 2, "sampling.style_guidance": 2},
            PICTURES,
            "sampling.style_guidance must be null, got 2: there are no texts with named styles",
        ),
        (
            {"sampling.style_guidance": 2},
            POINTS,
            "sampling.style_guidance must be null, got 2: the model has no conditions",
        ),
        ({"sampling.guidance_interval": (0.5, 1.0)}, PICTURES, "guidance_interval is not used without guidance"),
        (
            {"sampling.guidance": None, "sampling.guidance_interval": (0.5, 1.0)},
            POINTS,
            "sampling.guidance_interval is not used without guidance",
        ),
        ({"network.kind": "mlp"}, TEXTS, "network.kind must be unet for data with texts, got mlp"),
        (UNET, POINTS, "network.kind must be mlp for points, got unet"),
        (UNET | {"network.widths": (12,)}, PICTURES, "network.widths must be multiples of 8"),
        (UNET | {"network.width": 128}, PICTURES, "network.width is not used by network.kind unet"),
        ({"network.patch": 2}, PICTURES, "network.patch is not used by network.kind mlp"),
    ],
)
def test_data_that_do_not_suit(settings, space, message):
    with pytest.raises(ValueError, match=message):
        family(settings).refuse(space, TRAINING)


@pytest.mark.parametrize(
    ("settings", "space", "changes", "request_", "message"),
    [
        ({}, POINTS, {"guidance": 2.0}, {}, "--guidance cannot be used with this run: the model has no conditions"),
        ({"loss.drop": 0.0}, PICTURES, {"guidance": 2.0}, {}, "--guidance cannot be used with this run: loss.drop 0"),
        ({}, PICTURES, {"sampler": "ancestral"}, {"interpolating": True}, "draws noise"),
        ({}, PICTURES, {"eta": 0.5}, {"interpolating": True}, "draws noise"),
        ({"loss.drop": 0.0}, PICTURES, {}, {"interpolating": True}, "--text is required for this run"),
        (UNET | {"loss.drop": 0.0}, TEXTS, {}, {}, "--text is required for this run"),
        ({}, PICTURES, {"guidance_interval": (0.5, 1.0)}, {}, "--guidance-interval has no effect without guidance"),
        ({}, PICTURES, {"guidance": 2.0, "guidance_interval": (0.5, 2.0)}, {}, "guidance_interval must be two times"),
        ({}, PICTURES, {"guidance": 2.0, "guidance_interval": (0.5, 1.0)}, {}, None),
        (
            {},
            POINTS,
            {"style_guidance": 2.0},
            {},
            "--style-guidance cannot be used with this run: the model has no cond",
        ),
        ({}, PICTURES, {"guidance": 2.0, "style_guidance": 2.0}, {}, "--style-guidance cannot be used with this run"),
        ({}, POINTS, {"steps": 0}, {}, "steps must be at least 1, got 0"),
        ({}, POINTS, {"eta": 0.5}, {}, "eta is a setting of sampler 'ddim'"),
        ({}, PICTURES, {"guidance": 2.0, "eta": 0.0}, {"interpolating": True, "conditions": True}, None),
        ({"loss.drop": 0.0}, PICTURES, {"steps": 5}, {}, None),
        ({"loss.drop": 0.0}, PICTURES, {}, {"interpolating": True, "conditions": True}, None),
    ],
)
def test_requests_that_do_not_suit(settings, space, changes, request_, message):
    recipe = family(settings)
    model = recipe.model(space)
    asked = {"interpolating": False, "conditions": False, **request_}
    if message is None:
        recipe.refuse_request(model, space, changes, **asked)
        return
    with pytest.raises(ValueError, match=message):
        recipe.refuse_request(model, space, changes, **asked)


def test_a_model_is_built_as_its_settings_say():
    model = family({"sampling.sampler": "ddim", "sampling.eta": 0.5, "sampling.shift": 2.0}).model(POINTS)
    assert isinstance(model, Model)
    assert (model.sampling.eta, model.sampling.shift, model.sampling.chunk) == (0.5, 2.0, 256)
    assert not model.sampling.step.deterministic
