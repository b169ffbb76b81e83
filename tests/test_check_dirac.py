"""The laws of the Dirac-GAN hold for `DiracGAN` and catch implementations with one error."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from jensen.adversarial import DiracGAN
from jensen.check import Report
from jensen.check.laws import FAMILIES
from jensen.check.portrait import Panel, _drawn, dirac_panels, phase_portrait, phase_portrait_svg
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase

BY_NAME = {law.name.split("/")[1]: law for law in FAMILIES["dirac-gan"]}


class LouderGenerator(DiracGAN):
    def forward(self, players, batch, step):
        losses = super().forward(players, batch, step)
        return {k: Loss.of(2 * v.total) if k == "generator" else v for k, v in losses.items()}


class FlippedCritic(DiracGAN):
    def forward(self, players, batch, step):
        losses = super().forward(players, batch, step)
        return {k: Loss.of(-v.total) if k == "critic" else v for k, v in losses.items()}


class PenaltyWithoutItsHalf(DiracGAN):
    def penalty(self):
        return 2 * super().penalty()


class RewardedSlope(DiracGAN):
    def penalty(self):
        return -super().penalty()


class NoiseOnOneSide(DiracGAN):
    def value(self):
        return self.expected(self.critic(self.model())) + self.f(torch.zeros((), dtype=torch.float64))


class NoClip(DiracGAN):
    def after(self, player, loss, step):
        pass


class OneSided(DiracGAN):
    def penalty(self):
        weight = self.penalties["gradient_penalty"]
        return weight * (self.critic.psi.abs() - 1).relu().square() if weight else super().penalty()


class SharedStep(DiracGAN):
    """A penalty of the critic is also added to the generator's loss."""

    def forward(self, players, batch, step):
        losses = super().forward(players, batch, step)
        extra = 0.05 * self.model.theta.square()
        return {k: Loss.of(v.total + extra) if k == "generator" else v for k, v in losses.items()}


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (LouderGenerator, "equilibrium"),
        (LouderGenerator, "flow"),
        (FlippedCritic, "equilibrium"),
        (FlippedCritic, "flow"),
        (SharedStep, "flow"),
        (SharedStep, "simultaneous"),
        (PenaltyWithoutItsHalf, "gradient-penalty"),
        (RewardedSlope, "gradient-penalty"),
        (NoiseOnOneSide, "instance-noise"),
        (NoClip, "wgan"),
        (OneSided, "wgan-gp"),
        (LouderGenerator, "alternating"),
        (LouderGenerator, "consensus"),
        (LouderGenerator, "rules"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_it_catches(broken, law):
    """Stops at the first claim that fails."""
    evidence = BY_NAME[law].trial(1.0, broken)
    assert any(not e.holds for e in evidence)


def test_a_rule_of_its_own_is_another_game():
    """With its loss scaled by 2 the game does not have the payoff that it claims."""
    report = Report.of(BY_NAME["equilibrium"].trial(1.0, lambda f: DiracGAN(partial(twice, f))))
    assert not report.holds


def twice(f, t):
    return 2 * DiracGAN(f).f(t)


def test_a_portrait_is_a_picture_of_its_panels():
    names = [panel.title.split(",")[0] for panel in dirac_panels()]
    assert names[:3] == ["flow", "simultaneous", "alternating"]
    panels = [
        Panel("circle", DiracGAN(), None, 0.2, 5),
        Panel("alternating", DiracGAN(), "alternating", 0.5, 3),
        Panel("gp", DiracGAN("wasserstein", gradient_penalty=1.0), "simultaneous", 0.5, 3),
    ]
    assert [panel.verdict().split(": ")[1] for panel in panels] == ["undecided", "undecided", "no linearisation"]
    picture = phase_portrait(panels[:2], columns=2, scale=1)
    assert picture.size == (520, 295)
    assert len(picture.getcolors(1 << 16)) > 50
    svg = phase_portrait_svg(panels[:1])
    assert svg.startswith("<svg")
    assert "undecided" in svg


class Elsewhere(Objective):
    """The equilibrium is at (1, -0.5); at the origin, the initial point, the curvature of x's loss has the opposite
    sign.
    """

    phases = (Phase(("x", "y")),)

    def __init__(self):
        super().__init__()
        self.model, self.y = torch.nn.Linear(1, 1, bias=False), torch.nn.Parameter(torch.zeros(1))
        torch.nn.init.zeros_(self.model.weight)

    def players(self):
        return {"x": self.model.parameters(), "y": [self.y]}

    def forward(self, players, batch, step):
        x, y = self.model.weight.sum(), self.y.sum()
        losses = {"x": (x - 1) ** 2 * (x + 1) ** 2 / 8, "y": (y + 0.5) ** 2 / 2}
        return {name: Loss.of(losses[name]) for name in players}


def test_a_portrait_is_of_the_equilibrium_it_is_given():
    panel = Panel("elsewhere", Elsewhere(), at=(1.0, -0.5))
    assert "converges linearly" in panel.verdict()
    assert "diverges" in replace(panel, at=(0.0, 0.0)).verdict()
    (axes,) = _drawn([panel], 1, 2.2).axes
    (cross,) = (line for line in axes.lines if line.get_marker() == "+")
    assert cross.get_xydata().tolist() == [[1.0, -0.5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")


def test_laws_are_drawn_by_their_own_panel(monkeypatch):
    monkeypatch.setattr("jensen.check.portrait.phase_portrait_svg", lambda panels: panels[0].title)
    drawn = {name: law.plot() for name, law in BY_NAME.items() if law.plot is not None}
    assert len(set(drawn.values())) == len(drawn)
    assert drawn["flow"] == "flow"
    assert "WGAN-GP" in drawn["wgan-gp"]
    assert [name for name, law in BY_NAME.items() if law.plot is None] == ["equilibrium", "wgan"]


class OfThree(DiracGAN):
    def __init__(self):
        super().__init__()
        self.extra = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def players(self):
        return {"generator": [self.model.theta, self.extra], "critic": [self.critic.psi]}


def test_what_a_portrait_refuses():
    with pytest.raises(ValueError, match="at least one panel"):
        phase_portrait([])
    with pytest.raises(ValueError, match="a game with two weights, got 3"):
        phase_portrait([Panel("three", OfThree())])
