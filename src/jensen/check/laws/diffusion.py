"""Diffusion models: the process, the variational bound, DDIM, samplers, predictions, guidance."""

from __future__ import annotations

from jensen.check.law import Law
from jensen.check.laws import diffusion_process

LAWS: tuple[Law, ...] = (*diffusion_process.LAWS,)
