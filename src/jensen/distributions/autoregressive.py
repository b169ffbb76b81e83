"""Autoregressive Bernoulli variables: a likelihood so flexible that a decoder may ignore its latents."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from jensen.core.shapes import check_broadcast
from jensen.distributions.bernoulli import Bernoulli


class AutoregressiveBits(nn.Module):
    r"""$p(x | c) = \prod_d \mathrm{Bernoulli}(x_d; \mathrm{logit}_d)$, each bit given the `window` bits before it.

    $\mathrm{logit}_d = b_d + V_d \cdot \tanh(a + \sum_{j=d-w}^{d-1} W_j x_j)$ with $a$ and $b$ the network's output.
    The window sets the flexibility: with 0 the bits are independent given the latents, which must carry all the
    information; with all previous bits the likelihood can model the data without the latents, which may stay unused.

    Args:
        dims: number of bits, at least 2.
        hidden: number of hidden units, the length of a, at least 1; the network's output is (..., hidden + dims).
        window: number of previous bits each bit depends on, in [0, dims - 1]; None for all.

    Raises:
        ValueError: for a setting out of range; when called, if the last axis of the output has another length.

    Source: Larochelle & Murray (2011), equations 3 and 4, made conditional; Chen et al. (2017), section 3, for windows.

    >>> family = AutoregressiveBits(dims=3, hidden=4, window=1)
    >>> law = family(torch.zeros(5, 7))
    >>> law.sample().shape, law.log_prob(torch.ones(5, 3)).shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, dims: int, hidden: int, window: int | None = None):
        super().__init__()
        window = dims - 1 if window is None else window
        if dims < 2 or hidden < 1:
            raise ValueError(f"dims must be at least 2 and hidden at least 1, got {dims} and {hidden}")
        if not 0 <= window < dims:
            raise ValueError(f"window must be in [0, {dims - 1}], got {window}")
        self.dims, self.hidden, self.window = dims, hidden, window
        self.read = nn.Parameter(torch.randn(dims, hidden) / max(window, 1) ** 0.5)
        self.write = nn.Parameter(torch.randn(dims, hidden) / hidden**0.5)

    def forward(self, out: Float[Tensor, "..."]) -> AutoregressiveBernoulli:
        if out.shape[-1:] != (self.hidden + self.dims,):
            raise ValueError(f"the last axis must be {self.hidden} + {self.dims} long, got shape {tuple(out.shape)}")
        a, b = out.split([self.hidden, self.dims], dim=-1)
        return AutoregressiveBernoulli(a, b, self.read, self.write, self.window)


class AutoregressiveBernoulli(Distribution):
    """The distribution that `AutoregressiveBits` returns, with event shape (D,); its mean has no closed form.

    Args:
        a: hidden biases, (..., H).
        b: output biases, (..., D).
        read, write: W and V, (D, H).
        window: number of previous bits that each bit depends on.
    """

    arg_constraints = {}  # noqa: RUF012 (torch declares it on the instance)
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, a: Tensor, b: Tensor, read: Tensor, write: Tensor, window: int):
        self.a, self.b, self.read, self.write, self.window = a, b, read, write, window
        super().__init__(b.shape[:-1], b.shape[-1:], validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> AutoregressiveBernoulli:
        a, b = (v.expand(*batch_shape, v.shape[-1]) for v in (self.a, self.b))
        return AutoregressiveBernoulli(a, b, self.read, self.write, self.window)

    def logits(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*c d"]:
        """The logit of every bit given the previous bits of x."""
        check_broadcast(x=x, logits=self.b)
        seen = torch.cumsum(x[..., None] * self.read, -2)  # (..., D, H), summed over bits up to d
        before = nn.functional.pad(seen, (0, 0, self.window + 1, 0))
        now, gone = before[..., self.window : -1, :], before[..., : -self.window - 1, :]
        return self.b + (torch.tanh(self.a[..., None, :] + now - gone) * self.write).sum(-1)

    def log_prob(self, value: Float[Tensor, "*b d"]) -> Float[Tensor, "*c"]:
        """Log-probability in nats; raises for values other than 0 and 1."""
        log_prob: Tensor = Bernoulli(logits=self.logits(value), validate_args=False).log_prob(value).sum(-1)
        return log_prob

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws one bit after another."""
        shape = self._extended_shape(torch.Size(sample_shape))
        x = self.b.new_zeros(shape)
        for d in range(shape[-1]):
            seen = slice(max(d - self.window, 0), d)
            h = torch.tanh(self.a + x[..., seen] @ self.read[seen])
            x[..., d] = torch.bernoulli(torch.sigmoid(self.b[..., d] + (h * self.write[d]).sum(-1)))
        return x
