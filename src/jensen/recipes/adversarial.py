"""Generators against critics: the settings of the game, which every GAN recipe shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from jensen.adversarial import (
    GAME_LOSSES,
    TRANSFORMS,
    AdaptiveAugment,
    MarginGame,
    MarginLoss,
    annealed,
    augment,
    dragan,
    gradient_penalty,
    logistic,
    r1,
    r2,
)
from jensen.core.objective import Objective
from jensen.core.seeding import generators
from jensen.core.types import Phase
from jensen.data.pool import pool_stream
from jensen.models.gan import CHUNK, GAN
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, Penalty, alternating
from jensen.recipes.adversarial_judging import Judge, logits, write_report
from jensen.recipes.base import (
    Advance,
    Critic,
    Drawing,
    Positive,
    Real,
    Recipe,
    Request,
    Setting,
    Settings,
    Track,
    players_with,
    silent,
)
from jensen.recipes.data import described
from jensen.recipes.folder import load_game, save_image
from jensen.report import plots
from jensen.report.page import Card, Section
from jensen.training import Budget, Player, Update, consensus, descend, extragradient, optimistic
from jensen.training.distributed import processes

NonNegative = Annotated[float, Field(ge=0)]
ROWS_SEEN = 1000  # of points in a preview


class Game(Settings):
    """What the two players descend, in which order and by which rule; each remedy is off at 0, 1 or "none"."""

    loss: Literal[
        "saturating", "non-saturating", "least-squares", "hinge", "exponential", "relativistic", "wasserstein"
    ] = "non-saturating"
    order: Literal["alternating", "simultaneous"] = "alternating"
    critic_steps: Positive = 1  # for each of the generator's
    update: Literal["descend", "extragradient", "optimistic", "consensus"] = "descend"
    consensus: NonNegative = 0.1  # gamma of that rule
    packing: Positive = 1
    penalty: Literal["none", "r1", "r2", "r1+r2", "wgan-gp", "dragan"] = "none"
    penalty_weight: NonNegative = 1.0
    noise: NonNegative = 0.0  # instance noise at the first step
    noise_steps: Positive = 2000  # after which it is 0
    augmentation: Literal["none", "fixed", "adaptive"] = "none"
    augmentation_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of pictures, where fixed
    clip: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Game:
        if self.order == "simultaneous" and self.critic_steps > 1:
            raise ValueError(f"simultaneous players move once each, got critic_steps {self.critic_steps}")
        if self.update != "descend" and self.order != "simultaneous":
            raise ValueError(f"{self.update} moves all players at once: set order to simultaneous")
        return self

    def phases(self) -> tuple[Phase, ...]:
        return SIMULTANEOUS if self.order == "simultaneous" else alternating(self.critic_steps)

    def rule(self) -> Update:
        rules: dict[str, Update] = {"descend": descend, "extragradient": extragradient, "optimistic": optimistic}
        return rules[self.update] if self.update in rules else consensus(self.consensus)

    def margin(self) -> MarginLoss:
        """What a fresh critic measures by: the loss's own, or the logistic one where there is none."""
        game = GAME_LOSSES[self.loss]
        return game.loss if isinstance(game, MarginGame) else logistic

    def penalised(self) -> Penalty | None:
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
        if self.augmentation == "none":
            return None
        if self.augmentation == "adaptive":
            return AdaptiveAugment(TRANSFORMS, ramp=50_000)
        return partial(augment, transforms=TRANSFORMS, probability=self.augmentation_share)

    def on(self, model: GAN, critic: nn.Module) -> Adversarial:
        """The game of these two."""
        return Adversarial(
            model,
            critic,
            loss=self.loss,
            phases=self.phases(),
            penalty=self.penalised(),
            packing=self.packing,
            noise=annealed(self.noise, self.noise_steps) if self.noise else None,
            augmentation=self.augmented(),
            clip=self.clip,
        )


class Rates(Settings):
    """Adam's learning rates and momenta, a rate for each player."""

    generator: Annotated[float, Field(gt=0)] = 1e-3
    critic: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)


class GANJudging(Settings):
    """How a generator is judged."""

    samples: Annotated[int, Field(ge=16)] = 2000
    critic_steps: Positive = 1500  # of a fresh critic, from nothing
    critic_batch: Positive = 256
    critic_rate: Annotated[float, Field(gt=0)] = 1e-3
    transport: Annotated[int, Field(ge=2)] = 1000  # rows between which mass is moved, exactly


class GANRecipe(Recipe):
    """A generator, its critic, the game they play, and how it is judged; see `adversarial_judging` for the hooks."""

    game: Game = Game()
    rates: Rates = Rates()
    judging: GANJudging = GANJudging()

    @model_validator(mode="after")
    def _playable(self) -> GANRecipe:
        self.training.without_rate("rates.generator and rates.critic")
        if self.training.batch_size % self.game.packing:
            raise ValueError(
                f"training.batch_size must be a multiple of game.packing, "
                f"got {self.training.batch_size} and {self.game.packing}"
            )
        if self.game.augmentation != "none" and self.what == "points":
            raise ValueError(f"game.augmentation is of pictures, and {self.recipe} draws points: set it to none")
        return self

    @abstractmethod
    def critic(self) -> nn.Module:
        """Untrained; from packs of what the critic sees to logits."""

    def fresh_critic(self) -> nn.Module:
        """Another, of single examples, to judge with; asked of a recipe without packing."""
        return self.critic()

    @abstractmethod
    def training_data(self) -> Tensor:
        """Of the scale that the model draws."""

    @abstractmethod
    def test_data(self) -> Tensor:
        """The same, never trained on."""

    # building and training ---------------------------------------------------------------

    def check(self) -> None:
        super().check()
        if self.training.rows() % self.game.packing:
            raise ValueError(
                f"game.packing must divide the rows of each process, got {self.game.packing} and "
                f"{self.training.rows()} rows in each of {processes()} processes"
            )
        if self.game.packing > 1 and (rows := len(self.test_data())) < 2 * self.game.packing:
            raise ValueError(f"game.packing {self.game.packing} leaves fewer than 2 packs of the {rows} test data")

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, GAN)
        stream = pool_stream(self.training.batch_size, self.seed, x=self.training_data())
        return Setting(self.game.on(model, self.critic()), stream, {})

    def update(self) -> Update:
        return self.game.rule()

    def players(self, objective: Objective, budget: Budget) -> dict[str, Player]:
        rates = {"generator": self.rates.generator, "critic": self.rates.critic}
        return players_with(rates, self.rates.betas, self.training, objective, budget)

    # looking -----------------------------------------------------------------------------

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, GAN)
        made = self.draw(model, ROWS_SEEN if self.what == "points" else 32, self.seed)
        save_image(self.look(made, columns=16), folder / f"step-{step:06d}.png")
        return {}

    def look(self, samples: Tensor, *, columns: int | None = None, scale: int = 4) -> Image.Image:
        """Samples as the report shows them: points on the data, pictures on a sheet."""
        if self.what == "points":
            return plots.points(samples, behind=self.test_data(), scale=scale)
        return self.image(samples, columns=columns, scale=scale)

    def draw(self, model: GAN, n: int, seed: int, advance: Advance | None = None) -> Tensor:
        """N samples; number i is a function of (model, seed, i) alone."""
        rng, made = generators(seed, range(n)), []
        for start in range(0, n, CHUNK):
            rows = rng[start : start + CHUNK]
            made.append(model.sample(len(rows), generator=rows))
            if advance is not None:
                advance(len(rows))
        return torch.cat(made)

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        assert isinstance(model, GAN)
        request.only(self.recipe, "between")
        if request.between is not None:
            return self._between(model, request, request.between)
        count = request.n or (ROWS_SEEN if self.what == "points" else 16)
        return Drawing(count, lambda advance: self.draw(model, count, request.seed, advance))

    def _between(self, model: GAN, request: Request, between: int) -> Drawing:
        """Rows of samples, each from one noise to another."""
        if between < 2:
            raise ValueError(f"--interpolate must be at least 2, got {between}")
        rows = request.n or 8

        def draw(advance: Advance) -> Tensor:
            made = []
            for row in range(rows):
                first, second = generators(request.seed, [(row, "from"), (row, "to")])
                made.append(model.interpolate(first, second, between))
                advance(between)
            return torch.cat(made)

        return Drawing(rows * between, draw, columns=between)

    # judging -----------------------------------------------------------------------------

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, GAN)
        (folder / "samples").mkdir(exist_ok=True)
        return Judge(self, model, folder, track).everything()

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return Judge.headline(self, evaluation)

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation)

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        """What only this family measures of samples, as JSON values; pictures go below `samples`."""
        return {}

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows to print of what `judged` gave."""
        return []

    def own_cards(self, own: dict[str, Any]) -> list[Card]:
        """Cards of it, which come first on the page."""
        return []

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        """Sections of it, after the samples."""
        return []

    data: Settings

    def real(self) -> Real:
        return Real(described(self.data), self.training_data(), self.test_data())

    def trained_critic(self, folder: Path) -> Critic:
        critic, packing = self.trained(folder).critic, self.game.packing
        return lambda x: logits(critic, x, packing).detach()

    def trained(self, folder: Path) -> Adversarial:
        """The game as training left it: the critic, and the generator without averaging.

        Raises:
            RunError: if the run has no checkpoint, or one of another game.
        """
        model = self.model()
        objective = self.setting(model).objective
        assert isinstance(objective, Adversarial)
        load_game(objective, folder)
        return objective.eval().requires_grad_(False)
