"""Every number of samples beside data never trained on, each with its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from jensen.core.seeding import generator
from jensen.metrics import (
    AUC,
    Proportion,
    c2st,
    class_coverage,
    extrapolated_frechet_distance,
    frechet_distance,
    kernel_distance,
    memorisation,
    prdc,
    sharpness,
)
from jensen.recipes.base import Real
from jensen.recipes.features import Features

NORMAL = 1.959963984540054  # a 95 percent interval reaches so many standard errors


@dataclass(frozen=True)
class Value:
    """A number and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.stderr:.1g}"


@dataclass(frozen=True)
class Metric:
    """A number of samples.

    Attributes:
        name: as it is read.
        best: "low", "high", or the number that real data have in the long run.
    """

    name: str
    best: Literal["low", "high"] | float

    def loss(self, value: float) -> float:
        """The less, the better."""
        return value if self.best == "low" else -value if self.best == "high" else abs(value - self.best)


METRICS = {
    "frechet": Metric("Frechet distance", "low"),
    "frechet_extrapolated": Metric("Frechet, without bias", "low"),
    "kernel": Metric("kernel distance", "low"),
    "precision": Metric("precision", "high"),
    "recall": Metric("recall", "high"),
    "density": Metric("density", 1.0),
    "coverage": Metric("coverage", "high"),
    "c2st": Metric("two-sample accuracy", 0.5),
    "c2st_auc": Metric("two-sample AUC", 0.5),
    "classes": Metric("KL of classes, nats", "low"),
    "copies": Metric("copies", 0.5),
    "sharpness": Metric("sharpness", 1.0),
}


def measured(real: Real, samples: Tensor, features: Features, seed: int) -> dict[str, Value]:
    """Every metric that suits the data, of samples against data never trained on."""
    x, y = features(real.test), features(samples)
    near, told = prdc(x, y), c2st(x, y, generator(seed))
    distance, kernel = frechet_distance(x, y), kernel_distance(x, y)
    extrapolated = extrapolated_frechet_distance(x, y, generator=generator(seed))
    found = {
        "frechet": Value(distance.value, distance.stderr),
        "frechet_extrapolated": Value(extrapolated.value, extrapolated.stderr),
        "kernel": Value(kernel.value, kernel.stderr),
        "precision": share_of(near.precision_interval),
        "recall": share_of(near.recall_interval),
        "density": Value(near.density, near.density_stderr),
        "coverage": share_of(near.coverage_interval),
        "c2st": share_of(told.interval),
        "c2st_auc": area_of(told.auc),
    }
    if features.read is not None and real.labels is not None:
        weights, read = real.labels[0].bincount().double(), features.read(samples)
        share = read.bincount(minlength=len(weights)).double() / len(read)
        gain = (share / weights * weights.sum())[read].log()
        reverse = class_coverage(read, len(weights), weights).reverse_kl
        found["classes"] = Value(reverse, float(gain.std()) / len(read) ** 0.5)
    found["copies"] = share_of(memorisation(samples, real.train, real.test).interval)
    if samples.ndim == 4:
        sharp = sharpness(real.test, samples)
        found["sharpness"] = Value(sharp.value, sharp.stderr)
    return found


def no_copies(real: Real) -> Value:
    """Training data would be copies of themselves: one half of the test data against the other."""
    half = len(real.test) // 2
    return share_of(memorisation(real.test[:half], real.train, real.test[half:]).interval)


def area_of(found: AUC) -> Value:
    """An area under a curve, with an error where nothing overlaps too."""
    return share_of(found.interval)


def share_of(found: Proportion) -> Value:
    """A share whose error is that of its interval, so that 0 and 1 have one too."""
    return Value(found.value, (found.high - found.low) / (2 * NORMAL))
