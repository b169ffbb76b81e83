r"""Denoising losses, one value per example; noise and times are arguments.

For any schedule $|\hat\epsilon - \epsilon|^2 = \mathrm{SNR}\, |\hat x - x|^2$, so every loss here is a weighting of the
same error. Training losses are means over the event; `vlb` and `step_kl`, terms of the bound, are sums, in nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_alike, checked, mean_per_example, right_pad, single, sum_per_example
from jensen.diffusion.denoiser import Prediction
from jensen.diffusion.schedule import Schedule


@checked
def simple(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    view: Literal["x", "eps", "v", "flow"] = "eps",
) -> Float[Tensor, " b"]:
    """Mean squared error of one parametrisation; with "eps" it is DDPM's simple loss.

    Source: Ho et al. (2020), equation 14; Salimans & Ho (2022), section 4 for x and v;
    Lipman et al. (2023), equation 23 for flow.

    >>> z, half = torch.zeros(2, 3), torch.full((2, 1), 0.5)
    >>> simple(Prediction.of_flow(z, z, half, half), x=z, eps=torch.ones(2, 3), view="flow")
    tensor([1., 1.])
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    truth = Prediction(x, eps, prediction.alpha, prediction.sigma)
    return mean_per_example((prediction.view(view) - truth.view(view)) ** 2)


@checked
def min_snr(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    gamma: float = 5.0,
) -> Float[Tensor, " b"]:
    r"""$\min(\mathrm{SNR}, \gamma)\, |\hat x - x|^2$, finite at both ends.

    Source: Hang et al. (2023), section 3.4.
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    snr = prediction.alpha**2 / prediction.sigma**2
    weight = torch.clamp(snr, max=gamma)
    return mean_per_example(weight * (prediction.x - x) ** 2)


@checked
def edm(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    data_std: float = 1.0,
) -> Float[Tensor, " b"]:
    r"""$(\mathrm{SNR} + s^{-2})\, |\hat x - x|^2$: the error of EDM's network F, whose target has unit variance.

    Args:
        prediction, x, eps: as for every loss.
        data_std: s, the standard deviation of the data.

    Source: Karras et al. (2022), table 1: $(\sigma^2 + s^2) / (\sigma s)^2$ there, with $\sigma^2 = 1/\mathrm{SNR}$.
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    if not data_std > 0:
        raise ValueError(f"data_std must be positive, got {data_std}")
    return mean_per_example((prediction.eps - eps) ** 2 + (prediction.x - x) ** 2 / data_std**2)


@checked
def sigmoid(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    bias: float = 0.0,
) -> Float[Tensor, " b"]:
    r"""$S(b - \lambda)\, |\hat\epsilon - \epsilon|^2 = e^b S(\lambda - b)\, |\hat x - x|^2$, S the logistic function.

    The weight is that of the bound for log-SNRs below b, and decreases above. The paper's loss has times uniform in
    log-SNR, as uniform times on `VariancePreserving` are.

    Args:
        prediction, x, eps: as for every loss.
        bias: b, a log-SNR; lower values give less weight to fine detail.

    Source: Kingma & Gao (2023), section 4.3 and appendix D; Hoogeboom et al. (2024), section 3.1.
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    a, s = prediction.alpha**2, prediction.sigma**2 * math.exp(bias)
    return mean_per_example(s / (a + s) * (prediction.eps - eps) ** 2)


@checked
def vlb(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    slope: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    r"""$-\frac12 \mathrm{SNR}'(t)\, |\hat x - x|^2 = -\frac12 \lambda'(t)\, |\hat\epsilon - \epsilon|^2$.

    The unit is nats per unit of time: its integral over t is the diffusion term of the bound in continuous time.

    Args:
        prediction, x, eps: as for every loss.
        slope: $d\lambda / dt$ of the log-SNR at the times of the prediction, at most 0 (`Schedule.log_snr_slope`).

    Source: Kingma et al., VDM (2021), equations 14 and 18.

    >>> z, one = torch.zeros(1, 2), torch.ones(1, 1)
    >>> vlb(Prediction(z, z, one, one), x=z + 1, eps=z - 1, slope=torch.tensor([-3.0]))  # SNR = 1, its slope -3
    tensor([3.])
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    return sum_per_example((prediction.eps - eps) ** 2) * (-slope / 2).to(single(x))


@checked
def step_kl(
    prediction: Prediction,
    x: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    schedule: Schedule,
    s: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    r"""$KL(q(z_s | z_t, x) \,\|\, p(z_s | z_t))$ of one reverse step, in nats: DDPM's $L_{t-1}$.

    With the posterior's variance in p it is $\frac12 (\mathrm{SNR}(s) - \mathrm{SNR}(t))\, |\hat x - x|^2$. If the
    prediction has a `fraction` f, the log variance of p is higher by $\rho = f \log(\sigma_t^2 / \sigma_s^2)$, and the
    KL is $\frac12 \sum [\rho + e^{-\rho} (1 + \delta^2) - 1]$, where $\sum \delta^2$ is twice the first expression.

    Args:
        prediction, x, eps: at time t.
        schedule: noise schedule.
        s, t: (B,), s <= t.

    Source: Kingma et al., VDM (2021), equation 13; Nichol & Dhariwal (2021), equation 4 with learned variance.
    """
    check_alike(prediction=prediction.x, x=x, eps=eps)
    before, after = schedule.log_snr(s.double()).exp(), schedule.log_snr(t.double()).exp()
    # for errors, (1 + SNR) |x|^2 is |x|^2 + |eps|^2: finite at SNR = 0, and accurate where SNR is high
    gain = right_pad(((before - after) / (1 + after)).to(x), x)
    square = gain * ((prediction.x - x) ** 2 + (prediction.eps - eps) ** 2)
    if prediction.fraction is None:
        return sum_per_example(square) / 2
    ratio = 2 * (schedule.alpha_sigma(t.double())[1].log() - schedule.alpha_sigma(s.double())[1].log())
    excess = prediction.fraction * right_pad(ratio.to(x), x)
    return sum_per_example(excess + torch.expm1(-excess) + square * torch.exp(-excess)) / 2
