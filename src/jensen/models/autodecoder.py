"""Latent-variable models without an encoder: the posterior of each datum is found by optimisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jensen.models.hvae import LatentChain
from jensen.variational.inference import Fitted, fit_posterior
from jensen.variational.trace import Layer


class AutoDecoder(LatentChain):
    r"""$p(x, z) = p(x | z_1)\, p(z_1 | z_2) \cdots p(z_L)$ without an encoder.

    Its q(z | x) is $\arg\max_q \mathrm{ELBO}(q; x)$ over Gaussians of independent coordinates, computed for each x by
    `fit_posterior`, so that all judges of a VAE also apply to this model on held-out data. Training by
    `Variational(model, tables=...)` keeps the q of each training datum in a table instead (stochastic variational
    inference); without tables each step fits its batch first (variational EM), which takes far longer.

    Args:
        decoders: L modules that return distributions: $p(x | z_1)$, then $p(z_l | z_{l+1})$ from the data up.
        prior: module whose `forward()` returns $p(z_L)$.
        steps: maximum number of steps of `fit_posterior`.
        samples: draws of q in each of its steps.

    Raises:
        ValueError: if the parts do not fit together, the latents are discrete, or the prior is improper.

    Source: Zadeh et al. (2019), section 3; Hoffman et al. (2013), section 2, for the training.

    >>> from jensen.core.seeding import drawing, generator
    >>> from jensen.distributions import Conditional, GaussianPrior, IsotropicGaussian
    >>> decoder = Conditional(nn.Linear(1, 1), IsotropicGaussian(0.5))
    >>> _ = nn.init.ones_(decoder.net.weight), nn.init.zeros_(decoder.net.bias)
    >>> model = AutoDecoder([decoder], GaussianPrior(1))
    >>> with drawing(generator(0)):
    ...     (q,) = model.fitted(torch.ones(1, 1))
    >>> q.mean, q.variance  # precision 1 + 1 / 0.25 = 5, mean 4 / 5
    (tensor([[0.8000]]), tensor([[0.2000]]))
    """

    def __init__(self, decoders: Sequence[nn.Module], prior: nn.Module, *, steps: int = 200, samples: int = 32):
        super().__init__(decoders, prior)
        if steps < 1 or samples < 1:
            raise ValueError(f"steps and samples must be at least 1, got {steps} and {samples}")
        self.steps, self.samples = steps, samples
        self._try()

    def fitted(self, x: Tensor) -> Fitted:
        """The best q of each datum, one Gaussian per layer, batch (B,), and its estimated nats below the optimum."""
        self._check(x)
        return fit_posterior(self, x, steps=self.steps, samples=self.samples)

    def infer(self, x: Tensor, *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]:
        self._check(x, samples)
        return self.layers(self.fitted(x), len(x), samples, reparameterized)

    def encoding(self) -> list[nn.Parameter]:
        """None: q has no parameters."""
        return []

    def _try_q(self, x: Tensor) -> None:
        z = [torch.zeros(1, 1, *event).to(x) for event in self.events]
        for layer, above in enumerate((*z[1:], None), start=1):
            law = self.law(layer, above)
            if not law.has_rsample:
                raise ValueError(
                    f"latents must be continuous, with a prior that can be sampled, for their q to be fitted, got {law}"
                )
