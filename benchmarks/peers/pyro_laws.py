"""Pyro's gradients of the ELBO adapted to `jensen check`: p(z) = N(0, 1), p(x | z) = N(z, 1), q = N(m, s).

An estimator is minus Pyro's differentiable loss; f is not used, since Pyro derives it from the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from jensen import check

X = 1.5


def model(_: Any) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(X))


def estimator(loss: Any, family: Any) -> Callable[[Any, Any], Tensor]:
    """Pyro's estimate of the ELBO, with its gradient."""

    def value(q: Any, _: Any) -> Tensor:
        def guide(_: Any) -> None:
            pyro.sample("z", family(q.loc, q.scale))

        found: Tensor = -loss.differentiable_loss(model, guide, None)
        return found

    return value


def reports() -> Iterator[tuple[str, check.Report]]:
    """The check of each estimator."""
    for name, loss, family in (
        ("Trace_ELBO, reparameterized", Trace_ELBO(), dist.Normal),
        ("Trace_ELBO, score function", Trace_ELBO(), NonreparameterizedNormal),
        ("TraceMeanField_ELBO", TraceMeanField_ELBO(), dist.Normal),
    ):
        m, s = (torch.tensor(v, requires_grad=True) for v in (0.3, 0.8))
        exact = [torch.tensor(X - 2 * 0.3), torch.tensor(1 / 0.8 - 2 * 0.8)]
        q, rng = torch.distributions.Normal(m, s), torch.Generator().manual_seed(0)
        yield name, check.gradient(estimator(loss, family), q, torch.square, exact, parameters=[m, s], generator=rng)
