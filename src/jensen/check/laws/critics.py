"""Critics of a restricted class, penalties that smooth them, translators, units that are dead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Normal

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
from jensen.check.evidence import Evidence, bounded, close
from jensen.check.law import Law, law
from jensen.check.laws.bilinear import started
from jensen.check.laws.naming import named
from jensen.check.penalties import penalty
from jensen.core.objective import Objective
from jensen.core.types import Loss
from jensen.metrics.units import never_positive
from jensen.models.cyclegan import CycleGAN
from jensen.nn.mlp import mlp
from jensen.objectives.cycle import CycleConsistent
from jensen.training import train_step

F64 = torch.float64


@law(
    "critic/restricted",
    formula=r"\inf_{D \in \mathcal D} E\,l(yD) \ge \inf_D E\,l(yD) = -\tfrac12 I_f",
    source="Nguyen, Wainwright & Jordan (2009), section 2; Arora et al. (2017), section 3",
)
def restricted(_: float) -> Iterator[Evidence]:
    r"""Only over all functions may the infimum enter the integral; lines see less.

    N(0, 1) and N(0, 3^2) differ in spread alone: by symmetry and convexity the best line is 0, at chance, although
    the best function gains. With the squared loss the best line has normal equations: for N(1, 1) and N(-1, 2^2) its
    slope is $b = E[yx]/E[x^2] = 1/(1 + 5/2)$ and its risk 1 - b, above $-\frac12 I_f$.
    """
    p, q = (Normal(torch.tensor(0.0, dtype=F64), torch.tensor(s, dtype=F64)) for s in (1.0, 3.0))

    def line(a: float, b: float) -> Callable[[Tensor], Tensor]:
        return lambda x: a + b * x

    lines = [(a, b) for a in (-0.5, 0.0, 0.5) for b in (-0.5, 0.0, 0.5)]
    risks = torch.tensor([float(risk(logistic, line(a, b), p, q)) for a, b in lines])
    yield close("logistic, spreads 1 and 3: the best of nine lines", math.log(2), risks.min(), 1e-8)
    least = float(bayes_risk(logistic, p, q))
    yield bounded("logistic, spreads 1 and 3: the best function", least, math.log(2) - 0.15, relation="at most")
    p, q = (Normal(torch.tensor(m, dtype=F64), torch.tensor(s, dtype=F64)) for m, s in ((1.0, 1.0), (-1.0, 2.0)))
    b = 1 / (1 + 5 / 2)
    found = float(risk(squared, line(0, b), p, q))
    yield close("squared, the best line", 1 - b, found, 1e-8)
    for near in (b - 0.01, b + 0.01):
        close_by = float(risk(squared, line(0, near), p, q))
        yield close("squared, a line beside it", 1 - b + 0.01**2 * 3.5, close_by, 1e-8)
    yield bounded("squared, the best function", float(bayes_risk(squared, p, q)), found - 0.05, relation="at most")


@law(
    "critic/lipschitz",
    formula=r"\mathrm{Lip}(W_L \phi \cdots \phi W_1) \le \prod_k \sigma_{\max}(W_k)",
    source="Miyato et al. (2018), section 2.1; Arjovsky et al. (2017), algorithm 1",
    assumptions="activations of slope at most 1",
)
def normalised(_: float) -> Iterator[Evidence]:
    """Spectral normalisation makes a critic 1-Lipschitz, clipping bounds every weight.

    The largest singular value of each layer is 1 by the SVD, so the slope of the whole is at most 1.
    """
    torch.manual_seed(0)
    net = mlp(4, 16, 16, 1, activation=nn.Tanh)
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    nn.init.normal_(layers[1].weight, std=3.0)
    x = torch.randn(200, 4)
    yield bounded("steepest slope before", (2 * r1(net, x)).sqrt().max(), 1.5, relation="at least")
    spectral_norm(net)
    for _ in range(100):
        power_iteration(net)
    for k, layer in enumerate(layers):
        yield close(f"largest singular value of layer {k}", 1.0, torch.linalg.svdvals(layer.weight.detach())[0], 1e-3)
    yield bounded("steepest slope after", (2 * r1(net, x)).sqrt().max(), 1.0, 1e-3, relation="at most")
    clipped = nn.Linear(3, 1)
    before = clipped.weight.detach().clone()
    clip_weights(clipped, 0.2)
    yield close("clipped weights", before.clamp(-0.2, 0.2), clipped.weight, 0.0)


@law(
    "penalty/zero-centred",
    formula=r"R_1 = \tfrac\gamma2 |\nabla D(x)|^2, \quad R_2 = \tfrac\gamma2 |\nabla D(G(z))|^2",
    source="Mescheder et al. (2018), equations 9 and 10",
)
def zero_centred(_: float) -> Iterator[Evidence]:
    """R1 and R2 are half gamma times the squared slope, of each example for itself, at real and at generated ones."""
    for name, at, found in (
        ("R1", "real", lambda c, x, _: r1(c, x, 3.0)),
        ("R2", "fake", lambda c, _, y: r2(c, y, 3.0)),
    ):
        yield from named(name, penalty(found, lambda g: 1.5 * g**2, at=at))


@law(
    "penalty/one-centred",
    formula=r"\lambda\,(|\nabla D(\hat x)| - 1)^2, \quad \hat x = \epsilon x + (1 - \epsilon)\,G(z)",
    source="Gulrajani et al. (2017), equation 3; Petzka et al. (2018), equation 8; Kodali et al. (2017), equation 1",
)
def one_centred(_: float) -> Iterator[Evidence]:
    """Gradient penalties pull each example's slope to 1, between real and generated, or around the real ones.

    The norm is of one example's gradient over all its axes; of the whole batch it would grow with the batch.
    """
    cases = (
        ("two sides", "between", gradient_penalty, lambda g: 10 * (g - 1) ** 2),
        (
            "one side",
            "between",
            lambda c, x, y: gradient_penalty(c, x, y, 5.0, sides=1),
            lambda g: 5 * (g - 1).relu() ** 2,
        ),
        ("DRAGAN", "anywhere", lambda c, x, _: dragan(c, x, 0.3), lambda g: 10 * (g - 1) ** 2),
    )
    for name, at, found, of_norm in cases:
        yield from named(name, penalty(found, of_norm, at=at))
    x = torch.zeros(4000, 1, dtype=F64)
    rng, same = (torch.Generator().manual_seed(2) for _ in range(2))
    paid = dragan(lambda v: v[:, 0] ** 2 / 2 + v[:, 0], x, 0.3, 10.0, generator=rng)
    near = 0.3 * torch.randn(4000, 1, dtype=F64, generator=same)[:, 0]
    yield close("DRAGAN: noise of the deviation asked for", 10 * ((1 + near).abs() - 1) ** 2, paid, 1e-9)


# translators ----------------------------------------------------------------------------------------------


class _Fixed(nn.Module):
    """A map without parameters, and one that it does not use, so that somebody may own it."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.idle = nn.Parameter(torch.zeros((), dtype=matrix.dtype))
        self.matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T + 0 * self.idle


@law(
    "cycle/bijection",
    formula=r"F(G(a)) = a \text{ and } G(F(b)) = b \iff F = G^{-1}",
    source="Zhu et al. (2017), equations 2 and 3",
)
def cycle_consistency(_: float) -> Iterator[Evidence]:
    """A bijection and its inverse have no cycle loss, whichever bijection it is; a map that forgets has some.

    What comes back is what went, so both terms are 0. A turn and its inverse are consistent, and so are a reflection
    and itself: consistency alone does not say which. A projection loses a coordinate, and no way back restores it:
    the best loses its mean absolute deviation. The whole is game + 10 cycle + 5 identity.
    """
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=F64))
    flat = torch.diag(torch.tensor([1.0, 0.0], dtype=F64))
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 2, dtype=F64, generator=rng)
    for name, there, back in (("a turn", turn, turn.T), ("a reflection", flip, flip), ("a projection", flat, flat)):
        model = CycleGAN(_Fixed(there), _Fixed(back))
        game = CycleConsistent(model, _Fixed(turn[:1]), _Fixed(turn[1:]))
        loss = game(("translators",), {"a": a, "b": b}, 0)["translators"]
        cycle = (a @ there.T @ back.T - a).abs().mean() + (b @ back.T @ there.T - b).abs().mean()
        exact = cycle if name == "a projection" else torch.zeros_like(cycle)
        yield close(f"{name}: cycle loss", exact, loss.terms["cycle"], 1e-12)
        yield close(f"{name}: there and back", a @ there.T @ back.T, model.round_trip(a), 1e-12)
        yield close(f"{name}: the other way round", b @ back.T @ there.T, model.round_trip(b, via="a"), 1e-12)
        same = (a @ back.T - a).abs().mean() + (b @ there.T - b).abs().mean()
        fooled = ((1 - b @ back.T @ turn[:1].T) ** 2).mean() + ((1 - a @ there.T @ turn[1:].T) ** 2).mean()
        yield close(f"{name}: game + 10 cycle + 5 identity", fooled + 10 * cycle + 5 * same, loss.total, 1e-9)
    lost = a[:, 1].abs().mean() / 2 + b[:, 1].abs().mean() / 2
    yield bounded("a projection: what is lost", cycle, lost, 1e-12, relation="at least")


# units that are dead --------------------------------------------------------------------------------------


class _Fit(Objective):
    """Squares of a network of one hidden layer."""

    def __init__(self, activation: type[nn.Module]):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp(2, 5, 1, activation=activation).double()
        self.model = self.net
        nn.init.constant_(self.net[0].bias[:2], -50.0)  # type: ignore[index]  # below 0 wherever there is data

    def forward(self, players: tuple[str, ...], batch: dict[str, Tensor], step: int) -> dict[str, Loss]:  # type: ignore[override]
        return {"model": Loss.of((self.net(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean())}


@law(
    "relu/dead-units",
    formula=r"\partial_w\, a\,\mathrm{relu}(w^\top x + b) = a\,1[w^\top x + b > 0]\,x",
    source="Lu et al. (2020), section 1; Maas et al. (2013), section 2",
)
def dead_units(_: float) -> Iterator[Evidence]:
    """A ReLU unit that is positive for no input has no gradient, and stays as it is for ever; a leaky one moves.

    The indicator is 0 at every x, so w, b and the outgoing weight a have gradient 0 at every step of plain descent.
    """
    x = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for activation, dead in ((nn.ReLU, 2), (nn.LeakyReLU, 2)):
        game = _Fit(activation)
        network = game.net
        before = [p.detach().clone() for p in network.parameters()]
        counted = never_positive(network, partial(network, x))[0]
        yield close(f"{activation.__name__}: units that are never positive", dead, float(counted.never), 0.0)
        yield close(f"{activation.__name__}: of units", 5.0, float(counted.of), 0.0)
        state = started(game, 0.01)
        for _step in range(20):
            train_step(state, itertools.repeat({"x": x}))
        moved = [(p.detach() - q).abs() for p, q in zip(network.parameters(), before, strict=True)]
        dead_moves = torch.stack([moved[0][:2].max(), moved[1][:2].max(), moved[2][0, :2].max()])
        live = torch.stack([moved[0][2:].max(), moved[2][0, 2:].max()])
        if activation is nn.ReLU:
            yield close("ReLU: dead units have moved by", 0.0, dead_moves, 0.0)
        else:
            yield bounded("LeakyReLU: such units have moved by", dead_moves, 1e-6, relation="at least")
        yield bounded(f"{activation.__name__}: others have moved by", live, 1e-3, relation="at least")


LAWS: tuple[Law, ...] = (restricted, normalised, zero_centred, one_centred, cycle_consistency, dead_units)
