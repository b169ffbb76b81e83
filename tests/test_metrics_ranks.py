"""The area under the ROC curve: scikit-learn, closed forms, and the accuracy of its error, interval and p-value."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from jensen.core.seeding import generator
from jensen.metrics import auc, c2st

APART = norm.cdf(1 / math.sqrt(2))  # of two Gaussians of deviation 1, 1 apart


def test_it_is_scikit_learns_ties_and_all():
    below, above = torch.randint(6, (40,)), 1 + torch.randint(6, (25,))
    labels = np.repeat([0, 1], [40, 25])
    found = auc(below, above)
    assert found.value == pytest.approx(roc_auc_score(labels, torch.cat([below, above]).numpy()), abs=1e-14)
    assert auc(above, below).value == pytest.approx(1 - found.value, abs=1e-14)
    assert auc(above, below).stderr == pytest.approx(found.stderr, abs=1e-14)
    assert found.n == found.interval.n == 65


def test_a_critic_that_says_nothing_has_a_half():
    found = auc(torch.zeros(30), torch.zeros(20))
    assert (found.value, found.stderr, found.p_value) == (0.5, 0, 1)
    assert found.low < 0.5 < found.high


def test_error_and_interval_are_those_of_repetition():
    """1,000 repetitions with 30 and 20 Gaussian numbers whose means differ by one: the mean is Phi(1/sqrt 2), and
    DeLong's variance is the observed one, each within 4 standard errors; the interval covers 95 percent within 3
    points.
    """
    rng = generator(0)
    found = [auc(torch.randn(30, generator=rng), 1 + torch.randn(20, generator=rng)) for _ in range(1000)]
    values = torch.tensor([f.value for f in found])
    assert float(values.mean()) == pytest.approx(APART, abs=4 * float(values.std()) / 1000**0.5)
    spread = values.var() / torch.tensor([f.stderr**2 for f in found]).mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 999))
    assert np.mean([f.low < APART < f.high for f in found]) == pytest.approx(0.95, abs=0.03)


def test_the_p_value_counts_the_orders():
    """The share of all choices of 4 of 7 different numbers whose area is at least as large."""
    below, above = torch.tensor([0.0, 1.5, 2.5]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    found, both = auc(below, above), torch.cat([below, above])
    areas = []
    for chosen in combinations(range(7), 4):
        mask = torch.zeros(7, dtype=torch.bool)
        mask[list(chosen)] = True
        areas.append(auc(both[~mask], both[mask]).value)
    assert found.p_value == pytest.approx(np.mean(np.array(areas) >= found.value - 1e-12), abs=1e-12)


def test_numbers_far_apart_have_an_interval_too():
    found = auc(torch.arange(10.0), torch.arange(10.0) + 20)
    assert (found.value, found.stderr, found.high) == (1, 0, 1)
    assert 0.7 < found.low < 0.95
    assert auc(torch.tensor([0.0, math.inf]), torch.tensor([math.inf, math.inf])).value == 0.75


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="must not be nan"):
        auc(torch.tensor([0.0, math.nan]), torch.zeros(3))
    for bad in (torch.zeros(1), torch.zeros(0), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="one row of at least 2, got shape"):
            auc(torch.zeros(3), bad)


# of a classifier ------------------------------------------------------------------------------------------------------


def test_a_classifier_of_two_gaussians_one_apart():
    """Phi(1/sqrt 2) = 0.7602, n = 8,000 test rows: within 4 standard errors and half a percent for the network."""
    rng = generator(0)
    x, y = torch.randn(8000, 1, generator=rng), 1 + torch.randn(8000, 1, generator=rng)
    found = c2st(x, y, generator=rng).auc
    assert found.value == pytest.approx(APART, abs=4 * found.stderr + 0.005)
    assert found.p_value < 1e-12
    assert found.n == 8000


class Biased:
    """Classifies everything as fake, with different scores."""

    def fit(self, x, labels):
        pass

    def predict(self, x):
        return np.ones(len(x), dtype=int)


class Sure(Biased):
    def decision_function(self, x):
        return 100 + x[:, 0]


class Likely(Biased):
    def predict_proba(self, x):
        p = 0.9 + 0.1 / (1 + np.exp(-x[:, 0]))
        return np.stack([1 - p, p], 1)


def test_no_threshold_decides():
    """Fake rows score above real ones, but the threshold is below both: the accuracy is one half, the area is 1."""
    x, y = torch.zeros(20, 1), torch.ones(20, 1)
    for learner in (Sure(), Likely()):
        found = c2st(x, y, generator(0), learner)
        assert (found.accuracy, found.auc.value) == (0.5, 1)
        assert c2st(y, x, generator(0), learner).auc.value == 0
    labels = c2st(x, y, generator(0), Biased())
    assert labels.accuracy == labels.auc.value == 0.5


def test_between_equal_distributions():
    """200 repetitions with 80 rows each: the mean is 1/2 within 4 standard errors, and p is below 0.05 in 5 percent
    within 4 standard errors.
    """
    rng = generator(3)

    class First(Biased):
        def decision_function(self, x):
            return x[:, 0]

    found = [
        c2st(torch.randn(80, 2, generator=rng), torch.randn(80, 2, generator=rng), rng, First()).auc for _ in range(200)
    ]
    values = torch.tensor([f.value for f in found])
    assert float(values.mean()) == pytest.approx(0.5, abs=4 * float(values.std()) / 200**0.5)
    assert np.mean([f.p_value < 0.05 for f in found]) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 200))
