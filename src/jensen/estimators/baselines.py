r"""Baselines b of the score function: they reduce its variance without bias, since $E_q[b\, \nabla\log q] = 0$.

A baseline is a number, a tensor that broadcasts to the values (such as a network's B(x) of shape (B,), trained by
`baseline_loss`), or a function of the values whose result for one draw does not depend on that draw. If all values
along axis 0 share one draw (a node drawn once for a batch), such a function would be biased and raises an error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import checked

Baseline = int | float | Tensor | Callable[[Tensor], Tensor]


def evaluate(baseline: Baseline, values: Tensor) -> Tensor:
    """The baseline of each value, detached.

    Raises:
        ValueError: if the baseline does not broadcast to the values.
    """
    b = baseline(values.detach()) if callable(baseline) else torch.as_tensor(baseline)
    b = b.detach().to(values)
    if not fits(b.shape, values.shape):
        raise ValueError(f"the baseline must broadcast to the values, {tuple(values.shape)}, got {tuple(b.shape)}")
    return b


def fits(shape: torch.Size, into: torch.Size) -> bool:
    """Whether `shape` broadcasts to `into` exactly."""
    try:
        return bool(torch.broadcast_shapes(shape, into) == into)
    except RuntimeError:
        return False


@checked
def leave_one_out(values: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
    r"""The mean of the other draws' values, $b_k = \frac{1}{K - 1} \sum_{j \ne k} f_j$, without parameters or state.

    Args:
        values: (K, ...), K at least 2, one per draw of the node.

    Raises:
        ValueError: for one draw.

    Source: Kool et al. (2019); Mnih & Rezende (2016), equation 7.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
    tensor([4.0000, 3.5000, 1.5000])
    """
    if len(values) < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples, got {len(values)}")
    wide = values.double()  # keeps the digits of small values next to a very large one
    return ((wide.sum(0) - wide) / (len(values) - 1)).to(values)


class MovingAverage(nn.Module):
    r"""An exponentially weighted average of the means of earlier batches, corrected for its initial bias.

    $b_t = \frac{1 - d}{1 - d^t} \sum_{s \le t} d^{t - s}\, \bar f_s$. `forward` only reads the average, so that the
    baseline does not depend on the current draw; call `update` once per step, after the gradient (in an objective's
    `after`).

    Args:
        decay: d, in [0, 1).

    Raises:
        ValueError: if decay is out of range.

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
    @checked
    def update(self, values: Float[Tensor, "..."]) -> None:
        """Update with the mean of a batch of values."""
        self.total.mul_(self.decay).add_((1 - self.decay) * values.detach().mean().to(self.total))
        self.weight.mul_(self.decay).add_(1 - self.decay)


def baseline_loss(baseline: Float[Tensor, "*b"], values: Float[Tensor, "..."]) -> Float[Tensor, "*b"]:
    r"""$\frac{1}{K}\sum_k (f_k - B(x))^2$ per example, minimised by $B(x) = E_q[f | x]$.

    Args:
        baseline: (B,), differentiable.
        values: (K, B) or (B,); detached.

    Raises:
        ValueError: if the baseline is not one number per example.

    Source: Mnih & Gregor (2014), equation 7.

    >>> baseline_loss(torch.tensor([1.0]), torch.tensor([[0.0], [4.0]]))
    tensor([5.])
    """
    if values.shape[max(values.ndim - baseline.ndim, 0) :] != baseline.shape:
        raise ValueError(
            f"a learned baseline must have one number per example of values {tuple(values.shape)}, "
            f"got shape {tuple(baseline.shape)}"
        )
    loss: Tensor = (values.detach() - baseline) ** 2
    return loss.reshape(-1, *baseline.shape).mean(0)
