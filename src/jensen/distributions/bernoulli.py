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
        return F.logsigmoid(torch.where(value == 1, self.logits, -self.logits))

    def entropy(self) -> Tensor:
        """In nats, elementwise."""
        return -_expect(self, F.logsigmoid(self.logits), F.logsigmoid(-self.logits))


def _expect(p: Bernoulli, one: Tensor, zero: Tensor) -> Tensor:
    """The mean of what a bit is worth; what has no probability counts nothing, be it infinite."""
    up, down = torch.sigmoid(p.logits), torch.sigmoid(-p.logits)
    return torch.where(up > 0, up * one, 0.0) + torch.where(down > 0, down * zero, 0.0)


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    """By logits: where q's probability rounds to 0 or 1, which is from a logit of 17 on, torch says infinity."""
    return _expect(p, *(F.logsigmoid(s * p.logits) - F.logsigmoid(s * q.logits) for s in (1, -1)))
