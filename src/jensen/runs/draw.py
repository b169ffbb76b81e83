"""Drawing samples from a run: requests, which are checked before anything is drawn, and their samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from jensen.core.progress import Advance, Track
from jensen.core.protocols import Sampleable
from jensen.core.seeding import checked_seed, generator, generators
from jensen.data.dataset import Data, some
from jensen.data.pool import refuse_nonfinite
from jensen.data.space import Space
from jensen.judging.case import Draw
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import Opener
from jensen.report.gallery import as_bytes, gallery, single
from jensen.runs.folder import save_image
from jensen.training.checkpoint import write_text

CHUNK = 256  # number of samples that are drawn together, if the model does not set it
MOST_ON_A_SHEET = 512


@dataclass(frozen=True)
class Request:
    """The request of a `jensen sample`.

    Attributes:
        n: number of samples, or None for a default.
        texts: conditions by name, one per sample.
        seed: random seed of the samples, from 0 to 2^64 - 1.
        changes: changed sampling settings: "sampler", "steps", "guidance", "eta".
        between: number of samples per interpolation, or None.
    """

    n: int | None = None
    texts: tuple[str, ...] = ()
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    between: int | None = None

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        if self.n is not None and self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if self.between is not None and not 2 <= self.between <= MOST_ON_A_SHEET:
            raise ValueError(f"--interpolate must be from 2 to {MOST_ON_A_SHEET}, got {self.between}")


@dataclass(frozen=True)
class Drawing:
    """A valid request, ready to be carried out.

    Attributes:
        count: number of samples.
        draw: draws them, (N, *shape) on the CPU, and reports progress.
        columns: number of columns of a sheet, or None.
        names: names of single files, by number.
        comment: rows to print about the samples.
        notes: sentences about requested options that have no effect.
    """

    count: int
    draw: Callable[[Advance], Tensor]
    columns: int | None = None
    names: Callable[[int], str] = "{:05d}".format
    comment: Callable[[Tensor], list[tuple[str, str]]] = lambda _: []
    notes: tuple[str, ...] = ()

    def samples(self, track: Track) -> Samples:
        """Draw them."""
        return Samples(self.draw(track("drawing", self.count)), self)


@dataclass(frozen=True)
class Samples:
    """Samples and how they were drawn.

    Attributes:
        x: (N, *shape), pictures in [-1, 1].
        drawing: how they were drawn.
    """

    x: Tensor
    drawing: Drawing

    @property
    def pixels(self) -> Tensor:
        """The pictures as uint8 (N, C, H, W)."""
        return as_bytes(self.x)

    def sheet(self, *, scale: int = 4) -> Image.Image:
        """All samples in one image; points as a plot in the plane."""
        return gallery(self.x, columns=self.drawing.columns, scale=scale)

    def save(self, path: Path | str, *, scale: int = 1) -> None:
        """Write one image to a .png, numbers to a .csv, or single pictures to a folder.

        Raises:
            ValueError: for samples that are not finite, or for pictures as a .csv.
        """
        path = Path(path)
        refuse_nonfinite(self.x)
        if path.suffix == ".csv" and self.x.ndim > 2:
            raise ValueError(f"pictures must be saved as a .png or in a folder, got {path}")
        if path.suffix == ".png":
            save_image(self.sheet(scale=scale), path)
        elif path.suffix == ".csv":
            lines = [",".join(f"{value:.6g}" for value in row) for row in self.x.flatten(1).tolist()]
            write_text(path, "\n".join(lines) + "\n")
        else:
            path.mkdir(parents=True, exist_ok=True)
            for k in range(len(self.x)):
                save_image(single(self.x[k], scale=scale), path / f"{self.drawing.names(k)}.png")


def drawer(model: nn.Module, space: Space, own_seed: int) -> Draw:
    """A function that draws samples; sample i depends on (model, seed, i) alone, or on its condition and repeats."""
    chunk = getattr(getattr(model, "sampling", None), "chunk", CHUNK)

    def draw(
        n: int,
        *,
        cond: Tensor | None = None,
        seed: int | None = None,
        advance: Advance = lambda _: None,
        **changes: Any,
    ) -> Tensor:
        if not isinstance(model, Sampleable):
            raise ValueError(f"{type(model).__name__} draws nothing")
        keys = range(n) if cond is None or space.cond is None else space.cond.decode(cond)
        rng = generators(own_seed if seed is None else seed, keys)
        made = []
        for start in range(0, n, chunk):
            rows = rng[start : start + chunk]
            given = None if cond is None else cond[start : start + chunk]
            made.append(model.sample(len(rows), cond=given, generator=rows, **changes).float().cpu())
            advance(len(rows))
        return torch.cat(made)

    return draw


def drawing(
    recipe: Recipe, model: nn.Module, request: Request, *, open_data: Callable[[], Data], runs: Opener
) -> Drawing:
    """Check a request and return how to draw its samples.

    Args:
        recipe: recipe of the run.
        model: the trained model.
        request: the request.
        open_data: opens the run's data, if samples are made from them.
        runs: opens other runs.

    Raises:
        ValueError: for a request that the model cannot carry out.
    """
    space, family, name = recipe.space, recipe.family, recipe.name
    assert space is not None
    conditional = family.conditional(space)
    for option, asked in (
        ("--text", bool(request.texts) and not conditional),
        ("--interpolate", request.between is not None and not hasattr(model, "interpolate")),
        *((f"--{key}", key not in family.changes) for key in request.changes),
    ):
        if asked:
            raise ValueError(f"{option} cannot be used with a run of {name}")
    if space.b is not None:
        return _translations(model, request, open_data)
    if not isinstance(model, Sampleable):
        raise ValueError(f"samples cannot be drawn from a run of {name}")
    cond = space.cond.encode(request.texts) if request.texts and space.cond is not None else None
    interpolating = request.between is not None
    family.refuse_request(model, space, request.changes, interpolating=interpolating, conditions=cond is not None)
    idle = conditional and not request.texts and request.changes.get("guidance", 1) != 1 and space.cond.width > 1  # type: ignore[union-attr]
    notes = ("--guidance has no effect without --text: there is no condition",) * idle
    if request.between is not None:
        changes = {**family.interpolation, **request.changes}
        return _between(model, request, request.between, cond, changes, notes)
    n = len(request.texts) or request.n or (16 if space.pictures else 1000)
    if cond is None and conditional and space.cond is not None and space.cond.width == 1:
        cond = (torch.arange(n) % space.cond.size)[:, None]  # classes in turn
    draw = drawer(model, space, request.seed)
    texts = list(request.texts)

    def named(k: int) -> str:
        return f"{k:05d}-{texts[k]}" if texts and texts[k].isalnum() else f"{k:05d}"

    def comment(made: Tensor) -> list[tuple[str, str]]:
        reader = recipe.data.open_reader(runs) if space.cond is not None and space.cond.width > 1 else None
        if reader is None or space.cond is None:
            return []
        read = space.cond.decode(reader.read(made[:16]))
        names = texts or [f"no text, {k}" for k in range(len(read))]
        return [(text, f"reads {found}") for text, found in zip(names, read, strict=False)]

    return Drawing(
        n,
        lambda advance: draw(n, cond=cond, advance=advance, **request.changes),
        names=named,
        comment=comment,
        notes=notes,
    )


def _between(
    model: Any, request: Request, between: int, cond: Tensor | None, changes: dict[str, Any], notes: tuple[str, ...]
) -> Drawing:
    """Rows of samples, each along the great circle between two draws of noise."""
    rows = len(request.texts) or request.n or 8

    def draw(advance: Advance) -> Tensor:
        made = []
        for row in range(rows):
            text = request.texts[row] if request.texts else None
            first, second = generators(request.seed, [(row, text, "from"), (row, text, "to")])
            given = {} if cond is None else {"cond": cond[row : row + 1]}
            made.append(model.interpolate(first, second, between, **given, **changes).cpu())
            advance(between)
        return torch.cat(made)

    return Drawing(rows * between, draw, columns=between, notes=notes)


SIDES = ("a", "a-as-b", "b", "b-as-a")


def _translations(model: Any, request: Request, open_data: Callable[[], Data]) -> Drawing:
    """Pick n held-out pictures of each side by the seed; returns groups of four: a, its translation, b, its
    translation.
    """
    data, n = open_data(), request.n or 16
    assert data.b is not None
    sides = {"a": some(data.test)["x"], "b": some(data.b.test)["x"]}
    most = min(len(x) for x in sides.values())
    if n > most:
        raise ValueError(f"-n must be at most {most}, the held-out pictures of a side, got {n}")

    def draw(advance: Advance) -> Tensor:
        rng, made = generator(request.seed), []
        device = next(model.parameters()).device
        for side, x in sides.items():
            chosen = x[torch.randperm(len(x), generator=rng)[:n]]
            made += [chosen, model.translate(chosen.to(device), "b" if side == "a" else "a").cpu()]
        advance(4 * n)
        return torch.stack(made, 1).flatten(0, 1)

    what = [("in fours", f"{data.name}, translated; {data.b.name}, translated")]
    return Drawing(4 * n, draw, 4 * min(n, 4), lambda k: f"{k // 4:05d}-{SIDES[k % 4]}", lambda _: what)
