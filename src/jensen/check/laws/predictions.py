"""What a denoiser predicts: x, eps, v, flow and score are equivalent; losses are weights; guidance tilts densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from jensen import diffusion
from jensen.check.denoising import denoising_loss, of_prediction
from jensen.check.evidence import Claims, Evidence, close
from jensen.check.law import law
from jensen.check.laws.process import TIGHT, cos_sin
from jensen.check.line import F64, f64, mixture
from jensen.check.samplers import two_modes
from jensen.diffusion import CosineSchedule, MixtureOracle, Prediction, simple

View = Literal["x", "eps", "v", "flow"]
VIEWS: tuple[View, ...] = ("x", "eps", "v", "flow")
OUTPUTS: tuple[View | Literal["edm"], ...] = (*VIEWS, "edm")


def columns(t: Tensor) -> list[Tensor]:
    """Alpha and sigma of the cosine schedule, (B, 1)."""
    return [v[:, None] for v in cos_sin(t)]


def score(z: Tensor, t: Tensor) -> Tensor:
    """The gradient of the log density of `two_modes` at time t, by autograd through the density written out."""
    z, (alpha, sigma) = z.detach().requires_grad_(), columns(t)
    deviation = torch.sqrt(alpha**2 * f64([0.3, 0.2]) + sigma**2)
    log_p = mixture((0.3, 0.7), alpha * f64([-1.2, 0.8]), deviation)
    return torch.autograd.grad(log_p(z).sum(), z)[0]


class Fixed(nn.Module):
    """A network with a given output."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.output


@law("parameterization/views")
def views(_: float) -> Claims:
    r"""Predicting x, eps, v, the flow and the score are equivalent: each prediction determines the others.

    $$\nabla\log p_t(z) = -\hat\epsilon/\sigma_t = (\alpha_t\hat x - z)/\sigma_t^2, \quad
    v = \alpha_t\hat\epsilon - \sigma_t\hat x, \quad z = \alpha_t\hat x + \sigma_t\hat\epsilon$$
    z = alpha x_hat + sigma eps_hat relates them linearly for each z and t. Compared with the score of a mixture by
    autograd; v is dz/dphi at the angle phi = pi t/2 on the cosine schedule, and the flow eps - x is dz/dt on the
    straight line z = (1 - t) x + t eps.
    Source: Kingma et al., VDM (2021), appendix A; Salimans & Ho (2022), appendix D; Efron (2011), equation 1.3.
    """
    z, t = torch.linspace(-3, 3, 40, dtype=F64)[:, None], torch.linspace(0.05, 0.95, 40, dtype=F64)
    (alpha, sigma), exact, p = columns(t), score(z, t), two_modes()(z, t)
    x, eps = (z + sigma**2 * exact) / alpha, -sigma * exact
    truth: dict[str, Tensor] = {"x": x, "eps": eps, "v": alpha * eps - sigma * x, "flow": eps - x}
    for name in VIEWS:
        yield close(f"{name} predicted by the exact denoiser", truth[name], p.view(name), 1e-7)
    yield close("score of the exact denoiser: the gradient of log p", exact, p.score, 1e-7)
    scale = torch.sqrt(alpha**2 + sigma**2)
    truth["edm"] = (x - alpha / scale**2 * z) * scale / sigma  # the target of EDM's network, with s = 1
    for output in OUTPUTS:
        found = diffusion.NetworkDenoiser(Fixed(truth[output]), CosineSchedule(), output=output)(z, t)
        yield close(f"x from a network that predicts {output}", x, found.x, 1e-7)
        yield close(f"eps from a network that predicts {output}", eps, found.eps, 1e-7)
    data, noise, half = f64([[0.7]]), f64([[-0.4]]), f64([0.37])
    a, s = CosineSchedule().slopes(half)
    speed = (a * data + s * noise) / (math.pi / 2)
    yield close("v is dz/dphi on the cosine schedule", speed, Prediction(data, noise, *columns(half)).v, TIGHT)
    a, s = diffusion.RectifiedSchedule().slopes(half)
    flow = Prediction(data, noise, 1 - half[:, None], half[:, None]).flow
    yield close("the flow is dz/dt on the straight line", a * data + s * noise, flow, TIGHT)


def snr(t: Tensor) -> Tensor:
    return 1 / torch.tan(math.pi / 2 * t) ** 2


WEIGHTS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "x": (lambda p, x, eps: simple(p, x, eps, "x"), torch.ones_like),
    "eps": (simple, snr),
    "v": (lambda p, x, eps: simple(p, x, eps, "v"), lambda t: snr(t) + 1),
    "flow": (lambda p, x, eps: simple(p, x, eps, "flow"), lambda t: (1 + snr(t).sqrt()) ** 2),
    "min-SNR": (diffusion.min_snr, lambda t: snr(t).clamp(max=5)),
    "EDM": (diffusion.edm, lambda t: snr(t) + 1),
    "sigmoid": (diffusion.sigmoid, lambda t: torch.cos(math.pi / 2 * t) ** 2),
}
"""Losses, and the weight w(t) of each on |x_hat - x|^2."""


@law("parameterization/losses")
def losses(_: float) -> Claims:
    r"""Every quadratic loss is a weight w(t) times the squared error of x, and is minimal at the exact denoiser.

    $$|\hat\epsilon - \epsilon|^2 = \mathrm{SNR}\,|\hat x - x|^2, \quad
    |\hat v - v|^2 = \frac{|\hat x - x|^2}{\sigma^2}, \quad |\hat u - u|^2 = (1 + \alpha/\sigma)^2\,|\hat x - x|^2$$
    eps_hat - eps = -(alpha/sigma)(x_hat - x), and similarly for v and the flow u = eps - x. The weight does not move
    the minimum, which is E[x | z_t]. `jensen.check.denoising_loss`, with the weight of each loss written out.
    Source: Kingma & Gao (2023), appendix D; Salimans & Ho (2022), section 4; Karras et al. (2022), table 1.
    Assumes: for v, alpha^2 + sigma^2 = 1.
    """
    for name, (loss, weight) in WEIGHTS.items():
        report = denoising_loss(of_prediction(loss), weight=weight, times=(0.3, 0.7))
        yield report.failures(f"loss {name}")
        found = next(e for e in report.evidence if e.claim == "weight w(t), t = 0.3")
        yield Evidence(f"loss {name}: weight at t = 0.3", found.expected, found.measured, found.tolerance)


MODES, NULL = ((-1.0, 0.5), (1.5, 0.5)), (0.4, 1.2)  # mean and variance of each condition, and without one
Z, T = torch.linspace(-2, 3, 20, dtype=F64)[:, None], torch.linspace(0.1, 0.9, 20, dtype=F64)


def modes() -> tuple[list[float], list[list[float]], list[list[float]]]:
    """Weights, means and variances of the mixture of both conditions."""
    return [0.5, 0.5], [[m] for m, _ in MODES], [[v] for _, v in MODES]


def of_class(z: Tensor, t: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and (z - alpha mean) / (alpha^2 variance + sigma^2) of conditions 0, 1 and 2 (none), (B, 1)."""
    alpha, sigma = columns(t)
    mean, variance = (f64(v)[cond][:, None] for v in zip(*MODES, NULL, strict=True))
    return mean, variance, (z - alpha * mean) / (alpha**2 * variance + sigma**2)


class Conditional(MixtureOracle):
    """The exact denoiser of a Gaussian for each condition: 0, 1 and 2 (none)."""

    def __init__(self) -> None:
        super().__init__(*modes(), CosineSchedule())
        self.null = torch.tensor(2)

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        (alpha, sigma), (mean, variance, whitened) = columns(t), of_class(z_t, t, self.condition(cond, len(z_t)))
        return Prediction(mean + alpha * variance * whitened, sigma * whitened, alpha, sigma)


@law("guidance/classifier-free")
def classifier_free(_: float) -> Claims:
    r"""Classifier-free guidance of weight w has the score of p(z) (p(z|c) / p(z))^w, which is linear in w.

    $$\nabla\log p(z) + w\,(\nabla\log p(z|c) - \nabla\log p(z))$$
    For p(z|c) = N(a, s) and p(z) = N(b, r) it is -(1 - w)(z - b)/r - w (z - a)/s: conditional at w = 1, unconditional
    at w = 0. The predictions of x and eps are combined with the same w, so that z = alpha x + sigma eps still holds.
    Outside of a guidance interval the conditional model is used. Two parts of a condition, a and b, can have weights w
    and v of their own: p(z) (p(z|a) / p(z))^w (p(z|a,b) / p(z|a))^v.
    Source: Ho & Salimans (2022), equation 6; Brooks et al., InstructPix2Pix (2023), equation 3, for two parts.
    """
    cond = torch.tensor([0, 1] * 10)
    (alpha, sigma), given, free = columns(T), -of_class(Z, T, cond)[2], -of_class(Z, T, torch.full_like(cond, 2))[2]
    for w in (0.0, 1.0, 2.5):
        p = diffusion.Guided(Conditional(), w)(Z, T, cond)
        yield close(f"score at w = {w}", free + w * (given - free), p.score, TIGHT)
        yield close(f"alpha x + sigma eps at w = {w}", Z, alpha * p.x + sigma * p.eps, TIGHT)
    limited = diffusion.Guided(Conditional(), 2.5, interval=(0.3, 0.6))(Z, T, cond)
    expected = torch.where(((T >= 0.3) & (T <= 0.6))[:, None], free + 2.5 * (given - free), given)
    yield close("score at w = 2.5 with the interval 0.3 <= t <= 0.6", expected, limited.score, TIGHT)
    split, part = diffusion.Guided(Conditional(), 2.5, rest=(1.5, lambda c: 1 - c)), -of_class(Z, T, 1 - cond)[2]
    expected = free + 2.5 * (part - free) + 1.5 * (given - part)
    yield close("score at w = 2.5 of a part and v = 1.5 of the rest", expected, split(Z, T, cond).score, TIGHT)


@law("guidance/classifier")
def classifier(_: float) -> Claims:
    r"""Guidance by the exact classifier of noisy data, with weight 1, gives the conditional denoiser.

    $$\nabla\log p(z_t|c) = \nabla\log p(z_t) + \nabla\log p(c|z_t)$$
    This is the gradient of Bayes' rule in z_t. For two Gaussian classes p(c | z_t) is known; with weight w = 2 the
    score is 2 grad log p(z | c) - grad log p(z).
    Source: Dhariwal & Nichol (2021), algorithm 2; Song et al. (2021), equation 14.
    """
    both = MixtureOracle(*modes(), CosineSchedule())

    def log_share(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        (alpha, sigma), (mean, variance) = columns(t), (f64(v) for v in zip(*MODES, strict=True))
        w = alpha**2 * variance + sigma**2
        return torch.log_softmax(-((z - alpha * mean) ** 2) / (2 * w) - w.log() / 2, 1)[torch.arange(len(z)), c]

    for c, (mean, variance) in enumerate(MODES):
        cond = torch.full((20,), c)
        alone = diffusion.GaussianOracle(torch.tensor([mean]), torch.tensor([variance]), CosineSchedule())(Z, T)
        p, twice = (diffusion.ClassifierGuided(both, log_share, w)(Z, T, cond) for w in (1.0, 2.0))
        yield close(f"x given class {c}, w = 1", alone.x, p.x, 1e-7)
        yield close(f"eps given class {c}, w = 1", alone.eps, p.eps, 1e-7)
        yield close(f"score given class {c}, w = 2", 2 * alone.score - both(Z, T).score, twice.score, 1e-6)
        share = both.log_share(Z, T)[:, c]
        yield close(f"log p(c|z_t) of the mixture's denoiser, class {c}", log_share(Z, T, cond), share, 1e-8)
