"""Your ELBO, given as a loss with an encoder and a decoder, compared with the bound that encoder and decoder define."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from jensen.check.evidence import ERRORS, Evidence, Report, estimate_is
from jensen.core.modes import evaluating
from jensen.estimators import leave_one_out
from jensen.estimators.exact import leaves_of
from jensen.variational.importance import LogMean

ROUNDING = 1e-4
"""Relative tolerance for rounding in single precision, added to the statistical one."""
ROWS = 4
CHUNKS, COPIES = 20, 100
"""The number of importance samples of each example is CHUNKS times COPIES."""


@runtime_checkable
class ELBO(Protocol):
    """An ordinary ELBO: a loss in nats, q(z|x) and p(x|z); and `prior`, unless it is the standard normal."""

    def loss(self, x: Tensor, /) -> Tensor: ...

    def encode(self, x: Tensor, /) -> Distribution: ...

    def decode(self, z: Tensor, /) -> Distribution: ...


def elbo(model: ELBO, x: Tensor, *, repeats: int = 400) -> Report:
    r"""Whether a loss is minus the ELBO of its own encoder, decoder and prior, in value and in gradient.

    $$E[-\mathrm{loss}(x)] = E_{q(z|x)}[\log p(x|z) + \log p(z) - \log q(z|x)] \le \log p(x)$$

    - The value for each example is that computed from `encode`, `decode` and `prior`. If it differs, the claim names
      the common mistake that gives the value found: a term averaged instead of summed, a sign, a missing term, a weight
      of the KL.
    - It is at most log p(x), which is estimated by 2,000 importance samples of q.
    - The loss of a batch is the mean or the sum of the losses of its examples.
    - The gradient with respect to all parameters of q, of p(x|z) and of the prior is right. It is compared along a
      direction found on half of the calls, which detects a detached term.

    Each comparison allows five standard errors of the difference. Both sides draw from the same seeds: a loss that
    draws z once, as the check does, is compared draw by draw, to rounding. Modules are in evaluation mode.

    Args:
        model: object with three methods. `loss(x)` returns nats: one value per example (B,), or their mean or sum;
            `encode(x)` and `decode(z)` return distributions over z and over x, (B, ...), factorised or not. If p(z) is
            not standard
            normal, it also has `prior`: a distribution of one z or of (B, ...), or a function that returns it.
        x: examples, (B, ...); the first 4 are used.
        repeats: number of calls of the loss for each claim, at least 10.

    Raises:
        ValueError: for a `prior` or a return value that is not a distribution, shapes that do not match, or fewer than
            10 repeats.

    Source: Kingma & Welling (2014), equations 2 and 3; Burda et al. (2016), equation 8.

    >>> class Mine(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.down = torch.nn.Linear(3, 4), torch.nn.Linear(2, 3)
    ...     def encode(self, x):
    ...         mean, log_std = self.up(x).chunk(2, -1)
    ...         return Normal(mean, log_std.exp())
    ...     def decode(self, z):
    ...         return Normal(self.down(z), 0.5)
    ...     def loss(self, x):
    ...         q = self.encode(x)
    ...         kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    ...         return kl - self.decode(q.rsample()).log_prob(x).sum(-1)
    >>> _ = torch.manual_seed(0)
    >>> elbo(Mine(), torch.randn(4, 3), repeats=100).holds
    True
    >>> class Averaged(Mine):
    ...     def loss(self, x):
    ...         q = self.encode(x)
    ...         kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    ...         return kl - self.decode(q.rsample()).log_prob(x).mean(-1)
    >>> elbo(Averaged(), torch.randn(4, 3), repeats=100).failed[0].claim
    'minus the loss is the ELBO (it is E log p(x|z) averaged over the 3 numbers of x, minus KL)'
    """
    if repeats < 10:
        raise ValueError(f"repeats must be at least 10, got {repeats}")
    if x.ndim < 1 or not len(x):
        raise ValueError(f"x must hold at least one example, (B, ...), got {tuple(x.shape)}")
    parts = [model, *getattr(model, "__dict__", {}).values()]
    with evaluating(*parts), torch.random.fork_rng():
        return Report.of(_Case(model, x[:ROWS], repeats).evidence())


@dataclass(frozen=True)
class Terms:
    """The terms of the ELBO for one draw of z per example, (B,); the KL in closed form and from the draw."""

    log_px: Tensor
    log_pz: Tensor
    log_qz: Tensor
    closed: Tensor
    drawn_kl: Tensor
    score: Tensor | float  # log q(z|x) less its own value, where draws carry no gradient
    latent: int  # numbers of one z

    def surrogate(self, kl: Tensor) -> Tensor:
        """The ELBO of the draws, (B,), with an unbiased gradient."""
        value = self.log_px - kl
        others = leave_one_out(value.detach()) if len(value) > 1 else 0.0
        return value + (value.detach() - others) * self.score


@dataclass(frozen=True)
class _Case:
    model: ELBO
    x: Tensor
    repeats: int

    def evidence(self) -> Iterator[Evidence]:
        self.terms(self.x)  # refuses what does not fit
        losses, terms = self.drawn(self.repeats)
        yield self.value(losses, terms)
        yield self.below(losses)
        if len(self.x) > 1:
            yield from self.batch(losses)
        yield from self.gradients()

    # -- the two sides -------------------------------------------------------------------------------------------------

    def terms(self, x: Tensor) -> Terms:
        """The terms from one draw of z for each example, by torch's global generator."""
        q = self.distribution("encode", x)
        prior = self.prior(q)
        z = q.rsample() if q.has_rsample else q.sample()
        p = self.distribution("decode", z)
        shape = p.batch_shape + p.event_shape
        if shape != x.shape:
            raise ValueError(f"decode(z) must be a distribution over x, {tuple(x.shape)}, got {tuple(shape)}")
        log_px, log_pz, log_qz = p.log_prob(x), prior.log_prob(z), q.log_prob(z)
        if not bool((log_px + log_pz - log_qz).isfinite().all()):
            raise ValueError("log p(x|z), log p(z) and log q(z|x) must be finite for the examples x and draws z of q")
        score = 0.0 if q.has_rsample else log_qz - log_qz.detach()
        try:
            closed = kl_divergence(q, prior)
        except NotImplementedError:
            closed = log_qz - log_pz
        latent = z[0].numel()
        return Terms(log_px, log_pz, log_qz, closed, log_qz - log_pz, score, latent)

    def distribution(self, name: str, of: Tensor) -> Distribution:
        """A distribution for each row."""
        found = getattr(self.model, name)(of)
        if not isinstance(found, Distribution):
            raise ValueError(f"{name} must return a distribution of torch.distributions, got {type(found).__name__}")
        if not found.batch_shape or found.batch_shape[0] != len(of):
            raise ValueError(f"{name} must return one distribution per row, ({len(of)}, ...), got {found.batch_shape}")
        return Independent(found, len(found.batch_shape) - 1)

    def prior(self, q: Distribution) -> Distribution:
        given: Any = getattr(self.model, "prior", None)
        found = given() if callable(given) and not isinstance(given, Distribution) else given
        if found is None:
            zero = torch.zeros(q.batch_shape + q.event_shape, dtype=self.x.dtype, device=self.x.device)
            found = Normal(zero, 1.0)
        if not isinstance(found, Distribution):
            raise ValueError(f"prior must be a distribution of torch.distributions, got {type(found).__name__}")
        found = found.expand(q.batch_shape + q.event_shape[: len(q.event_shape) - len(found.event_shape)])
        return Independent(found, len(found.batch_shape) - 1)

    def loss(self, x: Tensor) -> Tensor:
        """The loss of the model under test: (B,), or one number."""
        found = self.model.loss(x)
        if not isinstance(found, Tensor) or found.shape not in (torch.Size(()), torch.Size((len(x),))):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"loss(x) must be one number or one for each of {len(x)} examples, got {got}")
        return found

    def drawn(self, repeats: int) -> tuple[Tensor, list[Tensor]]:
        """Losses (R, B), and from the same seeds log p(x|z), log p(z), log q(z|x) and both KLs, (R, B) each.

        If the loss is one number for a batch, each example is passed as a separate batch.
        """
        losses, ours = [], []
        with torch.no_grad():
            parts = (self.x,) if self.loss(self.x).ndim else self.x.split(1)
            for seed, part in enumerate(part for _ in range(repeats) for part in parts):
                torch.manual_seed(seed)
                losses.append(self.loss(part).double().reshape(-1))
                torch.manual_seed(seed)
                t = self.terms(part)
                ours.append(torch.stack([t.log_px, t.log_pz, t.log_qz, t.closed, t.drawn_kl]).double())
        rows = len(self.x)
        return torch.cat(losses).view(-1, rows), list(torch.cat(ours, 1).view(5, -1, rows))

    # -- the claims ----------------------------------------------------------------------------------------------------

    def value(self, losses: Tensor, terms: Sequence[Tensor]) -> Evidence:
        """Evidence on the example with the largest error, in standard errors of the paired difference."""
        log_px, _, _, closed, drawn = terms
        kl = min((closed, drawn), key=lambda kl: float((losses + log_px - kl).std(0).sum()))
        found = _furthest("minus the loss is the ELBO", log_px - kl, -losses)
        if found.holds:
            return found
        for wrongs in (self.mistakes(terms, kl), self.fits(losses, terms[0], kl)):
            claims = [_furthest(name, wrong, -losses) for name, wrong in wrongs]
            near = min((e for e in claims if e.holds), key=lambda e: e.excess / (e.tolerance or 1.0), default=None)
            if near is not None:
                return replace(found, claim=f"{found.claim} (it is {near.claim})")
        return found

    def mistakes(self, terms: Sequence[Tensor], kl: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The values (R, B) of minus the loss under each common mistake."""
        log_px, log_pz, log_qz = terms[:3]
        torch.manual_seed(0)
        with torch.no_grad():
            latent, wide = self.terms(self.x).latent, self.x[0].numel()
        mean_x, mean_z = f"averaged over the {wide} numbers of x", f"averaged over the {latent} numbers of z"
        yield "minus the ELBO: the sign is missing", kl - log_px
        yield "E log p(x|z) + KL: the KL has the wrong sign", log_px + kl
        yield "E log p(x|z) alone: the KL is missing", log_px
        yield "minus KL alone: E log p(x|z) is missing", -kl
        yield "E log p(x|z) - E log q(z|x): log p(z) is missing", log_px - log_qz
        yield "E log p(x|z) + E log p(z): log q(z|x) is missing", log_px + log_pz
        if wide > 1:
            yield f"E log p(x|z) {mean_x}, minus KL", log_px / wide - kl
        if latent > 1:
            yield f"E log p(x|z) minus KL {mean_z}", log_px - kl / latent
        if wide > 1 and latent > 1:
            yield f"E log p(x|z) {mean_x}, minus KL {mean_z}", log_px / wide - kl / latent

    def fits(self, losses: Tensor, log_px: Tensor, kl: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The values (R, B) of minus the loss with another weight of the KL, or with a constant added."""
        weight = float((losses + log_px).mean(0).sum() / kl.mean(0).sum())
        if math.isfinite(weight):
            yield f"E log p(x|z) - {weight:.3g} KL", log_px - weight * kl
        if len(self.x) > 1:
            constant = float((log_px - kl + losses).mean())
            yield f"the ELBO minus {constant:.3g} nats for every example", log_px - kl - constant

    def below(self, losses: Tensor) -> Evidence:
        """Each example's bound against log p(x) by importance sampling from q."""
        torch.manual_seed(1)
        with torch.no_grad():
            drawn = [self.terms(self.x.repeat(COPIES, *[1] * (self.x.ndim - 1))) for _ in range(CHUNKS)]
        weights = torch.cat([(t.log_px - t.drawn_kl).double().view(COPIES, -1) for t in drawn])
        found, count = LogMean.of(weights).estimate("density"), CHUNKS * COPIES
        scatter = ((count / torch.as_tensor(found.ess) - 1).clamp(min=0) / (count - 1)).sqrt()
        error = (scatter**2 + losses.var(0) / len(losses)).sqrt()
        allowed = ERRORS * error + ROUNDING * found.value.abs()
        off = (-losses.mean(0) - found.value) / allowed
        row = int(off.nan_to_num(nan=math.inf).argmax())
        e, m, t, s = (float(v[row]) for v in (found.value, -losses.mean(0), allowed.nan_to_num(0.0), error))
        return Evidence("minus the loss is at most log p(x), by importance sampling", e, m, t, "at most", s)

    def batch(self, losses: Tensor) -> Iterator[Evidence]:
        """One number for a batch: the mean or the sum of the losses of its examples."""
        with torch.no_grad():
            torch.manual_seed(2)
            if self.loss(self.x).ndim:
                return
            whole = torch.stack([self.loss(self.x) for _ in range(self.repeats)]).double()
        scale = self.scale(whole, losses)
        rows = losses.mean(1) * scale
        error = (whole.var() / len(whole) + rows.var() / len(rows)).sqrt()
        name = "sum" if scale > 1 else "mean"
        claim = f"the loss of a batch is the {name} of its examples' losses"
        yield estimate_is(claim, float(rows.mean()), whole.mean(), error, bias=ROUNDING * float(rows.mean().abs()))

    def scale(self, whole: Tensor, losses: Tensor) -> int:
        """B if a batch's loss is nearer to the sum of its examples' losses than to their mean, else 1."""
        mean, count = losses.mean(), len(self.x)
        return count if (whole.mean() - count * mean).abs() < (whole.mean() - mean).abs() else 1

    def gradients(self) -> Iterator[Evidence]:
        """Compare gradients on half of the calls, along the direction in which they differ most on the other half."""
        torch.manual_seed(0)
        q = self.distribution("encode", self.x)
        z = (q.rsample() if q.has_rsample else q.sample()).detach()
        sources = {
            "encode": q.log_prob(z),
            "decode": self.distribution("decode", z).log_prob(self.x),
            "prior": self.prior(q).log_prob(z),
        }
        groups = {name: leaves_of(value) for name, value in sources.items() if value.requires_grad}
        leaves = list({id(leaf): leaf for found in groups.values() for leaf in found}.values())
        if not leaves:
            return
        losses, _ = self.drawn(10)
        with torch.no_grad():
            whole = torch.stack([self.loss(self.x).mean() for _ in range(10)]).double()
        scale, half = self.scale(whole, losses), self.repeats // 2

        def both(seed: int) -> Tensor:
            """Gradients of the loss, and of the ELBO with the KL of the draw and in closed form, (3, P)."""
            torch.manual_seed(seed)
            theirs = -self.loss(self.x).mean() / scale
            torch.manual_seed(seed)
            t = self.terms(self.x)
            ours = [t.surrogate(kl).mean() for kl in (t.drawn_kl, t.closed)]
            return torch.stack([_slope(value, leaves) for value in (theirs, *ours)])

        pilot = sum((both(seed) for seed in range(1, half)), both(0)) / half
        along, bias = {}, {}
        for name, found in groups.items():
            own = torch.cat([torch.full((leaf.numel(),), any(leaf is v for v in found)) for leaf in leaves])
            theirs, _, ours = pilot * own
            bias[name], off = ROUNDING * float(ours.norm()), theirs - ours
            direction = off if off.norm() > bias[name] else ours
            along[name] = direction / direction.norm().clamp(min=torch.finfo(torch.float64).tiny)
        directions = torch.stack(list(along.values()), 1)
        rest = torch.stack([both(seed) @ directions for seed in range(half, 2 * half)])
        for k, name in enumerate(along):
            theirs = rest[:, 0, k]
            ours = min((rest[:, 1, k], rest[:, 2, k]), key=lambda ours: float((theirs - ours).std()))
            claim = f"the gradient with respect to the parameters of {name} is that of the ELBO"
            error = (theirs - ours).std() / half**0.5
            yield estimate_is(claim, float(ours.mean()), theirs.mean(), error, bias=bias[name])


def _furthest(claim: str, expected: Tensor, measured: Tensor) -> Evidence:
    """The means of paired values (R, B): the column with the largest error relative to its tolerance."""
    error = (measured - expected).std(0) / len(expected) ** 0.5
    e, m = expected.mean(0), measured.mean(0)
    allowed = ERRORS * error + ROUNDING * (e.abs() + expected.abs().mean(0))
    k = int(((m - e).abs() / allowed).nan_to_num(nan=math.inf).argmax())
    tolerance = float(allowed[k]) if bool(m[k].isfinite()) else 0.0
    return Evidence(claim, float(e[k]), float(m[k]), tolerance, stderr=float(error[k]))


def _slope(value: Tensor, leaves: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all leaves, as one vector; 0 where the value does not depend on a leaf."""
    if not value.requires_grad:
        return torch.cat([torch.zeros(v.numel(), dtype=torch.float64) for v in leaves])
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)
    return torch.cat([g.reshape(-1).double() for g in found])
