"""The weight of the KL term: beta as a Lagrange multiplier, posterior collapse, free bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jensen.check.evidence import Claims, Evidence, close
from jensen.check.law import law
from jensen.check.laws.bounds import Affine
from jensen.check.laws.likelihood import S2, B, W, X, data, model
from jensen.check.line import F64, f64
from jensen.core.seeding import generator
from jensen.distributions import GaussianPrior
from jensen.models import VAE
from jensen.report import plots
from jensen.variational import Bound, Constraint, Trace, beta, collapse_report, elbo, free_bits, scored


def price(weight: float) -> tuple[float, float, float]:
    """Mean, standard deviation and KL of the q that maximises E log p(x|z) - weight * KL, for the datum X."""
    p = 1 + W**2 / (weight * S2)
    mean, variance = W * (X - B) / (weight * S2) / p, 1 / p
    return mean, math.sqrt(variance), (variance + mean**2 - 1 - math.log(variance)) / 2


def price_of(nats: float) -> float:
    """The weight at which the best q has this KL, by bisection: the KL decreases with its weight."""
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if price(middle)[2] > nats else (low, middle)
    return low


def rebuilt(mean: float, std: float) -> float:
    """E log p(X|z) for q = N(mean, std^2)."""
    return -((X - W * mean - B) ** 2 + W**2 * std**2) / (2 * S2) - math.log(2 * math.pi * S2) / 2


def exact_trace(mean: Tensor, log_std: Tensor, log_px: Callable[[Tensor], Tensor]) -> Trace:
    """A trace of q = N(mean, std^2): the samples mean - std and mean + std have the exact mean of any quadratic."""
    std = log_std.exp().expand_as(mean)
    z = torch.stack([mean - std, mean + std])
    kl = (std**2 + mean**2 - 1 - 2 * std.log()) / 2
    return Trace(log_px(z), (kl.expand(2, -1),), (torch.zeros_like(z),), (True,), (True,))


@law("beta/constraint")
def beta_constraint(_: float) -> Claims:
    r"""The weight beta of the KL in a beta-VAE is the Lagrange multiplier of the constraint that the KL is at most eps.

    $$\max_q\{E_q\log p(x|z) : \mathrm{KL} \le \epsilon\} = R(\epsilon),\quad \beta = R'(\epsilon)$$
    For x|z ~ N(w z + b, v) the best q has the precision 1 + w^2 / (beta v). At the beta for which its KL is eps nats
    the Lagrangian is stationary. Gradient ascent in q with gradient descent in beta converges to this point.
    Source: Higgins et al. (2017), equations 1 to 4; Rezende & Viola (2018).
    """
    nats, h = 0.25, 1e-4
    weight = price_of(nats)
    mean, std, _kl = price(weight)
    leaves = [f64([v]).requires_grad_() for v in (mean, math.log(std))]

    def trace() -> Trace:
        return exact_trace(leaves[0], leaves[1], lambda z: model().log_px(data(1), (z[..., None],)))

    constraint = Constraint(nats, start=weight).double()
    lagrangian = constraint(trace()).sum()
    found = torch.autograd.grad(lagrangian, [*leaves, constraint.log_multiplier])
    yield close("gradient of the Lagrangian at the solution", 0.0, torch.cat([s.reshape(1) for s in found]), 1e-6)
    yield close("value of the Lagrangian, E log p(x|z)", rebuilt(mean, std), lagrangian, 1e-6)
    found = torch.autograd.grad(beta(weight)(trace()).sum(), leaves)
    yield close("gradient of the beta-VAE bound at the solution", 0.0, torch.cat(found), 1e-6)
    yield close("value of the beta-VAE bound", rebuilt(mean, std) - weight * nats, beta(weight)(trace()), 1e-6)
    better, worse = (rebuilt(*price(price_of(nats + step))[:2]) for step in (h, -h))
    yield close("beta, the derivative of R", weight, (better - worse) / (2 * h), 1e-3)
    constraint = Constraint(nats, start=1.0).double()
    ascent: dict[str, Any] = {"params": leaves, "lr": 0.1, "maximize": True}
    optimizer = torch.optim.SGD([ascent, {"params": [constraint.log_multiplier]}], lr=0.5)
    for _step in range(400):
        optimizer.zero_grad()
        constraint(trace()).sum().backward()
        optimizer.step()
    yield close("multiplier found by ascent and descent", weight, constraint.multiplier, 1e-3)
    yield close("KL found by ascent and descent", nats, trace().kl[0], 1e-3)


def linear_vae(bound: Bound, variance: float, steps: int = 200) -> tuple[float, float, float, float]:
    """Trained w, a, std and KL: x = -1 and 1, decoder N(w z, variance), encoder N(a x, std^2)."""
    x, noise = f64([-1.0, 1.0]), math.log(2 * math.pi * variance) / 2
    w, a, log_std = leaves = [f64(v).requires_grad_() for v in (0.6, 0.6, -0.3)]
    optimizer = torch.optim.Adam(leaves, betas=(0.8, 0.9))

    def trace() -> Trace:
        return exact_trace(a * x, log_std, lambda z: -((x - w * z) ** 2) / (2 * variance) - noise)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.08 * (1 - step / steps)
        optimizer.zero_grad()
        (-bound(trace()).mean()).backward()
        optimizer.step()
    return w.item(), a.item(), log_std.exp().item(), trace().kl[0].mean().item()


@law("collapse/remedies")
def collapse(_: float) -> Claims:
    r"""If the decoder's variance is at least that of the data, q collapses to p(z); free bits or beta < 1 prevent it.

    $$w^2 = \max(v - \beta\sigma^2, 0),\quad \mathrm{KL} = \tfrac12\log\frac{v}{\beta\sigma^2}\ \mathrm{or}\ 0$$
    v is the variance of the data. The ELBO of a linear VAE is largest where the likelihood of probabilistic PCA is: for
    sigma^2 >= v at w = 0, KL = 0. A weight beta < 1 moves the threshold to beta sigma^2. With lambda free nats KL is
    lambda, and the squared error v e^(-2 lambda), by the rate-distortion function.
    Source: Lucas et al. (2019), section 4; Kingma et al. (2016), equation 15; Bowman et al. (2016), section 3.1.
    Assumes: x = -1 and 1 (v = 1), z ~ N(0, 1), x|z ~ N(w z, sigma^2), a linear encoder.
    """
    for name, bound, variance, kl in (
        ("sigma^2 = 2, the ELBO", elbo, 2.0, 0.0),
        ("sigma^2 = 1/4, the ELBO", elbo, 0.25, math.log(4) / 2),
        ("sigma^2 = 2, beta = 1/4", beta(0.25), 2.0, math.log(2) / 2),
        ("sigma^2 = 2, 1/2 free nats", free_bits(0.5), 2.0, 0.5),
    ):
        w, a, std, found = linear_vae(bound, variance)
        yield close(f"KL, {name}", kl, found, 2e-2)
        yield close(f"mean squared error, {name}", math.exp(-2 * kl), (1 - w * a) ** 2 + w**2 * std**2, 2e-2)
        vae = VAE(Affine(a, 0.0, std), Affine(w, 0.0, math.sqrt(variance)), GaussianPrior(1).double())
        report = collapse_report(vae, f64([[-1.0], [1.0]]).repeat(100, 1), samples=4, generator=generator(0))
        collapsed = float(report.layers[0].silent)
        yield Evidence(f"number of collapsed layers in the report, {name}", float(kl == 0), collapsed, 0.0)


@collapse.drawn
def _collapse_plot() -> str:
    at = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]
    exact = [max(-math.log(2 * b) / 2, 0.0) for b in at]
    trained = [linear_vae(beta(b), 2.0)[3] for b in at]
    rows = {"1/2 log(v / (beta sigma^2))": exact, "trained": trained}
    return plots.curves(at, rows, title="KL (nats) against its weight beta, sigma^2 = 2 v", xlabel="beta")


def all_bits(odds: Tensor, samples: int) -> list[tuple[Tensor, Trace]]:
    """Every outcome of K bits for each row, with its probability; log p(x|z) = -(z - row)^2 and p(z = 1) = 0.9."""
    found = []
    for bits in torch.cartesian_prod(*[f64([0.0, 1.0])] * (samples * len(odds))).view(-1, samples, len(odds)):
        log_q = F.logsigmoid((2 * bits - 1) * odds)
        kl = log_q - torch.where(bits == 1, math.log(0.9), math.log(0.1))
        log_px = -((bits - torch.arange(len(odds), dtype=F64)) ** 2)
        found.append((log_q.sum().exp(), Trace(log_px, (kl,), (log_q,), (False,), (False,))))
    return found


@law("free-bits/score-function")
def free_bits_scored(_: float) -> Claims:
    r"""With free bits the score-function gradient must weight each sample's score by the bound of the whole batch.

    $$\nabla E \sum_b F_b = E\big[\sum_b \nabla F_b + \sum_{k, b} (F - F_{-kb})\, \nabla\log q(z_{kb})\big]$$
    F is the sum of the bounds F_b over the rows b of the batch, and F_{-kb} this sum without sample k of row b. Free
    bits apply to the KL averaged over the batch, so one sample changes the bounds of all rows; the score times the
    bound of its own row alone would be biased.
    Source: Kingma et al. (2016), equation 15; Mnih & Rezende (2016), equations 5 to 7.
    """
    odds = f64([1.2, -0.4, 0.3]).requires_grad_()
    for samples, rows in ((1, 3), (2, 2)):
        for bound in (free_bits(0.4), beta(2.0, free_bits(0.1))):
            outcomes = all_bits(odds[:rows], samples)
            value = torch.stack([p * bound(trace).sum() for p, trace in outcomes]).sum()
            found = torch.stack([p.detach() * scored(bound)(trace).sum() for p, trace in outcomes]).sum()
            expected, got = (torch.autograd.grad(v, odds, retain_graph=True)[0] for v in (value, found))
            yield close(f"mean gradient, {samples} samples for each of {rows} rows", expected, got, 1e-12)
