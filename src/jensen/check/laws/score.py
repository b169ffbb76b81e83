"""Scores: matching them, kernel densities, Langevin dynamics."""

from __future__ import annotations

from jensen.check.law import Law
from jensen.check.laws import score_langevin, score_matching

LAWS: tuple[Law, ...] = (*score_matching.LAWS, *score_langevin.LAWS)
