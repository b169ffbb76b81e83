"""Bernoulli variables that check their data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Num
from torch import Tensor, distributions
from torch.distributions.kl import register_kl

from jensen.core.shapes import check_broadcast, check_floating


class Bernoulli(distributions.Bernoulli):
    """`torch.distributions.Bernoulli` whose `log_prob` raises for values other than 0 and 1.

    For grey values in (0, 1) the formula would give a number that is not a log-probability.

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
        check_floating(logits=self.logits)
        check_broadcast(value=value, logits=self.logits)
        return F.logsigmoid(torch.where(value == 1, self.logits, -self.logits))

    def entropy(self) -> Tensor:
        """Entropy in nats, elementwise."""
        return -_expect(self, F.logsigmoid(self.logits), F.logsigmoid(-self.logits))


def _expect(p: Bernoulli, one: Tensor, zero: Tensor) -> Tensor:
    """The mean of a function of the bit; an outcome of probability 0 contributes 0 even if its value is infinite."""
    up, down = torch.sigmoid(p.logits), torch.sigmoid(-p.logits)
    return torch.where(up > 0, up * one, 0.0) + torch.where(down > 0, down * zero, 0.0)


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    """Computed from logits: torch returns infinity where q's probability rounds to 0 or 1, from logits of about 17."""
    return _expect(p, *(F.logsigmoid(s * p.logits) - F.logsigmoid(s * q.logits) for s in (1, -1)))
