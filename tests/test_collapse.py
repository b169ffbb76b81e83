"""The collapse report on models for which each of its entries is known."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from jensen.core.seeding import generator
from jensen.distributions import (
    AutoregressiveBits,
    BernoulliLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    FlatPrior,
    GaussianPrior,
    IsotropicGaussian,
    OneHotLogits,
)
from jensen.models import HVAE, VAE, LadderVAE
from jensen.objectives import Variational
from jensen.training import Budget, Player, TrainState, fit, warm_then_decay
from jensen.variational import LayerUse, Measured, collapse_report, elbo, free_bits

F64 = torch.float64


class Linear(nn.Module):
    """N(W c + offset, diag(variance))."""

    def __init__(self, weight, offset, variance):
        super().__init__()
        self.weight, self.offset, self.variance = (torch.tensor(v, dtype=F64) for v in (weight, offset, variance))

    def forward(self, c):
        mean = c @ self.weight.T + self.offset
        return Independent(Normal(mean, self.variance.sqrt().expand_as(mean)), 1)


def whitened(n, dims):
    """N points with mean exactly 0 and covariance (over n - 1) exactly I."""
    x = torch.randn(n, dims, dtype=F64, generator=generator(0))
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T


def close(measured, expected, errors=4.0):
    assert abs(measured.value - expected) <= errors * measured.stderr + 1e-12, (measured, expected)


def test_an_encoder_that_ignores_x():
    """q = p: the KL is 0, the aggregated posterior is the prior, no unit is active, and dropping the latents costs
    nothing.
    """
    model = VAE(
        Linear([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0], [1.0, 1.0]),
        Linear([[1.0, 0.5], [0.2, -1.0]], [0.1, 0.2], [0.5, 0.5]),
        GaussianPrior(2).double(),
    )
    report = collapse_report(model, whitened(500, 2), generator=generator(0))
    (layer,) = report.layers
    assert (layer.kl.value, layer.kl.stderr, layer.active, layer.units) == (0, 0, 0, 2)
    assert abs(layer.divergence.value) < 1e-12
    close(layer.log_px_lost, 0.0)
    assert report.ignored == (1,)
    assert "ignored: it carries no information about x" in str(report)
    assert str(report).endswith("The decoder ignores its latents.")


def test_a_linear_gaussian():
    """n = 1,000 data of covariance I; q = N((x1, 0.12 x1, 0.08 x2), S): the means of two units vary by more than
    0.01. KL: 1/2 sum (s + Var + mean^2 - 1 - log s), with the data's own second moments. Loss of log p(x | z) with
    unit noise: 1/2 (E_p - E_q) |x - W z|^2. The KL is exact, all others are within 4 standard errors.
    """
    n, slopes, variances = 1000, torch.tensor([1.0, 0.12, 0.08], dtype=F64), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    x = whitened(n, 2)
    weight = [[0.9, 0.3, 0.0], [0.0, 0.5, 1.0]]
    encoder = Linear([[1.0, 0.0], [0.12, 0.0], [0.0, 0.08]], [0.0, 0.0, 0.0], variances.tolist())
    model = VAE(encoder, Linear(weight, [0.0, 0.0], [1.0, 1.0]), GaussianPrior(3).double())
    (layer,) = collapse_report(model, x, chunk=300, generator=generator(0)).layers
    moment = (n - 1) / n
    kl = float((variances + slopes**2 * moment - 1 - variances.log()).sum()) / 2
    assert layer.kl.value == pytest.approx(kl, rel=1e-9)
    assert (layer.active, layer.units, layer.ignored, layer.verdict) == (2, 3, False, "used")
    w = torch.tensor(weight, dtype=F64)
    means = x @ encoder.weight.T
    from_q = (x - means @ w.T).square().sum(1).mean() + (w**2 * variances).sum()
    from_p = x.square().sum(1).mean() + (w**2).sum()
    close(layer.log_px_lost, float(from_p - from_q) / 2)


def test_the_aggregated_posterior_by_quadrature():
    """Two data, x = -1 and 1, each 600 times, q = N(0.8 x, 0.3): a mixture against N(0, 1), to 4 standard errors.
    The mean KL is larger by the mutual information with x, at most log 2.
    """
    model = VAE(Linear([[0.8]], [0.0], [0.3]), Linear([[1.0]], [0.0], [1.0]), GaussianPrior(1).double())
    x = torch.tensor([[-1.0], [1.0]], dtype=F64).repeat(600, 1)
    (layer,) = collapse_report(model, x, chunk=500, generator=generator(0)).layers
    grid = np.linspace(-9, 9, 20001)
    q = sum(np.exp(-((grid - m) ** 2) / 0.6) for m in (-0.8, 0.8)) / (2 * math.sqrt(2 * math.pi * 0.3))
    p = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    close(layer.divergence, float(np.trapezoid(q * np.log(q / p), grid)))
    assert layer.divergence.stderr < 0.03
    assert 0 < layer.kl.value - layer.divergence.value < math.log(2)


def chain(up, down):
    return HVAE(
        [Linear([[a]], [b], [s]) for a, b, s in up],
        [Linear([[a]], [b], [s]) for a, b, s in down],
        GaussianPrior(1).double(),
    )


def test_a_hierarchy_layer_by_layer():
    """The loss of log p(x | z) without layer 1, and without layer 2, in closed form; n = 2,000, 4 standard errors.
    z1 = 0.9 x + e, z2 = 0.7 z1 + f. E (x - w z1 - c)^2 with z1 from q; from p(z1 | z2) with z2 from q; and from the
    prior.
    """
    (a, s1), (b, s2) = (0.9, 0.2), (0.7, 0.3)
    w, c, v, d, t = 0.8, 0.1, 0.6, -0.2, 0.4
    model = chain(((a, 0.0, s1), (b, 0.0, s2)), ((w, c, 0.5), (v, d, t)))
    n, x = 2000, whitened(2000, 1)
    second = (n - 1) / n  # the mean square of the data, whose mean is 0
    kept = (1 - w * a) ** 2 * second + w**2 * s1 + c**2
    above = (1 - w * v * b * a) ** 2 * second + w**2 * (t + v**2 * (s2 + b**2 * s1)) + (w * d + c) ** 2
    nothing = second + w**2 * (t + v**2) + (w * d + c) ** 2
    report = collapse_report(model, x, samples=16, generator=generator(1))
    close(report.layers[0].log_px_lost, (above - kept) / (2 * 0.5))
    close(report.layers[1].log_px_lost, (nothing - above) / (2 * 0.5))
    assert [layer.active for layer in report.layers] == [1, 1]
    # E log q(z1 | x) / p(z1 | z2): -(1 + log s1)/2 + (E (z1 - v z2 - d)^2 / t + log t)/2
    spread = (1 - v * b) ** 2 * (a**2 * second + s1) + v**2 * s2 + d**2
    close(report.layers[0].kl, (-1 - math.log(s1) + spread / t + math.log(t)) / 2)
    z2 = b**2 * (a**2 * second + s1)
    close(report.layers[1].kl, (s2 + z2 - 1 - math.log(s2)) / 2)
    assert report.ignored == ()
    assert str(report).endswith("Every layer is used.")


def test_the_aggregated_posteriors_of_a_hierarchy():
    """x = -1 or 1: the marginals of both layers are mixtures of two Gaussians; n = 3,000. They are estimated by
    mixtures over draws: within 4 standard errors plus 0.02.
    """
    (a, s1), (b, s2) = (0.9, 0.2), (0.7, 0.3)
    v, d, t = 1.2, -0.8, 0.4
    model = chain(((a, 0.0, s1), (b, 0.0, s2)), ((0.8, 0.1, 0.5), (v, d, t)))
    x = torch.tensor([[-1.0], [1.0]], dtype=F64).repeat(1500, 1)
    report = collapse_report(model, x, samples=2, generator=generator(0))
    grid = np.linspace(-9, 9, 20001)

    def density(mean, variance):
        return np.exp(-((grid - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    laws = (
        ((a, s1), density(d, t + v**2)),
        ((b * a, s2 + b**2 * s1), density(0.0, 1.0)),
    )
    for layer, ((mean, variance), p) in zip(report.layers, laws, strict=True):
        q = (density(-mean, variance) + density(mean, variance)) / 2
        expected = float(np.trapezoid(q * np.log(q / p), grid))
        assert abs(layer.divergence.value - expected) < 4 * layer.divergence.stderr + 0.02
        assert layer.divergence.stderr < 0.03


@pytest.mark.parametrize("ladder", [False, True])
def test_a_top_layer_that_is_ignored_is_named(ladder):
    """q(z2 | .) = p(z2), and p(z1 | z2) does not depend on z2: layer 2 is ignored, layer 1 is not."""
    down = [Linear([[0.9]], [0.0], [0.2]), Linear([[0.0]], [0.0], [1.0])]
    if ladder:
        heads = [Linear([[1.0]], [0.0], [0.3]), Linear([[0.0]], [0.0], [1.0])]
        model = LadderVAE([nn.Identity(), nn.Identity()], heads, down, GaussianPrior(1).double())
    else:
        model = HVAE([Linear([[0.9]], [0.0], [0.2]), Linear([[0.0]], [0.0], [1.0])], down, GaussianPrior(1).double())
    report = collapse_report(model, whitened(1000, 1), generator=generator(0))
    assert report.ignored == (2,)
    assert report.layers[1].active == 0
    assert abs(report.layers[1].kl.value) < 1e-12
    assert abs(report.layers[1].divergence.value) < 1e-12
    assert report.layers[0].verdict == "used"
    lines = str(report).splitlines()
    assert lines[0] == "1000 data, 8 draws each; nats; log 1000 = 6.91"
    assert lines[-1] == "Layer 2 is ignored."
    assert lines[3].startswith("2      0 of 1")


def test_the_noise_of_draws_is_no_activity():
    """z1 is noise independent of x, and z1 is the mean of q(z2 | z1): without correction, the variance of means of 8
    draws would be 1/8.
    """
    model = chain(((0.0, 0.0, 1.0), (1.0, 0.0, 0.5)), ((0.9, 0.0, 0.2), (0.5, 0.0, 1.0)))
    report = collapse_report(model, whitened(2000, 1), threshold=0.02, generator=generator(0))
    assert [layer.active for layer in report.layers] == [0, 0]
    assert str(report).endswith("The decoder ignores every latent.")


def test_a_layer_that_is_written_and_not_read():
    """Free bits can enforce a KL that the decoder does not use."""
    model = VAE(Linear([[1.0]], [0.0], [0.1]), Linear([[0.0]], [0.0], [1.0]), GaussianPrior(1).double())
    report = collapse_report(model, whitened(500, 1), generator=generator(0))
    assert report.layers[0].active == 1
    assert report.layers[0].kl.value > 1
    assert report.layers[0].verdict == "ignored: the decoder does not use it"
    assert report.ignored == (1,)


def test_accuracy_lost_with_a_layer():
    """Three patterns, each encoded by its class: all are read correctly from q, one third from the prior."""
    patterns = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
    encoder = Conditional(nn.Linear(6, 3), OneHotLogits(1, 3))
    decoder = Conditional(nn.Sequential(nn.Flatten(-2), nn.Linear(3, 6)), BernoulliLogits())
    with torch.no_grad():
        encoder.net.weight.copy_(60 * patterns)
        decoder.net[1].weight.copy_(20 * (2 * patterns.T - 1))
        for layer in (encoder.net, decoder.net[1]):
            layer.bias.zero_()
    model = VAE(encoder, decoder, CategoricalPrior(1, 3))
    labels = torch.arange(3).repeat(500)
    report = collapse_report(
        model,
        patterns[labels],
        classifier=lambda x: x @ patterns.T,
        labels=labels,
        generator=generator(0),
    )
    (layer,) = report.layers
    close(layer.accuracy_lost, 2 / 3)
    assert layer.accuracy_lost.stderr < 0.02
    assert layer.kl.value == pytest.approx(math.log(3), abs=1e-5)
    assert abs(layer.divergence.value) < 1e-5
    assert "accuracy lost" in str(report)


def bits(dims):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * dims)


@pytest.mark.parametrize("window", [0, 2, None])
def test_autoregressive_bits_by_enumeration(window):
    """All 32 events: probabilities sum to one, draws follow them (n = 100,000, 4.5 standard errors), and each logit
    depends on the bits of its window only.
    """
    family = AutoregressiveBits(5, 6, window)
    law = family(torch.randn(3, 11))
    log_p = law.log_prob(bits(5)[:, None])
    assert log_p.shape == (32, 3)
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(3))
    with torch.no_grad():
        x = law.sample((100_000,))
    index = (x @ 2.0 ** torch.arange(4, -1, -1)).long()
    for row in range(3):
        p = log_p[:, row].exp().detach()
        frequency = torch.bincount(index[:, row], minlength=32) / len(x)
        assert bool(((frequency - p).abs() < 4.5 * (p * (1 - p) / len(x)).sqrt()).all())
    moved = torch.autograd.functional.jacobian(lambda x: law.logits(x[None, None])[0, 0], torch.rand(5)).abs() > 1e-6
    seen = 4 if window is None else window
    assert moved.tolist() == [[j < d and j >= d - seen for j in range(5)] for d in range(5)]


def markov(n, dims, stay):
    """Bits that equal their predecessor with probability `stay`."""
    flips = torch.rand(n, dims, generator=generator(0)) > torch.tensor([0.5, *[stay] * (dims - 1)])
    return flips.long().cumsum(1).remainder(2).float()


def batches(x, size):
    for start in count(step=size):
        yield {"x": x[start % len(x) :][:size]}


def trained_on_chain(window, bound):
    torch.manual_seed(0)
    encoder = Conditional(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4)), DiagonalGaussian())
    decoder = Conditional(
        nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 16)), AutoregressiveBits(8, 8, window)
    )
    model, x = VAE(encoder, decoder, GaussianPrior(2)), markov(4000, 8, 0.85)
    objective = Variational(model, bound, analytic=True)
    parameters, budget = list(model.parameters()), Budget(steps=400)
    rate = warm_then_decay(0.03, budget, warmup=1, decay=0.7)
    state = TrainState(objective, {"model": Player(parameters, torch.optim.Adam(parameters), rate)})
    fit(state, lambda _: batches(x, 250), budget)
    with torch.no_grad():
        bound = float(elbo(model.trace(x, samples=8, analytic=True)).mean())
    return collapse_report(model, x[:1000], generator=generator(0)), bound


def test_a_strong_decoder_ignores_its_latents_and_a_weakened_one_or_free_bits_bring_them_back():
    """A Markov chain of bits with entropy log 2 + 7 H(0.85). A decoder that sees the previous bit explains it, so
    the latents remain unused; without that bit the information must pass through the latents. Free bits enforce a KL
    in both cases.
    """
    entropy = math.log(2) - 7 * (0.85 * math.log(0.85) + 0.15 * math.log(0.15))
    strong, bound = trained_on_chain(1, elbo)
    assert strong.ignored == (1,)
    assert strong.layers[0].kl.value < 0.05
    assert bound == pytest.approx(-entropy, abs=0.1)
    weak, weaker = trained_on_chain(0, elbo)
    assert weak.ignored == ()
    assert weak.layers[0].kl.value > 0.5
    assert weak.layers[0].log_px_lost.value > 0.5
    assert weaker < bound - 0.2
    paid, _ = trained_on_chain(1, free_bits(1.0))
    assert paid.layers[0].kl.value == pytest.approx(1.0, abs=0.3)
    assert paid.layers[0].active > 0


def test_refusals():
    model = VAE(Linear([[1.0]], [0.0], [0.1]), Linear([[1.0]], [0.0], [1.0]), GaussianPrior(1).double())
    x = torch.zeros(4, 1, dtype=F64)
    labels = torch.zeros(4, dtype=torch.long)
    for settings, message in (
        ({"samples": 0}, "samples must be even and at least 2, got 0"),
        ({"samples": 3}, "samples must be even and at least 2, got 3"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"threshold": -1.0}, "threshold and least must be at least 0"),
        ({"least": -1.0}, "threshold and least must be at least 0"),
        ({"labels": labels}, "both a classifier and labels"),
        ({"classifier": lambda x: x}, "both a classifier and labels"),
        ({"classifier": lambda x: x, "labels": labels[:3]}, "labels must have one entry per datum, 4, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            collapse_report(model, x, **settings)
    for build, message in (
        (lambda: AutoregressiveBits(1, 3), "dims must be at least 2"),
        (lambda: AutoregressiveBits(3, 0), "hidden at least 1"),
        (lambda: AutoregressiveBits(3, 3, 3), r"window must be in \[0, 2\], got 3"),
        (lambda: AutoregressiveBits(3, 3)(torch.zeros(2, 5)), r"the last axis must be 3 \+ 3 long"),
        (lambda: AutoregressiveBits(3, 3)(torch.zeros(2, 6)).log_prob(torch.full((2, 3), 0.5)), "must be 0 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match="data must have at least 2 rows, got 1"):
        collapse_report(model, x[:1])
    with pytest.raises(ValueError, match=r"x must be rows of shape \(1,\)"):
        collapse_report(model, torch.zeros(4, 2, dtype=F64))
    narrow = Conditional(nn.Linear(1, 1), IsotropicGaussian(1.0)).double()
    with pytest.raises(ValueError, match="flat prior is improper"):
        collapse_report(VAE(narrow, Linear([[1.0]], [0.0], [1.0]), FlatPrior(1)), x)


def test_information_is_the_logarithm_of_how_many_posteriors_lie_apart():
    """N = 16 points a hundred standard deviations apart: I(x; z) = log 16, and KL(q(z)

    p(z)) is KL - log 16. Four points, each 4 times: log 4. A q that ignores x: 0. The KL in closed form is the sum
    of both, to 1e-9.
    """
    model = VAE(Linear([[1.0]], [0.0], [1e-4]), Linear([[1.0]], [0.0], [1.0]), GaussianPrior(1).double())
    x = torch.arange(16, dtype=F64)[:, None]
    for data, apart in ((x, 16), (x[:4].repeat(4, 1), 4)):
        report = collapse_report(model, data, generator=generator(0))
        (layer,) = report.layers
        assert layer.information.value == pytest.approx(math.log(apart), abs=1e-9)
        assert report.log_data == pytest.approx(math.log(16))
        kl = float((1e-4 + data.square() - 1 - math.log(1e-4)).mean()) / 2
        total = layer.information.value + layer.divergence.value
        assert abs(total - kl) < 4 * math.hypot(layer.divergence.stderr, layer.information.stderr)
    assert "log 16 = 2.77" in str(report)
    assert "I(x; z)" in str(report)
    blind = VAE(Linear([[0.0]], [0.0], [1.0]), Linear([[1.0]], [0.0], [1.0]), GaussianPrior(1).double())
    (layer,) = collapse_report(blind, x, generator=generator(0)).layers
    assert abs(layer.information.value) < 1e-12


def test_information_by_quadrature():
    """Two points, 600 times each, q = N(0.8 x, 0.3): the entropy of the mixture minus that of the Gaussian; 4
    standard errors.
    """
    model = VAE(Linear([[0.8]], [0.0], [0.3]), Linear([[1.0]], [0.0], [1.0]), GaussianPrior(1).double())
    x = torch.tensor([[-1.0], [1.0]], dtype=F64).repeat(600, 1)
    (layer,) = collapse_report(model, x, generator=generator(0)).layers
    grid = np.linspace(-9, 9, 20001)
    q = sum(np.exp(-((grid - m) ** 2) / 0.6) for m in (-0.8, 0.8)) / (2 * math.sqrt(2 * math.pi * 0.3))
    entropy = -float(np.trapezoid(q * np.log(q), grid))
    close(layer.information, entropy - math.log(2 * math.pi * math.e * 0.3) / 2)
    assert layer.information.stderr < 0.03


def use(active, doubtful, lost, stderr):
    nothing = Measured(0.0, 0.0)
    return LayerUse(nothing, 3, active, doubtful, nothing, nothing, Measured(lost, stderr), None, least=0.1)


@pytest.mark.parametrize(
    ("layer", "verdict"),
    [
        (use(1, 0, 0.05, 0.02), "ignored: the decoder does not use it"),
        (use(1, 0, 0.05, 0.03), "undecided: more data or draws are needed"),
        (use(1, 0, 3.0, 1.6), "undecided: more data or draws are needed"),
        (use(1, 0, 3.0, 1.4), "used"),
        (use(1, 0, -0.5, 0.4), "undecided: more data or draws are needed"),
        (use(0, 0, 3.0, 5.0), "ignored: it carries no information about x"),
        (use(0, 1, 3.0, 1.0), "undecided: more data or draws are needed"),
        (use(0, 1, 0.0, 0.01), "ignored: the decoder does not use it"),
        (use(1, 0, math.nan, 0.1), "undecided: more data or draws are needed"),
    ],
)
def test_verdicts(layer, verdict):
    """Used or ignored if at least 2 standard errors above or below 0.1 nats, otherwise undecided."""
    assert layer.verdict == verdict
    assert (layer.used, layer.ignored) == (verdict == "used", verdict.startswith("ignored"))


def test_few_data_leave_it_undecided():
    """The loss is about (0.9^2 + 1) / 2 (1 - 1 / 2) nats: significant with 1,000 data, not with 6."""
    model = VAE(Linear([[0.9]], [0.0], [0.1]), Linear([[0.5]], [0.0], [1.0]), GaussianPrior(1).double())
    few, many = (collapse_report(model, whitened(n, 1), samples=2, generator=generator(0)) for n in (6, 1000))
    assert few.undecided == (1,)
    assert few.ignored == ()
    assert str(few).endswith("Layer 1 is undecided.")
    assert many.undecided == ()
    assert str(many).endswith("Every layer is used.")
