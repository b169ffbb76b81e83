"""Translation in both directions between two sides of data, trained on unpaired or paired pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from jensen.adversarial import ImagePool, annealed, augmentation, r1, spectral_norm
from jensen.core.objective import Objective
from jensen.core.settings import Depth, Settings, Width
from jensen.data.space import Space
from jensen.models import CycleGAN
from jensen.nn import PatchCritic, Translator
from jensen.objectives import CycleConsistent, Paired
from jensen.recipes.families.base import Family
from jensen.recipes.families.gan import LossName
from jensen.recipes.networks import cost
from jensen.recipes.settings import NonNegative, Positive, Share, Training

Transforms = Literal["crop", "mosaic", "flip", "colour", "translation", "cutout"]
TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "crop": (augmentation.Crop(),),
    "mosaic": (augmentation.Mosaic(),),
    "flip": (augmentation.Flip(),),
    "colour": (augmentation.Brightness(), augmentation.Saturation(), augmentation.Contrast()),
    "translation": (augmentation.Translation(),),
    "cutout": (augmentation.Cutout(),),
}


class Network(Settings):
    """Two translators with the same architecture, and two patch critics."""

    width: Annotated[int, Field(ge=8, le=65_536, multiple_of=8)] = 48
    """channels of a translator"""
    blocks: Depth = 3
    """residual blocks of a translator"""
    patch: Width = 4
    """side of the patches that a translator folds into channels"""
    critic: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 64, 128)
    """channels of the critics' layers, each of half the resolution; three have a receptive field of 38 pixels"""
    spectral: bool = False
    """divide each of the critics' weights by its largest singular value"""


class Shown(Settings):
    """The adversarial loss, and augmentation and noise for the pictures that the critics see."""

    loss: LossName = "least-squares"
    """loss of both players"""
    augmentation: tuple[Transforms, ...] = ()
    """augmentation of all pictures that the critics see, such as ["crop", "mosaic"]; flips and crops can change
    digits"""
    augmentation_share: Share = 0.5
    """share of pictures to which each transform is applied"""
    noise: NonNegative = 2.0
    """standard deviation of the noise added to all pictures that the critics see, at the first step"""
    noise_end: NonNegative = 0.05
    """standard deviation of that noise after noise_steps"""
    noise_steps: Positive = 1500
    """steps over which that noise falls"""
    penalty: NonNegative = 0.0
    """weight of the R1 penalty on the critics' gradients"""

    @field_validator("augmentation", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f'must be a list of {", ".join(TRANSFORMS)}, as in ["crop"], got {value}')
        return value

    @model_validator(mode="after")
    def _used(self) -> Shown:
        if not self.augmentation:
            self.refuse_idle("without augmentation", "augmentation_share", prefix="shown.")
        if not (self.noise or self.noise_end):
            self.refuse_idle("without noise", "noise_steps", prefix="shown.")
        return self

    def settings(self) -> dict[str, Any]:
        """Arguments of `CycleConsistent` and `Paired`."""
        transforms, share = [t for name in self.augmentation for t in TRANSFORMS[name]], self.augmentation_share
        augmented = partial(augmentation.augment, transforms=transforms, probability=share)
        return {
            "loss": self.loss,
            "augmentation": augmented if transforms else None,
            "noise": annealed(self.noise, self.noise_steps, self.noise_end) if self.noise or self.noise_end else None,
            "penalty": (lambda critic, real, _: r1(critic, real, self.penalty)) if self.penalty else None,
        }


class Weights(Settings):
    """Weights of the translators' other losses."""

    cycle: NonNegative = 2.0
    """weight of the cycle-consistency loss (unpaired)"""
    identity: NonNegative = 0.5
    """weight of the identity loss, the change of pictures that are already of the target side (unpaired)"""
    pool: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """number of earlier translations that are kept and shown to the critics again (unpaired)"""
    distance: NonNegative = 10.0
    """weight of the distance between a translation and the picture it is paired with (paired)"""


class Translation(Family):
    """Two translators against two critics.

    Without pairs the classes are not identified: a permutation of classes with its inverse has the same loss.
    """

    kind = "translation"
    judged = frozenset({"beside"})
    pairing: Literal["auto", "unpaired", "paired"] = "auto"
    """unpaired: trained by cycle consistency (CycleGAN); paired: each picture has a known target (pix2pix); auto:
    paired if the data are paired"""
    network: Network = Network()
    shown: Shown = Shown()
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _used(self) -> Translation:
        if self.pairing != "auto":
            self._refuse_idle(self.pairing == "paired")
        return self

    def _refuse_idle(self, paired: bool) -> None:
        idle = ("cycle", "identity", "pool") if paired else ("distance",)
        self.weights.refuse_idle(f"with pairing {'paired' if paired else 'unpaired'}", *idle, prefix="weights.")

    @property
    def second_derivatives(self) -> str:
        return f"shown.penalty {self.shown.penalty:g}" if self.shown.penalty else ""

    def paired(self, space: Space) -> bool:
        """Whether the translators are trained on pairs."""
        return space.paired if self.pairing == "auto" else self.pairing == "paired"

    def refuse(self, space: Space, training: Training) -> None:
        if space.b is None:
            raise ValueError(
                "family translation needs data with two sides, a and b, got one side: give --data-b PATH, or a folder "
                "with folders trainA and trainB"
            )
        if not space.pictures or space.b.shape != space.shape:
            raise ValueError(
                f"family translation needs the same shape on both sides, got {space.shape} and {space.b.shape}"
            )
        if self.pairing == "paired" and not space.paired:
            raise ValueError("pairing must be unpaired for data without pairs, got paired")
        self._refuse_idle(self.paired(space))
        self.refuse_twice(training)

    def model(self, space: Space) -> CycleGAN:
        n = self.network
        a_to_b, b_to_a = (Translator(space.shape[0], width=n.width, blocks=n.blocks, patch=n.patch) for _ in "ab")
        return CycleGAN(a_to_b, b_to_a)

    def objective(self, model: CycleGAN, space: Space) -> Objective:
        w, shown, paired = self.weights, self.shown.settings(), self.paired(space)
        a, b = (PatchCritic((1 + paired) * space.shape[0], widths=self.network.critic) for _ in "ab")
        if self.network.spectral:
            for critic in (a, b):
                spectral_norm(critic)
        if paired:
            return Paired(model, a, b, distance=w.distance, **shown)
        pools = (ImagePool(w.pool, space.shape), ImagePool(w.pool, space.shape)) if w.pool else None
        return CycleConsistent(model, a, b, cycle=w.cycle, identity=w.identity, pools=pools, **shown)

    def summary(self, space: Space) -> list[str]:
        return [cost("each translator", lambda: self.model(space).a_to_b, space.shape)]

    def curves(self) -> Mapping[str, str]:
        return {
            "translators/game": "the translators' adversarial loss",
            "critics/loss": "the critics' loss",
            "translators/cycle": "round-trip error, both directions",
            "translators/identity": "change to pictures of the target side",
            "translators/distance": "distance to the paired picture",
        }
