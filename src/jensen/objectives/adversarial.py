"""Trains a generator against a critic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from jensen.adversarial import (
    AdaptiveAugment,
    GameLoss,
    clip_weights,
    game_loss,
    instance_noise,
    pack,
    power_iteration,
)
from jensen.core.objective import Objective
from jensen.core.shapes import check_count, single
from jensen.core.types import Batch, Loss, Phase, entry
from jensen.models.gan import GAN

Critic = Callable[[Tensor], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor], Tensor]
"""A penalty: maps (critic, real, generated), the latter two as inputs of the critic, to (B,)."""

SIMULTANEOUS = (Phase(("critic", "generator")),)


def alternating(critic_steps: int = 1) -> tuple[Phase, ...]:
    """The critic is updated `critic_steps` times, each on a new batch, then the generator once.

    Raises:
        ValueError: for fewer than 1 step.
    """
    return Phase(("critic",), repeats=critic_steps), Phase(("generator",), fresh=False)


def logits(critic: Critic, x: Tensor) -> Tensor:
    """The critic's logits of x (B, ...), at least in float32: (B,), or (B, ...) for patches.

    Raises:
        ValueError: unless there are B rows of at least one logit.

    >>> logits(nn.Linear(2, 1), torch.zeros(4, 2)).shape
    torch.Size([4, 1])
    """
    said = critic(x)
    if not isinstance(said, Tensor):
        raise ValueError(f"a critic must give a tensor of logits, got {type(said).__name__}")
    if said.shape[:1] != x.shape[:1] or not said.numel():
        raise ValueError(f"a critic must give logits for each of {len(x)} examples, got shape {tuple(said.shape)}")
    return single(said)


def paid(penalty: Penalty, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The value of a penalty, (B,), or () if it is already a mean.

    Raises:
        ValueError: for anything else.
    """
    found = penalty(critic, real, fake)
    if not isinstance(found, Tensor):
        raise ValueError(f"a penalty must give a tensor, one value per example, got {found!r}")
    if found.shape not in ((), (len(real),)):
        raise ValueError(f"a penalty must give one value per example, ({len(real)},), got {tuple(found.shape)}")
    return found


class Adversarial(Objective):
    r"""The game of a generator and a critic: each minimises its part of `loss`, the critic plus its penalty.

    The critic's input, for both real and generated examples, is $\mathrm{pack}_m(T(s(x)) + \sigma_k\epsilon)$:
    standardised by s, with an augmentation T, instance noise of $\sigma_k$ at step k, and packs of m; each part is off
    by default. Noise and penalties are therefore on the scale of standardised data.

    Players are "critic" and "generator". A phase of one player computes only what its loss needs.

    Args:
        model: the generator.
        critic: D, from its input to logits, (B / m,) or (B / m, ...). With `spectral_norm`, its singular vectors are
            updated after each of its updates (likewise for the generator).
        loss: a name of `GAME_LOSSES`, or a `GameLoss`.
        phases: order of the updates: `alternating(5)`, `SIMULTANEOUS`, ...
        penalty: penalty that is added to the critic's loss; (critic, real, fake) -> (B / m,).
        every: k, "lazy" penalty: only in steps 0, k, 2k, ..., and k times as large, so that its mean is the same.
        packing: number m of examples per pack, which must divide the batch size.
        noise: sigma of the instance noise: a number, or a function of the step, see `annealed`.
        augmentation: augmentation of pictures; an `AdaptiveAugment` is adjusted after the critic's updates.
        clip: bound to which the critic's weights are clipped after each of its updates.
        standardize: s, for data whose columns have different scales.

    Raises:
        ValueError: for an unknown loss, a clip that is not positive, or k below 1; when called, for a batch without
            "x", a batch size that m does not divide, generated examples whose shape is not that of real ones, a critic
            that does not give logits for each example, or a penalty that does not return a tensor.

    Source: Goodfellow et al. (2014), algorithm 1; Arjovsky et al. (2017), algorithm 1, with clip and alternating(5);
    Karras et al. (2020), section 3.1 (lazy penalties).

    >>> from jensen.adversarial import r1
    >>> penalty = lambda critic, real, fake: r1(critic, real, gamma=1.0)
    >>> game = Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1), loss="hinge", penalty=penalty)
    >>> losses = game(("critic",), {"x": torch.zeros(4, 2)}, 0)
    >>> sorted(losses), sorted(losses["critic"].terms)
    (['critic'], ['fake', 'loss', 'penalty', 'real'])
    """

    model: GAN

    def __init__(
        self,
        model: GAN,
        critic: nn.Module,
        *,
        loss: str | GameLoss = "non-saturating",
        phases: tuple[Phase, ...] | None = None,
        penalty: Penalty | None = None,
        every: int = 1,
        packing: int = 1,
        noise: Callable[[int], float] | float | None = None,
        augmentation: Callable[[Tensor], Tensor] | None = None,
        clip: float | None = None,
        standardize: nn.Module | None = None,
    ):
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        self.model = model
        self.critic = critic
        self.loss = game_loss(loss)
        self.phases = alternating() if phases is None else phases
        check_count(packing=packing, every=every)
        self.penalty, self.every, self.packing, self.noise, self.clip = penalty, every, packing, noise, clip
        self.augmentation = augmentation
        self.standardize = nn.Identity() if standardize is None else standardize

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {
            "critic": [p for p in self.critic.parameters() if p.requires_grad],
            "generator": [p for p in self.model.parameters() if p.requires_grad],
        }

    def seen(self, x: Tensor, step: int) -> Tensor:
        """The critic's input for x."""
        x = self.standardize(x)
        if self.augmentation is not None:
            x = self.augmentation(x)
        if self.noise is not None:
            x = instance_noise(x, self.noise(step) if callable(self.noise) else self.noise)
        return pack(x, self.packing)

    def packs(self, x: Tensor) -> Tensor:
        """The critic's input for x without augmentation and noise; rows that do not fill a pack are left out."""
        return pack(self.standardize(x[: len(x) // self.packing * self.packing]), self.packing)

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x = entry(batch, "x")
        z = self.model.latent(len(x))
        with torch.set_grad_enabled("generator" in players and torch.is_grad_enabled()):
            generated = self.model(z)
            if generated.shape != x.shape:
                shapes = f"{tuple(x.shape)}, got {tuple(generated.shape)}"
                raise ValueError(f"generated examples must have the shape of the real ones, {shapes}")
            made = self.seen(generated, step)
        fake = logits(self.critic, made)
        real, data = None, made
        if "critic" in players or self.loss.paired:
            data = self.seen(x, step)
            real = logits(self.critic, data)
        losses = {}
        for player in players:
            if player == "critic":
                assert real is not None
                losses[player] = self._critic(real, fake, data, made, step)
            else:
                losses[player] = Loss.of(self.loss.generator(real, fake).mean())
        return losses

    def _critic(self, real: Tensor, fake: Tensor, data: Tensor, made: Tensor, step: int) -> Loss:
        total = self.loss.critic(real, fake).mean()
        terms = {"real": real, "fake": fake}
        if self.penalty is not None and step % self.every == 0:
            terms["penalty"] = self.every * paid(self.penalty, self.critic, data, made)
            total = total + terms["penalty"].mean()
        loss = Loss.of(total, **terms)
        return Loss(loss.total, loss.terms, {"real": real.detach()})

    def after(self, player: str, loss: Loss, step: int) -> None:
        if player == "generator":
            power_iteration(self.model)
            return
        if isinstance(self.augmentation, AdaptiveAugment):
            self.augmentation.update(loss.aux["real"].repeat_interleave(self.packing, 0))  # one logit per picture
        if self.clip is not None:
            clip_weights(self.critic, self.clip)
        power_iteration(self.critic)
