"""Mean-field approximation of a correlated Gaussian, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import checked
from jensen.variational.mean_field.cavi import Ascent, coordinate_ascent, rounding
from jensen.variational.mean_field.quadratic import is_definite


@checked
@dataclass(frozen=True)
class FactorisedGaussian:
    """q(z) = N(z; mean, diag(variance)).

    Attributes:
        mean: (D,).
        variance: (D,), positive.
    """

    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]

    @checked
    def kl(self, mean: Float[Tensor, " d"], precision: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
        """KL(q || N(mean, precision^-1)) in nats."""
        shift = self.mean - mean
        energy = precision.diagonal() @ self.variance + shift @ precision @ shift
        log_dets = torch.logdet(precision) + self.variance.log().sum()
        return 0.5 * (energy - len(mean) - log_dets)

    def updated(self, j: int, mean: Float[Tensor, " d"], precision: Float[Tensor, "d d"]) -> FactorisedGaussian:
        """Replace factor j by the optimal one given the others, for the target N(mean, precision^-1)."""
        row, shift = precision[j], self.mean - mean
        others = row @ shift - row[j] * shift[j]
        m, v = self.mean.clone(), self.variance.clone()
        m[j], v[j] = mean[j] - others / row[j], 1 / row[j]
        return FactorisedGaussian(m, v)


@checked
def gaussian_mean_field(
    mean: Float[Tensor, " d"],
    precision: Float[Tensor, "_ _"],
    start: FactorisedGaussian | None = None,
    *,
    sweeps: int = 1000,
    tolerance: float = 1e-12,
) -> Ascent[FactorisedGaussian]:
    r"""Coordinate ascent for $p(z) = N(z; \mu, \Lambda^{-1})$ with one factor per coordinate.

    $q_j^* = N(\mu_j - \Lambda_{jj}^{-1} \sum_{i \ne j} \Lambda_{ji} (m_i - \mu_i),\ \Lambda_{jj}^{-1})$. The means
    converge to $\mu$ (these are Gauss-Seidel iterations); the variances are those of z_j given the others, in two
    dimensions $1 - \rho^2$ times the marginal variances. As p is normalised the bound is $-\mathrm{KL}(q \| p)$; its
    maximum is $-\tfrac12 (\sum_j \log \Lambda_{jj} - \log |\Lambda|)$.

    Args:
        mean: $\mu$, (D,).
        precision: $\Lambda$, (D, D), symmetric and positive definite.
        start: initial factors; N(0, 1) each if None.
        sweeps, tolerance: as in `coordinate_ascent`.

    Raises:
        ValueError: if the shapes do not fit, or precision is not symmetric and positive definite beyond rounding.

    Source: Bishop (2006), equations 10.12 to 10.15.

    >>> precision = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> found = gaussian_mean_field(torch.zeros(2, dtype=torch.float64), precision)
    >>> found.state.variance, -found.elbo[-1]  # 1/2 each; log(4/3)/2
    (tensor([0.5000, 0.5000], dtype=torch.float64), tensor(0.1438, dtype=torch.float64))
    """
    dims = len(mean)
    if precision.shape != (dims, dims) or dims < 1:
        raise ValueError(
            f"mean (D,) and precision (D, D) must agree, got {tuple(mean.shape)} and {tuple(precision.shape)}"
        )
    if not is_definite(precision):
        raise ValueError("precision must be symmetric and positive definite beyond rounding, got a singular one")
    start = start or FactorisedGaussian(torch.zeros_like(mean), torch.ones_like(mean))
    if start.mean.shape != mean.shape or not bool((start.variance > 0).all()):
        raise ValueError(f"start must have {dims} means and positive variances, got {start}")
    return coordinate_ascent(
        start,
        [partial(FactorisedGaussian.updated, j=j, mean=mean, precision=precision) for j in range(dims)],
        lambda q: -q.kl(mean, precision),
        sweeps=sweeps,
        tolerance=tolerance,
        slack=rounding(mean.dtype),
    )
