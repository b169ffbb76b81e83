"""The Dirac-GAN beyond its laws: arbitrary margin losses, several moves per step, both penalties together, noise,
kinks.
"""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from jensen.adversarial import (
    MARGIN_LOSSES,
    DiracGAN,
    eigenvalues,
    exponential,
    hinge,
    logistic,
    squared,
    stability,
    trajectory,
    vector_field,
    zero_one,
)
from jensen.adversarial.dirac import penalty_step_limit
from jensen.adversarial.quadrature import breaks
from jensen.core.quadrature import integrate_line
from jensen.core.types import Phase

F64 = torch.float64
PAYOFFS = {"logistic": (logistic, -0.5, -0.25), "wasserstein": ("wasserstein", -1.0, 0.0)}
both = pytest.mark.parametrize(("f", "slope", "curvature"), PAYOFFS.values(), ids=PAYOFFS)


def roots(trace, determinant):
    """Eigenvalues of a 2 x 2 matrix with this trace and determinant."""
    root = cmath.sqrt(trace**2 / 4 - determinant)
    return [trace / 2 + root, trace / 2 - root]


def assert_spectrum(found, expected):
    """Equal as sets, to 1e-6."""
    left = found.tolist()
    assert len(left) == len(expected)
    for value in expected:
        nearest = min(left, key=lambda v: abs(v - value))
        assert abs(nearest - value) < 1e-6, (found, expected)
        left.remove(nearest)


@pytest.mark.parametrize("loss", [loss for loss in MARGIN_LOSSES.values() if loss.trainable], ids=lambda m: m.name)
def test_the_value_is_that_of_the_margin_loss_and_the_field_its_derivative(loss):
    """L = -l(-psi theta) - l(0): minus the critic's risk, so that D > 0 means real."""
    game = DiracGAN(loss)
    for theta, psi in ((0.7, 0.5), (-0.3, 1.1), (0.4, -0.8)):
        m = torch.tensor(-theta * psi, dtype=F64)
        game.model.theta.data.fill_(theta)
        game.critic.psi.data.fill_(psi)
        expected = -loss(m) - loss(torch.zeros((), dtype=F64))
        losses = game(("generator", "critic"), {}, 0)
        torch.testing.assert_close(losses["generator"].total, expected)
        torch.testing.assert_close(losses["critic"].total, -expected)
        step = 1e-5
        derivative = (loss(m + step) - loss(m - step)) / (2 * step)
        field = torch.stack([derivative * psi, -derivative * theta])
        torch.testing.assert_close(vector_field(game, at=[theta, psi]), field, rtol=0, atol=1e-9)


def test_wasserstein_draws_theta_to_where_the_critic_says_real():
    assert vector_field(DiracGAN("wasserstein"), at=[2.0, 3.0]).tolist() == [-3.0, 2.0]
    assert vector_field(DiracGAN(lambda t: t), at=[2.0, 3.0]).tolist() == [3.0, -2.0]  # the opposite sign of the critic


@both
@pytest.mark.parametrize("share", [0.8, 1.99, 2.01])
@pytest.mark.parametrize("moves", [(1, 1), (1, 5), (2, 3)])
def test_alternating_descent_stays_on_the_circle_below_two(f, slope, curvature, share, moves):
    """`share` is sqrt(n_g n_d) h |f'(0)|."""
    h = share / abs(slope) / math.sqrt(moves[0] * moves[1])
    phases = (Phase(("generator",), repeats=moves[0]), Phase(("critic",), repeats=moves[1]))
    for order in (phases, phases[::-1]):
        found = stability(DiracGAN(f), update=order, step_size=h)
        assert_spectrum(found.eigenvalues, roots(2 - share**2, 1))
        assert found.verdict == ("undecided" if share < 2 else "diverges")
        assert (abs(found.leading - 1) < 1e-6) == (share < 2)
    if moves == (1, 1):
        assert_spectrum(eigenvalues(DiracGAN(f), "alternating", step_size=h), roots(2 - share**2, 1))


def test_instance_noise_is_an_expectation():
    """Against adaptive quadrature over the noise."""
    sigma, theta, psi = 0.8, 0.7, 1.2
    game = DiracGAN(instance_noise=sigma)
    game.model.theta.data.fill_(theta)
    game.critic.psi.data.fill_(psi)
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), sigma)

    def payoff(e):
        gain = -torch.nn.functional.softplus(psi * (theta + e)) - torch.nn.functional.softplus(-psi * e)
        return (normal.log_prob(e).exp() * gain)[:, None]

    value, _ = integrate_line(payoff, torch.linspace(-3, 3, 9))
    assert game.value().item() == pytest.approx(value.item(), abs=1e-10)


@both
@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_r1_and_r2_converge_up_to_their_step_limit(f, slope, curvature, gamma):
    """For gamma above 2 |f'(0)| the eigenvalues are real and gamma / f'(0)^2 is no longer the limit."""
    limit = min(2 * abs(v.real) / abs(v) ** 2 for v in roots(-gamma, slope**2))
    if gamma < 2 * abs(slope):
        assert limit == pytest.approx(gamma / slope**2)
    assert penalty_step_limit(slope, gamma) == pytest.approx(limit)
    for which in ({"r1": gamma}, {"r2": gamma}, {"r1": 0.25 * gamma, "r2": 0.75 * gamma}):
        game = DiracGAN(f, **which)
        found = stability(game)
        assert_spectrum(found.eigenvalues, roots(-gamma, slope**2))
        assert found.verdict == "converges linearly"
        assert found.step_size_below == pytest.approx(limit, abs=1e-6)
    for h, verdict in ((0.99 * limit, "converges linearly"), (1.01 * limit, "diverges")):
        found = stability(game, update="simultaneous", step_size=h)
        assert_spectrum(found.eigenvalues, [1 + h * v for v in roots(-gamma, slope**2)])
        assert found.verdict == verdict
    with_noise = eigenvalues(DiracGAN(f, r1=gamma, instance_noise=0.5))
    assert_spectrum(with_noise, roots(-gamma + 2 * curvature * 0.25, slope**2))


def test_wgan_gp_jumps_and_never_rests():
    game = DiracGAN("wasserstein", gradient_penalty=0.3)
    for theta in (0.0, 0.4):  # v_psi = theta + 2 lambda (|psi| - 1) sign(psi)
        for psi in (0.5, 1e-12, -1e-12, -2.0):
            expected = theta + 0.6 * (abs(psi) - 1) * math.copysign(1, psi)
            assert vector_field(game, at=[theta, psi])[1].item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="is discontinuous here and has no linearisation"):
        eigenvalues(game)
    for rule in ("simultaneous", "alternating"):
        theta, psi = trajectory(game, rule, 0.4, 120, start=[0.1, 0.1]).unbind(1)
        crossing = psi[1:] * psi[:-1] < 0
        assert crossing[60:].sum() > 4
        assert (theta[:-1] if rule == "simultaneous" else theta[1:])[crossing].abs().min() > 0.6


def test_what_is_refused():
    for words, message in (
        ({"f": zero_one}, "f must have a gradient, and the zero-one loss has none"),
        ({"f": "jensen"}, "'wasserstein' or a function, got 'jensen'"),
        ({"r1": -1.0}, "r1 must be at least 0, got -1"),
        ({"instance_noise": math.nan}, "instance_noise must be at least 0"),
        ({"gradient_penalty": -1.0}, "gradient_penalty must be at least 0"),
        ({"clip": 0.0}, "clip must be positive, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiracGAN(**words)
    assert DiracGAN(hinge).value().item() == -2


def relu_mean(m, s):
    """E max(0, m + s n), n ~ N(0, 1): m Phi(m / s) + s phi(m / s)."""
    return m * torch.special.ndtr(m / s) + s * torch.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi)


CLOSED = {
    "hinge": (hinge, lambda m, s: -relu_mean(1 + m, s)),
    "a user's kinks": (
        lambda t: torch.relu(t - 0.37) - 2 * (t + 5).abs(),
        lambda m, s: relu_mean(m - 0.37, s) - 2 * (2 * relu_mean(m + 5, s) - m - 5),
    ),
    "squared": (squared, lambda m, s: -((1 + m) ** 2) - s**2),
    "exponential": (exponential, lambda m, s: -torch.exp(m + s**2 / 2)),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(
    ("theta", "psi", "sigma"), [(0.7, 1.2, 0.8), (-1.0, 1.0, 0.3), (0.5, -2.0, 4.0), (2.0, 0.02, 50.0)]
)
def test_noise_is_exact_whatever_the_payoff(name, theta, psi, sigma):
    """Value, field and Jacobian against closed forms, including the contribution of a kink and large psi sigma."""
    f, exact = CLOSED[name]
    game = DiracGAN(f, instance_noise=sigma)
    at = torch.tensor([theta, psi], dtype=F64)
    game.model.theta.data, game.critic.psi.data = at.clone()

    def closed(w):
        s = (w[1] * sigma).abs()
        return exact(w[1] * w[0], s) + exact(0 * w[1], s)

    assert game.value().item() == pytest.approx(closed(at).item(), rel=1e-11)
    signs = torch.tensor([1.0, -1.0], dtype=F64)  # the generator descends, the critic ascends
    field = signs * torch.autograd.functional.jacobian(closed, at)
    torch.testing.assert_close(vector_field(game, at=at), field, rtol=1e-10, atol=1e-10)
    jacobian = -signs[:, None] * torch.autograd.functional.hessian(closed, at)
    assert_spectrum(eigenvalues(game, at=at), torch.linalg.eigvals(jacobian).tolist())


@pytest.mark.parametrize("spread", [0.5, 30.0, 1e3, 1e5])
def test_a_wide_noise_on_the_logistic_payoff(spread):
    """E log(1 + e^t) = E max(0, t) + E log(1 + e^-|t|), the second term by quadrature over t near 0."""
    game = DiracGAN(instance_noise=spread)
    game.critic.psi.data.fill_(1.0)
    game.model.theta.data.fill_(0.4)
    tail, _ = integrate.quad(
        lambda t: np.log1p(np.exp(-abs(t))) * stats.norm.pdf(t, 0.4, spread), -60, 60, points=[0.0], epsabs=1e-14
    )
    exact = -float(relu_mean(torch.tensor(0.4, dtype=F64), spread)) - tail
    assert game.expected(torch.tensor(0.4, dtype=F64)).item() == pytest.approx(exact, rel=1e-11)


def test_kinks_of_a_payoff_are_found():
    """The points where slope or value jump, to rounding; none for smooth functions, even steep ones."""
    kinked = lambda t: (t - 0.3).abs() + torch.relu(t - 7.123) + (t > 2).double()  # noqa: E731
    assert breaks(kinked).tolist() == pytest.approx([0.3, 2.0, 7.123], abs=1e-13)
    assert breaks(lambda t: -hinge(-t)).tolist() == pytest.approx([-1.0], abs=1e-13)
    for smooth in (torch.neg, torch.exp, lambda t: torch.tanh(1e4 * t), lambda t: t**7, lambda t: 0 * t.detach()):
        assert not len(breaks(smooth))
