"""Restricted critics, gradient penalties, cycle consistency, dead units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from jensen.adversarial import (
    bayes_risk,
    clip_weights,
    dragan,
    gradient_penalty,
    logistic,
    power_iteration,
    r1,
    r2,
    risk,
    spectral_norm,
    squared,
)
from jensen.check.evidence import Claims, bounded, close
from jensen.check.law import law
from jensen.check.laws.bilinear import started
from jensen.check.line import F64, f64, normal, randn
from jensen.check.penalties import penalty
from jensen.core.objective import Objective
from jensen.core.seeding import generator
from jensen.core.types import Batch, Loss
from jensen.metrics.units import never_positive
from jensen.models.cyclegan import CycleGAN
from jensen.nn.mlp import mlp
from jensen.objectives.cycle import CycleConsistent
from jensen.training import train_step


def _line(a: float, b: float, x: Tensor) -> Tensor:
    return a + b * x


@law("critic/restricted")
def restricted(_: float) -> Claims:
    r"""Restricting the critic to a class of functions, such as lines, can raise its minimal risk.

    $$\inf_{D \in \mathcal D} E\,l(yD) \ge \inf_D E\,l(yD) = -\tfrac12 I_f$$
    N(0, 1) and N(0, 3^2) differ only in scale: by symmetry and convexity the best line is 0, with the risk log 2 of
    guessing, and other functions have less. For the squared loss the best line is a least-squares fit: between N(1, 1)
    and N(-1, 2^2) its slope is $b = E[yx]/E[x^2] = 1/(1 + 5/2)$ and its risk 1 - b.
    Source: Nguyen, Wainwright & Jordan (2009), section 2; Arora et al. (2017), section 3.
    """
    scales, means, grid = (normal(0.0), normal(0.0, 3.0)), (normal(1.0), normal(-1.0, 2.0)), (-0.5, 0.0, 0.5)
    lowest = min(float(risk(logistic, partial(_line, a, b), *scales)) for a in grid for b in grid)
    yield close("logistic loss, scales 1 and 3: least risk of nine lines", math.log(2), lowest, 1e-8)
    best = 1 / (1 + 5 / 2)
    for name, b in (("the best line", best), ("a smaller slope", best - 0.01), ("a larger slope", best + 0.01)):
        found = float(risk(squared, partial(_line, 0.0, b), *means))
        yield close(f"squared loss: risk of {name}", 1 - best + (b - best) ** 2 * 3.5, found, 1e-8)
    for loss, pair, limit in ((logistic, scales, math.log(2) - 0.15), (squared, means, 1 - best - 0.05)):
        claim = f"{loss.name} loss: risk of the best function, below that of the best line"
        yield bounded(claim, float(bayes_risk(loss, *pair)), limit, relation="at most")


@law("critic/lipschitz")
def normalised(_: float) -> Claims:
    r"""Spectral normalisation makes a critic 1-Lipschitz, and clipping bounds every weight.

    $$\mathrm{Lip}(W_L \phi \cdots \phi W_1) \le \prod_k \sigma_{\max}(W_k)$$
    Each layer W_k is divided by its largest singular value, so every factor is 1.
    Source: Miyato et al. (2018), section 2.1; Arjovsky et al. (2017), algorithm 1.
    Assumes: activations phi whose slope is at most 1.
    """
    torch.manual_seed(0)
    net = mlp(4, 16, 16, 1, activation=nn.Tanh)
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    nn.init.normal_(layers[1].weight, std=3.0)
    x = torch.randn(200, 4)
    yield bounded("largest slope before normalisation", (2 * r1(net, x)).sqrt().max(), 1.5, relation="at least")
    spectral_norm(net)
    for _step in range(100):
        power_iteration(net)
    for k, layer in enumerate(layers):
        yield close(f"largest singular value of layer {k}", 1.0, torch.linalg.svdvals(layer.weight.detach())[0], 1e-3)
    yield bounded("largest slope after normalisation", (2 * r1(net, x)).sqrt().max(), 1.0, 1e-3, relation="at most")
    clipped = nn.Linear(3, 1)
    before = clipped.weight.detach().clone()
    clip_weights(clipped, 0.2)
    yield close("clipped weights", before.clamp(-0.2, 0.2), clipped.weight, 0.0)


@law("penalty/zero-centred")
def zero_centred(_: float) -> Claims:
    r"""R1 and R2 are gamma/2 times the squared norm of the critic's gradient at each real and each generated example.

    $$R_1 = \tfrac\gamma2 |\nabla D(x)|^2, \quad R_2 = \tfrac\gamma2 |\nabla D(G(z))|^2$$
    By `jensen.check.penalty`, on critics whose gradient is known at every point; gamma is 3.
    Source: Mescheder et al. (2018), equations 9 and 10.
    """
    yield from penalty(lambda c, x, _: r1(c, x, 3.0), lambda g: 1.5 * g**2, at="real").named("R1")
    yield from penalty(lambda c, _, y: r2(c, y, 3.0), lambda g: 1.5 * g**2, at="fake").named("R2")


@law("penalty/one-centred")
def one_centred(_: float) -> Claims:
    r"""WGAN-GP, WGAN-LP and DRAGAN move the norm of the critic's gradient towards 1, example by example.

    $$\lambda\,(|\nabla D(\hat x)| - 1)^2, \quad \hat x = \epsilon x + (1 - \epsilon)\,G(z)$$
    WGAN-LP penalises norms above 1 alone; DRAGAN takes $\hat x$ around real examples x. The norm is over the axes of
    one example; over the batch it would grow with the batch size.
    Source: Gulrajani et al. (2017), equation 3; Petzka et al. (2018), equation 8; Kodali et al. (2017), equation 1.
    """

    def two_sided(g: Tensor) -> Tensor:
        return 10 * (g - 1) ** 2

    one_sided = partial(gradient_penalty, weight=5.0, sides=1)
    yield from penalty(gradient_penalty, two_sided, at="between").named("WGAN-GP")
    yield from penalty(one_sided, lambda g: 5 * (g - 1).relu() ** 2, at="between").named("WGAN-LP")
    yield from penalty(lambda c, x, _: dragan(c, x, 0.3), two_sided, at="anywhere").named("DRAGAN")
    x = torch.zeros(4000, 1, dtype=F64)
    found = dragan(lambda v: v[:, 0] ** 2 / 2 + v[:, 0], x, 0.3, 10.0, generator=generator(2))
    exact = two_sided((1 + 0.3 * randn(2, 4000, 1)[:, 0]).abs())
    yield close("DRAGAN: value with noise of standard deviation 0.3", exact, found, 1e-9)


def _linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight.data = matrix
    return layer


@law("cycle/bijection")
def cycle_consistency(_: float) -> Claims:
    r"""The cycle loss of two translators is 0 exactly if they are inverse to each other.

    $$F(G(a)) = a \text{ and } G(F(b)) = b \iff F = G^{-1}$$
    A rotation with its inverse has no cycle loss, and neither has a reflection with itself: the cycle loss cannot tell
    them apart. A projection loses a coordinate, at least at the cost of its mean absolute deviation. The loss of the
    translators is adversarial + 10 cycle + 5 identity.
    Source: Zhu et al. (2017), equations 2 and 3.
    """
    turn, flip, flat = f64([[0.6, -0.8], [0.8, 0.6]]), torch.diag(f64([1.0, -1.0])), torch.diag(f64([1.0, 0.0]))
    a, b = randn(0, 2, 6, 2)
    for name, to, back in (("rotation", turn, turn.T), ("reflection", flip, flip), ("projection", flat, flat)):
        model = CycleGAN(_linear(to), _linear(back))
        game = CycleConsistent(model, _linear(turn[:1]), _linear(turn[1:]))
        loss = game(("translators",), {"a": a, "b": b}, 0)["translators"]
        via_b, via_a = a @ to.T @ back.T, b @ back.T @ to.T
        cycle = (via_b - a).abs().mean() + (via_a - b).abs().mean()
        yield close(f"{name}: cycle loss", cycle if to is flat else 0.0, loss.terms["cycle"], 1e-12)
        yield close(f"{name}: F(G(a))", via_b, model.round_trip(a), 1e-12)
        yield close(f"{name}: G(F(b))", via_a, model.round_trip(b, via="a"), 1e-12)
        identity = (a @ back.T - a).abs().mean() + (b @ to.T - b).abs().mean()
        adversarial = ((1 - b @ back.T @ turn[:1].T) ** 2).mean() + ((1 - a @ to.T @ turn[1:].T) ** 2).mean()
        total = adversarial + 10 * cycle + 5 * identity
        yield close(f"{name}: adversarial + 10 cycle + 5 identity", total, loss.total, 1e-9)
    lost = a[:, 1].abs().mean() / 2 + b[:, 1].abs().mean() / 2
    yield bounded("projection: cycle loss from the coordinate that it loses", cycle, lost, 1e-12, relation="at least")


class _Fit(Objective):
    """Squared error of a network whose first two of five hidden units are negative wherever there are data."""

    def __init__(self, activation: type[nn.Module]):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.out = nn.Linear(2, 5), nn.Linear(5, 1)
        nn.init.constant_(self.hidden.bias[:2], -50.0)
        self.model = nn.Sequential(self.hidden, activation(), self.out).double()

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        return {"model": Loss.of((self.model(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean())}

    def units(self) -> Tensor:
        """Incoming weights, bias and outgoing weight of each hidden unit, (5, 4)."""
        return torch.cat([self.hidden.weight, self.hidden.bias[:, None], self.out.weight.T], 1).detach().clone()


@law("relu/dead-units")
def dead_units(_: float) -> Claims:
    r"""A ReLU unit that is positive for no input gets no gradient and never changes; a leaky ReLU unit changes.

    $$\partial_w\, a\,\mathrm{relu}(w^\top x + b) = a\,1[w^\top x + b > 0]\,x$$
    The indicator is 0 at every x, so w, b and the outgoing weight a have gradient 0 at every step.
    Source: Lu et al. (2020), section 1; Maas et al. (2013), section 2.
    Assumes: gradient descent without weight decay.
    """
    x = randn(0, 64, 2)
    for activation in (nn.ReLU, nn.LeakyReLU):
        name, game = activation.__name__, _Fit(activation)
        before, counted = game.units(), never_positive(game.model, partial(game.model, x))[0]
        yield close(f"{name}: number of units that are never positive", 2.0, float(counted.never), 0.0)
        yield close(f"{name}: number of units", 5.0, float(counted.of), 0.0)
        state = started(game, 0.01)
        for _step in range(20):
            train_step(state, itertools.repeat({"x": x}))
        dead, live = (game.units() - before).abs().split([2, 3])
        if activation is nn.ReLU:
            yield close("ReLU: change of the dead units", 0.0, dead, 0.0)
        else:
            yield bounded("LeakyReLU: change of these units", dead.amax(0), 1e-6, relation="at least")
        yield bounded(f"{name}: change of the other units", live.amax(0), 1e-3, relation="at least")
