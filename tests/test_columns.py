"""Columns of different scales: findings do not depend on the unit of a column, except log densities, whose change is
exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jensen.core.seeding import generator
from jensen.data.dataset import Data, spaced
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.judging import JUDGES, Case
from jensen.judging.case import Played, drawer
from jensen.judging.critics import fresh_critic
from jensen.judging.features import features_of
from jensen.judging.samples import measured
from jensen.judging.settings import Judging
from jensen.metrics import variety
from jensen.recipes.recipe import Family
from jensen.recipes.settings import Training
from jensen.report.scatter import scatter

pytestmark = pytest.mark.usefixtures("short_judging", "short_classifier")
FACTOR = 1024.0  # a power of two: products are exact
CHANGED = 1  # the column that is measured in another unit
SETTINGS = Judging(samples=60, rows=40, steps=(3,), bound_steps=2, ode_rows=4, critic_steps=5, scales=(2.0,))
SMALL = {"kind": "mlp", "width": 16, "blocks": 1}
FAMILIES = {
    "diffusion": {"network": SMALL, "sampling": {"steps": 4}},
    "score": {"network": SMALL | {"levels": 3}, "sampling": {"steps": 2}},
    "gan": {"network": {"width": 16, "critic_width": 16}, "game": {"loss": "wasserstein", "penalty": "wgan-gp"}},
}


def data(factor=1.0, columns=3, classes=2):
    """Points with columns of scales 1, 50, 2500, ..., the second column multiplied by `factor`."""
    rng = generator(0)
    labels = torch.arange(160) % classes
    x = torch.randn(160, columns, generator=rng) + labels[:, None]
    x = x * 50.0 ** torch.arange(columns) + 3
    cond = Classes(tuple("abcdef"[:classes])) if classes > 1 else None
    rows = {"x": x, "cond": labels[:, None]} if cond else {"x": x}
    train, test = (Tensors(**{name: v[part] for name, v in rows.items()}) for part in (slice(0, 120), slice(120, None)))
    space = spaced(Space((columns,), cond=cond, columns=tuple("uvwxyzst"[:columns])), train, by_column=True)
    if columns > CHANGED:
        unit = torch.ones(columns)
        unit[CHANGED] = factor
        train, test = (Tensors(**{**part.tensors, "x": part.tensors["x"] * unit}) for part in (train, test))
        mean, std = (tuple((v * unit).tolist()) for v in space.moments())
        space = replace(space, mean=mean, std=std)
    return Data("points", "0", space, train, test)


def case(kind, found, settings=SETTINGS):
    """An untrained model of a family, judged on the data."""
    family = Family.parse({"kind": kind} | FAMILIES[kind])
    torch.manual_seed(0)
    model = family.model(found.space)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    objective = family.objective(model, found.space)
    training = Training(steps=1, batch_size=8)
    players = family.players(objective, training, training.budget())
    played = Played(objective, family.update(), players, 1, found.stream(8, 0))
    draw = drawer(model.eval(), found.space, 0)
    return Case(model, found, draw, family.conditional(found.space), settings, played=lambda: played)


def findings(kind, found, settings=SETTINGS):
    case_ = case(kind, found, settings)
    parts = [part for judge in JUDGES.values() if (part := judge(case_)) is not None]
    return {f.key: f for part in parts for f in part.findings}


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.usefixtures("blank_plots")
def test_the_unit_of_a_column_changes_log_densities_alone(kind):
    one, other = (findings(kind, data(factor)) for factor in (1.0, FACTOR))
    assert one.keys() == other.keys()
    assert len(one) > 10
    for key, f in one.items():
        if f.facts.get("measure") == "density":
            assert other[key].value - f.value == pytest.approx(-math.log(FACTOR), abs=2e-4), key
        else:
            assert other[key].value == pytest.approx(f.value, rel=1e-6, nan_ok=True), key


# by family: changes to its settings; 1 per log(FACTOR) if the loss of the first player has the unit of log p
LOSSES = {
    "autoencoder": [({}, 1), ({"corruption": "noise"}, 1), ({"corruption": "mask"}, 1)],
    "vae": [({"bound": {"name": "iwae", "samples": 2}}, 1), ({"network": {"latents": (3, 2), "noise": "learned"}}, 1)],
    "kernel": [({"density": {"learned": True}, "sampling": {"sampler": "mala", "steps": 3}}, 1)],
    "mixture": [({"components": 2, "sweeps": 3}, None)],
    "score": [({"network": SMALL | {"levels": 3, "loss": "sliced-vr"}, "sampling": {"steps": 2}}, 0)],
    "diffusion": [({"network": SMALL, "loss": {"name": "bound"}, "sampling": {"steps": 2}}, 1)],
    "gan": [
        ({"network": {"fourier_features": 2, "width": 8, "critic_width": 8}, "game": game}, 0)
        for game in ({"penalty": "r1+r2"}, {"penalty": "dragan", "noise": 0.3})
    ],
}


@pytest.mark.parametrize(
    ("kind", "settings", "share"), [(kind, *case) for kind, cases in LOSSES.items() for case in cases]
)
def test_losses_likelihoods_and_samples_change_by_exactly_the_unit(kind, settings, share):
    """log p falls by log(FACTOR) and its negative rises by it; the scale of samples changes by FACTOR, exactly."""
    losses, log_p, made = [], [], []
    for factor in (1.0, FACTOR):
        d, family = data(factor, classes=1), Family.parse({"kind": kind} | settings)
        torch.manual_seed(0)
        model = family.model(d.space)
        family.begin(model, d, 0)
        if share is not None:
            objective, batch = family.objective(model, d.space), next(family.stream(d, 8, 0)(0))
            (found, *_) = objective.forward(objective.phases[0].players, batch, 1).values()
            losses.append(float(found.total.detach()))
        model.eval()
        if hasattr(model, "log_likelihood"):
            rows = d.test.tensors["x"][:4]
            log_p.append(model.log_likelihood(rows, generator=generator(1)).value.detach().double())
        unit = torch.ones(3)
        unit[CHANGED] = factor
        made.append(model.sample(3, generator=generator(2)) / unit)
    if share is not None:
        assert losses[1] - losses[0] == pytest.approx(share * math.log(FACTOR), rel=1e-5, abs=1e-5)
    if log_p:
        assert (log_p[0] - log_p[1]).tolist() == pytest.approx([math.log(FACTOR)] * 4, rel=1e-5)
    assert torch.allclose(*made, rtol=1e-6)


def test_noise_added_to_columns_is_relative_to_their_scales():
    d = data(classes=1)
    family = Family.parse({"kind": "autoencoder", "corruption": "noise", "amount": 0.5})
    corruption = family.objective(family.model(d.space), d.space).corruption
    torch.manual_seed(0)
    noise = (corruption(torch.zeros(4000, 3)) / torch.tensor(d.space.std)).std(0)
    assert noise.tolist() == pytest.approx([0.5] * 3, rel=5 / math.sqrt(2 * 4000))


def test_penalties_are_on_the_gradient_with_respect_to_standardised_columns():
    """R1 of weight 3: 3/2 times the mean squared gradient of the logits, through the Fourier features."""
    d = data(classes=1)
    settings = {"network": {"fourier_features": 3}, "game": {"penalty": "r1", "penalty_weight": 3}}
    family = Family.parse({"kind": "gan"} | settings)
    game = family.objective(family.model(d.space), d.space)
    x = d.test.tensors["x"][:8]
    u = d.space.comparable(x).requires_grad_()
    (gradient,) = torch.autograd.grad(game.critic(u).sum(), u)
    found = game.forward(("critic",), {"x": x}, 1)["critic"].terms["penalty"]
    assert float(found.mean()) == pytest.approx(1.5 * float((gradient**2).sum(1).mean()), rel=1e-5)


def test_features_of_a_classifier_and_a_fresh_critic_do_not_depend_on_units():
    one, other = data(), data(FACTOR)
    for choice in ("raw", "classifier"):
        a, b = (features_of(choice, d)(d.test.tensors["x"]) for d in (one, other))
        assert torch.equal(a, b)
    made = []
    for d in (one, other):
        torch.manual_seed(0)
        made.append(fresh_critic(d.space)(d.test.tensors["x"]))
    assert torch.equal(*made)


def test_variety_of_points_is_their_distance():
    """Two points 3 standard deviations apart in a column, and equal in the other: 3 / sqrt(2) per dimension."""
    x = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    assert variety(x, standardize=False) == pytest.approx(3 / math.sqrt(2))


def test_distances_of_samples_are_in_standard_deviations():
    """A column that varies by 2500 does not hide another: samples off by 3 in the first column are found."""
    d = data(classes=1)
    x = d.test.tensors["x"]
    off = x + torch.tensor([3.0, 0.0, 0.0])
    found = {f.key: f.value for f in measured(x, off, features_of("raw", d), d.space, 0, None)}
    std = d.space.std[0]
    assert found["frechet"] == pytest.approx((3 / std) ** 2, rel=1e-4)


@pytest.mark.parametrize(("columns", "classes"), [(1, 2), (8, 1)])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.usefixtures("blank_plots")
def test_every_judge_takes_points_of_any_number_of_columns(kind, columns, classes):
    few = SETTINGS.model_copy(update={"samples": 24, "rows": 24, "ode_rows": 2, "bound_steps": 1, "steps": ()})
    found = findings(kind, data(columns=columns, classes=classes), few)
    assert {"frechet", "copies", "transport"} <= found.keys()
    assert all(math.isfinite(f.value) for f in found.values())


@pytest.mark.parametrize(("columns", "size"), [(1, (480, 288)), (2, (480, 360)), (4, (533, 533)), (9, (667, 667))])
def test_points_are_drawn_by_pairs_of_columns(columns, size):
    x = torch.randn(50, columns, generator=generator(0))
    image = scatter(x, behind=x + 1, names=tuple("abcdefghi"[:columns]))
    assert image.size == size
    with pytest.raises(ValueError, match="finite"):
        scatter(x.log())


@pytest.mark.parametrize(
    ("classes", "captions"),
    [
        (1, ["Samples in blue, and held-out data in grey."]),
        (2, ["Samples by class, and held-out data in grey.", "Held-out data by class."]),
    ],
)
@pytest.mark.usefixtures("blank_plots")
def test_a_model_of_classes_shows_them_and_those_of_the_data(classes, captions):
    part = JUDGES["samples"](case("diffusion", data(classes=classes)))
    assert [picture.caption for picture in part.pictures] == captions
