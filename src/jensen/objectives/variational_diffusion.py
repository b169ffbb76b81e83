"""Train a diffusion model, and its schedule, on the variational bound itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.shapes import single
from jensen.core.types import Batch, Loss, Phase, entry
from jensen.diffusion import LearnedSchedule, Reconstruction, Span, level_times, prior_kl, step_kl, uniform_times, vlb
from jensen.diffusion.likelihood import snr_rate, snr_times
from jensen.diffusion.times import rounded_down
from jensen.models.diffusion import Diffusion
from jensen.objectives.denoising import check_drop, drop_conditions


class VariationalDiffusion(Objective):
    r"""VDM's loss, one draw of $L_T + L_{diffusion} + L_0 \ge -\log p(x)$ per example, in nats.

    With a `LearnedSchedule` there are two players: the network, with the end points if they are learned, descends the
    bound; the schedule's interior, which in continuous time changes only the variance of the bound's estimate, descends
    the mean square of the diffusion term, hence its variance. Both losses come from one forward pass. With interior =
    "bound" everything descends the bound, which makes sense for finite T.

    In continuous time, times are uniform in log(1 + SNR) for a fixed schedule (`snr_times`), which minimises the
    variance of the term for data of unit variance, and uniform in t for a learned one, where the schedule itself
    reduces the variance.

    Args:
        model: the model to train.
        steps: T, or None for continuous time.
        span: times of the first level and the last; by default 0 (or 0.001, where SNR is infinite at 0) and 1.
        reconstruction: p(x | z) at the first level, with bins of the data's own values, if any; "observed" costs
            nothing, "denoised" costs a second evaluation.
        interior: what the interior of a learned schedule descends: "variance" or "bound".
        drop: probability with which a row's condition is replaced by the null condition; 1 trains without conditions.

    Raises:
        ValueError: for an unknown `interior`, an invalid `drop`, a network that predicts eps where alpha = 0 at the
            last level (an infinite bound), and as in `jensen.diffusion.bound`.

    Source: Kingma et al., VDM (2021), equations 11, 13 and 17; appendix I for the square and the times.
    """

    model: Diffusion

    def __init__(
        self,
        model: Diffusion,
        *,
        steps: int | None = None,
        span: Span | None = None,
        reconstruction: Reconstruction = Reconstruction("observed"),
        interior: str = "variance",
        drop: float = 0.0,
    ):
        super().__init__()
        if interior not in ("variance", "bound"):
            raise ValueError(f"interior must be 'variance' or 'bound', got {interior!r}")
        check_drop(model, drop)
        model.denoiser.check_times(level_times(model.denoiser.schedule, span, 1 if steps is None else steps))
        self.model, self.steps, self.span, self.reconstruction = model, steps, span, reconstruction
        self.interior, self.drop = interior, drop
        self.phases = (Phase(tuple(self.players()) or ("model",)),)

    def players(self) -> dict[str, list[nn.Parameter]]:
        schedule = self.model.denoiser.schedule
        second: list[nn.Parameter] = []
        if isinstance(schedule, LearnedSchedule) and self.interior == "variance":
            second = [p for p in schedule.interior() if p.requires_grad]
        first = [p for p in self.parameters() if p.requires_grad and all(p is not q for q in second)]
        return {name: owned for name, owned in (("model", first), ("schedule", second)) if owned}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        denoiser = self.model.denoiser
        x = self.model.standardize(entry(batch, "x"))
        cond = drop_conditions(denoiser, batch.get("cond"), self.drop)
        edges = level_times(denoiser.schedule, self.span, self.steps or 1).to(x.device)
        diffusion = self._diffusion(x, edges, cond)
        prior = prior_kl(denoiser.schedule, x, edges[-1])
        z, _ = self._noised(x, edges[:1].expand(len(x)))
        reconstruction = self.model.standardized(self.reconstruction)
        read = -reconstruction.log_prob(denoiser, z, x, edges[0], cond)
        if reconstruction.measure == "density":
            read = read + self.model.log_scale()
        losses = {
            "model": Loss.of((prior + diffusion + read).mean(), prior=prior, diffusion=diffusion, reconstruction=read),
            "schedule": Loss.of((diffusion**2).mean(), deviation=diffusion.std(correction=0)),
        }
        return {name: losses[name] for name in players}

    def _diffusion(self, x: Tensor, edges: Tensor, cond: Tensor | None) -> Tensor:
        """One draw of the diffusion term for each example, at stratified times."""
        schedule = self.model.denoiser.schedule
        place = uniform_times(len(x)).to(edges)
        if self.steps is None:
            learns = any(p.requires_grad for p in schedule.parameters())
            span = edges[-1] - edges[0]
            t, width = (edges[0] + span * place, span) if learns else snr_times(schedule, edges, place)
            t = rounded_down(t, single(x).dtype).to(edges)
            z, eps = self._noised(x, t)
            p = self.model.denoiser(z, t.to(single(x)), cond)
            rate = vlb(p, x, eps, schedule.log_snr_slope(t)) if learns else snr_rate(p, x, eps)
            return rate * width.to(x)
        k = (place * self.steps).long()
        z, eps = self._noised(x, edges[k + 1])
        p = self.model.denoiser(z, edges[k + 1].to(single(x)), cond)
        return self.steps * step_kl(p, x, eps, schedule, edges[k], edges[k + 1])

    def _noised(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of z_t, and its noise."""
        eps = torch.randn_like(x)
        alpha, sigma = (v.to(x) for v in self.model.denoiser.levels(t, x))
        return alpha * x + sigma * eps, eps
