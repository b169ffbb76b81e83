"""Your bound on log p(x), compared with log p(x), with the posterior, and with its own gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.check.evidence import ERRORS, Evidence, Relation, Report, close
from jensen.core.modes import evaluating
from jensen.core.protocols import Sampleable
from jensen.core.seeding import drawing
from jensen.variational.bounds import Bound
from jensen.variational.importance import log_likelihood
from jensen.variational.inference import fit_posterior, gaussians, moments
from jensen.variational.posterior import posterior_trace
from jensen.variational.trace import LatentModel, Trace

CLAIMS = ("under", "monotone", "tight", "gradient")
SHIFT, WIDEN = 0.5, 1.3  # standard deviations by which q is off the posterior, and the factor by which it is wider


@runtime_checkable
class Oracle(LatentModel, Protocol):
    """A latent-variable model whose evidence and posterior are known, as `LinearGaussian`'s are."""

    def log_prob(self, x: Tensor) -> Tensor: ...

    def posterior(self, x: Tensor) -> Distribution: ...


def bound(
    bound: Bound,
    model: LatentModel | Oracle,
    x: Tensor | None = None,
    *,
    claims: Sequence[str] | None = None,
    samples: Sequence[int] = (1, 4, 16),
    repeats: int = 4000,
    reparameterized: bool = True,
    generator: torch.Generator | None = None,
) -> Report:
    r"""Whether L_K, a function of K draws, is a bound on log p(x) and has the gradient of its own value.

    - "under": $E[L_K] \le \log p(x)$, for the model's q and for one that is off the posterior.
    - "monotone": $E[L_{K'}] \ge E[L_K]$ for K' > K.
    - "tight": with $q = p(z|x)$ every $L_K = \log p(x)$.
    - "gradient": $E[\nabla_\lambda L_K] = \nabla_\lambda E[L_K]$ for a Gaussian q's means and log standard deviations
      $\lambda$, the right side by central differences along a random direction, on the same noise.

    All but "tight" are tested within 5 standard errors, with the model in evaluation mode. The bound of a beta-VAE, for
    example, claims `("under", "gradient")` alone: it is not tight.

    Args:
        bound: maps a `Trace` of K draws, with tensors (K, B), to nats (B,).
        model: an oracle, such as `LinearGaussian`; or any latent-variable model, whose log p(x) is then estimated by
            50,000 importance samples of its q, or of its prior if the tail of their weights is too heavy; such a model
            can show all but "tight".
        x: data, (B, ...); by default 3 draws of the model.
        claims: some of the four; by default all that the model can show.
        samples: increasing numbers of draws K.
        repeats: number of independent values of each bound for each datum, at least 2.
        reparameterized: whether draws carry a gradient; False for a bound that uses the score-function gradient.
        generator: random generator of all draws; None for torch's global one.

    Raises:
        ValueError: for claims that are unknown or that the model cannot show, numbers of draws that are below 1 or do
            not increase, fewer than 2 repeats, no x from a model that does not sample, or an x whose log p importance
            sampling cannot estimate.

    Source: Burda et al. (2016), theorem 1; Kingma & Welling (2014), equation 2.

    A correct bound passes; one that forgets to divide by K exceeds log p(x); one whose encoder has the pathwise
    gradient alone is biased for K > 1 (Tucker et al. 2019).

    >>> import math
    >>> from jensen.variational import LinearGaussian, iwae, sticking_the_landing
    >>> def mine(trace):
    ...     return (trace.log_px - sum(trace.kl)).logsumexp(0) - math.log(trace.samples)
    >>> oracle, rng = LinearGaussian([[1.0]], [0.0], 1.0), torch.Generator().manual_seed(0)
    >>> bound(mine, oracle, generator=rng).holds
    True
    >>> report = bound(lambda trace: (trace.log_px - trace.kl[0]).logsumexp(0), oracle, generator=rng)
    >>> report.failed[0].claim
    "mean bound is at most log p(x), 4 draws of the model's q"
    >>> stuck = bound(lambda trace: iwae(sticking_the_landing(trace)), oracle, repeats=20000, generator=rng)
    >>> [e.claim for e in stuck.failed]
    ['mean gradient is the gradient of the mean, 4 draws', 'mean gradient is the gradient of the mean, 16 draws']
    """
    oracle = isinstance(model, Oracle)
    shown = tuple(c for c in CLAIMS if oracle or c != "tight")
    claims = shown if claims is None else tuple(claims)
    for claim in claims:
        if claim not in shown:
            why = "only an oracle shows" if claim in CLAIMS else "there is no"
            raise ValueError(f"claims must be some of {', '.join(shown)}: {why} {claim!r}")
    if not samples or samples[0] < 1 or list(samples) != sorted(set(samples)):
        raise ValueError(f"samples must be at least 1 and increase, got {list(samples)}")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    if x is None:
        if not isinstance(model, Sampleable):
            raise ValueError(f"x must be given: {type(model).__name__} does not sample")
        x = model.sample(3, generator=generator)
    with evaluating(model), drawing(generator):
        return Report(tuple(_Trial(bound, model, x, samples, repeats, reparameterized).evidence(claims)))


class _Trial:
    """A bound, a model, and data of which each datum is repeated."""

    def __init__(
        self, bound: Bound, model: LatentModel, x: Tensor, samples: Sequence[int], repeats: int, reparameterized: bool
    ):
        self.bound, self.model, self.x = bound, model, x
        self.samples, self.repeats, self.reparameterized = samples, repeats, reparameterized
        self.rows = x.repeat_interleave(repeats, 0)

    def evidence(self, claims: Sequence[str]) -> list[Evidence]:
        counted = [self._one_a_datum(k) for k in self.samples]
        if not all(e.holds for e in counted):
            return counted  # there is nothing else to compare
        found: list[Evidence] = counted[:1]
        if "under" in claims or "monotone" in claims:
            found += self._values("the model's q", self._own, claims)
            if isinstance(self.model, Oracle):
                found += self._values("a q that is not the posterior", lambda k: self._drawn(self._off(), k), claims)
        if "tight" in claims:
            found += [self._tight(k) for k in self.samples]
        if "gradient" in claims:
            found += [self._gradient(k) for k in self.samples]
        return found

    def _one_a_datum(self, k: int) -> Evidence:
        shape = tuple(self.bound(self.model.trace(self.x, samples=k)).shape)
        got = float(shape[0]) if len(shape) == 1 else 0.0
        return Evidence("the bound has one value for each datum, shape (B,)", float(len(self.x)), got, 0.0)

    def _own(self, k: int) -> Trace:
        return self.model.trace(self.rows, samples=k)

    def _drawn(self, tensors: Sequence[Tensor], k: int) -> Trace:
        return posterior_trace(
            self.model, self.rows, gaussians(tensors), samples=k, reparameterized=self.reparameterized
        )

    def _off(self) -> list[Tensor]:
        """Means and log standard deviations of a q that is not the posterior, one row per datum."""
        if isinstance(self.model, Oracle):
            posterior = self.model.posterior(self.x)
            std = posterior.stddev
            tensors = [posterior.mean + SHIFT * std, (WIDEN * std).log()]
        else:
            tensors = moments(fit_posterior(self.model, self.x, steps=0))
        return [v.detach().repeat_interleave(self.repeats, 0) for v in tensors]

    def _log_p(self) -> tuple[Tensor, Tensor]:
        """Log p(x) of each datum and its standard error, float64."""
        if isinstance(self.model, Oracle):
            exact = self.model.log_prob(self.x).detach().double()
            return exact, torch.zeros_like(exact)
        for proposal in ("encoder", "prior"):
            estimate = log_likelihood(self.model, self.x, 50_000, proposal)
            assert estimate.stderr is not None
            if bool(estimate.stderr.isfinite().all()):
                return estimate.value.double(), estimate.stderr.double()
        raise ValueError(
            "x must be data whose log p 50,000 draws of the model's q or prior can tell: their weights have a tail of "
            f"Pareto k = {float(estimate.pareto_k.max()):.2f}, so that their mean has no error"
        )

    @torch.no_grad()
    def _values(self, whose: str, draw: Callable[[int], Trace], claims: Sequence[str]) -> list[Evidence]:
        log_p, doubt = self._log_p()
        rounding = self._rounding(log_p)
        found: list[Evidence] = []
        before = None
        for k in self.samples:
            mean, stderr = _moments(self.bound(draw(k)).view(len(self.x), -1))
            if "under" in claims:
                claim = f"mean bound is at most log p(x), {k} draws of {whose}"
                found.append(_worst(claim, log_p, mean, stderr.hypot(doubt), rounding, "at most"))
            if "monotone" in claims and before is not None:
                claim = f"mean bound is no less than with fewer draws, {k} draws of {whose}"
                found.append(_worst(claim, before[0], mean, stderr.hypot(before[1]), rounding, "at least"))
            before = mean, stderr
        return found

    @torch.no_grad()
    def _tight(self, k: int) -> Evidence:
        assert isinstance(self.model, Oracle)
        log_p, _ = self._log_p()
        rows = self.x.repeat_interleave(10, 0)
        trace = posterior_trace(self.model, rows, (self.model.posterior(rows),), samples=k)
        values = self.bound(trace).view(len(self.x), -1)
        return close(
            f"every value is log p(x) for q = p(z|x), {k} draws", log_p[:, None], values, self._rounding(log_p)
        )

    def _rounding(self, log_p: Tensor) -> float:
        return 1e3 * torch.finfo(self.x.dtype).eps * (1 + float(log_p.abs().max()))

    def _gradient(self, k: int) -> Evidence:
        """Evidence on the directional derivatives with respect to means and log standard deviations, for the datum with
        the largest error.
        """
        at = [v.requires_grad_() for v in self._off()]
        found = []
        for moving in at:
            direction = torch.randn_like(moving[:1])
            seed = int(torch.randint(2**31, ()))

            def values(step: float, moving: Tensor = moving, direction: Tensor = direction, seed: int = seed) -> Tensor:
                with drawing(torch.Generator(self.x.device).manual_seed(seed)):
                    return self.bound(self._drawn([v + step * direction if v is moving else v for v in at], k))

            value = values(0.0)
            slope = torch.zeros_like(moving)
            if value.requires_grad:
                (got,) = torch.autograd.grad(value.sum(), moving, allow_unused=True)
                slope = slope if got is None else got
            claimed = (slope * direction).flatten(1).sum(1)
            step = torch.finfo(value.dtype).eps ** 0.25
            with torch.no_grad():
                near, far = ((values(h) - values(-h)) / (2 * h) for h in (step, 2 * step))
            found.append([v.double().view(len(self.x), -1) for v in (near, claimed - near, near - far)])
        there, off, curved = (torch.cat(column) for column in zip(*found, strict=True))
        mean, stderr = _moments(off)
        rounding = curved.mean(1).abs() + torch.finfo(self.x.dtype).eps ** 0.5
        claim = f"mean gradient is the gradient of the mean, {k} draws"
        return _worst(claim, there.mean(1), there.mean(1) + mean, stderr, rounding, "equal")


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each row and its standard error, float64."""
    v = values.double()
    return v.mean(1), v.std(1) / v.shape[1] ** 0.5


def _worst(
    claim: str, limit: Tensor, mean: Tensor, stderr: Tensor, rounding: Tensor | float, relation: Relation
) -> Evidence:
    """Evidence on the datum with the largest error, in standard errors."""
    allowed = ERRORS * stderr + rounding
    off = {"equal": (mean - limit).abs(), "at most": mean - limit, "at least": limit - mean}[relation]
    worst = int(torch.nan_to_num(off / allowed, nan=torch.inf).argmax())
    e, m, t, s = (float(v[worst]) for v in (limit, mean, allowed, stderr))
    if not (t < torch.inf and abs(e) < torch.inf):
        return Evidence(claim, 0.0, float("nan"), 0.0, relation)
    return Evidence(claim, e, m, t, relation, stderr=s if t < 2 * ERRORS * s else None)
