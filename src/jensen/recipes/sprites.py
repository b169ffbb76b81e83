"""Variational autoencoders of pictures whose factors are known, and whether their latents stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from jensen.core.seeding import drawing, generator
from jensen.data.sprites import FACTORS, sprites
from jensen.metrics.disentangle import dci, factor_vae_score, mig
from jensen.models import LatentChain
from jensen.recipes.base import Positive, Settings, Track, Training, silent
from jensen.recipes.latent import LatentBound, LatentJudging, LatentNetwork, LatentRecipe, model_device
from jensen.recipes.latent_judging import write_report
from jensen.report import plots
from jensen.report.page import Section, Table

BINS = 20
"""Of a code, in the mutual information; a factor of more levels could not reach 1."""

Levels = Annotated[int, Field(ge=2, le=BINS)]


class SpritesData(Settings):
    """Every combination of the factors once, in {0, 1}: ink where a pixel is covered by half or more."""

    size: Positive = 20  # pixels a side
    scales: Levels = 3
    orientations: Levels = 4
    positions: Levels = 8  # of x and of y
    test: Annotated[int, Field(ge=2)] = 300  # pictures kept back, the same for every seed

    @model_validator(mode="after")
    def _room(self) -> SpritesData:
        if self.size < self.positions + 5:
            raise ValueError(f"size must be at least positions + 5, {self.positions + 5}, got {self.size}")
        count = 3 * self.scales * self.orientations * self.positions**2
        if self.test >= count:
            raise ValueError(f"test keeps {self.test} pictures, and there are only {count}")
        return self

    def grid(self) -> tuple[Tensor, Tensor]:
        """All pictures (N, 1, size, size), and the factors (N, 5) they were drawn from."""
        return _grid(self.size, self.scales, self.orientations, self.positions)

    def divided(self) -> tuple[Tensor, Tensor]:
        """Pictures to train on and to judge with."""
        pictures, _ = self.grid()
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
        return pictures[order[self.test :]], pictures[order[: self.test]]


@cache
def _grid(size: int, scales: int, orientations: int, positions: int) -> tuple[Tensor, Tensor]:
    covered, factors = sprites(size, scales=scales, orientations=orientations, positions=positions)
    return (covered >= 0.5).float(), factors


class _Sprites(LatentRecipe):
    """Judged on top by how well each latent stands for one factor."""

    data: SpritesData = SpritesData()
    network: LatentNetwork = LatentNetwork(latents=(10,))
    judging: LatentJudging = LatentJudging(samples=1000, rows=200, refine_rows=60)

    @model_validator(mode="after")
    def _comparable(self) -> _Sprites:
        if self.network.latents[-1] < 2:
            raise ValueError(f"network.latents must end in 2 or more to be compared, got {list(self.network.latents)}")
        return self

    def shape(self) -> tuple[int, int, int]:
        return 1, self.data.size, self.data.size

    def pictures(self) -> tuple[Tensor, Tensor]:
        return self.data.divided()

    @torch.no_grad()
    def codes(self, model: LatentChain) -> Tensor:
        """Posterior means of the top layer for every picture of the grid, (N, D), on the CPU."""
        rng = generator(self.seed, model_device(model))
        pictures, _ = self.data.grid()
        with drawing(rng):  # the top layer of several is told from a draw of the one below
            layers = [model.infer(x.to(model_device(model)), samples=1)[-1] for x in pictures.split(512)]
        means = [layer.q.mean.expand(layer.z.shape)[0].flatten(1) for layer in layers]
        return torch.cat(means).cpu()

    def disentanglement(self, model: LatentChain, track: Track = silent) -> dict[str, Any]:
        """MIG, DCI and the FactorVAE score of the posterior means over the whole grid: JSON values."""
        advance = track("asking the latents for the factors", 3)
        codes, (_, factors) = self.codes(model), self.data.grid()
        gaps = mig(codes, factors, BINS)
        advance(1)
        probes = dci(codes, factors, generator=generator(self.seed))
        advance(1)
        votes = factor_vae_score(codes, factors, generator=generator(self.seed))
        advance(1)
        return {
            "rows": len(codes),
            "mig": gaps.value,
            "dci": {
                "disentanglement": probes.disentanglement,
                "completeness": probes.completeness,
                "informativeness": probes.informativeness,
            },
            "factor_vae": asdict(votes),
            "factors": [
                {
                    "name": name,
                    "levels": int(factors[:, j].max()) + 1,
                    "gap": float(gaps.gaps[j]),
                    "told": float(probes.scores[j]),
                    "shares": (gaps.information[:, j] / gaps.entropy[j]).tolist(),
                }
                for j, name in enumerate(FACTORS)
            ],
        }

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, LatentChain)
        found = super().evaluate(model, folder, track, references)
        return found | {"disentanglement": self.disentanglement(model, track)}

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return super().headline(evaluation) + [
            (name, f"{value}{f', {note}' if note else ''}") for name, value, note in _scores(evaluation)
        ]

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation, [_section(evaluation)])


def _scores(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and what it is measured on."""
    found = evaluation["disentanglement"]
    parts, votes = found["dci"], found["factor_vae"]
    return [
        ("mutual information gap (MIG)", f"{found['mig']:.3f}", f"{found['rows']} pictures, {BINS} bins a latent"),
        ("DCI disentanglement", f"{parts['disentanglement']:.3f}", ""),
        ("DCI completeness", f"{parts['completeness']:.3f}", ""),
        ("DCI informativeness", f"{parts['informativeness']:.3f}", "the share of levels that boosted trees tell right"),
        ("FactorVAE score", f"{votes['value']:.3f}", f"[{votes['low']:.3f}, {votes['high']:.3f}], {votes['n']} votes"),
    ]


_MEANING = (
    "Posterior means of the top layer against the factors that the pictures were drawn from, over the whole grid of "
    "factors. Each score is 1 where every factor has one latent and every latent one factor. The plots show each "
    "coordinate's mutual information with a factor as a share of the factor's entropy; a factor's gap is the "
    "largest less the second."
)


def _section(evaluation: dict[str, Any]) -> Section:
    """Scores, and which latents know which factor."""
    factors = evaluation["disentanglement"]["factors"]
    rows = [(name, value, note) for name, value, note in _scores(evaluation)]
    for factor in factors:
        best = max(range(len(factor["shares"])), key=factor["shares"].__getitem__)
        share, told = factor["shares"][best], factor["told"]
        words = f"coordinate {best + 1} knows {share:.2f} of it; told right {told:.2f} of the time, by chance "
        rows.append((f"gap of {factor['name']}", f"{factor['gap']:.3f}", f"{words}{1 / factor['levels']:.2f}"))
    drawn = [
        plots.bars(
            [str(d + 1) for d in range(len(factor["shares"]))],
            factor["shares"],
            title=f"what each coordinate knows of the {_PLAIN.get(factor['name'], factor['name'])}",
            xlabel="share of its entropy",
        )
        for factor in factors
    ]
    return Section("Which latent stands for what", _MEANING, plots=drawn, table=Table(("", "score", ""), rows))


_PLAIN = {"x": "place from left to right", "y": "place from top to bottom"}


_TRAINING = partial(Training, batch_size=128, rate=2e-3, average=0.99, save_every=1000, log_every=50, previews=6)


class SpritesVAE(_Sprites):
    """The plain one."""

    summary: ClassVar[str] = "variational autoencoder of drawn shapes whose factors are known"
    recipe: Literal["sprites-vae"] = "sprites-vae"
    training: Training = _TRAINING(steps=4000)


class SpritesBetaVAE(_Sprites):
    """A dearer KL."""

    summary: ClassVar[str] = "variational autoencoder of drawn shapes whose KL costs four times as much"
    recipe: Literal["sprites-beta-vae"] = "sprites-beta-vae"
    bound: LatentBound = LatentBound(beta=4.0)
    training: Training = _TRAINING(steps=4000)
