"""Disentanglement: whether each latent represents one of the factors that generate the data."""

from __future__ import annotations

import torch
from torch import Tensor

from jensen.core.protocols import Coding
from jensen.core.seeding import derived, drawing, generator
from jensen.judging.case import Case, judge
from jensen.metrics.disentangle import dci, factor_vae_score, mig
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table, proportion

BINS = 20  # of a code for the mutual information; a factor with more levels could not reach a score of 1
CHUNK = 512


@judge
def disentanglement(case: Case) -> Part | None:
    """MIG, DCI and the FactorVAE score of the codes of all combinations of the factors."""
    model, known = case.model, case.data.truths.factors
    if known is None or not isinstance(model, Coding):
        return None

    @torch.no_grad()
    def code(part: Tensor, _: Tensor | None, rng: torch.Generator) -> Tensor:
        with drawing(rng):
            return model.codes(part).flatten(1).cpu()

    codes = torch.cat(case.each("codes of all factors", code, known.x, CHUNK))
    if codes.shape[1] < 2:
        return None
    advance = case.track("disentanglement", 2)
    gaps = mig(codes, known.values, BINS)
    probes = dci(codes, known.values, generator=generator(derived(case.seed, "dci")))
    advance(1)
    votes = factor_vae_score(codes, known.values, generator=generator(derived(case.seed, "votes")))
    advance(1)
    n, right = f"{len(codes):,} examples", "share of levels that boosted trees predict correctly"
    findings = [
        Finding("mig", "mutual information gap (MIG)", gaps.value, best="high", note=f"{n}, {BINS} bins", card=True),
        Finding("dci_disentanglement", "DCI disentanglement", probes.disentanglement, best="high", card=True),
        Finding("dci_completeness", "DCI completeness", probes.completeness, best="high"),
        Finding("dci_informativeness", "DCI informativeness", probes.informativeness, best="high", note=right),
        proportion("factor_vae", "FactorVAE score", votes, form="number", note=f"{votes.n} votes"),
    ]
    shares = (gaps.information / gaps.entropy).T.tolist()
    levels = [int(v) + 1 for v in known.values.amax(0)]
    cells, details = [], []
    for name, share, gap, told, count in zip(
        known.names, shares, gaps.gaps.tolist(), probes.scores.tolist(), levels, strict=True
    ):
        best = max(range(len(share)), key=share.__getitem__)
        cells.append((name, f"{gap:.3f}", str(best + 1), f"{share[best]:.2f}", f"{told:.2f}", f"{1 / count:.2f}"))
        details.append({"name": name, "levels": count, "gap": gap, "predicted": told, "shares": share})
    head = ("factor", "gap", "best coordinate", "share of the factor's entropy", "predicted right", "by chance")
    names = [str(d + 1) for d in range(codes.shape[1])]
    drawn = [
        plots.bars(
            names,
            share,
            title=f"mutual information of each coordinate with {name}",
            xlabel="share of the factor's entropy",
        )
        for name, share in zip(known.names, shares, strict=True)
    ]
    text = (
        "Posterior means of the top layer against the factors that generate the data, over every combination of "
        "the factors. Each score is 1 where every factor has one coordinate and every coordinate one factor. The plots "
        "show each coordinate's mutual information with a factor as a share of the factor's entropy; a factor's gap is "
        "the difference between the largest and the second largest share."
    )
    table = Table(head, cells)
    return Part("Disentanglement", text, findings, plots=drawn, tables=[table], details={"factors": details})
