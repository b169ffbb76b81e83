"""Judges of diffusion and score models, on models whose answers are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from jensen.core.seeding import generator
from jensen.data.dataset import Data, Truths
from jensen.data.moons import moons_log_prob
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.diffusion import CosineSchedule, Denoiser, GaussianOracle, MixtureOracle, VariancePreserving
from jensen.judging import Case, bounds, paths, scores
from jensen.judging.case import drawer
from jensen.judging.settings import Judging
from jensen.metrics import variance_ratio, variety
from jensen.models import Annealing, Diffusion, KernelDensityModel, Sampling, ScoreModel
from jensen.score import annealed_variance, geometric, score_of

F64 = torch.float64
QUICK = Judging(samples=400, rows=400, steps=(2, 8), bound_steps=10, ode_rows=50)
SCHEDULE = VariancePreserving()
WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[-1.0, 0.5], [0.6, -0.2]], [[0.04, 0.3], [0.1, 0.02]]


def case_of(model, test, *, train=None, truths=None, space=None, cond=None, **more):
    """A case with this model and these rows as data."""
    space = space or Space(tuple(test.shape[1:]))
    extra = {} if cond is None else {"cond": cond}
    rows = Tensors(x=test, **extra)
    data = Data("data", "0", space, rows if train is None else Tensors(x=train), rows, truths or Truths())
    more = {"settings": QUICK, "seed": 3, **more}
    return Case(model.eval(), data, drawer(model, space, more["seed"]), cond is not None, **more)


def mixture_log_p(x, sigma):
    """The log density of the mixture with noise added."""
    variances = torch.tensor(VARIANCES, dtype=F64) + sigma**2
    normal = torch.distributions.Normal(torch.tensor(MEANS, dtype=F64), variances.sqrt())
    return (normal.log_prob(x.double()[:, None]).sum(2) + torch.tensor(WEIGHTS, dtype=F64).log()).logsumexp(1)


def mixture(n=400, **sampling):
    """The diffusion model with the mixture's exact denoiser, a case of its draws, and the draws."""
    oracle = MixtureOracle(WEIGHTS, MEANS, VARIANCES, SCHEDULE)
    x = oracle.sample(n, generator(1)).float()
    model = Diffusion(oracle, (2,), Sampling(**{"steps": 8, "chunk": 400, **sampling}))
    return model, x, case_of(model, x, truths=Truths(log_p=mixture_log_p))


def found_in(part):
    return {finding.key: finding for finding in part.findings}


# likelihoods ----------------------------------------------------------------------------------------------------------


def monte_carlo_error(finding):
    return float(finding.note.split("Monte Carlo error ")[1].split(";")[0])


def test_bounds_of_a_gaussian_are_its_closed_form():
    """On the original scale, which is half the standardised one: within 4 Monte Carlo errors, in 10 steps and in
    continuous time; the terms add up to the bound, and both name their first noise level.
    """
    m, v = torch.tensor([0.4, -0.3]), torch.tensor([0.5, 1.5])
    oracle = GaussianOracle(m, v, SCHEDULE)
    model = Diffusion(oracle, (2,), Sampling(chunk=400))
    model.centre.fill_(0.3)
    model.scale.fill_(2.0)
    z = oracle.sample(400, generator(0)).float()
    case = case_of(model, model.restore(z))
    part = bounds.bounds(case)
    found, details = found_in(part), part.details["likelihood"]
    for key, steps in (("bound_discrete", 10), ("bound", None)):
        exact = oracle.bound(z, steps=steps, span=(0.03, 1.0)).likelihood.value - 2 * math.log(2)
        noise = monte_carlo_error(found[key])
        assert found[key].value == pytest.approx(float(exact.mean()), abs=4 * noise)
        assert noise < 0.05 * abs(found[key].value)
        terms = details[key]
        assert found[key].value == pytest.approx(-sum(terms[k] for k in ("prior", "diffusion", "reconstruction")))
        assert found[key].facts == {"kind": "lower bound", "measure": "density", "dims": 2}
        assert details[key]["first"]["log_snr"] == pytest.approx(float(SCHEDULE.log_snr(torch.tensor(0.03, dtype=F64))))
        assert details[key]["bits_per_dim"] == pytest.approx(-found[key].value / 2 / math.log(2), rel=1e-5)
    assert "bound_trained" not in found


def test_the_odes_likelihood_of_a_mixture_is_that_of_its_first_level():
    """The distribution of z / alpha at t = 0.03 is the mixture with the noise of that level: equal to the solver's
    tolerance. The bound is below the truth, within 4 Monte Carlo errors.
    """
    _, x, case = mixture()
    found = found_in(bounds.bounds(case))
    alpha, sigma = (float(v) for v in SCHEDULE.alpha_sigma(torch.tensor(0.03, dtype=F64)))
    exact = mixture_log_p(case.test["x"][:50], sigma / alpha)
    assert found["ode"].value == pytest.approx(float(exact.mean()), abs=2e-3)
    assert found["ode"].stderr == pytest.approx(float(exact.std()) / 50**0.5, rel=1e-2)
    known = mixture_log_p(x, 0.0)
    assert found["log_p_data"].value == pytest.approx(float(known.mean()), abs=1e-6)
    assert found["bound"].floor == found["log_p_data"].value
    assert not found["log_p_data"].facts  # not a likelihood of this model, so it is not ranked
    assert found["bound"].value < found["bound"].floor + 4 * monte_carlo_error(found["bound"])


def test_of_discrete_data_a_mass_is_bounded():
    """Data -1 or 1 with an exact denoiser: the largest possible value is -log 2; both bounds are within 4 standard
    errors of it.
    """
    oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[0.0], [0.0]], SCHEDULE)
    x = oracle.sample(200, generator(1)).float()
    settings = QUICK.model_copy(update={"ode_rows": 0})
    case = case_of(Diffusion(oracle, (1,), Sampling()), x, space=Space((1,), levels=2), settings=settings)
    found = found_in(bounds.bounds(case))
    for key in ("bound_discrete", "bound"):
        assert found[key].facts == {"kind": "lower bound", "measure": "mass", "dims": 1}
        assert found[key].value < -math.log(2) + 4 * found[key].stderr
    assert found["bound"].value == pytest.approx(-math.log(2), abs=4 * found["bound"].stderr)


def test_the_ode_gives_the_mass_of_dequantized_data():
    """17 levels of N(0, 0.5): log of the density at the first noise level times the bin width, up to the curvature
    of the density within a bin, w^2 / (24 v) = 0.001 nats per dimension, and the noise of dequantization.
    """
    oracle = GaussianOracle(torch.zeros(2), torch.full((2,), 0.5), SCHEDULE)
    space = Space((2,), levels=17)
    x = space.settled(oracle.sample(400, generator(1)).float())
    settings = QUICK.model_copy(update={"bound_steps": 0, "ode_rows": 400})
    found = found_in(bounds.bounds(case_of(Diffusion(oracle, (2,), Sampling()), x, space=space, settings=settings)))
    alpha, sigma = (float(v) for v in SCHEDULE.alpha_sigma(torch.tensor(0.03, dtype=F64)))
    normal = torch.distributions.Normal(0.0, (0.5 + (sigma / alpha) ** 2) ** 0.5)
    exact = normal.log_prob(x).sum(1).mean() + 2 * math.log(2 / 16)
    assert found["ode"].facts == {"kind": "lower bound", "measure": "mass", "dims": 2}
    assert found["ode"].value == pytest.approx(float(exact), abs=0.02)


def test_likelihoods_can_be_left_out():
    _, _, case = mixture()
    without = replace(case, settings=QUICK.model_copy(update={"bound_steps": 0}))
    assert set(found_in(bounds.bounds(without))) == {"log_p_data", "ode"}
    neither = replace(case, settings=QUICK.model_copy(update={"bound_steps": 0, "ode_rows": 0}))
    assert bounds.bounds(neither) is None


# scores ---------------------------------------------------------------------------------------------------------------


class MixtureScore(nn.Module):
    """The exact score of the mixture, as the network of a score model."""

    def forward(self, z, sigma):
        return score_of(lambda x: mixture_log_p(x, float(sigma[0])))(z)


def ladder(network, *, smallest=0.05, **sampling):
    return ScoreModel(network, (2,), geometric(8.0, smallest, 6), Annealing(**{"steps": 3, "chunk": 400, **sampling}))


def test_exact_scores_have_no_error_and_a_score_of_zero_has_one():
    _, x, case = mixture()
    for exact in (case, case_of(ladder(MixtureScore()), x, truths=case.data.truths)):
        part = scores.score_error(exact)
        assert found_in(part)["score_error"].value < 1e-6

    class Nothing(nn.Module):
        def forward(self, z, sigma):
            return torch.zeros_like(z)

    part = scores.score_error(case_of(ladder(Nothing()), x, truths=case.data.truths))
    assert found_in(part)["score_error"].value == pytest.approx(1)
    assert part.details["score_error"]["sigma"] == pytest.approx(geometric(8.0, 0.05, 6).tolist(), rel=1e-4)


def test_the_score_of_a_kernel_density_has_its_error_without_noise():
    _, x, case = mixture()
    model = KernelDensityModel(x, 0.3)
    part = scores.score_error(case_of(model, x, truths=case.data.truths))
    exact, ours = score_of(lambda z: mixture_log_p(z, 0.0))(x).double(), model.density.score(x.double())
    wanted = float((ours - exact).square().sum() / exact.square().sum())
    assert found_in(part)["score_error"].value == pytest.approx(wanted, rel=1e-4)


def test_judges_find_nothing_in_other_models():
    x = torch.zeros(20, 2)
    case = case_of(nn.Linear(2, 2), x)
    judges = (bounds.bounds, paths.by_steps, paths.sampling_path, paths.round_trip_error, paths.guidance)
    for judge in (*judges, paths.noise_interpolations, scores.score_error, scores.annealing):
        assert judge(case) is None


# Langevin -------------------------------------------------------------------------------------------------------------


def test_annealing_is_compared_with_its_closed_form():
    """Gaussian data of variances 0.2 and 2 with their exact score: the variance of 2,000 samples is within 4
    standard errors of `annealed_variance` for the covariance of the training data.
    """
    v = torch.tensor([0.2, 2.0])

    class Law(nn.Module):
        def forward(self, z, sigma):
            return -z / (v + sigma[:, None] ** 2)

    model = ladder(Law(), steps=10, chunk=2000)
    x = v.sqrt() * torch.randn(2000, 2, generator=generator(0))
    settings = QUICK.model_copy(update={"samples": 2000, "rows": 2000, "steps": (5,)})
    part = scores.annealing(case_of(model, x, settings=settings))
    found, details = found_in(part)["variance"], part.details["annealing"]
    spread = torch.linalg.eigvalsh(x.double().T.cov())
    exact = annealed_variance(spread, model.sigmas.double(), 0.5, 10).sum() / spread.sum()
    assert found.floor == pytest.approx(float(exact), rel=1e-6)
    assert found.value == pytest.approx(float(exact), abs=4 * found.stderr)
    assert [row["steps"] for row in details["rows"]] == [5, 10]
    assert details["rows"][0]["exact"] != details["rows"][1]["exact"]
    last = 0.05**2
    assert details["equilibrium"] == pytest.approx(float((spread**2 / (spread + last)).sum() / spread.sum()), rel=1e-5)


def test_annealing_of_one_dimension_is_compared_too():
    class Law(nn.Module):
        def forward(self, z, sigma):
            return -z / (2 + sigma[:, None] ** 2)

    model = ScoreModel(Law(), (1,), geometric(8.0, 0.05, 6), Annealing(steps=10, chunk=400))
    x = 2**0.5 * torch.randn(400, 1, generator=generator(0))
    found = found_in(scores.annealing(case_of(model, x)))["variance"]
    exact = annealed_variance(x.double().var(0), model.sigmas.double(), 0.5, 10) / x.double().var(0)
    assert found.floor == pytest.approx(float(exact), rel=1e-6)


def test_the_exact_score_is_that_of_the_data_or_of_the_training_data():
    """On the standardised scale. Moons with added noise have a known density; if the data's density is unknown, the
    score is the gradient of log mean_i N(x; x_i, sigma^2 I) over the training data.
    """
    model = ladder(MixtureScore())
    model.centre.fill_(0.4)
    model.scale.fill_(0.7)
    truths = Truths(log_p=lambda x, sigma: moons_log_prob(x, noise=math.hypot(0.1, sigma)))
    z, sigma = torch.randn(5, 2, generator=generator(0)), 0.3
    exact = scores.exact_model(case_of(model, z, truths=truths), 5).network(z, torch.full((5,), sigma))
    noise = math.hypot(0.1, 0.7 * sigma)
    torch.testing.assert_close(exact, 0.7 * score_of(lambda x: moons_log_prob(x, noise=noise))(0.7 * z + 0.4))
    data = torch.randn(30, 2, generator=generator(1))
    x = z.clone().requires_grad_(True)
    log_p = torch.logsumexp(-(x[:, None] - (data - 0.4) / 0.7).square().sum(2) / (2 * sigma**2), 1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    unknown = scores.exact_model(case_of(model, z, train=data), 5).network(z, torch.full((5,), sigma))
    torch.testing.assert_close(unknown, score, rtol=1e-4, atol=1e-4)


def test_the_share_of_variance():
    z = torch.randn(50, 2, generator=generator(0))
    assert variance_ratio(2 * z, z).value == pytest.approx(4)


# paths ----------------------------------------------------------------------------------------------------------------


def test_samples_by_steps_are_those_of_the_model():
    """The numbers of steps of the settings and the model's own number, all with the same noise; the model's own
    samples are those of the case; more steps of an exact denoiser are closer to the data.
    """
    _, _, case = mixture(sampler="ddim", steps=16)
    part = paths.by_steps(case)
    rows = part.details["by_steps"]["rows"]
    assert [row["steps"] for row in rows] == [2, 8, 16]
    torch.testing.assert_close(case.by_steps[8], case.draw(400, steps=8))
    assert case.by_steps[16] is case.samples
    found = found_in(part)
    assert found["energy_2"].value > 4 * found["energy_16"].stderr + found["energy_16"].value
    assert rows[2]["log_p"] == pytest.approx(float(mixture_log_p(case.samples, 0.0).mean()))
    assert paths.by_steps(replace(case, settings=QUICK.model_copy(update={"steps": ()}))) is None


def test_the_round_trip_of_a_gaussian_by_ddim_is_its_closed_form():
    """For N(0, v) both directions are linear, so the error is proportional to x: each step of DDIM multiplies z by
    (alpha_s x^ + sigma_s eps^) / z.
    """
    v, schedule = 0.3, CosineSchedule()
    oracle = GaussianOracle(torch.zeros(1), torch.tensor([v]), schedule)
    x = oracle.sample(100, generator(0)).float()
    part = paths.round_trip_error(case_of(Diffusion(oracle, (1,), Sampling(start=0.99)), x))
    for steps, error in zip(*(part.details["round_trip"][k] for k in ("steps", "error")), strict=True):
        alpha, sigma = schedule.alpha_sigma(torch.linspace(0, 0.99, steps + 1, dtype=F64))
        variance = alpha**2 * v + sigma**2
        there = (alpha[1:] * alpha[:-1] * v + sigma[1:] * sigma[:-1]) / variance[:-1]
        back = (alpha[1:] * alpha[:-1] * v + sigma[1:] * sigma[:-1]) / variance[1:]
        wanted = abs(float((there * back).prod()) - 1) * float(x.abs().mean())
        assert error == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_variety_is_the_distance_within_a_condition():
    """The pooled root mean square distance of groups of two pictures; contrast does not count."""
    x = torch.randn(6, 1, 4, 4, generator=generator(0))
    cond = torch.tensor([[0], [1], [2], [0], [1], [2]])
    unit = nn.functional.layer_norm(x.double().flatten(1), (16,))
    wanted = float((unit[:3] - unit[3:]).square().mean().sqrt())
    assert variety(x, cond) == pytest.approx(wanted, rel=1e-6)
    assert variety(3 * x + 1, cond) == pytest.approx(wanted, rel=1e-4)


class Told(Denoiser):
    """Pictures of a class are all 1 or all -1 plus a little noise, which guidance makes less varied."""

    def __init__(self):
        super().__init__()
        self.schedule, self.null = SCHEDULE, torch.tensor([2])
        self.oracles = [GaussianOracle(torch.full((64,), m), torch.full((64,), 0.1), SCHEDULE) for m in (-1.0, 1.0)]
        self.free = MixtureOracle([0.5, 0.5], [[-1.0] * 64, [1.0] * 64], [[0.1], [0.1]], SCHEDULE)

    def forward(self, z_t, t, cond=None):
        cond = self.condition(cond, len(z_t))
        found = [o(z_t.flatten(1), t) for o in (*self.oracles, self.free)]
        pick = cond[:, 0]
        x, eps = (torch.stack([getattr(p, name) for p in found])[pick, torch.arange(len(z_t))] for name in ("x", "eps"))
        first = found[0]
        shape = (-1, 1, 1, 1)
        return replace(
            first, x=x.view_as(z_t), eps=eps.view_as(z_t), alpha=first.alpha.view(shape), sigma=first.sigma.view(shape)
        )


class Sign:
    """Reads whether a picture is bright."""

    clear_means = "none"

    def read(self, x):
        return (x.flatten(1).mean(1, keepdim=True) > 0).long()


def test_guidance_is_compared():
    """At scale 1 samples follow the data's distribution, with its variety; all scales of the settings and the
    model's own are listed, with the share of samples that are read as their class.
    """
    cond = torch.arange(200)[:, None] % 2
    x = (2.0 * cond - 1)[..., None, None] + 0.1**0.5 * torch.randn(200, 1, 8, 8, generator=generator(0))
    settings = QUICK.model_copy(update={"scales": (1.0, 4.0), "samples": 40})
    model = Diffusion(Told(), (1, 8, 8), Sampling("ancestral", steps=20, guidance=2.0, chunk=256))
    space = Space((1, 8, 8), cond=Classes(("dark", "bright")))
    case = case_of(model, x, space=space, cond=cond, truths=Truths(reader=Sign()), settings=settings)
    part = paths.guidance(case)
    assert [row["scale"] for row in part.details["guidance"]] == [1.0, 2.0, 4.0]
    assert set(found_in(part)) == {"variety_1", "variety", "variety_4"}
    assert found_in(part)["variety_1"].value == pytest.approx(1, abs=0.05)
    assert all(row["read"]["value"] == 1 for row in part.details["guidance"])
    assert paths.by_steps(case).details["by_steps"]["rows"][0]["read"]["n"] == 40
    assert len(paths.sampling_path(case).pictures[1].image) == 20
    assert paths.noise_interpolations(case).pictures[0].image.width == 11 * (8 * 4 + 6) + 6


def test_the_film_of_a_long_chain_is_short(monkeypatch):
    monkeypatch.setattr(paths, "FILM", 5)
    monkeypatch.setattr(paths, "STRIP", 2)
    _, x, _ = mixture()
    film = paths.sampling_path(case_of(ladder(MixtureScore(), steps=5), x)).pictures[1].image
    assert len(film) == 5
    assert paths.spread(list(range(10)), 4) == [0, 3, 6, 9]
