"""Fitting q(z | x): by optimisation for each datum, by refining an encoder, or in a table over a data set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, overload, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.core.modes import evaluating
from jensen.core.seeding import drawing
from jensen.core.shapes import check_count, checked
from jensen.distributions.conditional import Conditional, DiagonalGaussian
from jensen.variational.ascent import Objective, ascend, climb, left_to_win, noise
from jensen.variational.bounds import elbo, sticking_the_landing
from jensen.variational.importance import MEMORY, bytes_made, check_data, fits
from jensen.variational.posterior import Posterior, as_layers, check_posterior, draw, latent_events, need_paths
from jensen.variational.trace import LatentModel, Layer

MOMENTS = 16  # draws from which the moments of a hierarchical encoder are estimated
NEAR = 0.05  # nats still to gain, up to which q counts as stationary


@runtime_checkable
class Inferring(LatentModel, Protocol):
    """A latent variable model that provides its encoder's draws and their distributions."""

    def infer(self, x: Tensor, *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]: ...


# A mean-field Gaussian is the tensors (means of every layer, log standard deviations of every layer), each (B, *event).


def gaussians(tensors: Sequence[Tensor]) -> Posterior:
    """Independent Gaussians, one per layer, from the means of all layers followed by the log standard deviations of all
    layers.
    """
    layers = len(tensors) // 2
    return tuple(
        Independent(Normal(mean, log_std.exp(), validate_args=False), mean.ndim - 1, validate_args=False)
        for mean, log_std in zip(tensors[:layers], tensors[layers:], strict=True)
    )


def moments(q: Posterior) -> list[Tensor]:
    """The means of all layers, then the log standard deviations of all layers."""
    return [layer.mean for layer in q] + [layer.stddev.log() for layer in q]


@dataclass(frozen=True)
class Fitted(Sequence[Distribution]):
    """One mean-field Gaussian per layer, as a sequence, and their estimated distance from the optimum.

    Attributes:
        layers: one distribution per layer, batch (B,).
        left: (B,) nats that a natural-gradient step would still gain, 0 where q is stationary: half the squared norm of
            the gradient in q's Fisher metric, from two independent sets of draws; noise may make it negative. Infinite
            where the bound is not finite.
    """

    layers: tuple[Distribution, ...]
    left: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Distribution: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Distribution, ...]: ...

    def __getitem__(self, index: int | slice) -> Distribution | tuple[Distribution, ...]:
        return self.layers[index]

    @property
    def stationary(self) -> Bool[Tensor, " b"]:
        """Where `left` is at most 0.05 nats in absolute value."""
        return self.left.abs() <= NEAR


@checked
def fit_posterior(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    *,
    steps: int = 500,
    rate: float = 1.0,
    samples: int = 128,
    start: str | Posterior = "prior",
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Fitted:
    r"""The best mean-field Gaussian q of each datum, $\arg\max_q \mathrm{ELBO}(q; x_b)$, for all data at once.

    L-BFGS on means and log standard deviations, with a diagonal preconditioner from q's Fisher information and the
    gradient, a line search per datum, and fixed draws whose first two moments are exact, so that the optimum of a
    Gaussian model is found to rounding. The data of a batch do not affect each other. The model is in evaluation mode.

    Args:
        model: model with reparameterized latents; it is not changed.
        x: data, (B, ...); processed in chunks.
        steps: maximum number of steps, at least 0; a datum stops earlier when it has converged.
        rate: size of the first step that a line search tries, relative to a full step, positive.
        samples: number of draws of each q, at least 1; rounded up to a multiple of twice the number of latents.
        start: "prior", "encoder" (semi-amortized inference), or a q of any family, whose moments are used.
        generator: random generator of all draws; None for torch's global one.
        memory: MiB for the tensors of one step of a chunk, counted as if none were freed; a chunk has at least one
            datum.

    Returns:
        one Gaussian per layer, batch (B,), and the nats that could still be gained. Warns if they exceed 0.05 for some
        data.

    Raises:
        ValueError: for steps or samples that are too small, a rate that is not positive, an unknown start, or latents
            without a gradient.

    Source: Hoffman et al. (2013), section 2, for the problem; Nocedal & Wright (2006), algorithms 3.1 and 7.4; Khan &
        Lin (2017), section 3, for the metric.

    >>> from jensen.core.seeding import generator
    >>> from jensen.variational import LinearGaussian
    >>> model, x = LinearGaussian([[1.0]], [0.0], 0.25), torch.tensor([[1.0]])
    >>> (q,) = fit_posterior(model, x, generator=generator(0))
    >>> q.mean, q.variance  # precision 1 + 1 / 0.25 = 5, mean 4 / 5
    (tensor([[0.8000]]), tensor([[0.2000]]))
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    check_count(samples=samples)
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    check_data(x)
    need_paths("fitting a posterior", model, x[:1])
    events = latent_events(model)
    if not isinstance(start, str):
        check_posterior(start, events, len(x))
    dims = sum(math.prod(event) for event in events)

    def begin(rows: slice) -> Tensor:
        tensors = _start(model, x[rows], start) if isinstance(start, str) else [v[rows] for v in moments(start)]
        return torch.cat([v.detach().reshape(len(v), -1) for v in tensors], 1)

    def joint(rows: slice) -> Objective:
        def log_joint(z: Tensor) -> Tensor:
            parts = as_layers(z, events)
            return model.log_px(x[rows], parts) + model.log_prior(parts)

        return log_joint

    with evaluating(model), drawing(generator):
        one = slice(0, 1)
        first = begin(one)
        eps, other, third = (noise(samples, dims, first) for _ in range(3))
        data = fits(memory * 2**20, bytes_made(lambda: climb(joint(one), first, eps), x))
        found, left = [], []
        for rows in (slice(i, i + data) for i in range(0, len(x), data)):
            at = ascend(joint(rows), begin(rows), eps, steps, rate)
            (value, slope), (another, again) = (climb(joint(rows), at, draws) for draws in (other, third))
            found.append(at)
            left.append(torch.where((value + another).isfinite(), left_to_win((slope, again), at), math.inf))
    means, log_stds = torch.cat(found)[None].chunk(2, dim=2)
    q = gaussians([v[0] for half in (means, log_stds) for v in as_layers(half, events)])
    fitted = Fitted(tuple(q), torch.cat(left).to(means.dtype))
    if steps:
        _warn(fitted)
    return fitted


@torch.no_grad()
def _start(model: LatentModel, x: Tensor, start: str) -> list[Tensor]:
    """Initial means and log standard deviations."""
    if start == "prior":
        draws = [z.flatten(0, 1) for z in model.prior_sample((256, 1))]
        found = [z.mean(0) for z in draws] + [z.std(0).log() for z in draws]
        return [v.expand(len(x), *v.shape) for v in found]
    if start == "encoder" and isinstance(model, Inferring):
        layers = model.infer(x, samples=MOMENTS)
        return [_mean(layer) for layer in layers] + [_log_std(layer) for layer in layers]
    raise ValueError(f"start must be 'prior', 'encoder' of a model that can infer, or a posterior, got {start!r}")


def _mean(layer: Layer) -> Tensor:
    """(B, *event): the mean of q, averaged over the draws it depends on."""
    return layer.q.mean if layer.q.mean.ndim < layer.z.ndim else layer.q.mean.mean(0)


def _log_std(layer: Layer) -> Tensor:
    """(B, *event): the log standard deviation of q, by the law of total variance over the draws q depends on."""
    if layer.q.mean.ndim < layer.z.ndim:
        return layer.q.stddev.log()
    return (layer.q.variance.mean(0) + layer.q.mean.var(0, correction=0)).log() / 2


def _warn(fitted: Fitted) -> None:
    """Warn if some data have not converged."""
    off = ~fitted.stationary
    if bool(off.any()):
        warnings.warn(
            f"the best q was not reached for {int(off.sum())} of {len(off)} data: one more step would gain up to "
            f"{float(fitted.left[off].abs().max()):.3g} nats; allow more steps or draws, or another start",
            stacklevel=3,
        )


@checked
def refine(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    q: Posterior,
    *,
    steps: int = 10,
    rate: float = 0.1,
    samples: int = 1,
    differentiable: bool = False,
    generator: torch.Generator | None = None,
) -> Posterior:
    r"""A few steps of plain gradient ascent from q; with an encoder's q it is semi-amortized inference.

    $\lambda \leftarrow \lambda + \eta \nabla_\lambda \mathrm{ELBO}(\lambda)$ on means and log standard deviations; the
    result is a mean-field Gaussian for every q. `fit_posterior` continues to the optimum, and with 0 steps it
    measures the distance from it. The model is in evaluation mode unless `differentiable`.

    Args:
        model: model with latents that carry a gradient; it is not changed.
        x: data, (B, ...).
        q: one distribution per layer, for instance `(model.encoder(x),)`.
        steps: number of steps, at least 0.
        rate: $\eta$, positive; diverges above 2 divided by the posterior's largest precision.
        samples: number of draws per step, at least 1.
        differentiable: keep the graph of all steps, so that the refined bound trains encoder and decoder.
        generator: random generator of all draws; None for torch's global one.

    Raises:
        ValueError: for steps or samples below their minimum, a rate that is not positive, or a q whose shapes do not
            match.

    Source: Kim et al. (2018), algorithm 1.

    >>> from jensen.core.seeding import generator
    >>> from jensen.variational import LinearGaussian
    >>> model, x = LinearGaussian([[1.0]], [0.0], 1.0), torch.zeros(1, 1)
    >>> far = (Independent(Normal(torch.ones(1, 1), torch.ones(1, 1)), 1),)
    >>> (near,) = refine(model, x, far, steps=50, samples=64, generator=generator(0))
    >>> bool(model.kl(near, x) < 0.01 * model.kl(far[0], x))
    True
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    check_count(samples=samples)
    check_posterior(q, latent_events(model), len(x))
    need_paths("refining a posterior", model, x[:1])
    tensors = moments(q)
    with nullcontext() if differentiable else evaluating(model), torch.enable_grad(), drawing(generator):
        for _ in range(steps):
            tensors = [v if differentiable and v.requires_grad else v.detach().requires_grad_() for v in tensors]
            bound = elbo(draw(model, x, gaussians(tensors), samples)).sum()
            slopes = torch.autograd.grad(bound, tensors, create_graph=differentiable)
            tensors = [v + rate * slope for v, slope in zip(tensors, slopes, strict=True)]
    return gaussians(tensors if differentiable else [v.detach() for v in tensors])


def posterior_table(data: int, latents: int) -> Conditional:
    """A table of Gaussians, one per datum, initialised near N(0, I): maps index (B,) to q, batch (B,), event (L,).

    Its gradients are sparse, so that a step updates only the rows of its batch; Adam with dense gradients would move
    all other rows too, by its running averages.

    Args:
        data: number of data N, at least 1.
        latents: number of latents L, at least 1.

    >>> posterior_table(100, 2)(torch.tensor([3, 7])).mean
    tensor([[0., 0.],
            [0., 0.]], grad_fn=<SplitBackward0>)
    """
    if data < 1 or latents < 1:
        raise ValueError(f"data and latents must be at least 1, got {data} and {latents}")
    net = nn.Embedding(data, 2 * latents, sparse=True)
    nn.init.zeros_(net.weight)
    return Conditional(net, DiagonalGaussian())


@checked
def stochastic_vi(
    model: LatentModel,
    x: Float[Tensor, "n ..."],
    tables: Sequence[nn.Module],
    *,
    steps: int = 1000,
    batch: int = 64,
    rate: float = 0.05,
    samples: int = 1,
    learn: Iterable[nn.Parameter] = (),
    generator: torch.Generator | None = None,
) -> Float[Tensor, " steps"]:
    r"""Stochastic variational inference: maximise $\sum_n \mathrm{ELBO}_n$ with batches of B of the N data.

    Each step's $\frac NB \sum_{b} \mathrm{ELBO}_b$ is an unbiased estimate of the sum. The table rows of the batch are
    updated by sparse Adam, the model parameters in `learn` by Adam; both learning rates decay to 0. Batches run through
    the data in random order, epoch after epoch. The nats that could still be gained at the end are
    `fit_posterior(model, x, steps=0, start=q).left` for the tables' q. To train a model within the usual trainer, see
    `jensen.objectives.Variational(tables=...)`.

    Args:
        model: model with latents that carry a gradient.
        x: the whole data set, (N, ...).
        tables: one table per layer, which maps an index (B,) to a distribution, as returned by `posterior_table`;
            updated in place.
        steps: number of steps, at least 1.
        batch: batch size B, between 1 and N.
        rate: initial learning rate, positive.
        samples: number of draws of each q per step, at least 1.
        learn: model parameters that are also trained; if none, the model is unchanged and in evaluation mode.
        generator: random generator of all draws; None for torch's global one.

    Returns:
        each step's estimate of the mean bound per datum, nats.

    Raises:
        ValueError: for numbers out of range, or a table whose gradients are dense.

    Source: Hoffman et al. (2013), section 2.3; Ranganath et al. (2014), section 5 for the doubly stochastic sum.
    """
    check_count(steps=steps)
    if not 1 <= batch <= len(x):
        raise ValueError(f"batch must be between 1 and {len(x)}, the number of data, got {batch}")
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    check_count(samples=samples)
    check_data(x)
    need_paths("stochastic inference", model, x[:1])
    for table in tables:
        _check_table(table, len(x))
    check_posterior(first_rows(tables), latent_events(model), 1)
    rows = [p for table in tables for p in table.parameters()]
    learned = list(learn)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(rows, lr=rate)]
    if learned:
        optimizers.append(torch.optim.Adam(learned, lr=rate))
    history = []
    with nullcontext() if learned else evaluating(model), drawing(generator):
        batches = _batches(len(x), batch, x.device)
        for step in range(steps):
            index = next(batches)
            q = tuple(table(index) for table in tables)
            trace = draw(model, x[index], q, samples)
            total = len(x) / batch * elbo(sticking_the_landing(trace)).sum()
            for optimizer in optimizers:
                optimizer.zero_grad()
                optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            (-total).backward(inputs=rows + learned)
            for optimizer in optimizers:
                optimizer.step()
            history.append(total.detach() / len(x))
    return torch.stack(history)


def first_rows(tables: Iterable[nn.Module]) -> Posterior:
    """The q of datum 0, batch (1,)."""
    return [table(next(table.parameters()).new_zeros(1, dtype=torch.long)) for table in tables]


def _check_table(table: nn.Module, data: int) -> None:
    owners = [m for m in table.modules() if next(m.parameters(recurse=False), None) is not None]
    if not owners or not all(isinstance(m, nn.Embedding) and m.sparse for m in owners):
        raise ValueError(
            "a table must be an embedding with sparse gradients: dense gradients move rows outside the batch"
        )
    if any(m.num_embeddings != data for m in owners):
        raise ValueError(f"a table must have a row for each datum, {data}, got {[m.num_embeddings for m in owners]}")


def _batches(n: int, batch: int, device: torch.device) -> Iterator[Tensor]:
    """An endless stream of full batches of shuffled indices; the rest of each epoch is dropped."""
    while True:
        yield from torch.randperm(n, device=device)[: n // batch * batch].split(batch)
