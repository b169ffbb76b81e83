r"""The Dirac-GAN: the smallest adversarial game, with closed forms for the effect of every stabilisation.

Data are $p_d = \delta_0$, the generator is $p_g = \delta_\theta$, the critic $D(x) = \psi x$, and

$$L(\theta, \psi) = E f(D(G)) + E f(-D(x)), \qquad f(t) = -l(-t),$$

which the generator descends and the critic ascends, so D > 0 means real. Texts that write $f(t) = -\log(1 + e^{-t})$
describe the same game with the critic's sign flipped. The only equilibrium is (0, 0); everything below depends on f
only through $f'(0)$ and $f''(0)$: -1/2 and -1/4 for the logistic loss, -1 and 0 for Wasserstein.

Source: Mescheder, Geiger & Nowozin (2018), sections 2 and 3, and appendix D.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from jensen.adversarial.margin import MarginLoss, logistic
from jensen.adversarial.penalties import clip_weights, gradient_penalty, r1, r2
from jensen.adversarial.quadrature import breaks, normal_mean
from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, Phase

Pair = tuple[complex, complex]


class Atom(nn.Module):
    """A generator of a single point, theta."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self) -> Tensor:
        """The parameter theta, ()."""
        return self.theta


class Slope(nn.Module):
    """The critic D(x) = psi x."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """D(x), with the shape of x."""
        return self.psi * x


class DiracGAN(Objective):
    r"""A point that learns to be 0, in double precision; players "generator" (theta) and "critic" (psi).

    Both start at the equilibrium 0. Noise $N(0, \sigma^2)$ on both sides enters as an expectation, by quadrature
    between the kinks of f, so nothing is random. Penalties are the library's, at theta and 0; since the critic's slope
    is psi everywhere, R1 and R2 are $\frac\gamma2\psi^2$ and the gradient penalty $\lambda(|\psi| - 1)^2$.

    Args:
        f: a margin loss l, for $f(t) = -l(-t)$; "wasserstein", for f(t) = -t, which is l(m) = -m; or f itself,
            elementwise.
        instance_noise: standard deviation sigma, at least 0.
        r1, r2: gamma of each penalty, at least 0; 0: no penalty.
        gradient_penalty: lambda of WGAN-GP, at least 0; 0: no penalty.
        clip: bound to which |psi| is clipped after each of the critic's updates.
        phases: order of the updates; by default both players simultaneously.

    Raises:
        ValueError: for a loss without a gradient, an unknown name, a negative number, or a clip that is not positive.

    Source: Mescheder et al. (2018), definition 2.1.

    >>> from jensen.adversarial import eigenvalues
    >>> eigenvalues(DiracGAN(instance_noise=1.0))  # logistic
    tensor([-0.2500+0.4330j, -0.2500-0.4330j], dtype=torch.complex128)
    """

    model: Atom

    def __init__(
        self,
        f: MarginLoss | str | Callable[[Tensor], Tensor] = logistic,
        *,
        instance_noise: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float = 0.0,
        clip: float | None = None,
        phases: tuple[Phase, ...] = (Phase(("generator", "critic")),),
    ):
        super().__init__()
        weights = {"instance_noise": instance_noise, "r1": r1, "r2": r2, "gradient_penalty": gradient_penalty}
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        self.f = _payoff(f)
        self.model, self.critic = Atom(), Slope()
        self.penalties, self.clip, self.phases = weights, clip, phases
        self.register_buffer("kinks", breaks(self.f) if instance_noise else torch.zeros(0, dtype=torch.float64))
        self.kinks: Tensor

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"generator": [self.model.theta], "critic": [self.critic.psi]}

    def value(self) -> Tensor:
        """L(theta, psi), ()."""
        fake = self.model()
        return self.expected(self.critic(fake)) + self.expected(-self.critic(0 * fake))

    def expected(self, t: Tensor) -> Tensor:
        r"""$E f(t + \psi\sigma n)$ over the noise, (), for a critic's value t, ()."""
        sigma = self.penalties["instance_noise"]
        return normal_mean(self.f, t, sigma * self.critic.psi, self.kinks) if sigma else self.f(t)

    def penalty(self) -> Tensor:
        """The critic's penalties, ()."""
        fake, weights = self.model()[None], self.penalties
        real = 0 * fake
        each = torch.zeros_like(real)
        if weights["r1"]:
            each = each + r1(self.critic, real, weights["r1"])
        if weights["r2"]:
            each = each + r2(self.critic, fake, weights["r2"])
        if weights["gradient_penalty"]:
            each = each + gradient_penalty(self.critic, real, fake, weights["gradient_penalty"])
        return each.sum()

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        value = self.value()
        losses = {"generator": lambda: value, "critic": lambda: self.penalty() - value}
        return {player: Loss.of(losses[player]()) for player in players}

    def after(self, player: str, loss: Loss, step: int) -> None:
        if player == "critic" and self.clip is not None:
            clip_weights(self.critic, self.clip)


def _payoff(f: MarginLoss | str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """-l(-t), for a margin loss l."""
    if isinstance(f, MarginLoss):
        if not f.trainable:
            raise ValueError(f"f must have a gradient, and the {f.name} loss has none")
        loss = f
        return lambda t: -loss(-t)
    if f == "wasserstein":
        return torch.neg
    if not callable(f):
        raise ValueError(f"f must be a margin loss, 'wasserstein' or a function, got {f!r}")
    return f


# closed forms at the equilibrium, by slope = f'(0) and curvature = f''(0) ---------------------------------


def flow_eigenvalues(slope: float, curvature: float = 0.0, *, instance_noise: float = 0.0, gamma: float = 0.0) -> Pair:
    r"""$c \pm \sqrt{c^2 - f'(0)^2}$, with $c = f''(0)\sigma^2 - \gamma/2$.

    Args:
        slope, curvature: f'(0) and f''(0).
        instance_noise: standard deviation sigma.
        gamma: weight of R1, of R2, or their sum.

    Source: Mescheder et al. (2018), lemmas 2.2, 3.2 and section 3.1.

    >>> flow_eigenvalues(-0.5)
    (0.5j, -0.5j)
    """
    c = curvature * instance_noise**2 - gamma / 2
    root = cmath.sqrt(c**2 - slope**2)
    return c + root, c - root


def simultaneous_eigenvalues(flow: Pair, h: float) -> Pair:
    r"""$1 + h\lambda$: outside the unit circle for every step size if $\lambda$ is imaginary."""
    return 1 + h * flow[0], 1 + h * flow[1]


def alternating_eigenvalues(slope: float, h: float, *, moves: tuple[int, int] = (1, 1)) -> Pair:
    r"""$1 - \alpha^2/2 \pm \sqrt{(1 - \alpha^2/2)^2 - 1}$, with $\alpha^2 = n_g n_d h^2 f'(0)^2$.

    On the unit circle for $\alpha < 2$; above, one of them is outside.

    Args:
        slope: f'(0).
        h: step size of both players.
        moves: (n_g, n_d), the number of updates of each player per step.

    Source: Mescheder et al. (2018), lemma 2.4.

    >>> abs(alternating_eigenvalues(-1.0, 1.9)[0])
    1.0
    """
    c = 1 - moves[0] * moves[1] * (h * slope) ** 2 / 2
    root = cmath.sqrt(c**2 - 1)
    return c + root, c - root


def extragradient_eigenvalues(flow: Pair, h: float) -> Pair:
    r"""$1 + h\lambda + (h\lambda)^2$: for $\lambda = \pm ib$, inside the unit circle if hb < 1."""
    a, b = flow
    return 1 + h * a + (h * a) ** 2, 1 + h * b + (h * b) ** 2


def optimistic_eigenvalues(flow: Pair, h: float) -> tuple[complex, complex, complex, complex]:
    r"""$\tfrac12(1 + 2h\lambda \pm \sqrt{1 + 4h^2\lambda^2})$: for $\pm ib$, inside if $hb < 1/\sqrt3$.

    Two for each eigenvalue of the flow, since the step depends on the last gradient.
    """
    a, b = (h * value for value in flow)
    roots = cmath.sqrt(1 + 4 * a**2), cmath.sqrt(1 + 4 * b**2)
    return (
        (1 + 2 * a + roots[0]) / 2,
        (1 + 2 * a - roots[0]) / 2,
        (1 + 2 * b + roots[1]) / 2,
        (1 + 2 * b - roots[1]) / 2,
    )


def consensus_eigenvalues(slope: float, h: float, gamma: float) -> Pair:
    r"""$1 - h\gamma f'(0)^2 \pm i h f'(0)$: at (0, 0) the regulariser $\frac\gamma2|v|^2$ has the Hessian
    $\gamma f'(0)^2 I$.
    """
    real, imaginary = 1 - h * gamma * slope**2, h * abs(slope)
    return complex(real, imaginary), complex(real, -imaginary)


def penalty_step_limit(slope: float, gamma: float) -> float:
    r"""Simultaneous steps with R1 or R2 converge below $\gamma/f'(0)^2$, if $\gamma \le 2|f'(0)|$.

    A larger gamma makes the eigenvalues real and the limit smaller, $2/(\gamma/2 + \sqrt{\gamma^2/4 - f'(0)^2})$.

    >>> penalty_step_limit(-0.5, 0.5), round(penalty_step_limit(-0.5, 2.0), 6)
    (2.0, 1.071797)
    """
    if gamma <= 2 * abs(slope):
        return gamma / slope**2
    return 2 / (gamma / 2 + math.sqrt(gamma**2 / 4 - slope**2))


def consensus_step_limit(slope: float, gamma: float) -> float:
    r"""Consensus converges for $h < 2\gamma / (1 + \gamma^2 f'(0)^2)$; with the logistic f, $1 + \gamma^2/4$.

    >>> consensus_step_limit(-0.5, 2.0)
    2.0
    """
    return 2 * gamma / (1 + (gamma * slope) ** 2)
