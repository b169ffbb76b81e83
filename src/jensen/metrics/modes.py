"""Mode coverage: which modes of a distribution samples reach, and with what frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Num
from torch import Tensor

from jensen.core.distances import squared_distances
from jensen.core.shapes import checked
from jensen.metrics.proportion import Proportion, wilson

STANDARD_DEVIATIONS = 3.0


@dataclass(frozen=True)
class ClassCoverage:
    r"""The distribution of samples over K classes.

    Attributes:
        recovered: number of classes with samples.
        of: number K of classes.
        reverse_kl: $KL(\hat q | w) = \sum_k \hat q_k \log(\hat q_k / w_k)$ in nats, of the fractions of samples
            relative to the true ones: 0 if equal, $-\log w_k$ if all are in class k.
        floor: mean of `reverse_kl` for n samples from w itself, which is not 0 for a finite sample.
        n: number of samples.
        shares: (K,) float64, the fractions of samples.
    """

    recovered: int
    of: int
    reverse_kl: float
    floor: float
    n: int
    shares: Tensor = field(compare=False)


@dataclass(frozen=True)
class ModeCoverage(ClassCoverage):
    """The distribution of samples over K modes, and how close to them they are.

    Attributes:
        recovered: number of modes with a high-quality sample.
        high_quality: fraction of samples within 3 standard deviations of their mode.
    """

    high_quality: float

    @property
    def high_quality_interval(self) -> Proportion:
        """The fraction with its 95 percent interval."""
        return wilson(round(self.high_quality * self.n), self.n)


@dataclass(frozen=True)
class JointCoverage(ClassCoverage):
    """The distribution of examples over the K = size ** width combinations of `width` classes each.

    Attributes:
        clearly: number of combinations reached by examples whose classes are all clear.
        clear: share of clear classes.
        places: (width, size), the fractions of the classes at each place.
    """

    clearly: int
    clear: Proportion
    places: Tensor = field(compare=False)


def mode_coverage(
    samples: Num[Tensor, "..."],
    modes: Num[Tensor, "..."],
    std: float | Num[Tensor, "..."] | Sequence[float],
    weights: Num[Tensor, "..."] | Sequence[float] | None = None,
) -> ModeCoverage:
    r"""Assign each sample to its nearest mode, by Euclidean distance.

    If modes have different widths, to the one with the highest likelihood, $\arg\min_k d_k^2 / 2 s_k^2 + D \log s_k$.

    A sample within 3 std is of high quality, and a mode with such a sample is recovered; reverse KL uses the fractions
    of all samples. For real data with isotropic Gaussian modes in two dimensions, a fraction of $1 - e^{-9/2}$ (98.9
    percent) is of high quality.

    Args:
        samples: (N, D).
        modes: (K, D), their centres.
        std: standard deviation of the modes in each direction, positive: one number, or one per mode, (K,).
        weights: (K,), positive, the probability of each mode; normalised here. None: all equal.

    Raises:
        ValueError: for no samples or modes, sizes that do not match, a std or weight that is not positive, or a sample,
            mode or weight that is not finite.

    Source: Srivastava et al. (2017), section 4.1; Lin et al. (2018), section 4.1 (reverse KL).

    >>> modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    >>> found = mode_coverage(torch.tensor([[0.1, 0.0], [0.0, 0.2], [5.1, 0.0], [0.0, 0.0]]), modes, std=0.1)
    >>> found.recovered, found.high_quality, round(found.reverse_kl, 4)
    (1, 0.75, 0.1308)
    """
    fit = samples.ndim == modes.ndim == 2 and samples.shape[1] == modes.shape[1]
    if not (fit and len(samples) and len(modes)):
        raise ValueError(
            f"samples (N, D) and modes (K, D) must agree and N and K be at least 1, "
            f"got {tuple(samples.shape)} and {tuple(modes.shape)}"
        )
    spread = torch.as_tensor(std, dtype=torch.float64, device=samples.device)
    if spread.shape not in ((), (len(modes),)):
        raise ValueError(f"std must be one number or one for each of {len(modes)} modes, got {tuple(spread.shape)}")
    if not bool((spread > 0).all() & spread.isfinite().all()):
        raise ValueError(f"std must be positive, got {spread.tolist()}")
    for name, x in (("samples", samples), ("modes", modes)):
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} must be finite, and some are not")
    centres = modes.to(samples.device).double()
    spread = spread.expand(len(modes))
    width, modes_of, near_of = centres.shape[1] * spread.log(), [], []
    for squares in squared_distances(samples, centres, 4096):
        mode = (squares / (2 * spread**2) + width).argmin(1)
        own = squares.gather(1, mode[:, None])[:, 0].sqrt()
        modes_of.append(mode)
        near_of.append(own <= STANDARD_DEVIATIONS * spread[mode])
    nearest, near = torch.cat(modes_of), torch.cat(near_of)
    classes = class_coverage(nearest, len(modes), weights)
    recovered = len(nearest[near].unique())
    return ModeCoverage(**vars(classes) | {"recovered": recovered}, high_quality=float(near.double().mean()))


def class_coverage(
    labels: Num[Tensor, "..."], classes: int, weights: Num[Tensor, "..."] | Sequence[float] | None = None
) -> ClassCoverage:
    """The distribution of labels over classes, such as a classifier's labels of generated pictures.

    Args:
        labels: (N,), from 0 to classes - 1.
        classes: number of classes K.
        weights: (K,), positive, the probability of each class; normalised here. None: all equal.

    Raises:
        ValueError: for no labels, one out of range, or weights that are not K positive numbers.

    Source: Lin et al. (2018), section 4.2, for the 1,000 classes of stacked digits.

    >>> class_coverage(torch.tensor([0, 0, 2]), 4).recovered
    2
    """
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels must be (N,) integers, at least one, got {kind} {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    w = torch.ones(classes) if weights is None else torch.as_tensor(weights)
    if w.shape != (classes,) or not bool((w > 0).all() and w.isfinite().all()):
        raise ValueError(f"weights must be {classes} positive numbers, got {w.tolist() if w.ndim else w.item()}")
    w = w.double().cpu() / w.double().cpu().sum()
    counts = labels.cpu().bincount(minlength=classes).double()
    return ClassCoverage(
        recovered=int((counts > 0).sum()),
        of=classes,
        reverse_kl=float(_relative(counts, len(labels), w).sum()),
        floor=_floor(len(labels), w),
        n=len(labels),
        shares=counts / len(labels),
    )


@checked
def joint_coverage(
    classes: Num[Tensor, "n width"], weights: Num[Tensor, "..."], clear: Bool[Tensor, "n width"]
) -> JointCoverage:
    """The distribution of examples that have a class at each of several places, such as the channels of a picture.

    A classifier gives every picture a class, even a meaningless one, so the combinations are also counted for only
    those examples whose classes are all clear.

    Args:
        classes: (N, width), from 0 to size - 1.
        weights: (size ** width,), positive, the probability of each combination, the last place varying fastest.
        clear: (N, width) bool, which classes are clear.

    Raises:
        ValueError: as in `class_coverage`.

    >>> classes, clear = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[True, False], [True, True]])
    >>> found = joint_coverage(classes, torch.ones(4), clear)
    >>> found.recovered, found.clearly, found.clear.value
    (2, 1, 0.75)
    """
    width = classes.shape[1]
    size = round(len(weights) ** (1 / width))
    index = (classes * size ** torch.arange(width - 1, -1, -1)).sum(1)
    return JointCoverage(
        **vars(class_coverage(index, len(weights), weights)),
        clearly=len(index[clear.all(1)].unique()),
        clear=wilson(int(clear.sum()), clear.numel()),
        places=torch.stack([class_coverage(place, size).shares for place in classes.T]),
    )


def _relative(counts: Tensor, n: int, w: Tensor) -> Tensor:
    share = counts / n
    return torch.xlogy(share, share / w)


def _floor(n: int, w: Tensor) -> float:
    r"""$E\, KL(\hat w | w)$ for n draws of w, exactly: a class's count is binomial."""
    counts = torch.arange(n + 1, dtype=torch.float64)
    total = 0.0
    for share, times in zip(*(v.tolist() for v in w.unique(return_counts=True)), strict=True):
        law = torch.distributions.Binomial(n, torch.tensor(share, dtype=torch.float64)).log_prob(counts).exp()
        total += times * float((law * _relative(counts, n, torch.tensor(share, dtype=torch.float64))).sum())
    return total
