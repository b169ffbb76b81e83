"""Likelihoods of latent variable models, by importance sampling, and of exact densities; the posterior gap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jensen.core.protocols import Bounded
from jensen.core.types import Likelihood
from jensen.data.dataset import some
from jensen.judging.case import Case, chunks, judge
from jensen.metrics import bits_per_dim
from jensen.models import LatentChain
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table, mean
from jensen.variational import Estimate, Gap, GaussianMixtureVI, gap_split, lower_bound, pareto_limit
from jensen.variational.inference import NEAR
from jensen.variational.trace import Unamortized

CHUNK = 40  # rows between two updates of the progress bar
BOUND_DRAWS = 100  # of q, for each datum's lower bound


def measured(key: str, name: str, found: Likelihood | Gap, **more: Any) -> Finding:
    """A finding: the mean over data, its standard error over the choice of data, its Monte Carlo error in the note."""
    n, note = len(found.value), more.pop("note", "")
    noise = 0.0 if found.stderr is None else float(found.stderr.square().sum().sqrt()) / n
    said = f"Monte Carlo error {noise:.2g}" if math.isfinite(noise) else "Monte Carlo error unknown: heavy tails"
    note = "; ".join(filter(None, (note, said if noise else "", f"n = {n:,}")))
    return mean(key, name, found.value, form="nats", note=note, **more)


@judge
@torch.no_grad()
def likelihood(case: Case) -> Part | None:
    """Log p(x) of held-out and training examples, and the evidence lower bound."""
    model, space, truth = case.model, case.data.space, case.data.truths.log_p
    x = case.test["x"]
    if not isinstance(model, LatentChain) and not _exact(case, x[:1]):
        return None
    known = None if truth is None else truth(x.double(), 0.0)
    best = None if known is None else float(known.mean())
    log_p, trained = _log_p(case, x, "log p"), _log_p(case, some(case.data.train, len(x))["x"], "log p, training")
    facts = {"kind": log_p.kind, "measure": log_p.measure, "dims": space.dims}
    estimated = isinstance(log_p, Estimate)
    note = f"importance sampling, K = {case.settings.importance:,}" if estimated else "exact"
    known_floor: dict[str, Any] = {"floor": best, "best": "high", "card": True}
    findings = [
        measured("log_p", "log p(x) of held-out data", log_p, note=note, facts=facts, **known_floor),
        measured("log_p_training", "log p(x) of training data", trained, best="high", note=note),
    ]
    if log_p.measure == "mass":
        bits = float(bits_per_dim(log_p.value.mean(), space.dims))
        findings.append(Finding("bits_per_dim", "bits per dimension", bits, note=f"{space.dims} dimensions", card=True))
    if known is not None:
        own = Likelihood(known, "exact", "density")
        findings.append(measured("log_p_data", "log p(x) under the data's own density", own, best=None))
    details = {}
    if isinstance(log_p, Estimate) and isinstance(model, LatentChain):
        bound = _bound(case, model, x)
        facts = {**facts, "kind": bound.kind}
        findings.append(measured("elbo", "evidence lower bound", bound, facts=facts, **known_floor))
        findings += weights_found(log_p, case.settings.importance)
        details = {"pareto_k": tails(log_p, case.settings.importance)}
    text = "Errors are standard errors over the choice of examples."
    if estimated:
        text += (
            " log p(x) is estimated by the logarithm of the mean of K weights p(x, z) / q(z | x), with z drawn from "
            "q. This estimate is too low by about half its variance. It is unreliable if the weights are "
            "heavy-tailed (Pareto k above its limit)."
        )
    if best is not None:
        text += " The floor is the mean log density of the same examples under the distribution they were drawn from."
    return Part("Likelihood", text, findings, details=details)


def _exact(case: Case, x: Tensor) -> bool:
    """Whether the model's log p(x) is exact, neither a bound nor an estimate."""
    return isinstance(case.model, Bounded) and case.model.log_likelihood(x.to(case.device)).kind == "exact"


def _log_p(case: Case, x: Tensor, name: str) -> Likelihood:
    model, rng = case.model, case.rng(name)
    of: dict[str, Any] = {}
    if isinstance(model, LatentChain):
        of = {"samples": case.settings.importance, "generator": rng}
    assert isinstance(model, Bounded)
    rows = chunks(x, None, CHUNK, case.track(name, len(x)))
    parts = [model.log_likelihood(part.to(case.device), **of) for part, _ in rows]
    if isinstance(parts[0], Estimate):
        return Estimate.joined([part for part in parts if isinstance(part, Estimate)], like=x)
    return joined(parts)


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    """Likelihoods of parts of the data, as one."""
    noise = [part.stderr for part in parts if part.stderr is not None]
    value = torch.cat([part.value for part in parts])
    return Likelihood(value, parts[0].kind, parts[0].measure, torch.cat(noise) if noise else None)


def _bound(case: Case, model: LatentChain, x: Tensor) -> Likelihood:
    rng = case.rng("lower bound")
    rows = chunks(x, None, 10 * CHUNK, case.track("lower bound", len(x)))
    return joined([lower_bound(model, part.to(case.device), BOUND_DRAWS, generator=rng) for part, _ in rows])


def tails(found: Estimate, samples: int) -> dict[str, Any]:
    """Pareto k of the weights: its median, maximum and limit; and the number of examples whose log p has no error
    estimate.
    """
    told = found.pareto_k[~found.pareto_k.isnan()]
    median, largest = (float(told.median()), float(told.max())) if len(told) else (None, None)
    assert found.stderr is not None
    return {
        "median": median,
        "largest": largest,
        "limit": pareto_limit(samples),
        "beyond": int(found.stderr.isinf().sum()),
        "rows": len(found.value),
    }


def weights_found(log_p: Estimate, samples: int) -> list[Finding]:
    """Whether the importance weights can be relied on."""
    k, ess = tails(log_p, samples), log_p.ess
    least = f"of {samples:,} weights of the median example; least {float(ess.min()):.0f}"
    found = [Finding("effective_samples", "effective samples", float(ess.median()), best="high", note=least)]
    if k["median"] is not None:
        note = f"of the median example; largest {k['largest']:.2f}, limit {k['limit']:.2f}"
        found.append(Finding("pareto_k", "Pareto k of the weights", k["median"], note=note))
    note = f"of {k['rows']}: Pareto k above {k['limit']:.2f}, or few effective samples if k cannot be estimated"
    name = "examples whose log p(x) is unreliable"
    return [*found, Finding("unreliable", name, k["beyond"], form="count", note=note)]


@judge
def posterior_gap(case: Case) -> Part | None:
    """The gap between log p(x) and the ELBO, decomposed, for one layer of Gaussian latents."""
    model, settings = case.model, case.settings
    if not isinstance(model, LatentChain) or len(model.decoders) > 1 or not model.prior().has_rsample:
        return None
    x = case.test["x"][: settings.refine_rows].to(case.device)
    advance, rng = case.track("posterior gap", len(x)), case.rng("gap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a possible further gain of the best q is a finding
        split = gap_split(model, x, steps=settings.refine_steps, generator=rng)
    advance(len(x))
    left, most = float(split.left.mean()), float(split.left.abs().max())
    worst = f"{most:.4f} nats for the worst example"
    who, left_note = "the search for q" if isinstance(model, Unamortized) else "the encoder", worst
    if most > NEAR:
        left_note += "; set judging.refine_steps higher"
    findings = [
        measured("gap", "log p(x) - ELBO", split.total),
        measured("gap_approximation", "approximation gap: the family of q", split.approximation),
        measured("gap_amortization", f"amortization gap: {who}", split.amortization),
        Finding("gap_left", "possible further gain of the best q", left, form="nats", note=left_note),
    ]
    text = (
        "The gap between log p(x) and the evidence lower bound has two parts: the approximation gap, because no "
        f"diagonal Gaussian equals the posterior, and the amortization gap, because {who} does not find the best "
        f"diagonal Gaussian for each example. One more step from the best Gaussian found would gain {left:.4f} nats "
        f"({worst}), so up to that much of the approximation gap may be due to the search."
    )
    values = [f.value for f in findings[1:3]]
    bars = plots.bars(["family of q", who], values, title="nats lost", xlabel="nats")
    return Part("Posterior gap", text, findings, plots=[bars], details={"gap_left": {"mean": left, "most": most}})


@judge
def components(case: Case) -> Part | None:
    """The components that a mixture uses."""
    model = case.model
    if not isinstance(model, GaussianMixtureVI):
        return None
    x, factors = case.train["x"], model.factors
    weights = factors.concentration / factors.concentration.sum()
    used = float(torch.special.entr(weights).sum().exp())
    kept = f"of {len(weights)}: exponential of the entropy of their mean weights"
    bound = float(model.elbo(x.double().to(case.device))) / len(x)
    name, note = "lower bound on log p(all training data), per example", f"parameters integrated out, n = {len(x):,}"
    findings = [
        Finding("components", "effective number of components", used, best=None, note=kept, card=True),
        Finding("evidence_bound", name, bound, best="high", form="nats", note=note),
    ]
    order = weights.argsort(descending=True)
    rows = [
        (f"{float(weights[k]):.3f}", ", ".join(f"{v:.2f}" for v in factors.components.mean[k].tolist()))
        for k in order.tolist()
        if weights[k] > 1e-3
    ]
    return Part("Mixture components", "", findings, tables=[Table(("mean weight", "mean"), rows)])
