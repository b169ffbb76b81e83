"""Relaxations of one-hot latents for training, at a temperature that may depend on the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, OneHotCategorical, kl_divergence
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from jensen.distributions import gumbel_softmax
from jensen.distributions.checks import check_temperature
from jensen.variational.inference import Inferring
from jensen.variational.trace import Trace

KINDS = {
    "concrete": "a bound on log p(x) of the relaxed model, not of the discrete model that is evaluated",
    "gumbel-softmax": "no bound on log p(x): relaxed draws with the KL of the categorical laws",
    "straight-through": "the ELBO of the discrete model, by a biased gradient",
}
"""The quantity that each kind of relaxation maximises."""


@dataclass(frozen=True)
class Relaxation:
    r"""Traces of a model with one-hot latents, $q(z | x)$ and $p(z)$ categorical, whose draws carry a gradient.

    With $y_\tau = \mathrm{softmax}((\log\pi + G) / \tau)$ for standard Gumbel G (`gumbel_softmax`):

    - "concrete": z = y, and the term $\log q_\tau(z) / p_{\tau'}(z)$ of the densities of the relaxed distributions. It
      is a bound, with an unbiased gradient, on log p(x) of the relaxed model, whose prior is $p_{\tau'}$; no bound for
      the discrete model.
    - "gumbel-softmax": z = y, and the KL of the categorical distributions. It is not a bound on log p(x) of either
      model: since rounding maps the relaxed distributions to the categorical ones, for $\tau' = \tau$ the relaxed KL is
      at least the categorical one, and this value is at least that of "concrete".
    - "straight-through": z is the one-hot vector of y's largest entry, with the gradient of y, and the KL of the
      categorical distributions. It is exactly the ELBO of the discrete model, with a biased gradient.

    The model itself remains discrete: its own traces, which are used for evaluation, draw one-hot vectors.

    Args:
        temperature: $\tau$, positive; or step -> $\tau$ (`cooling`).
        kind: one of the above.
        prior_temperature: $\tau'$ of "concrete"; None for $\tau$.

    Raises:
        ValueError: for an unknown kind, a temperature that is not positive, or a prior temperature for a kind other
            than "concrete"; from `trace`, unless the model has one layer of one-hot latents.

    Source: Maddison et al. (2017), section 3 and the appendix on using Concrete relaxations, which takes densities of
    the logarithms of z; Jang et al. (2017), sections 2.1 and 2.2.

    >>> from jensen.distributions import BernoulliLogits, CategoricalPrior, Conditional, OneHotLogits
    >>> from jensen.models import VAE
    >>> decoder = Conditional(torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(12, 5)), BernoulliLogits())
    >>> model = VAE(Conditional(torch.nn.Linear(5, 12), OneHotLogits(3, 4)), decoder, CategoricalPrior(3, 4))
    >>> trace = Relaxation(0.5).trace(model, torch.ones(7, 5), samples=2)
    >>> trace.pathwise, trace.analytic, trace.coordinates[0].shape
    ((True,), (False,), torch.Size([2, 7, 3]))
    """

    temperature: float | Callable[[int], float]
    kind: str = "concrete"
    prior_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not callable(self.temperature):
            check_temperature(self.temperature)
        if self.prior_temperature is not None:
            check_temperature(self.prior_temperature)
            if self.kind != "concrete":
                raise ValueError(f"prior_temperature must be None for {self.kind}, whose prior is not relaxed")

    def at(self, step: int) -> float:
        """The temperature of a step."""
        return self.temperature(step) if callable(self.temperature) else self.temperature

    def trace(self, model: Inferring, x: Tensor, *, samples: int = 1, step: int = 0) -> Trace:
        """Draw the latents K times for each row of x (B, *event)."""
        temperature = self.at(step)
        check_temperature(temperature)
        q, p = _one_hot(model, x)
        drawn = _concrete if self.kind == "concrete" else _categorical
        z, ratio, log_q = drawn(self, q, p, samples, temperature)
        return Trace(
            log_px=model.log_px(x, (z,)),
            kl=(ratio.sum(-1),),
            log_q=(log_q.sum(-1),),
            analytic=(self.kind != "concrete",),
            pathwise=(True,),
            coordinates=(ratio,),
        )


class _Drawn(NamedTuple):
    """Latents (K, B, groups, classes), the term log q / p, and the log q whose gradient is the score, (K, B,
    groups).
    """

    z: Tensor
    ratio: Tensor
    log_q: Tensor


def _concrete(how: Relaxation, q: OneHotCategorical, p: OneHotCategorical, samples: int, temperature: float) -> _Drawn:
    """Densities of log z, which does not underflow; the Jacobian is the same for q and p."""
    of_q, of_p = (
        ExpRelaxedCategorical(law.logits.new_tensor(t), logits=law.logits, validate_args=False)
        for law, t in ((q, temperature), (p, how.prior_temperature or temperature))
    )
    log_z = of_q.rsample(torch.Size((samples,)))
    return _Drawn(log_z.exp(), of_q.log_prob(log_z) - of_p.log_prob(log_z), of_q.log_prob(log_z.detach()))


def _categorical(
    how: Relaxation, q: OneHotCategorical, p: OneHotCategorical, samples: int, temperature: float
) -> _Drawn:
    z = gumbel_softmax(q.logits.expand(samples, *q.logits.shape), temperature, hard=how.kind == "straight-through")
    kl = kl_divergence(q, p).expand(z.shape[:-1])
    return _Drawn(z, kl, torch.zeros_like(kl))


def _one_hot(model: Inferring, x: Tensor) -> list[OneHotCategorical]:
    """The distributions q, batch (B, groups), and p, batch (groups,), of a single layer of one-hot variables."""
    layers = model.infer(x, samples=1)
    laws = [law.base_dist for law in (layers[0].q, layers[0].p) if isinstance(law, Independent)]
    found = [law for law in laws if isinstance(law, OneHotCategorical)]
    if len(layers) > 1 or len(found) < 2:
        got = f"{len(layers)} layers" if len(layers) > 1 else f"{layers[0].q} and {layers[0].p}"
        raise ValueError(f"a relaxed model must have only one layer of groups of one-hot latents, got {got}")
    return found
