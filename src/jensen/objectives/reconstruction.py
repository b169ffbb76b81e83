"""Train a deterministic autoencoder, with or without corrupted inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.shapes import checked
from jensen.core.types import Batch, Loss, entry
from jensen.models.autoencoder import Autoencoder
from jensen.variational.trace import log_prob


@dataclass(frozen=True)
class AddedNoise:
    r"""$\tilde x = x + \sigma \epsilon$ with standard normal $\epsilon$.

    Args:
        std: $\sigma$, positive.

    Raises:
        ValueError: if std is not positive.

    Source: Vincent et al. (2010), section 3.3.
    """

    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    @checked
    def __call__(self, x: Float[Tensor, "..."]) -> Tensor:
        return x + self.std * torch.randn_like(x)


@dataclass(frozen=True)
class Masked:
    """Sets each number of x to 0 independently with probability `share`.

    Args:
        share: probability, in (0, 1).

    Raises:
        ValueError: if the share is out of range.

    Source: Vincent et al. (2010), section 3.3.

    >>> _ = torch.manual_seed(0)
    >>> Masked(0.5)(torch.ones(8))
    tensor([0., 1., 0., 0., 0., 1., 0., 1.])
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1), got {self.share}")

    @checked
    def __call__(self, x: Float[Tensor, "..."]) -> Tensor:
        return x * (torch.rand_like(x) >= self.share)


class Reconstruction(Objective):
    r"""Minimise the batch mean of $-\log p(x | z = e(\tilde x))$, a squared error for a Gaussian decoder.

    Without corruption $\tilde x = x$. With it this is a denoising autoencoder: for `AddedNoise` of variance $\sigma^2$
    and squared errors the best reconstruction of $\tilde x$ is
    $E[x | \tilde x] = \tilde x + \sigma^2 \nabla \log p_\sigma(\tilde x)$.

    A learned prior is fitted to the codes by maximum likelihood, on $-\log p(e(x))$ with no gradient to the encoder, so
    that the autoencoder can be sampled.

    Player: "model".

    Args:
        model: an autoencoder.
        corruption: maps x to $\tilde x$, with new draws in each step.

    Raises:
        ValueError: if the model is not an `Autoencoder`.

    Source: Vincent et al. (2010), equations 5 and 6; Vincent (2011), section 4, for the score; Ghosh et al. (2020),
    section 4, for a prior fitted to the codes.

    >>> from jensen.distributions import Conditional, FlatPrior, IsotropicGaussian
    >>> model = Autoencoder(nn.Linear(5, 2), Conditional(nn.Linear(2, 5), IsotropicGaussian()), FlatPrior(2))
    >>> loss = Reconstruction(model, AddedNoise(0.1))(("model",), {"x": torch.zeros(3, 5)}, 0)["model"]
    >>> sorted(loss.terms)
    ['log_px', 'loss']
    """

    model: Autoencoder

    def __init__(self, model: nn.Module, corruption: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        if not isinstance(model, Autoencoder):
            raise ValueError(f"model must be an Autoencoder, got a {type(model).__name__}")
        self.model, self.corruption = model, corruption

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x = entry(batch, "x")
        z = self.model.encoder(x if self.corruption is None else self.corruption(x))
        log_px = self.model.log_px(x, z)
        terms = {"log_px": log_px}
        if any(p.requires_grad for p in self.model.prior.parameters()):
            terms["log_prior"] = log_prob(self.model.prior(), z.detach())
        return {"model": Loss.of(-torch.stack([v.mean() for v in terms.values()]).sum(), **terms)}
