"""Draws from one generator: what `drawing` controls, and each case that it does not."""

from __future__ import annotations

import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D
from torch import nn
from torch.utils import data
from torch.utils.checkpoint import checkpoint

from jensen.core.seeding import drawing, generator, normal

T = torch.tensor


def everything():
    """One instance of each distribution that torch can sample."""
    a, b, p = T([1.5, 2.5]), T([0.7, 1.3]), T([0.3, 0.6])
    eye = torch.eye(2)
    return [
        *(D.Bernoulli(p), D.Beta(a, b), D.Binomial(5, p), D.Categorical(p), D.Cauchy(a, b), D.Chi2(a)),
        *(D.ContinuousBernoulli(p), D.Dirichlet(a), D.Exponential(b), D.FisherSnedecor(a, b), D.Gamma(a, b)),
        *(D.Geometric(p), D.Gumbel(a, b), D.HalfCauchy(b), D.HalfNormal(b), D.InverseGamma(a, b), D.Kumaraswamy(a, b)),
        *(D.Laplace(a, b), D.LKJCholesky(3, 1.5), D.LogNormal(a, b), D.LogisticNormal(a, b), D.Multinomial(9, p)),
        *(D.LowRankMultivariateNormal(a, torch.ones(2, 1), b), D.MultivariateNormal(a, eye), D.Normal(a, b)),
        *(D.MixtureSameFamily(D.Categorical(p), D.Normal(a, b)), D.NegativeBinomial(5.0, p), D.OneHotCategorical(p)),
        *(D.OneHotCategoricalStraightThrough(p), D.Pareto(a, b), D.Poisson(a), D.RelaxedBernoulli(T(0.5), p)),
        *(D.RelaxedOneHotCategorical(T(0.5), p), D.StudentT(a, a, b), D.Uniform(-a, b), D.VonMises(a, b)),
        *(D.Weibull(a, b), D.Wishart(T(4.0), eye), D.GeneralizedPareto(a, b, T(0.3)), D.Independent(D.Normal(a, b), 1)),
        D.TransformedDistribution(D.Normal(a, b), [D.ExpTransform()]),
    ]


def test_the_list_has_every_distribution_of_torch():
    abstract = {"Distribution", "ExponentialFamily"}
    known = {c.__name__ for q in everything() for c in type(q).__mro__}
    assert {n for n in D.__all__ if isinstance(getattr(D, n), type)} - known - abstract - set(
        D.transforms.__all__
    ) == set()


@pytest.mark.filterwarnings("ignore:Singular sample")  # torch's Wishart warns about its own draws
@pytest.mark.parametrize("q", everything(), ids=lambda q: type(q).__name__)
def test_one_generator_makes_every_draw(q):
    """Equal generators give equal draws, a generator that has advanced gives others, and torch's global generator does
    not advance."""
    before, g = torch.get_rng_state(), generator(3)
    draws = []
    for rng in (g, generator(3), g):
        with drawing(rng):
            draws.append(q.sample((20,)))
            if q.has_rsample:
                draws[-1] = draws[-1], q.rsample((20,))
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    first, third = (d[0] if isinstance(d, tuple) else d for d in (draws[0], draws[2]))
    assert not torch.equal(first, third)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_global_one_draws():
    q = D.Normal(T(0.0), T(1.0))
    torch.manual_seed(5)
    with drawing(None):
        inside = q.sample((4,))
    torch.manual_seed(5)
    assert torch.equal(inside, q.sample((4,)))


def test_a_draw_with_its_own_generator_keeps_it():
    outer = generator(1)
    state = outer.get_state()
    with drawing(outer):
        x = torch.randn(3, generator=generator(2))
        nested = []
        with drawing(generator(4)):
            nested.append(torch.rand(3))
    assert torch.equal(outer.get_state(), state)
    assert torch.equal(x, torch.randn(3, generator=generator(2)))
    assert torch.equal(nested[0], torch.rand(3, generator=generator(4)))


def test_draws_come_back_on_the_device_they_were_asked_for():
    g = generator(1)
    state = g.get_state()
    with drawing(g):
        assert torch.rand(3, device="meta").device.type == "meta"
        assert torch.rand_like(torch.zeros(3), device="meta").device.type == "meta"
        assert torch.normal(0.0, 1.0, (3,), device="meta").device.type == "meta"
        assert torch.empty(3, device="meta").normal_().device.type == "meta"
    assert not torch.equal(g.get_state(), state)


def test_gradients_flow_through_a_draw():
    shape = T([1.5, 2.5], requires_grad=True)
    with drawing(generator(0)):
        D.Gamma(shape, 1.0).rsample().sum().backward()
    assert (shape.grad > 0).all()


def test_threads_draw_from_their_own_generators():
    q, out, barrier = D.Gamma(T(2.0), T(1.0)), {}, threading.Barrier(4)

    def work(seed):
        with drawing(generator(seed)):
            barrier.wait()
            out[seed] = torch.stack([q.sample() for _ in range(50)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in range(4):
        with drawing(generator(seed)):
            assert torch.equal(out[seed], torch.stack([q.sample() for _ in range(50)]))


def test_drawing_wants_one_generator():
    with pytest.raises(ValueError, match=r"^drawing takes one torch.Generator or None, got list$"):
        drawing([generator(0)])


# -- a generator that is None --------------------------------------------------------------------------------

HALF = torch.full((9,), 0.5)
NONE = {
    "rand": lambda: torch.rand(3, generator=None),
    "randint": lambda: torch.randint(99, (3,), generator=None),
    "randperm": lambda: torch.randperm(30, generator=None),
    "rand_like": lambda: torch.rand_like(HALF, generator=None),
    "normal": lambda: torch.normal(mean=HALF, std=HALF, generator=None),
    "bernoulli": lambda: torch.bernoulli(HALF, generator=None),
    "multinomial": lambda: torch.multinomial(HALF, 9, generator=None),
    "poisson": lambda: torch.poisson(9 * HALF, None),
    "binomial": lambda: torch.binomial(100 * HALF, HALF, None),
    "gamma": lambda: torch._standard_gamma(HALF, None),
    "normal_": lambda: torch.empty(3).normal_(generator=None),
    "Tensor.bernoulli": lambda: HALF.bernoulli(generator=None),
    "jensen's normal": lambda: normal((3,), None, like=HALF),
    "Sobol": lambda: torch.quasirandom.SobolEngine(2, scramble=True).draw(3),
    "RandomSampler": lambda: T(list(data.RandomSampler(range(20)))),
    "WeightedRandomSampler": lambda: T(list(data.WeightedRandomSampler([0.1] * 20, 20))),
    "DataLoader": lambda: torch.cat(list(data.DataLoader(torch.arange(20), 5, shuffle=True))),
    "Linear": lambda: nn.Linear(3, 3).weight.detach(),
    "Conv2d": lambda: nn.Conv2d(1, 2, 3).bias.detach(),
    "Embedding": lambda: nn.Embedding(3, 3).weight.detach(),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 8).linear2.weight.detach(),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)).weight.detach(),
    **{
        f"init.{name}": lambda name=name: getattr(nn.init, name)(torch.empty(4, 4))
        for name in (
            *("uniform_", "normal_", "trunc_normal_", "orthogonal_"),
            *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"),
        )
    },
    "init.sparse_": lambda: nn.init.sparse_(torch.empty(4, 4), 0.5),
}


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_a_generator_that_is_none_is_the_one_in_place(make):
    """Equal generators give equal draws, different ones others, and torch's global generator does not advance."""
    before, draws = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        with drawing(generator(seed)):
            draws.append(make())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(before, torch.get_rng_state())


def test_initialisers_draw_what_torch_draws():
    """The same numbers as torch from the same seed; also where a tensor on another device than the generator's is
    filled.
    """
    for name in ("uniform_", "normal_", "kaiming_uniform_", "xavier_normal_"):
        fill = getattr(nn.init, name)
        with drawing(generator(5)):
            ours = fill(nn.Parameter(torch.empty(3, 4)))
        assert torch.equal(ours, fill(torch.empty(3, 4), generator=generator(5)))
    g = generator(5)
    state = g.get_state()
    with drawing(g):
        assert nn.init.uniform_(nn.Parameter(torch.empty(3, device="meta"))).device.type == "meta"
    assert not torch.equal(g.get_state(), state)


def test_none_leaves_the_generator_in_place():
    with drawing(generator(1)), drawing(None):
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=generator(1)))


# -- what is not reached --------------------------------------------------------------------------------------

X, SEQUENCE = torch.ones(2, 2, 8, 8), torch.ones(3, 1, 4)
with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    SCRIPTED = torch.jit.script(nn.Dropout(0.5))
MISSED = {
    "dropout": lambda: F.dropout(X),
    "dropout2d": lambda: F.dropout2d(X),
    "alpha_dropout": lambda: F.alpha_dropout(X, 0.5, training=True),
    "feature_alpha_dropout": lambda: F.feature_alpha_dropout(X, 0.5, training=True),
    "nn.Dropout": lambda: nn.Dropout()(X),
    "rrelu": lambda: F.rrelu(-X, training=True),
    "fractional_max_pool2d": lambda: F.fractional_max_pool2d(X, 2, output_size=4),
    "gumbel_softmax": lambda: F.gumbel_softmax(X),
    "attention": lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.5),
    "MultiheadAttention": nn.MultiheadAttention(4, 2, dropout=0.5),
    "LSTM": nn.LSTM(4, 4, 2, dropout=0.5),
    "script": SCRIPTED,
    "torch.ops": lambda: torch.ops.aten.rand([3]),
    "random_split": lambda: data.random_split(range(20), [10, 10]),
}
INPUTS = {"MultiheadAttention": (SEQUENCE,) * 3, "LSTM": (SEQUENCE,), "script": (X,)}


@pytest.mark.parametrize("name", MISSED)
def test_what_is_not_reached(name):
    """torch's global generator advances and the given one does not: the docstring states these limits, until torch
    changes.
    """
    g = generator(1)
    ours, theirs = g.get_state(), torch.get_rng_state()
    with drawing(g):
        MISSED[name](*INPUTS.get(name, ()))
    assert torch.equal(ours, g.get_state())
    assert not torch.equal(theirs, torch.get_rng_state())


def test_what_is_not_torchs_is_not_reached():
    for draw in (random.random, np.random.random):
        seen = []
        for _ in range(2):
            with drawing(generator(1)):
                seen.append(draw())
        assert seen[0] != seen[1]


def test_the_backward_pass_draws_from_torchs_own():
    """The gradient of a product with noise is the noise: checkpointing draws it a second time, outside the context."""
    x = torch.ones(3, requires_grad=True)
    torch.manual_seed(3)
    with drawing(generator(1)):
        y = checkpoint(lambda x: x * torch.randn(3), x, use_reentrant=False)
        (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y.detach(), torch.randn(3, generator=generator(1)))
    assert torch.equal(slope, torch.randn(3, generator=generator(3)))


def test_compiled_code_draws_as_it_would_uncompiled():
    compiled = torch.compile(lambda x: x + torch.randn(3), backend="eager")
    with drawing(generator(1)):
        inside = compiled(torch.zeros(3))
    assert torch.equal(inside, torch.randn(3, generator=generator(1)))


def test_other_threads_draw_as_before():
    out = {}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with drawing(generator(1)):
        thread = threading.Thread(target=lambda: out.update(x=torch.rand(3)))
        thread.start()
        thread.join()
    assert torch.equal(out["x"], expected)


class _Noise(data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.randn(1)


def test_workers_draw_each_their_own():
    """All rows have different numbers, which depend on the generator: it provides the seeds of the workers."""
    rows = []
    for seed in (1, 1, 2):
        with drawing(generator(seed)):
            rows.append(torch.cat(list(data.DataLoader(_Noise(), 1, num_workers=2, multiprocessing_context="fork"))))
    assert len(rows[0].unique()) == 4
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
