"""What a denoiser predicts: x, eps, v, flow and score are one thing; losses are weights; guidance tilts the density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from jensen.check.denoising import denoising_loss, of_prediction
from jensen.check.evidence import Evidence, close
from jensen.check.law import Law, law
from jensen.check.laws.diffusion_process import cos_sin
from jensen.check.line import F64
from jensen.check.samplers import two_modes
from jensen.diffusion import (
    ClassifierGuided,
    CosineSchedule,
    GaussianOracle,
    Guided,
    MixtureOracle,
    NetworkDenoiser,
    Prediction,
    RectifiedSchedule,
    edm,
    min_snr,
    sigmoid,
    simple,
)

TIGHT = 1e-9
VIEWS: tuple[Literal["x", "eps", "v", "flow"], ...] = ("x", "eps", "v", "flow")


def log_density(z: Tensor, t: Tensor) -> Tensor:
    """Of `two_modes` at time t, written out, (B,)."""
    alpha, sigma = (v[:, None] for v in cos_sin(t))
    mean, data = (torch.tensor(v, dtype=F64) for v in ((-1.2, 0.8), (0.3, 0.2)))
    variance = alpha**2 * data + sigma**2
    log_weight = torch.tensor([0.3, 0.7], dtype=F64).log()
    return (log_weight - (z - alpha * mean) ** 2 / (2 * variance) - variance.log() / 2).logsumexp(1)


def score(z: Tensor, t: Tensor) -> Tensor:
    """Its gradient in z, by autograd."""
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(z, t).sum(), z)
    return slope


@law(
    "parameterization/views",
    formula=r"\nabla\log p_t(z) = -\hat\epsilon/\sigma_t = (\alpha_t\hat x - z)/\sigma_t^2, \quad "
    r"v = \alpha_t\hat\epsilon - \sigma_t\hat x, \quad z = \alpha_t\hat x + \sigma_t\hat\epsilon",
    source="Kingma et al., VDM (2021), appendix A; Salimans & Ho (2022), appendix D; Efron (2011), equation 1.3",
)
def views(_: float) -> Iterator[Evidence]:
    r"""Predicting x, eps, v, the flow or the score is predicting one thing.

    z = alpha x_hat + sigma eps_hat ties them, linearly for each z and t. Held to the score of a mixture by autograd
    through its density; and v = dz/dphi at the angle phi on the cosine schedule, eps - x = dz/dt on the straight one.
    """
    oracle, z = two_modes(), torch.linspace(-3, 3, 40, dtype=F64)[:, None]
    t = torch.linspace(0.05, 0.95, 40, dtype=F64)
    alpha, sigma = (v[:, None] for v in cos_sin(t))
    exact = score(z, t)
    p = oracle(z, t)
    x, eps = (z + sigma**2 * exact) / alpha, -sigma * exact
    truth = {"x": x, "eps": eps, "v": alpha * eps - sigma * x, "flow": eps - x}
    for name in VIEWS:
        yield close(f"the exact denoiser's {name}", truth[name], p.view(name), 1e-7)
    yield close("its score is the gradient of log p", exact, p.score, 1e-7)
    for name in VIEWS:
        network = NetworkDenoiser(_Told(truth[name]), CosineSchedule(), output=name)
        told = network(z, t)
        yield close(f"x of a network that says {name}", x, told.x, 1e-7)
        yield close(f"eps of a network that says {name}", eps, told.eps, 1e-7)
    scale = torch.sqrt(alpha**2 + sigma**2)
    f = (x - alpha / scale**2 * z) * scale / sigma  # what EDM's network is asked for, with s = 1
    told = NetworkDenoiser(_Told(f), CosineSchedule(), output="edm")(z, t)
    yield close("x of a network with EDM's preconditioning", x, told.x, 1e-7)
    yield close("eps of it", eps, told.eps, 1e-7)
    data, noise, turn = 0.7, -0.4, math.pi / 2
    half = torch.tensor([0.37], dtype=F64)
    x, eps = (torch.full((1, 1), value, dtype=F64) for value in (data, noise))
    alpha, sigma = (v[:, None] for v in cos_sin(half))
    a, s = CosineSchedule().slopes(half)
    speed = (a * data + s * noise) / turn
    truth_v = Prediction(x, eps, alpha, sigma).v
    yield close("v is dz/dphi on the cosine schedule", speed, truth_v[:, 0], TIGHT)
    a, s = RectifiedSchedule().slopes(half)
    flow = Prediction(x, eps, 1 - half[:, None], half[:, None]).flow
    yield close("flow is dz/dt on the straight line", a * data + s * noise, flow[:, 0], TIGHT)


class _Told(torch.nn.Module):
    """A network that says what it was told."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.output


@law(
    "parameterization/losses",
    formula=r"|\hat\epsilon - \epsilon|^2 = \mathrm{SNR}\,|\hat x - x|^2, \quad "
    r"|\hat v - v|^2 = \frac{|\hat x - x|^2}{\sigma^2}, \quad |\hat u - u|^2 = (1 + \alpha/\sigma)^2\,|\hat x - x|^2",
    source="Kingma & Gao (2023), appendix D; Salimans & Ho (2022), section 4; Karras et al. (2022), table 1",
    assumptions="v where variance is preserved",
)
def losses(_: float) -> Iterator[Evidence]:
    r"""Every quadratic loss is a weight on one error, and is least at the exact denoiser.

    eps_hat - eps = -(alpha/sigma)(x_hat - x), and so for v and the flow u = eps - x. The weight does not move the
    minimum, which is E[x | z_t]. The user-facing check, with the weight of each loss written out.
    """
    angle = math.pi / 2
    weights = {
        "x": (lambda p, x, eps: simple(p, x, eps, "x"), lambda t: torch.ones_like(t)),
        "eps": (simple, lambda t: 1 / torch.tan(angle * t) ** 2),
        "v": (lambda p, x, eps: simple(p, x, eps, "v"), lambda t: 1 / torch.sin(angle * t) ** 2),
        "flow": (lambda p, x, eps: simple(p, x, eps, "flow"), lambda t: (1 + 1 / torch.tan(angle * t)) ** 2),
        "min-SNR": (min_snr, lambda t: (1 / torch.tan(angle * t) ** 2).clamp(max=5)),
        "EDM": (edm, lambda t: 1 / torch.tan(angle * t) ** 2 + 1),
        "sigmoid": (sigmoid, lambda t: torch.cos(angle * t) ** 2),
    }
    for name, (loss, weight) in weights.items():
        report = denoising_loss(of_prediction(loss), weight=weight, times=(0.3, 0.7))
        yield Evidence(f"{name}: claims of {len(report.evidence)} that fail", 0.0, len(report.failed), 0.0)
        found = next(e for e in report.evidence if e.claim == "its weight, t = 0.3")
        yield Evidence(f"{name}: weight at t = 0.3", found.expected, found.measured, found.tolerance)


MODES = ((-1.0, 0.5), (1.5, 0.5))  # mean and variance of each condition
NULL = (0.4, 1.2)


class Conditional(MixtureOracle):
    """Two conditions and none, each a Gaussian of its own: 0, 1 and 2."""

    def __init__(self) -> None:
        super().__init__([0.5, 0.5], [[m] for m, _ in MODES], [[v] for _, v in MODES], CosineSchedule())
        self.null = torch.tensor(2)

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        cond = self.condition(cond, len(z_t))
        alpha, sigma = (v[:, None] for v in cos_sin(t))
        mean, variance = (torch.tensor(v, dtype=F64)[cond][:, None] for v in zip(*MODES, NULL, strict=True))
        whitened = (z_t - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Prediction(mean + alpha * variance * whitened, sigma * whitened, alpha, sigma)


@law(
    "guidance/classifier-free",
    formula=r"\nabla\log p(z) + w\,(\nabla\log p(z|c) - \nabla\log p(z))",
    source="Ho & Salimans (2022), equation 6",
)
def classifier_free(_: float) -> Iterator[Evidence]:
    r"""Guidance is the score of p(z) (p(z|c) / p(z))^w: linear in w, off at 1, unconditional at 0.

    For Gaussians p(z|c) of mean a and variance s and p(z) of b and r it is -(1 - w)(z - b)/r - w (z - a)/s. x is
    guided alike, so that z = alpha x + sigma eps still holds; outside the interval the conditional model stands.
    """
    z, t = torch.linspace(-2, 3, 20, dtype=F64)[:, None], torch.linspace(0.1, 0.9, 20, dtype=F64)
    cond = torch.tensor([0, 1] * 10)
    alpha, sigma = (v[:, None] for v in cos_sin(t))
    mean, variance = (torch.tensor(v, dtype=F64)[cond][:, None] for v in zip(*MODES, strict=True))
    given = -(z - alpha * mean) / (alpha**2 * variance + sigma**2)
    free = -(z - alpha * NULL[0]) / (alpha**2 * NULL[1] + sigma**2)
    for w in (0.0, 1.0, 2.5):
        p = Guided(Conditional(), w)(z, t, cond)
        yield close(f"score at w = {w}", free + w * (given - free), p.score, TIGHT)
        yield close(f"alpha x + sigma eps at w = {w}", z, alpha * p.x + sigma * p.eps, TIGHT)
    limited = Guided(Conditional(), 2.5, interval=(0.3, 0.6))(z, t, cond)
    inside = ((t >= 0.3) & (t <= 0.6))[:, None]
    expected = torch.where(inside, free + 2.5 * (given - free), given)
    yield close("score at w = 2.5 between t = 0.3 and 0.6", expected, limited.score, TIGHT)


@law(
    "guidance/classifier",
    formula=r"\nabla\log p(z_t|c) = \nabla\log p(z_t) + \nabla\log p(c|z_t)",
    source="Dhariwal & Nichol (2021), algorithm 2; Song et al. (2021), equation 14",
)
def classifier(_: float) -> Iterator[Evidence]:
    r"""With the exact classifier of noisy data and w = 1, guidance is the conditional denoiser.

    Bayes' rule, differentiated in z_t. With two modes as the classes p(c | z_t) is known; at w = 2 the score is
    2 grad log p(z | c) - grad log p(z).
    """
    mixture = MixtureOracle([0.5, 0.5], [[m] for m, _ in MODES], [[v] for _, v in MODES], CosineSchedule())

    def log_share(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        alpha, sigma = (v[:, None] for v in cos_sin(t))
        mean, variance = (torch.tensor(v, dtype=F64) for v in zip(*MODES, strict=True))
        w = alpha**2 * variance + sigma**2
        return torch.log_softmax(-((z - alpha * mean) ** 2) / (2 * w) - w.log() / 2, 1)[torch.arange(len(z)), c]

    z, t = torch.linspace(-2, 3, 20, dtype=F64)[:, None], torch.linspace(0.1, 0.9, 20, dtype=F64)
    for c, (mean, variance) in enumerate(MODES):
        cond = torch.full((20,), c)
        alone = GaussianOracle(torch.tensor([mean]), torch.tensor([variance]), CosineSchedule())(z, t)
        p = ClassifierGuided(mixture, log_share, 1.0)(z, t, cond)
        yield close(f"x given class {c}", alone.x, p.x, 1e-7)
        yield close(f"eps given class {c}", alone.eps, p.eps, 1e-7)
        twice = ClassifierGuided(mixture, log_share, 2.0)(z, t, cond).score
        yield close(f"score at w = 2, class {c}", 2 * alone.score - mixture(z, t).score, twice, 1e-6)
        yield close(
            f"the oracle's own classifier, class {c}", log_share(z, t, cond), mixture.log_share(z, t)[:, c], 1e-8
        )


LAWS: tuple[Law, ...] = (views, losses, classifier_free, classifier)
