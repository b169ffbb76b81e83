r"""Denoising losses, one number per example; noise and times come from outside.

With mean squared errors over the event, and for any schedule,
$|\hat\epsilon - \epsilon|^2 = \mathrm{SNR}\, |\hat x - x|^2$, so that every loss here is a weight on one error.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import mean_per_example
from jensen.diffusion.denoiser import Prediction


def simple(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    view: Literal["x", "eps", "v", "flow"] = "eps",
) -> Float[Tensor, " b"]:
    """Mean squared error of one view of the prediction; with "eps" it is DDPM's simple loss.

    Source: Ho et al. (2020), equation 14; Salimans & Ho (2022), section 4 for x and v;
    Lipman et al. (2023), equation 23 for flow.

    >>> z, half = torch.zeros(2, 3), torch.full((2, 1), 0.5)
    >>> simple(Prediction.of_flow(z, z, half, half), x=z, eps=torch.ones(2, 3), view="flow")
    tensor([1., 1.])
    """
    truth = Prediction(x, eps, prediction.alpha, prediction.sigma)
    return mean_per_example((prediction.view(view) - truth.view(view)) ** 2)


def min_snr(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],  # noqa: ARG001 (every denoising loss is called with both)
    gamma: float = 5.0,
) -> Float[Tensor, " b"]:
    r"""$\min(\mathrm{SNR}, \gamma)\, |\hat x - x|^2$, finite at both ends.

    Source: Hang et al. (2023), section 3.4.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    snr = prediction.alpha**2 / prediction.sigma**2
    weight = torch.clamp(snr, max=gamma)
    return mean_per_example(weight * (prediction.x - x) ** 2)
