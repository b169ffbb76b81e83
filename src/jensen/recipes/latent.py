"""Variational autoencoders on small pictures: one recipe, whose settings are the family.

`digits-vae`, `digits-iwae`, `digits-hvae`, `digits-beta-vae`, `digits-categorical` and, in files of their own,
`digits-grey-vae` and `mnist-vae` differ in their data and defaults alone: each setting works in all of them.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.core.objective import partition
from jensen.core.seeding import generator
from jensen.data.pool import pool_stream
from jensen.distributions import (
    BernoulliLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    GaussianPrior,
    OneHotLogits,
)
from jensen.models import HVAE, VAE, LadderVAE, LatentChain
from jensen.nn import mlp
from jensen.objectives import Variational
from jensen.objectives.variational import cautions
from jensen.recipes.base import (
    Advance,
    Drawing,
    Likely,
    Positive,
    Real,
    Recipe,
    Request,
    Setting,
    Settings,
    Track,
    Training,
    silent,
)
from jensen.recipes.data import DigitsData, described
from jensen.recipes.digit_reader import read_digits
from jensen.recipes.folder import save_image
from jensen.recipes.latent_judging import Judge, interpolations, write_report
from jensen.training import Budget, Player
from jensen.variational import Constraint, Relaxation, annealed, beta, cooling, cyclical, elbo, free_bits, iwae, linear
from jensen.variational.collapse import Classifier
from jensen.variational.relaxed import KINDS

NonNegative = Annotated[float, Field(ge=0)]


class LatentNetwork(Settings):
    """The latents of each layer, and the fully connected networks between them."""

    latents: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (16,)  # from the data up
    kind: Literal["gaussian", "categorical"] = "gaussian"
    classes: Annotated[int, Field(ge=2)] = 10  # of each categorical latent
    direction: Literal["bottom-up", "ladder"] = "bottom-up"  # of inference, where there are layers
    hidden: Positive = 256
    depth: Positive = 2  # hidden layers of each network
    decoder_hidden: Positive | None = None  # of p(x | z), to weaken it; None: as hidden

    @model_validator(mode="after")
    def _fitting(self) -> LatentNetwork:
        if self.kind == "categorical" and len(self.latents) > 1:
            raise ValueError(f"categorical latents come in one layer, got network.latents {list(self.latents)}")
        if self.kind == "gaussian" and self.classes != type(self).model_fields["classes"].default:
            raise ValueError("network.classes is of categorical latents: set network.kind")
        if self.direction == "ladder" and len(self.latents) == 1:
            raise ValueError("a ladder needs at least two layers in network.latents")
        return self


class LatentBound(Settings):
    """What is raised, and with which gradient: beta, free bits and warm-up multiply one another."""

    name: Literal["elbo", "iwae"] = "elbo"
    samples: Positive = 1
    gradient: Literal["standard", "score", "stl", "dreg"] = "standard"
    beta: NonNegative = 1.0
    free_bits: NonNegative = 0.0  # nats, under the batch's mean of each
    free_bits_per: Literal["layer", "dimension"] = "layer"
    kl_limit: Annotated[float, Field(gt=0)] | None = None  # nats; beta is then the constraint's multiplier
    warm: Literal["none", "linear", "cyclical"] = "none"  # how the weight of the KL rises to beta
    warm_steps: Positive = 1000
    relaxation: Literal["none", "concrete", "gumbel-softmax", "straight-through"] = "none"  # of categorical latents
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the relaxation, at first
    coldest: Annotated[float, Field(gt=0)] = 0.5  # and from cooling_steps on
    cooling_steps: Positive = 1000

    @model_validator(mode="after")
    def _one_way(self) -> LatentBound:
        weighed = self._changed("beta", "free_bits", "warm")
        alone = ["bound.name iwae"] * (self.name == "iwae") + self._changed("kl_limit")
        if alone and len(alone + weighed) > 1:
            raise ValueError(f"{alone[0]} does not go with {(alone + weighed)[1]}: choose one of them")
        for needed, idle in (
            ("free_bits", ("free_bits_per",)),
            ("warm", ("warm_steps",)),
            ("relaxation", ("temperature", "coldest", "cooling_steps")),
        ):
            if not self._changed(needed) and self._changed(*idle):
                raise ValueError(f"{self._changed(*idle)[0]} does nothing without bound.{needed}")
        if self.gradient == "dreg" and self.name != "iwae":
            raise ValueError("bound.gradient dreg goes with bound.name iwae")
        if self.gradient == "stl" and self.free_bits > 0:
            raise ValueError("bound.gradient stl is biased under bound.free_bits: choose another gradient")
        if self.coldest > self.temperature:
            raise ValueError(f"bound.coldest must be at most bound.temperature, {self.temperature}, got {self.coldest}")
        if self.relaxation != "none" and self.gradient == "score":
            raise ValueError("bound.relaxation gives draws a path: choose bound.gradient standard, or no relaxation")
        if self.relaxation not in ("none", "concrete") and (self.name == "iwae" or self.gradient != "standard"):
            raise ValueError(f"bound.relaxation {self.relaxation} goes with bound.name elbo, bound.gradient standard")
        return self

    def _changed(self, *names: str) -> list[str]:
        """Those of the settings that are not at their defaults."""
        fields = type(self).model_fields
        return [f"bound.{name}" for name in names if getattr(self, name) != fields[name].default]

    def function(self) -> Any:
        """Of a trace, or of a step."""
        if self.name == "iwae":
            return iwae
        if self.kl_limit is not None:
            return Constraint(self.kl_limit)
        bound = elbo if self.free_bits == 0 else free_bits(self.free_bits, self.free_bits_per)
        if self.beta != 1:
            bound = beta(self.beta, bound)
        if self.warm == "none":
            return bound
        return annealed((linear if self.warm == "linear" else cyclical)(self.warm_steps), bound)

    @property
    def analytic(self) -> bool:
        return self.name == "elbo" and self.gradient in ("standard", "score") and self.relaxation == "none"

    def relaxed(self) -> Relaxation | None:
        """How categorical latents are drawn in training, if not as they are."""
        if self.relaxation == "none":
            return None
        return Relaxation(cooling(self.temperature, self.coldest, self.cooling_steps), self.relaxation)

    def notes(self) -> list[str]:
        """What to know of this bound and its gradient: sentences."""
        found = cautions(self.name == "iwae", self.samples, self.gradient, baseline=False)
        if self.relaxation != "none":
            found.append(f"{self.relaxation} raises {KINDS[self.relaxation]}")
        return found


class LatentJudging(Settings):
    """How a model is judged."""

    samples: Positive = 5000  # K of log p(x)
    rows: Annotated[int, Field(ge=2)] = 360  # pictures never trained on, at most
    refine_rows: Annotated[int, Field(ge=2)] = 100  # of them, for the split of the gap
    refine_steps: Positive = 300


class LatentRecipe(Recipe):
    """An encoder, a decoder and a prior, on pictures in {0, 1}."""

    data: Settings
    network: LatentNetwork = LatentNetwork()
    bound: LatentBound = LatentBound()
    judging: LatentJudging = LatentJudging()

    @model_validator(mode="after")
    def _trainable(self) -> LatentRecipe:
        bound = self.bound
        if self.network.kind == "categorical" and bound.relaxation == "none":
            if bound.gradient in ("stl", "dreg"):
                raise ValueError(
                    f"bound.gradient {bound.gradient} needs Gaussian latents, or bound.relaxation concrete"
                )
            if bound.samples < 2:
                raise ValueError(
                    "categorical latents need bound.samples of at least 2, each draw the others' baseline, or a "
                    "bound.relaxation"
                )
        if self.network.kind == "gaussian" and bound.relaxation != "none":
            raise ValueError("bound.relaxation is of categorical latents: set network.kind")
        if self.bound.gradient == "dreg" and self.network.direction == "ladder":
            raise ValueError("bound.gradient dreg needs an encoder of its own, which a ladder has not")
        return self

    # data --------------------------------------------------------------------------------

    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Of one picture."""

    @abstractmethod
    def pictures(self) -> tuple[Tensor, Tensor]:
        """Pictures in {0, 1} to train on and to judge with."""

    def real(self) -> Real:
        seen, kept = self.pictures()
        return Real(described(self.data), seen, kept)

    def law(self) -> tuple[int, Callable[[Tensor], Distribution]]:
        """How many numbers the decoder gives for a pixel, and the distribution that they are of."""
        return 1, BernoulliLogits(event_dims=3)

    def shown(self, pictures: Tensor) -> Tensor:
        """In [-1, 1], ink dark."""
        return 1 - 2 * pictures

    def likelihoods(self, evaluation: dict[str, Any]) -> list[Likely]:
        dims, log_p, elbo = evaluation["dims"], evaluation["log_p"], evaluation["elbo"]
        name, measure = f"importance sampling, K = {evaluation['samples']}", evaluation["measure"]
        if beyond := evaluation["pareto_k"]["beyond"]:
            name += f", unreliable for {beyond} of {evaluation['rows']} data (Pareto k)"
        return [
            Likely(name, log_p["mean"], log_p["stderr"], "estimate", measure, dims),
            Likely("evidence lower bound", elbo["mean"], elbo["stderr"], "lower bound", measure, dims),
        ]

    def classes(self) -> tuple[Classifier, Tensor] | None:
        """What reads a picture's class, and the labels of the pictures to judge with; or None."""
        return None

    def notes(self) -> list[str]:
        return self.bound.notes()

    # building and training ---------------------------------------------------------------

    def model(self) -> LatentChain:
        network, shape = self.network, self.shape()
        inside = [network.hidden] * network.depth
        weak = [network.decoder_hidden or network.hidden] * network.depth
        size, first = math.prod(shape), self._size(0)
        numbers, law = self.law()
        flatten = nn.Flatten()
        draw = nn.Sequential(mlp(first, *weak, numbers * size), nn.Unflatten(-1, (numbers * shape[0], *shape[1:])))
        one_hot = network.kind == "categorical"
        decoders: list[nn.Module] = [
            Conditional(
                nn.Sequential(flatten, draw) if one_hot else draw,
                law,
                input_dims=2 if one_hot else None,
            )
        ]
        for k, above in enumerate(network.latents[1:], start=1):
            decoders.append(self._gaussian(above, inside, network.latents[k - 1]))
        if one_hot:
            groups, classes = network.latents[0], network.classes
            body = nn.Sequential(flatten, mlp(size, *inside, first))
            encoder = Conditional(body, OneHotLogits(groups, classes))
            return VAE(encoder, decoders[0], CategoricalPrior(groups, classes))
        prior = GaussianPrior(network.latents[-1])
        if network.direction == "ladder":
            ups: list[nn.Module] = [nn.Sequential(flatten, mlp(size, *inside), nn.SiLU())]
            ups += [nn.Sequential(mlp(network.hidden, *inside), nn.SiLU()) for _ in network.latents[1:]]
            heads = [self._gaussian(network.hidden, [], latents) for latents in network.latents]
            return LadderVAE(ups, heads, decoders, prior)
        below = nn.Sequential(flatten, mlp(size, *inside, 2 * first))
        encoders: list[nn.Module] = [Conditional(below, DiagonalGaussian())]
        for k, latents in enumerate(network.latents[1:], start=1):
            encoders.append(self._gaussian(network.latents[k - 1], inside, latents))
        return VAE(encoders[0], decoders[0], prior) if len(encoders) == 1 else HVAE(encoders, decoders, prior)

    def _size(self, layer: int) -> int:
        """Numbers in one draw of a layer."""
        return self.network.latents[layer] * (self.network.classes if self.network.kind == "categorical" else 1)

    def _gaussian(self, given: int, inside: list[int], latents: int) -> Conditional:
        return Conditional(mlp(given, *inside, 2 * latents), DiagonalGaussian())

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        pictures, _ = self.pictures()
        bound = self.bound
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `notes` say it
            objective = Variational(
                model,
                bound.function(),
                samples=bound.samples,
                gradient=bound.gradient,
                analytic=bound.analytic,
                relaxation=bound.relaxed(),
            )
        return Setting(objective, pool_stream(self.training.batch_size, self.seed, x=pictures), {})

    def players(self, objective: Any, budget: Budget) -> dict[str, Player]:
        """As everywhere, but for a multiplier, which moves steadily: it follows the model."""
        players = super().players(objective, budget)
        if "multiplier" in players:
            parameters = partition(objective)["multiplier"]
            adam = torch.optim.Adam(parameters, lr=1e-2)
            players["multiplier"] = Player(parameters, adam, lambda _: 1e-2, None)
        return players

    # looking and judging -----------------------------------------------------------------

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, LatentChain)
        drawn = model.sample(32, generator=generator(self.seed, model_device(model)))
        save_image(self.image(drawn, columns=16), folder / f"step-{step:06d}.png")
        return {}

    def image(self, samples: Tensor, *, columns: int | None = None, scale: int = 4) -> Any:
        return super().image(self.shown(samples), columns=columns, scale=scale)

    def picture(self, sample: Tensor, *, scale: int = 4) -> Any:
        return super().picture(self.shown(sample), scale=scale)

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        assert isinstance(model, LatentChain)
        request.only(self.recipe, "between")
        if request.between is None:
            return super().drawing(model, request)
        if self.network.kind == "categorical":
            raise ValueError("--interpolate is not for categorical latents: there is nothing between two classes")
        rows, between = request.n or 8, request.between

        def draw(advance: Advance) -> Tensor:
            made = interpolations(model, rows, between, generator(request.seed, model_device(model)))
            advance(rows * between)
            return made

        return Drawing(rows * between, draw, columns=between)

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, LatentChain)
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)
        return Judge(self, model, samples, track).everything()

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return [*Judge.headline(evaluation), *(("note", note) for note in self.notes())]

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation)


def model_device(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(model.parameters()).device


_TRAINING = partial(Training, batch_size=128, rate=2e-3, average=0.99, save_every=1000, log_every=50, previews=6)


class _Digits(LatentRecipe):
    data: DigitsData = DigitsData(scale="ink")

    @field_validator("data")
    @classmethod
    def _in_ink(cls, value: DigitsData) -> DigitsData:
        if value.scale != "ink":
            raise ValueError(f"data.scale must be ink for this decoder, got {value.scale}")
        return value

    def shape(self) -> tuple[int, int, int]:
        return 1, 8, 8

    def pictures(self) -> tuple[Tensor, Tensor]:
        return self.data.train()[0], self.data.test()[0]

    def real(self) -> Real:
        return self.data.real()

    def classes(self) -> tuple[Classifier, Tensor]:
        return lambda x: nn.functional.one_hot(read_digits(x, "ink"), 10).to(x), self.data.test()[1]


class DigitsVAE(_Digits):
    """The plain one."""

    summary: ClassVar[str] = "variational autoencoder of scikit-learn's handwritten digits"
    recipe: Literal["digits-vae"] = "digits-vae"
    training: Training = _TRAINING(steps=3000)


class DigitsIWAE(_Digits):
    """Ten draws a picture, their mean weight bounded, the encoder moved by the doubly reparameterized gradient."""

    summary: ClassVar[str] = "variational autoencoder of digits under the importance-weighted bound"
    recipe: Literal["digits-iwae"] = "digits-iwae"
    bound: LatentBound = LatentBound(name="iwae", samples=10, gradient="dreg")
    training: Training = _TRAINING(steps=3000)


class DigitsHVAE(_Digits):
    """Two layers."""

    summary: ClassVar[str] = "hierarchical variational autoencoder of digits, two layers"
    recipe: Literal["digits-hvae"] = "digits-hvae"
    network: LatentNetwork = LatentNetwork(latents=(16, 8), direction="ladder")
    bound: LatentBound = LatentBound(warm="linear", warm_steps=1000)
    training: Training = _TRAINING(steps=3000)


class DigitsBetaVAE(_Digits):
    """A dearer KL."""

    summary: ClassVar[str] = "variational autoencoder of digits whose KL costs twice as much"
    recipe: Literal["digits-beta-vae"] = "digits-beta-vae"
    bound: LatentBound = LatentBound(beta=2.0)
    training: Training = _TRAINING(steps=3000)


class DigitsCategorical(_Digits):
    """Classes for latents."""

    summary: ClassVar[str] = "variational autoencoder of digits with categorical latents"
    recipe: Literal["digits-categorical"] = "digits-categorical"
    network: LatentNetwork = LatentNetwork(latents=(12,), kind="categorical")
    bound: LatentBound = LatentBound(samples=8)
    training: Training = _TRAINING(steps=3000)
