"""The propositions behind jensen, by family: what `jensen check` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jensen.check.law import Law
from jensen.check.laws import (
    adversarial,
    diffusion,
    dirac_gan,
    distributions,
    errata_variational,
    estimators,
    inference,
    kl_price,
    likelihood,
    score,
    training,
    variational,
)

FAMILIES: Mapping[str, Sequence[Law]] = {
    "adversarial": adversarial.LAWS,
    "dirac-gan": dirac_gan.LAWS,
    "diffusion": diffusion.LAWS,
    "score": score.LAWS,
    "variational": (
        *likelihood.LAWS,
        *variational.LAWS,
        *kl_price.LAWS,
        *inference.LAWS,
        *errata_variational.LAWS,
    ),
    "estimators": estimators.LAWS,
    "distributions": distributions.LAWS,
    "training": training.LAWS,
}
