r"""The diffusers recipe for the pictures of `captcha`.

Source: diffusers, examples/unconditional_image_generation/train_unconditional.py. Unchanged from it:
float32, `DDPMScheduler` of 1000 steps with linear betas, uniform times, mean squared error of epsilon,
AdamW (rate 1e-4, betas 0.95 and 0.999, weight decay 1e-6), cosine schedule after 500 steps of warm-up,
gradients clipped to norm 1, `EMAModel` with warm-up (inverse gamma 1, power 3/4, at most 0.9999), batches
of 16. The example's `accelerate` changes nothing for one process in float32 and is left out.

Where the example leaves a choice, it was made in the peer's favour:

- Network: `UNet2DModel` with two layers per block as in the example, but four levels, since 24 rows halve
  three times, and with as many parameters as jensen's network within 5 percent. Of a dozen shapes
  around that size it has the fewest operations per picture, and its widths suit a CPU's vector units.
- Text: the example has no text and `UNet2DModel` has no cross-attention, so the four characters enter where
  the library puts classes: `class_embed_type="identity"`, with a learned vector for each (character, place),
  summed over the places and added to the time embedding. This can represent every linear function of the text,
  and has the width of the time embedding. One text in ten is dropped in training, for guidance.
- `network="cross-attention"` is the library's other way, not in the example: a `UNet2DConditionModel` of
  the same size that attends to the four vectors.
- Sampling: DPM-Solver++ 2M with classifier-free guidance and dynamic thresholding, the library's option
  for guidance in pixel space.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.types import Batch
from jensen.data.space import Space, Text

Network = Literal["class-embedding", "cross-attention"]
TRAIN_TIMES = 1000
CHUNK = 128  # pictures that are sampled together
WIDTHS = {"class-embedding": (32, 32, 64, 96), "cross-attention": (32, 32, 64, 64)}
ATTENDING = {"class-embedding": (2, 3), "cross-attention": (1, 2, 3)}


@dataclass(frozen=True)
class PeerSettings:
    """The example's settings, and those of sampling.

    Attributes:
        network: how the text enters the network.
        batch_size, rate, warmup: batch size, learning rate and warm-up steps of training.
        drop: probability that a text is dropped in training.
        precision: "bfloat16" is the example's `--mixed_precision=bf16`.
        steps: number of sampling steps.
    """

    network: Network = "class-embedding"
    batch_size: int = 16
    rate: float = 1e-4
    warmup: int = 500
    drop: float = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    steps: int = 25


def _levels(network: Network, plain: str, attending: str) -> tuple[str, ...]:
    return tuple(attending if i in ATTENDING[network] else plain for i in range(len(WIDTHS[network])))


class PeerNetwork(nn.Module):
    """diffusers' U-Net, conditioned on text: (B, 1, H, W), (B,), (B, length) -> (B, 1, H, W).

    Args:
        space: space of the pictures; index `cond.size` is "no character".
        network: how the text enters the network.
    """

    places: Tensor

    def __init__(self, space: Space, network: Network = "class-embedding"):
        super().__init__()
        assert isinstance(space.cond, Text)
        (channels, *size), widths = space.shape, WIDTHS[network]
        letters, length = space.cond.size + 1, space.cond.length
        common = {
            "sample_size": tuple(size),
            "in_channels": channels,
            "out_channels": channels,
            "layers_per_block": 2,
            "block_out_channels": widths,
        }
        self.attends = network == "cross-attention"
        text_channels = 4 * widths[0]  # the width of the time embedding
        self.text = nn.Embedding(length * letters, text_channels)
        self.register_buffer("places", letters * torch.arange(length), persistent=False)
        if self.attends:
            self.unet: nn.Module = UNet2DConditionModel(
                down_block_types=_levels(network, "DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=_levels(network, "UpBlock2D", "CrossAttnUpBlock2D")[::-1],
                cross_attention_dim=text_channels,
                **common,
            )
        else:
            self.unet = UNet2DModel(
                down_block_types=_levels(network, "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=_levels(network, "UpBlock2D", "AttnUpBlock2D")[::-1],
                class_embed_type="identity",
                **common,
            )

    def forward(self, noisy: Tensor, times: Tensor, cond: Tensor) -> Tensor:
        text = self.text(cond + self.places)
        if self.attends:
            return self.unet(noisy, times, encoder_hidden_states=text).sample
        return self.unet(noisy, times, class_labels=text.sum(1) / math.sqrt(text.shape[1])).sample


class Peer:
    """The network in training, and its average.

    Args:
        space: space of the pictures.
        settings: settings of the peer.
        total: number of steps of the cosine schedule.
        seed: random seed of the weights.
    """

    def __init__(self, space: Space, settings: PeerSettings, total: int, seed: int):
        torch.manual_seed(seed)
        assert space.cond is not None
        self.settings, self.shape, self.null = settings, space.shape, space.cond.size
        self.network = PeerNetwork(space, settings.network)
        self.noise = DDPMScheduler(num_train_timesteps=TRAIN_TIMES, beta_schedule="linear", prediction_type="epsilon")
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.rates = get_scheduler(
            "cosine", optimizer=self.optimizer, num_warmup_steps=settings.warmup, num_training_steps=total
        )
        self.ema = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        self.total, self.step = total, 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def train_step(self, batches: Iterator[Batch]) -> float:
        """The body of the example's loop: one batch, one step of everything; returns the loss."""
        batch = next(batches)
        self.network.train()
        x, cond = batch["x"], self._dropped(batch["cond"])
        noise = torch.randn_like(x)
        times = torch.randint(0, TRAIN_TIMES, (len(x),)).long()
        noisy = self.noise.add_noise(x, noise, times)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            predicted = self.network(noisy, times, cond)
        loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        if self.step < self.total:  # past its end the cosine would rise again
            self.rates.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        self.step += 1
        return loss.item()

    def _dropped(self, cond: Tensor) -> Tensor:
        dropped = torch.rand(len(cond), 1) < self.settings.drop
        return torch.where(dropped, torch.full_like(cond, self.null), cond)

    @torch.no_grad()
    def sample(self, cond: Tensor, guidance: float, seed: int = 0) -> Tensor:
        """Pictures of encoded texts by the averaged network, (N, C, H, W); guidance 1 is off."""
        network = copy.deepcopy(self.network).eval()
        self.ema.copy_to(network.parameters())
        rng = torch.Generator().manual_seed(seed)
        return torch.cat([self._sample(network, part, guidance, rng) for part in cond.split(CHUNK)])

    def _sample(self, network: PeerNetwork, cond: Tensor, guidance: float, rng: torch.Generator) -> Tensor:
        solver = DPMSolverMultistepScheduler(
            num_train_timesteps=TRAIN_TIMES, beta_schedule="linear", prediction_type="epsilon", thresholding=True
        )
        solver.set_timesteps(self.settings.steps)
        z = torch.randn((len(cond), *self.shape), generator=rng)
        null = torch.full_like(cond, self.null)
        for t in solver.timesteps:
            if guidance == 1:
                eps = network(z, t, cond)
            else:
                eps, free = network(torch.cat([z, z]), t, torch.cat([cond, null])).chunk(2)
                eps = free + guidance * (eps - free)
            z = solver.step(eps, t, z).prev_sample
        return z
