"""What a view of the prediction cannot do at the ends of a schedule, said before anything is made."""

from __future__ import annotations

import torch
from torch import nn

from jensen.diffusion import NetworkDenoiser, Schedule
from jensen.diffusion.denoiser import Output


def ends_of(output: Output, schedule: Schedule) -> NetworkDenoiser:
    """A denoiser without a network, to be asked where it is `defined`."""
    return NetworkDenoiser(nn.Identity(), schedule, output=output)


def check_start(output: Output, name: str, schedule: Schedule, start: float) -> None:
    """Refuse to sample from a time at which the network's output gives no x.

    Raises:
        ValueError: with the key to set and a value to set it to.
    """
    if not ends_of(output, schedule).defined(torch.tensor(start)):
        raise ValueError(
            f"network.output {output} has no finite x at t = {start:g} of the {name} schedule: "
            "set sampling.start lower, to 0.999 for example"
        )
