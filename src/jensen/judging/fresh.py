"""A discriminator of fixed architecture and budget, trained from scratch to tell samples from data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jensen.core.seeding import begin_globally
from jensen.metrics import AUC, Proportion, auc, wilson
from jensen.nn import mlp

WIDTH, RATE, DECAY, BATCH = 256, 1e-3, 0.1, 64
LOOKS = 12  # points of the learning curve


@dataclass(frozen=True)
class Judgement:
    """Results of a discriminator on rows held out from its training, as many real as fake.

    Attributes:
        accuracy: share of correct answers; 1/2 if it cannot tell them apart.
        auc: probability that it ranks a real row above a fake one; also 1/2 if it cannot tell them apart, at any
        threshold.
        steps, curve: numbers of training steps, and its accuracy after each.
        seen: number of training rows of each kind.
    """

    accuracy: Proportion
    auc: AUC
    steps: list[int]
    curve: list[float]
    seen: int


def discriminate(
    real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], *, steps: int = 500, seed: int = 0
) -> Judgement:
    """Train a discriminator on the first of each pair, and test it on the second after a fixed number of steps.

    Two hidden layers, the logistic loss, AdamW; its initial weights and its batches depend only on the seed.

    Args:
        real: training data and test data.
        fake: samples, as many as there are data.
        steps: number of training steps.
        seed: random seed of the weights and the batches.

    Raises:
        ValueError: if the numbers of real and fake rows differ.
    """
    if [len(v) for v in real] != [len(v) for v in fake]:
        raise ValueError(
            f"real and fake must have as many rows each, got {[len(v) for v in real]} and {[len(v) for v in fake]}"
        )
    centre, scale = real[0].mean(), real[0].std().clamp_min(1e-6)
    (x, x_kept), (y, y_kept) = ([(rows.flatten(1) - centre) / scale for rows in pair] for pair in (real, fake))
    looks = sorted({max(1, round(steps ** (k / (LOOKS - 1)))) for k in range(LOOKS)})
    curve = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        begin_globally(seed)
        network = mlp(x.shape[1], WIDTH, WIDTH, 1).to(x)
        adam = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        for step in range(1, steps + 1):
            logits = [network(rows[torch.randint(len(rows), (BATCH,))]) for rows in (x, y)]
            loss = nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            if step in looks:
                told = [network(rows).detach().squeeze(1) for rows in (x_kept, y_kept)]
                right = int((told[0] > 0).sum() + (told[1] <= 0).sum())
                curve.append(right / (2 * len(y_kept)))
    return Judgement(wilson(right, 2 * len(y_kept)), auc(told[1], told[0]), looks, curve, len(x))
