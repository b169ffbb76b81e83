"""Torchgan's losses and penalties adapted to `jensen check`.

A penalty gets a point between real and generated, with one epsilon per example, as in its documentation. The
package imports torchvision for its trainer: see `stand_in_for_torchvision`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jensen import check
from peers.ddpm_pytorch_unet import stand_in_for_torchvision

with stand_in_for_torchvision():
    from torchgan.losses import functional


def between(critic: check.penalties.Critic, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """A point on the line between each pair, and the critic's logits there."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype)
    x = (share * real + (1 - share) * fake).detach().requires_grad_()
    return x, critic(x)


def reports() -> Iterator[tuple[str, check.Report]]:
    """The check of each loss and penalty."""
    logistic, squares = functional.minimax_discriminator_loss, functional.least_squares_discriminator_loss
    losses = {  # as functions of the real logit; the generated one has loss 0
        "minimax_discriminator_loss": lambda m: logistic(m, torch.full_like(m, -1e6), reduction="none"),
        "least_squares_discriminator_loss, a = -1": lambda m: squares(m, -torch.ones_like(m), a=-1.0, reduction="none"),
    }
    yield "minimax_discriminator_loss", check.margin_loss(losses["minimax_discriminator_loss"], critic=torch.log)
    name = "least_squares_discriminator_loss, a = -1"
    yield name, check.margin_loss(losses[name], critic=lambda u: (u - 1) / (u + 1))
    for name, penalty in (
        ("wasserstein_gradient_penalty", functional.wasserstein_gradient_penalty),
        ("dragan_gradient_penalty", functional.dragan_gradient_penalty),
    ):
        yield name, check.penalty(lambda c, r, f, own=penalty: own(*between(c, r, f)), lambda g: (g - 1) ** 2)
