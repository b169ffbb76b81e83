"""Categorical variables, as integers and as one-hot vectors, that check their data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor, distributions
from torch.distributions.kl import register_kl

from jensen.core.shapes import check_broadcast
from jensen.distributions.checks import check


class Categorical(distributions.Categorical):
    r"""`torch.distributions.Categorical` on the integers 0 to C - 1, with mean and variance.

    Draws are integers; data may be floats with integer values. The mean $\sum_k k\, p_k$ is that of the integers; for
    unordered classes use `mode`.

    Raises:
        ValueError: from `log_prob`, if a value is not one of the C integers.

    >>> Categorical(logits=torch.zeros(4)).mean
    tensor(1.5000)
    >>> Categorical(logits=torch.zeros(4)).log_prob(torch.tensor([1.0, 1.7]))
    Traceback (most recent call last):
    ValueError: classes must be integers from 0 to 3, got 1.7
    """

    def log_prob(self, value: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats, elementwise."""
        check_broadcast(value=value, **{"the logits of a class": self.logits[..., 0]})
        last = self._num_events - 1
        check("classes", f"integers from 0 to {last}", value, (value >= 0) & (value <= last) & (value == value.round()))
        log_prob: Tensor = super().log_prob(value)
        return log_prob

    def _expect(self, f: Tensor) -> Tensor:
        """$E[f]$ from the value of f at every class."""
        return (self.probs * f).sum(-1)

    @property
    def mean(self) -> Tensor:
        r"""$\sum_k k\, p_k$."""
        return self._expect(torch.arange(self._num_events, device=self.probs.device))

    @property
    def variance(self) -> Tensor:
        away = torch.arange(self._num_events, device=self.probs.device) - self.mean[..., None]
        return self._expect(away**2)


class OneHot(distributions.OneHotCategorical):
    """`torch.distributions.OneHotCategorical` whose `log_prob` raises for anything but one-hot vectors.

    For relaxed draws torch would silently score the class of the largest entry.

    Raises:
        ValueError: from `log_prob`, if a vector is not one-hot.

    >>> OneHot(logits=torch.zeros(2)).log_prob(torch.tensor([0.4, 0.6]))
    Traceback (most recent call last):
    ValueError: one-hot vectors must have one 1 and zeros otherwise, got [0.4, 0.6]
    """

    def log_prob(self, value: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats of each vector."""
        check_broadcast(value=value, logits=self.logits)
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"one-hot vectors must end in an axis of {self.event_shape[0]}, got {tuple(value.shape)}")
        right = ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)
        if not bool(right.all()):
            wrong = ", ".join(f"{v:.4g}" for v in value[~right][0][:4].tolist())
            more = ", ..." if value.shape[-1] > 4 else ""
            raise ValueError(f"one-hot vectors must have one 1 and zeros otherwise, got [{wrong}{more}]")
        log_prob: Tensor = super().log_prob(value)
        return log_prob


@register_kl(Categorical, Categorical)
@register_kl(OneHot, OneHot)
def _kl_classes(p: Categorical | OneHot, q: Categorical | OneHot) -> Tensor:
    """Computed from logits: torch returns infinity where q's probability rounds to 0."""
    probs: Tensor = p.probs
    return torch.where(probs > 0, probs * (p.logits - q.logits), 0.0).sum(-1)
