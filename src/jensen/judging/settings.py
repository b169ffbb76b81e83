"""Settings of judging."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jensen.core.naming import path_of
from jensen.core.settings import MOST_ROWS, Settings

Positive = Annotated[int, Field(ge=1, le=MOST_ROWS)]
NonNegative = Annotated[int, Field(ge=0, le=MOST_ROWS)]


FEATURES = ("auto", "classifier", "convolutional", "raw")


def _features(value: str) -> str:
    """A name of features, or the absolute path of a run."""
    if value in FEATURES:
        return value
    folder = path_of(value, "judging.features")
    if not folder.is_absolute() and not (folder / "config.json").is_file():
        known = ", ".join(FEATURES)
        raise ValueError(f"judging.features must be one of {known}, or the folder of a reader run, got {value!r}")
    return str(folder.absolute())


class Judging(Settings):
    """How a run is evaluated."""

    samples: Annotated[int, Field(ge=16, le=MOST_ROWS)] = 2000
    """number of samples drawn"""
    rows: Annotated[int, Field(ge=16, le=MOST_ROWS)] = 2000
    """maximum number of held-out examples used"""
    features: Annotated[str, AfterValidator(_features)] = "auto"
    """features by which samples and data are compared: auto, classifier, convolutional, raw, or the folder of a reader
    run on the same classes; auto: classifier for pictures with classes, convolutional for others, raw for points"""
    mode_samples: Positive = 26
    """samples drawn per class or mode that a reader of pictures knows, if the total exceeds judging.samples"""
    importance: Positive = 5000
    """number K of draws for log p(x) by importance sampling"""
    importance_rows: Annotated[int, Field(ge=2, le=MOST_ROWS)] = 2000
    """maximum number of held-out examples, and of training examples, whose log p(x) is estimated by importance
    sampling"""
    refine_rows: Literal[0] | Annotated[int, Field(ge=2, le=MOST_ROWS)] = 100
    """held-out examples for which the gap between log p(x) and the ELBO is decomposed; 0: none"""
    refine_steps: Positive = 300
    """number of steps that optimize q for each of these examples"""
    steps: tuple[Positive, ...] = (4, 8, 16, 32, 64)
    """numbers of sampling steps that are compared; []: no comparison"""
    scales: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """guidance scales that are compared with the run's own"""
    bound_steps: NonNegative = 200
    """number of steps T of the discrete-time variational bound; 0: no bounds are computed"""
    ode_rows: NonNegative = 400
    """held-out examples whose likelihood under the probability-flow ODE is computed; 0: none"""
    first: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """time of the lowest noise level of the bounds, at which x is decoded"""
    critic_steps: Positive = 1500
    """training steps of the critic that is trained for judging"""
    beside: str | None = None
    """folder of another translation run on the same data, judged in the same way for comparison"""


COMMON = frozenset({"samples", "rows", "features", "mode_samples"})
"""Settings that apply to runs of every family; `Family.judged` names the others."""
