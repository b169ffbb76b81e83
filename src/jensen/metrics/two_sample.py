"""Classifier two-sample test: whether what is learned from half of each tells the other halves apart."""

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
    """What scikit-learn calls a classifier; rows are ranked by its `decision_function`, else by `predict_proba`."""

    def fit(self, x: np.ndarray, labels: np.ndarray) -> Any:
        """Learn labels (n,) of rows (n, d)."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Labels of rows."""


@dataclass(frozen=True)
class C2ST:
    """How well a classifier tells real from fake on rows kept back, half of each.

    Attributes:
        accuracy: share of right answers: 1/2 if the two cannot be told apart, 1 if always.
        p_value: probability of at least this accuracy between equal distributions.
        low, high: 95 percent interval of the accuracy of this classifier.
        n: rows it was tried on, n / 2 of each.
        auc: probability that it finds a fake row more fake than a real one, ties half, with its standard error, test
            and interval: it depends on no threshold and sees what the accuracy rounds away. Of a learner that gives
            labels alone it equals the accuracy.
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
    r"""Train a classifier on half of each sample, try it on the other half.

    The p-value is $P(B \ge c)$ with B binomial of n and 1/2: between equal distributions the number of right answers
    varies no more than that, since as many of each kind are tried. Of the larger sample as many are used as there are
    of the smaller. The area under the curve comes from the same rows and has a p-value of its own: choose one of the
    two before looking.

    Args:
        real: (N, d), N at least 20.
        fake: (M, d), M at least 20.
        generator: splits, and seeds the default learner.
        learner: by default scikit-learn's network with one hidden layer of 64, on standardised features, stopped when
            its error on a tenth of the rows it trains on no longer falls.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, fewer than 20 rows, or two widths.

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
    """Of each row, the larger, the more it is taken for fake."""
    ranked = getattr(learner, "decision_function", getattr(learner, "predict_proba", learner.predict))
    found: np.ndarray = ranked(rows)
    return np.ascontiguousarray(found if found.ndim == 1 else found[:, 1], dtype=np.float64)


def _network(seed: int, rows: int) -> Learner:
    from sklearn.neural_network import MLPClassifier  # seconds to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    batch = min(200, max(16, rows // 32))  # of few rows too, enough steps before patience ends
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
