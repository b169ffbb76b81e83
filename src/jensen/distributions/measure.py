"""Whether the `log_prob` of a distribution is a log mass or a log density."""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Independent, MixtureSameFamily, TransformedDistribution

from jensen.core.seeding import drawing
from jensen.core.types import Measure


def measure(law: Distribution) -> Measure:
    """Whether exp(log_prob) is a mass, which sums to 1, or a density, which integrates to 1.

    The support decides; for independent, mixture and transformed distributions, the support of their base.

    Args:
        law: a `torch.distributions.Distribution`.

    Raises:
        ValueError: for a distribution without a support; for a transform of a discrete distribution that changes
            volumes: torch subtracts the logarithm of a volume from its mass, and the result is neither.

    >>> from jensen.distributions import DiscretizedLogistic
    >>> measure(Independent(DiscretizedLogistic(torch.zeros(3), 1.0), 1))
    'mass'
    >>> measure(torch.distributions.Gamma(1.0, 1.0))
    'density'
    """
    if isinstance(law, Independent):
        return measure(law.base_dist)
    if isinstance(law, MixtureSameFamily):
        return measure(law.component_distribution)
    if isinstance(law, TransformedDistribution):
        found = measure(law.base_dist)
        if found == "mass" and not _keeps_volumes(law):
            raise ValueError(
                f"a transformed {type(law.base_dist).__name__} must preserve volumes, or its log_prob is not a log "
                "mass: use a distribution of the transformed values instead"
            )
        return found
    try:
        support = law.support
    except NotImplementedError:
        support = None
    if support is None:
        raise ValueError(f"{type(law).__name__} must have a support that says whether its log_prob is a log mass")
    return "mass" if support.is_discrete else "density"


@torch.no_grad()
def _keeps_volumes(law: TransformedDistribution) -> bool:
    """Whether the transforms leave the log-probability of a draw unchanged."""
    with drawing(torch.Generator()):
        x = y = law.base_dist.sample()
    for transform in law.transforms:
        y = transform(y)
    before = law.base_dist.log_prob(x).sum()
    return bool(torch.isclose(law.log_prob(y).sum(), before))
