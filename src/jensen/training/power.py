"""Power-function averages of the weights, and the reconstruction of other widths from stored ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_count, checked
from jensen.training.ema import misfit, recompute

NARROWEST = 1e-6
WIDEST = 12**-0.5  # the relative width of the plain mean, gamma = 0


@dataclass(frozen=True)
class Profile:
    r"""The weight $p(\tau) = (\gamma + 1)\, \tau^\gamma / t^{\gamma + 1}$ of time $\tau \in [0, t]$ in an average.

    Attributes:
        gamma: exponent, at least 0; 0 is the plain mean.
        t: the time of the average, in steps.

    Source: Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion models", section 3.1.

    >>> Profile(1.0, 4.0)(np.array([0.0, 2.0, 4.0, 5.0])).tolist()
    [0.0, 0.25, 0.5, 0.0]
    """

    gamma: float
    t: float

    def __post_init__(self) -> None:
        if not (0 <= self.gamma < math.inf and 0 < self.t < math.inf):
            raise ValueError(f"gamma must be at least 0, t positive, and both finite, got {self.gamma} and {self.t}")

    @classmethod
    def of(cls, width: float, t: float) -> Profile:
        """The profile of this relative width at time t."""
        return cls(exponent(width), t)

    def __call__(self, tau: np.ndarray) -> np.ndarray:
        inside = (tau >= 0) & (tau <= self.t)
        return np.where(inside, (self.gamma + 1) / self.t * (np.clip(tau, 0, self.t) / self.t) ** self.gamma, 0.0)

    def inner(self, other: Profile) -> float:
        r"""$\int p q\, d\tau = \frac{(\gamma_p + 1)(\gamma_q + 1)}{\gamma_p + \gamma_q + 1} \frac{r^\gamma}{t_>}$.

        with r the ratio of the earlier time to the later one, and $t_>$ and $\gamma$ those of the later profile.

        >>> Profile(1.0, 2.0).inner(Profile(1.0, 2.0))  # the integral of (tau / 2)^2 over [0, 2]
        0.6666666666666666
        """
        first, last = sorted((self, other), key=lambda p: p.t)
        scale = (self.gamma + 1) * (other.gamma + 1) / (self.gamma + other.gamma + 1)
        return float(scale * (first.t / last.t) ** last.gamma / last.t)


def relative_width(gamma: float) -> float:
    r"""$\sigma_{rel} = (\gamma + 1)^{1/2} (\gamma + 2)^{-1} (\gamma + 3)^{-1/2}$, the standard deviation over t.

    Source: Karras et al. (2024), appendix C.1.

    >>> round(relative_width(6.94), 4), round(relative_width(16.97), 4)
    (0.1, 0.05)
    """
    if not -1 < gamma < math.inf:
        raise ValueError(f"gamma must be above -1 and finite, got {gamma}")
    return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5))


def exponent(width: float) -> float:
    r"""The exponent of a relative width: the largest root of
    $\gamma^3 + 7 \gamma^2 + (16 - \sigma^{-2}) \gamma + 12 - \sigma^{-2}$.

    Raises:
        ValueError: unless 1e-6 <= width <= 1 / sqrt(12): from averages of a millionth of training to the plain mean.

    Source: Karras et al. (2024), appendix C.1.

    >>> round(exponent(0.1), 2), round(exponent(0.05), 2)
    (6.94, 16.97)
    """
    if not NARROWEST <= width <= WIDEST:
        raise ValueError(f"width must be from {NARROWEST:g} to {WIDEST:.4f}, got {width}")
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return max(0.0, float(roots.real[np.abs(roots.imag) < 1e-6 * np.abs(roots)].max()))


def power_decay(width: float) -> Callable[[int], float]:
    r"""$\beta(t) = (1 - 1/t)^{\gamma + 1}$ with t = step + 1: a decay whose average has the power profile.

    After t steps $w_k$ has weight $(k^{\gamma + 1} - (k - 1)^{\gamma + 1}) / t^{\gamma + 1}$, the exact integral of the
    profile from k - 1 to k.

    Source: Karras et al. (2024), section 3.1.

    >>> decay = power_decay(12**-0.5)  # the plain mean
    >>> decay(0), round(decay(1), 9), round(decay(9), 9)
    (0.0, 0.5, 0.9)
    """
    power = exponent(width) + 1
    return lambda step: float((step / (step + 1)) ** power)


def reconstruction(stored: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    r"""Coefficients x that minimise $\|\sum_i x_i p_i - p\|_2$ with $\sum_i x_i = 1$, and the minimum over $\|p\|_2$.

    By Cauchy-Schwarz, this relative error bounds that of any reconstructed average: for a path $w(\tau)$ that is
    constant within steps, and any constant c, the reconstruction differs from the average of w by at most
    $\|\sum_i x_i p_i - p\|_2\, \|w - c\|_2$.

    Args:
        stored: profiles of the stored averages, none later than `wanted`.
        wanted: the profile to approximate.

    Returns:
        coefficients (n,) in double precision, and the relative error.

    Raises:
        ValueError: if nothing is stored, or something later than `wanted`.

    Source: Karras et al. (2024), section 3.2; the constraint, which keeps constant weights constant, is added.

    >>> halves = [Profile.of(width, t) for t in (50, 100) for width in (0.05, 0.1)]
    >>> x, error = reconstruction(halves, Profile.of(0.1, 100))
    >>> x.round(decimals=6).abs().tolist(), error < 1e-6
    ([0.0, 0.0, 0.0, 1.0], True)
    """
    if not stored or max(p.t for p in stored) > wanted.t:
        raise ValueError(f"stored averages must be at least one and none after step {wanted.t:g}")
    n = len(stored)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = [[p.inner(q) for q in stored] for p in stored]
    system[:n, n] = system[n, :n] = 1.0 / wanted.t  # the multiplier of the constraint, on the scale of the products
    right = np.array([*(p.inner(wanted) for p in stored), 1.0 / wanted.t])
    x = np.linalg.lstsq(system, right, rcond=None)[0][:n]
    square = x @ system[:n, :n] @ x - 2 * x @ right[:n] + wanted.inner(wanted)
    return torch.from_numpy(x), float((max(square, 0.0) / wanted.inner(wanted)) ** 0.5)


@torch.no_grad()
@checked
def reconstruct(average: nn.Module, states: Iterable[dict[str, Tensor]], coefficients: Float[Tensor, " n"]) -> None:
    """Set a module to a linear combination of stored averages, read one at a time; buffers are those of the last.

    Args:
        average: changed in place; its structure is that of the averages.
        states: the `state_dict` of each stored average, in order of time.
        coefficients: (n,), as `reconstruction` returns them.

    Raises:
        TypeError: for coefficients that are no tensor.
        ValueError: unless there is a coefficient for each state, and the states have the module's structure.

    >>> model, states = nn.Linear(1, 1), [{"weight": torch.ones(1, 1) * k, "bias": torch.ones(1)} for k in (1, 3)]
    >>> reconstruct(model, states, torch.tensor([0.25, 0.75]))
    >>> model.weight.item(), model.bias.item()
    (2.5, 1.0)
    """
    if not isinstance(coefficients, Tensor):
        raise TypeError(f"coefficients must be a tensor (n,), got a {type(coefficients).__name__}")
    check_count(coefficients=len(coefficients))
    own = average.state_dict()
    names = [name for name, p in average.named_parameters() if p.is_floating_point() or p.is_complex()]
    sums: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for coefficient, following in zip_longest(coefficients.tolist(), states):
        if coefficient is None or following is None:
            raise ValueError(f"coefficients must be as many as states, got {len(coefficients)}")
        state = following
        if place := misfit(own, state):
            raise ValueError(f"states must have the structure of the module: {place}")
        for name in names:
            wide = state[name].to(torch.promote_types(state[name].dtype, torch.float64))
            sums[name] = coefficient * wide + sums.get(name, 0.0)
    average.load_state_dict({**state, **{name: value.to(state[name].dtype) for name, value in sums.items()}})
    for module in average.modules():
        recompute(module)
