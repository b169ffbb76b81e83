"""Public functions with tensors of a wrong shape or dtype, empty or NaN: an error of jensen's, or a right answer."""

from __future__ import annotations

import dataclasses
import importlib
import math
import traceback
import warnings
from pathlib import Path

import jaxtyping
import pytest
import torch

import jensen
from jensen.diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    GaussianOracle,
    Heun,
    Prediction,
)
from jensen.variational import LinearGaussian
from jensen.variational.mean_field import MixturePrior, NormalWishart

HOME = str(Path(jensen.__file__).parent)
N = torch.distributions.Normal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def critic(x):
    return x.flatten(1).sum(1) ** 2


def score(x):
    return -x


def noisy(x, sigma):
    return -x / sigma[:, None] ** 2


def log_prob(x):
    return -(x**2).flatten(1).sum(1) / 2


SCHEDULE = CosineSchedule()
ORACLE = GaussianOracle(torch.zeros(2), torch.ones(2), SCHEDULE)
MODEL = LinearGaussian(normal(2, 1), torch.zeros(2), 0.5)
Z = torch.distributions.Independent(N(torch.zeros(20, 1), torch.ones(20, 1)), 1)
GIVEN = {
    "x": normal(20, 2) + 3,
    "y": normal(20, 2, seed=1) + 3,
    "fresh": normal(20, 2, seed=2) + 3,
    "eps": normal(20, 2, seed=3),
    "pictures": torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    "others": torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1,
    "labels": torch.arange(20) % 3,
    "read": torch.arange(20) % 3,
    "words": torch.arange(40).view(20, 2) % 3,
    "factors": torch.arange(40).view(20, 2) % 3,
    "table": torch.eye(3, dtype=torch.long),
    "right": torch.arange(20) % 2 == 0,
    "confidence": torch.linspace(0.1, 0.9, 20),
    "v": torch.linspace(0.1, 0.9, 20),
    "w": torch.linspace(0.2, 0.7, 20),
    "importance": torch.rand(3, 2, generator=torch.Generator().manual_seed(0)),
    "modes": torch.tensor([[2.0, 3.0], [4.0, 3.0]]),
    "visits": torch.arange(40).view(10, 4) % 2,
    "draws": normal(40, 4),
    "many": normal(5, 20),
    "t": torch.linspace(0.5, 0.9, 20),
    "s": torch.linspace(0.1, 0.4, 20),
    "times": torch.tensor([0.9, 0.5, 0.1]),
    "sigmas": torch.tensor([2.0, 0.5]),
    "levels": torch.linspace(0.5, 2.0, 20),
    "first": normal(3),
    "second": normal(3, seed=1),
    "share": torch.linspace(0, 1, 5),
    "mean": torch.zeros(2),
    "precision": torch.eye(2),
    "logits": normal(4, 3),
    "log_p": normal(3, 2),
    "theta": torch.tensor(0.3),
    "few": normal(6, 1),
}

RIGHT = """
metrics.auc(v, w)
metrics.bits_per_dim(v, 4)
metrics.class_coverage(labels, 3)
metrics.completeness(importance)
metrics.confusion(labels, read, 3)
metrics.dci(x, factors)
metrics.energy_distance(x, y)
metrics.entropy(factors)
metrics.extrapolated_frechet_distance(x, y, shares=2)
metrics.factor_vae_score(x, factors, votes=10, batch=4)
metrics.frechet_distance(x, y)
metrics.high_frequency_power(pictures)
metrics.kernel_distance(x, y)
metrics.memorisation(x, y, fresh)
metrics.mig(x, factors)
metrics.mode_coverage(x, modes, 0.5)
metrics.mutual_information(x, factors)
metrics.nearest_distance(x, y)
metrics.prdc(x, y)
metrics.variance_ratio(x, y)
diffusion.bound(ORACLE, x, strata=2, samples=1)
diffusion.edm(PREDICTION, x, eps)
diffusion.min_snr(PREDICTION, x, eps)
diffusion.ode_log_likelihood(ORACLE, x, rtol=0.1, atol=0.1)
diffusion.sigmoid(PREDICTION, x, eps)
diffusion.simple(PREDICTION, x, eps)
adversarial.augment(pictures)
adversarial.instance_noise(x, 0.1)
adversarial.pack(x, 2)
adversarial.r1(critic, x)
adversarial.r2(critic, x)
adversarial.wasserstein1(x, y)
score.denoising(score_, x, eps, 0.5)
score.effective_sample_size(draws)
score.explicit(score_, x, score_)
score.implicit(score_, x)
score.langevin(score_, x, 0.1, 2)
score.leave_one_out(x)
score.leave_one_out_log_prob(x, 0.5)
score.mean_error(draws)
score.r_hat(draws)
score.scott(x)
score.silverman(x)
score.sliced(score_, x, slices(x))
score.sliced_vr(score_, x, slices(x))
score.tweedie(score_, x, 0.5)
estimators.baseline_loss(v, w)
estimators.score_surrogate(v, w)
distributions.gumbel_softmax(logits, 1.0)
distributions.soft_clamp(x, -1.0, 1.0)
"""
ANY_SHAPE = {"bits_per_dim", "annealed_variance", "baseline_loss", "score_surrogate", "soft_clamp"}
"""Functions of single numbers, which take tensors of any shape."""

WRONG = """
metrics.kernel_distance(x, y, chunk=0)
metrics.energy_distance(x, y, chunk=0)
metrics.nearest_distance(x, y, chunk=0)
metrics.prdc(x, y, k=2.5)
metrics.prdc(x, y, k=0)
metrics.prdc(x, y, k=20)
metrics.prdc(x, y, chunk=0)
metrics.wilson(5, 3)
metrics.bits_per_dim(v, 0)
metrics.frechet_distance(x, y[:, :1])
metrics.kernel_distance(x, y[:, :1])
metrics.high_frequency_power(pictures, 0.9)
diffusion.integrate(DDIM(), ORACLE, eps.long(), times)
diffusion.integrate(DDIM(), ORACLE, eps, torch.tensor([1.5, 0.5]))
diffusion.integrate(DDIM(), ORACLE, eps, torch.tensor([0.5, 0.9, 0.1]))
diffusion.time_grid("uniform", 0, SCHEDULE)
diffusion.time_grid("magic", 4, SCHEDULE)
diffusion.uniform_times(0)
diffusion.uniform_times(2.5)
diffusion.discrete_times(0)
diffusion.slerp(first, eps, share)
diffusion.bound(ORACLE, x, strata=0)
adversarial.augment((pictures * 100).byte())
adversarial.augment(pictures, probability=1.5)
adversarial.pack(x, 3)
adversarial.pack(x, 0)
adversarial.pack(x, 2.5)
adversarial.r1(critic, labels)
adversarial.r1(critic, x, gamma=-1.0)
adversarial.instance_noise(x, -0.1)
adversarial.annealed(1.0, 0)
adversarial.margin_loss("logistic")
score.langevin(score_, x, 0.1, 0)
score.langevin(score_, x, 0.1, 2.5)
score.langevin(score_, x, -0.1, 2)
score.mala(log_prob, x, 0.0, 2)
score.geometric(1.0, 2.0, 3)
score.geometric(2.0, 1.0, 0)
score.implicit(score_, x, chunk=0)
variational.log_likelihood(MODEL, x, 0)
variational.free_bits(-1.0)
variational.beta(-1.0)
variational.linear(0)
estimators.subsampled_sum(v, 3)
distributions.gumbel_softmax(logits, 0.0)
nn.mlp(3)
nn.mlp(3, 0)
"""


PREDICTION = Prediction.of_eps(
    GIVEN["x"], GIVEN["fresh"], *(a[:, None] for a in SCHEDULE.alpha_sigma(torch.full((20,), 0.5)))
)


def slices(x):
    return torch.ones(1, *x.shape)


SPACE = {name: importlib.import_module(f"jensen.{name}") for name in ["metrics", "diffusion", "adversarial", "score"]}
SPACE |= {name: importlib.import_module(f"jensen.{name}") for name in ["variational", "estimators", "distributions"]}
SPACE |= {
    "nn": importlib.import_module("jensen.nn"),
    "torch": torch,
    "score_": score,
    "PRIOR": MixturePrior(1.0, NormalWishart(torch.zeros(1), torch.tensor(1.0), torch.tensor(1.0), torch.ones(1, 1))),
}
SPACE |= {k: v for k, v in globals().items() if k in ("critic", "noisy", "log_prob", "PREDICTION", "slices")}
SPACE |= {"ORACLE": ORACLE, "MODEL": MODEL, "SCHEDULE": SCHEDULE, "DDIM": DDIM, "Heun": Heun, "Ancestral": Ancestral}


@pytest.fixture(autouse=True)
def _untyped(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production, without type checks


def called(source, **changed):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return eval(source, SPACE | GIVEN | changed)


def numbers(value):
    """All numbers in a result, in order."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().flatten().tolist()
    if dataclasses.is_dataclass(value):
        return numbers([getattr(value, field.name) for field in dataclasses.fields(value)])
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers(part)]
    if isinstance(value, torch.distributions.Distribution):
        return numbers([value.mean, value.variance])
    return [float(value)] if isinstance(value, int | float) else []


def same(a, b):
    return len(a) == len(b) and all(math.isclose(p, q, rel_tol=1e-3, abs_tol=1e-5) for p, q in zip(a, b, strict=True))


def bad(value, kind):
    """A wrong tensor in place of `value`; None if there is none of this kind."""
    if kind == "scalar":
        return value.flatten()[0] if value.ndim else None
    if kind == "empty":
        return value[:0] if value.ndim else None
    if kind == "nan":
        return value * torch.nan if value.is_floating_point() else None
    return value.mul(10).long() if value.is_floating_point() else value.float() + 0.5  # "dtype"


def verdict(source, name, kind):
    """What is wrong with the answer to a wrong tensor, or ""."""
    value = bad(GIVEN[name], kind)
    if value is None:
        return ""
    try:
        made = numbers(called(source, **{name: value}))
    except (ValueError, TypeError) as error:
        return ours(error)
    except Exception as error:  # noqa: BLE001 (which exception it is is what is tested)
        return f"{type(error).__name__}: {error}"
    if kind == "scalar":
        return "" if source.split("(")[0].split(".")[1] in ANY_SHAPE else f"a value, {made[:3]}"
    if kind == "empty":
        return "" if not made else f"a value, {made[:3]}"
    if kind == "nan":
        unread = same(made, numbers(called(source)))  # a loss by eps does not read x
        return "" if unread or any(map(math.isnan, made)) else f"a value, {made[:3]}"
    if GIVEN[name].is_floating_point() and same(made, numbers(called(source, **{name: value.float()}))):
        return ""  # whole numbers are numbers
    return f"a value, {made[:3]}"


def ours(error):
    """What is wrong with an exception, or "": it is raised by a line of jensen, in one sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised = last.filename.startswith(HOME) and (last.line or "").startswith("raise")
    return "" if raised and "\n" not in str(error) else f"{type(error).__name__}: {error}"


KINDS = ("scalar", "empty", "nan", "dtype")
CALLS = RIGHT.strip().splitlines()


@pytest.mark.parametrize("source", CALLS)
def test_wrong_tensors(source):
    called(source)
    names = [name for name in GIVEN if name in set(compile(source, "", "eval").co_names)]
    found = {(name, kind): verdict(source, name, kind) for name in names for kind in KINDS}
    assert {key: why for key, why in found.items() if why} == {}


@pytest.mark.parametrize("source", WRONG.strip().splitlines())
def test_wrong_numbers(source):
    with pytest.raises((ValueError, TypeError)) as caught:
        called(source)
    assert ours(caught.value) == ""
