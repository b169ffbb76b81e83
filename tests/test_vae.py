"""Models against closed forms; the objective as a game, trained to known optima."""

from __future__ import annotations

import math
from itertools import repeat

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from gaussians import draws
from jensen.core.objective import partition
from jensen.core.protocols import Bounded, Sampleable
from jensen.core.seeding import generator, generators
from jensen.distributions import (
    BernoulliLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    FlatPrior,
    GaussianPrior,
    IsotropicGaussian,
    OneHotLogits,
)
from jensen.models import HVAE, VAE, Autoencoder, LadderVAE
from jensen.objectives import Variational
from jensen.training import Budget, Player, TrainState, fit, train_step, warm_then_decay
from jensen.variational import (
    Constraint,
    LatentModel,
    LinearGaussian,
    annealed,
    beta,
    dreg,
    elbo,
    free_bits,
    iwae,
    linear,
    log_weights,
    scored,
    sticking_the_landing,
)

F64 = torch.float64


class Gaussian(nn.Module):
    """N(slope c + offset, variance), elementwise."""

    def __init__(self, slope, offset, variance):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([slope, offset, variance], dtype=F64))

    def forward(self, c):
        slope, offset, variance = self.theta
        mean = slope * c + offset
        return Independent(Normal(mean, variance.sqrt().expand_as(mean)), 1)


def hierarchy(up=((0.0, 0.0, 1.0), (1.0, 0.0, 0.25)), down=((1.0, 0.0, 1.0), (1.0, 0.0, 1.0))):
    return HVAE([Gaussian(*t) for t in up], [Gaussian(*t) for t in down], GaussianPrior(1).double())


def assert_mean(draws, expected, errors=4.0, rounding=0.0):
    """The mean is within `errors` standard errors of the expected value, plus rounding."""
    mean, stderr = float(draws.mean()), float(draws.std()) / draws.numel() ** 0.5
    assert abs(mean - expected) < errors * stderr + rounding, (mean, expected, stderr)


def trained(objective, x, steps, rate, batch=None, optimizer=torch.optim.Adam, rates=None):
    """Train on x in full or in batches; all learning rates fall linearly to 0 over the last nine tenths."""
    budget = Budget(steps=steps)
    players = {
        name: Player(
            p, optimizer(p, lr=rate), warm_then_decay((rates or {}).get(name, rate), budget, warmup=20, decay=0.9)
        )
        for name, p in partition(objective).items()
    }

    def stream(draws):
        rng = generator(draws)
        while True:
            yield {"x": x if batch is None else x[torch.randint(len(x), (batch,), generator=rng)]}

    last = {}
    fit(TrainState(objective, players), stream, budget, on_step=lambda state, terms: last.update(terms))
    return last


def test_a_lower_layers_term_is_no_divergence():
    """q(z1) = N(0, 1), q(z2 | z1) = N(z1, 1/4), p(z1 | z2) = N(z2, 1): -0.375, where the KL averaged over q(z2) is
    0.625. n = 200,000, 4 standard errors, with and without `analytic`: this term has no closed form.
    """
    model, x = hierarchy(), torch.zeros(200_000, 1, dtype=F64)
    with torch.no_grad():
        for analytic in (False, True):
            trace = model.trace(x, analytic=analytic)
            assert trace.analytic == (False, analytic)
            assert_mean(trace.kl[0], -0.375)
        first, second = model.infer(x)
        assert_mean(kl_divergence(first.q, model.law(1, second.z)), 0.625)
        assert (first.divergence, second.divergence) == (False, True)


def test_the_top_layers_divergence_in_closed_form():
    """KL(N(z1, 1/4)

    N(0, 1)) at the draws of z1; its mean over q(z1) = N(0, 1) is 1/2 (1/4 + 1 - 1 + log 4).
    """
    model, x = hierarchy(), torch.zeros(100_000, 1, dtype=F64)
    with torch.no_grad():
        trace = model.trace(x, analytic=True)
        assert_mean(trace.kl[1], (0.25 + math.log(4)) / 2)
        assert_mean(model.trace(x).kl[1], (0.25 + math.log(4)) / 2)


def test_the_ladder_holds_the_posterior_of_a_linear_chain():
    """p(x|z1) = N(0.9 z1 + 0.2, 0.5), p(z1|z2) = N(0.8 z2 + 0.1, 0.7): with heads that return the likelihood of z1
    and the posterior of z2, log w = log p(x) for all draws, and the sticking-the-landing gradient is 0.
    """
    w, c, s = 0.9, 0.2, 0.5
    v, d, t = 0.8, 0.1, 0.7
    through = w * v, w * d + c, s + w**2 * t  # x given z2
    precision = 1 + through[0] ** 2 / through[2]
    heads = [
        Gaussian(1 / w, -c / w, s / w**2),
        Gaussian(through[0] / through[2] / precision, -through[1] * through[0] / through[2] / precision, 1 / precision),
    ]
    model = LadderVAE(
        [nn.Identity(), nn.Identity()], heads, [Gaussian(w, c, s), Gaussian(v, d, t)], GaussianPrior(1).double()
    )
    x = torch.tensor([[1.3], [-0.4]], dtype=F64)
    log_p = Normal(through[1], math.sqrt(through[2] + through[0] ** 2)).log_prob(x[:, 0])
    trace = model.trace(x, samples=50)
    torch.testing.assert_close(log_weights(trace), log_p.expand(50, 2), rtol=0, atol=1e-6)
    elbo(sticking_the_landing(trace)).sum().backward()
    assert all(float(head.theta.grad.abs().max()) < 1e-10 for head in heads)
    closed = model.trace(x, samples=20_000, analytic=True)
    assert closed.analytic == (True, True)
    for b in range(2):
        assert_mean((closed.log_px - sum(closed.kl))[:, b].detach(), float(log_p[b]))


def test_a_chain_draws_and_scores_its_prior():
    """z2 ~ N(0, 1), z1 ~ N(0.8 z2 + 0.1, 0.7), x ~ N(0.9 z1 + 0.2, 0.5); n = 100,000, 4 standard errors."""
    model = hierarchy(down=((0.9, 0.2, 0.5), (0.8, 0.1, 0.7)))
    with torch.no_grad():
        z1, z2 = model.prior_sample((100_000,))
        assert_mean(z1 - 0.8 * z2, 0.1)
        assert_mean((z1 - 0.8 * z2 - 0.1).square(), 0.7)
        assert_mean(z2.square(), 1.0)
        kept = model.prior_sample((), given=(z2,))
        assert kept[1] is z2
        assert_mean(kept[0] - 0.8 * z2, 0.1)
        expected = Normal(0.8 * z2 + 0.1, math.sqrt(0.7)).log_prob(z1) + Normal(0.0, 1.0).log_prob(z2)
        torch.testing.assert_close(model.log_prior((z1, z2)), expected[:, 0])
        x = model.sample(100_000, generator=generator(3))
        assert_mean(x, 0.9 * 0.1 + 0.2)
        assert_mean((x - x.mean()).square(), 0.81 * (0.7 + 0.64) + 0.5)
        torch.testing.assert_close(model.decode(z1), 0.9 * z1 + 0.2)


def small(latents=2, dims=3, **settings):
    torch.manual_seed(1)
    encoder = Conditional(nn.Linear(dims, 2 * latents), DiagonalGaussian())
    decoder = Conditional(nn.Linear(latents, dims), IsotropicGaussian(0.7, learned=True))
    return VAE(encoder, decoder, GaussianPrior(latents)).double()


def test_what_a_vae_is():
    model = small()
    assert isinstance(model, Sampleable)
    assert isinstance(model, Bounded)
    assert isinstance(model, LatentModel)
    assert (model.event, model.events, model.measure) == ((3,), ((2,),), "density")
    x = torch.randn(4, 3, dtype=F64)
    trace = model.trace(x, samples=5, analytic=True)
    assert trace.log_px.dtype == F64
    assert trace.samples == 5
    torch.testing.assert_close(
        trace.kl[0][0], kl_divergence(model.encoder(x), Independent(Normal(torch.zeros(2, dtype=F64), 1.0), 1))
    )
    assert not model.trace(x, reparameterized=False).pathwise[0]


def test_log_likelihood_of_a_linear_vae_is_the_oracles():
    """Importance sampling with the encoder, within 4 standard errors of each datum's estimate."""
    model, x = small(), torch.randn(6, 3, dtype=F64, generator=generator(2))
    oracle = LinearGaussian(model.decoder.net.weight.detach(), model.decoder.net.bias.detach(), 0.49)
    found = model.log_likelihood(x, samples=4000, generator=generator(0))
    again = model.log_likelihood(x, samples=4000, generator=generator(0))
    assert torch.equal(found.value, again.value)
    assert (found.kind, found.measure) == ("estimate", "density")
    assert float(((found.value - oracle.log_prob(x)).abs() / found.stderr).max()) < 4


def test_samples_follow_their_generators():
    model = small()
    model.decoder.net = nn.Sequential(model.decoder.net, nn.Dropout(0.5))
    model.train()
    a, b = (model.sample(5, generator=generator(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert model.decoder.net[1].training
    rows = model.sample(3, generator=generators(0, "abc"))
    torch.testing.assert_close(rows[1:2], model.sample(1, generator=generators(0, "abc")[1:2]), rtol=0, atol=0)


def test_an_autoencoder_is_the_limit_of_a_vae_with_a_flat_prior():
    r"""KL = -H(q) grows without bound like -D log std; the bound less H(q) falls to log p(x | e(x)) like std^2.

    D = 2 latents; E |x - d(z)|^2 of a linear decoder W is |x - d(e(x))|^2 + std^2 |W|^2 exactly: the means over
    n = 50,000 draws are compared within 4 standard errors, and the KL to 1e-5
    (the noise levels are float32).
    """
    torch.manual_seed(0)
    decoder = Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5))
    model = Autoencoder(nn.Linear(3, 2), decoder, FlatPrior(2)).double()
    x = torch.randn(1, 3, dtype=F64)
    squared = (model.reconstruct(x) - x).square().sum().detach()
    limit = float(-squared / (2 * 0.25) - 1.5 * math.log(2 * math.pi * 0.25))
    assert float(elbo(model.trace(x, samples=4)).detach()) == pytest.approx(limit, abs=1e-6)
    gaps, kls = [], []
    with torch.no_grad():
        for std in (1e-1, 1e-3, 1e-5):
            trace = model.noisy(std).double().trace(x.expand(50_000, 3), analytic=True)
            assert trace.analytic == (True,)
            entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
            kls.append(float(trace.kl[0][0, 0]))
            assert kls[-1] == pytest.approx(-entropy, abs=1e-5)
            less_entropy = elbo(trace) - entropy
            excess = std**2 * float(decoder.net.weight.square().sum()) / (2 * 0.25)
            assert_mean(less_entropy, limit - excess, rounding=1e-5)
            gaps.append(abs(float(less_entropy.mean()) - limit))
    assert kls[0] < kls[1] < kls[2]
    assert gaps[2] < 1e-4 < gaps[0]
    with pytest.raises(ValueError, match="flat prior is improper and cannot be sampled"):
        model.sample(3)
    with pytest.raises(ValueError, match="flat prior is improper and cannot be sampled"):
        model.noisy(0.1).sample(3)
    model.prior = GaussianPrior(2).double()
    assert float(model.noisy(0.1).double().log_prior((torch.ones(1, 1, 2, dtype=F64),))) == 0
    assert model.sample(3, generator=generator(0)).shape == (3, 3)


PATTERNS = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])


def categorical(temperature=None):
    torch.manual_seed(0)
    encoder = Conditional(nn.Linear(6, 3), OneHotLogits(1, 3, temperature))
    decoder = Conditional(nn.Sequential(nn.Flatten(-2), nn.Linear(3, 6)), BernoulliLogits())
    return VAE(encoder, decoder, CategoricalPrior(1, 3))


def test_a_categorical_divergence_is_exact():
    model = categorical()
    trace = model.trace(PATTERNS, samples=2, analytic=True)
    probabilities = model.encoder.net(PATTERNS).softmax(-1)
    expected = math.log(3) + (probabilities * probabilities.log()).sum(-1)
    torch.testing.assert_close(trace.kl[0], expected.expand(2, 3))
    assert (trace.analytic, trace.pathwise, model.measure) == ((True,), (False,), "mass")
    assert categorical(temperature=0.5).trace(PATTERNS).pathwise == (True,)


@pytest.mark.parametrize(
    ("bound", "samples", "temperature"),
    [(elbo, 4, None), (iwae, 4, None), (elbo, 1, 0.7)],
    ids=["elbo", "iwae", "relaxed"],
)
def test_a_categorical_vae_learns_the_entropy_of_three_patterns(bound, samples, temperature):
    """The optimum is log p = -log 3; score function and straight-through come within 0.03 of it."""
    model = categorical(temperature)
    trained(Variational(model, bound, samples=samples, analytic=bound is elbo), PATTERNS.repeat(8, 1), 250, 0.5)
    bound, evidence = enumerated(model)
    assert -math.log(3) - 0.03 < float(bound.mean()) < float(evidence.mean()) + 1e-5
    assert float(evidence.mean()) < -math.log(3) + 1e-5


@torch.no_grad()
def enumerated(model):
    """The exact ELBO and log p(x), (3,), of the categorical VAE, over its three classes."""
    z = (torch.eye(3)[:, None, None, :].expand(3, 3, 1, 3),)  # all classes for each pattern
    joint, log_q = model.log_px(PATTERNS, z) + model.log_prior(z), model.encoder(PATTERNS).log_prob(z[0])
    return (log_q.exp() * (joint - log_q)).sum(0), joint.logsumexp(0)


def test_a_linear_vae_trains_to_probabilistic_pca():
    """Digits, 8 latents: the exact ELBO and the exact log p(x) are within 0.05 nats of the closed-form maximum.
    Pixels, from 0 to 4, are centred, since otherwise the bias would have to learn the mean; the noise is learned.
    """
    x = torch.tensor(load_digits().data / 4, dtype=torch.float32)
    x = x - x.mean(0)
    torch.manual_seed(0)
    encoder = Conditional(nn.Linear(64, 16), DiagonalGaussian())
    decoder = Conditional(nn.Linear(8, 64), IsotropicGaussian(1.0, learned=True))
    model = VAE(encoder, decoder, GaussianPrior(8))
    trained(Variational(model, gradient="stl"), x, steps=800, rate=0.07, batch=900)
    best = float(LinearGaussian.fit(x.double(), 8).log_prob(x.double()).mean())
    model, x = model.double(), x.double()
    with torch.no_grad():
        noise = float((2 * decoder.family.log_std).exp())
        oracle = LinearGaussian(decoder.net.weight, decoder.net.bias, noise)
        bound = float(oracle.elbo(model.encoder(x), x).mean())
        evidence = float(oracle.log_prob(x).mean())
    assert best - 0.05 < bound < evidence < best


@pytest.mark.parametrize("layers", [1, 2])
def test_a_learned_prior_matches_the_moments_of_the_aggregate_posterior(layers):
    """With all other parameters fixed the best N(m, s^2 I) has m = mean E[z | x] and s^2 = mean (Var[z | x] + (E[z |
    x] - m)^2). For a hierarchy this is the prior of the top layer, whose q(z2 | z1) is here the same for all data.
    To 1e-4, by closed forms only.
    """
    x = draws(20, 1)
    if layers == 1:
        model = VAE(Gaussian(0.8, 0.5, 0.3), Gaussian(1.0, 0.0, 1.0), GaussianPrior(1, learned=True).double())
        mean = 0.8 * x.mean() + 0.5
        variance = 0.3 + 0.8**2 * x.var(correction=0)
    else:
        model = hierarchy(up=((0.5, 0.0, 1.0), (0.0, 0.7, 0.3)))
        model.prior = GaussianPrior(1, learned=True).double()
        mean, variance = torch.tensor(0.7, dtype=F64), torch.tensor(0.3, dtype=F64)
    for part in (*model.encoders, *model.decoders):
        part.requires_grad_(False)
    objective = Variational(model, analytic=True)
    assert [name for name, p in objective.named_parameters() if p.requires_grad] == [
        "model.prior.mean",
        "model.prior.log_std",
    ]
    trained(objective, x, steps=600, rate=0.03)
    torch.testing.assert_close(model.prior().mean.detach()[0], mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.prior().variance.detach()[0], variance, rtol=0, atol=1e-4)


def test_beta_as_a_constraint_reaches_the_rate_distortion_function():
    """Variances 4 and 1/4, unit noise, 1 nat: reverse water-filling spends the whole nat on the first coordinate, whose
    error is then 4 e^-2. Then the KL is the rate, the reconstruction is -(4 e^-2 + 1/4)/2 - log 2 pi, and the
    multiplier 4 e^-2; within 2%.
    """
    torch.manual_seed(0)
    x = torch.randn(64, 2, dtype=F64)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / len(x)), x.T, upper=False).T
    x = x * torch.tensor([2.0, 0.5], dtype=F64)
    encoder = Conditional(nn.Linear(2, 4), DiagonalGaussian())
    decoder = Conditional(nn.Linear(2, 2), IsotropicGaussian(1.0))
    model, bound = VAE(encoder, decoder, GaussianPrior(2)).double(), Constraint(1.0, start=3.0).double()
    objective = Variational(model, bound, samples=8, analytic=True)
    assert {k: len(v) for k, v in partition(objective).items()} == {"model": 4, "multiplier": 1}
    trained(objective, x, steps=600, rate=0.1)
    level = 4 * math.exp(-2)
    with torch.no_grad():
        kl = float(model.trace(x, analytic=True).kl[0].mean())
        q = model.encoder(x)
        error = (x - model.decode(q.mean)).square().sum(1) + q.variance @ decoder.net.weight.square().sum(0)
    assert kl == pytest.approx(1.0, rel=0.02)
    assert float(error.mean()) == pytest.approx(level + 0.25, rel=0.02)
    assert float(bound.multiplier.detach()) == pytest.approx(level, rel=0.02)


def losses(objective, x, step=0):
    torch.manual_seed(5)
    return objective(tuple(objective.players()), {"x": x}, step)


@pytest.mark.filterwarnings("ignore:sticking the landing is biased")
@pytest.mark.parametrize(
    ("bound", "step", "plain", "gradient"),
    [
        (*bound, gradient)
        for bound in (
            (elbo, 0, elbo),
            (iwae, 0, iwae),
            (free_bits(0.5), 0, free_bits(0.5)),
            (annealed(linear(10)), 3, beta(0.3)),
            (annealed(linear(10), free_bits(0.5, "dimension")), 3, beta(0.3, free_bits(0.5, "dimension"))),
        )
        for gradient in ("standard", "stl", "score")
        if gradient != "stl" or bound[2] in (elbo, iwae, beta(0.3))
    ],
)
def test_the_objective_descends_the_bound_and_reports_the_elbo(bound, step, plain, gradient):
    model, x = small(), torch.randn(5, 3, dtype=F64)
    loss = losses(Variational(model, bound, samples=3, gradient=gradient), x, step)["model"]
    torch.manual_seed(5)
    trace = model.trace(x, samples=3, reparameterized=gradient != "score")
    torch.testing.assert_close(loss.total, -plain(trace).mean(), rtol=0, atol=1e-12)
    by_hand = {"standard": plain, "score": scored(plain), "stl": lambda t: plain(sticking_the_landing(t))}[gradient]
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad(v, parameters) for v in (loss.total, -by_hand(trace).mean()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert set(loss.terms) == {"loss", "elbo", "log_px", "kl"}
    torch.testing.assert_close(loss.terms["elbo"], elbo(trace).mean().detach())
    torch.testing.assert_close(loss.terms["kl"], trace.kl[0].mean().detach())
    torch.testing.assert_close(loss.terms["log_px"], trace.log_px.mean().detach())


def test_what_is_legitimate_and_needs_care_is_said():
    """A warning when the objective is created; none for unbiased gradients of usual variance."""
    with pytest.warns(UserWarning, match="biased for the encoder under IWAE with 3 draws: dreg is unbiased"):
        Variational(small(), iwae, samples=3, gradient="stl")
    with pytest.warns(UserWarning, match="one draw and no baseline is unbiased, but its variance grows"):
        Variational(small(), gradient="score")
    with pytest.warns(UserWarning, match="one draw and no baseline is unbiased, but its variance grows"):
        losses(Variational(categorical()), PATTERNS)  # no layer is reparameterized
    losses(Variational(categorical(), samples=2), PATTERNS)
    Variational(small(), iwae, gradient="stl")  # with one draw it is the ELBO
    Variational(small(), gradient="score", samples=2)
    Variational(small(), gradient="score", baseline=nn.Linear(3, 1))


def test_a_hierarchys_terms_are_named_by_layer():
    terms = losses(Variational(hierarchy(), analytic=True), torch.zeros(4, 1, dtype=F64))["model"].terms
    assert set(terms) == {"loss", "elbo", "log_px", "kl_1", "kl_2"}


def test_doubly_reparameterized_training_is_a_game_of_two():
    """The encoder descends `dreg`, all other parameters `iwae`, from one forward pass: one plain step against both
    gradients.
    """
    model, x = small(), torch.randn(5, 3, dtype=F64)
    objective = Variational(model, iwae, samples=4, gradient="dreg")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    trace = model.trace(x, samples=4)
    of_q = torch.autograd.grad(-dreg(trace).mean(), list(model.encoders.parameters()), retain_graph=True)
    of_p = torch.autograd.grad(-iwae(trace).mean(), list(model.decoders.parameters()))
    players = {n: Player(p, torch.optim.SGD(p, lr=0.1), lambda step: 0.1) for n, p in partition(objective).items()}
    assert set(players) == {"encoder", "model"}
    torch.manual_seed(5)
    train_step(TrainState(objective, players), repeat({"x": x}))
    moved = {name: (p.detach() - start[name]) / -0.1 for name, p in model.named_parameters()}
    parts = [*model.encoders.named_parameters("encoders"), *model.decoders.named_parameters("decoders")]
    for (name, _), gradient in zip(parts, [*of_q, *of_p], strict=True):
        torch.testing.assert_close(moved[name], gradient, rtol=1e-9, atol=1e-9)


def test_a_learned_baseline_learns_the_bound():
    """With a nearly fixed model, B(x) of three patterns converges to their exact ELBOs, within 0.05."""
    model = categorical()
    baseline = nn.Linear(6, 1)
    objective = Variational(model, gradient="score", analytic=True, baseline=baseline)
    assert set(objective.players()) == {"model", "baseline"}
    trained(objective, PATTERNS.repeat(50, 1), 200, 1e-9, rates={"baseline": 0.1})
    with torch.no_grad():
        torch.testing.assert_close(baseline(PATTERNS)[:, 0], enumerated(model)[0], rtol=0, atol=0.05)


def test_bad_input_of_models():
    model, x = small(), torch.zeros(4, 3, dtype=F64)
    z = torch.zeros(1, 4, 2, dtype=F64)
    for call, message in (
        (lambda: model.trace(x, samples=0), "samples must be at least 1, got 0"),
        (lambda: model.trace(torch.zeros(4, 5)), r"x must be rows of shape \(3,\), got shape \(4, 5\)"),
        (lambda: model.log_px(torch.zeros(3), (z,)), r"x must be rows of shape \(3,\), got shape \(3,\)"),
        (lambda: model.log_likelihood(x[:, :2]), "x must be rows of shape"),
        (lambda: model.log_likelihood(x, samples=0), "samples must be at least 1"),
        (lambda: model.log_likelihood(x, cond=x), "cond must be None"),
        (lambda: model.sample(0), "n must be at least 1, got 0"),
        (lambda: model.sample(2, cond=x), "cond must be None"),
        (lambda: model.sample(2, generator=generators(0, "abc")), "generators must be 2, one per row, got 3"),
        (lambda: categorical().trace(PATTERNS / 2), "data must be 0 or 1, got values in"),
        (lambda: categorical().log_likelihood(PATTERNS + 1), "data must be 0 or 1, got values in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    ae = Autoencoder(nn.Linear(3, 2), Conditional(nn.Linear(2, 3), IsotropicGaussian(1.0)), FlatPrior(2))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        ae.trace(torch.zeros(1, 3), samples=0)
    narrow = Autoencoder(nn.Linear(5, 2), Conditional(nn.Linear(2, 3), IsotropicGaussian(1.0)), FlatPrior(2))
    with pytest.raises(ValueError, match=r"x must be rows of shape \(3,\)"):
        narrow.trace(torch.zeros(1, 5))


class Bare(nn.Linear):
    """A decoder that does not state which axes belong to the event."""

    def forward(self, z):
        return Normal(super().forward(z), 1.0)


def part(a, b):
    return Conditional(nn.Linear(a, 2 * b), DiagonalGaussian())


def test_parts_that_do_not_fit():
    prior = GaussianPrior(2)
    for build, message in (
        (lambda: VAE(part(3, 2), part(4, 3), prior), r"the decoder cannot take events of shape \(2,\)"),
        (lambda: VAE(part(4, 2), part(2, 3), prior), r"the encoder cannot take events of shape \(3,\)"),
        (lambda: VAE(part(3, 5), part(2, 3), prior), r"got shape \(2,\) in the decoder or prior and \(5,\)"),
        (lambda: VAE(part(3, 2), Bare(2, 3), prior), "the decoder must return one event for each"),
        (
            lambda: HVAE([part(3, 4)], [part(4, 3), part(2, 4)], prior),
            "as many encoders as decoders, at least one, got 1 and 2",
        ),
        (lambda: HVAE([part(3, 4), part(4, 2)], [part(5, 3), part(2, 4)], prior), "the decoder cannot take events"),
        (lambda: LadderVAE([nn.Linear(3, 4)], [], [part(2, 3)], prior), "as many ups and heads as decoders"),
        (
            lambda: LadderVAE(
                [nn.Linear(3, 4)], [Conditional(nn.Linear(4, 2), BernoulliLogits())], [part(2, 3)], prior
            ),
            "factors of a ladder must be diagonal Gaussians",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_bad_input_of_the_objective():
    model = small()
    ladder = LadderVAE(
        [nn.Linear(3, 4), nn.Linear(4, 4)], [part(4, 2), part(4, 2)], [part(2, 3), part(2, 2)], GaussianPrior(2)
    )
    tied = small()
    tied.encoder.net.bias = nn.Parameter(torch.zeros(4, dtype=F64))
    tied.decoder.extra = tied.encoder.net.bias
    for build, message in (
        (lambda: Variational(model, samples=0), "samples must be at least 1, got 0"),
        (lambda: Variational(model, gradient="magic"), "gradient must be one of standard, score, stl, dreg"),
        (lambda: Variational(model, elbo, gradient="dreg"), "gradient 'dreg' is for the bound iwae"),
        (lambda: Variational(model, iwae, analytic=True), "analytic must be False"),
        (lambda: Variational(model, gradient="stl", analytic=True), "analytic must be False"),
        (lambda: Variational(model, gradient="stl", baseline=nn.Linear(3, 1)), "baseline must be None"),
        (lambda: Variational(model, free_bits(1.0), gradient="stl"), "is biased under free bits"),
        (lambda: Variational(model, annealed(linear(9), free_bits(1.0)), gradient="stl"), "is biased under free"),
        (lambda: Variational(ladder, iwae, gradient="dreg"), "gradient must not be dreg for a ladder"),
        (lambda: Variational(tied, iwae, gradient="dreg"), "must not share parameters, got decoders.0.extra"),
        (lambda: Variational(nn.Linear(1, 1), iwae, gradient="dreg"), "to know q's parameters, got a Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match="sticking the landing needs reparameterized draws, and layer 1's are not"):
        losses(Variational(categorical(), gradient="stl"), PATTERNS)
