"""The propositions behind jensen, by family: what `jensen check` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jensen.check.law import Law
from jensen.check.laws import (
    adversarial,
    diffusion,
    diffusion_more,
    dirac_gan,
    distributions,
    errata_variational,
    estimators,
    gumbel,
    inference,
    kl_price,
    likelihood,
    metrics,
    score,
    training,
    variational,
)

FAMILIES: Mapping[str, Sequence[Law]] = {
    "adversarial": adversarial.LAWS,
    "dirac-gan": dirac_gan.LAWS,
    "diffusion": (*diffusion.LAWS, *diffusion_more.LAWS),
    "score": score.LAWS,
    "variational": (
        *likelihood.LAWS,
        *variational.LAWS,
        *kl_price.LAWS,
        *inference.LAWS,
        *errata_variational.LAWS,
    ),
    "estimators": estimators.LAWS,
    "distributions": (*distributions.LAWS, *gumbel.LAWS),
    "training": training.LAWS,
    "metrics": metrics.LAWS,
}
