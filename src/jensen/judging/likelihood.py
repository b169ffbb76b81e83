"""Likelihoods: by importance sampling for latent variable models, exact for known densities; the posterior gap."""

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
from jensen.judging.case import Case, judge
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
    model, dims, draws, x = case.model, case.data.space.dims, case.settings.importance, case.test["x"]
    chain = isinstance(model, LatentChain)
    if chain:
        x = x[: case.settings.importance_rows]
    if not chain and not (isinstance(model, Bounded) and model.log_likelihood(x[:1].to(case.device)).kind == "exact"):
        return None
    log_p, trained = _log_p(case, x, "log p"), _log_p(case, some(case.data.train, len(x))["x"], "log p, training")
    facts = {"kind": log_p.kind, "measure": log_p.measure, "dims": dims}
    note, truth = f"importance sampling, K = {draws:,}" if chain else "exact", known_density(case, x)
    more: dict[str, Any] = {"floor": None if truth is None else truth.value, "best": "high", "card": True}
    findings = [
        measured("log_p", "log p(x) of held-out data", log_p, note=note, facts=facts, **more),
        measured("log_p_training", "log p(x) of training data", trained, best="high", note=note),
    ]
    if log_p.measure == "mass":
        bits = float(bits_per_dim(log_p.value.mean(), dims))
        findings.append(Finding("bits_per_dim", "bits per dimension", bits, note=f"{dims} dimensions", card=True))
    if truth is not None:
        findings.append(truth)
    text, details = "Errors are standard errors over the choice of examples.", {}
    if isinstance(model, LatentChain) and isinstance(log_p, Estimate):

        def below(part: Tensor, _: Tensor | None, rng: torch.Generator) -> Likelihood:
            return lower_bound(model, part, BOUND_DRAWS, generator=rng)

        bound = joined(case.each("lower bound", below, x, 10 * CHUNK))
        findings.append(measured("elbo", "evidence lower bound", bound, facts=facts | {"kind": bound.kind}, **more))
        findings += weights_found(log_p, draws)
        details = {"pareto_k": tails(log_p, draws)}
        text += (
            " log p(x) is estimated by the logarithm of the mean of K weights p(x, z) / q(z | x), with z drawn from "
            "q. This estimate is too low by about half its variance. It is unreliable if the weights are "
            "heavy-tailed (Pareto k above its limit)."
        )
    if truth is not None:
        text += " The floor is the mean log density of the same examples under the distribution they were drawn from."
    return Part("Likelihood", text, findings, details=details)


def known_density(case: Case, x: Tensor) -> Finding | None:
    """Log p of held-out data x under the density that they were drawn from, if it is known."""
    log_p = case.data.truths.log_p
    if log_p is None:
        return None
    found = Likelihood(log_p(x.double(), 0.0), "exact", "density")
    return measured("log_p_data", "log p(x) under the data's own density", found, best=None)


def _log_p(case: Case, x: Tensor, name: str) -> Likelihood:
    model = case.model

    def of(part: Tensor, _: Tensor | None, rng: torch.Generator) -> Likelihood:
        if isinstance(model, LatentChain):
            return model.log_likelihood(part, samples=case.settings.importance, generator=rng)
        assert isinstance(model, Bounded)
        return model.log_likelihood(part)

    parts = case.each(name, of, x, CHUNK)
    estimates = [part for part in parts if isinstance(part, Estimate)]
    return Estimate.joined(estimates, like=x) if estimates else joined(parts)


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    """Joins the likelihoods of parts of the data."""
    noise = [part.stderr for part in parts if part.stderr is not None]
    value = torch.cat([part.value for part in parts])
    return Likelihood(value, parts[0].kind, parts[0].measure, torch.cat(noise) if noise else None)


def tails(found: Estimate, samples: int) -> dict[str, Any]:
    """Pareto k of the weights: median, maximum and limit; and the number of examples without an error estimate."""
    known = found.pareto_k[~found.pareto_k.isnan()]
    assert found.stderr is not None
    return {
        "median": float(known.median()) if len(known) else None,
        "largest": float(known.max()) if len(known) else None,
        "limit": pareto_limit(samples),
        "beyond": int(found.stderr.isinf().sum()),
        "rows": len(found.value),
    }


def weights_found(log_p: Estimate, samples: int) -> list[Finding]:
    """Findings on the reliability of the importance weights."""
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
    if not settings.refine_rows:
        return None
    x = case.test["x"][: settings.refine_rows].to(case.device)
    advance, rng = case.track("posterior gap", len(x)), case.rng("gap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a possible further gain of the best q is a finding
        split = gap_split(model, x, steps=settings.refine_steps, generator=rng)
    advance(len(x))
    left, most = float(split.left.mean()), float(split.left.abs().max())
    who, worst = "the search for q" if isinstance(model, Unamortized) else "the encoder", f"at most {most:.4f} nats"
    note = worst + "; set judging.refine_steps higher" * (most > NEAR)
    findings = [
        measured("gap", "log p(x) - ELBO", split.total),
        measured("gap_approximation", "approximation gap: the family of q", split.approximation),
        measured("gap_amortization", f"amortization gap: {who}", split.amortization),
        Finding("gap_left", "possible further gain of the best q", left, form="nats", note=note),
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
    x, factors = case.train[:]["x"], model.factors
    weights = factors.concentration / factors.concentration.sum()
    used = float(torch.special.entr(weights).sum().exp())
    of = f"out of {len(weights)}; exponential of the entropy of the mean weights"
    bound = float(model.elbo(x.double().to(case.device))) / len(x)
    name, note = "lower bound on log p(all training data), per example", f"parameters integrated out, n = {len(x):,}"
    findings = [
        Finding("components", "effective number of components", used, best=None, note=of, card=True),
        Finding("evidence_bound", name, bound, best="high", form="nats", note=note),
    ]
    order = weights.argsort(descending=True)
    rows = [
        (f"{float(weights[k]):.3f}", ", ".join(f"{v:.2f}" for v in factors.components.mean[k].tolist()))
        for k in order.tolist()
        if weights[k] > 1e-3
    ]
    return Part("Mixture components", "", findings, tables=[Table(("mean weight", "mean"), rows)])
