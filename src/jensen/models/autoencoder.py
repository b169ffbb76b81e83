"""The deterministic autoencoder: the limit of a VAE with a flat prior as q shrinks to a point."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng
from jensen.core.shapes import checked
from jensen.distributions import Conditional, FlatPrior, IsotropicGaussian
from jensen.models.hvae import between, draw_rows, expect_rows, expect_samples
from jensen.models.vae import VAE
from jensen.variational.trace import Trace, log_prob


class Autoencoder(nn.Module):
    r"""$x \mapsto p(x | z = e(x))$: its trace has no KL terms, so that its ELBO is $\log p(x | e(x))$.

    It is the limit of `noisy(std)`, the VAE with $q = N(e(x), \mathrm{std}^2 I)$ under the flat prior $p(z) = 1$: as
    std goes to 0, $\mathrm{KL}(q \| p) = -H(q)$ goes to infinity, while the bound minus q's entropy converges to
    $\log p(x | e(x))$, for a Gaussian decoder a squared error plus a constant.

    Args:
        encoder: module from x (B, *event) to z (B, *event of z).
        decoder: module that returns p(x | z).
        prior: module whose `forward()` returns the p(z) used for sampling; `FlatPrior` if there is none. A learned
            prior is fitted to the codes by `objectives.Reconstruction`.

    >>> model = Autoencoder(nn.Linear(5, 2), Conditional(nn.Linear(2, 5), IsotropicGaussian(1.0)), FlatPrior(2))
    >>> x = torch.ones(3, 5)
    >>> model.trace(x).log_px.shape, model.reconstruct(x).shape
    (torch.Size([1, 3]), torch.Size([3, 5]))
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior

    def trace(self, x: Tensor, *, samples: int = 1, analytic: bool = False, reparameterized: bool = True) -> Trace:
        r"""A trace with K equal rows of $\log p(x | e(x))$, since z is deterministic.

        Raises:
            ValueError: for samples < 1, or an x whose shape is not the decoder's.
        """
        expect_samples(samples)
        return Trace(self.log_px(x, self.encoder(x)).expand(samples, -1), kl=(), log_q=(), analytic=(), pathwise=())

    def log_px(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x | z) in nats, (B,).

        Raises:
            ValueError: for an x whose shape is not the decoder's.
        """
        law = self.decoder(z)
        expect_rows(x, tuple(law.event_shape))
        return log_prob(law, x)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), in evaluation mode."""
        with evaluating(self):
            mean: Tensor = self.decoder(z).mean
        return mean

    @checked
    def codes(self, x: Float[Tensor, "b ..."]) -> Tensor:
        """The code e(x), in evaluation mode."""
        with evaluating(self):
            z: Tensor = self.encoder(x)
        return z

    def from_codes(self, z: Tensor) -> Tensor:
        """The same as `decode`."""
        return self.decode(z)

    def interpolate(self, first: torch.Generator, second: torch.Generator, n: int) -> Tensor:
        """Means of x along the great circle from one draw of the prior to another, (n, *event), including both ends.

        Raises:
            ValueError: for n < 2, or an improper prior.
        """
        return self.decode(between(self.prior(), first, second, n))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | e(x)), in evaluation mode."""
        return self.decode(self.codes(x))

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None, mean: bool = False) -> Tensor:
        """Draw n samples x, (n, *event), with z from the prior; with `mean`, means of p(x | z) for the same z.

        Raises:
            ValueError: if the prior is improper; for n < 1, a condition, or a number of generators other than n.
        """
        return draw_rows(self, lambda rows: self.decoder(self.prior().sample((rows,))), n, cond, generator, mean)

    def noisy(self, std: float) -> VAE:
        """The VAE whose limit for `std` to 0 is this model; it shares encoder and decoder."""
        event = tuple(self.prior().event_shape)
        family = IsotropicGaussian(std, event_dims=len(event))
        return VAE(Conditional(self.encoder, family), self.decoder, FlatPrior(event))
