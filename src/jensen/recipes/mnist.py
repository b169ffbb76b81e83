"""Variational autoencoders of pictures in a file that the user points at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from jensen.data.idx import read_idx
from jensen.recipes.base import Positive, Settings, Training
from jensen.recipes.latent import LatentNetwork, LatentRecipe


class IdxData(Settings):
    """Pictures of an IDX file, ink where a pixel is 128 or above; the last ones are kept for judging."""

    images: str = ""
    height: Positive = 28
    width: Positive = 28
    test: Annotated[int, Field(ge=2)] = 1000

    @field_validator("images")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        return str(Path(value).absolute()) if value else ""

    def read(self) -> Tensor:
        """(N, 1, H, W) uint8.

        Raises:
            ValueError: if no file is given, or it holds no pictures, or no more than are kept.
        """
        if not self.images:
            raise ValueError("data.images is not set: give the IDX file of pictures with --set data.images=PATH")
        found = read_idx(self.images)
        if found.ndim != 3 or found.dtype != torch.uint8:
            raise ValueError(f"{self.images} holds no pictures: they are bytes on three axes, N x H x W")
        if found.shape[1:] != (self.height, self.width):
            raise ValueError(
                f"{self.images} holds pictures of {found.shape[1]} x {found.shape[2]}: "
                f"set data.height and data.width, which are {self.height} and {self.width}"
            )
        if len(found) <= self.test:
            raise ValueError(f"data.test keeps {self.test} pictures, and {self.images} has only {len(found)}")
        return found.unsqueeze(1)


class MnistVAE(LatentRecipe):
    """Pictures of a file that the user points at."""

    summary: ClassVar[str] = "variational autoencoder of the pictures in an IDX file (data.images=PATH), MNIST's say"
    recipe: Literal["mnist-vae"] = "mnist-vae"
    data: IdxData = IdxData()
    network: LatentNetwork = LatentNetwork(latents=(32,), hidden=512)
    training: Training = Training(
        steps=8000, batch_size=128, rate=1e-3, average=0.99, save_every=1000, log_every=50, previews=6
    )

    def check(self) -> None:
        super().check()
        self.data.read()

    def shape(self) -> tuple[int, int, int]:
        return 1, self.data.height, self.data.width

    def pictures(self) -> tuple[Tensor, Tensor]:
        ink = (self.data.read() >= 128).float()
        return ink[: -self.data.test], ink[-self.data.test :]
