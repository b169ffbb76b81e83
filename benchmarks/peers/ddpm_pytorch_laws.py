"""denoising-diffusion-pytorch's `GaussianDiffusion` adapted to `jensen check`: noise levels, losses, steps.

The network is replaced by one that returns the prediction of the check's denoiser, for events of one channel, row and
column. The buffers are float32. The sampler clips the prediction of x to [-1, 1], so the data here lie inside; it
always makes all its steps, and the last one, to data, is left out. The package imports torchvision only to load and
save pictures: `stand_in_for_torchvision` lets the import succeed if it is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jensen import check
from jensen.core.seeding import drawing
from jensen.diffusion import BetaSchedule, Denoiser, MixtureOracle
from peers.ddpm_pytorch_unet import stand_in_for_torchvision

with stand_in_for_torchvision():
    from denoising_diffusion_pytorch import GaussianDiffusion

VIEWS = {"pred_noise": "eps", "pred_x0": "x", "pred_v": "v"}
STEPS = 200


class Told(nn.Module):
    """A network that returns the prediction of a denoiser."""

    channels = out_dim = 1
    self_condition = False

    def __init__(self, denoiser: Denoiser | None = None, view: str = "eps", steps: int = STEPS):
        super().__init__()
        self.denoiser, self.view, self.steps = denoiser, view, steps

    def forward(self, x: Tensor, t: Tensor, self_cond: None = None) -> Tensor:
        p = self.denoiser(x.flatten(1), ((t + 1) / self.steps).to(x))
        return getattr(p, self.view).view_as(x)


def diffusion(betas: str, objective: str = "pred_noise", *, min_snr: bool = False) -> GaussianDiffusion:
    """Noise levels in double precision, from the rounded buffers."""
    made = GaussianDiffusion(
        Told(view=VIEWS[objective]),
        image_size=1,
        timesteps=STEPS,
        objective=objective,
        beta_schedule=betas,
        min_snr_loss_weight=min_snr,
        auto_normalize=False,
    )
    return made.double()


def oracle(made: GaussianDiffusion) -> MixtureOracle:
    """Two modes inside [-1, 1], noised with the betas of the diffusion."""
    return MixtureOracle([0.3, 0.7], [[-0.5], [0.4]], [[0.01], [0.02]], BetaSchedule(made.betas))


def reports() -> Iterator[tuple[str, check.Report]]:
    """Yields (what was checked, its evidence)."""
    for betas in ("linear", "cosine", "sigmoid"):
        made = diffusion(betas)
        times = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS

        def levels(t: Tensor, made: GaussianDiffusion = made) -> tuple[Tensor, Tensor]:
            k = (t * STEPS - 1).round().long()
            return made.sqrt_alphas_cumprod[k], made.sqrt_one_minus_alphas_cumprod[k]

        yield f"GaussianDiffusion, betas {betas}", check.schedule(levels, times=times)
    for objective in VIEWS:
        for min_snr in (False, True):
            made = diffusion("sigmoid", objective, min_snr=min_snr)

            def loss(denoiser: Denoiser, x: Tensor, t: Tensor, eps: Tensor, made: GaussianDiffusion = made) -> Tensor:
                made.model = Told(denoiser, VIEWS[made.objective])
                k = (t * STEPS - 1).round().long()
                return made.p_losses(x[..., None, None], k, noise=eps[..., None, None], loss_reduction="none")

            snr = made.alphas_cumprod / (1 - made.alphas_cumprod)
            weight = snr.clamp(max=5) if min_snr else snr  # of |x_hat - x|^2, for every parametrisation

            def claimed(t: Tensor, weight: Tensor = weight) -> Tensor:
                return weight[(t * STEPS - 1).round().long()]

            name = f"GaussianDiffusion.p_losses, {objective}" + (", min-SNR" if min_snr else "")
            yield name, check.denoising_loss(loss, oracle(made), weight=claimed)

    def path(denoiser: Denoiser, z: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
        made.model = Told(denoiser, VIEWS[made.objective])
        z = z[..., None, None]
        with drawing(generator):
            for k in range(STEPS - 1, 0, -1):
                z, _x = made.p_sample(z, k)
        return z[..., 0, 0].clone()

    made = diffusion("linear")
    yield (
        "GaussianDiffusion.p_sample",
        check.sampler(path, oracle(made), deterministic=False, start=1.0, end=1 / STEPS, steps=STEPS),
    )
