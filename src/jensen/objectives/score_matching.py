"""Train a score model by score matching."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jensen.core.objective import Objective
from jensen.core.shapes import right_pad
from jensen.core.types import Batch, Loss, entry
from jensen.models.score import ScoreModel
from jensen.score import NoisyScore, implicit, noise_conditional, sliced, sliced_vr, slices

MatchingLoss = Callable[[NoisyScore, Tensor, Tensor, Tensor], Tensor]
"""A loss: maps (score, x, eps, sigma (B,)) to (B,)."""


def noised_implicit(score: NoisyScore, x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    r"""$\sigma^2$ times `implicit` at $x + \sigma\epsilon$: fits the same density as denoising."""
    return sigma**2 * implicit(lambda z: score(z, sigma), _noised(x, eps, sigma))


def noised_sliced(score: NoisyScore, x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    r"""$\sigma^2$ times `sliced` at $x + \sigma\epsilon$, one Rademacher slice per row."""
    return sigma**2 * sliced(lambda z: score(z, sigma), _noised(x, eps, sigma), slices(x))


def noised_sliced_vr(score: NoisyScore, x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    r"""$\sigma^2$ times `sliced_vr` at $x + \sigma\epsilon$, one Rademacher slice per row."""
    return sigma**2 * sliced_vr(lambda z: score(z, sigma), _noised(x, eps, sigma), slices(x))


MATCHING: dict[str, MatchingLoss] = {
    "denoising": noise_conditional,
    "implicit": noised_implicit,
    "sliced": noised_sliced,
    "sliced-vr": noised_sliced_vr,
}


class ScoreMatching(Objective):
    r"""$E_{\sigma, \epsilon}\, \sigma^2\, \ell(s(\cdot, \sigma), x + \sigma\epsilon)$, sigma uniform over the levels.

    All losses have the same minimiser, the score of the data noised by each level; they differ in variance and cost.
    With one small level this is score matching of the data itself.

    Args:
        model: the model to train.
        loss: "denoising", "implicit" (one backward pass per dimension), "sliced", "sliced-vr", or a function (score, x,
            eps, sigma) -> (B,) of standardised data.

    Raises:
        ValueError: for an unknown name.

    Source: Song & Ermon (2019), equations 5 and 6; Song et al. (2019) for the sliced losses.
    """

    model: ScoreModel

    def __init__(self, model: ScoreModel, *, loss: str | MatchingLoss = "denoising"):
        super().__init__()
        if isinstance(loss, str) and loss not in MATCHING:
            raise ValueError(f"loss must be one of {', '.join(MATCHING)}, or a function, got {loss!r}")
        self.model = model
        self.loss: MatchingLoss = MATCHING[loss] if isinstance(loss, str) else loss

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x, cond = self.model.standardize(entry(batch, "x")), batch.get("cond")
        sigmas = self.model.sigmas
        sigma = sigmas[torch.randint(len(sigmas), (len(x),), device=sigmas.device)].to(x)
        eps = torch.randn_like(x)
        extra = () if cond is None else (cond,)
        loss = self.loss(lambda z, sigma: self.model.network(z, sigma, *extra), x, eps, sigma)
        return {"model": Loss.of(loss.mean())}


def _noised(x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    return x + right_pad(sigma, x) * eps
