"""The table that compares gradient estimators: its moments, and the reference for its bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions as D

from jensen.core.seeding import generator
from jensen.distributions import DiscretizedLogistic, Gompertz, OneHotLogits, StraightThroughOneHot
from jensen.estimators import Pathwise, Relaxed, ScoreFunction, compare_estimators, leave_one_out
from jensen.estimators.exact import exact_gradient

F64 = torch.float64


def T(value, grad=False):  # noqa: N802
    return torch.tensor(value, dtype=F64, requires_grad=grad)


def assert_unbiased(table, limit=4.0):
    for row in table.rows:
        assert row.bias.abs().max() < limit, str(table)


# -- the table --------------------------------------------------------------------------------------------


def test_table_has_the_moments_of_the_gradients():
    """Independent of the chunk size, and equal to NumPy's moments of the gradients."""
    seen = []

    class Watched(Pathwise):
        def draw(self, q, shape):
            z = super().draw(q, shape)
            seen.append(z.detach())
            return z

    def table(chunk):
        return compare_estimators(
            D.Normal, torch.square, [T(0.5), T(1.0)], {"it": Watched()}, exact=T([1.0, 2.0]), repeats=1000,
            chunk=chunk, samples=3, generator=generator(0),
        )  # fmt: skip

    row = table(1000)["it"]
    z = seen[-1]
    g = torch.stack([(2 * z).mean(0), (2 * z * (z - 0.5)).mean(0)], 1).numpy()
    np.testing.assert_allclose(row.mean, g.mean(0))
    np.testing.assert_allclose(row.stderr, g.std(0, ddof=1) / math.sqrt(1000))
    np.testing.assert_allclose(row.bias, (g.mean(0) - [1, 2]) / (g.std(0, ddof=1) / math.sqrt(1000)))
    assert row.variance == pytest.approx(g.var(0, ddof=1).sum())
    assert row.evaluations == 3
    assert row.seconds > 0
    seen.clear()
    row = table(300)["it"]
    z = torch.cat(seen[1:], 1)
    assert z.shape == (3, 1000)
    g = torch.stack([(2 * z).mean(0), (2 * z * (z - 0.5)).mean(0)], 1).numpy()
    np.testing.assert_allclose(row.mean, g.mean(0))
    assert row.variance == pytest.approx(g.var(0, ddof=1).sum())


def test_table_without_an_exact_gradient():
    """The score function with the smallest variance is the reference, with its own error included; a wrong estimator
    is detected.
    """

    class Doubled(Pathwise):
        def correction(self, q, z, cost):
            return cost - cost.detach()

    table = compare_estimators(
        lambda mean, std: D.Independent(D.Normal(mean, std), 1),
        lambda z: z.square().sum(-1),
        [T([0.5, -1.0]), T([1.0, 2.0])],
        {"score": ScoreFunction(), "pathwise": Pathwise(), "doubled": Doubled(), "one": ScoreFunction(leave_one_out)},
        generator=generator(3),
    )
    assert table.reference == "'one', unbiased for this q"
    assert (table["one"].bias == 0).all()
    assert table["score"].bias.abs().max() < 4
    assert table["pathwise"].bias.abs().max() < 4
    spread = (table["score"].stderr ** 2 + table["one"].stderr ** 2).sqrt()
    torch.testing.assert_close(table["score"].bias, (table["score"].mean - table.exact) / spread, rtol=1e-6, atol=1e-9)
    assert table["doubled"].bias.abs().max() > 20


def test_table_of_a_gradient_without_variance():
    """The pathwise gradient of a linear f is exact up to rounding: its standard error is 0, and its bias is still
    reported as 0.
    """
    table = compare_estimators(
        lambda m: D.Normal(m, 1.0), lambda z: 0.1 * z, torch.tensor(3.1), {"it": Pathwise()}, exact=T(0.1)
    )
    assert 0 < table["it"].bias.abs().max() < 1


def test_table_reads():
    table = compare_estimators(
        lambda logits: D.OneHotCategorical(logits=logits), lambda z: z[..., 0], torch.zeros(5), repeats=100
    )
    lines = str(table).splitlines()
    assert lines[0].split("  ")[0] == "estimator"
    assert [row.estimator for row in table.rows] == [
        "score function",
        "score function, constant baseline",
        "score function, leave-one-out",
        "relaxed, tau = 0.5",
        "straight-through, tau = 0.5",
    ]
    assert len(lines) == 7
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1] == "bias is measured against the exact gradient, by enumeration: [0.16, -0.04, -0.04, ... 5]"


def test_table_with_a_batch_is_of_the_sum():
    """A q with a batch shape: the gradient of the sum over the batch."""
    table = compare_estimators(
        lambda m: D.Normal(m[..., None] + T([0.0, 1.0, 2.0]), T(1.0)),
        torch.square,
        T(0.5),
        {"pathwise": Pathwise()},
        exact=T(2 * (0.5 + 1.5 + 2.5)),
        generator=generator(0),
    )
    assert_unbiased(table)


# -- what the bias is taken from ---------------------------------------------------------------------------------

W = T([1.0, -2.0, 3.0])


def truth_of(q, f, parameters, **options):
    """The exact gradient in the table of one estimator."""
    return compare_estimators(q, f, parameters, {"score": ScoreFunction()}, repeats=2, samples=1, **options)


def test_a_straight_through_draw_is_no_reference():
    """Three classes, f = z^3, and a family with straight-through draws: enumeration gives the exact gradient, the
    score functions are within 4 standard errors of it, and the straight-through estimator is off by 50.
    """
    logits = T([0.3, -0.5, 1.0])
    table = compare_estimators(
        OneHotLogits(1, 3, temperature=0.5), lambda z: (z[..., 0, :] @ W) ** 3, logits, generator=generator(0)
    )
    p = torch.softmax(logits, 0)
    torch.testing.assert_close(table.exact, p * (W**3 - p @ W**3))
    assert table.reference == "the exact gradient, by enumeration"
    names = [row.estimator for row in table.rows]
    assert names[0] == "straight-through, by q itself"
    for name in names[1:4]:
        assert table[name].bias.abs().max() < 4
    assert table[names[0]].bias.abs().max() > 50


def test_where_there_are_too_many_outcomes_a_score_function_is_the_reference():
    """Twenty bits: only the score function is unbiased, even if other estimators have less variance."""
    w = torch.linspace(-1, 1, 20, dtype=F64)
    table = compare_estimators(
        OneHotLogits(20, 2, temperature=0.1),
        lambda z: (z[..., 0] @ w).exp(),
        torch.zeros(40, dtype=F64),
        {"own": Pathwise(), "score": ScoreFunction(leave_one_out), "none": ScoreFunction()},
        generator=generator(0),
        repeats=4000,
    )
    assert table.reference == "'score', unbiased for this q"
    assert table["none"].bias.abs().max() < 4
    with pytest.raises(ValueError, match="bias must be measured against"):
        compare_estimators(
            OneHotLogits(20, 2, temperature=0.1),
            lambda z: z[..., 0] @ w,
            torch.zeros(40, dtype=F64),
            {"own": Pathwise(), "relaxed": Relaxed(1.0)},
            repeats=2,
        )


def test_a_support_that_moves_makes_the_score_function_biased():
    """E z^2 of a uniform variable on (a, b) is (a^2 + a b + b^2) / 3: the pathwise gradient is right, the score
    function is not.
    """
    table = compare_estimators(D.Uniform, torch.square, [T(0.5), T(2.0)], generator=generator(0))
    assert table.reference == "'pathwise', unbiased for this q"
    assert ((table.exact - T([1.0, 1.5])).abs() < 4 * table["pathwise"].stderr).all()
    assert table["score function, leave-one-out"].bias.abs().min() > 100


def shifted_waits(a):
    return D.TransformedDistribution(D.Exponential(torch.ones_like(a)), [D.AffineTransform(a, 1.0)])


def test_an_image_of_a_law_moves_where_its_end_does():
    """E z^2 of a unit exponential variable shifted by a is (a + 1)^2 + 1, although torch states the real line as its
    support.
    """
    table = compare_estimators(shifted_waits, torch.square, T(1.0), generator=generator(0))
    assert table.reference == "'pathwise', unbiased for this q"
    assert (table.exact - 4.0).abs() < 4 * table["pathwise"].stderr
    assert table["score function, leave-one-out"].bias.abs() > 100


def test_an_integral_far_from_zero_keeps_its_digits():
    """E z^2 of N(100, 0.001^2) in single precision: the mean of f, 10^4, does not affect the slope, 200."""
    mean = torch.tensor(100.0, requires_grad=True)
    how, (found,), _ = exact_gradient(D.Normal(mean, 1e-3), torch.square, [mean])
    assert (how, float(found)) == ("quadrature", pytest.approx(200.0, rel=1e-3))


def test_a_jump_makes_the_path_biased():
    """P(z > 0) + E z of two normal variables: the pathwise gradient misses the jump and is not used as the
    reference.
    """
    mean = T([0.3, -0.5])
    table = compare_estimators(
        lambda m: D.Independent(D.Normal(m, 1.0), 1),
        lambda z: (z[..., 0] > 0).to(z) + z[..., 1],
        mean,
        generator=generator(0),
    )
    exact = T([math.exp(-(0.3**2) / 2) / math.sqrt(2 * math.pi), 1.0])
    assert "score function" in table.reference
    assert ((table.exact - exact).abs() < 4 * table["score function"].stderr).all()
    assert table["pathwise"].bias[0] < -50
    table = compare_estimators(lambda m: D.Normal(m, 1.0), lambda z: (z > 0).to(z), T(0.3), generator=generator(0))
    assert table["pathwise"].mean.item() == 0  # the gradient of f is 0
    assert table.exact.item() == pytest.approx(exact[0].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("q", "at", "f", "exact"),
    [
        (D.Normal, (0.8, 1.3), torch.square, (1.6, 2.6)),
        (lambda r: D.Gamma(T(2.0), r), (1.5,), torch.square, (-2 * 6 / 1.5**3,)),
        (lambda m: D.LogNormal(m, T(0.4)), (0.2,), lambda z: z, (math.exp(0.28),)),
        (lambda c: D.Beta(c, T(1.0)), (2.0,), lambda z: z, (1 / 9,)),
        (lambda r: Gompertz(T(0.7), r), (2.0,), lambda z: z, None),
    ],
    ids=["normal", "gamma", "log-normal", "beta", "Gompertz"],
)
def test_one_dimension_is_integrated(q, at, f, exact):
    table = truth_of(q, f, [T(v) for v in at])
    if exact is None:  # -mean / rate
        exact = (-q(T(at[0])).mean.item() / at[0],)
    assert table.reference == "the exact gradient, by quadrature"
    assert table.exact.tolist() == pytest.approx(list(exact), rel=1e-5)


def test_outcomes_together_are_enumerated():
    """Bits and classes with a batch shape in one event: against the explicit sum over their product."""
    logits = torch.randn(2, 3, dtype=F64, requires_grad=True)  # a batch of 2, 3 bits each
    q = D.Independent(D.Bernoulli(logits=logits), 1)
    bits = torch.cartesian_prod(*[T([0.0, 1.0])] * 3)
    how, (ours,), (error,) = exact_gradient(q, lambda z: (z @ W).exp(), [logits])
    p = torch.where(bits[:, None] == 1, torch.sigmoid(logits), torch.sigmoid(-logits)).prod(-1)
    (exact,) = torch.autograd.grad((p * (bits @ W).exp()[:, None]).sum(), logits)
    assert how == "enumeration"
    torch.testing.assert_close(ours, exact)
    assert (error == 0).all()
    pairs = torch.randn(2, 3, dtype=F64, requires_grad=True)  # two one-hot variables of three classes
    q = D.Independent(D.OneHotCategorical(logits=pairs), 1)
    _, (ours,), _ = exact_gradient(q, lambda z: (z[..., 0, :] @ W) * (z[..., 1, :] @ W**2), [pairs])
    one, two = torch.softmax(pairs, -1)
    (exact,) = torch.autograd.grad((one @ W) * (two @ W**2), pairs)
    torch.testing.assert_close(ours, exact)


def test_what_is_neither_a_sum_nor_an_integral_has_no_exact_gradient():
    mean, end = torch.zeros(2, requires_grad=True), T(1.0, grad=True)
    scaled = D.TransformedDistribution(D.Uniform(T(0.0), T(1.0), validate_args=False), [D.AffineTransform(0.0, end)])
    for q, leaf in (
        (D.Independent(D.Normal(mean, 1.0), 1), mean),
        (D.Uniform(T(0.0), end), end),
        (D.Uniform(end, end + 1), end),
        (scaled, end),  # its stated support is the real line
        (D.Poisson(end), end),
        (D.Independent(D.Bernoulli(logits=mean.expand(10, 2)), 2), mean),
    ):
        assert (
            exact_gradient(q, lambda z, n=len(q.event_shape): z.flatten(z.ndim - n).sum(-1) if n else z, [leaf]) is None
        )


class Unsaid(D.Distribution):
    """A user's straight-through coin that does not state its support."""

    has_enumerate_support = True
    has_rsample = True
    arg_constraints = {}  # noqa: RUF012


@pytest.mark.parametrize(
    ("q", "path", "score"),
    [
        (D.Normal(0.0, 1.0), True, True),
        (D.RelaxedBernoulli(T(0.5), T(0.3)), True, True),
        (D.Uniform(T(0.0), T(1.0, grad=True)), True, False),
        (D.Pareto(T(1.0, grad=True), T(3.0)), True, False),
        (D.Uniform(T(0.0), T(1.0)), True, True),
        (shifted_waits(T(1.0, grad=True)), True, False),
        (D.TransformedDistribution(D.Exponential(T(1.0)), [D.AffineTransform(0.0, T(2.0, grad=True))]), True, True),
        (D.TransformedDistribution(D.Normal(T(0.0), 1.0), [D.AffineTransform(T(2.0, grad=True), 1.0)]), True, True),
        (D.TransformedDistribution(D.Poisson(T(3.0)), [D.AffineTransform(1.0, 1.0)]), False, True),
        (
            D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Uniform(T([0.0, 0.0]), T([1.0, 2.0], grad=True))),
            False,
            False,
        ),
        (D.Bernoulli(T(0.3)), False, True),
        (D.OneHotCategoricalStraightThrough(T([0.5, 0.5])), False, True),
        (StraightThroughOneHot(0.5, torch.zeros(3)), False, True),
        (OneHotLogits(2, 3, 0.5)(torch.zeros(6)), False, True),
        (DiscretizedLogistic(0.0, 1.0), False, True),
        (D.Poisson(T(3.0)), False, True),
        (Unsaid(), False, True),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, D.Distribution) else "",
)
def test_what_is_unbiased_depends_on_q(q, path, score):
    assert (Pathwise().unbiased(q), ScoreFunction().unbiased(q), Relaxed(0.5).unbiased(q)) == (path, score, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compare_estimators(D.Normal, abs, [T(0.0), T(1.0)], samples=0), "samples must be at least 1, got 0"),
        (
            lambda: compare_estimators(D.Normal, abs, [T(0.0), T(1.0)], repeats=1),
            "repeats must be at least 2 and chunk at least 1, got 1 and 10000",
        ),
        (
            lambda: compare_estimators(D.Normal, abs, [T(0.0), T(1.0)], exact=T(0.0), repeats=2),
            "the exact gradient must have 2 components, got 1",
        ),
        (
            lambda: compare_estimators(lambda m: D.Normal(m.mean(), 1.0), torch.square, T(0.0)),
            "q must keep the leading axis of repeats, batch shape (2, ...), got ()",
        ),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
