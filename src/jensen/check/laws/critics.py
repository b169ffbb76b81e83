"""Critics of a restricted class, penalties that smooth them, image translation, dead units."""

from __future__ import annotations

import itertools
import math
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
from jensen.core.types import Loss
from jensen.metrics.units import never_positive
from jensen.models.cyclegan import CycleGAN
from jensen.nn.mlp import mlp
from jensen.objectives.cycle import CycleConsistent
from jensen.training import train_step


def _line(a: float, b: float, x: Tensor) -> Tensor:
    return a + b * x


@law("critic/restricted")
def restricted(_: float) -> Claims:
    r"""Only over all functions may the infimum enter the integral; lines detect less.

    $$\inf_{D \in \mathcal D} E\,l(yD) \ge \inf_D E\,l(yD) = -\tfrac12 I_f$$
    N(0, 1) and N(0, 3^2) differ in spread alone: by symmetry and convexity the best line is 0, at chance, although
    the best function gains. With the squared loss the best line has normal equations: for N(1, 1) and N(-1, 2^2) its
    slope is $b = E[yx]/E[x^2] = 1/(1 + 5/2)$ and its risk 1 - b, above $-\frac12 I_f$.
    Source: Nguyen, Wainwright & Jordan (2009), section 2; Arora et al. (2017), section 3.
    """
    spreads, means, at = (normal(0.0), normal(0.0, 3.0)), (normal(1.0), normal(-1.0, 2.0)), (-0.5, 0.0, 0.5)
    risks = [float(risk(logistic, partial(_line, a, b), *spreads)) for a in at for b in at]
    yield close("logistic, spreads 1 and 3: the best of nine lines", math.log(2), min(risks), 1e-8)
    least = float(bayes_risk(logistic, *spreads))
    yield bounded("logistic, spreads 1 and 3: the best function", least, math.log(2) - 0.15, relation="at most")
    best = 1 / (1 + 5 / 2)
    for name, b in (("the best line", best), ("a line below it", best - 0.01), ("a line above it", best + 0.01)):
        found = float(risk(squared, partial(_line, 0.0, b), *means))
        yield close(f"squared, {name}", 1 - best + (b - best) ** 2 * 3.5, found, 1e-8)
    least = float(bayes_risk(squared, *means))
    yield bounded("squared, the best function", least, 1 - best - 0.05, relation="at most")


@law("critic/lipschitz")
def normalised(_: float) -> Claims:
    r"""Spectral normalisation makes a critic 1-Lipschitz, clipping bounds every weight.

    $$\mathrm{Lip}(W_L \phi \cdots \phi W_1) \le \prod_k \sigma_{\max}(W_k)$$
    The largest singular value of each layer is 1 by the SVD, so the slope of the whole is at most 1.
    Source: Miyato et al. (2018), section 2.1; Arjovsky et al. (2017), algorithm 1.
    Assumes: activations of slope at most 1.
    """
    torch.manual_seed(0)
    net = mlp(4, 16, 16, 1, activation=nn.Tanh)
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    nn.init.normal_(layers[1].weight, std=3.0)
    x = torch.randn(200, 4)
    yield bounded("steepest slope before", (2 * r1(net, x)).sqrt().max(), 1.5, relation="at least")
    spectral_norm(net)
    for _step in range(100):
        power_iteration(net)
    for k, layer in enumerate(layers):
        yield close(f"largest singular value of layer {k}", 1.0, torch.linalg.svdvals(layer.weight.detach())[0], 1e-3)
    yield bounded("steepest slope after", (2 * r1(net, x)).sqrt().max(), 1.0, 1e-3, relation="at most")
    clipped = nn.Linear(3, 1)
    before = clipped.weight.detach().clone()
    clip_weights(clipped, 0.2)
    yield close("clipped weights", before.clamp(-0.2, 0.2), clipped.weight, 0.0)


@law("penalty/zero-centred")
def zero_centred(_: float) -> Claims:
    r"""R1 and R2 are half gamma times the squared slope, of each example for itself, at real and at generated ones.

    $$R_1 = \tfrac\gamma2 |\nabla D(x)|^2, \quad R_2 = \tfrac\gamma2 |\nabla D(G(z))|^2$$
    `jensen.check.penalty` on critics whose slope is known at every point.
    Source: Mescheder et al. (2018), equations 9 and 10.
    """
    yield from penalty(lambda c, x, _: r1(c, x, 3.0), lambda g: 1.5 * g**2, at="real").named("R1")
    yield from penalty(lambda c, _, y: r2(c, y, 3.0), lambda g: 1.5 * g**2, at="fake").named("R2")


@law("penalty/one-centred")
def one_centred(_: float) -> Claims:
    r"""Gradient penalties pull each example's slope to 1, between real and generated, or around the real ones.

    $$\lambda\,(|\nabla D(\hat x)| - 1)^2, \quad \hat x = \epsilon x + (1 - \epsilon)\,G(z)$$
    The norm is of one example's gradient over all its axes; of the whole batch it would grow with the batch.
    Source: Gulrajani et al. (2017), equation 3; Petzka et al. (2018), equation 8; Kodali et al. (2017), equation 1.
    """

    def two_sides(g: Tensor) -> Tensor:
        return 10 * (g - 1) ** 2

    one_side = partial(gradient_penalty, weight=5.0, sides=1)
    yield from penalty(gradient_penalty, two_sides, at="between").named("two sides")
    yield from penalty(one_side, lambda g: 5 * (g - 1).relu() ** 2, at="between").named("one side")
    yield from penalty(lambda c, x, _: dragan(c, x, 0.3), two_sides, at="anywhere").named("DRAGAN")
    x = torch.zeros(4000, 1, dtype=F64)
    paid = dragan(lambda v: v[:, 0] ** 2 / 2 + v[:, 0], x, 0.3, 10.0, generator=generator(2))
    near = 0.3 * randn(2, 4000, 1)[:, 0]
    yield close("DRAGAN: noise of the deviation asked for", two_sides((1 + near).abs()), paid, 1e-9)


class _Fixed(nn.Module):
    """A linear map without parameters, and one that it does not use, so that a player may own it."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.idle = nn.Parameter(torch.zeros((), dtype=matrix.dtype))
        self.matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T + 0 * self.idle


@law("cycle/bijection")
def cycle_consistency(_: float) -> Claims:
    r"""A bijection and its inverse have no cycle loss, whichever bijection it is; a map that is not injective has some.

    $$F(G(a)) = a \text{ and } G(F(b)) = b \iff F = G^{-1}$$
    The round trip is the identity, so both terms are 0. A rotation and its inverse are consistent, and so are a
    reflection and itself: consistency alone does not tell them apart. A projection loses a coordinate, and no map back
    restores it: the best loses its mean absolute deviation. The whole is game + 10 cycle + 5 identity.
    Source: Zhu et al. (2017), equations 2 and 3.
    """
    turn, flip, flat = f64([[0.6, -0.8], [0.8, 0.6]]), torch.diag(f64([1.0, -1.0])), torch.diag(f64([1.0, 0.0]))
    a, b = randn(0, 2, 6, 2)
    for name, to, back in (("a rotation", turn, turn.T), ("a reflection", flip, flip), ("a projection", flat, flat)):
        model = CycleGAN(_Fixed(to), _Fixed(back))
        game = CycleConsistent(model, _Fixed(turn[:1]), _Fixed(turn[1:]))
        loss = game(("translators",), {"a": a, "b": b}, 0)["translators"]
        cycle = (a @ to.T @ back.T - a).abs().mean() + (b @ back.T @ to.T - b).abs().mean()
        exact = cycle if name == "a projection" else torch.zeros_like(cycle)
        yield close(f"{name}: cycle loss", exact, loss.terms["cycle"], 1e-12)
        yield close(f"{name}: round trip from a", a @ to.T @ back.T, model.round_trip(a), 1e-12)
        yield close(f"{name}: round trip from b", b @ back.T @ to.T, model.round_trip(b, via="a"), 1e-12)
        same = (a @ back.T - a).abs().mean() + (b @ to.T - b).abs().mean()
        fooled = ((1 - b @ back.T @ turn[:1].T) ** 2).mean() + ((1 - a @ to.T @ turn[1:].T) ** 2).mean()
        yield close(f"{name}: game + 10 cycle + 5 identity", fooled + 10 * cycle + 5 * same, loss.total, 1e-9)
    lost = a[:, 1].abs().mean() / 2 + b[:, 1].abs().mean() / 2
    yield bounded("a projection: what is lost", cycle, lost, 1e-12, relation="at least")


class _Fit(Objective):
    """Squared error of a network with one hidden layer."""

    def __init__(self, activation: type[nn.Module]):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp(2, 5, 1, activation=activation).double()
        self.model = self.net
        nn.init.constant_(self.net[0].bias[:2], -50.0)  # type: ignore[index]  # below 0 wherever there is data

    def forward(self, players: tuple[str, ...], batch: dict[str, Tensor], step: int) -> dict[str, Loss]:  # type: ignore[override]
        return {"model": Loss.of((self.net(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean())}


@law("relu/dead-units")
def dead_units(_: float) -> Claims:
    r"""A ReLU unit that is positive for no input has no gradient and never changes; a leaky one does.

    $$\partial_w\, a\,\mathrm{relu}(w^\top x + b) = a\,1[w^\top x + b > 0]\,x$$
    The indicator is 0 at every x, so w, b and the outgoing weight a have gradient 0 at every step of plain descent.
    Source: Lu et al. (2020), section 1; Maas et al. (2013), section 2.
    """
    x = randn(0, 64, 2)
    for activation in (nn.ReLU, nn.LeakyReLU):
        name, game = activation.__name__, _Fit(activation)
        before = [p.detach().clone() for p in game.net.parameters()]
        counted = never_positive(game.net, partial(game.net, x))[0]
        yield close(f"{name}: units that are never positive", 2.0, float(counted.never), 0.0)
        yield close(f"{name}: of units", 5.0, float(counted.of), 0.0)
        state = started(game, 0.01)
        for _step in range(20):
            train_step(state, itertools.repeat({"x": x}))
        moved = [(p.detach() - q).abs() for p, q in zip(game.net.parameters(), before, strict=True)]
        dead, live = (torch.stack([moved[0][k].max(), moved[2][0, k].max()]) for k in (slice(2), slice(2, None)))
        dead = torch.cat([dead, moved[1][:2].max()[None]])
        if activation is nn.ReLU:
            yield close("ReLU: dead units have moved by", 0.0, dead, 0.0)
        else:
            yield bounded("LeakyReLU: such units have moved by", dead, 1e-6, relation="at least")
        yield bounded(f"{name}: others have moved by", live, 1e-3, relation="at least")
