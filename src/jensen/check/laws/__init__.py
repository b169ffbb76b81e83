"""The propositions behind jensen, by family: what `jensen check` runs. A topic is a file; each of its laws is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jensen.check.law import Law, laws_of
from jensen.check.laws import (
    bilinear,
    bounds,
    critics,
    data,
    dirac_gan,
    distributions,
    divergences,
    estimators,
    gumbel,
    implicit,
    inference,
    kl_price,
    langevin,
    likelihood,
    metrics,
    predictions,
    process,
    samplers,
    score_matching,
    training,
    transport,
    vdm,
)

TOPICS = {
    "adversarial": (divergences, transport, critics),
    "dirac-gan": (dirac_gan,),
    "diffusion": (process, vdm, implicit, samplers, predictions),
    "score": (score_matching, langevin),
    "variational": (likelihood, bounds, kl_price, inference),
    "estimators": (estimators,),
    "distributions": (distributions, gumbel),
    "data": (data,),
    "training": (training, bilinear),
    "metrics": (metrics,),
}
FAMILIES: Mapping[str, Sequence[Law]] = {
    family: [law for topic in topics for law in laws_of(topic)] for family, topics in TOPICS.items()
}
