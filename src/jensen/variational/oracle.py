"""The linear-Gaussian model, whose evidence, posterior and bounds are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from jensen.core.seeding import drawing
from jensen.core.shapes import check_count, check_finite, checked
from jensen.core.types import Likelihood
from jensen.distributions.priors import Flat
from jensen.variational.trace import Layer, Trace

Encoder = Callable[[Tensor], Distribution]


class LinearGaussian(nn.Module):
    r"""p(z) = N(mu_0, S_0) or flat, p(x|z) = N(Wz + b, diag(s^2)), with everything in closed form.

    The posterior has precision $P = S_0^{-1} + W^\top \Sigma^{-1} W$ and mean
    $P^{-1}(S_0^{-1}\mu_0 + W^\top \Sigma^{-1}(x - b))$. With a flat prior, $p(z) = 1$, it is the normalised
    likelihood. Computations use the precision of the inputs: choose float64 for an oracle.

    Args:
        weight: W, (D, L).
        bias: b, (D,).
        noise: the variance s^2, () or (D,), positive.
        prior: a Gaussian over (L,), or `Flat`; N(0, I) if None.
        encoder: maps x to q(z|x), a Gaussian over (L,) with batch (B,); the exact posterior if None.

    Raises:
        ValueError: for shapes that do not match, a noise that is not positive, or a prior that is neither Gaussian nor
            flat; for a flat prior if W does not have full column rank: the integral of the likelihood over z diverges.

    Source: Bishop (2006), equations 2.113 to 2.117; the flat case is their limit $S_0^{-1} \to 0$.

    >>> model = LinearGaussian([[1.0]], [0.0], 1.0)
    >>> model.log_prob(torch.zeros(1, 1))  # log N(0; 0, 2)
    tensor([-1.2655])
    >>> model.posterior(torch.ones(1, 1)).mean
    tensor([[0.5000]])
    """

    weight: Tensor
    bias: Tensor
    noise: Tensor
    prior_mean: Tensor
    prior_tril: Tensor
    prior_precision: Tensor
    measure: Literal["mass", "density"] = "density"

    def __init__(
        self,
        weight: Tensor | Sequence[Sequence[float]],
        bias: Tensor | Sequence[float],
        noise: Tensor | Sequence[float] | float,
        prior: Distribution | None = None,
        encoder: Encoder | None = None,
    ):
        super().__init__()
        weight = torch.as_tensor(weight)
        bias, noise = (torch.as_tensor(v, dtype=weight.dtype, device=weight.device) for v in (bias, noise))
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or noise.shape not in ((), bias.shape):
            raise ValueError(
                f"weight must be (D, L), bias (D,) and noise () or (D,), got {tuple(weight.shape)}, "
                f"{tuple(bias.shape)} and {tuple(noise.shape)}"
            )
        check_finite(weight=weight, bias=bias)
        if not bool((noise > 0).all()):
            raise ValueError(f"noise, a variance, must be positive, got {float(noise.min()):.4g}")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("noise", noise.expand(bias.shape))
        self.flat = isinstance(prior, Flat)
        self.encoder = encoder
        self._set_prior(prior)

    def _set_prior(self, prior: Distribution | None) -> None:
        latents = self.weight.shape[1]
        mean, covariance = self.weight.new_zeros(latents), torch.eye(latents).to(self.weight)
        if prior is not None and prior.batch_shape + prior.event_shape != (latents,):
            raise ValueError(f"the prior must be over ({latents},), got {tuple(prior.batch_shape + prior.event_shape)}")
        if prior is not None and not self.flat:
            mean, covariance = moments(prior)
        tril = torch.linalg.cholesky(covariance)
        precision = torch.zeros_like(covariance) if self.flat else torch.cholesky_inverse(tril)
        if self.flat and (rank := int(torch.linalg.matrix_rank(self.weight / self.noise.sqrt()[:, None]))) < latents:
            raise ValueError(
                f"weight must have full column rank, {latents}, for a flat prior, got {rank}: the integral of the "
                "likelihood over z diverges"
            )
        self.register_buffer("prior_mean", mean)
        self.register_buffer("prior_tril", tril)
        self.register_buffer("prior_precision", precision)

    @classmethod
    @checked
    def fit(cls, x: Float[Tensor, "n d"], latent: int) -> LinearGaussian:
        r"""Maximum likelihood of probabilistic principal components, in closed form.

        With the eigenvalues $\lambda_1 \ge \dots \ge \lambda_D$ and eigenvectors U of the data's covariance (divided
        by N): $b = \bar x$, $s^2 = \frac{1}{D-L}\sum_{i>L}\lambda_i$, $W = U_L (\Lambda_L - s^2 I)^{1/2}$.

        Args:
            x: (N, D); computed in float64, returned in the dtype of x.
            latent: L, at least 1 and below D.

        Raises:
            ValueError: if L is out of range, or if x lies in an affine subspace of L dimensions up to the rounding
                of its dtype: the likelihood is then unbounded.

        Source: Tipping & Bishop (1999), equations 7 and 8.

        >>> x = torch.tensor([[-2.0, 1.0], [2.0, 1.0], [0.0, 0.0], [0.0, 2.0]])  # variances 2 and 0.5
        >>> model = LinearGaussian.fit(x, latent=1)
        >>> model.bias, model.noise, model.weight.square()  # 2 - 0.5 = 1.5
        (tensor([0., 1.]), tensor([0.5000, 0.5000]), tensor([[1.5000],
                [0.0000]]))
        """
        dims = x.shape[1]
        if not 1 <= latent < dims:
            raise ValueError(f"latent must be at least 1 and below {dims}, the dimensions of x, got {latent}")
        mean = x.double().mean(0)
        centred = x.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
        noise = values[: dims - latent].clamp_min(0).mean()
        rounding = torch.finfo(x.dtype).eps / 2 * x.abs().max().double()
        if not bool(noise > torch.maximum(1e-12 * values[-1], rounding.square())):
            raise ValueError(f"x lies in {latent} dimensions: its likelihood has no maximum, choose a smaller latent")
        scale = (values[dims - latent :] - noise).clamp_min(0).sqrt()
        weight = (vectors[:, dims - latent :] * scale).flip(1)
        return cls(weight.to(x.dtype), mean.to(x.dtype), noise.to(x.dtype))

    @property
    def prior(self) -> MultivariateNormal | Flat:
        if self.flat:
            return Flat(self.weight.shape[1:])
        return MultivariateNormal(self.prior_mean, scale_tril=self.prior_tril)

    @property
    def _fisher(self) -> Tensor:
        """W' Sigma^-1 W, (L, L): the precision that an observation adds."""
        return self.weight.T @ (self.weight / self.noise[:, None])

    @checked
    def posterior(self, x: Float[Tensor, "b d"]) -> MultivariateNormal:
        """p(z|x), batch (B,), event (L,)."""
        x = self._checked(x)
        precision = self.prior_precision + self._fisher
        shift = self.prior_precision @ self.prior_mean + ((x - self.bias) / self.noise) @ self.weight
        mean = torch.cholesky_solve(shift.T, torch.linalg.cholesky(precision)).T
        return MultivariateNormal(mean, precision_matrix=precision)

    @checked
    def log_prob(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        r"""Log p(x) in nats, (B,); with a flat prior the log of the likelihood's integral over z.

        $\log p(x) = \log p(x|z) + \log p(z) - \log p(z|x)$ for every z; taken at the posterior mean.
        """
        posterior = self.posterior(x)
        z = (posterior.mean[None],)
        log_prob: Tensor = (self.log_px(x, z) + self.log_prior(z))[0] - posterior.log_prob(posterior.mean)
        return log_prob

    def log_likelihood(
        self, x: Float[Tensor, "b d"], *, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """The exact log p(x) per example."""
        return Likelihood(self.log_prob(x), "exact", self.measure)

    def kl(self, q: Distribution, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """KL(q || p(z|x)) in nats, (B,), of any Gaussian q over (L,)."""
        divergence: Tensor = kl_divergence(self._gaussian(q), self.posterior(x))
        return divergence

    def elbo(self, q: Distribution, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        r"""The bound of any Gaussian q = N(m, S) in nats, (B,), with expectations in closed form.

        $\log p(x|m) + \log p(m) - \tfrac12 \mathrm{tr}[(W^\top\Sigma^{-1}W + S_0^{-1})S] + H(q)$.
        """
        x, q = self._checked(x), self._gaussian(q)
        z = (q.mean[None],)
        spread = ((self._fisher + self.prior_precision) * q.covariance_matrix).sum((-2, -1))
        elbo: Tensor = (self.log_px(x, z) + self.log_prior(z))[0] - spread / 2 + q.entropy()
        return elbo

    @checked
    def encode(self, x: Float[Tensor, "b d"]) -> Distribution:
        """q(z|x) of the encoder, or the exact posterior."""
        q = self.posterior(x) if self.encoder is None else self.encoder(self._checked(x))
        if q.batch_shape != (len(x),) or q.event_shape != self.weight.shape[1:]:
            raise ValueError(
                f"the encoder must return batch shape ({len(x)},) and event shape {tuple(self.weight.shape[1:])}, "
                f"got {tuple(q.batch_shape)} and {tuple(q.event_shape)}"
            )
        return q

    def infer(self, x: Float[Tensor, "b d"], *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]:
        """Draw z ~ q(z|x) K times, with its distributions under q and p."""
        check_count(samples=samples)
        q, shape = self.encode(x), torch.Size((samples,))
        z = q.rsample(shape) if reparameterized else q.sample(shape)
        return (Layer(z, q, self.prior, held=q, divergence=True),)

    def trace(
        self, x: Float[Tensor, "b d"], *, samples: int = 1, analytic: bool = False, reparameterized: bool = True
    ) -> Trace:
        """The trace of K draws; with `analytic`, KL(q || p(z)) in closed form."""
        (layer,) = self.infer(x, samples=samples, reparameterized=reparameterized)
        z, q = layer.z, layer.q
        ratio: Tensor = q.log_prob(z) - layer.p.log_prob(z)
        if analytic:
            ratio = kl_divergence(self._gaussian(q), layer.p).expand_as(ratio)
        return Trace(self.log_px(x, (z,)), (ratio,), (q.log_prob(z.detach()),), (analytic,), (reparameterized,))

    def prior_sample(self, shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Draws of p(z), (*shape, L), as the only layer."""
        z: Tensor = self.prior.sample(torch.Size(shape))
        return (z,)

    def log_prior(self, z: tuple[Tensor, ...]) -> Tensor:
        """Log p(z) in nats, (K, B); 0 if it is flat."""
        (z1,) = z
        log_prior: Tensor = self.prior.log_prob(z1)
        return log_prior

    @checked
    def log_px(self, x: Float[Tensor, "b d"], z: tuple[Tensor, ...]) -> Tensor:
        """Log p(x|z) in nats, (K, B)."""
        (z1,) = z
        error = self._checked(x) - self.bias - z1 @ self.weight.T
        return -0.5 * (error.square() / self.noise + (2 * math.pi * self.noise).log()).sum(-1)

    def sample(
        self, n: int, *, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw n samples x ~ p(x)."""
        with drawing(generator):
            (z,) = self.prior_sample((n,))
            x: Tensor = Normal(z @ self.weight.T + self.bias, self.noise.sqrt()).sample()
        return x

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != len(self.bias):
            raise ValueError(f"x must be (B, {len(self.bias)}), got {tuple(x.shape)}")
        check_count(rows=len(x))
        check_finite(x=x)
        return x

    def _gaussian(self, q: Distribution) -> MultivariateNormal:
        """The distribution q over (L,) as a MultivariateNormal."""
        mean, covariance = moments(q)
        if q.event_shape != self.weight.shape[1:]:
            raise ValueError(f"q must have event shape {tuple(self.weight.shape[1:])}, got {tuple(q.event_shape)}")
        return q if isinstance(q, MultivariateNormal) else MultivariateNormal(mean, covariance)


def moments(q: Distribution) -> tuple[Tensor, Tensor]:
    """Mean (..., L) and covariance (..., L, L) of a Gaussian.

    Raises:
        ValueError: if q is neither a MultivariateNormal nor an Independent Normal over a vector.

    >>> moments(Independent(Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1))[1]
    tensor([[1., 0.],
            [0., 4.]])
    """
    if isinstance(q, MultivariateNormal):
        return q.mean, q.covariance_matrix
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1:
        return q.mean, torch.diag_embed(q.variance)
    raise ValueError(
        f"q must be a Gaussian over a vector, MultivariateNormal or Independent(Normal, 1), got {type(q).__name__} "
        f"with event shape {tuple(q.event_shape)}"
    )
