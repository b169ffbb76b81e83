"""Predictions of a denoiser in every parametrisation, and networks wrapped as denoisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_broadcast, checked, right_pad, single
from jensen.diffusion.schedule import Schedule

Output = Literal["x", "eps", "v", "flow", "edm"]


@dataclass(frozen=True)
class Prediction:
    r"""The predicted means of x and eps given z_t = alpha x + sigma eps; v, flow and score are derived from them.

    Both are stored: eps computed from x loses precision where sigma is small, x computed from eps where alpha is small.
    alpha and sigma broadcast against x.

    `fraction`, for a denoiser that learns variances, places the log variance of a reverse step between the posterior's
    (0, beta-tilde) and the forward step's (1, beta); it has the shape of x.

    Source: Kingma et al. (2021), appendix A; Salimans & Ho (2022), appendix D for v; Nichol & Dhariwal (2021),
    equation 15 for the fraction.
    """

    x: Tensor
    eps: Tensor
    alpha: Tensor
    sigma: Tensor
    fraction: Tensor | None = None

    @classmethod
    def of_x(cls, x: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The prediction from the mean of x. Raises ValueError at sigma = 0, where eps is not finite."""
        check_broadcast(x=x, z_t=z_t, alpha=alpha, sigma=sigma)
        if bool((sigma == 0).any()):
            raise ValueError("a prediction of x has no finite eps at sigma = 0: choose times above 0")
        return cls(x, (z_t - alpha * x) / sigma, alpha, sigma)

    @classmethod
    def of_eps(cls, eps: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The prediction from the mean of eps. Raises ValueError at alpha = 0, where x is not finite."""
        check_broadcast(eps=eps, z_t=z_t, alpha=alpha, sigma=sigma)
        if bool((alpha == 0).any()):
            raise ValueError("a prediction of eps has no finite x at alpha = 0: choose times below 1")
        return cls((z_t - sigma * eps) / alpha, eps, alpha, sigma)

    @classmethod
    def of_v(cls, v: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The prediction from v = alpha eps - sigma x, finite at every time of every schedule."""
        check_broadcast(v=v, z_t=z_t, alpha=alpha, sigma=sigma)
        square = alpha**2 + sigma**2
        return cls((alpha * z_t - sigma * v) / square, (sigma * z_t + alpha * v) / square, alpha, sigma)

    @classmethod
    def of_flow(cls, flow: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The prediction from eps - x, the velocity dz/dt of the rectified schedule, finite at every time."""
        check_broadcast(flow=flow, z_t=z_t, alpha=alpha, sigma=sigma)
        total = alpha + sigma
        return cls((z_t - sigma * flow) / total, (z_t + alpha * flow) / total, alpha, sigma)

    @property
    def v(self) -> Tensor:
        return self.alpha * self.eps - self.sigma * self.x

    @property
    def flow(self) -> Tensor:
        return self.eps - self.x

    @property
    def score(self) -> Tensor:
        """Gradient of log p(z_t) with respect to z_t, which is -eps / sigma. Raises ValueError at sigma = 0."""
        if bool((self.sigma == 0).any()):
            raise ValueError("the score cannot be computed from a prediction of eps at sigma = 0: choose times above 0")
        return -self.eps / self.sigma

    def view(self, name: Literal["x", "eps", "v", "flow"]) -> Tensor:
        views: dict[str, Tensor] = {"x": self.x, "eps": self.eps, "v": self.v, "flow": self.flow}
        return views[name]


class Denoiser(nn.Module, ABC):
    """Predicts clean data and noise from z_t, t (B,) and perhaps a condition.

    Attributes:
        schedule: the noise schedule of z_t.
        null: one row that stands for "no condition"; None if there is none, and then guidance is impossible.
    """

    schedule: Schedule
    null: Tensor | None

    @abstractmethod
    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        """The prediction at z_t (B, ...), times t (B,), condition (B, ...) or None for the null condition."""

    def defined(self, t: Float[Tensor, "*b"]) -> bool:
        """Whether it can be evaluated at all of these times: some parametrisations are singular at t = 0 or t = 1."""
        return True

    def check_times(self, t: Float[Tensor, " b"]) -> None:
        """Raise for times at which it cannot be evaluated (`defined`).

        Raises:
            ValueError: if x or eps is not finite at one of them for any output of the network.
        """
        if not self.defined(t):
            wrong = next(v for v in t if not self.defined(v))
            alpha, sigma = (v.item() for v in self.schedule.alpha_sigma(wrong))
            raise ValueError(
                f"times must be where the network's output gives a finite x and eps, got t = {wrong.item():g}, "
                f"where alpha = {alpha:g} and sigma = {sigma:g}"
            )

    def levels(self, t: Float[Tensor, " b"], z_t: Float[Tensor, "b ..."]) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, shaped to broadcast against z_t."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return right_pad(alpha, z_t), right_pad(sigma, z_t)

    def condition(self, cond: Tensor | None, rows: int) -> Tensor | None:
        """`cond`, or the null condition for every row if `cond` is None and there is a null condition."""
        if cond is None and self.null is not None:
            return self.null.expand(rows, *self.null.shape)
        return cond


class NetworkDenoiser(Denoiser):
    r"""A network net(c_in z_t, c_noise(t)[, cond]) whose output is one parametrisation.

    The input is scaled to unit variance for data of standard deviation `data_std`,
    $c_{in} = (\alpha^2 s^2 + \sigma^2)^{-1/2}$; the noise level enters as $c_{noise} = t$ (`Schedule.clock`). With
    output "edm", $x = c_{skip} z + c_{out} F$, where $c_{skip} = \alpha s^2 / (\alpha^2 s^2 + \sigma^2)$ and
    $c_{out} = \sigma s / (\alpha^2 s^2 + \sigma^2)^{1/2}$, so that the target of F has unit variance at all times.

    Args:
        net: called with (B, ...), (B,) and, if `null` is given, the condition.
        schedule: noise schedule.
        output: what the network predicts: "x", "eps", "v", "flow" (eps - x), or "edm".
        data_std: standard deviation of the data.
        null: a row that stands for "no condition".
        learned_variance: the network's output has twice as many channels (axis 1), and the second half, u, gives the
            prediction's `fraction` as (1 + u) / 2.

    Raises:
        ValueError: for an unknown output, something that is no schedule, or a standard deviation that is not positive.

    Source: Karras et al. (2022), table 1, written for any alpha; Nichol & Dhariwal (2021), section 3.1.
    """

    null: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        *,
        output: Output = "v",
        data_std: float = 1.0,
        null: Tensor | None = None,
        learned_variance: bool = False,
    ):
        super().__init__()
        if output not in get_args(Output):
            raise ValueError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule must be a Schedule, such as CosineSchedule(), got {schedule!r}")
        if data_std <= 0:
            raise ValueError(f"data_std must be positive, got {data_std}")
        self.net, self.schedule, self.output, self.data_std = net, schedule, output, data_std
        self.learned_variance = learned_variance
        self.register_buffer("null", null, persistent=False)

    def defined(self, t: Float[Tensor, "*b"]) -> bool:
        r"""Whether x and eps are both finite at all of these times, with levels computed in the precision of t.

        An output "x" gives no finite eps where $\sigma = 0$, an output "eps" no finite x where $\alpha = 0$.

        >>> from jensen.diffusion import CosineSchedule
        >>> both_ends = torch.tensor([0.0, 1.0])
        >>> [NetworkDenoiser(nn.Identity(), CosineSchedule(), output=o).defined(both_ends) for o in ("x", "eps", "v")]
        [False, False, True]
        """
        alpha, sigma = self.schedule.alpha_sigma(t)
        where = {"x": sigma, "eps": alpha}.get(self.output)
        return where is None or bool((where != 0).all())

    @checked
    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        alpha, sigma = (v.to(single(z_t)) for v in self.levels(t, z_t))
        scaled = (z_t / torch.sqrt((alpha * self.data_std) ** 2 + sigma**2)).to(z_t)
        cond, clock = self.condition(cond, len(z_t)), self.schedule.clock(t).to(z_t)
        out = self.net(scaled, clock) if cond is None else self.net(scaled, clock, cond)
        shape, twice = tuple(z_t.shape), self.learned_variance
        wanted = (shape[0], 2 * shape[1], *shape[2:]) if twice else shape
        if out.shape != wanted:
            why = "two outputs per channel, to learn variances" if twice else "like its input"
            raise ValueError(f"the network's output must be {wanted}, {why}, got {tuple(out.shape)}")
        out = out.to(alpha)
        if not twice:
            return self._prediction(out, z_t, alpha, sigma)
        out, raw = out.chunk(2, dim=1)
        return replace(self._prediction(out, z_t, alpha, sigma), fraction=(1 + raw) / 2)

    def _prediction(self, out: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """The prediction for this network output."""
        match self.output:
            case "x":
                return Prediction.of_x(out, z_t, alpha, sigma)
            case "eps":
                return Prediction.of_eps(out, z_t, alpha, sigma)
            case "v":
                return Prediction.of_v(out, z_t, alpha, sigma)
            case "flow":
                return Prediction.of_flow(out, z_t, alpha, sigma)
            case "edm":
                # eps is computed directly, not from x, so that it is exact at sigma = 0 too
                s = self.data_std
                variance = (alpha * s) ** 2 + sigma**2
                root = variance.sqrt()
                x = alpha * s**2 / variance * z_t + sigma * s / root * out
                eps = sigma / variance * z_t - alpha * s / root * out
                return Prediction(x, eps, alpha, sigma)
