"""Energy distance: closed forms, and the accuracy of its standard error."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import energy_distance as scipys

from jensen.metrics import energy_distance


def absolute(mean, variance):
    """E|Z| of a Gaussian Z."""
    s = math.sqrt(variance)
    return s * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * math.erf(
        mean / (s * math.sqrt(2))
    )


def test_between_gaussians_within_its_error():
    rng = torch.Generator().manual_seed(0)
    exact = 2 * absolute(1.0, 1 + 4) - absolute(0.0, 2.0) - absolute(0.0, 8.0)
    scores = []
    for _ in range(60):  # n = 400 and 300, sixty times
        x, y = torch.randn(400, 1, generator=rng), 1 + 2 * torch.randn(300, 1, generator=rng)
        found = energy_distance(x, y)
        scores.append((found.value - exact) / found.stderr)
    z = torch.tensor(scores)
    assert abs(float(z.mean())) < 4 / math.sqrt(60)
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / 59)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (200, 100)])
@pytest.mark.parametrize("shift", [0.0, 2.0, 3.0, 6.0])
def test_two_errors_cover(n, m, shift):
    """Gaussians whose means differ by `shift` standard errors, 400 times: intervals of two standard errors contain
    the exact distance in at least 91 percent: 95 minus 4 standard errors of this share.
    """
    rng = torch.Generator().manual_seed(0)
    apart = shift * math.sqrt(1 / n + 1 / m)
    exact = 2 * absolute(apart, 2.0) - 2 * absolute(0.0, 2.0)
    found = [
        energy_distance(torch.randn(n, 1, generator=rng), apart + torch.randn(m, 1, generator=rng)) for _ in range(400)
    ]
    covered = [abs(f.value - exact) < 2 * f.stderr for f in found]
    assert sum(covered) / 400 > 0.91


def test_at_equality_in_many_dimensions_its_error_is_the_deviation():
    """300 repetitions with 100 rows of 64 numbers: at most 1.3 times the standard deviation."""
    rng = torch.Generator().manual_seed(2)
    found = [energy_distance(*torch.randn(2, 100, 64, generator=rng)) for _ in range(300)]
    ratio = (
        torch.tensor([f.stderr for f in found]).square().mean().sqrt() / torch.tensor([f.value for f in found]).std()
    )
    assert 0.9 < float(ratio) < 1.3


def test_a_row_of_numbers_and_whole_numbers():
    x, y = torch.randint(9, (30,)), torch.randint(4, (20,))
    found = energy_distance(x, y)
    assert found == energy_distance(x[:, None].double(), y[:, None].double())
    # sums over all pairs, by hand
    far = lambda a, b: (a[:, None] - b).abs().double()  # noqa: E731
    exact = 2 * far(x, y).mean() - far(x, x).sum() / (30 * 29) - far(y, y).sum() / (20 * 19)
    assert found.value == pytest.approx(float(exact), abs=1e-12)
    assert energy_distance(x.to(torch.uint8), y.to(torch.uint8)) == found


def test_in_one_dimension_it_is_scipys():
    x, y = torch.randn(50), 0.3 + torch.randn(40)
    n, m = len(x), len(y)
    ours = energy_distance(x[:, None], y[:, None]).value
    # SciPy's includes pairs of a point with itself, and is a square root
    within = [float((v[:, None] - v).abs().mean()) for v in (x.double(), y.double())]
    biased = ours + within[0] / (n - 1) + within[1] / (m - 1)
    assert biased == pytest.approx(scipys(x.numpy(), y.numpy()) ** 2, abs=1e-9)


def test_chunks_and_the_shape_of_an_event_do_not_matter():
    x, y = torch.randn(37, 1, 4, 4), torch.randn(29, 1, 4, 4) + 0.5
    whole = energy_distance(x, y)
    assert energy_distance(x.flatten(1), y.flatten(1), chunk=5).value == pytest.approx(whole.value, abs=1e-12)
    assert energy_distance(y, x).value == pytest.approx(whole.value, abs=1e-12)


def test_it_is_unbiased_between_equal_distributions():
    rng = torch.Generator().manual_seed(1)
    values = [
        energy_distance(torch.randn(20, 3, generator=rng), torch.randn(20, 3, generator=rng)).value for _ in range(400)
    ]
    z = torch.tensor(values)
    assert abs(float(z.mean())) < 4 * float(z.std()) / 20
    assert float(z.min()) < 0


def test_what_cannot_be_compared_is_refused():
    for few in (torch.zeros(1, 2), torch.zeros(0, 2), torch.zeros(5, 0), torch.tensor(3.0)):
        with pytest.raises(
            ValueError, match=r"x must be \(N, ...\), real numbers, with at least 2 rows, got torch.float32"
        ):
            energy_distance(few, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="events of the same size, got 2 and 3"):
        energy_distance(torch.zeros(4, 2), torch.zeros(5, 3))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="y must be finite, and some are not"):
            energy_distance(torch.zeros(4, 1), torch.tensor([[0.0], [bad], [1.0]]))
