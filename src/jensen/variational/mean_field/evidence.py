"""The exact evidence of a Bayesian mixture by enumeration, an oracle for bounds on small data sets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_finite
from jensen.variational.mean_field.mixture import MixturePrior
from jensen.variational.mean_field.normal_wishart import LOG_2PI

LIMIT = 1_000_000  # assignments that are enumerated


def mixture_log_evidence(x: Float[Tensor, "..."], components: int, prior: MixturePrior) -> Float[Tensor, ""]:
    r"""Log p(x_1, ..., x_N) of a Bayesian mixture of Gaussians, nats: a sum over all K^N assignments.

    $p(X) = \sum_z \frac{\Gamma(Ka)}{\Gamma(Ka + N)} \prod_k \frac{\Gamma(a + n_k)}{\Gamma(a)}
    \frac{Z_k}{Z_0} (2\pi)^{-n_k D / 2}$, with $Z_k$ the normaliser of the Normal-Wishart posterior given the data
    that z assigns to k.

    Args:
        x: (N, D); converted to float64.
        components: number of components K, at least 1; K^N at most a million.
        prior: prior of the weights and the components.

    Raises:
        ValueError: if x is not (N, D), there are too many assignments, or components is below 1.

    Source: Bishop (2006), equations 2.38, 10.39 and 10.40, with the parameters integrated out.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> mixture_log_evidence(x, 2, MixturePrior.around(x, 2))
    tensor(-4.1205, dtype=torch.float64)
    """
    if x.ndim != 2 or x.shape[1] != prior.component.dims or len(x) < 1:
        raise ValueError(f"x must be (N, {prior.component.dims}), N at least 1, got {tuple(x.shape)}")
    check_finite(x=x)
    n, d = x.shape
    if components < 1 or components**n > LIMIT:
        raise ValueError(f"components must be at least 1 and K^N at most {LIMIT:,}, got K = {components}, N = {n}")
    x, law, a = x.double(), prior.component, torch.tensor(prior.concentration, dtype=torch.float64)
    codes = torch.arange(components**n, device=x.device)[:, None] // components ** torch.arange(n, device=x.device)
    member = torch.nn.functional.one_hot(codes % components, components).to(x)  # (K^N, N, K)
    count, first = member.sum(1), torch.einsum("znk,nd->zkd", member, x)
    after = law.given(count, first, torch.einsum("znk,nd,ne->zkde", member, x, x))
    weights = torch.lgamma(a + count) - torch.lgamma(a)
    joint = (weights + after.log_normaliser - law.log_normaliser).sum(1)
    total = torch.lgamma(components * a) - torch.lgamma(components * a + n)
    return joint.logsumexp(0) + total - 0.5 * n * d * LOG_2PI
