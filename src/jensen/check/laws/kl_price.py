"""The weight of the KL: beta as a Lagrange multiplier, posterior collapse and its remedies."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    """Mean, standard deviation and KL of the best q where the KL has this weight, for the model and datum above."""
    p = 1 + W**2 / (weight * S2)
    mean, variance = W * (X - B) / (weight * S2) / p, 1 / p
    return mean, math.sqrt(variance), (variance + mean**2 - 1 - math.log(variance)) / 2


def price_of(nats: float) -> float:
    """The weight at which the best q has this KL, by bisection: the KL falls with its weight."""
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if price(middle)[2] > nats else (low, middle)
    return low


def rebuilt(mean: float, std: float) -> float:
    return -((X - W * mean - B) ** 2 + W**2 * std**2) / (2 * S2) - math.log(2 * math.pi * S2) / 2


def exact_trace(mean: Tensor, log_std: Tensor, log_px: Callable[[Tensor], Tensor]) -> Trace:
    """Of q = N(mean, std^2), (B,), against N(0, 1): two draws at mean +- std have the exact mean of a quadratic."""
    std = log_std.exp().expand_as(mean)
    z = torch.stack([mean - std, mean + std])
    kl = (std**2 + mean**2 - 1 - 2 * std.log()) / 2
    return Trace(log_px(z), (kl.expand(2, -1),), (torch.zeros_like(z),), (True,), (True,))


@law("beta/constraint")
def beta_constraint(_: float) -> Claims:
    r"""The weight of a beta-VAE is the Lagrange multiplier of a constraint on the KL, and its price in likelihood.

    $$\max_q\{E_q\log p(x|z) : \mathrm{KL} \le \epsilon\} = R(\epsilon),\quad \beta = R'(\epsilon)$$
    The best q of weight beta has the precision 1 + w^2 / (beta v). At the beta for which its KL is epsilon nats the
    Lagrangian is stationary in q and in beta, and a further nat would be worth beta. Descent and ascent converge there.
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
    yield close("slopes of the Lagrangian at the solution", 0.0, torch.cat([s.reshape(1) for s in found]), 1e-6)
    yield close("its value is the likelihood term's", rebuilt(mean, std), lagrangian, 1e-6)
    found = torch.autograd.grad(beta(weight)(trace()).sum(), leaves)
    yield close("slopes of the beta bound there", 0.0, torch.cat(found), 1e-6)
    yield close("the beta bound's value", rebuilt(mean, std) - weight * nats, beta(weight)(trace()), 1e-6)
    better, worse = (rebuilt(*price(price_of(nats + step))[:2]) for step in (h, -h))
    yield close("the value of a further nat", weight, (better - worse) / (2 * h), 1e-3)
    constraint = Constraint(nats, start=1.0).double()
    for _step in range(400):
        *ups, down = torch.autograd.grad(constraint(trace()).sum(), [*leaves, constraint.log_multiplier])
        with torch.no_grad():
            for v, up in zip(leaves, ups, strict=True):
                v.add_(0.1 * up)
            constraint.log_multiplier.sub_(0.5 * down)
    yield close("the multiplier that descent and ascent find", weight, constraint.multiplier, 1e-3)
    yield close("and its KL", nats, trace().kl[0], 1e-3)


def linear_vae(bound: Bound, variance: float, steps: int = 200) -> tuple[float, float, float, float]:
    """Slopes of decoder and encoder, std of q and KL that maximise a bound; x = -1 and 1, x|z ~ N(w z, variance)."""
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
    r"""Where the decoder explains the data without z the posterior collapses; free bits and a lower weight prevent it.

    $$w^2 = \max(v - \beta\sigma^2, 0),\quad \mathrm{KL} = \tfrac12\log\frac{v}{\beta\sigma^2}\ \mathrm{or}\ 0$$
    The bound of a linear VAE is that of probabilistic PCA: with sigma^2 >= v its maximum is w = 0 and KL = 0. A weight
    beta < 1 (the start of an annealing) moves the threshold to beta sigma^2; lambda free nats are used, and lower the
    error to v e^(-2 lambda), the rate-distortion function. A decoder of less variance has the same effect.
    Source: Lucas et al. (2019), section 4; Kingma et al. (2016), equation 15; Bowman et al. (2016), section 3.1.
    Assumes: x = +-1 (v = 1), z ~ N(0, 1), x|z ~ N(w z, sigma^2), linear encoder.
    """
    for name, bound, variance, kl in (
        ("sigma^2 = 2, the ELBO", elbo, 2.0, 0.0),
        ("sigma^2 = 1/4, the ELBO", elbo, 0.25, math.log(4) / 2),
        ("sigma^2 = 2, beta = 1/4", beta(0.25), 2.0, math.log(2) / 2),
        ("sigma^2 = 2, 1/2 free nats", free_bits(0.5), 2.0, 0.5),
    ):
        w, a, std, found = linear_vae(bound, variance)
        yield close(f"nats of the KL, {name}", kl, found, 2e-2)
        yield close(f"mean squared error, {name}", math.exp(-2 * kl), (1 - w * a) ** 2 + w**2 * std**2, 2e-2)
        vae = VAE(Affine(a, 0.0, std), Affine(w, 0.0, math.sqrt(variance)), GaussianPrior(1).double())
        report = collapse_report(vae, f64([[-1.0], [1.0]]).repeat(100, 1), samples=4, generator=generator(0))
        silent = float(report.layers[0].silent)
        yield Evidence(f"layers that the report finds collapsed, {name}", float(kl == 0), silent, 0.0)


@collapse.drawn
def _collapse_plot() -> str:
    at = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]
    exact = [max(-math.log(2 * b) / 2, 0.0) for b in at]
    trained = [linear_vae(beta(b), 2.0)[3] for b in at]
    rows = {"1/2 log(v / (beta sigma^2))": exact, "trained": trained}
    return plots.curves(at, rows, title="nats of the KL against its weight, sigma^2 = 2 v", xlabel="beta")


def all_bits(odds: Tensor, samples: int) -> list[tuple[Tensor, Trace]]:
    """Every outcome of K bits a row, with its probability; log p(x|z) = -(z - row)^2 and p(z = 1) = 0.9."""
    found = []
    for bits in torch.cartesian_prod(*[f64([0.0, 1.0])] * (samples * len(odds))).view(-1, samples, len(odds)):
        log_q = F.logsigmoid((2 * bits - 1) * odds)
        kl = log_q - torch.where(bits == 1, math.log(0.9), math.log(0.1))
        log_px = -((bits - torch.arange(len(odds), dtype=F64)) ** 2)
        found.append((log_q.sum().exp(), Trace(log_px, (kl,), (log_q,), (False,), (False,))))
    return found


@law("free-bits/score-function")
def free_bits_scored(_: float) -> Claims:
    r"""The floor of free bits applies to a mean over the batch: the draws of one row move the bound of every row.

    $$\nabla E \sum_b F_b = E\big[\sum_b \nabla F_b + \sum_{k, b} (F - F_{-kb})\, \nabla\log q(z_{kb})\big]$$
    So the score is weighed by the sum over the batch, less what does not depend on the draw. With the row's own value
    instead the mean is off: the terms of the other rows change as this draw lifts the mean over the floor.
    Source: Kingma et al. (2016), equation 15; Mnih & Rezende (2016), equations 5 to 7.
    Assumes: F is the batch's sum, F_{-kb} the sum without the draw.
    """
    odds = f64([1.2, -0.4, 0.3]).requires_grad_()
    for samples, rows in ((1, 3), (2, 2)):
        for bound in (free_bits(0.4), beta(2.0, free_bits(0.1))):
            outcomes = all_bits(odds[:rows], samples)
            value = torch.stack([p * bound(trace).sum() for p, trace in outcomes]).sum()
            found = torch.stack([p.detach() * scored(bound)(trace).sum() for p, trace in outcomes]).sum()
            expected, got = (torch.autograd.grad(v, odds, retain_graph=True)[0] for v in (value, found))
            yield close(f"mean gradient, {samples} draws of {rows} rows", expected, got, 1e-12)
