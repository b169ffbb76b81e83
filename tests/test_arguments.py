"""Public functions with tensors of a wrong shape or dtype, empty or NaN: an error of jensen's, or a right answer."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import re
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
    NetworkDenoiser,
    Prediction,
)
from jensen.distributions import Conditional, DiagonalGaussian, GaussianPrior
from jensen.models import GAN, VAE, Autoencoder, CycleGAN, Diffusion, NoiseConditional, ScoreModel
from jensen.nn import Classifier, PatchCritic, TimeMLP, Translator, mlp
from jensen.objectives import Adversarial
from jensen.variational import LinearGaussian, Trace, posterior_table
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


OWN = ("critic", "noisy", "log_prob", "slices", "trace", "law", "left", "noise_score")
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
    "rising": torch.tensor([0.0, 0.5, 0.9]),
    "sigmas": torch.tensor([2.0, 0.5]),
    "levels": torch.linspace(0.5, 2.0, 20),
    "first": normal(3),
    "second": normal(3, seed=1),
    "share": torch.linspace(0, 1, 5),
    "centre": torch.zeros(2),
    "late": torch.tensor(0.9),
    "alone": torch.tensor(1.0),
    "apart": (normal(4, 1) - normal(4, 1).T).abs(),
    "precision": torch.eye(2),
    "logits": normal(4, 3),
    "log_p": normal(3, 2),
    "theta": torch.tensor(0.3),
    "few": normal(6, 1),
    "colours": torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1,
    "code": normal(20, 4, seed=4),
    "bits": (normal(20, 4, seed=5) > 0).float(),
    "signs": torch.ones(20, 2),
    "class_": torch.tensor([0, 1, 2, 1]),
    "chosen": torch.eye(3)[[0, 1, 2, 1]],
    "variance": torch.ones(2),
    "weights": torch.tensor([0.25, 0.75]),
    "spreads": torch.ones(2, 2),
    "betas": torch.linspace(0.1, 0.9, 20),
    "weight": torch.tensor([[0.5]]),
    "chances": torch.full((20, 2), 0.5),
    "sure": torch.ones(20, 2, dtype=torch.bool),
    "read_words": torch.arange(40).view(20, 2) % 3,
    "groups": normal(5, 4, 2),
    "draw": normal(3, 20),
    "falling": torch.linspace(3, 0, 43)[:, None].expand(-1, 2).contiguous(),
    "one": torch.ones(1),
    "two": torch.tensor(3.0),
}

RIGHT = """
adversarial.AdaptiveAugment()(pictures)
adversarial.AdaptiveAugment().update(v)
adversarial.Brightness()(pictures)
adversarial.Contrast()(pictures)
adversarial.Crop()(pictures)
adversarial.Cutout()(pictures)
adversarial.Flip()(pictures)
adversarial.ImagePool(4, (2,))(x)
adversarial.Jitter()(pictures)
adversarial.MarginGame(adversarial.hinge, "linear").critic(v, w)
adversarial.ModeFeatures(modes, 0.5)(x)
adversarial.Mosaic()(pictures)
adversarial.RelativisticGame(adversarial.logistic, "saturating").critic(v, w)
adversarial.Saturation()(colours)
adversarial.Translation()(pictures)
adversarial.WassersteinGame().critic(v, w)
adversarial.augment(pictures)
adversarial.critic_divergence("le-cam", v, w)
adversarial.critic_logits(CRITIC, x)
adversarial.dragan(critic, x, 0.5)
adversarial.eigenvalues(GAME, batch={"x": x})
adversarial.exponential(v)
adversarial.gradient_penalty(critic, x, y)
adversarial.hinge(v)
adversarial.instance_noise(x, 0.1)
adversarial.logistic(v)
adversarial.pack(x, 2)
adversarial.r1(critic, x)
adversarial.r2(critic, x)
adversarial.squared(v)
adversarial.stability(GAME, {"x": x})
adversarial.trajectory(GAME, steps=2, batch={"x": x})
adversarial.vector_field(GAME, {"x": x})
adversarial.wasserstein1(x, y)
adversarial.zero_one(v)
check.close("x", v, w, 9.0)
check.mean_is("x", 0.0, v)
check.means_are("x", centre, x)
diffusion.BetaSchedule(betas).log_snr(t)
diffusion.Bins(2).log_mass(signs, y, w[:, None])
diffusion.ClassifierGuided(ORACLE, lambda z, t, c: log_prob(z))(eps, t)
diffusion.Clipped(ORACLE, -1.0, 1.0)(eps, t)
diffusion.CosineSchedule().alpha_sigma(t)
diffusion.EmpiricalOracle(x, SCHEDULE)(eps, t)
diffusion.FunctionSchedule(lambda t: 1 - 9 * t).alpha_sigma(t)
diffusion.GaussianOracle(centre, variance, SCHEDULE)(eps, t)
diffusion.Guided(CONDITIONED, 2.0)(eps, t, labels)
diffusion.ImplicitProcess.of_eta(SCHEDULE, rising, 0.5).marginal(x, 1)
diffusion.ImprovedCosineSchedule().alpha_sigma(t)
diffusion.KarrasSchedule().alpha_sigma(t)
diffusion.LearnedSchedule().alpha_sigma(t)
diffusion.LinearSchedule().alpha_sigma(t)
diffusion.MixtureOracle(weights, modes, spreads, SCHEDULE)(eps, t)
diffusion.NetworkDenoiser(NETWORK, SCHEDULE)(eps, t)
diffusion.Prediction.of_v(x, eps, weight, weight)
diffusion.Process(SCHEDULE).posterior(x, eps, s, t)
diffusion.RectifiedSchedule().alpha_sigma(t)
diffusion.VarianceExploding().alpha_sigma(t)
diffusion.VariancePreserving().alpha_sigma(t)
diffusion.bound(ORACLE, x, strata=2, samples=1)
diffusion.dequantize(x, 0.1)
diffusion.edm(PREDICTION, x, eps)
diffusion.integrate(diffusion.Adams(), ORACLE, eps, times)
diffusion.integrate(diffusion.Ancestral(), ORACLE, eps, times)
diffusion.integrate(diffusion.AnnealedLangevin(), ORACLE, eps, times)
diffusion.integrate(diffusion.DDIM(), ORACLE, eps, times)
diffusion.integrate(diffusion.DPMSolver(), ORACLE, eps, times)
diffusion.integrate(diffusion.Euler(), ORACLE, eps, times)
diffusion.integrate(diffusion.Heun(), ORACLE, eps, times)
diffusion.integrate(diffusion.PredictorCorrector(DDIM()), ORACLE, eps, times)
diffusion.integrate(diffusion.UniPC(), ORACLE, eps, times)
diffusion.min_snr(PREDICTION, x, eps)
diffusion.ode_log_likelihood(ORACLE, x, rtol=0.1, atol=0.1)
diffusion.prior_kl(SCHEDULE, x, late)
diffusion.sigmoid(PREDICTION, x, eps)
diffusion.simple(PREDICTION, x, eps)
diffusion.slerp(x, fresh, share)
diffusion.step_kl(PREDICTION, x, eps, SCHEDULE, s, t)
diffusion.vlb(PREDICTION, x, eps, -v)
distributions.AutoregressiveBits(3, 1)(code).log_prob(bits[:, :3])
distributions.Bernoulli(logits=code).log_prob(bits)
distributions.BernoulliLogits()(logits).mean
distributions.Binary(logits).log_prob(logits.sign())
distributions.BinaryLogits()(logits).mean
distributions.Categorical(logits=logits).log_prob(class_)
distributions.CategoricalLogits()(logits[None]).log_prob(class_[None])
distributions.Conditional(AFFINE, distributions.DiagonalGaussian())(x).mean
distributions.DiagonalGaussian()(code).mean
distributions.DiagonalNoise(2)(x).mean
distributions.DiscretizedGaussian(x, 1.0).log_prob(signs)
distributions.DiscretizedLogistic(x, 1.0).log_prob(signs)
distributions.Erlang(2, w).log_prob(v)
distributions.Flat(2).log_prob(x)
distributions.GaussianPrior(2, centre)().log_prob(x)
distributions.Gompertz(v, w).log_prob(v)
distributions.IsotropicGaussian()(x).mean
distributions.Levels()(code).mean
distributions.OneHot(logits=logits).log_prob(chosen)
distributions.OneHotLogits(1, 3)(logits).mean
distributions.StraightThroughOneHot(0.5, logits).mean
distributions.gumbel_softmax(logits, 1.0)
distributions.soft_clamp(x, -1.0, 1.0)
estimators.Graph().cost(v)
estimators.MovingAverage().update(v)
estimators.baseline_loss(v, w)
estimators.leave_one_out(x)
estimators.score_surrogate(v, w)
estimators.subsampled_sum(v, 40)
mean_field.FactorisedGaussian(centre, variance).kl(centre, precision)
mean_field.NormalWishart(centre, alone, two, precision).log_normaliser
metrics.FeatureStatistics.of(x).covariance
metrics.auc(v, w)
metrics.best_renaming(table)
metrics.bits_per_dim(v, 4)
metrics.c2st(x, y)
metrics.calibration(confidence, right)
metrics.class_coverage(labels, 3)
metrics.completeness(importance)
metrics.confusion(labels, read, 3)
metrics.dci(x, factors)
metrics.discriminate((x, y), (fresh, eps), steps=2)
metrics.disentanglement(importance)
metrics.energy_distance(x, y)
metrics.entropy(factors)
metrics.extrapolated_frechet_distance(x, y, shares=2)
metrics.factor_vae_score(x, factors, votes=10, batch=4)
metrics.floor(metrics.energy_distance, x, 5)
metrics.frechet_distance(x, y)
metrics.gathered(x)
metrics.high_frequency_power(pictures)
metrics.joint_coverage(words, chances[:, 0], sure)
metrics.kernel_distance(x, y)
metrics.legibility(words, read_words)
metrics.mean_over_pairs(apart)
metrics.mean_pairwise_distance(groups)
metrics.memorisation(x, y, fresh)
metrics.mig(x, factors)
metrics.mode_coverage(x, modes, 0.5)
metrics.mutual_information(x, factors)
metrics.nearest_distance(x, y)
metrics.nearness(v, w)
metrics.prdc(x, y)
metrics.sharpness(pictures, others)
metrics.variance_ratio(x, y)
metrics.variety(x)
models.Autoencoder(AFFINE, AFFINE, distributions.GaussianPrior(4)).codes(x)
models.CycleGAN(CRITIC, CRITIC).translate(x)
models.Diffusion(ORACLE, (2,)).standardize(x)
models.GAN(CRITIC, 2)(x)
models.HVAE([ENCODER], [DECODER], LATENT.prior).codes(x)
models.KernelDensityModel(x, 0.5).log_prob(y)
models.LadderVAE([AFFINE], [HEAD], [DECODER], LATENT.prior).codes(x)
models.NoiseConditional(NOISY, 2.0, 0.5)(x, v)
models.VAE(ENCODER, DECODER, distributions.GaussianPrior(1)).codes(x)
models.traversal(LATENT, x)
nn.ChannelNorm()(pictures)
nn.Classifier(nn.mlp(2, 4), 4, classes=3)(x)
nn.PatchCritic(1)(pictures)
nn.PictureCritic((1, 8, 8))(pictures)
nn.PictureDecoder(4, (1, 8, 8))(code)
nn.PictureEncoder((1, 8, 8), 4)(pictures)
nn.PictureGenerator(4, (1, 8, 8))(code)
nn.RandomFourierFeatures(2, 4, 1.0)(x)
nn.Reader(1, alphabet=3, length=2, width=8)(pictures)
nn.AttentiveReader(1, alphabet=3, length=2, width=8)(pictures)
nn.ResidualCritic((1, 8, 8))(pictures)
nn.ResidualGenerator(4, (1, 8, 8))(code)
nn.Standardized(centre, variance)(x)
nn.TimeMLP((2,), width=8, blocks=1)(x, t)
nn.Translator(1, width=8, blocks=1)(pictures)
nn.UNet(1, (8, 8), widths=(8, 8), blocks=1)(pictures, t)
objectives.AddedNoise(0.1)(x)
objectives.Adversarial(GENERATOR, CRITIC)(("generator", "critic"), {"x": x}, 0)
objectives.CycleConsistent(CYCLE, PATCHES, PATCHES)(("translators", "critics"), {"a": pictures, "b": others}, 0)
objectives.Denoising(DIFFUSION)(("model",), {"x": x}, 0)
objectives.Hybrid(LEARNED, steps=4)(("model",), {"x": x}, 0)
objectives.LeaveOneOut(models.KernelDensityModel(x))(("model",), {"x": y}, 0)
objectives.Masked(0.5)(x)
objectives.Paired(CYCLE, PAIRS, PAIRS)(("translators", "critics"), {"a": pictures, "b": others}, 0)
objectives.Reading(CLASSES, noise=0.0, shift=0)(("model",), {"x": x, "cond": labels[:, None]}, 0)
objectives.Reconstruction(CODES)(("model",), {"x": x}, 0)
objectives.ScoreMatching(SCORES)(("model",), {"x": x}, 0)
objectives.Variational(LATENT)(("model",), {"x": x}, 0)
objectives.VariationalDiffusion(DIFFUSION)(("model",), {"x": x}, 0)
score.KernelDensity(x, 0.5).log_prob(y)
score.annealed_langevin(noisy, x, sigmas, 0.1, 2)
score.annealed_variance(v, sigmas, 0.1, 2)
score.basin(score_, x, modes, step_size=0.1, steps=2)
score.denoising(score_, x, eps, 0.5)
score.effective_sample_size(draws)
score.exit_times(score_, x, left, 0.1, 2)
score.explicit(score_, x, score_)
score.implicit(score_, x)
score.langevin(score_, x, 0.1, 2)
score.leave_one_out(x)
score.leave_one_out_log_prob(x, 0.5)
score.mala(log_prob, x, 0.1, 2)
score.mean_error(draws)
score.mean_exit_time(v, 1.0)
score.noise_conditional(noisy, x, eps, levels)
score.occupancy(visits, 2)
score.r_hat(draws)
score.relative_score_error(score_, x, noise_score)
score.score_of(log_prob)(x)
score.scott(x)
score.silverman(x)
score.sliced(score_, x, slices(x))
score.sliced_vr(score_, x, slices(x))
score.slices(x)
score.tweedie(score_, x, 0.5)
training.reconstruct(AFFINE, [AFFINE.state_dict()], one)
variational.Constraint(2.0)(trace(draw))
variational.GaussianMixtureVI(2, PRIOR2).fit(x, sweeps=2).elbo
variational.LinearGaussian(modes, centre, v[:2]).log_prob(x)
variational.Measured.of(v)
variational.MixturePrior.around(x, 2).component.mean
variational.Penalized(2.0, 0.1)(trace(draw))
variational.Trace(draw, (draw,), (draw,), (False,), (True,))
variational.ais_log_likelihood(MODEL, x, 3, 2)
variational.amortization_gap(MODEL, x, samples=2, steps=2)
variational.ascend_theta(MODEL, x, Z, steps=2)
variational.collapse_report(LATENT, x, samples=2)
variational.dreg(trace(draw))
variational.elbo(trace(draw))
variational.fit_posterior(MODEL, x, steps=2).left
variational.gap_split(MODEL, x, samples=2, steps=2).left
variational.gaussian_mean_field(centre, precision).elbo
variational.iwae(trace(draw))
variational.log_likelihood(MODEL, x, 4)
variational.log_weights(trace(draw))
variational.lower_bound(MODEL, x, 4)
variational.mixture_log_evidence(few, 2, PRIOR)
variational.pareto_k(falling, 200)
variational.posterior_trace(MODEL, x, (Z,)).log_px
variational.refine(MODEL, x, (Z,), steps=2)[0].mean
variational.scored(variational.elbo)(trace(draw))
variational.sticking_the_landing(trace(draw))
variational.stochastic_vi(MODEL, x, [TABLE], steps=2, batch=4)
variational.table_mean_field(log_p).elbo
"""
ANY_SHAPE = {
    *("AddedNoise", "AutoregressiveBernoulli", "AutoregressiveBits", "Bernoulli", "BetaSchedule", "Binary"),
    *("Bins", "Categorical", "CategoricalLogits", "CosineSchedule", "DiscretizedGaussian", "DiscretizedLogistic"),
    *("Erlang", "Flat", "FunctionSchedule", "GaussianPrior", "Gompertz", "Graph", "ImprovedCosineSchedule"),
    *("KarrasSchedule", "LearnedSchedule", "LinearSchedule", "Masked", "MovingAverage", "Prediction", "Process"),
    *("RectifiedSchedule", "Standardized", "VarianceExploding", "VariancePreserving", "annealed_variance"),
    *("baseline_loss", "bits_per_dim", "close", "exponential", "hinge", "logistic", "means_are"),
    *("score_surrogate", "soft_clamp", "squared", "zero_one"),
}
"""Functions of single numbers, which take tensors of any shape, or of shapes that broadcast."""

WRONG = """
adversarial.AdaptiveAugment(interval=0)
adversarial.AdaptiveAugment(ramp=0)
adversarial.Brightness(-1.0)
adversarial.Crop(1.5)
adversarial.Cutout(-1.0)
adversarial.Cutout(2.0)
adversarial.DiracGAN("magic")
adversarial.DiracGAN(clip=0.0)
adversarial.DiracGAN(instance_noise=-1.0)
adversarial.DiracGAN(r1=-1.0)
adversarial.Flip(2.0)
adversarial.ImagePool(-1, (2,))
adversarial.ImagePool(2.5, (2,))
adversarial.Jitter(-1.0)
adversarial.MarginGame(adversarial.hinge, "magic")
adversarial.MarginGame(adversarial.zero_one, "linear")
adversarial.ModeFeatures(modes, 0.0)
adversarial.RelativisticGame(adversarial.hinge, "magic")
adversarial.Translation(-1.0)
adversarial.Translation(2.0)
adversarial.annealed(1.0, 0)
adversarial.augment((pictures * 100).byte())
adversarial.augment(pictures, probability=1.5)
adversarial.bayes_risk("logistic", law(centre), law(variance), samples=0)
adversarial.bayes_risk("magic", law(centre), law(variance))
adversarial.change_along_flow(GAME, torch.sum, at=v, batch={"x": x})
adversarial.check_f(torch.exp, -1.0)
adversarial.clip_weights(CRITIC, 0.0)
adversarial.critic_divergence("magic", v, w)
adversarial.critic_logits(CRITIC, x, 0)
adversarial.divergence("le-cam", law(centre), law(variance), samples=0)
adversarial.divergence("magic", law(centre), law(variance))
adversarial.dragan(critic, x, -0.5)
adversarial.dragan(critic, x, 0.5, -1.0)
adversarial.eigenvalues(GAME, batch={"x": x}, top=0)
adversarial.game_loss("magic")
adversarial.gradient_penalty(critic, x, y, -1.0)
adversarial.gradient_penalty(critic, x, y, sides=3)
adversarial.gradient_penalty(critic, x, y[:3])
adversarial.instance_noise(x, -0.1)
adversarial.margin_loss("logistic")
adversarial.pack(x, 0)
adversarial.pack(x, 2.5)
adversarial.pack(x, 3)
adversarial.r1(critic, labels)
adversarial.r1(critic, x, gamma=-1.0)
adversarial.r2(critic, x, -1.0)
adversarial.risk("logistic", critic, law(centre), law(variance), samples=0)
adversarial.spectral_norm(CRITIC, 0)
adversarial.stability(GAME, {"x": x}, products=0)
adversarial.stability(GAME, {"x": x}, top=0)
adversarial.train_critic(CRITIC, adversarial.logistic, x, lambda n: x[:n], steps=0)
adversarial.trajectory(GAME, step_size=-1.0, batch={"x": x})
adversarial.trajectory(GAME, steps=0, batch={"x": x})
adversarial.vector_field(GAME, {"x": x}, at=v)
check.bounded("x", v, draws, relation="at most")
check.close("x", v, draws, 0.1)
check.data_parallel(critic, {"x": x[:5]})
check.data_parallel(critic, {"x": x}, processes=1)
check.elbo(LATENT, x, repeats=1)
check.mean_is("x", 0.0, x)
check.means_are("x", precision, x)
check.run_all([], precision=0.0)
check.run_all([], processes=0)
check.select({}, ["magic"])
diffusion.Adams(0)
diffusion.Adams(9)
diffusion.Ancestral("magic")
diffusion.AnnealedLangevin(0)
diffusion.AnnealedLangevin(step_size=-1.0)
diffusion.BetaSchedule(betas * 3)
diffusion.Bins(1)
diffusion.Bins(4, 1.0, -1.0)
diffusion.ClassifierGuided(ORACLE, log_prob, -1.0)
diffusion.Clipped(ORACLE, 1.0, -1.0)
diffusion.DDIM(-1.0)
diffusion.DPMSolver(0)
diffusion.DPMSolver(4)
diffusion.GaussianOracle(centre, -variance, SCHEDULE)
diffusion.Guided(CONDITIONED, -1.0)
diffusion.Guided(ORACLE, 2.0)
diffusion.ImprovedCosineSchedule(1)
diffusion.KarrasSchedule(2.0, 1.0)
diffusion.LearnedSchedule(1.0, 2.0)
diffusion.LinearSchedule(-1.0)
diffusion.MixtureOracle(-weights, modes, spreads, SCHEDULE)
diffusion.NetworkDenoiser(NETWORK, SCHEDULE, data_std=0.0)
diffusion.PredictorCorrector(DDIM(), 0)
diffusion.Reconstruction("magic")
diffusion.UniPC(0)
diffusion.UniPC(9)
diffusion.VarianceExploding(2.0, 1.0)
diffusion.VariancePreserving(1.0, 2.0)
diffusion.bound(ORACLE, x, samples=0)
diffusion.bound(ORACLE, x, steps=0)
diffusion.bound(ORACLE, x, strata=0)
diffusion.dequantize(x, -0.1)
diffusion.discrete_times(0)
diffusion.edm(PREDICTION, x, eps, 0.0)
diffusion.integrate(DDIM(), ORACLE, eps, torch.tensor([0.5, 0.9, 0.1]))
diffusion.integrate(DDIM(), ORACLE, eps, torch.tensor([1.5, 0.5]))
diffusion.integrate(DDIM(), ORACLE, eps.long(), times)
diffusion.level_times(SCHEDULE, None, 0)
diffusion.level_times(SCHEDULE, None, 2.5)
diffusion.log_normal_times(SCHEDULE, std=0.0)
diffusion.logit_normal_times(std=-1.0)
diffusion.min_snr(PREDICTION, x, eps, -1.0)
diffusion.ode_log_likelihood(ORACLE, x, rtol=-1.0)
diffusion.ode_log_likelihood(ORACLE, x, trace="magic")
diffusion.slerp(first, eps, share)
diffusion.time_grid("magic", 4, SCHEDULE)
diffusion.time_grid("uniform", 0, SCHEDULE)
diffusion.time_grid("uniform", 2.5, SCHEDULE)
diffusion.time_grid("uniform", 4, SCHEDULE, start=0.1, end=0.5)
diffusion.uniform_times(0)
diffusion.uniform_times(2.5)
distributions.AutoregressiveBits(1, 3)
distributions.BernoulliLogits(0)
distributions.CategoricalPrior(0, 3)
distributions.CategoricalPrior(2, 1)
distributions.DiagonalGaussian(0)
distributions.DiagonalGaussian(min_std=0.0)
distributions.DiagonalNoise(2, 0.0)
distributions.DiscretizedGaussian(centre, -variance)
distributions.DiscretizedLogistic(centre, variance, 1)
distributions.Erlang(-1.0, 1.0)
distributions.Flat(0)
distributions.FlatPrior(0)
distributions.GaussianPrior(0)
distributions.GaussianPrior(2, std=0.0)
distributions.Gompertz(-1.0, 1.0)
distributions.IsotropicGaussian(0.0)
distributions.Levels(levels=1)
distributions.OneHotLogits(0, 3)
distributions.OneHotLogits(1, 1)
distributions.StraightThroughOneHot(0.0, logits)
distributions.gumbel_softmax(logits, 0.0)
distributions.soft_clamp(x, 1.0, -1.0)
estimators.MovingAverage(1.5)
estimators.Relaxed(0.0)
estimators.compare_estimators(lambda a: N(a, 1.0), torch.square, centre, repeats=0)
estimators.expectation(N(centre, 1.0), torch.square, estimators.Pathwise(), 0)
estimators.pathwise(N(centre, 1.0), torch.square, 2.5)
estimators.relaxed(distributions.OneHot(logits=logits), torch.square, 2, temperature=0.0)
estimators.score_function(N(centre, 1.0), torch.square, 0)
estimators.subsampled_sum(v, 3)
mean_field.RobbinsMonro(forgetting=2.0)
metrics.BoostedTrees(0)
metrics.Lasso(1)
metrics.bits_per_dim(v, 0)
metrics.calibration(confidence, right, 0)
metrics.class_coverage(labels, 0)
metrics.class_network(pictures, labels, 0)
metrics.class_network(pictures[:0], labels[:0], 3)
metrics.confusion(labels, read, 0)
metrics.dci(x, factors, kept=1.5)
metrics.discriminate((x, y), (fresh, eps), steps=0)
metrics.energy_distance(x, y, chunk=0)
metrics.expected_coverage(0, 5)
metrics.expected_coverage(20, 20, 0)
metrics.extrapolated_frechet_distance(x, y, shares=0)
metrics.factor_vae_score(x, factors, votes=0)
metrics.floor(metrics.energy_distance, x, 0)
metrics.frechet_distance(x, y[:, :1])
metrics.high_frequency_power(pictures, 0.9)
metrics.kernel_distance(x, y, chunk=0)
metrics.kernel_distance(x, y[:, :1])
metrics.mig(x, factors, 0)
metrics.mode_coverage(x, modes, 0.0)
metrics.mutual_information(x, factors, 0)
metrics.nearest_distance(x, y, chunk=0)
metrics.prdc(x, y, chunk=0)
metrics.prdc(x, y, k=0)
metrics.prdc(x, y, k=2.5)
metrics.prdc(x, y, k=20)
metrics.random_convolutions((0, 8, 8))
metrics.relative(metrics.wilson(5, 9), metrics.wilson(0, 9))
metrics.sharpness(pictures, others, 0.9)
metrics.wilson(5, 3)
models.Annealing(steps=0)
models.AutoDecoder([DECODER], LATENT.prior, steps=-1)
models.Diffusion(ORACLE, (0,))
models.GAN(CRITIC, 0)
models.KernelDensityModel(x, -0.5)
models.KernelSampling(steps=0)
models.NoiseConditional(NOISY, 0.5, 2.0)
models.Sampling(steps=0)
models.ScoreModel(NOISY, (2,), [0.5, 1.0])
models.as_diffusion(SCORES).sample(0)
models.traversal(LATENT, x, rows=0)
models.traversal(LATENT, x, steps=0)
nn.Classifier(AFFINE, 4, classes=0)
nn.PatchCritic(0)
nn.PictureCritic((1, 8, 8), width=0)
nn.PictureDecoder(0, (1, 8, 8))
nn.PictureEncoder((1, 8, 8), 0)
nn.PictureGenerator(0, (1, 8, 8))
nn.RandomFourierFeatures(2, 0, 1.0)
nn.Reader(1, alphabet=0, length=2)
nn.AttentiveReader(1, alphabet=3, length=0)
nn.ResidualCritic((1, 8, 8), width=0)
nn.ResidualGenerator(0, (1, 8, 8))
nn.TimeMLP((2,), width=0)
nn.Translator(0)
nn.UNet(0, (8, 8))
nn.UNet(1, (8, 8), widths=())
nn.mlp(3)
nn.mlp(3, 0)
nn.sized("magic", "tiny", (2,))
nn.sized("points", "magic", (2,))
objectives.AddedNoise(0.0)
objectives.Adversarial(GENERATOR, CRITIC, loss="magic")
objectives.Adversarial(GENERATOR, CRITIC, packing=0)
objectives.Denoising(DIFFUSION, drop=1.5)
objectives.Hybrid(LEARNED, steps=0)
objectives.Masked(1.5)
objectives.Reading(CLASSES, noise=-0.1)
objectives.Reading(CLASSES, shift=-1)
objectives.ScoreMatching(SCORES, loss="magic")
objectives.Variational(LATENT, gradient="magic")
objectives.Variational(LATENT, samples=0)
objectives.VariationalDiffusion(DIFFUSION, steps=0)
objectives.alternating(0)
score.KernelDensity(x, 0.0)
score.annealed_langevin(noisy, x, sigmas, 0.1, 0)
score.annealed_variance(v, sigmas, 0.1, 0)
score.basin(score_, x, modes, step_size=0.1, steps=0)
score.denoising(score_, x, eps, -0.5)
score.dimension_curse([0], 5)
score.effective_sample_size(draws, "magic")
score.exit_times(score_, x, left, 0.1, 0)
score.first_passage_time(log_prob, 1.0, 0.0, edge=0.5)
score.geometric(1.0, 2.0, 3)
score.geometric(2.0, 1.0, 0)
score.implicit(score_, x, chunk=0)
score.kramers_time(log_prob, 0.0, float("nan"))
score.langevin(score_, x, -0.1, 2)
score.langevin(score_, x, 0.1, 0)
score.langevin(score_, x, 0.1, 2.5)
score.leave_one_out_log_prob(x, -0.5)
score.mala(log_prob, x, 0.0, 2)
score.mean_exit_time(v, 0.0)
score.occupancy(visits, 0)
score.slices(x, 0)
score.slices(x, law="magic")
score.tweedie(score_, x, -1.0)
score.two_modes(log_prob, 1.0, -1.0, (-5.0, 5.0), step_size=0.1, steps=9)
training.Budget()
training.Budget(minutes=-1.0)
training.Budget(minutes=torch.inf)
training.Budget(steps=1.5)
training.Budget(steps=3, elapsed=-5)
training.Player([], None, 0.1)
training.Player([], None, abs, clip=-1.0)
training.Player([], None, abs, clip=torch.nan)
training.Budget(steps=0)
training.Profile(-2.0, 1.0)
training.Profile(1.0, 0.0)
training.Profile(torch.inf, 1.0)
training.Tolerance(-1)
training.Tolerance(1.5)
training.Tolerance(torch.nan)
training.TrainState(GAME, {}, decay=())
training.TrainState(GAME, {}, decay=2.0)
training.consensus(-1.0)
training.consensus(torch.inf)
training.exponent(0.0)
training.exponent(1e-160)
training.power_decay(0.0)
training.power_decay(1e-200)
training.reconstruct(AFFINE, [{}], one)
training.reconstruct(AFFINE, [CRITIC.state_dict()], one)
training.reconstruct(AFFINE, [AFFINE.state_dict()], [1.0])
training.reconstruct(AFFINE, [AFFINE.state_dict()] * 2, one)
training.relative_width(-2.0)
training.relative_width(torch.inf)
training.update_average(AFFINE, AFFINE, 1.5)
training.update_average(AFFINE, CRITIC, 0.0)
training.warm_decay(1.5)
training.warm_then_decay(1.0, training.Budget(steps=2), decay=0.0)
training.warm_then_decay(torch.nan, training.Budget(steps=2))
variational.Constraint(0.0)
variational.GaussianMixtureVI(0, PRIOR)
variational.Penalized(-1.0)
variational.Relaxation(0.0)
variational.Relaxation(1.0, "magic")
variational.ais_log_likelihood(MODEL, x, 0)
variational.amortization_gap(MODEL, x, samples=0)
variational.ascend_theta(MODEL, x, Z, steps=0)
variational.beta(-1.0)
variational.collapse_report(LATENT, x, samples=0)
variational.cooling(1.0, 2.0, 3)
variational.coordinate_ascent(0, [], torch.tensor)
variational.cyclical(0)
variational.fit_posterior(MODEL, x, steps=-1)
variational.free_bits(-1.0)
variational.gap_split(MODEL, x, samples=0)
variational.gaussian_mean_field(centre, -precision)
variational.linear(0)
variational.log_likelihood(MODEL, x, 0)
variational.log_likelihood(MODEL, x, 2.5)
variational.log_likelihood(MODEL, x, proposal="magic")
variational.lower_bound(MODEL, x, 0)
variational.mixture_log_evidence(few, 0, PRIOR)
variational.pareto_k(falling, 0)
variational.pareto_limit(0)
variational.posterior_table(0, 1)
variational.posterior_trace(MODEL, x, (Z,), samples=0)
variational.refine(MODEL, x, (Z,), steps=-1)
variational.stochastic_vi(MODEL, x, [TABLE], batch=0)
"""


WITHOUT = {
    "tables and constants": """
        DIVERGENCES GAME_LOSSES MARGIN_LOSSES TRANSFORMS SAMPLERS SCHEDULES MATCHING SIMULTANEOUS WIDEST JUDGES""",
    "types, protocols and classes to derive from": """
        GameLoss Denoiser Sampler Schedule Span Memory Discretized Baseline Estimator Draw Judge Learner LatentChain
        Recogniser Role Size NoisyScore Score Update Bound Inferring LatentModel Posterior""",
    "what functions return": """
        AutoregressiveBernoulli
        Estimate Stability Evidence Outcome Report FlowLikelihood Comparison Row AUC C2ST DCI MIG PRDC Calibration
        ClassCoverage Discrimination Distance FrechetDistance JointCoverage Legibility Memorisation ModeCoverage
        Proportion Sharpness VarianceRatio Chains Escape ModeReport Occupancy ScoreError TwoModes CollapseReport Fitted
        Gap GapSplit Layer LayerUse ThetaPath Ascent MixtureFactors MixtureState Case Played""",
    "functions of modules, functions, distributions, laws, runs and states": """
        MarginLoss power_iteration Law denoising_loss draws game gradient law laws_of_file mcmc of_prediction penalty
        resume run sampler schedule score as_mass default_span whole_span measure judge evaluations operations
        parameters Player TrainState begin_average descend extragradient fit interrupts on_device optimistic recompute
        reconstruction train_step Scheduled ScoreFunction""",
    "refused in docs/refused.md": "compare configure load_data open train",
}
"""Public names that are in no row: they take no tensors, and no numbers of their own."""


PREDICTION = Prediction.of_eps(
    GIVEN["x"], GIVEN["fresh"], *(a[:, None] for a in SCHEDULE.alpha_sigma(torch.full((20,), 0.5)))
)


def slices(x):
    return torch.ones(1, *x.shape)


def trace(draw):
    return Trace(draw, (draw,), (draw,), (False,), (True,))


def law(mean):
    return torch.distributions.Independent(N(mean, 1.0), 1)


def left(x):
    return x[:, 0] > 5


def noise_score(x):
    return -x / 2


AFFINE = torch.nn.Linear(2, 4)
CRITIC = torch.nn.Linear(2, 1)
NETWORK = TimeMLP((2,), width=8, blocks=1)
CONDITIONED = NetworkDenoiser(TimeMLP((2,), width=8, blocks=1, classes=4), SCHEDULE, null=torch.tensor([3]))
DIFFUSION = Diffusion(NetworkDenoiser(NETWORK, SCHEDULE), (2,))
LEARNED = Diffusion(NetworkDenoiser(TimeMLP((2,), width=8, blocks=1, outputs=2), SCHEDULE, learned_variance=True), (2,))
ENCODER = Conditional(mlp(2, 2), DiagonalGaussian())
HEAD = Conditional(mlp(4, 2), DiagonalGaussian())
DECODER = Conditional(mlp(1, 4), DiagonalGaussian())
LATENT = VAE(ENCODER, DECODER, GaussianPrior(1))
GENERATOR = GAN(torch.nn.Linear(2, 2), 2)
GAME = Adversarial(GENERATOR, torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0)))
CLASSES = Classifier(mlp(2, 4), 4, classes=3)
CODES = Autoencoder(mlp(2, 1), Conditional(mlp(1, 4), DiagonalGaussian()), GaussianPrior(1))
NOISY = TimeMLP((2,), width=8, blocks=1)
SCORES = ScoreModel(NoiseConditional(NOISY, 2.0, 0.5), (2,), [2.0, 1.0, 0.5])
CYCLE = CycleGAN(Translator(1, width=8, blocks=1), Translator(1, width=8, blocks=1))
PATCHES, PAIRS = PatchCritic(1, widths=(8,)), PatchCritic(2, widths=(8,))
TABLE = posterior_table(20, 1)
PRIOR2 = MixturePrior.around(GIVEN["x"], 2)
SPACE = {name: importlib.import_module(f"jensen.{name}") for name in ["metrics", "diffusion", "adversarial", "score"]}
SPACE |= {name: importlib.import_module(f"jensen.{name}") for name in ["variational", "estimators", "distributions"]}
SPACE |= {
    **{name: importlib.import_module(f"jensen.{name}") for name in ("nn", "models", "objectives", "training", "check")},
    "mean_field": importlib.import_module("jensen.variational.mean_field"),
    "N": N,
    "Z": Z,
    "torch": torch,
    "score_": score,
    "PRIOR": MixturePrior(1.0, NormalWishart(torch.zeros(1), torch.tensor(1.0), torch.tensor(1.0), torch.ones(1, 1))),
}
SPACE |= {
    k: v
    for k, v in globals().items()
    if k.isupper() or k in ("critic", "noisy", "log_prob", "slices", "trace", "law", "left", "noise_score")
}
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
    if isinstance(value, torch.nn.Module):
        return numbers(list(value.state_dict().values()))
    if isinstance(value, torch.distributions.Distribution):
        return numbers([value.mean, value.variance])
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


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
    except Exception as error:  # noqa: BLE001 (which exception it is is what is tested)
        return ours(error)
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
    """What is wrong with an exception, or "": a line of jensen raises it, in one sentence, or jensen is not reached."""
    *frames, last = traceback.extract_tb(error.__traceback__)
    if not any(frame.filename.startswith(HOME) for frame in (*frames, last)):
        return ""
    raised = last.filename.startswith(HOME) and (last.line or "").startswith("raise")
    known = isinstance(error, ValueError | TypeError) and raised and "\n" not in str(error)
    return "" if known else f"{type(error).__name__}: {error}"


KINDS = ("scalar", "empty", "nan", "dtype")
CALLS = RIGHT.strip().splitlines()


def public():
    """Every name in the `__all__` of a package of the library; applications have no public names."""
    packages = [m.name for m in pkgutil.walk_packages(jensen.__path__, "jensen.") if m.ispkg]
    packages = [name for name in packages if not name.startswith("jensen.apps.")]
    modules = map(importlib.import_module, ["jensen", *packages])
    return {name for module in modules for name in getattr(module, "__all__", ())}


def test_every_public_name_is_in_a_row_or_takes_neither_tensors_nor_numbers():
    rows = set(re.findall(r"\b[a-z_]+\.(\w+)", f"{RIGHT} {WRONG}"))
    without = set(" ".join(WITHOUT.values()).split())
    assert public() - rows - without == set()
    assert without - public() == set()


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
