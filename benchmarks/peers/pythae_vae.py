"""A pythae VAE: its model and its trainer, with the networks of a jensen VAE.

Choices: binary cross-entropy for the reconstruction, as in jensen's decoder; the trainer's own optimizer
(Adam), data loader and loop. `spread` maps an encoder's second half to log standard deviations: pythae's examples use
it unchanged; jensen bounds it, and so does this file, so that values can be compared.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self, net: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor]):
        BaseEncoder.__init__(self)
        self.net, self.spread = net, spread

    def forward(self, x: Tensor) -> ModelOutput:
        mean, raw = self.net(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=2 * self.spread(raw))


class Decoder(BaseDecoder):
    def __init__(self, net: nn.Module):
        BaseDecoder.__init__(self)
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).sigmoid())


def model(
    encoder: Callable[[Tensor], Tensor],
    decoder: nn.Module,
    latents: int,
    shape: tuple[int, ...],
    spread: Callable[[Tensor], Tensor],
) -> VAE:
    """Pythae's VAE with these networks, for pixels 0 and 1."""
    config = VAEConfig(input_dim=shape, latent_dim=latents, reconstruction_loss="bce")
    return VAE(config, Encoder(encoder, spread), Decoder(decoder))


def trainer(made: VAE, x: Tensor, batch: int, rate: float) -> BaseTrainer:
    """Pythae's trainer; `train_step(epoch)` is one epoch over the data x."""
    logging.disable(logging.INFO)
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, learning_rate=rate, no_cuda=True
    )
    ready = BaseTrainer(made, BaseDataset(x, torch.ones(len(x))), training_config=config)
    ready.prepare_training()
    ready.callback_handler.callbacks.clear()  # no progress bar and no console output
    return ready


class Prepared:
    """Replaces the trainer's data loader: prepared batches."""

    def __init__(self, x: Tensor, batch: int):
        self.dataset = x
        self.batches = [DatasetOutput(data=part) for part in x.split(batch) if len(part) == batch]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
