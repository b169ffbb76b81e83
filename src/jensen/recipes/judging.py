"""What judgements of several families share: means with their errors, words for them, pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from jensen.core.types import Likelihood
from jensen.diffusion import Schedule
from jensen.variational import Gap


def mean_of(found: Likelihood | Gap) -> dict[str, float]:
    """The mean over data, its error over the choice of data, and the part of it that is Monte Carlo noise."""
    n = len(found.value)
    noise = 0.0 if found.stderr is None else float(found.stderr.square().sum().sqrt()) / n
    return {"mean": float(found.value.mean()), "stderr": float(found.value.std()) / n**0.5, "noise": noise}


def nats(found: dict[str, Any]) -> str:
    """A mean in words."""
    return f"{found['mean']:.3f} ± {found['stderr']:.3f} nats"


def bits(found: dict[str, Any]) -> str:
    """Its bits a dimension in words."""
    return f"{found['bits_per_dim']:.4f} bits a dimension"


def first_level(schedule: Schedule, t: float) -> dict[str, float]:
    """Where a bound or an ODE starts: the time of its first level, and the log-SNR there."""
    return {"time": t, "log_snr": schedule.log_snr(torch.tensor(t, dtype=torch.float64)).item()}


def since(found: dict[str, Any]) -> str:
    """The first level of a bound, or of an ODE, in words."""
    return f"from log-SNR {found['first']['log_snr']:.2f} (t = {found['first']['time']:g})"


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    page = Image.new("RGB", (sum(i.width for i in images), images[0].height), "white")
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width
    return page


def chosen(states: Sequence[Any], most: int) -> list[Any]:
    """At most so many of a sequence, evenly, the first and the last among them."""
    if len(states) <= most:
        return list(states)
    return [states[round(k * (len(states) - 1) / (most - 1))] for k in range(most)]


NEARER = "1/2 for draws of the data, towards 1 for copies or for samples concentrated where data are dense"
"""How to read the chance that a sample is nearer to a training datum than fresh data are."""
