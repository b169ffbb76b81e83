"""jensen from Python: `jensen.train`, `jensen.open`, `jensen.compare`, `jensen.load_data`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from jensen.core.naming import path_of
from jensen.core.objective import Objective, copied
from jensen.core.progress import Track, Watch, check_functions, silent
from jensen.core.types import Batch, Likelihood
from jensen.data.dataset import Data
from jensen.diffusion import Sampler
from jensen.recipes.families.base import Family
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import Source, source
from jensen.recipes.sources.memory import Memory, memory
from jensen.recipes.words import Start, on_data
from jensen.report.findings import Evaluation
from jensen.report.samples import Samples
from jensen.runs import compare as comparing
from jensen.runs import measure, opening
from jensen.runs import train as training
from jensen.runs import use as using
from jensen.runs.compare import Comparison
from jensen.runs.curves import curves, write_curves
from jensen.runs.draw import drawing
from jensen.runs.evaluate import evaluate
from jensen.runs.folder import export
from jensen.runs.own import objective_of, own_recipe
from jensen.runs.use import Own

Loss = Callable[[Batch], Tensor]


class Run(opening.Run):
    """A trained run, opened: `run.sample(16)`, `run.evaluate()["frechet"].value`, `run.model`, `run.recipe`."""

    def sample(
        self,
        n: int | None = None,
        *,
        cond: str | Sequence[str] = (),
        seed: int = 0,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        style_guidance: float | None = None,
        eta: float | None = None,
        mean: bool | None = None,
        tries: int = 1,
        track: Track = silent,
    ) -> Samples:
        """Draw samples.

        Args:
            n: number of samples; with a single `cond`, all have that condition.
            cond: names of classes, or texts, one per sample.
            seed: random seed; samples depend only on the model and the seed.
            sampler, steps, guidance, guidance_interval, style_guidance, eta: changed sampling settings, if the family
                has them; a sampler is a name, or your own.
            mean: whether to draw means of p(x | z) instead of x, for models with latents.
            tries: most draws of a sample; one whose condition the data's reader misreads is drawn again.
            track: shows progress.

        Raises:
            ValueError: for a request that the run cannot carry out.
        """
        check_functions(track=track)
        texts = (str(cond),) * (n if isinstance(n, int) else 1) if isinstance(cond, str | int) else tuple(cond)
        if n is not None and texts and n != len(texts):
            raise ValueError(f"n must be the number of conditions, {len(texts)}, or left out, got {n}")
        changes = _given(
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            guidance_interval=guidance_interval,
            style_guidance=style_guidance,
            eta=eta,
            mean=mean,
        )
        return drawing(self, n, texts, seed=seed, tries=tries, **changes).samples(track)

    def interpolate(
        self,
        n: int = 8,
        k: int = 11,
        *,
        cond: str | Sequence[str] = (),
        seed: int = 0,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        style_guidance: float | None = None,
        eta: float | None = None,
        track: Track = silent,
    ) -> Samples:
        """Draw n interpolations, each of k samples along the great circle between two draws of noise.

        Args:
            n: number of interpolations.
            k: number of samples of each interpolation, at least 2.
            cond: name of the class, or text, of all interpolations, or one for each.
            seed, sampler, steps, guidance, guidance_interval, style_guidance, eta, track: as for `sample`.

        Raises:
            ValueError: for a request that the run cannot carry out.
        """
        check_functions(track=track)
        texts = (cond,) * (n if isinstance(n, int) else 1) if isinstance(cond, str) else tuple(cond)
        if texts and n != len(texts):
            raise ValueError(f"cond must be one name, or one for each of {n} interpolations, got {len(texts)}")
        changes = _given(
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            guidance_interval=guidance_interval,
            style_guidance=style_guidance,
            eta=eta,
        )
        return drawing(self, n, texts, seed=seed, interpolate=k, **changes).samples(track)

    def encode(self, x: Tensor | np.ndarray, *, cond: str | Sequence[str] = ()) -> Tensor:
        """Codes of x, (N, ...): the means of q(z | x), or the noise to which a diffusion model's ODE maps x.

        Args:
            x: (N, *shape): numbers on the scale of the data, pictures as bytes or in [-1, 1].
            cond: name of the class, or text, of all rows, or one for each.

        Raises:
            ValueError: for a model without an encoder, or data of another shape or scale.
        """
        return measure.encode(self, x, cond)

    def reconstruct(self, x: Tensor | np.ndarray, *, cond: str | Sequence[str] = ()) -> Tensor:
        """Rows after encoding and decoding, (N, *shape); arguments and errors as for `encode`."""
        return measure.reconstruct(self, x, cond)

    def log_likelihood(
        self,
        x: Tensor | np.ndarray,
        *,
        cond: str | Sequence[str] = (),
        draws: int | None = None,
        seed: int = 0,
    ) -> Likelihood:
        """Log p(x) of each row in nats, and whether it is exact, an estimate or a lower bound.

        Args:
            x, cond: as for `encode`.
            draws: importance samples for each row, of a model with latents; None: judging.importance.
            seed: random seed of the draws.

        Returns: `value` (N,) and, where it is estimated, `stderr` (N,); `kind`; and `measure`, mass or density.

        Raises:
            ValueError: for a model without a likelihood, or data of another shape or scale.
        """
        return measure.log_likelihood(self, x, cond, draws=draws, seed=seed)

    def evaluate(
        self,
        *,
        data: object = None,
        stability: bool = False,
        features: str | Callable[[Tensor], Tensor] | None = None,
        track: Track = silent,
    ) -> Evaluation:
        """Judge the run and return its findings by key; writes evaluation.json, samples/ and report.html in its folder.

        Args:
            data: the data of training, needed if they were given from Python and the run was opened again, or if their
                files have moved.
            stability: whether to compute eigenvalues of the game at the end of training.
            features: what samples and data are compared by, instead of the run's setting: a name, the folder of a
                reader run, or a callable (N, ...) -> (N, d).
            track: shows progress.

        Raises:
            ValueError: for data other than those of training, or a run that was opened at another width.
        """
        check_functions(track=track)
        if self.width is not None:
            raise ValueError(f"width must be the run's own to evaluate it, got {self.width:g}: export the run first")
        opened = None if data is None else self._opened(data, track)
        return evaluate(self, data=opened, track=track, stability=stability, features=features)

    def curves(self, path: Path | str | None = None) -> dict[str, list[float]]:
        """Training curves by name, with a row for each step in the journal; with a path, also written there as CSV."""
        found = curves(self.folder)
        if path is not None:
            write_curves(found, path_of(path, "path"))
        return found

    def export(self, path: Path | str) -> None:
        """Write the averaged weights and the settings, without the state of training, to a folder that `open` opens.

        Raises:
            RunError: if the folder is not empty, or cannot be written.
        """
        export(self.folder, path_of(path, "path"), None if self.width is None else self.model)

    def _opened(self, data: object, track: Track) -> Data:
        """Data that are passed again, checked to be those of training."""
        kept = self.recipe.data
        found = source_of(data, as_given=isinstance(kept, Memory) and kept.as_given)
        if type(found) is not type(kept) or getattr(found, "content", "") != getattr(kept, "content", ""):
            raise ValueError("data must be those that the run was trained on, got others")
        return opening.open_data(on_data(self.recipe, found), track)


def train(
    start: str | Recipe | Family | Objective | Loss,
    out: Path | str | None = None,
    *,
    data: object = None,
    data_b: object = None,
    model: nn.Module | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    rate: float | Mapping[str, float] | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    track: Track = silent,
    watch: Watch | None = None,
    use: Iterable[Own] = (),
) -> Run:
    """Train a recipe, a family on your data, or your objective, in a run's folder; open the run.

    Args:
        start: name of a recipe or of a family; your own recipe; a family with settings; your own objective; or a loss,
            a function of a batch, of `model`.
        out: the run's folder; by default runs/NAME, or runs/NAME-DATA if data are given.
        data: a folder of pictures, a file of pictures or points, a source, or data in memory, see
            `jensen.recipes.sources.memory.memory`; any recipe takes them.
        data_b: pictures of side b, for family translation.
        model: the model that is trained by your loss.
        steps, minutes: length of training, at most one of the two; by default the recipe's.
        rate: learning rate, or learning rates by player.
        batch_size: examples per step.
        seed: random seed.
        settings: other settings by dotted key, as in {"training.warmup": 10}.
        resume: continue the run in `out`.
        track, watch: show progress.
        use: your own sources, families, judges or recipes, or files that define them.

    Raises:
        ValueError: one sentence, if settings or data cannot be used. RunError: if the folder exists already or cannot
        be written.
    """
    check_functions(track=track, watch=watch)
    using.use(use)
    if steps is not None and minutes is not None:
        raise ValueError(f"at most one of steps and minutes can be given, got {steps} and {minutes}")
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"settings must be a mapping of keys to values, got {type(settings).__name__}")
    changes = {f"training.{k}": v for k, v in _given(minutes=minutes, steps=steps, batch_size=batch_size).items()}
    if isinstance(rate, Mapping):
        changes |= {f"training.rates.{player}": v for player, v in rate.items()}
    elif rate is not None:
        changes["training.rate"] = rate
    words = [
        f"{k}={v if isinstance(v, str) else json.dumps(v, default=_plain)}"
        for k, v in {**(settings or {}), **changes}.items()
    ]
    objective = None if isinstance(start, str | Recipe | Family) else objective_of(start, model)
    as_given = objective is not None
    a, b = (None if side is None else source_of(side, as_given=as_given) for side in (data, data_b))
    if isinstance(start, str | Recipe | Family):
        begun: Start = start
        if model is not None:
            raise ValueError("model must be left out, except with your own loss: the family builds it")
    else:
        if objective is None or a is None:
            raise ValueError("your objective needs data, as in jensen.train(objective, data=x)")
        begun = own_recipe(objective, a)
    place = None if out is None else path_of(out, "out")
    recipe, folder = opening.asked(begun, place, words, data=a, data_b=b, seed=seed, resume=resume)
    opened = training.train(recipe, folder, resume=resume, track=track, watch=watch, objective=objective)
    found = open(folder, model=None if objective is None else copied(objective.model))
    return replace(found, data=opened)


def open(  # noqa: A001
    path: Path | str,
    *,
    model: nn.Module | None = None,
    use: Iterable[Own] = (),
    device: str | None = None,
    width: float | None = None,
) -> Run:
    """Open a trained run.

    Args:
        path: the run's folder, or one that `Run.export` wrote.
        model: the model of a run with your own objective; the averaged weights are loaded into it.
        use: your own sources, families or judges that it needs, or files that define them; opening a run never imports
        code named in its configuration.
        device: device of the model; by default the device of training if it exists here, otherwise the CPU.
        width: relative width of the average of the weights, for runs trained with training.average=[0.05,0.1]; by
        default the first of the two.

    Raises:
        RunError: if the folder is no run, has no weights yet, or needs a class or a model that is not given; if its
        snapshots do not give this width.
    """
    using.use(use)
    found = opening.open_run(path, device, model, width)
    return Run(found.folder, found.recipe, found.model, width=found.width, error=found.error)


def compare(
    *contestants: Run | Path | str | Mapping[str, Tensor | np.ndarray],
    data: object = None,
    features: str | Callable[[Tensor], Tensor] = "auto",
    n: int | None = None,
    seed: int = 0,
    judge_steps: int = 500,
    track: Track = silent,
) -> Comparison:
    """Compare runs on the same data, and samples of any other model, with data that none of them was trained on.

    Args:
        contestants: runs, their folders, and samples by name, as in {"mine": x}; at least two in all.
        data: the data, if there is no run among the contestants; anything that `train` takes.
        features: "auto", "classifier", "convolutional", "raw", the folder of a reader run, or a callable to (N, d).
        n: number of samples of each contestant, at least 40; None: all, at most 1,000.
        seed: random seed of the samples.
        judge_steps: training steps of each discriminator.
        track: shows progress.

    Raises:
        ValueError: if the contestants cannot be compared.
    """
    check_functions(track=track)
    found = None if data is None else source_of(data)  # in memory, it is also the source of the runs on the same data
    opened = None if found is None else load_data(found)
    return comparing.compare(
        contestants, data=opened, features=features, n=n, seed=seed, judge_steps=judge_steps, track=track
    )


def load_data(data: object, *, seed: int = 0) -> Data:
    """Open data: a path, a source, or data in memory; `data.train` and `data.test` are rows, `data.space` is their
    space.

    Raises:
        ValueError: for data that cannot be read or learnt.
    """
    found = source_of(data)
    return found.open(seed, runs=opening.open_other)


def source_of(data: object, *, as_given: bool = False) -> Source:
    """The source of data: at a path, or in memory."""
    if isinstance(data, Source):
        return data
    return source(data) if isinstance(data, str | Path) else memory(data, as_given=as_given)


def _plain(value: Any) -> Any:
    """A path as text; numbers and arrays of numpy and torch as Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
