"""Disentanglement metrics: whether each code of a representation captures one factor. MIG, DCI and FactorVAE score.

Codes (N, D) come from a model, usually posterior means; factors are the (N, F) integers that generated the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count
from jensen.metrics.proportion import Proportion, wilson

TIE = 1e-6  # relative difference of variances that float32 rounding explains: such ties are broken at random

Rows = tuple[np.ndarray, np.ndarray]
"""Codes (n, D) and levels (n,) of one factor."""

# Mutual information -------------------------------------------------------------------------------------------------


def mutual_information(codes: Tensor, factors: Tensor, bins: int = 20) -> Float[Tensor, "d f"]:
    r"""$I(z_i; v_j) = \sum_{b, v} \hat p(b, v) \log \frac{\hat p(b, v)}{\hat p(b)\,\hat p(v)}$ by counting, in nats.

    Each code is binned with equal widths between its minimum and maximum. The estimate is biased upwards: for an
    independent code by about $(B - 1)(V - 1) / 2N$, with B bins and V levels of the factor.

    Args:
        codes: (N, D), finite.
        factors: (N, F), integers.
        bins: B, at least 2.

    Returns:
        (D, F), float64.

    Raises:
        ValueError: if shapes or types do not match, codes are not finite, bins are below 2, or a factor has only one
            value.

    Source: Chen et al. (2018), section 4.1, with counts for densities; the bias is Miller (1955).

    >>> z = torch.tensor([[0.0, 5.0], [0.1, 5.0], [1.0, 5.0], [1.1, 5.0]])
    >>> mutual_information(z, torch.tensor([[0], [0], [1], [1]]))[:, 0]  # log 2 and 0
    tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    codes, factors = _checked(codes, factors)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    n, dims = codes.shape
    low, high = codes.amin(0), codes.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    binned = ((codes - low) / width * bins).long().clamp_max(bins - 1) + bins * torch.arange(dims, device=codes.device)
    columns = []
    for factor in factors.T:
        levels = int(factor.max()) + 1
        counts = torch.bincount((binned * levels + factor[:, None]).flatten(), minlength=dims * bins * levels)
        columns.append(_information(counts.view(dims, bins, levels).double() / n))
    return torch.stack(columns, 1)


def entropy(factors: Tensor) -> Float[Tensor, " f"]:
    """Entropy of each factor in nats, (F,), float64.

    >>> entropy(torch.tensor([[0, 7], [1, 7], [2, 9], [3, 9]]))  # log 4 and log 2
    tensor([1.3863, 0.6931], dtype=torch.float64)
    """
    shares = [torch.bincount(f).double() / len(f) for f in _levels(factors).T]
    return torch.stack([-torch.xlogy(p, p).sum() for p in shares])


def _information(joint: Tensor) -> Tensor:
    """Mutual information of joint probabilities (D, B, V): (D,)."""
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, independent)).sum((1, 2)).clamp_min(0)


@dataclass(frozen=True)
class MIG:
    """The mutual information gap.

    Attributes:
        value: the mean of the gaps, in [0, 1].
        gaps: (F,), one per factor.
        information: (D, F) nats.
        entropy: (F,) nats.
    """

    value: float
    gaps: Float[Tensor, " f"]
    information: Float[Tensor, "d f"]
    entropy: Float[Tensor, " f"]


def mig(codes: Tensor, factors: Tensor, bins: int = 20) -> MIG:
    r"""The gap in information about a factor between the best code and the second best; 1 if one code has all of it.

    $\frac1F \sum_j \frac{1}{H(v_j)} (I(z_{i_1}; v_j) - I(z_{i_2}; v_j))$, with $i_1, i_2$ the two codes most
    informative about $v_j$. It does not penalise a code that captures several factors. The biases of the two mostly
    cancel: among D independent codes the gap is that of the two largest of D chi-squares of $(B-1)(V-1)$ degrees, over
    2N. A factor with more levels than bins cannot reach 1.

    Args:
        codes: (N, D); for a single code the second term is 0.
        factors: (N, F), integers.
        bins: as in `mutual_information`.

    Source: Chen et al. (2018), equation 6.

    >>> grid = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    >>> round(mig(grid.flip(1) * torch.tensor([-2.0, 7.0]), grid).value, 9)
    1.0
    """
    information, entropies = mutual_information(codes, factors, bins), entropy(factors)
    top = torch.nn.functional.pad(information, (0, 0, 0, 1)).topk(2, dim=0).values
    gaps = (top[0] - top[1]) / entropies
    return MIG(float(gaps.mean()), gaps, information, entropies)


# DCI ----------------------------------------------------------------------------------------------------------------


@runtime_checkable
class Probe(Protocol):
    """Predicts a factor from the codes, and reports the importance of each code."""

    def __call__(self, seen: Rows, kept: Rows, seed: int) -> tuple[np.ndarray, float]:
        """Train on some rows and test on held-out rows: importances (D,) and the test score."""


@dataclass(frozen=True)
class BoostedTrees:
    """scikit-learn's gradient-boosted trees: importances by impurity, scored by accuracy.

    Attributes:
        rounds: number of boosting rounds, each with one tree per level.
        depth: depth of a tree.
    """

    rounds: int = 10
    depth: int = 3

    def __post_init__(self) -> None:
        check_count(rounds=self.rounds, depth=self.depth)

    def __call__(self, seen: Rows, kept: Rows, seed: int) -> tuple[np.ndarray, float]:
        from sklearn.ensemble import GradientBoostingClassifier  # slow to import

        model = GradientBoostingClassifier(n_estimators=self.rounds, max_depth=self.depth, random_state=seed)
        model.fit(*seen)
        return model.feature_importances_.clip(0), float(model.score(*kept))  # may be slightly negative by rounding


@dataclass(frozen=True)
class Lasso:
    """scikit-learn's lasso on standardised codes, its penalty by cross-validation: importances are absolute weights.

    Scored by the fraction of explained variance, at least 0. For ordered factors; it detects only linear relations.

    Attributes:
        folds: number of folds of the cross-validation.
    """

    folds: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")

    def __call__(self, seen: Rows, kept: Rows, seed: int) -> tuple[np.ndarray, float]:
        from sklearn.linear_model import LassoCV  # slow to import
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LassoCV(cv=self.folds, random_state=seed)).fit(*seen)
        return abs(model[-1].coef_), max(0.0, float(model.score(*kept)))


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness, informativeness: each 1 at best.

    Attributes:
        disentanglement: whether each code captures only one factor.
        completeness: whether each factor is captured by only one code.
        informativeness: the mean of `scores`.
        importance: (D, F), importance of each code for predicting each factor.
        scores: (F,), score of each factor's probe on held-out rows.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Float[Tensor, "d f"]
    scores: Float[Tensor, " f"]


def disentanglement(importance: Float[Tensor, "..."]) -> float:
    r"""$\sum_i \rho_i (1 - H_F(P_i))$: one minus the entropy, to the base F, of a code's importances over factors.

    $P_{ij} = R_{ij} / \sum_k R_{ik}$, weighted by $\rho_i$, the code's share of the total importance. It is 0 if no
    code is informative.

    Args:
        importance: R, (D, F), at least 0, F at least 2.

    Raises:
        ValueError: for an importance of another shape, or with entries that are negative or not finite.

    Source: Eastwood & Williams (2018), section 2.

    >>> disentanglement(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))  # 1 and 0, by halves
    0.5
    """
    certain, weights = _certainty(importance)
    return float((weights * certain).sum())


def completeness(importance: Float[Tensor, "..."]) -> float:
    r"""$\frac1F \sum_j (1 - H_D(\tilde P_j))$: one minus the entropy, to the base D, of a factor's importances.

    $\tilde P_{ij} = R_{ij} / \sum_k R_{kj}$; a factor that no code predicts counts as 0.

    Args:
        importance: R, (D, F), at least 0, D at least 2.

    Raises:
        ValueError: for an importance of another shape, or with entries that are negative or not finite.

    Source: Eastwood & Williams (2018), section 2.

    >>> completeness(torch.tensor([[2.0, 0.5], [0.0, 0.5]]))  # 1 and 0
    0.5
    """
    return float(_certainty(importance.mT)[0].mean())


def _certainty(importance: Tensor) -> tuple[Tensor, Tensor]:
    """One minus the entropy of each row, to the base of its length (0 for a row of zeros), and each row's share of the
    total.
    """
    importance = importance.double()
    if (
        importance.ndim != 2
        or not len(importance)
        or importance.shape[1] < 2
        or not bool((importance >= 0).all() & importance.isfinite().all())
    ):
        raise ValueError(
            f"importance must be (D, F), D and F at least 2, finite, not negative, got {tuple(importance.shape)}"
        )
    totals = importance.sum(1)
    shares = importance / torch.where(totals > 0, totals, 1.0)[:, None]
    certain = 1 + torch.xlogy(shares, shares).sum(1) / math.log(importance.shape[1])
    return torch.where(totals > 0, certain, 0.0), totals / totals.sum().clamp_min(1e-300)


def dci(
    codes: Tensor,
    factors: Tensor,
    probe: Probe | None = None,
    *,
    kept: float = 0.25,
    generator: torch.Generator | None = None,
) -> DCI:
    """Train a probe for each factor; evaluate which codes it uses and how well it predicts held-out rows.

    The rows are split in a stratified way for each factor, so that its probe is trained on every level, however rare,
    and tested on levels with about their frequencies; a level with a single row is used for training only.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F), integers, F at least 2.
        probe: `BoostedTrees()` if None; or `Lasso()`.
        kept: fraction of held-out rows, in (0, 1).
        generator: random generator for the splits and the probes' seeds.

    Raises:
        ValueError: if shapes or types do not match, codes are not finite, a factor has one value, or either part of the
            split is empty, for example if every row has a different level.

    Source: Eastwood & Williams (2018), section 2; trees for their lasso are Locatello et al. (2019)'s.

    >>> grid = torch.cartesian_prod(*[torch.arange(4)] * 3)
    >>> found = dci(grid.float(), grid[:, :2], generator=torch.Generator().manual_seed(0))
    >>> round(found.disentanglement, 6), round(found.completeness, 6), found.informativeness
    (1.0, 1.0, 1.0)
    """
    codes, factors = _checked(codes, factors)
    if codes.shape[1] < 2 or factors.shape[1] < 2:
        raise ValueError(f"codes and factors must have at least 2 columns, got {codes.shape[1]} and {factors.shape[1]}")
    if not 0 < kept < 1:
        raise ValueError(f"kept must be between 0 and 1, got {kept}")
    device = "cpu" if generator is None else generator.device
    order = torch.randperm(len(codes), generator=generator, device=device).to(codes.device)
    seeds = torch.randint(2**31 - 1, (factors.shape[1],), generator=generator, device=device).tolist()
    found = []
    for factor, seed in zip(factors.T, seeds, strict=True):
        rows = _divided(factor, order, kept)
        seen, back = ((codes[r].cpu().numpy(), factor[r].cpu().numpy()) for r in rows)
        found.append((probe or BoostedTrees())(seen, back, seed))
    importance = torch.stack([torch.as_tensor(r, dtype=torch.float64) for r, _ in found], 1)
    scores = torch.tensor([score for _, score in found], dtype=torch.float64)
    return DCI(disentanglement(importance), completeness(importance), float(scores.mean()), importance, scores)


def _divided(factor: Tensor, order: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """Training rows and held-out rows, every (1 / kept)-th in the order of levels; each level has training rows."""
    rows = order[factor[order].argsort(stable=True)]
    place = torch.arange(1, len(rows) + 1, dtype=torch.float64, device=rows.device) * kept
    back = place.floor() > (place - kept + 1e-9).floor()
    levels = factor[rows]
    some = torch.bincount(levels[~back], minlength=int(levels.max()) + 1) > 0
    back &= some[levels]
    if not bool(back.any()):
        raise ValueError(
            f"kept must leave training and held-out rows, got {kept} of {len(rows)} rows, {len(some)} levels"
        )
    return rows[~back], rows[back]


# FactorVAE ----------------------------------------------------------------------------------------------------------


def factor_vae_score(
    codes: Tensor,
    factors: Tensor,
    *,
    votes: int = 800,
    batch: int = 64,
    generator: torch.Generator | None = None,
) -> Proportion:
    r"""How often the code with the least variance identifies the factor that was held fixed.

    For each vote, a factor and a row are drawn, then `batch` rows with the same value of that factor; the vote goes to
    the code with the least variance among them (ties at random), relative to its variance over all data (constant codes
    are ignored). Each code is assigned the factor for which it got most votes; the score is the accuracy of this
    assignment on the same number of new votes. It is 1 if each code depends on one factor; chance is 1 / F.

    Args:
        codes: (N, D), not all constant.
        factors: (N, F), integers. While one factor is fixed the others should vary: use a full grid, or many rows.
        votes: number of votes for the assignment, and of new votes for the score.
        batch: rows per vote, at least 2.
        generator: random generator for the votes.

    Returns:
        the score with its interval over new votes.

    Raises:
        ValueError: if shapes or types do not match, codes are not finite or all constant, a factor has one value, or
            votes or batch are too few.

    Source: Kim & Mnih (2018), section 4 and appendix B; they compute the score from the votes of the assignment.

    >>> grid = torch.cartesian_prod(*[torch.arange(4)] * 3)
    >>> print(factor_vae_score(grid.flip(1) * 2.0, grid, votes=100, generator=torch.Generator().manual_seed(0)))
    100.0% [96.3, 100.0]
    """
    codes, factors = _checked(codes, factors)
    if votes < 1 or batch < 2:
        raise ValueError(f"votes must be at least 1 and batch at least 2, got {votes} and {batch}")
    spread = codes.var(0)
    if not bool((spread > 0).any()):
        raise ValueError("codes must not all be constant")
    codes = (codes / spread.sqrt())[:, spread > 0]
    count = factors.shape[1]
    table = torch.zeros(codes.shape[1], count, device=codes.device)
    held, least = _votes(codes, factors, votes, batch, generator)
    table.index_put_((least, held), torch.ones(votes, device=codes.device), accumulate=True)
    held, least = _votes(codes, factors, votes, batch, generator)
    return wilson(int((table.argmax(1)[least] == held).sum()), votes)


def _votes(
    codes: Tensor, factors: Tensor, votes: int, batch: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The fixed factor, (votes,), and the code with the least variance, (votes,)."""
    device = codes.device if generator is None else generator.device
    held = torch.randint(factors.shape[1], (votes,), generator=generator, device=device).to(codes.device)
    row = torch.randint(len(codes), (votes,), generator=generator, device=device).to(codes.device)
    place = torch.rand(votes, batch, generator=generator, device=device, dtype=torch.float64).to(codes.device)
    coin = torch.rand(votes, codes.shape[1], generator=generator, device=device, dtype=torch.float64).to(codes.device)
    least = torch.empty_like(held)
    for j, factor in enumerate(factors.T):
        mine = held == j
        order, sizes = factor.argsort(), torch.bincount(factor)  # rows with the same value are adjacent
        value = factor[row[mine]]
        within = (place[mine] * sizes[value, None]).long()
        rows = order[(sizes.cumsum(0) - sizes)[value, None] + within]
        least[mine] = (codes[rows].var(1) * (1 + TIE * coin[mine])).argmin(1)
    return held, least


# --------------------------------------------------------------------------------------------------------------------


def _checked(codes: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in float64; factors as levels from 0."""
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 1 or len(codes) < 2:
        raise ValueError(
            f"codes (N, D) and factors (N, F) must have the same number of rows, at least 2, "
            f"got {tuple(codes.shape)} and {tuple(factors.shape)}"
        )
    if not bool(torch.isfinite(codes).all()):
        raise ValueError("codes must be finite")
    return codes.detach().double(), _levels(factors)


def _levels(factors: Tensor) -> Tensor:
    """Each column's values, numbered from 0 in increasing order."""
    if factors.ndim != 2 or not factors.numel() or factors.is_floating_point():
        raise ValueError(f"factors must be integers (N, F), got {factors.dtype} {tuple(factors.shape)}")
    levels = torch.stack([f.unique(return_inverse=True)[1] for f in factors.T], 1)
    for j, most in enumerate(levels.amax(0).tolist()):
        if most == 0:
            raise ValueError(f"factor {j} must take at least two values, got one: leave it out")
    return levels
