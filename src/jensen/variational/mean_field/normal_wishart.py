"""The Normal-Wishart distribution, the conjugate prior of a Gaussian with unknown mean and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import checked

LOG_2PI = math.log(2 * math.pi)


@checked
@dataclass(frozen=True)
class NormalWishart:
    r"""A batch of $\Lambda \sim W(\nu, S^{-1})$ and $\mu \mid \Lambda \sim N(m, (\kappa\Lambda)^{-1})$.

    $E[\Lambda] = \nu S^{-1}$, so S / nu is about the covariance of x.

    Attributes:
        mean: m, (..., D).
        strength: kappa, (...), the weight of the prior mean, as a number of data.
        degrees: nu, (...), above D - 1.
        scatter: S, (..., D, D), symmetric and positive definite.

    Source: Bishop (2006), appendix B and section 10.2; Murphy (2007), section 8.

    >>> law = NormalWishart(torch.zeros(1), torch.tensor(1.0), torch.tensor(1.0), torch.ones(1, 1))
    >>> after = law.given(torch.tensor(2.0), torch.tensor([3.0]), torch.tensor([[5.0]]))  # x = 1, 2
    >>> after.mean, after.strength, after.degrees, after.scatter  # S = 1 + 5 - 3 * 1^2
    (tensor([1.]), tensor(3.), tensor(3.), tensor([[3.]]))
    """

    mean: Float[Tensor, "*k d"]
    strength: Float[Tensor, "*k"]
    degrees: Float[Tensor, "*k"]
    scatter: Float[Tensor, "*k d d"]

    @property
    def dims(self) -> int:
        """The number of dimensions D."""
        return self.mean.shape[-1]

    @cached_property
    def tril(self) -> Tensor:
        """L with L L' = S, (..., D, D)."""
        tril: Tensor
        tril, wrong = torch.linalg.cholesky_ex(self.scatter)
        if bool(wrong.any()):
            raise ValueError("scatter must be positive definite and finite, and is not")
        return tril

    @cached_property
    def scatter_inverse(self) -> Tensor:
        """S^-1, (..., D, D)."""
        inverse: Tensor = torch.cholesky_inverse(self.tril)
        return inverse

    @cached_property
    def log_det_scatter(self) -> Tensor:
        """Log |S|, (...)."""
        log_det: Tensor = 2 * self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det

    @cached_property
    def expected_log_det(self) -> Tensor:
        r"""$E \log |\Lambda| = \sum_i \psi((\nu + 1 - i) / 2) + D \log 2 - \log |S|$, (...), nats."""
        halves = (self.degrees[..., None] - torch.arange(self.dims).to(self.degrees)) / 2
        log_det: Tensor = torch.digamma(halves).sum(-1) + self.dims * math.log(2) - self.log_det_scatter
        return log_det

    @cached_property
    def log_normaliser(self) -> Tensor:
        r"""Log Z, (...), nats.

        $\tfrac D2 \log\tfrac{2\pi}{\kappa} + \tfrac{\nu D}2\log 2 - \tfrac\nu2\log|S| + \log\Gamma_D(\nu/2)$, for the
        density $Z^{-1} |\Lambda|^{(\nu - D)/2} \exp(-\tfrac12 \mathrm{tr} S\Lambda - \tfrac\kappa2 (\mu - m)^\top
        \Lambda (\mu - m))$; n data x have
        $\log p(x) = \log Z_{\mathrm{given}} - \log Z - \tfrac{nD}2 \log 2\pi$.
        """
        nu, d = self.degrees, self.dims
        gaussian = 0.5 * d * (LOG_2PI - self.strength.log())
        wishart = 0.5 * nu * (d * math.log(2) - self.log_det_scatter) + torch.mvlgamma(nu / 2, d)
        return gaussian + wishart

    def given(
        self, count: Float[Tensor, "*n"], first: Float[Tensor, "*n d"], second: Float[Tensor, "*n d d"]
    ) -> NormalWishart:
        r"""The posterior given data, from their sums; the batch axes broadcast.

        Args:
            count: n, (...), at least 0; sums may be weighted.
            first: $\sum x$, (..., D).
            second: $\sum x x^\top$, (..., D, D).
        """
        strength = self.strength + count
        mean = (self.strength[..., None] * self.mean + first) / strength[..., None]
        prior = self.strength[..., None, None] * _outer(self.mean)
        scatter = self.scatter + second + prior - strength[..., None, None] * _outer(mean)
        return NormalWishart(mean, strength, self.degrees + count, _at_least(self.scatter, scatter))

    def kl(self, other: NormalWishart) -> Tensor:
        r"""KL(self || other) in nats, (...): the KL of the Wisharts plus the expected KL of the Gaussians."""
        d, kappa, nu = self.dims, self.strength, self.degrees
        ratio, shift = other.strength / kappa, (self.mean - other.mean)[..., None, :]
        overlap = (other.scatter * self.scatter_inverse).sum((-2, -1))
        distance = (shift @ self.scatter_inverse @ shift.mT)[..., 0, 0]
        gaussian = 0.5 * (d * (ratio - 1 - ratio.log()) + other.strength * nu * distance)
        wishart = other._log_wishart - self._log_wishart
        wishart = wishart + 0.5 * (nu - other.degrees) * self.expected_log_det + 0.5 * nu * (overlap - d)
        return gaussian + wishart

    @property
    def _log_wishart(self) -> Tensor:
        """Log normaliser of the Wishart factor."""
        return self.log_normaliser - 0.5 * self.dims * (LOG_2PI - self.strength.log())

    def moved(self, shift: Float[Tensor, " d"], matrix: Float[Tensor, "d d"]) -> NormalWishart:
        """The distribution for x A + b if this is that for x, with A the matrix and b the shift."""
        return NormalWishart(self.mean @ matrix + shift, self.strength, self.degrees, matrix.mT @ self.scatter @ matrix)


def _outer(v: Tensor) -> Tensor:
    return v[..., :, None] * v[..., None, :]


def _at_least(floor: Tensor, scatter: Tensor) -> Tensor:
    """A scatter matrix that is the sum of a floor and a positive semidefinite matrix, corrected to be at least the
    floor.

    Rounding may make the matrix indefinite; then its eigenvalues in the metric of the floor are raised to 1.
    """
    scatter = (scatter + scatter.mT) / 2
    if not bool(torch.linalg.cholesky_ex(scatter - (1 - 1e-6) * floor).info.any()):
        return scatter
    tril = torch.linalg.cholesky(floor)
    half = torch.linalg.solve_triangular(tril, scatter, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(tril, half.mT, upper=False))
    root: Tensor = tril @ (vectors * values.clamp_min(1).sqrt()[..., None, :])
    return root @ root.mT
