"""Exponential integration: exact for the linear part of the ODE; x is interpolated by a polynomial in lambda."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Prediction = tuple[Tensor, Tensor]
"""A pair (lambda, x): log(alpha / sigma), and the prediction there."""

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(48))


def integral(history: Sequence[Prediction], start: Tensor, end: Tensor) -> Tensor:
    r"""$\int_0^h e^{u-h}\, \hat x(\lambda_t + u)\, du$ for the polynomial through all of `history`, h = end - start.

    With k predictions it is exact for polynomials of degree k - 1, so that
    $z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \int$ has order k where lambda is finite. The weights solve
    $\sum_j w_j v_j^k = \int_0^1 h e^{h(v-1)} v^k dv$ with $v_j = (\lambda_j - \lambda_t) / h$.

    Args:
        history: (lambda, x) pairs, all lambdas finite and different.
        start, end: lambda at t and at s, finite.

    Source: Lu et al., DPM-Solver++ (2022), equation 14; Hochbruck & Ostermann (2010), section 2.4.
    """
    h = (end - start).double()
    places = torch.stack([(place - start).double() / h for place, _ in history])
    v = ((_NODES + 1) / 2).to(h.device)
    powers = torch.arange(len(history), device=h.device)
    density = h * torch.exp(h * (v - 1)) * (_WEIGHTS / 2).to(h.device)
    moments = (v[None] ** powers[:, None] * density).sum(1)
    weights = torch.linalg.solve(places[None] ** powers[:, None], moments)
    return sum((w * x for w, (_, x) in zip(weights, history, strict=True)), start=torch.zeros(()).to(history[0][1]))
