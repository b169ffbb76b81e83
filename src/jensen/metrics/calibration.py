"""Calibration: whether a classifier with confidence p is right with probability p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jensen.core.shapes import check_count, checked

BINS = 15
DRAWS = 200  # of a calibrated classifier


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy in bins of confidence.

    Attributes:
        error: expected calibration error.
        floor: its mean for a calibrated classifier with the same confidences and number of examples.
        confidence, accuracy: means of each bin that is not empty.
        counts: number of examples in each of these bins.
    """

    error: float
    floor: float
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    counts: Int[Tensor, " bins"]


@checked
def calibration(
    confidence: Float[Tensor, " n"],
    right: Bool[Tensor, " n"],
    bins: int = BINS,
    generator: torch.Generator | None = None,
) -> Calibration:
    r"""Expected calibration error, $\sum_b \frac{n_b}{N} |a_b - c_b|$, over bins of equal width in confidence.

    $a_b$ and $c_b$ are the accuracy and the mean confidence of bin b. The error is positive even for a calibrated
    classifier, because $a_b$ is estimated: compare it with `floor`.

    Args:
        confidence: (N,) probability of the predicted class, in [0, 1].
        right: (N,) whether the prediction is right.
        bins: number of bins.
        generator: random generator for the successes of the calibrated classifier.

    Raises:
        ValueError: for no examples, or confidences outside [0, 1].

    Source: Guo et al. (2017), equation 3.

    >>> round(calibration(torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, True, True, False])).error, 4)
    0.1
    """
    check_count(bins=bins)
    p = confidence.double()
    if p.ndim != 1 or not len(p) or right.shape != p.shape or not bool(((p >= 0) & (p <= 1)).all()):
        shapes = f"{tuple(p.shape)} and {tuple(right.shape)}"
        raise ValueError(f"confidence must be (N,), in [0, 1], and right (N,), got shapes {shapes}")
    place = (p * bins).long().clamp_max(bins - 1)

    def gaps(hits: Tensor) -> Tensor:
        """Sums of (right - confidence) over each bin, (draws, bins)."""
        return (hits - p).new_zeros(len(hits), bins).index_add(1, place, hits - p)

    drawn = torch.rand(DRAWS, len(p), generator=generator, dtype=p.dtype) < p
    floor = float(gaps(drawn.double()).abs().sum(1).mean()) / len(p)
    counts = place.bincount(minlength=bins)
    used = counts > 0
    sums = p.new_zeros(2, bins).index_add(1, place, torch.stack([p, right.to(p)]))
    means = sums[:, used] / counts[used]
    error = float(gaps(right.to(p)[None]).abs().sum()) / len(p)
    return Calibration(error, floor, means[0], means[1], counts[used])
