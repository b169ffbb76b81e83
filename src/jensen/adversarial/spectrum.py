r"""Stability of an equilibrium of a game, from the eigenvalues of its flow and of its training step.

Near an equilibrium w* the flow $w' = -v(w)$ has the matrix $A = -v'(w^*)$, and a training step has a matrix M. The flow
converges linearly if every eigenvalue of A has a negative real part, training if every eigenvalue of M has a modulus
below 1; a positive real part, or a modulus above 1, means divergence. An eigenvalue on the imaginary axis, or on the
unit circle, decides neither. Simultaneous steps of size h have $M = I + hA$, so they converge for $h < \min_\lambda
2|\mathrm{Re}\lambda|/|\lambda|^2$.

Source: Mescheder et al. (2017), proposition 3 and lemma 4; Mescheder et al. (2018), section 2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

from jensen.adversarial.dynamics import Rates, Rule, Step, rule
from jensen.adversarial.field import (
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

DENSE = 400  # number of weights up to which all eigenvalues are computed
EXACT, ROUGH = 1e-8, 1e-5  # distance that counts as on the axis or circle, relative to the matrix norm
CLOSE = ROUGH / 10  # relative accuracy of Arnoldi's eigenvalues
DISTURBED = 4  # perturbations of a matrix to see how far rounding moves the eigenvalues


@dataclass(frozen=True)
class Stability:
    """The result of linearising a game at given weights.

    Attributes:
        update: "flow", or how players are updated.
        step_size: step size of the players; None for the flow.
        eigenvalues: complex (k,), the decisive ones first: by real part for the flow, by modulus for a step.
        weights: the number of weights of the game plus the size of the update's memory.
        complete: whether these are all eigenvalues; if not, the leading ones that Arnoldi found.
        converged: whether Arnoldi found the requested number of decisive eigenvalues.
        confirmed: whether `step_size_below` also holds for the eigenvalues that Arnoldi did not find.
        speed: |v| here, 0 at an equilibrium. Away from one, the eigenvalues show whether neighbouring paths converge to
            each other.
        equilibrium: whether |v| is numerically 0: at most 1e-5 times the norm of the matrix applied to a random unit
            vector.
        tolerance: distance to the imaginary axis, or to the unit circle, within which the verdict is "undecided";
            larger if differences are less precise, and if rounding splits multiple eigenvalues.
        products: number of matrix-vector products.
    """

    update: str
    step_size: Rates | None
    eigenvalues: Tensor
    weights: int
    complete: bool
    converged: bool
    confirmed: bool
    speed: float
    equilibrium: bool
    tolerance: float
    products: int

    @property
    def leading(self) -> float:
        """The largest real part, or the largest modulus for a step; nan if none was found."""
        return _leading(self.eigenvalues, self.update == "flow")

    @property
    def verdict(self) -> str:
        """Either "converges linearly", "diverges" or "undecided", from the eigenvalues that were found.

        Away from an equilibrium it begins with "not an equilibrium", since nothing converges there.
        """
        return self.linearised if self.equilibrium else f"not an equilibrium; linearised: {self.linearised}"

    @property
    def linearised(self) -> str:
        """The verdict on the linearisation alone, at an equilibrium or not."""
        excess = self.leading - (0 if self.update == "flow" else 1)
        if excess > self.tolerance:
            return "diverges"
        return "converges linearly" if excess < -self.tolerance and self.converged else "undecided"

    @property
    def step_size_below(self) -> float | None:
        """Simultaneous steps converge below this step size; None if the flow does not converge or it was not confirmed.

        Away from an equilibrium, this refers to the linearisation.
        """
        if self.update != "flow" or self.linearised != "converges linearly" or not self.confirmed:
            return None
        return _step_limit(self.eigenvalues)

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
            "confirmed": self.confirmed,
            "speed": self.speed,
            "equilibrium": self.equilibrium,
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
    advance: Callable[[int], None] | None = None,
    seconds: float | None = None,
) -> Stability:
    r"""The decisive eigenvalues and the verdict, for the flow or the training of any game.

    The flow's derivatives come from autograd, those of a step of training from differences through `train_step` itself
    with plain gradient descent. For games of up to `dense` weights all eigenvalues are computed; for larger ones
    Arnoldi finds the eigenvalues of largest real part, imaginary part and modulus (for a step: of largest modulus), and
    then those that would diverge at the step size found. Everything is in double precision, on a copy, with a fixed
    batch and fixed random draws.

    Args:
        game: an objective, trained or not; not changed.
        batch: batch on which the losses are evaluated.
        update: None for the flow, or how players are updated.
        step_size: step size of all players, or a mapping from player to step size; None for the flow.
        at: (n,), the weights, player after player; by default those of the game.
        seed: random seed for the draws inside the losses and Arnoldi's start.
        step: training step passed to the losses, which may be annealed.
        top: number of eigenvalues of each kind that Arnoldi finds.
        products: approximate maximum number of Arnoldi's matrix-vector products. Each costs about three evaluations of
            all gradients for the flow, or four training steps for an update.
        dense: number of weights up to which all eigenvalues are computed; for one or two weights they always are.
        advance: called with 1 after every product, at most about `products` times, or once per weight for a small game.
        seconds: time after which Arnoldi stops with the eigenvalues found so far; no limit by default.

    Raises:
        ValueError: for an object that is not a game; a step size without an update, or the reverse; an unknown update;
            a step size for an unknown player; top, products or seconds that are not positive; a batch without an entry
            that the losses read; a field that is discontinuous or has a kink at these weights.

    >>> from jensen.adversarial import DiracGAN
    >>> found = stability(DiracGAN("wasserstein", r1=1.0))
    >>> found.verdict, round(found.step_size_below, 6)
    ('converges linearly', 1.0)
    """
    until = _until(top, products, seconds)
    if (update is None) != (step_size is None):
        raise ValueError("step_size must be given with an update and only then (the flow, update=None, has none)")
    phases, how = (None, None) if update is None else rule(game, update)
    frozen = Frozen(game, batch, at=at, seed=seed, step=step, phases=phases)
    start = frozen.weights
    speed = float(frozen.field(start).norm())
    frozen.put(start)
    once = None if how is None or step_size is None else Step(frozen, how, step_size)
    start, product, error = _linearised(frozen, once, seed)
    matrix = _Matrix(product, start, advance or (lambda _: None), until)
    small, flow = len(start) <= max(dense, 2), update is None  # Arnoldi needs at least three
    search = (top, products, seed)
    found, converged, tolerance = _all(matrix, flow, error) if small else _some(matrix, flow, error, *search)
    order = (found.real if flow else found.abs()).argsort(descending=True, stable=True)
    seen = Stability(
        update=_name(update),
        step_size=step_size,
        eigenvalues=found[order],
        weights=len(start),
        complete=small,
        converged=converged,
        confirmed=small,
        speed=speed,
        equilibrium=speed <= ROUGH * matrix.stretch,
        tolerance=tolerance,
        products=matrix.taken,
    )
    if small or not flow or seen.linearised != "converges linearly":
        return seen
    return _confirmed(seen, matrix, error, *search)


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
    r"""Eigenvalues of the Jacobian of the flow, $-v'(w)$, or of a training step; see `stability` for the arguments.

    Returns:
        (k,), complex, the largest first: by real part, or by modulus for a step.

    >>> from jensen.adversarial import DiracGAN
    >>> eigenvalues(DiracGAN(r1=0.6))  # -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2)
    tensor([-0.3000+0.4000j, -0.3000-0.4000j], dtype=torch.complex128)
    """
    found = stability(game, batch, update, step_size=step_size, at=at, seed=seed, step=step, top=top, dense=dense)
    return found.eigenvalues


def _until(top: int, products: int, seconds: float | None) -> float:
    """The time at which Arnoldi stops."""
    if top < 1 or products < 1:
        raise ValueError(f"top and products must be at least 1, got {top} and {products}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    return math.inf if seconds is None else time.monotonic() + seconds


def _name(update: Rule | None) -> str:
    if update is None:
        return "flow"
    if isinstance(update, tuple):
        return ", ".join(f"{phase.repeats} x {'+'.join(phase.players)}" for phase in update)
    return update if isinstance(update, str) else getattr(update, "__qualname__", type(update).__name__).split(".")[0]


def _linearised(game: Frozen, once: Step | None, seed: int) -> tuple[Tensor, Product, float]:
    """The weights of the game, the derivative of its flow or of one step there, and the error of that derivative."""
    if once is not None:
        size = difference_step(once, once.start, seed)
        return once.start, derivative(once, once.start, size), difference_error(once, once.start, size, seed)
    start = game.weights
    size = difference_step(game.field, start, seed)
    game.put(start)
    product, exact = field_product(game, size)
    return start, lambda v: -product(v), 0.0 if exact else difference_error(game.field, start, size, seed)


def _leading(values: Tensor, flow: bool) -> float:
    """The decisive value: the largest real part, or modulus; nan if there is none."""
    return float((values.real if flow else values.abs()).max()) if len(values) else math.nan


def _step_limit(values: Tensor) -> float:
    return float((2 * values.real.abs() / values.abs().square()).min())


class _OutOfTime(Exception):
    pass


class _Matrix:
    """A matrix given by its products with vectors, which are counted, within a time limit."""

    def __init__(self, product: Product, like: Tensor, advance: Callable[[int], None], until: float):
        self.product, self.like, self.advance, self.until = product, like, advance, until
        self.taken, self.stretch = 0, 0.0  # a lower bound on the norm: the largest |A v| / |v| seen
        self.spent = 0.0  # seconds

    def __call__(self, direction: Tensor) -> Tensor:
        begun = time.monotonic()
        found = self.product(direction)
        self.taken, self.spent = self.taken + 1, self.spent + time.monotonic() - begun
        self.advance(1)
        self.stretch = max(self.stretch, float(found.norm() / direction.norm()))
        return found

    def left(self, products: int) -> int:
        """How many of these products fit into the time left, at the pace so far."""
        if not self.taken or self.until == math.inf:
            return products - self.taken
        pace = max(self.spent / self.taken, 1e-9)
        return max(0, min(products - self.taken, int((self.until - time.monotonic()) / pace)))

    def whole(self) -> Tensor:
        eye = torch.eye(len(self.like), dtype=torch.float64, device=self.like.device)
        return torch.stack([self(e) for e in eye], 1)

    def largest(self, kind: str, top: int, products: int, seed: int, step: float | None = None) -> tuple[Tensor, bool]:
        """Eigenvalues of one kind by Arnoldi, of A or of I + step A; and whether all requested were found."""
        n = len(self.like)
        top = min(top, n - 2)
        basis = min(max(6 * top, 40), n)
        restarts = max(1, (products - basis) // (basis - top))

        def times(vector: Any) -> Any:
            if time.monotonic() > self.until:
                raise _OutOfTime
            v = torch.from_numpy(vector.reshape(-1).copy()).to(self.like)
            return (self(v) if step is None else v + step * self(v)).cpu().numpy()

        operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
        start = np.random.default_rng(seed).standard_normal(n)
        converged = True
        try:
            values = eigs(
                operator, top, which=kind, v0=start, ncv=basis, maxiter=restarts, tol=CLOSE, return_eigenvectors=False
            )
        except ArpackNoConvergence as short:
            values, converged = short.eigenvalues, False
        except ArpackError:
            if self.stretch:
                raise
            values = [0.0]  # ARPACK refuses a matrix of zeros
        except _OutOfTime:
            values, converged = [], False
        return torch.as_tensor(np.asarray(values), dtype=torch.complex128), converged


def _all(matrix: _Matrix, flow: bool, error: float) -> tuple[Tensor, bool, float]:
    """All eigenvalues, True (they include the decisive ones), and a tolerance.

    Rounding of size e moves an eigenvalue of multiplicity k by the k-th root of e: so the matrix is perturbed by its
    error, and the tolerance is how far this moves the decisive eigenvalue.
    """
    whole = matrix.whole().cpu()
    found, norm = torch.linalg.eigvals(whole), float(torch.linalg.matrix_norm(whole, 2))
    wrong, generator = max(error, 100 * torch.finfo(torch.float64).eps * norm), torch.Generator().manual_seed(0)
    noises = (torch.randn(whole.shape, dtype=torch.float64, generator=generator) for _ in range(DISTURBED))
    disturbed = (torch.linalg.eigvals(whole + wrong * noise) for noise in noises)
    moved = max(abs(_leading(values, flow) - _leading(found, flow)) for values in disturbed)
    return found, True, max(EXACT * norm, error, 2 * moved)


def _some(matrix: _Matrix, flow: bool, error: float, top: int, products: int, seed: int) -> tuple[Tensor, bool, float]:
    """Leading eigenvalues, whether Arnoldi found all the decisive ones, and a tolerance."""
    found, converged = torch.zeros(0, dtype=torch.complex128), False
    kinds = ["LM", "LI", "LR"] if flow else ["LM"]
    matrix(torch.ones_like(matrix.like))  # to measure its pace
    for k, kind in enumerate(kinds):
        share = matrix.left(products) // (len(kinds) - k)  # products that one kind does not use are left for the next
        values, converged = matrix.largest(kind, top, share, seed)
        found = _joined(found, values)
    return found, converged, max(ROUGH * matrix.stretch, error)


def _confirmed(seen: Stability, matrix: _Matrix, error: float, top: int, products: int, seed: int) -> Stability:
    """Add the eigenvalues that limit the step size h, if enough products are left: at that h all eigenvalues of I + hA
    must lie in the unit disc.
    """
    found, confirmed = seen.eigenvalues, False
    while len(found) and not confirmed and matrix.taken < products:
        h = _step_limit(found)
        values, converged = matrix.largest("LM", top, products - matrix.taken, seed, step=h)
        outside = (values[values.abs() > 1 + max(EXACT, h * error)] - 1) / h
        found, before = _joined(found, outside), len(found)
        confirmed = converged and len(found) == before
        if not confirmed and len(found) == before:
            break
    order = found.real.argsort(descending=True, stable=True)
    return replace(seen, eigenvalues=found[order], confirmed=confirmed, products=matrix.taken)


def _joined(found: Tensor, others: Tensor) -> Tensor:
    """The union of two sets of eigenvalues, without duplicates."""
    for value in others:
        if not any(_same(complex(value), complex(other)) for other in found):
            found = torch.cat([found, value[None]])
    return found


def _same(a: complex, b: complex) -> bool:
    """Whether two searches found the same eigenvalue."""
    return abs(a - b) <= ROUGH * max(abs(a), abs(b), 1e-12)
