"""`captcha-reader`: a network that reads CAPTCHAs, trained on classical pictures only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ValidationError
from safetensors.torch import load as parse_weights
from torch import Tensor, nn

from jensen.data.pool import from_bytes, pool_stream
from jensen.metrics import legibility
from jensen.nn import Reader
from jensen.objectives import Reading
from jensen.recipes.base import Drawing, Positive, Recipe, Request, Setting, Training, silent
from jensen.recipes.captcha_data import CEILING, READER, CaptchaData, Track, draw_tensors
from jensen.recipes.folder import CONFIG, RunError, load_weights, read_tree, save_weights

SHIPPED = "captcha_reader.safetensors"


def new_reader(data: CaptchaData) -> Reader:
    """An untrained reader for such pictures."""
    return Reader(3 if data.colour else 1, alphabet=len(data.alphabet), length=data.length)


@cache
def shipped_reader() -> Reader:
    """The reader of default pictures that comes with the package: `jensen train captcha-reader` made it."""
    reader = new_reader(CaptchaData())
    weights = parse_weights(resources.files("jensen.recipes").joinpath(SHIPPED).read_bytes())
    reader.load_state_dict({name: _widen(value) for name, value in weights.items()})
    return reader.eval().requires_grad_(False)


def _widen(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


class CaptchaReader(Recipe):
    """Reads strings that are drawn for training, never those kept for judging."""

    summary: ClassVar[str] = "a reader of CAPTCHA pictures, trained on classical ones only"
    recipe: Literal["captcha-reader"] = "captcha-reader"
    data: CaptchaData = CaptchaData(pictures=120_000)
    training: Training = Training(
        steps=2400, batch_size=128, rate=3e-3, warmup=240, decay=0.9, average=0.99, precision="bfloat16"
    )
    pictures: Positive = 4000

    def model(self) -> nn.Module:
        return new_reader(self.data)

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        pictures, texts = draw_tensors(
            self.data.style(), self.data.pictures, self.seed, READER, track, name="drawing for training"
        )
        stream = pool_stream(self.training.batch_size, self.seed, x=pictures, cond=texts)
        return Setting(Reading(model), stream, {})

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        track: Track = silent,
        references: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        pictures, texts = draw_tensors(
            self.data.style(), self.pictures, self.seed, CEILING, track, split="test", name="drawing for judging"
        )
        assert isinstance(model, Reader)
        read, sureness = model.cpu().read(from_bytes(pictures))
        return {"legibility": {"classical": asdict(legibility(read, texts))}, "sureness": float(sureness.mean())}

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        raise ValueError(f"a run of {self.recipe} draws nothing")

    def example(self, folder: Path) -> str:
        return ""

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        found = evaluation["legibility"]["classical"]
        return [
            (f"{name} read right, of strings never trained on", f"{100 * found[key]['value']:.2f}%")
            for name, key in (("whole strings", "exact"), ("characters", "character"))
        ]


def open_reader(folder: Path) -> tuple[CaptchaReader, Reader]:
    """The recipe and the network of a captcha-reader run.

    Raises:
        RunError: if the folder is no such run, or it is broken.
    """
    tree = read_tree(folder)
    if tree.get("recipe") != "captcha-reader":
        raise RunError(f"judging.reader must be a captcha-reader run, got a {tree.get('recipe')} run")
    try:
        recipe = CaptchaReader.model_validate(tree)
    except ValidationError as error:
        raise RunError(f"{folder / CONFIG} is broken: {error.errors()[0]['msg']}") from error
    reader = new_reader(recipe.data)
    load_weights(reader, folder)
    return recipe, reader.eval().requires_grad_(False)


def read_texts(reader: Reader, x: Tensor) -> tuple[Tensor, Tensor]:
    """Characters (N, length) and their probabilities, of pictures in [-1, 1] or uint8."""
    with torch.no_grad():
        return reader.read(from_bytes(x))


def ship(run: Path) -> Path:
    """Put a run's reader, in half precision, where `shipped_reader` finds it; returns the file.

    Raises:
        RunError: if the run is no reader of default pictures.
    """
    recipe, reader = open_reader(run)
    if recipe.data.style() != CaptchaData().style():
        raise RunError("only a reader of pictures of the default style is shipped")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in reader.state_dict().items()}
    path = Path(__file__).with_name(SHIPPED)
    save_weights(weights, path)
    return path
