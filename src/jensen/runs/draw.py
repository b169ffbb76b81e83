"""Drawing samples from a run: requests are checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import checked_seed, derived, generator, generators
from jensen.data.dataset import some
from jensen.data.space import Text
from jensen.judging.samples import coloured
from jensen.report.samples import Samples
from jensen.report.scatter import Classes as Coloured
from jensen.runs.opening import Run, open_other
from jensen.training.distributed import divided

MOST_ON_A_SHEET = 512
MOST_TRIES = 100
FEW = 16  # samples of which it is said what is read
HELD_OUT = 2000  # pictures of a side that can be drawn
SIDES = ("a", "a-as-b", "b", "b-as-a")


@dataclass(frozen=True)
class Drawing:
    """A checked request for samples.

    Attributes:
        count: number of samples.
        draw: draws them, (N, *shape) on the CPU; `track` shows progress.
        across: number of pictures in a row of a sheet, or None.
        names: names of single files, by number.
        columns: names of the columns of points.
        classes: classes of the samples, or None.
        comment: rows to print about the samples.
        notes: sentences about requested options that have no effect.
    """

    count: int
    draw: Callable[[Track], Tensor]
    across: int | None = None
    names: Callable[[int], str] = "{:05d}".format
    comment: Callable[[Tensor], list[tuple[str, str]]] = lambda _: []
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    classes: Coloured | None = None

    def samples(self, track: Track = silent) -> Samples:
        """Draw them."""
        return Samples(self.draw(track), self.columns, self.classes, self.across, self.names)


def drawing(
    run: Run,
    n: int | None = None,
    texts: Sequence[str] = (),
    *,
    seed: int = 0,
    interpolate: int | None = None,
    tries: int = 1,
    **changes: Any,
) -> Drawing:
    """Check a request and return how to draw its samples.

    Args:
        run: the trained run.
        n: number of samples, or of interpolations; None for a default.
        texts: conditions by name, one per sample.
        seed: random seed of the samples, from 0 to 2^64 - 1.
        interpolate: number of samples per interpolation, or None.
        tries: number of times that a sample is drawn at most, until the data's reader reads its condition.
        changes: changed sampling settings: those in `family.changes`, such as "steps".

    Raises:
        ValueError: for a request that the model cannot carry out.
    """
    checked_seed(seed)
    if n is not None and (not _whole(n) or n < 1):
        raise ValueError(f"n must be at least 1{' and whole' * (not _whole(n))}, got {n!r}")
    if interpolate is not None and not (_whole(interpolate) and 2 <= interpolate <= MOST_ON_A_SHEET):
        raise ValueError(f"--interpolate must be from 2 to {MOST_ON_A_SHEET}, got {interpolate!r}")
    if not _whole(tries) or not 1 <= tries <= MOST_TRIES:
        raise ValueError(f"--tries must be from 1 to {MOST_TRIES}, got {tries!r}")
    space, family, model, name = run.space, run.recipe.family, run.model, run.recipe.name
    known = space.cond if family.conditional(space) else None
    for option, refused in (
        ("--text", bool(texts) and known is None),
        ("--tries", tries > 1 and known is None),
        ("--interpolate", interpolate is not None and not hasattr(model, "interpolate")),
        *((f"--{_dashed(key)}", key not in family.changes) for key in changes),
    ):
        if refused:
            raise ValueError(f"{option} cannot be used with a run of {name}")
    if space.b is not None:
        return _translations(run, n, seed)
    if not isinstance(model, Sampleable):
        raise ValueError(f"samples cannot be drawn from a run of {name}")
    cond = known.encode(texts) if known is not None and texts else None
    family.refuse_request(model, space, changes, conditions=cond is not None, interpolating=interpolate is not None)
    if tries > 1:
        _refuse_tries(run, asked=cond is not None, interpolating=interpolate is not None)
    notes: tuple[str, ...] = ()
    if known is not None and not texts and known.width > 1:
        given = {key: value for key, value in changes.items() if "guidance" in key and value != 1}
        notes = tuple(f"--{_dashed(key)} has no effect without --text: there is no condition" for key in given)
    elif isinstance(known, Text) and cond is not None and "style_guidance" in changes and _unnamed(known, cond):
        notes = ("--style-guidance has no effect without the name of a style in --text",)
    if interpolate is not None:
        rows = len(texts) or n or 8
        draw = _interpolations(model, rows, interpolate, texts, cond, seed, {**family.interpolation, **changes})
        each = None if cond is None else cond.repeat_interleave(interpolate, 0)
        classes = coloured(space.cond, each)
        return Drawing(rows * interpolate, draw, interpolate, notes=notes, columns=space.columns, classes=classes)
    n = len(texts) or n or (16 if space.pictures else 1000)
    if cond is None and known is not None and known.width == 1:
        cond = (torch.arange(n) % known.size)[:, None]  # classes in turn

    def named(k: int) -> str:
        name = "-".join(texts[k].split()) if texts else ""
        return f"{k:05d}-{name}" if name.replace("-", "").isalnum() else f"{k:05d}"

    def draw_all(track: Track) -> Tensor:
        if tries > 1 and cond is not None:
            return _until_read(run, cond, tries, seed, track, changes)
        return run.draw(n, cond=cond, seed=seed, advance=track("drawing", n), **changes)

    comment, classes = partial(_read, run, texts, tries), coloured(space.cond, cond)
    return Drawing(n, draw_all, None, named, comment, notes, columns=space.columns, classes=classes)


def _refuse_tries(run: Run, *, asked: bool, interpolating: bool) -> None:
    """Raise a ValueError if samples cannot be drawn again until they are read."""
    if run.recipe.data.open_reader(open_other) is None:
        raise ValueError(f"--tries cannot be used with a run of {run.recipe.name}: nothing reads its samples")
    if not asked:
        raise ValueError("--tries needs --text: without a condition there is nothing to read")
    if interpolating:
        raise ValueError("--tries cannot be used with --interpolate")


def _until_read(
    run: Run, cond: Tensor, tries: int, seed: int, track: Track, changes: Mapping[str, Any]
) -> Float[Tensor, "n ..."]:
    """Samples of the conditions (n, width); those of which the reader reads another are drawn again."""
    reader, known = run.recipe.data.open_reader(open_other), run.space.cond
    assert reader is not None
    assert known is not None
    x = run.draw(len(cond), cond=cond, seed=seed, advance=track("drawing", len(cond)), **changes)
    wrong = torch.arange(len(cond))
    for k in range(1, tries):
        wrong = wrong[(reader.read(x[wrong]) != known.legible(cond[wrong])).any(1)]
        if not len(wrong):
            break
        advance = track("drawing those that were misread", len(wrong))
        x[wrong] = run.draw(len(wrong), cond=cond[wrong], seed=derived(seed, "again", k), advance=advance, **changes)
    return x


def _read(run: Run, texts: Sequence[str], tries: int, made: Tensor) -> list[tuple[str, str]]:
    """What is read in the first samples of texts, and how many are misread."""
    known = run.space.cond
    reader = run.recipe.data.open_reader(open_other) if known is not None and known.width > 1 else None
    if reader is None or known is None:
        return []
    read = reader.read(made if texts else made[:FEW])
    names = texts or [f"no text, {k}" for k in range(len(read))]
    found = [(name, f"reads {text}") for name, text in zip(names, known.decode(read[:FEW]), strict=False)]
    if texts and (wrong := int((read != known.legible(known.encode(texts))).any(1).sum())):
        more = f"after {tries} tries" if tries > 1 else "--tries 8 draws such texts again"
        found.append((f"{wrong} of {len(texts)} misread", more))
    return found


def _unnamed(texts: Text, cond: Tensor) -> bool:
    """Whether no style is named."""
    return torch.equal(texts.unstyled(cond), cond)


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _whole(n: object) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool)


def _interpolations(
    model: Any, rows: int, length: int, texts: Sequence[str], cond: Tensor | None, seed: int, changes: dict[str, Any]
) -> Callable[[Track], Tensor]:
    """Rows of samples, each along the great circle between two draws of noise."""

    def along(row: slice) -> Tensor:
        text = texts[row.start] if texts else None
        first, second = generators(seed, [(row.start, text, "from"), (row.start, text, "to")])
        given = {} if cond is None else {"cond": cond[row]}
        made: Tensor = model.interpolate(first, second, length, **given, **changes)
        return made.cpu()

    def draw(track: Track) -> Tensor:
        advance = track("drawing", rows * length)
        return torch.cat(divided(along, rows, 1, lambda done: advance(length * done)))

    return draw


def _translations(run: Run, n: int | None, seed: int) -> Drawing:
    """Held-out pictures of both sides, in groups of four: a picture of a, its translation, a picture of b, its
    translation.
    """
    data = run.open_data()
    model: Any = run.model
    assert data.b is not None
    sides = {"a": some(data.test, HELD_OUT)["x"], "b": some(data.b.test, HELD_OUT)["x"]}
    most = min(len(x) for x in sides.values())
    n = min(16, most) if n is None else n
    if n > most:
        raise ValueError(f"-n must be at most {most}, the held-out pictures of a side, got {n}")

    def draw(track: Track) -> Tensor:
        advance, rng, made = track("drawing", 4 * n), generator(seed), []
        device = next(model.parameters()).device
        for side, x in sides.items():
            chosen = x[torch.randperm(len(x), generator=rng)[:n]]
            made += [chosen, model.translate(chosen.to(device), "b" if side == "a" else "a").cpu()]
        advance(4 * n)
        return torch.stack(made, 1).flatten(0, 1)

    what = [("in groups of four", f"{data.name}, translated; {data.b.name}, translated")]
    return Drawing(4 * n, draw, 4 * min(n, 4), lambda k: f"{k // 4:05d}-{SIDES[k % 4]}", lambda _: what)
