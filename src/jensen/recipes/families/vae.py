"""Variational autoencoders: their networks, their bounds, and the family."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from jensen import models
from jensen.core.objective import Objective, partition
from jensen.core.settings import Settings, Width
from jensen.data.space import Space
from jensen.distributions import CategoricalPrior, Conditional, DiagonalGaussian, GaussianPrior, OneHotLogits
from jensen.nn import mlp
from jensen.objectives import Variational
from jensen.objectives.variational import cautions
from jensen.recipes.decoders import Decoder, refuse_means
from jensen.recipes.families.base import Family
from jensen.recipes.settings import NonNegative, Positive, Rate, Training, UpToMillion
from jensen.training import Budget, Player, warm_then_decay
from jensen.variational import Constraint, Relaxation, annealed, cooling, cyclical, linear, posterior_table
from jensen.variational.bounds import beta, elbo, free_bits, iwae
from jensen.variational.relaxed import KINDS

MULTIPLIER_RATE, POSTERIOR_RATE = 1e-2, 5e-2
FIT_STEPS, FIT_DRAWS = 300, 128  # of the optimization of q for held-out data, where there is no encoder


class Network(Decoder):
    """The latents of each layer and the networks between the layers."""

    latents: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (16,)
    """number of latents of each layer, from the layer next to the data upwards"""
    latent: Literal["gaussian", "categorical"] = "gaussian"
    """distribution of the latents"""
    classes: Annotated[int, Field(ge=2, le=65_536)] = 10
    """number of classes of each categorical latent"""
    direction: Literal["bottom-up", "ladder"] = "bottom-up"
    """direction of inference when there are several layers"""

    @model_validator(mode="after")
    def _fitting(self) -> Network:
        if self.latent == "categorical" and len(self.latents) > 1:
            raise ValueError(f"network.latents must have one layer for categorical latents, got {list(self.latents)}")
        if self.latent == "gaussian":
            self.refuse_idle("by Gaussian latents", "classes", prefix="network.")
        if self.direction == "ladder" and len(self.latents) == 1:
            raise ValueError("network.direction ladder needs at least two layers in network.latents")
        return self

    @property
    def one_hot(self) -> bool:
        return self.latent == "categorical"

    @property
    def first(self) -> int:
        """Size of one draw of the layer next to the data."""
        return self.latents[0] * (self.classes if self.one_hot else 1)

    def between(self) -> tuple[str, ...]:
        return super().between() if len(self.latents) == 1 else ()

    def decoders(self, space: Space) -> list[nn.Module]:
        """The distributions p(x | z_1), p(z_1 | z_2), ..."""
        above = [gaussian(b, self.inside, a) for a, b in zip(self.latents, self.latents[1:], strict=False)]
        return [self.of_x(space, self.first, self.one_hot), *above]

    def model(self, space: Space, prior: nn.Module) -> models.LatentChain:
        """The model, with an encoder."""
        decoders, inside = self.decoders(space), self.inside
        if self.one_hot:
            law = OneHotLogits(self.latents[0], self.classes)
            return models.VAE(Conditional(self.encoder(space, *inside, self.first), law), decoders[0], prior)
        if self.direction == "ladder":
            hidden = inside[-1]
            ups: list[nn.Module] = [self.encoder(space, *inside).append(nn.SiLU())]
            ups += [nn.Sequential(mlp(hidden, *inside), nn.SiLU()) for _ in self.latents[1:]]
            return models.LadderVAE(ups, [gaussian(hidden, [], n) for n in self.latents], decoders, prior)
        body = self.encoder(space, *inside, 2 * self.first)
        encoders: list[nn.Module] = [Conditional(body, DiagonalGaussian())]
        encoders += [gaussian(a, inside, b) for a, b in zip(self.latents, self.latents[1:], strict=False)]
        if len(encoders) == 1:
            return models.VAE(encoders[0], decoders[0], prior)
        return models.HVAE(encoders, decoders, prior)


def gaussian(given: int, inside: list[int], latents: int) -> Conditional:
    """A diagonal Gaussian given a vector."""
    return Conditional(mlp(given, *inside, 2 * latents), DiagonalGaussian())


class Bound(Settings):
    """The bound that is maximised, and its gradient estimator; beta, free bits and warm-up can be combined."""

    name: Literal["elbo", "iwae"] = "elbo"
    """elbo: evidence lower bound; iwae: importance-weighted bound"""
    samples: UpToMillion = 1
    """number of draws of z for each x"""
    gradient: Literal["standard", "score", "stl", "dreg"] = "standard"
    """standard: reparameterized if possible; score: score function; stl: sticking the landing; dreg: doubly
    reparameterized"""
    beta: NonNegative = 1.0
    """weight of the KL"""
    free_bits: NonNegative = 0.0
    """free bits: nats of KL without cost, for the mean over the batch"""
    free_bits_per: Literal["layer", "dimension"] = "layer"
    """whether bound.free_bits applies per layer or per dimension"""
    kl_limit: Rate | None = None
    """upper limit of the KL in nats, kept by a Lagrange multiplier instead of beta; null: no limit"""
    warm: Literal["none", "linear", "cyclical"] = "none"
    """schedule by which the weight of the KL rises to beta"""
    warm_steps: Positive = 1000
    """steps over which the weight of the KL rises"""
    relaxation: Literal["none", "concrete", "gumbel-softmax", "straight-through"] = "none"
    """relaxation of categorical latents in training"""
    temperature: Rate = 1.0
    """temperature of the relaxation at the start"""
    coldest: Rate = 0.5
    """final temperature, from bound.cooling_steps on"""
    cooling_steps: Positive = 1000
    """steps over which the temperature falls"""

    @model_validator(mode="after")
    def _one_way(self) -> Bound:
        weighed = self._changed("beta", "free_bits", "warm")
        alone = ["bound.name iwae"] * (self.name == "iwae") + self._changed("kl_limit")
        if alone and len(alone + weighed) > 1:
            raise ValueError(f"{alone[0]} cannot be combined with {(alone + weighed)[1]}: choose one of them")
        for needed, idle in (
            ("free_bits", ("free_bits_per",)),
            ("warm", ("warm_steps",)),
            ("relaxation", ("temperature", "coldest", "cooling_steps")),
        ):
            if not self._changed(needed):
                self.refuse_idle(f"without bound.{needed}", *idle, prefix="bound.")
        if self.gradient == "dreg" and self.name != "iwae":
            raise ValueError("bound.gradient dreg needs bound.name iwae")
        if self.gradient == "stl" and self.free_bits > 0:
            raise ValueError("bound.gradient stl is biased under bound.free_bits: choose another gradient")
        if self.coldest > self.temperature:
            raise ValueError(f"bound.coldest must be at most bound.temperature, {self.temperature}, got {self.coldest}")
        if self.relaxation != "none" and self.gradient == "score":
            raise ValueError("bound.gradient must be standard with a bound.relaxation, whose draws are reparameterized")
        if self.relaxation not in ("none", "concrete") and (self.name == "iwae" or self.gradient != "standard"):
            raise ValueError(f"bound.relaxation {self.relaxation} needs bound.name elbo and bound.gradient standard")
        return self

    def _changed(self, *names: str) -> list[str]:
        """Names of the settings that are not at their defaults."""
        fields = type(self).model_fields
        return [f"bound.{name}" for name in names if getattr(self, name) != fields[name].default]

    def function(self) -> Any:
        """The bound, as a function of a trace, or of a trace and the step."""
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

    def relaxed(self) -> Relaxation | None:
        """The relaxation of categorical latents in training, or None."""
        if self.relaxation == "none":
            return None
        return Relaxation(cooling(self.temperature, self.coldest, self.cooling_steps), self.relaxation)

    def objective(self, model: nn.Module, tables: list[nn.Module]) -> Variational:
        """The training objective of a model; `tables` hold the posteriors of the training examples."""
        plain = self.name == "elbo" and self.gradient in ("standard", "score") and self.relaxation == "none"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `notes` says it
            return Variational(
                model,
                self.function(),
                samples=self.samples,
                gradient=self.gradient,
                analytic=plain,
                relaxation=self.relaxed(),
                tables=tables,
            )

    def notes(self) -> list[str]:
        """Warnings about this bound and its gradient, one sentence each."""
        found = cautions(self.name == "iwae", self.samples, self.gradient, baseline=False)
        if self.relaxation != "none":
            found.append(f"{self.relaxation} raises {KINDS[self.relaxation]}")
        return found


class VAE(Family):
    """A variational autoencoder: a decoder, a prior, and an encoder or separate posteriors of the training examples."""

    judged = frozenset({"importance", "importance_rows", "refine_rows", "refine_steps"})
    changes = ("mean",)

    network: Network = Network()
    bound: Bound = Bound()
    prior: Literal["standard", "learned"] = "standard"
    """prior of the top layer; standard: N(0, I); learned: N(mu, sigma^2 I)"""
    inference: Literal["amortized", "per-datum"] = "amortized"
    """parameters of q(z | x); amortized: from an encoder; per-datum: learned for each training example"""

    @model_validator(mode="after")
    def _trainable(self) -> VAE:
        network, bound = self.network, self.bound
        if network.one_hot and bound.relaxation == "none":
            if bound.gradient in ("stl", "dreg"):
                needed = "Gaussian latents, or bound.relaxation concrete"
                raise ValueError(f"bound.gradient {bound.gradient} needs {needed}")
            if bound.samples < 2:
                raise ValueError(
                    "bound.samples must be at least 2 for categorical latents without a bound.relaxation, since their "
                    f"baseline leaves one sample out, got {bound.samples}"
                )
        if network.one_hot and self.prior == "learned":
            raise ValueError("prior must be standard for categorical latents, whose prior is uniform, got learned")
        if not network.one_hot and bound.relaxation != "none":
            raise ValueError("bound.relaxation needs categorical latents: set network.latent=categorical")
        if bound.gradient == "dreg" and network.direction == "ladder":
            raise ValueError("bound.gradient dreg needs network.direction bottom-up, got ladder")
        if self.inference == "per-datum" and network.one_hot:
            raise ValueError("inference per-datum needs network.latent gaussian, got categorical")
        if self.inference == "per-datum" and network.direction == "ladder":
            raise ValueError("network.direction is not used with inference per-datum, which has no encoder")
        return self

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        self.network.refuse(space)

    def model(self, space: Space) -> models.LatentChain:
        network, learned = self.network, self.prior == "learned"
        prior: nn.Module = GaussianPrior(network.latents[-1], learned=learned)
        if network.one_hot:
            prior = CategoricalPrior(network.latents[0], network.classes)
        if self.inference == "per-datum":
            return models.AutoDecoder(network.decoders(space), prior, steps=FIT_STEPS, samples=FIT_DRAWS)
        return network.model(space, prior)

    def objective(self, model: nn.Module, space: Space) -> Objective:
        own = self.inference == "per-datum"
        tables: list[nn.Module] = [posterior_table(space.rows, n) for n in self.network.latents] if own else []
        return self.bound.objective(model, tables)

    def players(self, objective: Objective, training: Training, budget: Budget) -> dict[str, Player]:
        """AdamW, except for a multiplier (Adam, constant learning rate) and tables (optimizer for sparse gradients)."""
        players, owned = training.players(objective, budget), partition(objective)
        if weights := owned.get("multiplier"):
            rate = training.rates.get("multiplier", MULTIPLIER_RATE)
            players["multiplier"] = Player(weights, torch.optim.Adam(weights, lr=rate), lambda _: rate)
        if weights := owned.get("posterior"):
            peak = training.rates.get("posterior", POSTERIOR_RATE)
            schedule = warm_then_decay(peak, budget, warmup=training.warmup, decay=training.decay)
            sparse = torch.optim.SparseAdam(weights, lr=peak)
            players["posterior"] = Player(weights, sparse, schedule, training.clip)
        return players

    def notes(self, space: Space) -> list[str]:
        return [*self.network.notes(space, self.model), *self.bound.notes()]

    @property
    def held_out_loss(self) -> bool:
        return self.inference == "amortized"

    def curves(self) -> Mapping[str, str]:
        layers = len(self.network.latents)
        kl = {f"kl_{k}": f"term of layer {k}" for k in range(1, layers + 1)} if layers > 1 else {"kl": "KL"}
        terms = {
            "elbo": "evidence lower bound, nats",
            "relaxed_elbo": "evidence lower bound of the relaxed model, nats",
            "no_bound": "log p(x | z) minus the categorical KL, at relaxed draws, nats",
            **{name: f"{words}, nats" for name, words in kl.items()},
            "temperature": "temperature",
        }
        # with other players in the game, the model's terms have its name as a prefix
        every = {f"{prefix}{key}": title for prefix in ("", "model/") for key, title in terms.items()}
        return {**every, "multiplier/multiplier": "weight of the KL"}

    def refuse_request(self, model: Any, space: Space, changes: Any, *, interpolating: bool = False, **_: Any) -> None:
        refuse_means(changes, interpolating)
        if interpolating and self.network.one_hot:
            raise ValueError("--interpolate needs Gaussian latents: there are no points between two classes")
