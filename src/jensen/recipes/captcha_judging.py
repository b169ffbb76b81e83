"""How a captcha model is judged: read back, compared over guidance, searched for copies, drawn without a text."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jensen.core.seeding import generators
from jensen.data.pictures import sheet
from jensen.data.pool import from_bytes, to_bytes
from jensen.metrics import legibility, mean_pairwise_distance, nearest_distance, wilson
from jensen.models import Diffusion
from jensen.models.diffusion import round_trip
from jensen.nn import Reader
from jensen.recipes.base import Track
from jensen.recipes.captcha_data import CEILING, VARIETY, draw_tensors
from jensen.recipes.captcha_drawing import draw_free, draw_texts
from jensen.recipes.captcha_reader import read_texts
from jensen.recipes.folder import save_image

if TYPE_CHECKING:
    from jensen.recipes.captcha import Captcha

STRIP_STEPS = 8  # pictures in a denoising strip
ENCODED = 32  # classical pictures that go to noise and back
TRIPS = (4, 8, 16, 32, 64)  # steps each way
SURE = 0.9  # a character counts as read for sure from this probability on


@dataclass(frozen=True)
class Judge:
    """One judgement of a trained model; pictures go to `folder`.

    Attributes:
        recipe: what the model was made by, which says how many pictures are drawn.
        model: trained.
        reader: of the style, or None: then what needs one is left out.
        folder: for sheets of pictures, there already.
        track: shows progress.
    """

    recipe: Captcha
    model: Diffusion
    reader: Reader | None
    folder: Path
    track: Track

    def everything(self, training: Tensor) -> dict[str, Any]:
        """All there is to say, as JSON values; `training` are the pictures that were trained on."""
        texts = self.recipe.judged_texts(self.recipe.judging.pictures)
        start = time.perf_counter()
        made = draw_texts(
            self.recipe,
            self.model,
            texts,
            seed=self.recipe.seed,
            advance=self.track("drawing by the model", len(texts)),
        )
        speed = len(texts) / (time.perf_counter() - start)
        size = sum(p.numel() for p in self.model.parameters())
        classical, classical_texts = draw_tensors(
            self.recipe.data.style(),
            self.recipe.judging.classical,
            self.recipe.seed,
            CEILING,
            self.track,
            split="test",
            name="drawing ceiling",
        )
        facts = {"pictures": len(texts), "pictures_per_second": speed, "parameters": size}
        result: dict[str, Any] = {"sampling": self.recipe.sampling.model_dump() | facts}
        result |= self.legibility(made, texts, classical, classical_texts)
        result["guidance"] = self.guidance()
        result["memorisation"] = self.memorisation(made, classical, training)
        result["unconditional"] = self.unconditional(classical)
        result["round_trip"] = self.round_trip(classical[:ENCODED], classical_texts[:ENCODED])
        self.strip(texts[:3])
        return result

    def legibility(self, made: Tensor, texts: list[str], classical: Tensor, classical_texts: Tensor) -> dict[str, Any]:
        """What the reader reads in drawn pictures, in classical ones (ceiling), and by chance (floor)."""
        if self.reader is None:
            return {}
        style, asked = self.recipe.data.style(), self.recipe.encode(texts)
        read, ceiling = read_texts(self.reader, made)[0], read_texts(self.reader, classical)[0]
        names = style.decode(read[:200].numpy())
        wrong = [a != b for a, b in zip(names, texts, strict=False)]
        captions = [f"{a} read {b}" if a != b else a for a, b in zip(texts, names, strict=False)]
        save_image(sheet(made[:48], 8, scale=3, captions=captions[:48], wrong=wrong[:48]), self.folder / "texts.png")
        return {
            "legibility": {
                "generated": asdict(legibility(read, asked)),
                "ceiling": asdict(legibility(ceiling, classical_texts)),
                "shuffled": asdict(legibility(read, asked.roll(1, 0))),
            },
            "read": names,
            "asked": texts[:200],
        }

    def guidance(self) -> list[dict[str, Any]]:
        """Legibility and variety at several guidance scales, the classical pictures' variety beside them."""
        groups, members = self.recipe.judging.scale_texts, self.recipe.judging.scale_pictures
        texts = [text for text in self.recipe.judged_texts(groups) for _ in range(members)]
        classical, _ = draw_tensors(
            self.recipe.data.style(),
            len(texts),
            self.recipe.seed,
            VARIETY,
            self.track,
            texts=texts,
            name="drawing variety",
        )

        def spread(pictures: Tensor) -> float:
            return float(mean_pairwise_distance(_contrast_free(pictures).view(groups, members, -1)).mean())

        whole = spread(classical)
        scales = sorted({*self.recipe.judging.scales, self.recipe.sampling.guidance})
        advance = self.track("comparing guidance", len(texts) * len(scales))
        rows = []
        for scale in scales:
            made = draw_texts(
                self.recipe, self.model, texts, seed=self.recipe.seed + 1, advance=advance, guidance=scale
            )
            row: dict[str, Any] = {"scale": scale, "variety": spread(made) / whole}
            if self.reader is not None:
                row["exact"] = asdict(legibility(read_texts(self.reader, made)[0], self.recipe.encode(texts)).exact)
            rows.append(row)
        return rows

    def memorisation(self, made: Tensor, classical: Tensor, training: Tensor) -> dict[str, Any]:
        """Distance to the nearest training picture, beside that of fresh classical pictures.

        A copy would lie closer than fresh pictures do: the share of samples below the fresh pictures'
        first percentile would be far above 1 percent, and is near 100 for pictures of the training set. So it may be
        for samples concentrated where pictures are dense: a low share clears of copying, a high one does not convict.
        """
        n = min(len(made), len(classical), 1000)
        own, index = nearest_distance(from_bytes(made[:n]), from_bytes(training))
        fresh, _ = nearest_distance(from_bytes(classical[:n]), from_bytes(training))
        edge = torch.quantile(fresh, 0.01)
        closest = own.argsort()[:6]
        pairs = torch.stack([made[closest], training[index[closest]]], 1).flatten(0, 1)
        save_image(sheet(pairs, 4, captions=["drawn", "nearest trained on"] * 6), self.folder / "nearest.png")
        return {
            "generated_median": float(own.median()),
            "fresh_median": float(fresh.median()),
            "closer_than_fresh_percentile": asdict(wilson(int((own < edge).sum()), n)),
            "generated": [round(v, 4) for v in own.tolist()],
            "fresh": [round(v, 4) for v in fresh.tolist()],
        }

    def unconditional(self, classical: Tensor) -> dict[str, Any]:
        """Pictures drawn without a text: how many read as some text for sure, and how varied they are."""
        n = self.recipe.judging.unconditional
        advance = self.track("drawing without a text", n)
        made = draw_free(self.model, n, seed=self.recipe.seed, advance=advance)
        save_image(sheet(made[:32], 8, scale=3), self.folder / "unconditional.png")
        same = classical[: len(made)]
        result: dict[str, Any] = {
            "pictures": n,
            "variety": float(
                mean_pairwise_distance(_contrast_free(made)[None])[0]
                / mean_pairwise_distance(_contrast_free(same)[None])[0]
            ),
        }
        if self.reader is not None:
            read, sureness = read_texts(self.reader, made)
            _, sureness_classical = read_texts(self.reader, same)
            sure = (sureness >= SURE).all(1)
            result["valid"] = asdict(wilson(int(sure.sum()), n))
            sure_classical = (sureness_classical >= SURE).all(1)
            result["valid_classical"] = asdict(wilson(int(sure_classical.sum()), len(same)))
            result["distinct"] = len({tuple(row) for row in read[sure].tolist()}) / max(int(sure.sum()), 1)
            counts = torch.bincount(read[sure].flatten(), minlength=len(self.recipe.data.alphabet)).double()
            shares = counts / counts.sum().clamp_min(1)
            result["character_entropy_nats"] = float(torch.special.entr(shares).sum())
            result["character_shares"] = [round(v, 4) for v in shares.tolist()]
        return result

    def round_trip(self, classical: Tensor, texts: Tensor) -> dict[str, Any]:
        """Root mean square error a pixel of classical pictures carried to noise by DDIM and back, given their texts."""
        advance = self.track("there and back", len(TRIPS))
        errors = []
        for steps in TRIPS:
            way: dict[str, Any] = {"sampler": "ddim", "guidance": 1.0, "clip": False, "shift": 1.0, "end": 1e-3}
            error = round_trip(self.model, from_bytes(classical), [steps], cond=texts, precision="float32", **way)
            errors.append(float(error.mean()))
            advance(1)
        return {"sampler": "ddim", "pictures": len(classical), "steps": list(TRIPS), "error": errors}

    def strip(self, texts: list[str]) -> None:
        """z_t from noise to picture, a row a text."""
        path: list[Tensor] = []
        marks = torch.linspace(1, self.recipe.sampling.steps, STRIP_STEPS).round().int().tolist()

        def keep(step: int, x: Tensor) -> None:
            if step in marks:
                path.append(to_bytes(x))

        rng = generators(self.recipe.seed, texts)
        self.model.sample(len(texts), cond=self.recipe.encode(texts), generator=rng, on_step=keep)
        frames = torch.stack(path, 1).flatten(0, 1)
        save_image(sheet(frames, len(path), scale=3), self.folder / "strip.png")


def _contrast_free(pictures: Tensor) -> Tensor:
    """Pictures each brought to mean 0 and variance 1: guidance adds contrast, which is no variety."""
    return F.layer_norm(pictures.float(), pictures.shape[1:])
