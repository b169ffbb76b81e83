"""Codes, reconstructions and likelihoods of given data under a run's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core.protocols import Bounded, Coding
from jensen.core.seeding import checked_seed, derived, drawing, generator
from jensen.core.types import Likelihood
from jensen.data.pool import from_bytes
from jensen.data.space import Space
from jensen.diffusion import Bins, Reconstruction, whole_span
from jensen.judging.bounds import diffusion_of
from jensen.judging.likelihood import joined
from jensen.models import Diffusion, LatentChain, ScoreModel
from jensen.recipes.sources.arrays import channels_first
from jensen.recipes.sources.memory import numbers
from jensen.runs.opening import Run
from jensen.variational import Estimate

CHUNK = 64  # rows at a time

Names = str | Sequence[str]


def encode(run: Run, x: Tensor | np.ndarray, cond: Names = ()) -> Tensor:
    """Codes of x, (N, ...): means of q(z | x), or the noise to which a deterministic sampler maps x."""
    given, texts = rows(run.space, x), conditions(run, cond, len(x))
    model = run.model
    if isinstance(model, Diffusion):
        return _each(run, lambda part, c: model.encode(part, cond=c, **run.recipe.family.interpolation), given, texts)
    if isinstance(model, Coding):
        return _each(run, lambda part, _: model.codes(part), given, texts)
    raise refusal(run, "encode data", "it has no encoder")


def reconstruct(run: Run, x: Tensor | np.ndarray, cond: Names = ()) -> Tensor:
    """Rows after encoding and decoding, (N, ...)."""
    given, texts = rows(run.space, x), conditions(run, cond, len(x))
    model, settings = run.model, run.recipe.family.interpolation
    if isinstance(model, Diffusion):
        return _each(
            run, lambda part, c: model.decode(model.encode(part, cond=c, **settings), cond=c, **settings), given, texts
        )
    if isinstance(model, Coding):
        return _each(run, lambda part, _: model.reconstruct(part), given, texts)
    raise refusal(run, "reconstruct data", "it has no encoder")


@torch.no_grad()
def log_likelihood(
    run: Run, x: Tensor | np.ndarray, cond: Names = (), *, draws: int | None = None, seed: int = 0
) -> Likelihood:
    """Log p(x) of each row in nats: exact, estimated with a standard error, or a lower bound."""
    given, texts = rows(run.space, x), conditions(run, cond, len(x))
    model, judging = run.model, run.recipe.judging
    rng = generator(derived(checked_seed(seed), "log p"), _device(run))
    if draws is not None and not isinstance(model, LatentChain):
        raise refusal(run, "take draws", "its likelihood is not estimated by importance sampling")
    if isinstance(model, LatentChain):
        n = judging.importance if draws is None else draws
        parts = [model.log_likelihood(part, samples=n, generator=rng) for part, _ in _parts(run, given, texts)]
        return _on_cpu(Estimate.joined(parts, like=given))
    if (diffusion := diffusion_of(model)) is not None:
        first, last = whole_span(diffusion.denoiser)
        span = (first if isinstance(model, ScoreModel) else judging.first), last
        levels = run.space.levels
        how: dict[str, Any] = {
            "span": span,
            "reconstruction": Reconstruction("denoised", None if levels is None else Bins(levels)),
            "generator": rng,
        }
        found = [diffusion.bound(part, cond=c, **how).likelihood for part, c in _parts(run, given, texts)]
        return _on_cpu(joined(found))
    if isinstance(model, Bounded):
        return _on_cpu(joined([model.log_likelihood(part) for part, _ in _parts(run, given, texts)]))
    raise refusal(run, "say log p(x)", "it has no likelihood")


def rows(space: Space, x: Tensor | np.ndarray) -> Tensor:
    """Rows on the scale of the data, (N, *shape).

    Raises:
        ValueError: for numbers of another shape or scale, or that are not finite.
    """
    given, shape = numbers("x", x), space.shape
    if given.dtype == torch.uint8 and space.pictures:
        given = channels_first("x", given.numpy())
    elif space.pictures and float(given.abs().max()) > 1:
        raise ValueError(f"x must be bytes or in [-1, 1], got numbers from {given.min():g} to {given.max():g}")
    elif space.pictures and given.is_floating_point() and float(given.min()) >= 0:
        raise ValueError("x must be bytes or in [-1, 1], got numbers in [0, 1]: give 2 * x - 1")
    if given.shape[1:] != shape:
        raise ValueError(f"x must be of shape (N, {', '.join(map(str, shape))}), got {tuple(given.shape)}")
    return from_bytes(given).float()


def conditions(run: Run, cond: Names, n: int) -> Tensor | None:
    """Conditions of n rows by name: one for all of them, or one for each; None if no names are given.

    Raises:
        ValueError: for an unknown name, another number of names, or a model without conditions.
    """
    known = run.space.cond if run.recipe.family.conditional(run.space) else None
    texts = (cond,) * n if isinstance(cond, str) else tuple(cond)
    if not texts:
        return None
    if known is None:
        raise refusal(run, "take conditions", "the model has no conditions")
    if len(texts) != n:
        raise ValueError(f"cond must be one name, or one for each of {n} rows, got {len(texts)}")
    return known.encode(texts)


def refusal(run: Run, what: str, because: str) -> ValueError:
    return ValueError(f"a run of {run.recipe.name} cannot {what}: {because}")


def _device(run: Run) -> torch.device:
    tensors = (*run.model.parameters(), *run.model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _parts(run: Run, x: Tensor, cond: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Parts of rows and of their conditions, on the model's device."""
    device = _device(run)
    asked = [None] * -(-len(x) // CHUNK) if cond is None else [c.to(device) for c in cond.split(CHUNK)]
    return list(zip([part.to(device) for part in x.split(CHUNK)], asked, strict=True))


@torch.no_grad()
def _each(run: Run, f: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, cond: Tensor | None) -> Tensor:
    with drawing(generator(0, _device(run))):  # of one layer of latents, given which others are inferred
        return torch.cat([f(part, c).cpu() for part, c in _parts(run, x, cond)])


def _on_cpu(found: Likelihood) -> Likelihood:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    moved: Any = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(found, **moved)
