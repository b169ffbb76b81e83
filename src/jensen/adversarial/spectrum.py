r"""Is an equilibrium of a game stable? Eigenvalues of its flow and of its training step, and what they say.

Near an equilibrium w* the flow $w' = -v(w)$ is $A = -v'(w^*)$, and a step of training a matrix M. The flow converges
linearly if every eigenvalue of A has a negative real part, the training if every one of M has a modulus below 1; one
of the other kind means that it diverges. Eigenvalues on the axis, or on the circle, prove nothing. Simultaneous steps
of size h have $M = I + hA$, so they converge for $h < \min_\lambda 2|\mathrm{Re}\lambda|/|\lambda|^2$.

Source: Mescheder et al. (2017), proposition 3 and lemma 4; Mescheder et al. (2018), section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

from jensen.adversarial.dynamics import Rates, Rule, Step, rule
from jensen.adversarial.field import (
    NEAR,
    Frozen,
    Point,
    Product,
    derivative,
    difference_error,
    difference_step,
    field_product,
)
from jensen.core.objective import Objective
from jensen.core.types import Batch

DENSE = 400  # weights up to which all eigenvalues are found
EXACT, ROUGH = 1e-8, 1e-5  # what counts as on the axis or on the circle, relative to the largest modulus


@dataclass(frozen=True)
class Stability:
    """What the linearisation of a game says, at the weights it was taken at.

    Attributes:
        update: "flow", or how players move.
        step_size: of the players; None for the flow.
        eigenvalues: complex (k,); those that decide first: by real part for the flow, by modulus for a step.
        weights: how many the game has, and the update remembers.
        complete: whether these are all eigenvalues; if not, the leading ones that Arnoldi found.
        converged: whether Arnoldi found those that decide, as many as it was asked for.
        speed: |v| here: at an equilibrium 0. Elsewhere the eigenvalues say whether neighbouring paths draw together.
        tolerance: how near to the axis, or to the circle, proves nothing; more where differences are less precise.
        products: matrix-vector products taken.
    """

    update: str
    step_size: Rates | None
    eigenvalues: Tensor
    weights: int
    complete: bool
    converged: bool
    speed: float
    tolerance: float
    products: int

    @property
    def leading(self) -> float:
        """The largest real part, or for a step the largest modulus; not a number if none was found."""
        if not len(self.eigenvalues):
            return math.nan
        return float((self.eigenvalues.real if self.update == "flow" else self.eigenvalues.abs()).max())

    @property
    def verdict(self) -> str:
        """One of "converges linearly", "diverges", "undecided"; without all eigenvalues, as far as Arnoldi saw."""
        excess = self.leading - (0 if self.update == "flow" else 1)
        if excess > self.tolerance:
            return "diverges"
        return "converges linearly" if excess < -self.tolerance and self.converged else "undecided"

    @property
    def step_size_below(self) -> float | None:
        """Below this, simultaneous steps converge, by the eigenvalues found; None where the flow does not."""
        if self.update != "flow" or self.verdict != "converges linearly":
            return None
        return float((2 * self.eigenvalues.real.abs() / self.eigenvalues.abs().square()).min())

    def as_dict(self) -> dict[str, Any]:
        """Plain values; an eigenvalue is [real, imaginary]."""
        return {
            "update": self.update,
            "step_size": dict(self.step_size) if isinstance(self.step_size, dict) else self.step_size,
            "verdict": self.verdict,
            "leading": self.leading if len(self.eigenvalues) else None,
            "step_size_below": self.step_size_below,
            "eigenvalues": [[value.real, value.imag] for value in self.eigenvalues.tolist()],
            "weights": self.weights,
            "complete": self.complete,
            "converged": self.converged,
            "speed": self.speed,
            "tolerance": self.tolerance,
            "products": self.products,
        }


def stability(
    game: Objective,
    batch: Batch | None = None,
    update: Rule | None = None,
    *,
    step_size: Rates | None = None,
    at: Point | None = None,
    seed: int = 0,
    step: int = 0,
    top: int = 6,
    products: int = 400,
    dense: int = DENSE,
) -> Stability:
    r"""The eigenvalues that decide, and the verdict, of the flow or of the training of any game.

    The flow's derivatives come from autograd, those of a step of training from differences through `train_step`
    itself with plain gradient descent. Games of up to `dense` weights are solved completely; of larger ones Arnoldi
    finds the eigenvalues of largest real part, imaginary part and modulus (of a step: of largest modulus). All in
    double precision, on a copy, with the batch and every random draw held still.

    Args:
        game: any, trained or not; left as it is.
        batch: what the losses are of.
        update: None for the flow, or how players move.
        step_size: of all players or of each by name; the flow has none.
        at: (n,), the weights, player after player; the game's own by default.
        seed: of the draws inside the losses, and of Arnoldi's start.
        step: what the game is told, for whatever is annealed.
        top: how many eigenvalues of each kind Arnoldi finds.
        products: about how many matrix-vector products Arnoldi may take in all. One costs about three evaluations of
            all gradients for the flow, four steps of training for an update.
        dense: up to how many weights all eigenvalues are found; those of one or two always are.

    Raises:
        ValueError: for what is no game; a step size without an update, or the reverse; an unknown update; a step size
            for nobody; top or products below 1; a batch without what the losses read; a small game whose field jumps
            at these weights.

    >>> from jensen.adversarial import DiracGAN
    >>> found = stability(DiracGAN("wasserstein", r1=1.0))
    >>> found.verdict, round(found.step_size_below, 6)
    ('converges linearly', 1.0)
    """
    if top < 1 or products < 1:
        raise ValueError(f"top and products must be at least 1, got {top} and {products}")
    if (update is None) != (step_size is None):
        raise ValueError("an update needs a step_size, and the flow (update=None) has none")
    phases, how = (None, None) if update is None else rule(game, update)
    frozen = Frozen(game, batch, at=at, seed=seed, step=step, phases=phases)
    start = frozen.weights
    speed = float(frozen.field(start).norm())
    frozen.put(start)
    once = None if how is None or step_size is None else Step(frozen, how, step_size)
    start, function = (start, frozen.field) if once is None else (once.start, once)
    complete = len(start) <= max(dense, 2)  # Arnoldi needs three
    size = difference_step(function, start, seed) if complete else NEAR
    matrix: Product
    if once is None:
        frozen.put(start)
        product, exact = field_product(frozen, size)
        matrix, kinds = partial(_negative, product), ["LM", "LI", "LR"]
    else:
        exact, kinds = False, ["LM"]
        matrix = derivative(once, start, size)
    if complete:
        columns = [matrix(e) for e in torch.eye(len(start), dtype=torch.float64, device=start.device)]
        found, taken, converged = torch.linalg.eigvals(torch.stack(columns, 1)).cpu(), len(start), True
    else:
        found, taken, converged = _arnoldi(matrix, start, kinds, top, products, seed)
    order = (found.real if update is None else found.abs()).argsort(descending=True, stable=True)
    scale = float(found.abs().max()) if len(found) else 1.0
    error = 0.0 if exact else difference_error(function, start, size, seed)
    return Stability(
        update=_name(update),
        step_size=step_size,
        eigenvalues=found[order],
        weights=len(start),
        complete=complete,
        converged=converged,
        speed=speed,
        tolerance=max((EXACT if complete else ROUGH) * scale, error),
        products=taken,
    )


def eigenvalues(
    game: Objective,
    update: Rule | None = None,
    *,
    step_size: Rates | None = None,
    batch: Batch | None = None,
    at: Point | None = None,
    seed: int = 0,
    step: int = 0,
    top: int = 6,
    dense: int = DENSE,
) -> Tensor:
    r"""Of the flow's Jacobian $-v'(w)$, or of a training step's, complex; see `stability` for the arguments.

    Returns:
        (k,): by real part, the largest first; of a step by modulus.

    >>> from jensen.adversarial import DiracGAN
    >>> eigenvalues(DiracGAN(r1=0.6))  # -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2)
    tensor([-0.3000+0.4000j, -0.3000-0.4000j], dtype=torch.complex128)
    """
    found = stability(game, batch, update, step_size=step_size, at=at, seed=seed, step=step, top=top, dense=dense)
    return found.eigenvalues


def _negative(product: Product, direction: Tensor) -> Tensor:
    return -product(direction)


def _name(update: Rule | None) -> str:
    if update is None:
        return "flow"
    if isinstance(update, tuple):
        return ", ".join(f"{phase.repeats} x {'+'.join(phase.players)}" for phase in update)
    return update if isinstance(update, str) else getattr(update, "__qualname__", type(update).__name__).split(".")[0]


def _arnoldi(
    matrix: Product, like: Tensor, kinds: list[str], top: int, products: int, seed: int
) -> tuple[Tensor, int, bool]:
    """Leading eigenvalues without the matrix, products that took, and whether all of the last kind were found."""
    n, taken, converged = len(like), 0, True
    top = min(top, n - 2)
    basis = min(max(6 * top, 40), n)

    def times(vector: Any) -> Any:
        nonlocal taken
        taken += 1
        return matrix(torch.from_numpy(vector.reshape(-1).copy()).to(like)).cpu().numpy()

    operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(n)
    found: list[complex] = []
    for k, kind in enumerate(kinds):
        share = (products - taken) // (len(kinds) - k)  # what one kind spares, the next may use
        restarts = max(1, (share - basis) // (basis - top))
        try:
            values = eigs(operator, top, which=kind, v0=start, ncv=basis, maxiter=restarts, return_eigenvectors=False)
        except ArpackNoConvergence as short:
            values, converged = short.eigenvalues, kind != kinds[-1]
        found += [value for value in values.tolist() if not any(_same(value, other) for other in found)]
    return torch.tensor(found, dtype=torch.complex128), taken, converged


def _same(a: complex, b: complex) -> bool:
    """Whether two searches found one eigenvalue."""
    return abs(a - b) <= ROUGH * max(abs(a), abs(b), 1e-12)
