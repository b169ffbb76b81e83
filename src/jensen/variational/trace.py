"""Draws of a latent variable model on a batch, and the protocols that bounds and estimators require of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from jensen.core.shapes import checked, single
from jensen.core.types import Measure


@checked
@dataclass(frozen=True)
class Trace:
    r"""Log-probabilities of K draws $z_k \sim q(z | x_b)$ of the latents of L layers; every entry is (K, B), in nats.

    Without analytic terms, $\log w = \log p(x | z) - \sum_l \mathrm{kl}_l = \log p(x, z) / q(z | x)$.

    Attributes:
        log_px: $\log p(x | z)$.
        kl: one entry per layer, the layer next to x first: $\log q_l / p_l$ at the draw, or, where `analytic`, the
            closed-form $\mathrm{KL}(q_l \| p_l)$ given the layers it depends on.
        log_q: $\log q_l$ with a gradient to the parameters of q but not to the latents, which the score function adds
            and sticking the landing removes.
        analytic: one bool per term of `kl`. A term whose prior depends on a latent drawn later is not a KL divergence,
            and never analytic (the lower layers of a bottom-up hierarchy).
        pathwise: one bool per layer: whether its draws are reparameterized, or trained by the score function, which
            keeps the gradient through the latents on which the layer depends.
        coordinates: each entry of `kl` before the sum over the layer's independent coordinates (K, B, D), see
            `Layer.coordinates`; empty if the model does not provide them.
    """

    log_px: Float[Tensor, "k b"]
    kl: tuple[Float[Tensor, "k b"], ...]
    log_q: tuple[Float[Tensor, "k b"], ...]
    analytic: tuple[bool, ...]
    pathwise: tuple[bool, ...]
    coordinates: tuple[Float[Tensor, "k b _"], ...] = ()

    def __post_init__(self) -> None:
        lengths = [len(v) for v in (self.kl, self.log_q, self.analytic, self.pathwise)]
        if len({*lengths, len(self.coordinates) or lengths[0]}) != 1:
            raise ValueError(f"kl, log_q, analytic and pathwise must have one entry per layer, got {lengths}")

    @property
    def samples(self) -> int:
        """The number of draws K."""
        return len(self.log_px)


@dataclass(frozen=True)
class Layer:
    """The draws of one layer, and their distributions under q and p.

    Attributes:
        z: (K, B, *event).
        q: the distribution z was drawn from, given the layers it depends on; batch (K, B) or (B,).
        p: the prior given the draws of the layer above; batch (K, B) or ().
        held: the same q, without a gradient through the draws it depends on.
        divergence: whether p does not depend on latents drawn after z, so that the layer's term is a KL divergence.
    """

    z: Tensor
    q: Distribution
    p: Distribution
    held: Distribution
    divergence: bool

    def term(self, analytic: bool) -> tuple[Tensor, bool]:
        """The layer's term in nats, (K, B) or (B,), and whether it is KL(q || p) in closed form.

        It is log q / p at the draws unless `analytic` is set, the term is a KL divergence, and torch implements it.
        """
        term, closed = self.coordinates(analytic)
        return term.sum(-1), closed

    def coordinates(self, analytic: bool) -> tuple[Tensor, bool]:
        """The term before the sum over coordinates that are independent under q and p: (K, B, D) or (B, D).

        A one-hot variable is one coordinate; D is 1 if q or p does not factorise.
        """
        q, p, axes = self.q, self.p, 0
        if isinstance(q, Independent) and isinstance(p, Independent):
            same = q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
            q, p, axes = (q.base_dist, p.base_dist, q.reinterpreted_batch_ndims) if same else (q, p, 0)
        term, closed = self._between(q, p, analytic)
        return single(term.flatten(-axes) if axes else term.unsqueeze(-1)), closed

    def _between(self, q: Distribution, p: Distribution, analytic: bool) -> tuple[Tensor, bool]:
        if analytic and self.divergence:
            try:
                return kl_divergence(q, p), True
            except NotImplementedError:
                pass
        return q.log_prob(self.z) - p.log_prob(self.z), False


def log_prob(law: Distribution, value: Tensor) -> Tensor:
    """The log-probability in at least single precision: at 550 nats the spacing of bfloat16 is 4.

    For independent variables in half precision the terms are rounded, but not their sum.
    """
    if isinstance(law, Independent) and law.reinterpreted_batch_ndims:
        axes = tuple(range(-law.reinterpreted_batch_ndims, 0))
        return log_prob(law.base_dist, value).sum(axes)
    return single(law.log_prob(value))


@runtime_checkable
class LatentModel(Protocol):
    """A joint density p(x, z) over layers of latents, and a q(z | x) to draw them from.

    Latents are a tuple with one entry per layer, the layer next to x first, each (K, B, *event of the layer).
    """

    @property
    def measure(self) -> Measure:
        """Whether p(x | z) is a mass or a density."""
        ...

    def trace(self, x: Tensor, *, samples: int = 1, analytic: bool = False, reparameterized: bool = True) -> Trace:
        """Draw the latents K times for each row of x (B, *event).

        Args:
            x: data.
            samples: number of draws K, at least 1.
            analytic: use closed-form KL divergences where available.
            reparameterized: let the draws carry a gradient if the family permits it.
        """
        ...

    def prior_sample(self, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Draws from p(z), one tensor per layer, each of `shape` + the layer's event."""
        ...

    def log_prior(self, z: tuple[Tensor, ...]) -> Tensor:
        """Log p(z), (K, B)."""
        ...

    def log_px(self, x: Tensor, z: tuple[Tensor, ...]) -> Tensor:
        """Log p(x | z), (K, B)."""
        ...


@runtime_checkable
class Unamortized(LatentModel, Protocol):
    """A latent-variable model without an encoder: its q(z | x) is fitted to each datum."""

    def fitted(self, x: Tensor) -> Sequence[Distribution]:
        """One distribution per layer, with `rsample`, batch (B,)."""
        ...
