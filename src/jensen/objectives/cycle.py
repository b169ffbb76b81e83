"""Translation between two kinds of pictures as a game of two players: both translators, and both critics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from jensen.adversarial import AdaptiveAugment, GameLoss, ImagePool, game_loss, instance_noise, power_iteration
from jensen.core.objective import Objective
from jensen.core.seeding import drawing, generator
from jensen.core.shapes import mean_per_example
from jensen.core.types import Batch, Loss, Phase, entry
from jensen.models.cyclegan import CycleGAN
from jensen.objectives.adversarial import Penalty, logits, paid

Seen = tuple[Tensor, ...]
"""Pictures that are stacked along their channels as one input of a critic."""

TOGETHER = (Phase(("translators", "critics")),)
"""Both players are updated with losses of one forward pass, as in the published algorithm."""


class _Translation(Objective):
    """The common part of the unpaired and the paired game: players, inputs and losses of the critics."""

    model: CycleGAN

    def __init__(
        self,
        model: CycleGAN,
        critic_a: nn.Module,
        critic_b: nn.Module,
        loss: str | GameLoss,
        augmentation: Callable[[Tensor], Tensor] | None,
        noise: Callable[[int], float] | None,
        penalty: Penalty | None,
        phases: tuple[Phase, ...],
    ):
        super().__init__()
        self.model, self.critic_a, self.critic_b = model, critic_a, critic_b
        self.loss = game_loss(loss)
        self.augmentation, self.noise, self.penalty, self.phases = augmentation, noise, penalty, phases

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        critics = (*self.critic_a.parameters(), *self.critic_b.parameters())
        return {
            "translators": [p for p in self.model.parameters() if p.requires_grad],
            "critics": [p for p in critics if p.requires_grad],
        }

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        if not {"a", "b"} <= set(batch):
            raise ValueError(f"the batch must hold 'a' and 'b', the pictures of the two sides, got {sorted(batch)}")
        a, b = entry(batch, "a"), entry(batch, "b")
        if len(a) != len(b):
            raise ValueError(f"a and b must have the same number of pictures, got {len(a)} and {len(b)}")
        self.refuse(a, b)
        with torch.set_grad_enabled("translators" in players and torch.is_grad_enabled()):
            made = self.made(a, b)
        for side, real in (("a", a), ("b", b)):
            shape, got = tuple(real.shape), tuple(made[f"fake_{side}"].shape)
            if got != shape:
                raise ValueError(f"translations to side {side} must have its shape, {shape}, got {got}")
        descended = {"translators": self.translators, "critics": self.critics}
        return {player: descended[player](a, b, made, step) for player in players}

    @abstractmethod
    def refuse(self, a: Tensor, b: Tensor) -> None:
        """Raise a ValueError if the shapes of the sides are not suitable."""

    @abstractmethod
    def made(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The translations of a batch."""

    @abstractmethod
    def translators(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        """The loss of the translators."""

    @abstractmethod
    def critics(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        """The loss of the critics."""

    def after(self, player: str, loss: Loss, step: int) -> None:
        if player == "critics" and isinstance(self.augmentation, AdaptiveAugment):
            self.augmentation.update(loss.aux["real"])
        for moved in (self.model,) if player == "translators" else (self.critic_a, self.critic_b):
            power_iteration(moved)

    def fooling(self, critic: nn.Module, real: Seen, fake: Seen, step: int) -> Tensor:
        """The translator's loss in the game on one side, (B,)."""
        told = logits(critic, self.shown(real, step)) if self.loss.paired else None
        return self.loss.generator(told, logits(critic, self.shown(fake, step)))

    def telling(self, sides: Mapping[str, tuple[nn.Module, Seen, Seen]], step: int) -> Loss:
        """The critics' loss on (critic, real, fake) of each side."""
        terms, of_real = {}, []
        for name, (critic, *both) in sides.items():
            real, fake = (self.shown(x, step) for x in both)
            told = logits(critic, real)
            of_real.append(_one(told.detach()))
            terms[name] = self.loss.critic(told, logits(critic, fake))
            if self.penalty is not None:
                terms[f"penalty_{name}"] = paid(self.penalty, partial(_mean_logit, critic), real, fake)
        found = Loss.of(torch.stack([term.mean() for term in terms.values()]).sum(), **terms)
        return Loss(found.total, found.terms, {"real": torch.cat(of_real)})

    def shown(self, pictures: Seen, step: int) -> Tensor:
        """The critic's input for a tuple of pictures: all augmented by the same draws, then stacked."""
        if self.augmentation is not None:
            pictures = _alike(self.augmentation, pictures)
        x = pictures[0] if len(pictures) == 1 else torch.cat(pictures, 1)
        return x if self.noise is None else instance_noise(x, self.noise(step))


class CycleConsistent(_Translation):
    r"""Unpaired translation: a critic for each side, and a cycle-consistency loss.

    With G: A -> B, F: B -> A and critics $D_A, D_B$, the translators descend
    $L(G, D_B) + L(F, D_A) + \lambda (|F(G(a)) - a| + |G(F(b)) - b|) + \iota (|F(a) - a| + |G(b) - b|)$, absolute errors
    per pixel; the critics distinguish b from G(a) and a from F(b), or from earlier translations in a pool.

    Args:
        model: G and F.
        critic_a, critic_b: modules from pictures to logits, (B, ...).
        loss: a name of `GAME_LOSSES`, or a `GameLoss`.
        cycle: $\lambda$, at least 0.
        identity: $\iota$, at least 0; above 0, both sides must have the same shape.
        pools: pools of earlier translations to a and to b, for the critics only; None: no pools.
        augmentation: augmentation of the critics' inputs, real and translated; an `AdaptiveAugment` is adjusted.
        noise: step -> sigma of the noise on the critics' inputs, see `annealed`.
        penalty: penalty that is added to a critic's loss, computed from its mean logit per input; (critic, real, fake)
            -> (B,).
        phases: order of the updates.

    Raises:
        ValueError: for a negative weight or an unknown loss; when called, for a batch without "a" or "b", for
            sides with different numbers of pictures, or with different shapes if identity is above 0, or for a
            translation whose shape is not that of its side.

    Source: Zhu et al. (2017), equations 1 to 3 and section 5.2 (identity); weights 10 and 5, pools of 50.
    """

    def __init__(
        self,
        model: CycleGAN,
        critic_a: nn.Module,
        critic_b: nn.Module,
        *,
        loss: str | GameLoss = "least-squares",
        cycle: float = 10.0,
        identity: float = 5.0,
        pools: tuple[ImagePool, ImagePool] | None = None,
        augmentation: Callable[[Tensor], Tensor] | None = None,
        noise: Callable[[int], float] | None = None,
        penalty: Penalty | None = None,
        phases: tuple[Phase, ...] = TOGETHER,
    ):
        super().__init__(model, critic_a, critic_b, loss, augmentation, noise, penalty, phases)
        if not (cycle >= 0 and identity >= 0):
            raise ValueError(f"cycle and identity must be at least 0, got {cycle} and {identity}")
        self.cycle, self.identity = cycle, identity
        self.pools = None if pools is None else nn.ModuleList(pools)

    def refuse(self, a: Tensor, b: Tensor) -> None:
        if self.identity and a.shape[1:] != b.shape[1:]:
            raise ValueError(
                "the identity loss needs pictures of the same shape on both sides, "
                f"got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}: set identity=0 to omit it"
            )

    def made(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        if not self.identity:
            return {"fake_b": self.model.a_to_b(a), "fake_a": self.model.b_to_a(b)}
        fake_b, same_b = self.model.a_to_b(torch.cat([a, b])).chunk(2)  # one pass is faster than two
        fake_a, same_a = self.model.b_to_a(torch.cat([b, a])).chunk(2)
        return {"fake_a": fake_a, "fake_b": fake_b, "same_a": same_a, "same_b": same_b}

    def translators(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        fake_a, fake_b = made["fake_a"], made["fake_b"]
        game = self.fooling(self.critic_a, (a,), (fake_a,), step) + self.fooling(self.critic_b, (b,), (fake_b,), step)
        cycle = distance(self.model.b_to_a(fake_b), a) + distance(self.model.a_to_b(fake_a), b)
        total, terms = game + self.cycle * cycle, {"game": game, "cycle": cycle}
        if self.identity:
            terms["identity"] = distance(made["same_a"], a) + distance(made["same_b"], b)
            total = total + self.identity * terms["identity"]
        found = Loss.of(total.mean(), **terms)
        return Loss(found.total, found.terms, {"fake_a": fake_a.detach(), "fake_b": fake_b.detach()})

    def critics(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        fake_a, fake_b = made["fake_a"], made["fake_b"]
        if self.pools is not None:
            fake_a, fake_b = self.pools[0](fake_a), self.pools[1](fake_b)
        return self.telling({"a": (self.critic_a, (a,), (fake_a,)), "b": (self.critic_b, (b,), (fake_b,))}, step)

    def after(self, player: str, loss: Loss, step: int) -> None:
        super().after(player, loss, step)
        if player == "translators" and self.pools is not None:
            for pool, name in zip(self.pools, ("fake_a", "fake_b"), strict=True):
                assert isinstance(pool, ImagePool)
                pool.push(loss.aux[name])


class Paired(_Translation):
    r"""Paired translation (pix2pix) in both directions: targets are known, and critics get source and target together.

    The translators descend $L(G, D_B) + L(F, D_A) + \lambda (|G(a) - b| + |F(b) - a|)$, where $D_B$ distinguishes (a,
    b) from (a, G(a)) and $D_A$ distinguishes (b, a) from (b, F(b)), the source first, stacked along the channels.

    Args:
        model: G and F.
        critic_a, critic_b: modules from stacked pictures to logits, (B, ...).
        loss: a name of `GAME_LOSSES`, or a `GameLoss`.
        distance: $\lambda$, at least 0.
        augmentation: augmentation of the critics' inputs, with the same draws for both pictures of a pair; an
            `AdaptiveAugment` is adjusted.
        noise: step -> sigma of the noise on the critics' inputs, see `annealed`.
        penalty: penalty that is added to a critic's loss, computed from its mean logit per input; (critic, real, fake)
            -> (B,).
        phases: order of the updates.

    Raises:
        ValueError: for a negative weight or an unknown loss; when called, for a batch without "a" or "b", for sides
            with different numbers of pictures or different heights and widths, or for a translation whose shape is not
            that of its side.

    Source: Isola et al. (2017), equations 1, 3 and 4, with the weight 100; there is no noise z here.
    """

    def __init__(
        self,
        model: CycleGAN,
        critic_a: nn.Module,
        critic_b: nn.Module,
        *,
        loss: str | GameLoss = "least-squares",
        distance: float = 100.0,
        augmentation: Callable[[Tensor], Tensor] | None = None,
        noise: Callable[[int], float] | None = None,
        penalty: Penalty | None = None,
        phases: tuple[Phase, ...] = TOGETHER,
    ):
        super().__init__(model, critic_a, critic_b, loss, augmentation, noise, penalty, phases)
        if not distance >= 0:
            raise ValueError(f"distance must be at least 0, got {distance}")
        self.distance = distance

    def refuse(self, a: Tensor, b: Tensor) -> None:
        if a.shape[2:] != b.shape[2:]:
            raise ValueError(
                "pairs must have the same height and width, since they are stacked along their channels, "
                f"got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
            )

    def made(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"fake_a": self.model.b_to_a(b), "fake_b": self.model.a_to_b(a)}

    def translators(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        fake_a, fake_b = made["fake_a"], made["fake_b"]
        game = self.fooling(self.critic_a, (b, a), (b, fake_a), step)
        game = game + self.fooling(self.critic_b, (a, b), (a, fake_b), step)
        apart = distance(fake_a, a) + distance(fake_b, b)
        return Loss.of((game + self.distance * apart).mean(), game=game, distance=apart)

    def critics(self, a: Tensor, b: Tensor, made: Mapping[str, Tensor], step: int) -> Loss:
        pairs_a, pairs_b = ((b, a), (b, made["fake_a"])), ((a, b), (a, made["fake_b"]))
        return self.telling({"a": (self.critic_a, *pairs_a), "b": (self.critic_b, *pairs_b)}, step)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error per pixel, (B,).

    >>> distance(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, -1.0], [0.0, 2.0]]]]))
    tensor([1.])
    """
    return mean_per_example((x - y).abs())


def _alike(augmentation: Callable[[Tensor], Tensor], pictures: Seen) -> Seen:
    """The pictures, augmented one after another with the same random draws, so that they are not mixed."""
    if len(pictures) == 1:
        return (augmentation(pictures[0]),)
    seed = int(torch.randint(2**62, ())) % 2**32
    made = []
    for x in pictures:
        with drawing(generator(seed, x.device)):
            made.append(augmentation(x))
    return tuple(made)


def _mean_logit(critic: nn.Module, x: Tensor) -> Tensor:
    return _one(critic(x))


def _one(logits: Tensor) -> Tensor:
    """The mean of the logits of each example, (B,)."""
    return logits.reshape(len(logits), -1).mean(1)
