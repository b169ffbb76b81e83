"""Score matching and kernel densities against exact answers: gradients by quadrature, closed forms, other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.core.protocols import Sampleable
from jensen.core.seeding import generators
from jensen.data.pool import pool_stream
from jensen.diffusion import MixtureOracle, VarianceExploding
from jensen.models import Annealing, NoiseConditional, ScoreModel
from jensen.objectives import MATCHING, ScoreMatching
from jensen.score import (
    annealed_variance,
    denoising,
    explicit,
    geometric,
    implicit,
    noise_conditional,
    sliced,
    sliced_vr,
    slices,
)
from jensen.training import Budget, fit, warm_then_decay
from test_training import new_state

F64 = torch.float64


class Mixture:
    """Two Gaussians with diagonal covariances, with noise of standard deviation sigma added."""

    def __init__(self, means, deviations, sigma=0.0):
        self.weights = torch.tensor([0.3, 0.7], dtype=F64)
        self.means = torch.tensor(means, dtype=F64)
        self.variances = torch.tensor(deviations, dtype=F64) ** 2 + sigma**2

    def parts(self, x):
        square = (x[:, None] - self.means) ** 2 / self.variances + torch.log(2 * math.pi * self.variances)
        return self.weights.log() - square.sum(-1) / 2

    def log_prob(self, x):
        return self.parts(x).logsumexp(1)

    def score(self, x):
        share = torch.softmax(self.parts(x), 1)[..., None]
        return (share * (self.means - x[:, None]) / self.variances).sum(1)


def plane(**settings):
    return Mixture([[-1.2, 0.4], [0.8, -0.6]], [[0.7, 0.5], [0.6, 0.9]], **settings)


def nodes(d, step=0.15, reach=7.5):
    """Points and weights of the trapezoidal rule, exact to rounding for functions that decay like a Gaussian."""
    axis = torch.arange(-reach, reach, step, dtype=F64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), step**d


def small_net(d):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, d)).double()


def mean_and_gradient(net, values, weights):
    mean = (weights * values).sum()
    return float(mean.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(net.parameters()))])


SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 2)
EVERY_SLICE = {
    "implicit": implicit,
    "sliced": lambda s, x: sliced(s, x, SIGNS[:, None].expand(-1, len(x), -1)),
    "sliced_vr": lambda s, x: sliced_vr(s, x, SIGNS[:, None].expand(-1, len(x), -1)),
}


@pytest.mark.parametrize("loss", EVERY_SLICE.values(), ids=EVERY_SLICE)
def test_implicit_and_sliced_are_explicit_less_a_constant(loss):
    """On a mixture in the plane, with expectations by quadrature (the mean over all four slices): value and gradient to
    1e-10.
    """
    p, (x, volume), net = plane(), nodes(2), small_net(2)
    weights = p.log_prob(x).exp() * volume
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    exact, gradient = mean_and_gradient(net, explicit(net, x, p.score), weights)
    found, its_gradient = mean_and_gradient(net, loss(net, x), weights)
    constant = float((weights * p.score(x).square().sum(1)).sum()) / 2
    assert found == pytest.approx(exact - constant, abs=1e-10)
    torch.testing.assert_close(its_gradient, gradient, rtol=1e-8, atol=1e-10)
    assert float(gradient.abs().max()) > 0.1


def test_noise_conditional_is_denoising_weighted():
    x, eps = torch.randn(9, 2, 3, dtype=F64), torch.randn(9, 2, 3, dtype=F64)
    sigma = torch.rand(9, dtype=F64) + 0.2

    def score(z, sigma):
        return -z.tanh() / sigma.reshape(-1, 1, 1)

    weighted = sigma**2 * denoising(lambda z: score(z, sigma), x, eps, sigma)
    torch.testing.assert_close(noise_conditional(score, x, eps, sigma), weighted)
    single = torch.stack([denoising(torch.sin, x[i : i + 1], eps[i : i + 1], sigma[i].item())[0] for i in range(9)])
    torch.testing.assert_close(denoising(torch.sin, x, eps, sigma), single)


def test_the_trace_is_that_of_the_jacobian():
    """For pictures, in several passes, with and without a graph, and for scores that are gradients themselves."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Unflatten(1, (2, 2, 2))).double()
    x = torch.randn(5, 2, 2, 2, dtype=F64)
    exact = []
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda r: net(r.reshape(1, 2, 2, 2)).flatten(), row.flatten())
        exact.append(jacobian.trace() + net(row[None]).square().sum() / 2)
    exact = torch.stack(exact)
    for chunk in (1, 3, 64):
        torch.testing.assert_close(implicit(net, x, chunk=chunk), exact)
    with torch.no_grad():
        bare = implicit(net, x)
    assert not bare.requires_grad
    torch.testing.assert_close(bare, exact)

    def energy_score(x):  # the gradient of an energy, itself by autograd
        (s,) = torch.autograd.grad(-(x**4).sum() / 4, x, create_graph=True)
        return s

    y = torch.tensor([[1.0, 2.0]], dtype=F64)
    torch.testing.assert_close(implicit(energy_score, y), torch.tensor([-3 * 5 + (1 + 64) / 2], dtype=F64))
    torch.testing.assert_close(implicit(torch.ones_like, y), torch.tensor([1.0], dtype=F64))
    constant = nn.Parameter(torch.ones(2, dtype=F64))
    torch.testing.assert_close(implicit(constant.expand_as, y), torch.tensor([1.0], dtype=F64))


def test_the_reduced_variance_is_exact():
    """s = -x, one sign slice: SSM-VR does not vary at all, SSM's variance over the slice is (x_1 x_2)^2."""
    x = torch.tensor([[0.7, -1.9]], dtype=F64).expand(4, 2)
    with torch.no_grad():
        reduced, plain = (loss(torch.neg, x, SIGNS).var(correction=0).item() for loss in (sliced_vr, sliced))
    assert reduced == pytest.approx(0, abs=1e-15)
    assert plain == pytest.approx((0.7 * 1.9) ** 2)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_slices_are_white(law):
    """E v = 0 and E v v^T = I for 40,000 slices of two rows, within 5 standard errors; each row depends on its own
    generator only.
    """
    v = slices(torch.zeros(2, 3, dtype=F64), 40_000, law=law, generator=torch.Generator().manual_seed(0))
    assert float(v.mean(0).abs().max()) < 5 * 0.005
    for row in (0, 1):
        torch.testing.assert_close(v[:, row].T @ v[:, row] / 40_000, torch.eye(3, dtype=F64), rtol=0, atol=5 * 0.0071)
    x = torch.zeros(3, 2)
    together = slices(x, 4, law=law, generator=generators(0, range(3)))
    assert torch.equal(together[:, 1:2], slices(x[1:2], 4, law=law, generator=generators(0, range(3))[1:2]))


def test_refusals_of_the_losses():
    x = torch.zeros(5, 2)
    for loss in (
        lambda s: explicit(s, x, torch.neg),
        lambda s: explicit(torch.neg, x, s),
        lambda s: implicit(s, x),
        lambda s: sliced(s, x, x),
        lambda s: sliced_vr(s, x, x),
        lambda s: denoising(s, x, x, 1.0),
        lambda s: noise_conditional(lambda z, sigma: s(z), x, x, torch.ones(5)),
    ):
        with pytest.raises(ValueError, match=r"shape of x, \(5, 2\), got \(5, 1\)"):
            loss(lambda z: z[:, :1])
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        implicit(torch.neg, x, chunk=0)
    for loss in (sliced, sliced_vr):
        with pytest.raises(ValueError, match="with the shape of x"):
            loss(torch.neg, x, torch.ones(5, 3))
    with pytest.raises(ValueError, match="noise must have the shape of x"):
        denoising(torch.neg, x, torch.ones(4, 2), 1.0)
    for sigma in (0.0, -1.0, math.nan, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])):
        with pytest.raises(ValueError, match="sigma must be positive"):
            denoising(torch.neg, x, x, sigma)
    with pytest.raises(ValueError, match="with B = 5, got"):
        noise_conditional(lambda z, sigma: z, x, x, torch.ones(3))
    with pytest.raises(ValueError, match="count must be at least 1"):
        slices(x, 0)
    with pytest.raises(ValueError, match="rademacher or gaussian, got 'sphere'"):
        slices(x, law="sphere")


# the model and how it is trained ---------------------------------------------------------


class Exact(nn.Module):
    """The score of N(0, 1) with noise added."""

    def forward(self, x, sigma, cond=None):
        shift = 0.0 if cond is None else cond
        return (shift - x) / (1 + sigma[:, None] ** 2)


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_follow_the_recursion_of_a_gaussian(denoise):
    """Standardised data N(3, 0.5^2): all moves are affine, so the final variance is known exactly. n = 40,000, 4
    standard errors.
    """
    sigmas, steps, step, n = geometric(1.0, 0.5, 2), 2, 0.1, 40_000
    model = ScoreModel(Exact(), (1,), sigmas, Annealing(step, steps, denoise=denoise, chunk=8192))
    model.centre.fill_(3.0)
    model.scale.fill_(0.5)
    variance = 1 + sigmas[0].item() ** 2
    for sigma in sigmas.tolist():
        delta, law = step * sigma**2, 1 + sigma**2
        for _ in range(steps):
            variance = (1 - delta / law) ** 2 * variance + 2 * delta
    if denoise:
        variance *= (1 - 0.5**2 / (1 + 0.5**2)) ** 2
    one = torch.ones((), dtype=F64)
    assert annealed_variance(one, sigmas, step, steps, denoise=denoise).item() == pytest.approx(variance, abs=1e-12)
    x = model.sample(n, generator=torch.Generator().manual_seed(0))
    assert isinstance(model, Sampleable)
    assert x.mean().item() == pytest.approx(3, abs=4 * 0.5 * (variance / n) ** 0.5)
    assert x.var().item() == pytest.approx(0.25 * variance, abs=4 * 0.25 * variance * (2 / n) ** 0.5)
    # and the score it gives is of the data as they are, noised by half the level
    torch.testing.assert_close(model.score(x[:5], 1), (3 - x[:5]) / (0.25 * (1 + sigmas[1].item() ** 2)))


def test_a_row_is_bit_for_bit_a_function_of_its_generator_and_condition():
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    model = ScoreModel(
        NoiseConditional(lambda z, c, cond: net(z) + c[:, None] + cond, 5.0, 0.1), (2,), geometric(5.0, 0.1, 3)
    )
    model.sampling = Annealing(steps=2, chunk=4)
    cond, seen = torch.randn(7, 2), []
    whole = model.sample(7, cond=cond, generator=generators(0, range(7)), on_step=lambda k, x: seen.append((k, len(x))))
    assert seen == [(k, n) for n in (4, 3) for k in range(1, 7)]
    for rows in (slice(0, 2), slice(4, 7), slice(4, 5), slice(3, 7)):
        part = model.sample(len(cond[rows]), cond=cond[rows], generator=generators(0, range(7))[rows])
        # bit for bit at the same place of a chunk; at another, a matrix product of four rows may round otherwise
        bits = {} if rows.start == 3 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(part, whole[rows], **bits)
    assert not torch.equal(model.sample(7, cond=cond + 1, generator=generators(0, range(7))), whole)


def test_the_network_sees_unit_variance_and_its_level_in_the_unit_interval():
    """The ideal output, E[eps | z] = sigma / sqrt(1 + sigma^2) u for the scaled input u, gives the exact score."""

    def ideal(u, c):
        sigma = (0.1 * 50**c)[:, None]
        return sigma / torch.sqrt(1 + sigma**2) * u

    sigma = geometric(5.0, 0.1, 9)
    z = torch.randn(9, 2, dtype=F64)
    torch.testing.assert_close(NoiseConditional(ideal, 5.0, 0.1)(z, sigma), -z / (1 + sigma[:, None] ** 2))


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, sigma):
        return self.linear(x)


@pytest.mark.parametrize("loss", MATCHING)
def test_training_finds_the_score_of_the_data(loss):
    """An affine score on 2,000 points: the minimiser is -(S + sigma^2)^-1 (x - m) with the data's mean m and
    covariance S, in the coordinates of the model; 600 steps with batches of 256 come within 0.05 of entries up to
    3.3. Without the noise they would be up to 6.5.
    """
    torch.manual_seed(0)
    x = torch.randn(2000, 2) @ torch.tensor([[1.5, 0.4], [0.0, 0.7]]) + torch.tensor([2.0, -1.0])
    model = ScoreModel(Affine(), (2,), [0.4])
    model.centre.fill_(x.mean())
    model.scale.fill_(x.std())
    z, budget = model.standardize(x), Budget(steps=600)
    state = new_state(ScoreMatching(model, loss=loss), optimizer=torch.optim.Adam)
    state.players["model"].rate = warm_then_decay(0.1, budget, warmup=10, decay=0.8)
    fit(state, pool_stream(256, seed=0, x=x), budget)
    precision = torch.linalg.inv(z.T.cov(correction=0) + 0.16 * torch.eye(2))
    assert float(precision.max()) < 3.5 < 6 < float(torch.linalg.inv(z.T.cov()).max())
    linear = state.objective.model.network.linear
    torch.testing.assert_close(linear.weight.detach(), -precision, rtol=0, atol=0.05)
    torch.testing.assert_close(linear.bias.detach(), precision @ z.mean(0), rtol=0, atol=0.05)


@pytest.mark.parametrize("loss", MATCHING)
def test_training_losses_are_of_the_noised_density_at_every_level(loss):
    """At the exact score of N(0, 1) the mean losses over 20,000 rows are sigma^2 times their known values: D/2 less
    sigma^2 E|s|^2 / 2 for denoising, -E|s|^2 / 2 for the others; 5 standard errors, at all noise levels.
    """
    n, d = 20_000, 2
    model = ScoreModel(Exact(), (d,), [2.0, 0.5])
    x, eps = torch.randn(n, d), torch.randn(n, d)
    for sigma in (2.0, 0.5):
        values = MATCHING[loss](model.network, x, eps, torch.full((n,), sigma))
        square = d / (1 + sigma**2)
        exact = (d - sigma**2 * square) / 2 if loss == "denoising" else -(sigma**2) * square / 2
        assert values.mean().item() == pytest.approx(exact, abs=5 * values.std().item() / n**0.5)


def test_the_objective_draws_every_level_and_passes_conditions():
    seen = []

    def spy(score, x, eps, sigma):
        seen.append(sigma)
        assert torch.equal(score(x, sigma), Exact()(x, sigma, cond))
        return eps.square().sum(1)

    cond, x = torch.ones(3000, 1), torch.randn(3000, 1)
    model = ScoreModel(Exact(), (1,), [3.0, 2.0, 1.0])
    loss = ScoreMatching(model, loss=spy)(("model",), {"x": x, "cond": cond}, 0)["model"]
    shares = [(seen[0] == s).float().mean().item() for s in (3.0, 2.0, 1.0)]
    assert shares == pytest.approx([1 / 3] * 3, abs=5 * (2 / 9 / 3000) ** 0.5)
    assert loss.total.item() == pytest.approx(1, abs=5 * (2 / 3000) ** 0.5)


def test_refusals_of_the_model():
    for sigmas in ([], [1.0, 1.0], [1.0, 2.0], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="positive, decreasing"):
            ScoreModel(Exact(), (1,), sigmas)
    for settings, message in (({"step_size": 0.0}, "step_size"), ({"steps": 0}, "steps"), ({"chunk": 0}, "chunk")):
        with pytest.raises(ValueError, match=f"{message} must be"):
            Annealing(**settings)
    model = ScoreModel(Exact(), (1,), [1.0])
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0)
    with pytest.raises(ValueError, match="conditions must be 2"):
        model.sample(2, cond=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="generators must be 2"):
        model.sample(2, generator=generators(0, range(3)))
    with pytest.raises(ValueError, match="steps must be"):
        model.sample(2, steps=0)
    with pytest.raises(ValueError, match="loss must be one of denoising, implicit"):
        ScoreMatching(model, loss="explicit")
    for largest, smallest in ((1.0, 2.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="0 < smallest"):
            NoiseConditional(torch.nn.Identity(), largest, smallest)


def test_the_local_mixture_is_the_library_s():
    """The exact answers of this file agree with the denoiser oracle, which computes them differently."""
    p, schedule = plane(sigma=0.3), VarianceExploding()
    oracle = MixtureOracle([0.3, 0.7], plane().means, plane().variances, schedule)
    x = torch.randn(9, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    t = schedule.time(torch.tensor(-2 * math.log(0.3), dtype=F64)).expand(9)
    torch.testing.assert_close(p.score(x), oracle(x, t).score)
    torch.testing.assert_close(p.log_prob(x), oracle.log_prob(x, t))
