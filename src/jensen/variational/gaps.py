"""The inference gap log p(x) - ELBO, split into approximation and amortization gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.core.modes import evaluating
from jensen.core.shapes import check_count, checked
from jensen.core.types import Likelihood
from jensen.variational.bounds import log_weights
from jensen.variational.importance import (
    MEMORY,
    Weigh,
    check_data,
    fold_weights,
    log_likelihood,
    precision,
    weighing,
)
from jensen.variational.inference import fit_posterior, gaussians, moments
from jensen.variational.oracle import LinearGaussian
from jensen.variational.posterior import Posterior, check_posterior, draw, latent_events
from jensen.variational.trace import LatentModel


@dataclass(frozen=True)
class Gap:
    """A difference of log-likelihoods per datum.

    Attributes:
        value: (B,) nats; sampling noise may make it negative.
        stderr: (B,) standard error of the value.
        left: (B,) nats by which the optimised q may fall short of the best one, see `fit_posterior`; None if no q was
            optimised.
    """

    value: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"]
    left: Float[Tensor, " b"] | None = None

    @classmethod
    def between(cls, higher: Likelihood, lower: Likelihood, left: Tensor | None = None) -> Gap:
        """The gap between independent estimates; an estimate without a standard error counts as exact."""
        errors = [e for e in (higher.stderr, lower.stderr) if e is not None]
        square = torch.stack([e.square() for e in errors]).sum(0) if errors else torch.zeros_like(lower.value)
        return cls(higher.value - lower.value, square.sqrt(), left)


@dataclass(frozen=True)
class GapSplit:
    r"""The inference gap in two parts.

    $\log p - \mathrm{ELBO}_{enc} = (\log p - \mathrm{ELBO}_{q^*}) + (\mathrm{ELBO}_{q^*} - \mathrm{ELBO}_{enc})$.

    Attributes:
        log_p: log p(x) of each datum.
        best: the bound of the best mean-field Gaussian q*.
        encoder: the bound of the encoder's q.
        left: (B,) nats that a further step from q* would gain, which are wrongly attributed to the family.
    """

    log_p: Likelihood
    best: Likelihood
    encoder: Likelihood
    left: Float[Tensor, " b"]

    @property
    def approximation(self) -> Gap:
        """The approximation gap KL(q* || p(z|x)), due to the family of q."""
        return Gap.between(self.log_p, self.best, self.left)

    @property
    def amortization(self) -> Gap:
        """The amortization gap, due to the encoder; negative if the encoder's family is richer."""
        return Gap.between(self.best, self.encoder, self.left)

    @property
    def total(self) -> Gap:
        """The total gap KL(q_enc || p(z|x))."""
        return Gap.between(self.log_p, self.encoder)


@checked
def lower_bound(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    samples: int = 1000,
    q: str | Posterior = "encoder",
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Likelihood:
    r"""The ELBO per datum with its standard error: the mean of log p(x, z) / q(z|x) over K draws, in evaluation mode.

    Args:
        model: any latent-variable model.
        x: data, (B, ...).
        samples: number of draws K, at least 2.
        q: "encoder", or one mean-field Gaussian per layer, as returned by `fit_posterior`.
        generator: random generator of all draws; None for torch's global one.
        memory: MiB for the tensors of one chunk, as in `log_likelihood`.

    Raises:
        ValueError: for fewer than 2 samples, an unknown q or one whose shapes do not fit.

    >>> model, x = LinearGaussian([[1.0]], [0.0], 1.0), torch.zeros(1, 1)
    >>> bool(torch.isclose(lower_bound(model, x, 2).value, model.log_prob(x)))  # its encoder is exact
    True
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, for a standard error, got {samples}")
    with torch.no_grad(), evaluating(model):
        means = fold_weights(_Mean.of, _weighing(model, x, q), x, samples, generator, memory)
    value = torch.cat([m.mean for m in means])
    stderr = torch.cat([(m.squares / (m.count - 1) / m.count).sqrt() for m in means])
    dtype = precision(x)
    return Likelihood(value.to(dtype), "lower bound", model.measure, stderr.to(dtype))


def _weighing(model: LatentModel, x: Tensor, q: str | Posterior) -> Callable[[slice], Weigh]:
    if q == "encoder":
        return lambda rows: weighing(model, x[rows], "encoder")
    if isinstance(q, str):
        raise ValueError(f"q must be 'encoder' or one distribution per layer, got {q!r}")
    if not all(isinstance(layer, Independent) and isinstance(layer.base_dist, Normal) for layer in q):
        raise ValueError(f"q must be mean-field Gaussians, Independent(Normal), got {[type(v).__name__ for v in q]}")
    check_posterior(q, latent_events(model), len(x))
    tensors = moments(q)

    def of(rows: slice) -> Weigh:
        part = gaussians([v[rows] for v in tensors])
        return lambda k: log_weights(draw(model, x[rows], part, k, reparameterized=False))

    return of


@dataclass(frozen=True)
class _Mean:
    """Running count, mean and sum of squared deviations (B,), float64.

    Source: Chan et al. (1983), equation 2.1.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Mean:
        values = values.double()
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def __add__(self, other: _Mean) -> _Mean:
        count, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * self.count * other.count / count
        return _Mean(count, self.mean + apart * other.count / count, squares)


@checked
def amortization_gap(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    *,
    samples: int = 1000,
    steps: int = 500,
    start: str | Posterior = "encoder",
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Gap:
    r"""The bound of the best mean-field Gaussian of each datum minus that of the encoder, in nats.

    $\max_q \mathrm{ELBO}(q; x) - \mathrm{ELBO}(q_{enc}; x)$, at least 0 for a mean-field Gaussian encoder.

    Args:
        model: model with latents that carry a gradient.
        x: data, (B, ...).
        samples: number of draws to estimate each bound, at least 2.
        steps: maximum number of steps of `fit_posterior`, which warns if it does not converge.
        start: start of `fit_posterior`; "prior" for a model without `infer`.
        generator: random generator of all draws; None for torch's global one.
        memory: MiB for the tensors of one chunk.

    Raises:
        ValueError: as in `fit_posterior` and `lower_bound`.

    Source: Cremer et al. (2018), section 3.2.

    >>> from jensen.core.seeding import generator
    >>> model, x = LinearGaussian([[1.0]], [0.0], 1.0), torch.zeros(2, 1)
    >>> gap = amortization_gap(model, x, generator=generator(0))
    >>> bool((gap.value.abs() < 1e-4).all())  # its encoder is the posterior
    True
    """
    best = fit_posterior(model, x, steps=steps, start=start, generator=generator, memory=memory)
    of_best, of_encoder = (lower_bound(model, x, samples, q, generator, memory) for q in (best, "encoder"))
    return Gap.between(of_best, of_encoder, best.left)


@checked
def gap_split(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    *,
    log_p: Likelihood | None = None,
    samples: int = 1000,
    steps: int = 500,
    start: str | Posterior = "encoder",
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> GapSplit:
    r"""The gap log p(x) - ELBO, split into the approximation gap and the amortization gap.

    Args:
        model: model with latents that carry a gradient.
        x: data, (B, ...).
        log_p: log p(x) of the data, exact or from `ais_log_likelihood`; by default `log_likelihood` with 5000 samples.
        samples, steps, start, generator, memory: as for `amortization_gap`.

    Raises:
        ValueError: as in `amortization_gap`.

    Source: Cremer et al. (2018), equation 2.
    """
    if log_p is None:
        log_p = log_likelihood(model, x, generator=generator, memory=memory)
    best = fit_posterior(model, x, steps=steps, start=start, generator=generator, memory=memory)
    of_best, of_encoder = (lower_bound(model, x, samples, q, generator, memory) for q in (best, "encoder"))
    return GapSplit(log_p, of_best, of_encoder, best.left)


@dataclass(frozen=True)
class ThetaPath:
    """The path of a gradient ascent of the bound over the model's weight, with q fixed.

    Attributes:
        weight: (T + 1, D, L), including the start.
        elbo: (T + 1,), the mean over data of the bound for the fixed q, exact.
        log_p: (T + 1,), the mean over data of log p(x), exact.
    """

    weight: Float[Tensor, "t d l"]
    elbo: Float[Tensor, " t"]
    log_p: Float[Tensor, " t"]


@checked
def ascend_theta(
    model: LinearGaussian, x: Float[Tensor, "b d"], q: Distribution, *, steps: int = 100, rate: float = 0.1
) -> ThetaPath:
    r"""Gradient ascent of the ELBO over the weight W with fixed q: the bound increases, but log p(x) may decrease.

    $\mathrm{ELBO} = \log p_\theta(x) - \mathrm{KL}(q \| p_\theta(z|x))$: the ascent may pull the posterior towards q
    instead of pulling p towards the data. With $z \sim N(0, 1)$, $x|z \sim N(wz, 1)$, the datum x = 2 and q = N(0, 1),
    the bound is $-\tfrac12\log 2\pi - \tfrac12(x^2 + w^2)$: it falls from w = 0, where it is tight, while $\log p =
    \log N(2; 0, 1 + w^2)$ is greatest at $w = \sqrt 3$. An ascent from there loses $\tfrac32 - \log 2 = 0.807$ nats of
    log-likelihood, and gains 1.5 nats of the bound.

    Args:
        model: its weight is the initial value; bias, noise and prior are fixed.
        x: data, (B, D).
        q: a Gaussian over (L,), batch (B,); held fixed.
        steps: number of steps T, at least 1.
        rate: step size, positive.

    Raises:
        ValueError: for steps below 1 or a rate that is not positive.

    Source: Turner & Sahani (2011), section 3: the compactness of variational expectation maximisation.

    >>> model, x = LinearGaussian([[3**0.5]], [0.0], 1.0), torch.tensor([[2.0]])
    >>> path = ascend_theta(model, x, Independent(Normal(torch.zeros(1, 1), torch.ones(1, 1)), 1))
    >>> path.elbo[[0, -1]], path.log_p[[0, -1]]
    (tensor([-4.4189, -2.9189]), tensor([-2.1121, -2.9189]))
    """
    check_count(steps=steps)
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    check_data(x)
    weights, bounds, log_p = [model.weight.detach()], [], []
    with torch.enable_grad():
        for _ in range(steps + 1):
            weight = weights[-1].requires_grad_()
            at = LinearGaussian(weight, model.bias, model.noise, model.prior)
            bound = at.elbo(q, x).mean()
            bounds.append(bound.detach())
            log_p.append(at.log_prob(x).mean().detach())
            (slope,) = torch.autograd.grad(bound, weight)
            weights.append(weight.detach() + rate * slope)
    return ThetaPath(torch.stack(weights[:-1]).detach(), torch.stack(bounds), torch.stack(log_p))
