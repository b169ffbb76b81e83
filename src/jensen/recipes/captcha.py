"""`captcha`: a text-conditional diffusion model that draws CAPTCHA pictures for a given string."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from jensen.data.captcha import random_text
from jensen.data.pictures import sheet
from jensen.data.pool import from_bytes, pool_stream
from jensen.diffusion import SCHEDULES, NetworkDenoiser, logit_normal_times, simple
from jensen.models import Diffusion, Sampling
from jensen.nn import Reader, UNet
from jensen.objectives import Denoising
from jensen.recipes.base import Drawing, Positive, Recipe, Request, Setting, Settings, Training, silent
from jensen.recipes.captcha_data import GENERATOR, CaptchaData, Track, draw_tensors
from jensen.recipes.captcha_drawing import draw_request, draw_texts
from jensen.recipes.captcha_judging import Judge
from jensen.recipes.captcha_reader import open_reader, read_texts, shipped_reader
from jensen.recipes.captcha_report import write_report
from jensen.recipes.ends import check_start
from jensen.recipes.folder import command, save_image


class CaptchaNetwork(Settings):
    """The U-Net and the view of the prediction that it learns."""

    widths: Annotated[tuple[int, ...], Field(min_length=1, max_length=4)] = (96, 192)
    blocks: Positive = 2
    patch: Literal[2, 4] = 4
    schedule: Literal["rectified", "cosine", "linear", "variance-preserving"] = "rectified"
    output: Literal["flow", "v", "eps", "x", "edm"] = "flow"
    loss: Literal["flow", "v", "eps", "x"] = "flow"
    time_mean: float = 0.5
    time_std: Annotated[float, Field(gt=0)] = 1.0
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.1


class CaptchaSampling(Settings):
    """How pictures are drawn; `jensen sample` can override sampler, steps and guidance."""

    sampler: str = "ancestral"
    steps: Positive = 16
    guidance: Annotated[float, Field(ge=0)] = 4.0
    shift: Annotated[float, Field(gt=0)] = 3.0
    start: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip: bool = True
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    @model_validator(mode="after")
    def _in_range(self) -> CaptchaSampling:
        self.settings()
        return self

    def settings(self) -> Sampling:
        return Sampling(**self.model_dump())


class CaptchaJudging(Settings):
    """How the evaluation is done: how many pictures, and which other guidance scales to compare."""

    pictures: Annotated[int, Field(ge=16)] = 1000
    classical: Annotated[int, Field(ge=16)] = 2000
    unconditional: Annotated[int, Field(ge=16)] = 400
    scales: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 2.0, 6.0)
    scale_texts: Annotated[int, Field(ge=4)] = 32
    scale_pictures: Annotated[int, Field(ge=2)] = 8
    reader: str = "shipped"  # or the folder of a captcha-reader run

    @field_validator("reader")
    @classmethod
    def _from_anywhere(cls, value: str) -> str:
        return value if value == "shipped" else str(Path(value).absolute())


class Captcha(Recipe):
    """Draws, trains, samples and reads back."""

    summary: ClassVar[str] = "text-conditional diffusion that draws CAPTCHA pictures"
    recipe: Literal["captcha"] = "captcha"
    data: CaptchaData = CaptchaData()
    network: CaptchaNetwork = CaptchaNetwork()
    training: Training = Training(minutes=5, precision="bfloat16", previews=8)
    sampling: CaptchaSampling = CaptchaSampling()
    judging: CaptchaJudging = CaptchaJudging()

    @model_validator(mode="after")
    def _buildable(self) -> Captcha:
        factor = self.network.patch * 2 ** (len(self.network.widths) - 1)
        if self.data.height % factor or self.data.width % factor:
            raise ValueError(
                f"data.height and data.width must be multiples of {factor} for this network, "
                f"got {self.data.height} and {self.data.width}"
            )
        network = self.network
        check_start(network.output, network.schedule, SCHEDULES[network.schedule](), self.sampling.start)
        if any(w < 8 or w % 8 for w in self.network.widths):
            raise ValueError(f"network.widths must be multiples of 8, got {self.network.widths}")
        return self

    # building and training ---------------------------------------------------------------

    def check(self) -> None:
        super().check()
        self.reader()

    def model(self) -> Diffusion:
        data, network = self.data, self.network
        channels, size = 3 if data.colour else 1, (data.height, data.width)
        net = UNet(
            channels,
            size,
            alphabet=len(data.alphabet),
            length=data.length,
            widths=network.widths,
            blocks=network.blocks,
            patch=network.patch,
        )
        denoiser = NetworkDenoiser(
            net.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            SCHEDULES[network.schedule](),
            output=network.output,
            null=torch.full((data.length,), len(data.alphabet)),
        )
        return Diffusion(denoiser, (channels, *size), self.sampling.settings())

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, Diffusion)
        pictures, texts = self.training_pictures(track)
        sample = from_bytes(pictures[:5000])
        model.centre.copy_(sample.mean())
        model.scale.copy_(sample.std())
        objective = Denoising(
            model,
            loss=partial(simple, view=self.network.loss),
            times=logit_normal_times(self.network.time_mean, self.network.time_std),
            drop=self.network.drop,
        )
        stream = pool_stream(self.training.batch_size, self.seed, x=pictures, cond=texts)
        return Setting(objective, stream, {"pictures": pictures, "texts": texts})

    def training_pictures(self, track: Track = silent) -> tuple[Tensor, Tensor]:
        """The classical pictures that the generator is trained on."""
        return draw_tensors(
            self.data.style(), self.data.pictures, self.seed, GENERATOR, track, name="drawing for training"
        )

    # drawing on demand -------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts as conditions, (N, length); a ValueError says which text does not suit and why."""
        return torch.from_numpy(self.data.style().encode(texts))

    def judged_texts(self, n: int) -> list[str]:
        """N random texts of the side that is never trained on, without repeats while there are enough."""
        rng = random.Random(f"judged/{self.seed}")
        distinct = list(dict.fromkeys(random_text(rng, self.data.style(), "test") for _ in range(20 * n)))
        return [distinct[i % len(distinct)] for i in range(n)]

    def reader(self) -> Reader | None:
        """The reader that judges, or None if there is none for pictures of this style."""
        if self.judging.reader == "shipped":
            return shipped_reader() if self.data.style() == CaptchaData().style() else None
        recipe, reader = open_reader(Path(self.judging.reader))
        if recipe.data.style() != self.data.style():
            raise ValueError("judging.reader must be a run trained on pictures of the same style as data")
        return reader

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        assert isinstance(model, Diffusion)
        request.only(self.recipe, "texts", "changes", "between")
        for text in request.texts:
            self.data.style().check(text)
        model.sampling.changed(**request.changes)  # refuses what is out of range
        return draw_request(self, model, request)

    def example(self, folder: Path) -> str:
        return command("sample", folder, "--text", *self.judged_texts(2), "--seed", 5, "--out", "x.png")

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, Diffusion)
        texts = self.judged_texts(64)
        pictures = draw_texts(self, model, texts, seed=self.seed)
        reader = self.reader()
        read = None if reader is None else read_texts(reader, pictures)[0]
        wrong = None if read is None else (read != self.encode(texts)).any(1).tolist()
        save_image(sheet(pictures[:12], 6, captions=texts[:12], wrong=wrong), folder / f"step-{step:06d}.png")
        return {} if wrong is None else {"legibility": 1 - sum(wrong) / len(wrong)}

    # judging -----------------------------------------------------------------------------

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        track: Track = silent,
        references: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        assert isinstance(model, Diffusion)
        training = references["pictures"] if references else self.training_pictures(track)[0]
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)
        return Judge(self, model, self.reader(), samples, track).everything(training)

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        rows = []
        for name, key in (
            ("whole strings read as asked", "generated"),
            ("the reader on classical pictures (ceiling)", "ceiling"),
            ("against shuffled texts (floor)", "shuffled"),
        ):
            if "legibility" in evaluation:
                rows.append((name, _percent(evaluation["legibility"][key]["exact"])))
        if "legibility" in evaluation:
            rows.insert(1, ("single characters", _percent(evaluation["legibility"]["generated"]["character"])))
        else:
            rows.append(("legibility", "no reader for this style: train one (captcha-reader), set judging.reader"))
        near = evaluation["memorisation"]
        rows.append(
            (
                "nearest training picture, drawn / fresh classical",
                f"{near['generated_median']:.3f} / {near['fresh_median']:.3f} (medians; a copy has 0)",
            )
        )
        free = evaluation["unconditional"]
        if "valid" in free:
            rows.append(("drawn without a text: read for sure", _percent(free["valid"])))
            rows.append(("of these, distinct", f"{100 * free['distinct']:.0f}%"))
        trip = evaluation["round_trip"]
        errors = ", ".join(f"{e:.4f} in {n}" for n, e in zip(trip["steps"], trip["error"], strict=True))
        rows.append(("encoded and decoded, error a pixel in [-1, 1]", errors))
        variety = f"{self._variety(evaluation):.2f} / {free['variety']:.2f} of classical pictures'"
        rows.append(("variety, with a text / without", variety))
        return rows

    def _variety(self, evaluation: dict[str, Any]) -> float:
        """Variety at the recipe's own guidance, as a share of classical pictures'."""
        (found,) = (row["variety"] for row in evaluation["guidance"] if row["scale"] == self.sampling.guidance)
        return float(found)

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self.model_dump(mode="json"), folder, evaluation)


def _percent(p: Mapping[str, float]) -> str:
    return f"{100 * p['value']:.1f}%  [{100 * p['low']:.1f}, {100 * p['high']:.1f}]  n = {p['n']:.0f}"
