"""A discriminator of fixed architecture and budget, trained from scratch to distinguish samples from data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.seeding import begin_globally
from jensen.core.shapes import check_count, check_rows
from jensen.metrics.proportion import Proportion, wilson
from jensen.metrics.ranks import AUC, auc

WIDTH, RATE, DECAY, BATCH = 256, 1e-3, 0.1, 64
LOOKS = 12  # points of the learning curve

Pair = tuple[Float[Tensor, "..."], Float[Tensor, "..."]]


@dataclass(frozen=True)
class Discrimination:
    """Results of a discriminator on equal numbers of real and fake test rows.

    Attributes:
        accuracy: share of correct answers; 1/2 if it cannot distinguish them.
        auc: probability that it ranks a real row above a fake one; also 1/2 if it cannot distinguish them, and
            independent of a threshold.
        steps, curve: numbers of training steps, and the test accuracy after each.
        seen: number of training rows of each kind.
    """

    accuracy: Proportion
    auc: AUC
    steps: list[int]
    curve: list[float]
    seen: int


def discriminate(real: Pair, fake: Pair, *, steps: int = 500, seed: int = 0) -> Discrimination:
    """Train a discriminator on the first part of each pair for a fixed number of steps, and test it on the second part.

    Two hidden layers of 256, the logistic loss, AdamW; its initial weights and its batches depend only on the seed.

    Args:
        real: a pair, training data (N, ...) and test data (M, ...).
        fake: a pair of samples with the same numbers of rows.
        steps: number of training steps.
        seed: random seed of the weights and the batches.

    Raises:
        ValueError: if the numbers of real and fake rows differ.

    >>> x = torch.zeros(20, 2)
    >>> discriminate((x, x), (x + 1, x + 1), steps=50).auc.value
    1.0
    """
    check_rows(real=real[0], fake=fake[0])
    check_rows(real=real[1], fake=fake[1])
    check_count(steps=steps)
    if [len(v) for v in real] != [len(v) for v in fake]:
        raise ValueError(
            f"real and fake must have equal numbers of rows, got {[len(v) for v in real]} and {[len(v) for v in fake]}"
        )
    centre, scale = real[0].mean(), real[0].std().clamp_min(1e-6)
    (x, x_kept), (y, y_kept) = ([(rows.flatten(1) - centre) / scale for rows in pair] for pair in (real, fake))
    looks = sorted({max(1, round(steps ** (k / (LOOKS - 1)))) for k in range(LOOKS)})
    curve = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        begin_globally(seed)
        hidden = (nn.Linear(x.shape[1], WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        network = nn.Sequential(*hidden, nn.Linear(WIDTH, 1)).to(x)
        adam = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        for step in range(1, steps + 1):
            logits = [network(rows[torch.randint(len(rows), (BATCH,))]) for rows in (x, y)]
            loss = nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            if step in looks:
                scores = [network(rows).detach().squeeze(1) for rows in (x_kept, y_kept)]
                right = int((scores[0] > 0).sum() + (scores[1] <= 0).sum())
                curve.append(right / (2 * len(y_kept)))
    return Discrimination(wilson(right, 2 * len(y_kept)), auc(scores[1], scores[0]), looks, curve, len(x))
