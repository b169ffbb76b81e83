"""A model without an encoder against linear-Gaussian models, whose best q, bounds and maximum likelihood are known."""

from __future__ import annotations

import io
import math
from itertools import repeat

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from gaussians import draws, hierarchy, linear
from jensen.core.objective import partition
from jensen.core.seeding import begin_globally, drawing, generator
from jensen.data.pool import pool_stream
from jensen.distributions import CategoricalPrior, Conditional, FlatPrior, GaussianPrior, IsotropicGaussian
from jensen.models import VAE, AutoDecoder
from jensen.objectives import Variational
from jensen.training import Budget, Player, TrainState, fit, train_step, warm_then_decay
from jensen.variational import (
    LatentModel,
    LinearGaussian,
    collapse_report,
    dreg,
    elbo,
    gap_split,
    iwae,
    log_likelihood,
    log_weights,
    lower_bound,
    posterior_table,
    posterior_trace,
)

F64 = torch.float64
ROOT = torch.tensor([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]], dtype=F64)
BIAS = torch.tensor([0.1, -0.2, 0.3], dtype=F64)


def model():
    """A model, its oracle, and the KL between the best factorised q and the posterior."""
    decoder = linear(ROOT, BIAS, IsotropicGaussian(0.6).double())
    oracle = LinearGaussian(ROOT, BIAS, 0.36)
    precision = torch.eye(2, dtype=F64) + ROOT.T @ ROOT / 0.36
    kl = float(precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    return AutoDecoder([decoder], GaussianPrior(2).double()), oracle, kl


def deep():
    """The two-layer hierarchy without its encoders, and its oracle."""
    whole, oracle = hierarchy()
    return AutoDecoder(list(whole.decoders), whole.prior), oracle


def factors(rows, dims, seed):
    return Independent(Normal(draws(rows, dims, seed=seed), 0.5 + draws(rows, dims, seed=seed + 1).abs()), 1)


# its q --------------------------------------------------------------------------------------------------------------


def test_every_q_is_the_best_one():
    """Bound and likelihood of held-out data against closed forms, to 1e-6; 2,000 importance weights per datum."""
    ours, oracle, kl = model()
    x = 2 * draws(8, 3)
    assert isinstance(ours, LatentModel)
    (layer,) = ours.infer(x, samples=4)
    torch.testing.assert_close(oracle.elbo(layer.q, x), oracle.log_prob(x) - kl, rtol=0, atol=1e-6)
    assert layer.z.shape == (4, 8, 2)
    for found in (ours.log_likelihood(x, samples=2000, generator=generator(0)), log_likelihood(ours, x, 2000)):
        assert bool(((found.value - oracle.log_prob(x)).abs() < 4 * found.stderr).all())
    bound = lower_bound(ours, x, 2000, generator=generator(0))
    assert bool(((bound.value - oracle.log_prob(x) + kl).abs() < 4 * bound.stderr).all())
    split = gap_split(ours, x, samples=500, generator=generator(0))
    assert bool((split.amortization.value.abs() < 4 * split.amortization.stderr).all())
    assert [layer.active for layer in collapse_report(ours, 2 * draws(50, 3), samples=4).layers] == [2]


def test_q_is_found_once_for_all_weights(monkeypatch):
    ours, _, _ = model()
    calls, fitted = [], AutoDecoder.fitted
    monkeypatch.setattr(AutoDecoder, "fitted", lambda self, x: calls.append(len(x)) or fitted(self, x))
    ours.log_likelihood(draws(8, 3), samples=500)
    assert calls == [2, 8]  # two data to measure the memory, then all


def test_a_hierarchy_has_a_divergence_at_every_layer():
    """With independent layers the weights are p(x, z) / q(z) for each draw, and each KL in closed form equals that
    of torch.
    """
    ours, oracle = deep()
    x, q = draws(4, 5), (factors(4, 3, 1), factors(4, 2, 3))
    with drawing(generator(0)):
        trace = ours.trace(x, samples=6, q=q)
    with drawing(generator(0)):
        by_hand = posterior_trace(ours, x, q, samples=6)
    torch.testing.assert_close(log_weights(trace), log_weights(by_hand))
    with drawing(generator(0)):
        closed = ours.trace(x, samples=6, q=q, analytic=True)
    with drawing(generator(0)):
        z = [layer.rsample((6,)) for layer in q]
    assert closed.analytic == (True, True)
    torch.testing.assert_close(closed.kl[0], kl_divergence(q[0], ours.law(1, z[1])))
    torch.testing.assert_close(closed.kl[1], kl_divergence(q[1], ours.prior()).expand(6, 4))
    x = oracle.sample(5, generator=generator(1))
    bound = lower_bound(ours, x, 4000, generator=generator(2))
    assert bool((bound.value < oracle.log_prob(x) + 4 * bound.stderr).all())
    assert bool((bound.value > oracle.log_prob(x) - 3).all())


# its training -------------------------------------------------------------------------------------------------------


def state_of(objective, rate, posterior_rate, budget=None):
    """Adam for the model's player; sparse Adam with its own learning rate for the tables."""
    players = {}
    for name, parameters in partition(objective).items():
        lr = posterior_rate if name == "posterior" else rate
        made = torch.optim.SparseAdam if name == "posterior" else torch.optim.Adam
        schedule = warm_then_decay(lr, budget, warmup=20, decay=0.9) if budget else lambda _, lr=lr: lr
        players[name] = Player(parameters, made(parameters, lr=lr), schedule)
    return TrainState(objective, players)


def test_stochastic_inference_trains_to_probabilistic_pca():
    """One latent, so the best q is the posterior: after training, log p of 200 data is within 5e-3 of its maximum."""
    x = draws(200, 1) @ torch.tensor([[1.5, -1.0, 0.5]], dtype=F64) + 0.5 * draws(200, 3, seed=1)
    best = LinearGaussian.fit(x, 1)
    torch.manual_seed(0)
    decoder = Conditional(nn.Linear(1, 3), IsotropicGaussian(1.0, learned=True))
    ours = AutoDecoder([decoder], GaussianPrior(1)).double()
    objective = Variational(ours, samples=2, gradient="stl", tables=[posterior_table(200, 1).double()])
    assert set(objective.players()) == {"model", "posterior"}
    budget = Budget(steps=1200)
    stream = pool_stream(50, seed=0, x=x, index=torch.arange(200))
    fit(state_of(objective, 0.02, 0.05, budget), stream, budget)
    decoder.requires_grad_(False)
    found = LinearGaussian(decoder.net.weight, decoder.net.bias, (2 * decoder.family.log_std).exp())
    assert 0 <= float((best.log_prob(x) - found.log_prob(x)).mean()) < 5e-3
    with torch.no_grad():
        assert float(found.kl(objective.tables[0](torch.arange(200)), x).mean()) < 0.01
    (fitted,) = ours.fitted(x[:20])
    torch.testing.assert_close(found.kl(fitted, x[:20]), torch.zeros(20, dtype=F64), rtol=0, atol=1e-6)


def test_a_step_moves_the_rows_of_its_batch_alone():
    """Two steps on different rows: the second leaves the first rows unchanged, unlike dense Adam, whose running
    averages would move them.
    """
    ours, _, _ = model()
    objective = Variational(ours, tables=[posterior_table(6, 2).double()], analytic=True)
    state, x = state_of(objective, 1e-3, 0.1), draws(6, 3)
    weight = objective.tables[0].net.weight
    for rows in ([0, 3], [1, 4]):
        before = weight.detach().clone()
        train_step(state, repeat({"x": x[rows], "index": torch.tensor(rows)}))
        moved = (weight != before).any(1)
        assert moved.nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_tables_take_the_place_of_q(gradient):
    """The gradients of both players against gradients computed by hand."""
    ours, _, _ = model()
    x, index = draws(4, 3), torch.tensor([5, 0, 2, 3])
    table = posterior_table(6, 2).double()
    objective = Variational(ours, iwae, samples=3, gradient=gradient, tables=[table])
    with drawing(generator(0)):
        found = objective(("model", "posterior"), {"x": x, "index": index}, 0)
    with drawing(generator(0)):
        trace = ours.trace(x, samples=3, q=[table(index)])
    weights, rows = list(ours.parameters()), [table.net.weight]
    of_q = dreg(trace) if gradient == "dreg" else iwae(trace)
    for player, parameters, value in (("model", weights, iwae(trace)), ("posterior", rows, of_q)):
        mine, exact = (
            torch.autograd.grad(v, parameters, retain_graph=True) for v in (found[player].total, -value.mean())
        )
        for a, b in zip(mine, exact, strict=True):
            torch.testing.assert_close(a.to_dense(), b.to_dense(), rtol=1e-10, atol=1e-12)
    assert set(found["model"].terms) == {"loss", "elbo", "log_px", "kl"}
    assert set(found["posterior"].terms) == {"loss"}


def test_a_resumed_table_goes_on_exactly():
    def begun():
        ours, _, _ = model()
        return state_of(Variational(ours, tables=[posterior_table(6, 2).double()]), 0.01, 0.1)

    stream = pool_stream(2, seed=0, x=draws(6, 3), index=torch.arange(6))
    whole, half = begun(), begun()
    begin_globally(0)
    fit(whole, stream, Budget(steps=6))
    begin_globally(0)
    fit(half, stream, Budget(steps=3))
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = begun()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    fit(resumed, stream, Budget(steps=6))
    for a, b in zip(whole.objective.parameters(), resumed.objective.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_tables_each_step_fits_its_batch():
    """Variational EM: the gradient is that of the bound at the best q, which is fitted for the batch."""
    ours, oracle, kl = model()
    x = draws(6, 3)
    with drawing(generator(0)):
        trace = ours.trace(x, samples=2000)
    gap = elbo(trace) - oracle.log_prob(x) + kl
    stderr = (trace.log_px - trace.kl[0]).std(0) / math.sqrt(2000)
    assert bool((gap.abs() < 4 * stderr).all())
    (gradient,) = torch.autograd.grad(elbo(trace).sum(), ours.decoders[0].net.bias)
    residual = x - oracle.posterior(x).mean @ ROOT.T - BIAS
    torch.testing.assert_close(gradient, residual.sum(0) / 0.36, rtol=0, atol=0.5)


# what does not fit --------------------------------------------------------------------------------------------------


def test_bad_input():
    ours, _, _ = model()
    vae = VAE(linear(torch.zeros(4, 3), torch.zeros(4), lambda v: factors_of(v)), ours.decoders[0], ours.prior)
    flat = Conditional(nn.Sequential(nn.Flatten(-2), nn.Linear(6, 3)), IsotropicGaussian())
    table = posterior_table(6, 2)
    for call, message in (
        (lambda: Variational(vae, tables=[table]), "model must be an AutoDecoder if there are tables of q, got a VAE"),
        (lambda: Variational(ours, tables=[table, table]), "one distribution per layer, 1, got 2"),
        (lambda: Variational(ours, tables=[posterior_table(6, 3)]), r"event shape \(2,\), got \(1,\) and \(3,\)"),
        (lambda: AutoDecoder([flat], CategoricalPrior(2, 3)), "latents must be continuous"),
        (lambda: AutoDecoder(list(ours.decoders), FlatPrior(2)), "a prior that can be sampled"),
        (lambda: AutoDecoder(list(ours.decoders), ours.prior, samples=0), "steps and samples must be at least 1"),
        (lambda: ours.trace(draws(4, 3), q=[factors(5, 2, 0)]), r"batch shape \(4,\)"),
        (lambda: ours.fitted(draws(4, 2)), r"x must be rows of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    objective = Variational(ours, tables=[table.double()])
    with pytest.raises(ValueError, match="the batch must hold 'index'"):
        objective(("model",), {"x": draws(2, 3)}, 0)


def factors_of(out):
    mean, raw = out.chunk(2, -1)
    return Independent(Normal(mean, raw.exp()), 1)
