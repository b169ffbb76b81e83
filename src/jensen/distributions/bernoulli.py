"""Bernoulli variables that say when the data are not bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Num
from torch import Tensor, distributions
from torch.distributions.kl import register_kl


class Bernoulli(distributions.Bernoulli):
    """`torch.distributions.Bernoulli` whose log-probability refuses anything but 0 and 1, in one sentence.

    Of a grey value in (0, 1) the formula would give a number that is no log-probability.

    Raises:
        ValueError: from `log_prob`, if a value is neither 0 nor 1.

    >>> Bernoulli(logits=torch.zeros(2)).log_prob(torch.tensor([0.5, 1.0]))
    Traceback (most recent call last):
    ValueError: a Bernoulli's data must be 0 or 1, got values in [0.5, 1]: binarize them
    """

    def log_prob(self, value: Num[Tensor, "..."] | Bool[Tensor, "..."]) -> Num[Tensor, "..."]:
        """Log-probability in nats, elementwise."""
        if not bool(((value == 0) | (value == 1)).all()):
            low, high = float(value.min()), float(value.max())
            raise ValueError(f"a Bernoulli's data must be 0 or 1, got values in [{low:.4g}, {high:.4g}]: binarize them")
        log_prob: Tensor = super().log_prob(value.to(self.logits.dtype))
        return log_prob


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    """By logits: where q's probability rounds to 0 or 1, which is from a logit of 17 on, torch says infinity."""
    sides = [
        torch.where(b > 0, b * (F.logsigmoid(s * p.logits) - F.logsigmoid(s * q.logits)), 0.0)
        for s, b in ((1, torch.sigmoid(p.logits)), (-1, torch.sigmoid(-p.logits)))
    ]
    return sides[0] + sides[1]
