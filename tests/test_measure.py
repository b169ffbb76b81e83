"""Mass or density, evaluation mode, precision: properties of all likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as D
from torch import nn

from gaussians import draws
from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    AutoregressiveBits,
    BernoulliLogits,
    CategoricalLogits,
    Conditional,
    DiagonalGaussian,
    DiscretizedGaussian,
    Erlang,
    Flat,
    FlatPrior,
    GaussianPrior,
    Gompertz,
    IsotropicGaussian,
    Levels,
    OneHotLogits,
    measure,
)
from jensen.estimators import subsampled_sum
from jensen.models import GAN, HVAE, VAE, Autoencoder, CycleGAN, Diffusion, ScoreModel
from jensen.nn.reader import Reader
from jensen.variational import (
    LinearGaussian,
    Trace,
    ais_log_likelihood,
    amortization_gap,
    collapse_report,
    dreg,
    elbo,
    fit_posterior,
    iwae,
    log_likelihood,
    lower_bound,
    refine,
)

F64 = torch.float64
BIT = D.Bernoulli(logits=torch.tensor([0.3, -1.0]))
UP = D.AffineTransform(2.0, 1.0)


class Die(D.Distribution):
    """A user's distribution over six faces."""

    arg_constraints = {}  # noqa: RUF012
    support = D.constraints.integer_interval(1, 6)

    def log_prob(self, value):
        return torch.full_like(value, -math.log(6))


class Bare(D.Distribution):
    arg_constraints = {}  # noqa: RUF012


LAWS = {
    "mass": [
        BIT,
        D.Independent(BIT, 1),
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), BIT),
        D.TransformedDistribution(D.Poisson(1.0), [UP]),
        D.Independent(D.TransformedDistribution(D.Poisson(torch.ones(3)), [UP]), 1),
        D.Multinomial(4, torch.ones(3)),
        DiscretizedGaussian(torch.zeros(3), 1.0),
        D.MixtureSameFamily(D.Categorical(torch.ones(3)), DiscretizedGaussian(torch.zeros(3), 1.0)),
        BernoulliLogits()(torch.zeros(3)),
        CategoricalLogits()(torch.zeros(3, 4)),
        OneHotLogits(2, 3, temperature=0.5)(torch.zeros(6)),
        Levels()(torch.zeros(6)),
        AutoregressiveBits(3, 2)(torch.zeros(5)),
        Die(),
    ],
    "density": [
        D.Normal(0.0, 1.0),
        D.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        D.TransformedDistribution(D.Normal(0.0, 1.0), [D.SigmoidTransform()]),
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Gamma(torch.ones(2), 1.0)),
        D.RelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(2)),
        D.ContinuousBernoulli(logits=torch.zeros(2)),
        Gompertz(1.0, 1.0),
        Erlang(2, 1.0),
        Flat(3),
        DiagonalGaussian()(torch.zeros(4)),
        IsotropicGaussian()(torch.zeros(4)),
    ],
}


@pytest.mark.parametrize(("kind", "law"), [(k, law) for k, laws in LAWS.items() for law in laws])
def test_the_measure_is_the_laws(kind, law):
    assert measure(law) == kind


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_discretized_decoder_says_mass_and_sums_to_one(levels):
    law = Levels(levels=levels)(torch.tensor([0.3, -1.0]))
    values = torch.linspace(-1, 1, levels)[:, None]
    assert float(law.log_prob(values).logsumexp(0)) == pytest.approx(0, abs=1e-5)
    model = VAE(part(3, 2), Conditional(nn.Linear(2, 6), Levels(levels=levels)), GaussianPrior(2))
    x = torch.full((2, 3), -1.0)
    assert model.measure == "mass"
    assert model.log_likelihood(x, samples=3).measure == lower_bound(model, x, 2).measure == "mass"
    support = law.base_dist.support
    assert support.check(torch.tensor([-1.0, 1.0, 1.5])).tolist() == [True, True, False]
    assert not bool(support.check(torch.tensor(1 / (2 * levels))))


def test_what_has_no_measure_is_refused():
    with pytest.raises(ValueError, match="Bare must have a support"):
        measure(Bare())
    scaled = D.TransformedDistribution(BIT, [D.AffineTransform(-1.0, 2.0)])
    assert float(scaled.log_prob(torch.tensor([[-1.0] * 2, [1.0] * 2])).logsumexp(0)[0]) == pytest.approx(-math.log(2))
    with pytest.raises(ValueError, match="transformed Bernoulli must preserve volumes"):
        measure(scaled)


# evaluation mode ----------------------------------------------------------------------------------------------------


def part(a, b):
    return Conditional(nn.Linear(a, 2 * b), DiagonalGaussian())


class Normed(nn.Module):
    """Batch norm over all rows, for any number of batch dimensions, and a linear map."""

    def __init__(self, a, b):
        super().__init__()
        self.norm, self.map = nn.BatchNorm1d(a), nn.Linear(a, b)

    def forward(self, x, *_):
        return self.map(self.norm(x.flatten(0, -2)).view_as(x))


def normed():
    torch.manual_seed(0)
    decoders = [Conditional(Normed(2, 3), IsotropicGaussian()), Conditional(Normed(2, 4), DiagonalGaussian())]
    encoders = [Conditional(Normed(3, 4), DiagonalGaussian()), Conditional(Normed(2, 4), DiagonalGaussian())]
    return HVAE(encoders, decoders, GaussianPrior(2))


def statistics(model):
    return {name: v.clone() for name, v in model.named_buffers()}


X = torch.randn(6, 3, generator=generator(0))
Z = torch.randn(6, 2, generator=generator(1))

ASKED = {
    "log_likelihood of a model": lambda m: m.log_likelihood(X, samples=20).value,
    "log_likelihood": lambda m: log_likelihood(m, X, 20, "prior").value,
    "ais": lambda m: ais_log_likelihood(m, X, 2, 2, 1).value,
    "lower_bound": lambda m: lower_bound(m, X, 20).value,
    "fit_posterior": lambda m: fit_posterior(m, X, steps=0, start="encoder").left,
    "refine": lambda m: refine(m, X, fit_posterior(m, X, steps=0), steps=2)[0].mean,
    "amortization_gap": lambda m: amortization_gap(m, X, samples=10, steps=60).value,
    "collapse_report": lambda m: torch.tensor([layer.kl.value for layer in collapse_report(m, X).layers]),
    "sample": lambda m: m.sample(5),
    "decode": lambda m: m.decode(Z),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_likelihood_leaves_batch_norm_alone(name):
    """In training mode it equals that of evaluation mode, no running statistic changes, and the mode of each module
    is restored.
    """
    model = normed().train()
    model.encoders[0].eval()
    modes, before = [m.training for m in model.modules()], statistics(model)
    with drawing(generator(3)):
        found = ASKED[name](model)
    assert all(bool((v == before[k]).all()) for k, v in statistics(model).items())
    assert [m.training for m in model.modules()] == modes
    with drawing(generator(3)):
        torch.testing.assert_close(found, ASKED[name](model.eval()), rtol=0, atol=0)


class Denoised(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Normed(3, 3)

    def forward(self, z, t, *_):
        return self.net(z)


def diffusion():
    from jensen.diffusion import NetworkDenoiser, VariancePreserving

    return Diffusion(NetworkDenoiser(Denoised(), VariancePreserving()), [3])


OTHERS = {
    "bound": (diffusion, lambda m: m.bound(X, strata=2).likelihood.value),
    "log_likelihood of a diffusion": (diffusion, lambda m: m.log_likelihood(X).value),
    "ode_log_likelihood": (diffusion, lambda m: m.ode_log_likelihood(X, rtol=0.1, atol=0.1).likelihood.value),
    "diffusion.sample": (diffusion, lambda m: m.sample(2, steps=2, chunk=2)),
    "gan.sample": (lambda: GAN(Normed(2, 3), 2), lambda m: m.sample(4)),
    "cycle.translate": (lambda: CycleGAN(Normed(3, 3), Normed(3, 3)), lambda m: m.translate(X)),
    "score.sample": (lambda: ScoreModel(Denoised(), [3], [1.0, 0.5]), lambda m: m.sample(2, steps=1, chunk=2)),
    "score.score": (lambda: ScoreModel(Denoised(), [3], [1.0, 0.5]), lambda m: m.score(X)),
    "reader.read": (
        lambda: Reader(1, alphabet=3, length=2, width=2),
        lambda m: m.read(X[:, None, None].expand(6, 1, 24, 3))[1],
    ),
    "autoencoder.reconstruct": (
        lambda: Autoencoder(Normed(3, 2), Conditional(Normed(2, 3), IsotropicGaussian()), FlatPrior(2)),
        lambda m: m.reconstruct(X),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_public_answer_of_a_model_is_of_evaluation_mode(name):
    build, ask = OTHERS[name]
    torch.manual_seed(1)
    model = build().train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.Linear)).eval()
    before = statistics(model)
    with drawing(generator(3)):
        found = ask(model)
    assert all(bool((v == before[k]).all()) for k, v in statistics(model).items())
    assert model.training
    assert not frozen.training  # a module in evaluation mode stays in it
    with drawing(generator(3)):
        torch.testing.assert_close(found, ask(model.eval()), rtol=0, atol=0)


def test_an_error_restores_the_mode():
    model = normed().train()
    with pytest.raises(ValueError, match="x must be rows"):
        log_likelihood(model, torch.zeros(2, 7))
    assert all(m.training for m in model.modules())


# precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bounds_of_half_precision_are_summed_in_single(dtype):
    """784 Gaussian pixels of a linear model in half precision: bounds within 0.15 nats of -734, where half precision
    has steps of 4. The oracle has the same weights and data in float64; q is so narrow that its draws do not matter.
    """
    torch.manual_seed(0)
    encoder = Conditional(nn.Linear(784, 2), IsotropicGaussian(1e-3))
    model = VAE(encoder, Conditional(nn.Linear(2, 784), IsotropicGaussian(1.0)), GaussianPrior(2))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0).add_((torch.rand_like(p) < 0.5) / 64)  # exact in half
    x = (torch.rand(3, 784) < 0.05).double() / 4
    mean = encoder.net.bias.double() + x @ encoder.net.weight.double().T
    error = x - mean @ model.decoder.net.weight.double().T - model.decoder.net.bias.double()
    log_px = -error.square().sum(1) / 2 - 392 * math.log(2 * math.pi)
    kl = (1e-6 + mean.square() - 1 + 2 * math.log(1e3)).sum(1) / 2
    log_px, kl = log_px.detach(), kl.detach()
    half, y = model.to(dtype), x.to(dtype)
    trace = half.trace(y, samples=4, analytic=True)
    assert trace.log_px.dtype == trace.kl[0].dtype == torch.float32
    assert float((elbo(trace).detach() - (log_px - kl)).abs().max()) < 0.15
    bound = lower_bound(half, y, 1000, generator=generator(0))  # of a sampled KL, whose weights vary by one nat
    assert float((bound.value - (log_px - kl)).abs().max()) < 0.15 + 4 / 1000**0.5
    for found in (bound.value, iwae(half.trace(y, samples=4)), log_likelihood(half, y, 4).value):
        assert found.dtype == torch.float32


def test_estimates_are_told_in_single_precision_at_least():
    """log p(x) near -550 nats from bfloat16 data: to 0.01 nats, where the nearest bfloat16 is off by more than 0.5."""
    model = LinearGaussian(torch.zeros(1000, 1), torch.zeros(1000), 0.1)
    x = (torch.arange(1000) % 2 / 2).bfloat16()[None]
    exact = float(model.log_prob(x.float()))
    assert abs(exact - float(torch.tensor(exact).bfloat16())) > 0.5
    for found in (log_likelihood(model, x, 10), ais_log_likelihood(model, x, 3, 4), lower_bound(model, x, 4)):
        assert found.value.dtype == torch.float32
        assert float(found.value) == pytest.approx(exact, abs=0.01)
    half = torch.full((1, 1), -549.3, dtype=torch.bfloat16)
    one = torch.full((1, 1), 3.0, dtype=torch.bfloat16)
    trace = Trace(half, (one,), (one,), (False,), (True,))
    assert float(elbo(trace)) == float(half) - 3  # -551, between two bfloat16s


# a zero weight, latents without axes, sums of draws -----------------------------------------------------------------


def test_dreg_with_a_weight_of_zero():
    """If p(x | z) excludes a draw, the gradient of the others is sum w^2 d log w, without nan; if it excludes all,
    the value is -inf and the gradient 0.
    """
    log_w = torch.tensor([[0.3], [-0.2], [0.1]], dtype=F64, requires_grad=True)
    zero = torch.zeros(3, 1, dtype=F64)
    dead = torch.tensor([[0.0], [0.0], [-math.inf]], dtype=F64)
    value = dreg(Trace(log_w + dead, (zero,), (zero,), (False,), (True,)))
    value.sum().backward()
    alive = log_w.detach()[:2]
    torch.testing.assert_close(value.detach(), alive.logsumexp(0) - math.log(3))
    torch.testing.assert_close(log_w.grad, torch.cat([alive.softmax(0).square(), torch.zeros(1, 1, dtype=F64)]))
    log_w.grad = None
    value = dreg(Trace(log_w - math.inf, (zero,), (zero,), (False,), (True,)))
    value.sum().backward()
    assert value.tolist() == [-math.inf]
    assert log_w.grad.tolist() == [[0.0]] * 3


class Scalar:
    """z ~ N(0, 1) and x | z ~ N(z, 1/4), both scalars."""

    measure = "density"

    def prior_sample(self, shape):
        return (torch.randn(shape, dtype=F64),)

    def log_prior(self, z):
        return D.Normal(0.0, 1.0).log_prob(z[0])

    def log_px(self, x, z):
        return D.Normal(z[0], 0.5).log_prob(x)

    def trace(self, x, *, samples=1, analytic=False, reparameterized=True):
        q = D.Normal(torch.zeros_like(x), 1.0)
        z = q.rsample((samples,))
        ratio = q.log_prob(z) - self.log_prior((z,))
        return Trace(self.log_px(x, (z,)), (ratio,), (ratio,), (False,), (True,))


def test_latents_without_axes():
    """log N(x; 0, 5/4) within 4 standard errors; the fitted q is N(4 x / 5, 1/5)."""
    x = torch.tensor([0.5, -1.0], dtype=F64)
    exact = D.Normal(0.0, math.sqrt(1.25)).log_prob(x)
    estimate = ais_log_likelihood(Scalar(), x, steps=50, chains=64, generator=generator(0))
    assert bool(((estimate.value - exact).abs() < 4 * estimate.stderr).all())
    assert float(estimate.stderr.max()) < 0.1
    (q,) = fit_posterior(Scalar(), x, generator=generator(0))
    torch.testing.assert_close(q.mean, 0.8 * x)
    torch.testing.assert_close(q.variance, torch.full((2,), 0.2, dtype=F64))


def test_a_subsampled_sum_of_several_draws():
    values = draws(3, 4)
    torch.testing.assert_close(subsampled_sum(values, 10), values.sum(1) * 2.5)
    with pytest.raises(ValueError, match="the batch must hold between 1 and 3 examples, got 4"):
        subsampled_sum(values, 3)
