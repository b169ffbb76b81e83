"""GANs: a generator and a critic, their networks and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from jensen.adversarial import annealed, dragan, gradient_penalty, r1, r2, spectral_norm
from jensen.adversarial.augmentation import TRANSFORMS, AdaptiveAugment, augment
from jensen.core.progress import Track, silent
from jensen.core.settings import Settings
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.models import gan as models
from jensen.nn import PictureCritic, PictureGenerator, RandomFourierFeatures, mlp
from jensen.nn.pictures import COARSE, doublings
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, Penalty, alternating
from jensen.recipes.families.base import Family
from jensen.recipes.settings import NonNegative, Positive, Share, Training
from jensen.training import Update, consensus, descend, extragradient, optimistic

DEFAULTS = {
    "mlp": {"latents": 2, "width": 128, "layers": 3, "critic_width": 128, "critic_layers": 3},
    "conv": {"latents": 32, "width": 32, "critic_width": 256, "critic_layers": 2},
}
LossName = Literal[
    "saturating", "non-saturating", "least-squares", "hinge", "exponential", "relativistic", "wasserstein"
]


class Network(Settings):
    """Generator and critic. Sizes that are null take their values from `DEFAULTS` for the kind of network."""

    kind: Literal["auto", "mlp", "conv"] = "auto"
    """mlp: fully connected layers; conv: convolutions, for pictures; auto: conv for pictures, mlp otherwise"""
    latents: Positive | None = None
    """dimensions of the noise z; null: 2 (mlp) or 32 (conv)"""
    width: Positive | None = None
    """width of the generator: units of its hidden layers (mlp; null: 128) or channels at full size (conv; null: 32)"""
    layers: Positive | None = None
    """hidden layers of a fully connected generator; null: 3"""
    critic_width: Positive | None = None
    """units of the critic's fully connected hidden layers; null: 128 (mlp) or 256 (conv)"""
    critic_layers: Positive | None = None
    """hidden layers of the critic; null: 3 (mlp) or 2 (conv)"""
    activation: Literal["relu", "leaky-relu"] = "relu"
    """activation of fully connected networks (mlp)"""
    slope: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """slope of leaky-relu below 0"""
    fourier_features: Annotated[int, Field(ge=0)] = 0
    """number of random frequencies w whose sin(w x) and cos(w x) are added to the critic's input; 0: none"""
    frequency: Annotated[float, Field(gt=0)] = 2.0
    """standard deviation of the frequencies of the Fourier features, in radians per unit of length"""
    spectral: bool = False
    """divide each of the critic's weights by its largest singular value"""

    def kind_for(self, space: Space) -> str:
        return ("conv" if space.pictures else "mlp") if self.kind == "auto" else self.kind

    def size(self, name: str, space: Space) -> int:
        """A size, or its default for this kind of network."""
        value = getattr(self, name)
        return DEFAULTS[self.kind_for(space)][name] if value is None else value

    def refuse(self, space: Space) -> None:
        """Raise a ValueError for data that the network does not take, or for settings that have no effect."""
        idle = partial(self.refuse_idle, prefix="network.")
        if self.kind_for(space) == "conv":
            if not space.pictures:
                raise ValueError("network.kind must be mlp for points, got conv")
            if not doublings(*space.shape[1:]):
                raise ValueError(
                    f"network.kind conv needs even sides of at least {2 * COARSE} pixels, got {space.shape[1]} x "
                    f"{space.shape[2]}: set it to mlp, or data.size to such a number"
                )
            idle("by convolutions", "layers", "activation", "slope")
        if self.activation == "relu":
            idle("with activation relu", "slope")
        if space.pictures:
            idle("for pictures", "fourier_features")
        if not self.fourier_features:
            idle("without Fourier features", "frequency")

    def generator(self, space: Space) -> nn.Module:
        latents, width = self.size("latents", space), self.size("width", space)
        if self.kind_for(space) == "conv":
            return PictureGenerator(latents, space.shape, width=width, doublings=doublings(*space.shape[1:]))
        stack = self._stack(latents, width, self.size("layers", space), space.dims)
        return nn.Sequential(*stack, nn.Unflatten(1, space.shape), nn.Tanh()) if space.pictures else stack

    def critic(self, space: Space, packing: int) -> nn.Module:
        """An untrained critic, from packs of examples to logits."""
        width, layers = self.size("critic_width", space), self.size("critic_layers", space)
        critic: nn.Module
        if self.kind_for(space) == "conv":
            critic = PictureCritic((space.shape[0] * packing, *space.shape[1:]), width=width, layers=layers)
        else:
            n = self.fourier_features
            seen = RandomFourierFeatures(space.dims, n, self.frequency, packing) if n else nn.Flatten()
            critic = nn.Sequential(seen, *self._stack(packing * (space.dims + 2 * n), width, layers, 1))
        return spectral_norm(critic) if self.spectral else critic

    def _stack(self, inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
        relu: Callable[[], nn.Module] = nn.ReLU if self.activation == "relu" else partial(nn.LeakyReLU, self.slope)
        return mlp(inputs, *[width] * layers, outputs, activation=relu)


class Game(Settings):
    """The losses of the two players and the order and rule of their updates; 0, 1 or "none" turns an option off."""

    loss: LossName = "non-saturating"
    """loss of both players"""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """whether the players are updated in turn or at the same time"""
    critic_steps: Positive = 1
    """steps of the critic for each step of the generator"""
    update: Literal["descend", "extragradient", "optimistic", "consensus"] = "descend"
    """rule that updates the players"""
    consensus: NonNegative = 0.1
    """gamma of consensus optimization"""
    packing: Positive = 1
    """number of examples that the critic sees together (PacGAN)"""
    penalty: Literal["none", "r1", "r2", "r1+r2", "wgan-gp", "dragan"] = "none"
    """penalty on the critic's gradient"""
    penalty_weight: NonNegative = 1.0
    """weight of the penalty"""
    noise: NonNegative = 0.0
    """standard deviation of instance noise at the first step"""
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
            (self.noise, "noise_steps"),
            (self.augmentation == "fixed", "augmentation_share"),
        ):
            if not used:
                self.refuse_idle("by this game", names, prefix="game.")
        return self

    def penalised(self) -> Penalty | None:
        """The penalty, as a function of the critic, real and generated examples."""
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

    def model(self, space: Space) -> models.GAN:
        return models.GAN(self.network.generator(space), self.network.size("latents", space))

    def objective(self, model: models.GAN, space: Space) -> Adversarial:
        game = self.game
        return Adversarial(
            model,
            self.network.critic(space, game.packing),
            loss=game.loss,
            phases=SIMULTANEOUS if game.order == "simultaneous" else alternating(game.critic_steps),
            penalty=game.penalised(),
            packing=game.packing,
            noise=annealed(game.noise, game.noise_steps) if game.noise else None,
            augmentation=game.augmented(),
            clip=game.clip,
        )

    def begin(self, model: models.GAN, data: Data, seed: int, track: Track = silent) -> None:
        m, rows = self.game.packing, len(data.test)
        if m > 1 and rows < 2 * m:
            raise ValueError(f"game.packing {m} leaves fewer than 2 packs of the {rows} held-out examples")

    def update(self) -> Update:
        rules: dict[str, Update] = {"descend": descend, "extragradient": extragradient, "optimistic": optimistic}
        return rules.get(self.game.update) or consensus(self.game.consensus)

    def curves(self) -> Mapping[str, str]:
        return {
            "critic/loss generator/loss": "losses",
            "critic/real critic/fake": "mean logits of the critic",
            "critic/penalty": "penalty",
        }
