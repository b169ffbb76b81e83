"""Compare estimators of one gradient: bias, variance, cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from jensen.core.seeding import drawing
from jensen.core.shapes import check_count
from jensen.estimators.baselines import leave_one_out
from jensen.estimators.exact import Function, exact_gradient, is_discrete, slopes
from jensen.estimators.expectation import Estimator, Pathwise, Relaxed, ScoreFunction, expectation


@dataclass(frozen=True)
class Row:
    """Measurements of one estimator.

    Attributes:
        estimator: name of the estimator.
        mean: (D,) mean gradient.
        stderr: (D,) standard error of that mean.
        bias: (D,) mean minus the reference, in standard errors of the difference.
        variance: variance of one gradient, summed over its D components.
        seconds: time per draw, including the gradient.
        evaluations: number of evaluations of f per gradient.
    """

    estimator: str
    mean: Float[Tensor, " d"]
    stderr: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    variance: float
    seconds: float
    evaluations: int


@dataclass(frozen=True)
class Comparison:
    """One row per estimator; prints as a table.

    Attributes:
        rows: one per estimator, in their order.
        reference: origin of the gradient against which the bias is measured.
        exact: (D,) the reference gradient.
    """

    rows: tuple[Row, ...]
    reference: str
    exact: Float[Tensor, " d"]

    def __getitem__(self, estimator: str) -> Row:
        return {row.estimator: row for row in self.rows}[estimator]

    def __str__(self) -> str:
        head = ("estimator", "gradient", "bias / s.e.", "variance", "us / draw", "f / gradient")
        cells = [
            (
                row.estimator,
                _short(row.mean),
                f"{float(row.bias[row.bias.abs().argmax()]):+.1f}",
                f"{row.variance:.4g}",
                f"{1e6 * row.seconds:.3g}",
                str(row.evaluations),
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in (head, *cells)
        ]
        return "\n".join([*lines, f"bias is measured against {self.reference}: {_short(self.exact)}"])


def compare_estimators(
    q: Callable[..., Distribution],
    f: Function,
    parameters: Tensor | Sequence[Tensor],
    estimators: Mapping[str, Estimator] | None = None,
    *,
    exact: Tensor | Sequence[Tensor] | None = None,
    samples: int = 4,
    repeats: int = 10_000,
    chunk: int = 10_000,
    generator: torch.Generator | None = None,
) -> Comparison:
    """Measure estimators of the gradient of E_q[f] with respect to q's parameters, for your own q and f.

    All repeats of a chunk form one batch: the parameters get a leading axis of R repeats, and f receives draws
    (K, R, *batch, *event), each of which it must treat independently. If q itself has batch axes, the gradient is that
    of the sum over the batch.

    Args:
        q: maps the parameters, with any leading axes, to a distribution.
        f: maps draws to values, one per draw.
        parameters: one tensor or several.
        estimators: estimators by name; by default all that apply: the score function also with the mean of pilot draws
            as constant baseline and with leave-one-out, discrete variables also relaxed at temperature 0.5.
        exact: the exact gradient, with the shape of the parameters. By default it is computed by enumeration of up to
            16,384 outcomes, or by quadrature in one dimension; otherwise the reference is the estimator of smallest
            variance among those that are unbiased for this q, score functions first, since they assume nothing about f.
        samples: K, draws per gradient, at least 1 (2 for the default estimators).
        repeats: number of independent gradients per estimator, at least 2.
        chunk: repeats computed at a time, at least 1, which bounds the memory.
        generator: None for torch's global one.

    Returns:
        A `Comparison`. With D components, the largest bias exceeds 3 standard errors by chance in about 0.3% x D of
        tables.

    Raises:
        ValueError: if samples, repeats or chunk are too small, q loses the axis of repeats, the exact gradient has
            another size, or there is neither an exact gradient nor an unbiased estimator.

    >>> q = lambda mean: torch.distributions.Normal(mean, 1.0)
    >>> g = torch.Generator().manual_seed(0)
    >>> table = compare_estimators(q, lambda z: z**2, torch.tensor(1.0), exact=torch.tensor(2.0), generator=g)
    >>> table["pathwise"].variance < table["score function, leave-one-out"].variance < table["score function"].variance
    True
    """
    check_count(samples=samples)
    if repeats < 2 or chunk < 1:
        raise ValueError(f"repeats must be at least 2 and chunk at least 1, got {repeats} and {chunk}")
    parameters = [p.detach() for p in ([parameters] if isinstance(parameters, Tensor) else parameters)]
    if estimators is None:
        estimators = _applicable(q(*parameters), f, generator)

    def measure(estimator: Estimator) -> _Moments:
        _gradients(q, f, parameters, estimator, samples, 2, generator)  # the first call is slow
        moments = _Moments()
        for start in range(0, repeats, chunk):
            began = time.perf_counter()
            g = _gradients(q, f, parameters, estimator, samples, min(chunk, repeats - start), generator)
            moments.add(g, time.perf_counter() - began)
        return moments

    measured = {name: measure(estimator) for name, estimator in estimators.items()}
    label, truth, doubt = (
        _given(exact, parameters) if exact is not None else _reference(q, f, parameters, estimators, measured)
    )
    rounding = torch.finfo(parameters[0].dtype).eps * truth.abs()
    rows = []
    for name, m in measured.items():
        spread = torch.sqrt(m.stderr**2 + doubt**2 + rounding**2).clamp(min=torch.finfo(torch.float64).tiny)
        bias = (m.mean - truth) / spread
        rows.append(Row(name, m.mean, m.stderr, bias, m.variance, m.seconds / (repeats * samples), samples))
    return Comparison(tuple(rows), label, truth)


class _Moments:
    """Running mean and sum of squared deviations of gradients, in double precision.

    Source: Chan et al. (1983), equation 2.1.
    """

    def __init__(self) -> None:
        self.n, self.seconds = 0, 0.0
        self.mean = self.squares = torch.zeros(())

    def add(self, gradients: Float[Tensor, "n d"], seconds: float) -> None:
        g = gradients.double()
        n, mean = len(g), g.mean(0)
        total, gap = self.n + n, mean - self.mean
        self.squares = self.squares + ((g - mean) ** 2).sum(0) + gap**2 * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n, self.seconds = total, self.seconds + seconds

    @property
    def stderr(self) -> Tensor:
        return torch.sqrt(self.squares / (self.n - 1) / self.n)

    @property
    def variance(self) -> float:
        return float(self.squares.sum() / (self.n - 1))


def _gradients(
    q: Callable[..., Distribution],
    f: Function,
    parameters: Sequence[Tensor],
    estimator: Estimator,
    samples: int,
    n: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "n d"]:
    """One gradient for each of n copies of the parameters, all in one backward pass."""
    copies = [p.expand(n, *p.shape).clone().requires_grad_() for p in parameters]
    distribution = q(*copies)
    if distribution.batch_shape[:1] != (n,):
        raise ValueError(
            f"q must keep the leading axis of repeats, batch shape ({n}, ...), got {tuple(distribution.batch_shape)}"
        )
    value = expectation(distribution, f, estimator, samples, generator=generator)
    gradients = slopes(value, copies)
    if value.is_cuda:
        torch.cuda.synchronize(value.device)
    return torch.cat([g.reshape(n, -1) for g in gradients], dim=1)


def _given(exact: Tensor | Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[str, Tensor, Tensor]:
    size = sum(p.numel() for p in parameters)
    given = torch.cat([e.flatten() for e in ([exact] if isinstance(exact, Tensor) else exact)]).double()
    if given.numel() != size:
        raise ValueError(f"the exact gradient must have {size} components, got {given.numel()}")
    return "the exact gradient", given, torch.zeros_like(given)


def _reference(
    q: Callable[..., Distribution],
    f: Function,
    parameters: Sequence[Tensor],
    estimators: Mapping[str, Estimator],
    measured: Mapping[str, _Moments],
) -> tuple[str, Tensor, Tensor]:
    """The reference: its name, the gradient (D,), and that gradient's standard or quadrature error."""
    leaves = [p.clone().requires_grad_() for p in parameters]
    distribution = q(*leaves)
    found = exact_gradient(distribution, f, leaves)
    if found is not None:
        how, *both = found
        truth, doubt = (torch.cat([v.flatten() for v in values]) for values in both)
        return f"the exact gradient, by {how}", truth, doubt
    unbiased = [name for name in measured if estimators[name].unbiased(distribution)]
    if not unbiased:
        raise ValueError("bias must be measured against an exact gradient or an unbiased estimator, got neither")
    best = min(unbiased, key=lambda name: (not isinstance(estimators[name], ScoreFunction), measured[name].variance))
    return f"{best!r}, unbiased for this q", measured[best].mean, measured[best].stderr


def _applicable(q: Distribution, f: Function, generator: torch.Generator | None) -> dict[str, Estimator]:
    """The estimators that apply to q; the constant baseline is the mean of 1,000 draws."""
    with drawing(generator), torch.no_grad():
        pilot = float(f(q.sample(torch.Size((1000,)))).mean())
    path = "straight-through, by q itself" if is_discrete(q) else "pathwise"
    found: dict[str, Estimator] = {path: Pathwise()} if q.has_rsample else {}
    found["score function"] = ScoreFunction()
    found["score function, constant baseline"] = ScoreFunction(pilot)
    found["score function, leave-one-out"] = ScoreFunction(leave_one_out)
    base: Distribution = q
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, OneHotCategorical | Bernoulli):
        found["relaxed, tau = 0.5"] = Relaxed(0.5)
        found["straight-through, tau = 0.5"] = Relaxed(0.5, hard=True)
    return found


def _short(values: Tensor) -> str:
    """Up to three components of a gradient, and their number."""
    shown = ", ".join(f"{v:.4g}" for v in values[:3].tolist())
    return f"[{shown}]" if len(values) <= 3 else f"[{shown}, ... {len(values)}]"
