"""Classifier two-sample test: whether a classifier trained on half of each sample separates the other halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from jensen.metrics.features import pair
from jensen.metrics.proportion import Proportion, wilson
from jensen.metrics.ranks import AUC, auc


@runtime_checkable
class Learner(Protocol):
    """A scikit-learn classifier; rows are ranked by its `decision_function`, or else by `predict_proba`."""

    def fit(self, x: np.ndarray, labels: np.ndarray) -> Any:
        """Learn labels (n,) of rows (n, d)."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicted labels of rows."""


@dataclass(frozen=True)
class C2ST:
    """Results of a classifier of real and fake on held-out rows, half of each kind.

    Attributes:
        accuracy: 1/2 if the two cannot be distinguished, 1 if they always can.
        p_value: probability of at least this accuracy for equal distributions.
        low, high: 95 percent interval of the accuracy of this classifier.
        n: number of test rows, n / 2 of each kind.
        auc: probability that it scores a fake row as more fake than a real one, ties counting half, with its standard
            error, test and interval: it needs no threshold and is more sensitive than the accuracy. For a learner that
            gives only labels it equals the accuracy.
    """

    accuracy: float
    p_value: float
    low: float
    high: float
    n: int
    auc: AUC

    @property
    def interval(self) -> Proportion:
        return Proportion(self.accuracy, self.low, self.high, self.n)


def c2st(real: Tensor, fake: Tensor, generator: torch.Generator | None = None, learner: Learner | None = None) -> C2ST:
    r"""Train a classifier on half of each sample, test it on the other half.

    The p-value is $P(B \ge c)$ with B binomial(n, 1/2): for equal distributions the number of correct answers varies no
    more than that, since both kinds are equally frequent. The larger sample is reduced to the size of the smaller. The
    area under the curve comes from the same rows and has its own p-value: choose one of the two in advance.

    Args:
        real: (N, d), N at least 20.
        fake: (M, d), M at least 20.
        generator: random generator for the split and for the seed of the default learner.
        learner: classifier; by default scikit-learn's network with one hidden layer of 64, on standardised features,
            stopped when its error on a tenth of the training rows no longer decreases.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, fewer than 20 rows, or different widths.

    Source: Lopez-Paz & Oquab (2017), section 3; Friedman (2003) for tests on a classifier's scores.

    >>> rng = torch.Generator().manual_seed(0)
    >>> found = c2st(torch.randn(200, 2, generator=rng), 4 + torch.randn(200, 2, generator=rng), rng)
    >>> found.accuracy > 0.95, found.p_value < 1e-9, found.auc.value > 0.99
    (True, True, True)
    """
    x, y = pair(real, fake, least=20)
    rng = torch.default_generator if generator is None else generator
    seed = int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))
    order = np.random.default_rng(seed)
    n = min(len(x), len(y))
    seen, kept = [], []
    for features in (x, y):
        rows = features.cpu().numpy()[order.permutation(len(features))[:n]]
        seen.append(rows[: n // 2])
        kept.append(rows[n // 2 :])
    learner = _network(seed, n) if learner is None else learner
    learner.fit(np.concatenate(seen), np.repeat([0, 1], n // 2))
    tried, rows = n - n // 2, np.concatenate(kept)
    right = int((learner.predict(rows) == np.repeat([0, 1], tried)).sum())
    share, area = wilson(right, 2 * tried), auc(*torch.from_numpy(_scores(learner, rows)).split(tried))
    return C2ST(share.value, float(binom.sf(right - 1, 2 * tried, 0.5)), share.low, share.high, 2 * tried, area)


def _scores(learner: Learner, rows: np.ndarray) -> np.ndarray:
    """A score for each row, larger for rows that look fake."""
    ranked = getattr(learner, "decision_function", getattr(learner, "predict_proba", learner.predict))
    found: np.ndarray = ranked(rows)
    return np.ascontiguousarray(found if found.ndim == 1 else found[:, 1], dtype=np.float64)


def _network(seed: int, rows: int) -> Learner:
    from sklearn.neural_network import MLPClassifier  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    batch = min(200, max(16, rows // 32))  # enough steps before patience ends, for few rows too
    network = MLPClassifier(
        (64,),
        alpha=1e-3,
        batch_size=min(batch, rows // 2),
        early_stopping=True,
        n_iter_no_change=15,
        max_iter=1000,
        random_state=seed,
    )
    learner: Learner = make_pipeline(StandardScaler(), network)
    return learner
