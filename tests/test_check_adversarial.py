"""Checks of margin losses and penalties: correct implementations pass, subtly wrong ones fail the claim that names
the error.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical
from torch.nn import functional as F

from jensen import check
from jensen.adversarial import MARGIN_LOSSES, bayes_risk, dragan, gradient_penalty, r1, r2, squared
from jensen.adversarial import margin_loss as numerical

INFIMUM = "f(u) = -inf_d [u l(d) + l(-d)], relative"
ATTAINED = "the critic attains the infimum"


def failed(report):
    return [e.claim for e in report.failed]


# -- margin losses ----------------------------------------------------------------------------------------------------


def risk_of(loss):
    return lambda p, q: bayes_risk(loss, Categorical(p), Categorical(q)).value


@pytest.mark.parametrize("loss", MARGIN_LOSSES.values(), ids=lambda v: v.name)
def test_the_five_losses_are_what_they_say(loss):
    report = check.margin_loss(loss, f=loss.f, critic=loss.optimal, risk=risk_of(loss))
    report.require()
    assert len(report.evidence) == 12


@pytest.mark.parametrize("loss", MARGIN_LOSSES.values(), ids=lambda v: v.name)
def test_numerical_ones_too(loss):
    found = numerical(loss.loss)
    check.margin_loss(loss, f=found.f, critic=found.optimal, risk=risk_of(found)).require()


def test_a_wrong_sign_is_caught():
    claims = failed(check.margin_loss(F.softplus))  # l(m) = log(1 + e^m)
    assert claims == ["the best critic is positive where u = p/q > 1, negative where u < 1"]
    assert failed(check.margin_loss(lambda m: F.softplus(-m), critic=lambda u: -u.log())) == [ATTAINED]


def test_factors_of_two_are_caught():
    exponential = lambda m: torch.exp(-m)  # noqa: E731
    assert failed(check.margin_loss(exponential, critic=torch.log)) == [ATTAINED]  # without the half
    assert failed(check.margin_loss(exponential, f=lambda u: -u.sqrt())) == [INFIMUM]
    half = lambda p, q: (p * q).sqrt().sum() / 2  # noqa: E731
    assert len(failed(check.margin_loss(exponential, risk=half))) == 3  # all but the disjoint ones, where it is 0
    check.margin_loss(exponential, risk=lambda p, q: (p * q).sqrt().sum()).require()


def test_an_f_that_is_concave_or_rises_is_caught():
    claims = failed(check.margin_loss(lambda m: torch.exp(-m), f=lambda u: 2 * u.sqrt()))
    assert claims == [INFIMUM, "f never increases", "f is convex"]
    claims = failed(check.margin_loss(lambda m: torch.exp(-m), f=lambda u: -(u**2)))  # decreasing nevertheless
    assert claims == [INFIMUM, "f is convex"]


def test_the_squared_losss_risks_that_circulate_are_caught():
    """2 sum pq/(p+q) is right; half of it, or 1 + sum q 4u/(u+1), is wrong."""

    def harmonic(p, q):
        return torch.where(p + q > 0, p * q / (p + q), 0.0).sum()

    check.margin_loss(squared, risk=lambda p, q: 2 * harmonic(p, q)).require()
    assert len(failed(check.margin_loss(squared, risk=lambda p, q: harmonic(p, q) / 2))) == 3
    assert len(failed(check.margin_loss(squared, risk=lambda p, q: 1 + 4 * harmonic(p, q)))) == 4


def test_a_loss_below_zero_is_caught():
    claims = failed(check.margin_loss(lambda m: torch.exp(-m) - 0.1))
    assert claims == ["l is at least 0", "-inf_d [u l(d) + l(-d)] never increases"]


def test_a_minimum_that_is_only_local_is_caught():
    def dented(m):
        return torch.relu(torch.relu(1 - m) - 3.9 * torch.exp(-20 * (m + 3) ** 2))

    assert INFIMUM in failed(check.margin_loss(dented, f=numerical(MARGIN_LOSSES["hinge"].loss).f))
    check.margin_loss(dented, f=numerical(dented).f, tolerance=1e-5)


# -- penalties --------------------------------------------------------------------------------------------------------


def wgan_gp(g):
    return 10 * (g - 1) ** 2


RIGHT = {
    "r1": (lambda c, x, y: r1(c, x, 3.0), lambda g: 1.5 * g**2, "real"),
    "r2": (lambda c, x, y: r2(c, y, 3.0), lambda g: 1.5 * g**2, "fake"),
    "two-sided": (gradient_penalty, wgan_gp, "between"),
    "one-sided": (lambda c, x, y: gradient_penalty(c, x, y, sides=1), lambda g: 10 * (g - 1).relu() ** 2, "between"),
    "dragan": (lambda c, x, y: dragan(c, x, 0.3), wgan_gp, "anywhere"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_jensens_penalties(name):
    penalty, of_norm, at = RIGHT[name]
    state = torch.get_rng_state()
    check.penalty(penalty, of_norm, at=at).require()
    check.penalty(lambda *a: penalty(*a).mean(), of_norm, at=at).require()  # reduced to a mean, as in most code
    assert torch.equal(state, torch.get_rng_state())


def by_hand(share="example", axes=None, graph=True, size=None):
    """WGAN-GP as it is usually written; each argument introduces an error."""

    def norm_of(g):
        if axes is None or g.ndim == 2:
            return g.square().flatten(1).sum(1).add(1e-30).sqrt()
        return g.square().sum(axes).flatten(1)[:, 0].add(1e-30).sqrt()

    def penalty(critic, real, fake):
        n, rest = len(real), (1,) * (real.ndim - 1)
        shape = {"example": (n, *rest), "batch": (1, 1, *rest[1:]), "pixel": real.shape}[share]
        eps = torch.rand(shape, dtype=real.dtype)
        x = (eps * real + (1 - eps) * fake).requires_grad_()
        (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=graph)
        return wgan_gp((size or norm_of)(g))

    return penalty


def test_a_penalty_by_hand():
    check.penalty(by_hand(), wgan_gp, at="between").require()


def test_a_norm_over_the_whole_batch_is_caught():
    whole = check.penalty(by_hand(size=lambda g: g.norm()), wgan_gp)
    assert "penalty of the critic a x: h(|a|), batch of 5, examples of shape (3,)" in failed(whole)
    assert "the penalty of an example does not depend on the other examples" in failed(whole)
    # right for a batch of one
    assert "penalty of the critic a x: h(|a|), batch of 1, examples of shape (3,)" not in failed(whole)


def test_a_norm_over_channels_alone_is_caught():
    claims = failed(check.penalty(by_hand(axes=1), wgan_gp))
    assert "penalty of the critic a x: h(|a|), batch of 1, examples of shape (2, 3, 2)" in claims
    assert not any("shape (3,)" in claim for claim in claims)  # vectors have one axis


def test_a_gradient_without_a_graph_is_caught():
    claims = failed(check.penalty(by_hand(graph=False), wgan_gp))
    assert claims == [
        f"derivative of the penalty with respect to a: h'(|a|) a/|a|, |a| = {norm}, examples of shape {event}"
        for event in ((3,), (2, 3, 2))
        for norm in ("0.5", "2")  # 0 at norm 1
    ]


def test_a_root_of_zero_is_caught():
    claims = failed(check.penalty(by_hand(size=lambda g: g.square().flatten(1).sum(1).sqrt()), wgan_gp))
    assert claims == [
        f"penalty and derivative are finite (1) at |a| = 0, examples of shape {event}" for event in ((3,), (2, 3, 2))
    ]


@pytest.mark.parametrize("share", ["batch", "pixel"])
def test_an_epsilon_that_is_not_one_an_example_is_caught(share):
    claims = failed(check.penalty(by_hand(share), wgan_gp, at="between"))
    assert claims == [
        f"penalty of the critic |x - c|^2/2, c {place}: mean of h(|x - c|) over uniform epsilon"
        for place in ("at the real example", "at the generated example", "beside both")
    ]


def test_factors_and_places_are_caught():
    twice = check.penalty(lambda c, x, y: r1(c, x, 2.0), lambda g: g**2 / 2)
    assert "penalty of the critic a x: h(|a|), batch of 1, examples of shape (3,)" in failed(twice)
    swapped = check.penalty(lambda c, x, y: r1(c, y, 1.0), lambda g: g**2 / 2, at="real")
    assert failed(swapped) == ["penalty of the critic |x|^2/2: h(|x|) at the real examples"]
    ends = check.penalty(lambda c, x, y: 10 * (math.sqrt(2) * r1(c, x).sqrt() - 1) ** 2, wgan_gp, at="between")
    assert (
        "penalty of the critic |x - c|^2/2, c at the real example: mean of h(|x - c|) over uniform epsilon"
        in failed(ends)
    )


def test_a_critic_with_batch_statistics_couples_examples():
    def centred(critic, x, y):
        return r1(lambda v: critic(v - v.mean(0)), x)

    assert "the penalty of an example does not depend on the other examples" in failed(
        check.penalty(centred, lambda g: g**2 / 2)
    )


def test_what_is_no_penalty_is_refused():
    with pytest.raises(ValueError, match="at must be one of real, fake, between, anywhere, got 'both'"):
        check.penalty(gradient_penalty, wgan_gp, at="both")
    with pytest.raises(ValueError, match=r"one number per example, \(1,\), or their mean, got \(1, 3\)"):
        check.penalty(lambda c, x, y: x, wgan_gp)
