"""Score models and kernel densities as families."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from jensen.core.seeding import generator
from jensen.data.dataset import Data, some
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.diffusion import SAMPLERS
from jensen.models import Annealing
from jensen.recipes.families.kernel import Kernel
from jensen.recipes.families.score import Score, ScoreNetwork
from jensen.recipes.settings import Training
from jensen.score import annealed_variance, leave_one_out, silverman
from jensen.training import TrainState, fit

TRAINING = Training(steps=2, batch_size=8)
POINTS = Space((2,), mean=0.2, std=1.5, rows=60)
F64 = torch.float64


def rows(space=POINTS, n=60):
    cond = {} if space.cond is None else {"cond": torch.zeros(n, 1, dtype=torch.long)}
    found = Tensors(x=torch.randn(n, *space.shape, generator=generator(0)), **cond)
    return Data("data", "0", space, found, found)


def trained(recipe, space=POINTS, training=TRAINING):
    training = training.model_copy(update={"steps": 1}) if recipe.fitted else training
    recipe.refuse(space, training)
    torch.manual_seed(0)
    model = recipe.model(space)
    recipe.begin(model, rows(space), 0)
    objective, budget = recipe.objective(model, space), training.budget()
    state = TrainState(objective, recipe.players(objective, training, budget))
    fit(state, recipe.stream(rows(space), training.batch_size, 0), budget)
    return state.average


def score(network=None, **sampling):
    small = {"width": 8, "blocks": 1, "levels": 3}
    return Score.model_validate({"network": {**small, **(network or {})}, "sampling": {"steps": 2, **sampling}})


@pytest.mark.parametrize("loss", get_args(ScoreNetwork.model_fields["loss"].annotation))
def test_every_loss_trains_and_classes_are_left_out(loss):
    for space in (POINTS, Space((2,), cond=Classes(("a",)))):
        assert not score().conditional(space)
        model = trained(score({"loss": loss}), space)
        assert bool(model.sample(3, chunk=4).isfinite().all())
    assert (float(trained(score()).centre), float(trained(score()).scale)) == pytest.approx((0.2, 1.5))


@pytest.mark.parametrize("sampler", ["langevin", *SAMPLERS])
def test_every_sampler(sampler):
    recipe = score(sampler=sampler, steps=3)
    model = recipe.model(POINTS)
    assert bool(model.sample(2, chunk=2).isfinite().all())
    recipe.refuse_request(model, POINTS, {"steps": 5})


def test_a_unet_of_pictures():
    network = {"kind": "unet", "width": None, "widths": (8,), "patch": 2}
    assert trained(score(network), Space((1, 8, 8))).sample(2, chunk=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("network", "sampling", "message"),
    [
        ({"smallest": 9}, {}, "network.smallest must be below network.largest, got 9 and 8"),
        ({}, {"sampler": "dpm++", "step_size": 0.2}, r"sampling.step_size is not used by sampler dpm\+\+, got 0.2"),
        ({}, {"eta": 0.5}, "eta is a setting of sampler 'ddim', got sampler 'langevin'"),
        ({}, {"sampler": "euler-maruyama"}, "sampler must be one of langevin, "),
    ],
)
def test_settings_that_do_not_go_together(network, sampling, message):
    with pytest.raises(ValueError, match=message):
        score(network, **sampling)


def test_requests():
    recipe = score()
    model = recipe.model(POINTS)
    for changes, message in (({"steps": 0}, "steps must be from 1 to"), ({"eta": 1.0}, "eta is a setting")):
        with pytest.raises(ValueError, match=message):
            recipe.refuse_request(model, POINTS, changes)
    recipe.refuse_request(model, POINTS, {"sampler": "ddim", "eta": 1.0})


@pytest.mark.parametrize(("largest", "smallest", "levels", "steps"), [(8.0, 0.05, 12, 30), (20.0, 0.1, 16, 20)])
def test_the_presets_annealing_reaches_equilibrium(largest, smallest, levels, steps):
    """For standard deviations of the data from 5 times the last noise level to 3 overall standard deviations:
    variance v^2 / (v + sigma^2) to 5 percent, with the exact score; with step size 0.1 and 10 moves it is off by
    over 50 percent.
    """
    model = score({"largest": largest, "smallest": smallest, "levels": levels}, steps=steps).model(POINTS)
    last, sampling = model.sigmas[-1].item(), model.sampling
    v = torch.logspace(math.log10(25 * last**2), math.log10(9), 50, dtype=F64)
    for settings in (sampling, Annealing()):
        found = annealed_variance(v, model.sigmas, settings.step_size, settings.steps)
        assert float((found / (v**2 / (v + last**2)) - 1).abs().max()) < 0.05
    short = annealed_variance(v, model.sigmas, 0.1, 10)
    assert float((short / (v**2 / (v + last**2)) - 1).abs().max()) > 0.5


# kernel densities -----------------------------------------------------------------------------------------------------


def kernel(density=None, **sampling):
    return Kernel.model_validate({"density": density or {}, "sampling": sampling})


@pytest.mark.parametrize(
    ("bandwidth", "wanted"), [("silverman", silverman), ("leave-one-out", leave_one_out), (0.3, lambda _: 0.3)]
)
def test_a_kernel_density_is_that_of_the_training_points(bandwidth, wanted):
    """Without players, training does not change it. Its log p is the log mean of Gaussians, by hand."""
    model, x = trained(kernel({"bandwidth": bandwidth})), some(rows().train, 60)["x"]
    assert torch.equal(model.points, x)
    h = wanted(x)
    assert float(model.log_bandwidth.exp()) == pytest.approx(h, rel=1e-6)
    at = torch.tensor([[0.1, -0.2]], dtype=F64)
    log_p = -(at - x.double()).square().sum(1) / (2 * h**2) - math.log(2 * math.pi * h**2)
    assert float(model.log_prob(at)) == pytest.approx(float(log_p.logsumexp(0) - math.log(60)), rel=1e-6)


def test_a_learned_bandwidth_comes_to_the_best_one():
    """The optimum of the leave-one-out likelihood, after 300 steps of 64 points: within 10 percent."""
    model = trained(
        kernel({"bandwidth": 1.0, "learned": True}),
        training=Training(steps=300, batch_size=64, rate=0.02, average=0.9, weight_decay=0.0),
    )
    best = leave_one_out(rows().train[torch.arange(60)]["x"])
    assert float(model.log_bandwidth.detach().exp()) == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize("sampler", ["exact", "langevin", "mala", "ascent"])
def test_every_sampler_of_a_kernel_density(sampler):
    model = trained(kernel(sampler=sampler))
    steps = {} if sampler == "exact" else {"steps": 20}
    assert bool(model.sample(3, **steps).isfinite().all())


def test_what_a_kernel_density_refuses():
    with pytest.raises(ValueError, match=r"sampling\.steps is not used by sampler exact"):
        kernel(steps=5)
    with pytest.raises(ValueError, match="at least two training examples, got 1"):
        kernel().refuse(Space((2,), rows=1), Training(steps=1))
    recipe = kernel()
    with pytest.raises(ValueError, match="--steps cannot be used with sampler exact"):
        recipe.refuse_request(recipe.model(POINTS), POINTS, {"steps": 5})


def test_points_can_be_fewer_than_the_training_set():
    recipe = kernel({"points": 10})
    assert trained(recipe).points.shape == (10, 2)
