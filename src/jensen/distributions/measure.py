"""Whether a law gives masses or densities."""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Independent, MixtureSameFamily, TransformedDistribution

from jensen.core.seeding import drawing
from jensen.core.types import Measure


def measure(law: Distribution) -> Measure:
    """What the exponential of its `log_prob` is: a mass, which sums to one, or a density, which integrates to one.

    It is told by the law's support; a law of laws (independent, a mixture, transformed) is what they are.

    Args:
        law: any distribution of torch's kind.

    Raises:
        ValueError: for a law that has no support; for one that transforms a discrete law and changes volumes, from
            whose mass torch takes the logarithm of a volume, so that it is neither.

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
                f"a transformed {type(law.base_dist).__name__} must keep volumes, or its log_prob is no log mass: "
                "give the law of the values themselves"
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
    """Whether the transforms leave the log-probability of a draw as it is."""
    with drawing(torch.Generator()):
        x = y = law.base_dist.sample()
    for transform in law.transforms:
        y = transform(y)
    before = law.base_dist.log_prob(x).sum()
    return bool(torch.isclose(law.log_prob(y).sum(), before))
