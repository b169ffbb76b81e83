"""One-hot variables by the Gumbel-max trick, and their relaxation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

from jensen.core.shapes import check_rows, checked, single
from jensen.distributions.categorical import OneHot
from jensen.distributions.checks import check_temperature, classes


def gumbel_softmax(logits: Float[Tensor, "*b c"], temperature: float, *, hard: bool = False) -> Float[Tensor, "*b c"]:
    r"""$y = \mathrm{softmax}((\log\pi + G) / \tau)$ with G standard Gumbel, $G = -\log E$ for a unit exponential E.

    $\mathrm{argmax}_i(\log\pi_i + G_i)$ is an exact draw from $\pi$; y tends to its one-hot vector as $\tau \to 0$ and
    to equal entries as $\tau \to \infty$.

    Args:
        logits: $\log\pi$ up to a constant. The noise is at least in single precision: half precision would give ties.
        temperature: $\tau$, positive.
        hard: return the one-hot vector of y's largest entry with the gradient of y (straight-through).

    Raises:
        ValueError: if the temperature is not positive.

    Source: Jang et al. (2017), equation 2, section 2.2; Maddison et al. (2017), equation 10.

    >>> gumbel_softmax(torch.tensor([0.0, 50.0]), 0.5, hard=True)
    tensor([0., 1.])
    """
    check_temperature(temperature)
    check_rows(logits=logits)
    exact = single(logits)
    perturbed = exact - torch.empty_like(exact, memory_format=torch.contiguous_format).exponential_().log()
    soft = torch.softmax(perturbed / temperature, dim=-1).to(logits)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, perturbed.argmax(-1, keepdim=True), 1.0)
    return one_hot + (soft - soft.detach())


class StraightThroughOneHot(OneHot):
    r"""`OneHot` whose `rsample` gives exact draws that carry the gradient of the relaxed $y_\tau$ of `gumbel_softmax`.

    Log-probability, entropy and KL are those of the discrete variable, while gradients reach the logits through
    the draws, with a bias.

    Args:
        temperature: $\tau$, positive.
        logits: log-probabilities up to a constant, (..., C).

    Raises:
        ValueError: if the temperature is not positive.

    Source: Jang et al. (2017), section 2.2; Bengio et al. (2013).

    >>> q = StraightThroughOneHot(0.5, torch.zeros(3, requires_grad=True))
    >>> z = q.rsample()
    >>> float(z.detach().sum()), z.requires_grad
    (1.0, True)
    """

    has_rsample = True

    @checked
    def __init__(self, temperature: float, logits: Float[Tensor, "*b c"]):
        check_temperature(temperature)
        self.temperature = temperature
        classes(lambda: OneHot.__init__(self, logits=logits, validate_args=False), logits)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> StraightThroughOneHot:
        return StraightThroughOneHot(self.temperature, self.logits.expand(*batch_shape, -1))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        return gumbel_softmax(
            self.logits.expand(self._extended_shape(torch.Size(sample_shape))), self.temperature, hard=True
        )
