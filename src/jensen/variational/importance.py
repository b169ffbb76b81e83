"""Log p(x) by importance sampling, batched over data and samples, in chunks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jensen.core.modes import evaluating
from jensen.core.seeding import drawing
from jensen.core.shapes import check_count, check_finite, checked, single
from jensen.core.types import Likelihood, Measure
from jensen.variational.bounds import log_weights
from jensen.variational.pareto import pareto_k, pareto_limit, tail_length
from jensen.variational.posterior import Posterior, check_posterior, draw, latent_events
from jensen.variational.trace import LatentModel, Unamortized

Proposal = str | Callable[[Tensor], Posterior]

MEMORY = 64.0  # MiB
ENCODED = 64  # least samples per chunk of several data, so that encoding takes little of the time


@dataclass(frozen=True)
class Estimate(Likelihood):
    r"""Log p(x) as the logarithm of a mean of weights.

    Attributes:
        stderr: (B,) standard error of the logarithm: the relative standard error of the mean weight (delta method). It
            is infinite where it cannot be trusted: where the tail of the weights is too heavy, k above $\min(1 -
            1/\log_{10} K, 0.7)$, or, if k is unknown, with at most $\sqrt K$ effective samples.
        ess: (B,) effective sample size $(\sum w)^2 / \sum w^2$, between 1 and K.
        pareto_k: (B,) shape k of the weights' tail (`jensen.variational.pareto`): $-\infty$ for equal weights, nan
            where it cannot be estimated.
    """

    ess: Float[Tensor, " b"] = field(kw_only=True)
    pareto_k: Float[Tensor, " b"] = field(kw_only=True)

    @classmethod
    def joined(cls, pieces: Sequence[Estimate], like: Tensor) -> Estimate:
        """Concatenate estimates, in the float dtype of the data, at least single precision."""
        columns = zip(*((p.value, p.stderr, p.ess, p.pareto_k) for p in pieces), strict=True)
        value, stderr, ess, k = (torch.cat(column).to(precision(like)) for column in columns)
        return cls(value, "estimate", pieces[0].measure, stderr, ess=ess, pareto_k=k)


@dataclass(frozen=True)
class LogMean:
    r"""$\log \frac1K \sum_k w_k$ and its error for weights that arrive in chunks; chunks add up exactly to rounding.

    Attributes:
        count: K so far.
        log_sum: (B,) float64 $\log \sum w$.
        log_squares: (B,) float64 $\log \sum w^2$.
        largest: (m, B) float64, the largest $\log w$ in descending order.
        keep: number m of largest weights to keep; None for all.

    Source: Owen (2013), chapter 9: equation 9.13 for the effective samples, section 2.7 for the delta method.

    >>> chunks = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
    >>> estimate = (LogMean.of(chunks[0].log()) + LogMean.of(chunks[1].log())).estimate("density")
    >>> round(estimate.value.exp().item(), 4), round(estimate.ess.item(), 4)  # 6 / 3 and 6^2 / (1 + 4 + 9)
    (2.0, 2.5714)
    """

    count: int
    log_sum: Float[Tensor, " b"]
    log_squares: Float[Tensor, " b"]
    largest: Float[Tensor, "m b"]
    keep: int | None = None

    @classmethod
    def of(cls, log_w: Float[Tensor, "k b"], keep: int | None = None) -> LogMean:
        log_w = log_w.double()
        return cls(len(log_w), log_w.logsumexp(0), (2 * log_w).logsumexp(0), _largest(log_w, keep), keep)

    def __add__(self, other: LogMean) -> LogMean:
        return LogMean(
            self.count + other.count,
            torch.logaddexp(self.log_sum, other.log_sum),
            torch.logaddexp(self.log_squares, other.log_squares),
            _largest(torch.cat([self.largest, other.largest]), self.keep),
            self.keep,
        )

    def estimate(self, measure: Measure) -> Estimate:
        """The estimate from the weights so far, float64."""
        ess = torch.where(self.log_sum.isinf(), 0.0, (2 * self.log_sum - self.log_squares).exp())
        scatter = (self.count / ess - 1).clamp_min(0)  # the weights' squared coefficient of variation
        k = pareto_k(self.largest, self.count)
        doubted = torch.where(k.isnan(), ess <= self.count**0.5, k > pareto_limit(self.count))
        stderr = torch.where(doubted, math.inf, (scatter / (self.count - 1 or 1)).sqrt())
        value = self.log_sum - math.log(self.count)
        return Estimate(value, "estimate", measure, stderr, ess=ess, pareto_k=k)


def _largest(log_w: Tensor, keep: int | None) -> Tensor:
    """The largest entries of each column in descending order."""
    return log_w.topk(min(keep or len(log_w), len(log_w)), dim=0).values


def precision(x: Tensor) -> torch.dtype:
    """The dtype of likelihoods of x: the float dtype of x, at least single precision.

    >>> precision(torch.ones(1, dtype=torch.bfloat16)), precision(torch.ones(1, dtype=torch.long))
    (torch.float32, torch.float32)
    """
    return single(x).dtype if x.is_floating_point() else torch.get_default_dtype()


@torch.no_grad()
@checked
def log_likelihood(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    samples: int = 5000,
    proposal: Proposal = "encoder",
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Estimate:
    r"""Log p(x) per datum by importance sampling, in nats.

    $\log \frac1K \sum_k p(x, z_k) / q(z_k|x)$ with $z_k \sim q(z|x)$ for a proposal q: the encoder's, for which
    K = 5000 is customary; the prior (plain Monte Carlo, whose weights p(x|z) vary enormously beyond a few dimensions);
    or any other. The estimate of p(x) is unbiased; that of log p(x) is too low by about half its squared error. A
    proposal that misses the posterior gives weights with a heavy tail, and an infinite standard error. The model is in
    evaluation mode.

    Draws are made chunk by chunk with one generator: the same generator and memory give the same numbers, a different
    memory gives different draws from the same distribution. Chunks are combined exactly, to float64 rounding.

    Args:
        model: any latent variable model.
        x: data, (B, ...).
        samples: number of draws K, at least 1.
        proposal: "encoder", "prior", or a function from x to one distribution per layer, called once with two data, to
            measure their memory, then once per chunk of data. For a model without an encoder, "encoder" means `fitted`.
        generator: random generator of all draws; None for torch's global one.
        memory: MiB for the tensors of one chunk, counted as if none were freed: an upper bound on their peak, unless
            one sample of one datum takes more.

    Returns:
        value, standard error, effective sample size and the Pareto k of the weights, per datum.

    Raises:
        ValueError: for fewer than 1 sample, no data, an unknown proposal, or a proposal whose batch or event shape does
            not match.

    Source: Burda et al. (2016), equation 8 at large K; Rezende et al. (2014), appendix E; Vehtari et al. (2024) for k.

    >>> from jensen.core.seeding import generator
    >>> from jensen.variational import LinearGaussian
    >>> model, x = LinearGaussian([[1.0]], [0.0], 1.0), torch.tensor([[0.0], [2.0]])
    >>> estimate = log_likelihood(model, x, samples=1000, proposal="prior", generator=generator(0))
    >>> bool(((estimate.value - model.log_prob(x)).abs() < 3 * estimate.stderr).all())
    True
    """
    check_count(samples=samples)
    of = partial(LogMean.of, keep=tail_length(samples) + 1)
    with evaluating(model, proposal):
        means = fold_weights(of, lambda rows: weighing(model, x[rows], proposal), x, samples, generator, memory)
    return Estimate.joined([mean.estimate(model.measure) for mean in means], like=x)


T = TypeVar("T")  # a type with addition
R = TypeVar("R")


Weigh = Callable[[int], Tensor]
"""Maps K to the log weights (K, B) of K draws for each datum."""


def fold_weights(
    of: Callable[[Tensor], T],
    weighing: Callable[[slice], Weigh],
    x: Tensor,
    samples: int,
    generator: torch.Generator | None,
    memory: float,
) -> list[T]:
    """The sum of `of(log_w)` over chunks (k, b) of the samples, for each chunk of the data.

    Args:
        of: maps log weights to the statistic that is summed.
        weighing: maps rows of the data to a function that draws for them and returns log weights.
        x: the data.
        samples, generator, memory: as in `log_likelihood`.
    """
    check_count(samples=samples)
    check_data(x)
    datum, sample = _cost(weighing, x)
    data, together = _shape(memory * 2**20, datum, sample, len(x), samples)
    totals = []
    for start in range(0, len(x), data):
        with drawing(generator):
            weigh = weighing(slice(start, start + data))
            totals.append(reduce(add, (of(weigh(k)) for k in parts(samples, together))))
    return totals


def check_data(x: Tensor) -> None:
    """Raise unless x has a row, and all its numbers are finite."""
    if len(x) < 1:
        raise ValueError(f"x must have at least 1 row, got shape {tuple(x.shape)}")
    check_finite(x=x)


def _cost(weighing: Callable[[slice], Weigh], x: Tensor) -> tuple[int | float, int | float]:
    """Bytes per datum, independent of its samples, and bytes per sample of a datum."""
    trial = min(len(x), 2)  # with one datum, or one sample, some copies are views
    weigh = _elsewhere(x, lambda: weighing(slice(0, trial)))
    two, three = (bytes_made(partial(weigh, k), x) / trial for k in (2, 3))
    return max(3 * two - 2 * three, 0), max(three - two, 1)


def _shape(memory: float, datum: int | float, sample: int | float, data: int, samples: int) -> tuple[int, int]:
    """The number of data b and of samples k in a chunk, which takes at most b (datum + k sample) bytes.

    Both are at least 1, even if that exceeds the memory.
    """
    together = min(samples, ENCODED, max(int((memory - datum) // sample), 1))
    data = min(data, fits(memory, datum + together * sample))
    return data, min(samples, max(int((memory / data - datum) // sample), 1))


def weighing(model: LatentModel, x: Tensor, proposal: Proposal) -> Weigh:
    """The function that draws from the proposal and returns log p(x, z) / q(z|x)."""
    if proposal == "encoder" and isinstance(model, Unamortized):
        proposal = model.fitted
    if proposal == "encoder":
        return lambda k: log_weights(model.trace(x, samples=k, reparameterized=False))
    if proposal == "prior":
        return lambda k: model.log_px(x, model.prior_sample((k, len(x))))
    if not callable(proposal):
        raise ValueError(f"proposal must be 'encoder', 'prior' or a function of x, got {proposal!r}")
    q = proposal(x)
    check_posterior(q, latent_events(model), len(x))
    return lambda k: log_weights(draw(model, x, q, k, reparameterized=False))


def parts(total: int, size: int) -> Iterator[int]:
    """Split `total` into pieces of at most `size`.

    >>> list(parts(7, 3))
    [3, 3, 1]
    """
    yield from (min(size, total - start) for start in range(0, total, size))


def fits(memory: float, size: int | float) -> int:
    """The number of times that `size` fits into the memory, at least 1."""
    return max(int(memory // size), 1)


class _Counting(TorchDispatchMode):
    """Context manager that sums the bytes of all tensors created inside; views and in-place results are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: int = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {_address(v) for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        made = {_address(v): v for v in tree_leaves(out) if isinstance(v, Tensor)}
        self.bytes += sum(v.untyped_storage().nbytes() for place, v in made.items() if place not in known)
        return out


def _address(x: Tensor) -> int:
    return int(x.untyped_storage().data_ptr())


def bytes_made(work: Callable[[], object], x: Tensor) -> int:
    """Bytes of all tensors that `work` creates, as if none were freed; it does not use the caller's generator."""
    with _Counting() as counting:
        _elsewhere(x, work)
    made: int = counting.bytes
    return made


def _elsewhere(x: Tensor, work: Callable[[], R]) -> R:
    """The result of `work` with a separate generator on the device of x."""
    with drawing(torch.Generator(x.device)):
        return work()
