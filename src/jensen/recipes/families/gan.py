"""GANs: a generator and a critic, their networks and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from jensen.adversarial import annealed, dragan, gradient_penalty, r1, r2, spectral_norm
from jensen.adversarial.augmentation import TRANSFORMS, AdaptiveAugment, augment
from jensen.core.progress import Track, silent
from jensen.core.settings import Depth, Settings, Width
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.models import gan as models
from jensen.nn import (
    PictureCritic,
    PictureGenerator,
    RandomFourierFeatures,
    ResidualCritic,
    ResidualGenerator,
    Role,
    Size,
    Standardized,
    mlp,
    sized,
)
from jensen.nn.pictures import COARSE, doublings
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, Penalty, alternating
from jensen.recipes.families.base import Family
from jensen.recipes.networks import channels_last, cost, large
from jensen.recipes.settings import NonNegative, Positive, Share, Training
from jensen.training import Update, consensus, descend, extragradient, optimistic

DEFAULTS = {
    "mlp": {"latents": 2},
    "conv": {"latents": 32, "width": 32, "critic_width": 256, "critic_layers": 2},
    "residual": {"latents": 64},
}
LossName = Literal[
    "saturating", "non-saturating", "least-squares", "hinge", "exponential", "relativistic", "wasserstein"
]


class Network(Settings):
    """Generator and critic. Settings that are null take their values from the kind and the size of network."""

    kind: Literal["auto", "mlp", "conv", "residual"] = "auto"
    """mlp: fully connected layers; conv: a small convolutional generator and a fully connected critic; residual:
    residual convolutional networks; auto: residual for pictures with sides above 12 pixels, conv for smaller ones with
    even sides, mlp for points"""
    size: Size = "tiny"
    """size of mlp and residual; tiny: for two CPU cores; small, base, large: about 4, 16 and 64 times its operations"""
    latents: Width | None = None
    """dimensions of the noise z; null: 2 (mlp), 32 (conv) or 64 (residual)"""
    width: Width | None = None
    """width of the generator: units of its hidden layers (mlp), or channels at full size (conv, null: 32; residual)"""
    layers: Depth | None = None
    """hidden layers of a fully connected generator (mlp)"""
    critic_width: Width | None = None
    """width of the critic: units of its hidden layers (mlp; conv, null: 256) or channels at full size (residual)"""
    critic_layers: Depth | None = None
    """hidden layers of the critic (mlp; conv, null: 2)"""
    activation: Literal["relu", "leaky-relu"] = "relu"
    """activation of fully connected networks (mlp)"""
    slope: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """slope of leaky-relu below 0"""
    fourier_features: Annotated[int, Field(ge=0, le=65_536)] = 0
    """number of random frequencies w whose sin(w x) and cos(w x) are added to the critic's input; 0: none"""
    frequency: Annotated[float, Field(gt=0)] = 2.0
    """standard deviation of the frequencies of the Fourier features, in radians per unit of length"""
    spectral: bool = False
    """divide each of the critic's weights by its largest singular value"""

    def kind_for(self, space: Space) -> str:
        if self.kind != "auto":
            return self.kind
        if not space.pictures:
            return "mlp"
        return "conv" if not large(space) and doublings(*space.shape[1:]) else "residual"

    def chosen(self, name: str, space: Space) -> int:
        """A setting, or its default for this kind and size of network."""
        value, kind = getattr(self, name), self.kind_for(space)
        if value is not None:
            return int(value)
        if kind == "mlp" and name != "latents":
            return int(sized("points", self.size, space.shape)[name.removeprefix("critic_")])
        return DEFAULTS[kind][name]

    def refuse(self, space: Space) -> None:
        """Raise a ValueError for data that the network does not take, or for settings that have no effect."""
        idle, kind = partial(self.refuse_idle, prefix="network."), self.kind_for(space)
        if kind != "mlp":
            if not space.pictures:
                raise ValueError(f"network.kind must be mlp for points, got {kind}")
            if kind == "conv" and not doublings(*space.shape[1:]):
                raise ValueError(
                    f"network.kind conv needs even sides of at least {2 * COARSE} pixels, got {space.shape[1]} x "
                    f"{space.shape[2]}: set it to residual or mlp, or set data.size to an even number"
                )
            idle("by convolutions", "layers", "activation", "slope")
        if kind == "residual":
            idle("by network.kind residual", "critic_layers")
            for name, width in (("width", self.width), ("critic_width", self.critic_width)):
                if width is not None and width % 8:
                    raise ValueError(f"network.{name} must be a multiple of 8 for network.kind residual, got {width}")
        if kind == "conv":
            idle("by network.kind conv", "size")
        if self.activation == "relu":
            idle("with activation relu", "slope")
        if space.pictures:
            idle("for pictures", "fourier_features")
        if not self.fourier_features:
            idle("without Fourier features", "frequency")

    def generator(self, space: Space) -> nn.Module:
        latents, kind = self.chosen("latents", space), self.kind_for(space)
        if kind == "residual":
            named = self._residual("generator", self.width, space)
            return channels_last(ResidualGenerator(latents, space.shape, **named))
        width = self.chosen("width", space)
        if kind == "conv":
            return PictureGenerator(latents, space.shape, width=width, doublings=doublings(*space.shape[1:]))
        stack = self._stack(latents, width, self.chosen("layers", space), space.dims)
        if space.by_column:
            mean, std = space.moments()
            return stack.append(Standardized(-mean / std, 1 / std))  # the inverse: std x + mean
        return nn.Sequential(*stack, nn.Unflatten(1, space.shape), nn.Tanh()) if space.pictures else stack

    def critic(self, space: Space, packing: int) -> nn.Module:
        """An untrained critic, from packs of examples to logits."""
        kind, shape = self.kind_for(space), (space.shape[0] * packing, *space.shape[1:])
        critic: nn.Module
        if kind == "residual":
            critic = channels_last(ResidualCritic(shape, **self._residual("critic", self.critic_width, space)))
            return spectral_norm(critic) if self.spectral else critic
        width, layers = self.chosen("critic_width", space), self.chosen("critic_layers", space)
        if kind == "conv":
            critic = PictureCritic(shape, width=width, layers=layers)
        else:
            n = self.fourier_features
            seen = RandomFourierFeatures(space.dims, n, self.frequency, packing) if n else nn.Flatten()
            critic = nn.Sequential(seen, *self._stack(packing * (space.dims + 2 * n), width, layers, 1))
        return spectral_norm(critic) if self.spectral else critic

    def _residual(self, role: Role, width: int | None, space: Space) -> dict[str, Any]:
        named = sized(role, self.size, space.shape)
        return named if width is None else named | {"width": width}

    def summary(self, space: Space, packing: int) -> list[str]:
        """The cost of the networks: parameters and operations."""
        shape = (space.shape[0] * packing, *space.shape[1:])
        return [
            cost("generator", lambda: self.generator(space), (self.chosen("latents", space),)),
            cost("critic", lambda: self.critic(space, packing), shape),
        ]

    def _stack(self, inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
        relu: Callable[[], nn.Module] = nn.ReLU if self.activation == "relu" else partial(nn.LeakyReLU, self.slope)
        return mlp(inputs, *[width] * layers, outputs, activation=relu)


class Game(Settings):
    """The losses of the two players and the order and rule of their updates; 0, 1 or "none" turns an option off."""

    loss: LossName = "non-saturating"
    """loss of both players"""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """whether the players are updated in turn or at the same time"""
    critic_steps: Depth = 1
    """steps of the critic for each step of the generator"""
    update: Literal["descend", "extragradient", "optimistic", "consensus"] = "descend"
    """rule that updates the players"""
    consensus: NonNegative = 0.1
    """gamma of consensus optimization"""
    packing: Depth = 1
    """number of examples that the critic sees together (PacGAN)"""
    penalty: Literal["none", "r1", "r2", "r1+r2", "wgan-gp", "dragan"] = "none"
    """penalty on the critic's gradient"""
    penalty_weight: NonNegative = 1.0
    """weight of the penalty"""
    penalty_every: Depth = 1
    """lazy penalty: computed only in every k-th step, with k times its weight"""
    noise: NonNegative = 0.0
    """standard deviation of instance noise at the first step, relative to that of the column for points from a table"""
    noise_steps: Positive = 2000
    """steps after which instance noise is 0"""
    augmentation: Literal["none", "fixed", "adaptive"] = "none"
    """augmentation of all pictures that the critic sees, real and generated"""
    augmentation_share: Share = 0.5
    """share of pictures to which each transform of a fixed augmentation is applied"""
    clip: Annotated[float, Field(gt=0)] | None = None
    """bound to which the critic's weights are clipped after each of its steps; null: none"""

    @model_validator(mode="after")
    def _fitting(self) -> Game:
        if self.order == "simultaneous" and self.critic_steps > 1:
            raise ValueError(f"game.critic_steps must be 1 for simultaneous updates, got {self.critic_steps}")
        if self.update != "descend" and self.order != "simultaneous":
            raise ValueError(f"game.order must be simultaneous for game.update {self.update}, got {self.order}")
        for used, names in (
            (self.update == "consensus", "consensus"),
            (self.penalty != "none", "penalty_weight"),
            (self.penalty != "none", "penalty_every"),
            (self.noise, "noise_steps"),
            (self.augmentation == "fixed", "augmentation_share"),
        ):
            if not used:
                self.refuse_idle("by this game", names, prefix="game.")
        return self

    def penalised(self) -> Penalty | None:
        """The penalty, as a function of the critic and of its inputs, real and generated."""
        weight = self.penalty_weight
        rules: dict[str, Penalty] = {
            "r1": lambda critic, real, _: r1(critic, real, weight),
            "r2": lambda critic, _, fake: r2(critic, fake, weight),
            "r1+r2": lambda critic, real, fake: r1(critic, real, weight) + r2(critic, fake, weight),
            "wgan-gp": lambda critic, real, fake: gradient_penalty(critic, real, fake, weight),
            "dragan": lambda critic, real, _: dragan(critic, real, 0.5 * float(real.std()), weight),
        }
        return rules.get(self.penalty)

    def augmented(self) -> Callable[[Tensor], Tensor] | None:
        fixed = partial(augment, transforms=TRANSFORMS, probability=self.augmentation_share)
        adaptive = AdaptiveAugment(TRANSFORMS, ramp=50_000)
        return {"none": None, "fixed": fixed, "adaptive": adaptive}[self.augmentation]


class GAN(Family):
    """A generative adversarial network."""

    kind = "gan"
    judged = frozenset({"critic_steps"})
    network: Network = Network()
    game: Game = Game()

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        if (rows := training.rows()) % self.game.packing:
            raise ValueError(f"game.packing must divide the {rows} examples of a batch, got {self.game.packing}")
        if self.game.augmentation != "none" and not space.pictures:
            raise ValueError("game.augmentation must be none for points")
        self.network.refuse(space)

    def summary(self, space: Space) -> list[str]:
        return self.network.summary(space, self.game.packing)

    def model(self, space: Space) -> models.GAN:
        network = self.network
        return models.GAN(
            network.generator(space), network.chosen("latents", space), bound=1.0 if space.pictures else None
        )

    def objective(self, model: models.GAN, space: Space) -> Adversarial:
        game = self.game
        return Adversarial(
            model,
            self.network.critic(space, game.packing),
            loss=game.loss,
            phases=SIMULTANEOUS if game.order == "simultaneous" else alternating(game.critic_steps),
            penalty=game.penalised(),
            every=game.penalty_every,
            packing=game.packing,
            noise=annealed(game.noise, game.noise_steps) if game.noise else None,
            augmentation=game.augmented(),
            clip=game.clip,
            standardize=Standardized(*space.moments()) if space.by_column else None,
        )

    def begin(self, model: models.GAN, data: Data, seed: int, track: Track = silent) -> None:
        m, rows = self.game.packing, len(data.test)
        if m > 1 and rows < 2 * m:
            raise ValueError(f"game.packing {m} leaves fewer than 2 packs of the {rows} held-out examples")

    def update(self) -> Update:
        rules: dict[str, Update] = {"descend": descend, "extragradient": extragradient, "optimistic": optimistic}
        return rules.get(self.game.update) or consensus(self.game.consensus)

    @property
    def second_derivatives(self) -> str:
        penalty = f"game.penalty {self.game.penalty}" if self.game.penalty != "none" else ""
        return "game.update consensus" if self.game.update == "consensus" else penalty

    def curves(self) -> Mapping[str, str]:
        return {
            "critic/loss generator/loss": "losses",
            "critic/real critic/fake": "mean logits of the critic",
            "critic/penalty": "penalty",
        }
