r"""Baselines: what is subtracted from the cost before it weighs the score, $E_q[b\, \nabla\log q] = 0$.

A number or a tensor that broadcasts to the values is a baseline as it is: a constant, or a network's B(x) of shape
(B,), which `baseline_loss` fits. A function of the values is one too, if its answer for one draw does not depend on
that draw. Where values along axis 0 share a draw (a node drawn once for a batch) none can: that is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Baseline = int | float | Tensor | Callable[[Tensor], Tensor]


def evaluate(baseline: Baseline, values: Tensor) -> Tensor:
    """The baseline of each of the values, detached.

    Raises:
        ValueError: if it does not broadcast to them.
    """
    b = baseline(values.detach()) if callable(baseline) else torch.as_tensor(baseline)
    b = b.detach().to(values)
    if not fits(b.shape, values.shape):
        raise ValueError(f"a baseline must broadcast to the values, {tuple(values.shape)}, got {tuple(b.shape)}")
    return b


def fits(shape: torch.Size, into: torch.Size) -> bool:
    """Whether a shape broadcasts into another without enlarging it."""
    try:
        return bool(torch.broadcast_shapes(shape, into) == into)
    except RuntimeError:
        return False


def leave_one_out(values: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
    r"""The mean of the other draws' values, $b_k = \frac{1}{K - 1} \sum_{j \ne k} f_j$; no parameters, no state.

    Args:
        values: (K, ...), K at least 2, of K draws of the node that is scored.

    Raises:
        ValueError: for one draw.

    Source: Kool et al. (2019); Mnih & Rezende (2016), equation 7.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
    tensor([4.0000, 3.5000, 1.5000])
    """
    if len(values) < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples, got {len(values)}")
    wide = values.double()  # a value far above the others leaves them their digits
    return ((wide.sum(0) - wide) / (len(values) - 1)).to(values)


class MovingAverage(nn.Module):
    r"""An exponentially weighted average of the means of earlier batches, without the bias of its start.

    $b_t = \frac{1 - d}{1 - d^t} \sum_{s \le t} d^{t - s}\, \bar f_s$. `forward` only reads, so that the baseline never
    sees the draw it serves; `update` writes, once a step, after the gradient (an objective's `after`).

    Args:
        decay: d, in [0, 1).

    Raises:
        ValueError: for another decay.

    Source: Williams (1992), section 4; Mnih & Gregor (2014), section 2.3.

    >>> b = MovingAverage(0.5)
    >>> for mean in (1.0, 4.0):
    ...     b.update(torch.full((8,), mean))
    >>> b(torch.zeros(3))
    tensor(3.)
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        return torch.where(self.weight > 0, self.total / self.weight.clamp(min=1e-30), 0.0)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in the mean of a batch of values."""
        self.total.mul_(self.decay).add_((1 - self.decay) * values.detach().mean().to(self.total))
        self.weight.mul_(self.decay).add_(1 - self.decay)


def baseline_loss(baseline: Float[Tensor, "*b"], values: Float[Tensor, "..."]) -> Float[Tensor, "*b"]:
    r"""$\frac{1}{K}\sum_k (f_k - B(x))^2$ per example, whose minimiser is $B(x) = E_q[f | x]$.

    Args:
        baseline: (B,), with its gradient.
        values: (K, B) or (B,); their gradient is cut.

    Raises:
        ValueError: if the baseline is not one number per example.

    Source: Mnih & Gregor (2014), equation 7.

    >>> baseline_loss(torch.tensor([1.0]), torch.tensor([[0.0], [4.0]]))
    tensor([5.])
    """
    if values.shape[max(values.ndim - baseline.ndim, 0) :] != baseline.shape:
        raise ValueError(
            f"a learned baseline must give one number per example of values {tuple(values.shape)}, "
            f"got {tuple(baseline.shape)}"
        )
    loss: Tensor = (values.detach() - baseline) ** 2
    return loss.reshape(-1, *baseline.shape).mean(0)
