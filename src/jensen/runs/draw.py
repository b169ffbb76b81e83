"""Drawing samples from a run: requests are checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool
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
FEW = 16  # samples whose readings are printed
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
        tries: most draws of a sample; one whose condition the data's reader misreads is drawn again.
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
        whole = " and whole" * (not _whole(tries))
        raise ValueError(f"--tries must be from 1 to {MOST_TRIES}{whole}, got {tries!r}")
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
    notes: tuple[str, ...] = ()
    if known is not None and not texts and known.width > 1:
        given = {key: value for key, value in changes.items() if "guidance" in key and value != 1}
        notes = tuple(f"--{_dashed(key)} has no effect without --text: there is no condition" for key in given)
    elif isinstance(known, Text) and cond is not None and "style_guidance" in changes and _unnamed(known, cond):
        notes = ("--style-guidance has no effect without the name of a style in --text",)
    if tries > 1 and interpolate is not None:
        raise ValueError("--tries cannot be used with --interpolate")
    if interpolate is not None:
        rows = len(texts) or n or 8
        draw = _interpolations(model, rows, interpolate, texts, cond, seed, {**family.interpolation, **changes})
        each = None if cond is None else cond.repeat_interleave(interpolate, 0)
        classes = coloured(space.cond, each)
        return Drawing(rows * interpolate, draw, interpolate, notes=notes, columns=space.columns, classes=classes)
    n = len(texts) or n or (16 if space.pictures else 1000)
    if cond is None and known is not None and known.width == 1:
        cond = (torch.arange(n) % known.size)[:, None]  # classes in turn
    return _samples(run, n, texts, cond, seed, tries, notes, changes)


def _samples(
    run: Run,
    n: int,
    texts: Sequence[str],
    cond: Tensor | None,
    seed: int,
    tries: int,
    notes: tuple[str, ...],
    changes: Mapping[str, Any],
) -> Drawing:
    """Samples of conditions (n, width), which a reader may read, or without."""
    space, known = run.space, run.space.cond
    written = known is not None and known.width > 1
    reader = run.recipe.data.open_reader(open_other) if written or tries > 1 else None
    if tries > 1 and reader is None:
        raise ValueError(f"--tries cannot be used with a run of {run.recipe.name}: there is no reader of its data")
    if tries > 1 and cond is None:
        raise ValueError("--tries needs --text")

    def misread(read: Tensor, rows: Tensor) -> Bool[Tensor, " n"]:
        assert known is not None
        assert cond is not None
        return (read != known.legible(cond[rows])).any(1)

    def draw(track: Track) -> Tensor:
        made, rows = run.draw(n, cond=cond, seed=seed, advance=track("drawing", n), **changes), torch.arange(n)
        for k in range(1, tries):
            assert reader is not None
            assert cond is not None
            rows = rows[misread(reader.read(made[rows]), rows)]
            if not len(rows):
                break
            advance = track("drawing misread samples again", len(rows))
            again = derived(seed, "again", k)
            made[rows] = run.draw(len(rows), cond=cond[rows], seed=again, advance=advance, **changes)
        return made

    def named(k: int) -> str:
        name = "-".join(texts[k].split()) if texts else ""
        return f"{k:05d}-{name}" if name.replace("-", "").isalnum() else f"{k:05d}"

    def comment(made: Tensor) -> list[tuple[str, str]]:
        if reader is None or known is None:
            return []
        read, found = reader.read(made[:FEW] if cond is None else made), []
        if written:
            names = texts or [f"no text, {k}" for k in range(n)]
            found = [(name, f"reads {text}") for name, text in zip(names, known.decode(read[:FEW]), strict=False)]
        if cond is not None and (wrong := int(misread(read, torch.arange(n)).sum())):
            more = f"after {tries} tries" if tries > 1 else "--tries 8 draws such texts again"
            found.append((f"{wrong} of {n} misread", more))
        return found

    return Drawing(n, draw, None, named, comment, notes, columns=space.columns, classes=coloured(known, cond))


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
