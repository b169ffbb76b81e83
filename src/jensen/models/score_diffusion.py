"""A score model seen as a diffusion model: the same network, so also its samplers, its bound and its ODE."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from jensen.diffusion import Denoiser, Prediction, VarianceExploding
from jensen.models.diffusion import Diffusion, Sampling
from jensen.models.score import ScoreModel


class ScoreDenoiser(Denoiser):
    r"""$\hat\epsilon = -\sigma\, s(z, \sigma)$ on the variance-exploding schedule: Tweedie's formula.

    Args:
        network: (z, sigma (B,)) or (z, sigma, cond) to the score of data noised by sigma.
        schedule: whose sigmas the network knows.
    """

    def __init__(self, network: nn.Module, schedule: VarianceExploding):
        super().__init__()
        self.network, self.schedule, self.null = network, schedule, None

    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        alpha, sigma = self.levels(t, z_t)
        score = self.network(z_t, sigma.flatten().to(z_t), *(() if cond is None else (cond,)))
        return Prediction.of_eps(-sigma * score, z_t, alpha, sigma)


def as_diffusion(model: ScoreModel, sampling: Sampling | None = None) -> Diffusion:
    """The diffusion model of a score model with more than one level: it shares the network and the scale.

    Args:
        model: of a ladder of levels, the largest at t = 1, the smallest at t = 0.
        sampling: how to sample by default.

    Raises:
        ValueError: for a model of one level.

    Source: Song et al. (2021), section 3.4: annealed Langevin's ladder as the variance-exploding process.

    >>> import torch
    >>> from jensen.models.score import NoiseConditional
    >>> model = ScoreModel(NoiseConditional(lambda z, c: torch.zeros_like(z), 9.0, 0.1), (2,), [9.0, 1.0, 0.1])
    >>> as_diffusion(model).sample(3).shape
    torch.Size([3, 2])
    """
    if len(model.sigmas) < 2:
        raise ValueError("a diffusion needs a ladder of at least two noise levels, and this model has one")
    schedule = VarianceExploding(float(model.sigmas[-1]), float(model.sigmas[0]))
    found = Diffusion(ScoreDenoiser(model.network, schedule), model.shape, sampling)
    found.centre, found.scale = model.centre, model.scale
    return found.to(model.centre.device)
