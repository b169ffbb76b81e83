"""Diffusion models: the process, the variational bound, DDIM, samplers, predictions, guidance."""

from __future__ import annotations

from jensen.check.law import Law
from jensen.check.laws import (
    diffusion_bound,
    diffusion_implicit,
    diffusion_predictions,
    diffusion_process,
    diffusion_samplers,
    errata_diffusion,
)

LAWS: tuple[Law, ...] = (
    *diffusion_process.LAWS,
    *diffusion_bound.LAWS,
    *diffusion_implicit.LAWS,
    *diffusion_samplers.LAWS,
    *diffusion_predictions.LAWS,
    *errata_diffusion.LAWS,
)
