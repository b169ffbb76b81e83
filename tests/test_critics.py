"""The losses of critics, and what trained critics find."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance, wasserstein_distance_nd
from torch.distributions import Normal

from jensen.adversarial import (
    GAME_LOSSES,
    MarginGame,
    RelativisticGame,
    WassersteinGame,
    critic_divergence,
    divergence,
    exponential,
    hinge,
    logistic,
    risk,
    squared,
    wasserstein1,
    zero_one,
)
from jensen.core.seeding import generator

F64 = torch.float64


def normal(mean, std):
    return Normal(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64))


# -- losses -----------------------------------------------------------------------------------------------------------

R, T = 0.5, -1.0  # logits of a real and of a generated example
softplus = lambda t: math.log1p(math.exp(t))  # noqa: E731
BY_HAND = {
    "saturating": (softplus(-R) + softplus(T), -softplus(T)),
    "non-saturating": (softplus(-R) + softplus(T), softplus(-T)),
    "least-squares": (0.25 + 0.0, 4.0),
    "hinge": (0.5 + 0.0, 1.0),
    "exponential": (math.exp(-0.5) + math.exp(-1), -math.exp(-1)),
    "relativistic": (softplus(-1.5), softplus(1.5)),
    "wasserstein": (-1.5, 1.0),
}


@pytest.mark.parametrize("name", GAME_LOSSES)
def test_losses_by_hand_one_per_example(name):
    game, real, fake = GAME_LOSSES[name], torch.tensor([9.0, R]), torch.tensor([2.0, T])
    critic, made = game.critic(real, fake), game.generator(real, fake)
    assert critic.shape == made.shape == (2,)
    assert (critic[1].item(), made[1].item()) == pytest.approx(BY_HAND[name], abs=1e-6)
    patches = game.critic(real.expand(3, 1, 1, 2), fake.expand(3, 1, 1, 2))  # a patch critic: a mean over patches
    torch.testing.assert_close(patches, critic.mean().expand(3))


def slope(game, t):
    """The derivative of the generator's loss with respect to its logit."""
    fake = torch.tensor([t], dtype=F64, requires_grad=True)
    return torch.autograd.grad(game.generator(torch.zeros(1, dtype=F64), fake).sum(), fake)[0].item()


def test_saturating_and_not():
    """For a fake that the critic rejects with certainty, D = -20, only the gradients of saturating losses vanish."""
    quiet = {"saturating": -math.exp(-20), "non-saturating": -1.0, "linear": -1.0}
    for form, expected in quiet.items():
        assert slope(MarginGame(logistic, form), -20.0) == pytest.approx(expected, rel=1e-6)
        assert slope(RelativisticGame(logistic, form), -20.0) == pytest.approx(expected, rel=1e-6)
    assert slope(MarginGame(exponential, "saturating"), -3.0) == pytest.approx(-math.exp(-3))
    assert slope(MarginGame(exponential, "non-saturating"), -3.0) == pytest.approx(-math.exp(3))
    assert slope(WassersteinGame(), -3.0) == -1


@pytest.mark.parametrize("loss", [squared, logistic, exponential, hinge], ids=lambda v: v.name)
def test_saturating_is_the_zero_sum_game(loss):
    """The generator's gradient is minus the critic's."""
    for game in (MarginGame(loss, "saturating"), RelativisticGame(loss, "saturating")):
        real = torch.tensor([0.3, -0.2, 2.0], dtype=F64)
        fake = torch.tensor([0.1, -0.7, 0.4], dtype=F64, requires_grad=True)
        losses = game.critic(real, fake).sum(), game.generator(real, fake).sum()
        ours, theirs = (torch.autograd.grad(v, fake)[0] for v in losses)
        torch.testing.assert_close(ours, -theirs)


def test_one_number_is_no_row_of_logits():
    one = torch.tensor(0.5)
    for loss in GAME_LOSSES.values():
        with pytest.raises(ValueError, match="logits"):
            loss.generator(one, one)


def test_what_cannot_train_is_refused():
    for game in (MarginGame, RelativisticGame):
        with pytest.raises(ValueError, match="must have a gradient to train with, got zero-one"):
            game(zero_one, "linear")
        with pytest.raises(ValueError, match="form must be one of saturating, non-saturating, linear, got 'minimax'"):
            game(logistic, "minimax")
    for game in GAME_LOSSES.values():
        with pytest.raises(ValueError, match=r"must have the same shape \(B, ...\), got \(4,\) and \(4, 1\)"):
            game.critic(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="the same shape"):
        GAME_LOSSES["relativistic"].generator(torch.zeros(4), torch.zeros(3))


# -- critics trained to optimality ------------------------------------------------------------------------------------

SQUASH = {
    "squared": lambda t: torch.tanh(t / 2),
    "logistic": lambda t: t,
    "exponential": lambda t: t,
    "hinge": torch.tanh,
}


def features(x):
    return torch.stack([torch.ones_like(x), x, x**2], 1)


def trained(loss, x, y):
    """A critic squash(w . (1, x, x^2)), which contains the optimal critic of two Gaussians, at its empirical
    optimum.
    """
    squash, game = SQUASH[loss.name], MarginGame(loss, "linear")
    w = torch.zeros(3, dtype=F64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        value = game.critic(squash(features(x) @ w), squash(features(y) @ w)).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return w.detach()


def spread(loss, w, x, y):
    """The covariance of the fitted w: the sandwich estimator of an M-estimator, for independent real and generated
    samples.
    """
    squash = SQUASH[loss.name]

    def one(w, phi, sign):
        return loss(sign * squash(phi @ w))

    scores = [
        torch.func.vmap(torch.func.grad(one), (None, 0, None))(w, features(v), s) for v, s in ((x, 1.0), (y, -1.0))
    ]
    total = lambda w: sum(loss(s * squash(features(v) @ w)).mean() for v, s in ((x, 1.0), (y, -1.0)))  # noqa: E731
    bread = torch.linalg.inv(torch.func.hessian(total)(w))
    return bread @ sum(v.T.cov() / len(v) for v in scores) @ bread


@pytest.mark.parametrize("loss", [squared, logistic, exponential, hinge], ids=lambda v: v.name)
def test_a_trained_critic_is_the_optimal_one_and_finds_the_divergence(loss):
    """Two Gaussians, 20,000 draws of each for training and for evaluation: the divergence within 4 standard errors;
    D within 4 of its own standard errors. Hinge's D is a step function whose location converges as n^(-1/3), 0.04
    here: correct for all but 3 percent of the data.
    """
    p, q, rng, n = normal(0.0, 1.0), normal(1.0, 1.5), generator(0), 20_000
    x, kept_x = torch.randn(2, n, dtype=F64, generator=rng)
    y, kept_y = 1 + 1.5 * torch.randn(2, n, dtype=F64, generator=rng)
    w = trained(loss, x, y)

    def critic(v, w=w):
        return SQUASH[loss.name](features(v) @ w)

    found, exact = critic_divergence(loss, critic(kept_x), critic(kept_y)), divergence(loss.divergence, p, q).value
    assert found.value == pytest.approx(exact, abs=4 * found.stderr)
    assert found.stderr < 0.02 * loss.scale * loss.chance
    signs = critic_divergence(
        "total-variation", critic(kept_x), critic(kept_y)
    )  # only the signs of the critic are used
    assert signs.value == pytest.approx(divergence("total-variation", p, q).value, abs=4 * signs.stderr)
    if loss is hinge:
        best = loss.optimal((p.log_prob(kept_y) - q.log_prob(kept_y)).exp())
        assert float((critic(kept_y).sign() != best).double().mean()) < 0.03
        return
    at = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=F64)
    slopes = torch.func.jacrev(lambda w: critic(at, w))(w)
    stderr = (slopes @ spread(loss, w, x, y) @ slopes.T).diagonal().sqrt()
    best = loss.optimal((p.log_prob(at) - q.log_prob(at)).exp())
    assert bool(((critic(at) - best).abs() < 4 * stderr).all())
    assert float(stderr.max()) < 0.1


def test_a_poor_critic_gives_a_lower_bound_and_its_error_is_right():
    """200 runs of 200 draws: z-scores with respect to the critic's own risk have mean 0 and variance 1."""
    p, q, rng = normal(0.0, 1.0), normal(1.0, 1.0), generator(1)
    own = logistic.chance - risk(logistic, lambda v: -2 * v, p, q).value
    assert own < divergence("jensen-shannon", p, q).value - 0.05
    z = []
    for _ in range(200):
        x, y = torch.randn(200, dtype=F64, generator=rng), 1 + torch.randn(150, dtype=F64, generator=rng)
        found = critic_divergence("jensen-shannon", -2 * x, -2 * y)
        z.append((found.value - own) / found.stderr)
    scores = torch.tensor(z)
    assert abs(float(scores.mean())) < 4 / math.sqrt(200)
    assert abs(float(scores.var()) - 1) < 4 * math.sqrt(2 / 199)
    with pytest.raises(ValueError, match=r"one row of at least 2, got \(1,\)"):
        critic_divergence("hellinger", torch.zeros(5), torch.zeros(1))
    with pytest.raises(ValueError, match="divergence must be one of"):
        critic_divergence("js", torch.zeros(5), torch.zeros(5))


# -- Wasserstein ------------------------------------------------------------------------------------------------------


def test_wasserstein_is_scipys():
    x, y, z = torch.randn(40, dtype=F64), 1 + torch.randn(40, dtype=F64), 2 * torch.randn(27, dtype=F64)
    for other in (y, z):
        exact = wasserstein_distance(x.numpy(), other.numpy())
        assert wasserstein1(x, other).item() == pytest.approx(exact, abs=1e-12)
        assert wasserstein1(x[:, None], other[:, None]).item() == pytest.approx(exact, abs=1e-12)
    a, b, c = torch.randn(15, 1, 3, dtype=F64), torch.randn(15, 1, 3, dtype=F64), torch.randn(11, 1, 3, dtype=F64)
    for other in (b, c):
        exact = wasserstein_distance_nd(a.flatten(1).numpy(), other.flatten(1).numpy())
        assert wasserstein1(a, other).item() == pytest.approx(exact, abs=1e-9)


def test_wasserstein_of_a_shift_and_of_one_line_in_space():
    x = torch.randn(30, 2, dtype=F64)
    assert wasserstein1(x, x + torch.tensor([3.0, 4.0])).item() == pytest.approx(5, abs=1e-12)
    assert wasserstein1(x, x.flip(0)).item() == 0
    x, y = torch.randn(12, dtype=F64), torch.randn(9, dtype=F64)
    along = torch.tensor([0.6, 0.8], dtype=F64)  # the linear programme gives the result of sorting
    assert wasserstein1(x[:, None] * along, y[:, None] * along).item() == pytest.approx(
        wasserstein1(x, y).item(), abs=1e-9
    )
    assert wasserstein1(torch.zeros(2), torch.ones(3)).dtype == torch.float32


def test_wassersteins_gradient_is_a_numerical_one():
    for n, event in ((5, (1,)), (5, (2,)), (4, (2,))):
        y = torch.randn(n, *event, dtype=F64)
        assert torch.autograd.gradcheck(
            lambda x, y=y: wasserstein1(x, y), torch.randn(5, *event, dtype=F64).requires_grad_()
        )


@pytest.mark.parametrize("event", [(), (2,)], ids=["line", "plane"])
def test_wasserstein_takes_whole_numbers(event):
    x, y = torch.randint(-9, 9, (6, *event)), torch.randint(-9, 9, (4, *event))
    for other in (y, x.flip(0) + 3):
        exact = wasserstein1(x.double(), other.double()).item()
        assert wasserstein1(x, other).dtype == torch.float32
        assert wasserstein1(x, other).item() == pytest.approx(exact, rel=1e-6)
        assert wasserstein1(x, other.double()).item() == pytest.approx(exact, abs=1e-12)  # in the higher precision
        assert wasserstein1(x.bool(), x.bool()).item() == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.tensor(1.0), r"must be \(N, ...\) with at least one point, got \(\)"),
        (torch.zeros(0, 3), r"must be \(N, ...\) with at least one point, got \(0, 3\)"),
        (torch.zeros(2, 0), r"must be \(N, ...\) with at least one point, got \(2, 0\)"),
        (torch.tensor([0.0, math.nan]), "must hold real and finite numbers, got torch.float32 with 1 not finite"),
        (torch.tensor([[0.0, math.nan, 0.0]] * 2), "must hold real and finite numbers, got torch.float32 with 2 not"),
        (torch.full((1, 3), -math.inf), "must hold real and finite numbers, got torch.float32 with 3 not finite"),
        (torch.zeros(2, 3, dtype=torch.complex64), "must hold real and finite numbers, got torch.complex64 with 0 not"),
    ],
)
def test_wasserstein_names_the_sample_that_is_wrong(wrong, words):
    right = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=f"^x {words}"):
        wasserstein1(wrong, right)
    with pytest.raises(ValueError, match=f"^y {words}"):
        wasserstein1(right, wrong)


def test_wasserstein_wants_points_of_one_size():
    with pytest.raises(ValueError, match=r"^x and y must hold points of the same size, got \(2, 3\) and \(2, 2\)"):
        wasserstein1(torch.zeros(2, 3), torch.zeros(2, 2))
