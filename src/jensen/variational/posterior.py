"""Traces of any q(z | x) instead of a model's encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from jensen.core.modes import evaluating
from jensen.core.seeding import drawing
from jensen.core.shapes import check_count, checked
from jensen.variational.trace import LatentModel, Trace, Unamortized, log_prob

Posterior = Sequence[Distribution]
"""One distribution per layer, independent of each other given x: batch (B,), the event of the layer's latents."""


@checked
def posterior_trace(
    model: LatentModel, x: Float[Tensor, "b ..."], q: Posterior, *, samples: int = 1, reparameterized: bool = True
) -> Trace:
    r"""The trace of K draws from any q; all bounds and gradients accept it.

    Its only term is $\sum_l \log q_l(z_l) - \log p(z)$ over all layers.

    Args:
        model: a model that provides log p(z) and log p(x | z).
        x: data, (B, ...).
        q: one distribution per layer.
        samples: number of draws K, at least 1.
        reparameterized: let the draws carry a gradient.

    Raises:
        ValueError: for fewer than 1 sample, or if the layers, batch or events of q do not match the model.

    >>> from jensen.variational import LinearGaussian
    >>> from jensen.variational.bounds import elbo
    >>> model, x = LinearGaussian([[1.0]], [0.0], 1.0), torch.tensor([[2.0]])
    >>> exact = posterior_trace(model, x, (model.posterior(x),))
    >>> bool(torch.isclose(elbo(exact), model.log_prob(x)))
    True
    """
    check_count(samples=samples)
    check_posterior(q, latent_events(model), len(x))
    return draw(model, x, q, samples, reparameterized)


def draw(model: LatentModel, x: Tensor, q: Posterior, samples: int, reparameterized: bool = True) -> Trace:
    """`posterior_trace` without checks."""
    shape = torch.Size((samples,))
    z = tuple(layer.rsample(shape) if reparameterized else layer.sample(shape) for layer in q)
    ratio = _log_prob(q, z) - model.log_prior(z)
    log_q = _log_prob(q, tuple(v.detach() for v in z))
    return Trace(model.log_px(x, z), (ratio,), (log_q,), analytic=(False,), pathwise=(reparameterized,))


def _log_prob(q: Posterior, z: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([log_prob(layer, v) for layer, v in zip(q, z, strict=True)]).sum(0)


def check_posterior(q: Posterior, events: Sequence[tuple[int, ...]], rows: int) -> None:
    """Raise if the layers, batch or events of q are not those of the latents."""
    if len(q) != len(events):
        raise ValueError(f"the posterior must have one distribution per layer, {len(events)}, got {len(q)}")
    for layer, event in zip(q, events, strict=True):
        got = tuple(layer.batch_shape), tuple(layer.event_shape)
        if got != ((rows,), event):
            raise ValueError(
                f"the posterior must have batch shape ({rows},) and event shape {event}, got {got[0]} and {got[1]}"
            )


def latent_events(model: LatentModel) -> list[tuple[int, ...]]:
    """The event shape of each layer."""
    with evaluating(model), drawing(torch.Generator()):
        return [tuple(z.shape[2:]) for z in model.prior_sample((1, 1))]


def as_vector(z: Sequence[Tensor]) -> Tensor:
    """Concatenate the layers (K, B, *event) to vectors (K, B, M)."""
    return torch.cat([layer.reshape(*layer.shape[:2], -1) for layer in z], dim=2)


def as_layers(z: Tensor, events: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """The inverse of `as_vector`."""
    parts = z.split([math.prod(event) for event in events], dim=2)
    return tuple(part.reshape(*z.shape[:2], *event) for part, event in zip(parts, events, strict=True))


def need_paths(who: str, model: LatentModel, x: Tensor) -> None:
    """Raise if the model's draws carry no gradient, which is tested with one draw for x."""
    if isinstance(model, Unamortized):
        return
    with torch.no_grad(), evaluating(model), drawing(torch.Generator(x.device)):
        pathwise = model.trace(x).pathwise
    if not all(pathwise):
        raise ValueError(
            f"{who} needs reparameterized latents, and the draws of layer {pathwise.index(False) + 1} have no gradient"
        )
