"""How runs are judged, as settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jensen.core.settings import Settings

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]


class Judging(Settings):
    """How a run is judged."""

    samples: Annotated[int, Field(ge=16)] = 2000
    """samples drawn"""
    rows: Annotated[int, Field(ge=16)] = 2000
    """held-out examples used, at most"""
    features: Literal["auto", "classifier", "convolutional", "raw"] = "auto"
    """what samples and data are compared by; auto: a classifier of the data's own classes where there are any"""
    mode_samples: Positive = 26
    """samples drawn for each class or mode that a reader of pictures knows, where that is more than `samples`"""
    importance: Positive = 5000
    """K, draws of the importance-sampled log p(x)"""
    refine_rows: Annotated[int, Field(ge=2)] = 100
    """held-out examples whose gap between log p(x) and the bound is split"""
    refine_steps: Positive = 300
    """steps of the search for each of their best q"""
    steps: tuple[Positive, ...] = (4, 8, 16, 32, 64)
    """numbers of sampling steps at which samples are compared; [] for no comparison"""
    scales: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """guidance scales compared, beside the run's own"""
    bound_steps: NonNegative = 200
    """T of the discrete-time bound; 0: no bound is computed"""
    ode_rows: NonNegative = 400
    """held-out examples whose likelihood under the ODE is computed; 0: none is"""
    first: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """time of the bound's first level, whose noise is the decoder's"""
    critic_steps: Positive = 1500
    """training steps of a fresh critic"""
    beside: str | None = None
    """folder of another translation run of the same data, judged alike for comparison"""


COMMON = frozenset({"samples", "rows", "features", "mode_samples"})
"""Settings that every family's runs are judged by; `Family.judged` names the others."""
