"""A user's objectives and losses, trained like recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, takes
from jensen.recipes.families.own import Own
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.base import Source
from jensen.recipes.sources.memory import KEYS, Memory

STEPS = 1000  # of training, unless a length is given


class OwnLoss(Objective):
    """A loss of a model, as a function of a batch.

    Args:
        model: the model.
        loss: called with a batch, returns the loss, ().
    """

    def __init__(self, model: nn.Module, loss: Callable[[Batch], Tensor]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        total = self.loss(batch)
        if not isinstance(total, Tensor) or total.ndim:
            got = f"shape {tuple(total.shape)}" if isinstance(total, Tensor) else type(total).__name__
            raise ValueError(f"the loss must be a tensor of shape (), such as a mean over the batch, got {got}")
        return {"model": Loss.of(total)}


def objective_of(start: Objective | Callable[[Batch], Tensor], model: nn.Module | None) -> Objective:
    """The user's objective, or an objective made from a loss of this model.

    Raises:
        ValueError: for a loss without a model, an objective with an additional model, or any other object.
    """
    if isinstance(start, Objective):
        if model is not None:
            raise ValueError("model must be left out for an Objective, which has its own")
        if not isinstance(getattr(start, "model", None), nn.Module):
            raise ValueError("an Objective must have its model, an nn.Module, as self.model")
        return start
    if not callable(start) or isinstance(start, type | nn.Module):
        raise ValueError(
            "the first argument must be the name of a recipe or a family, a Recipe, a Family, an Objective or a loss, "
            f"got {f'the class {start.__name__}' if isinstance(start, type) else type(start).__name__}"
        )
    if not takes(start):
        raise ValueError("your loss must be a function of one argument, the batch")
    if not isinstance(model, nn.Module):
        raise ValueError(
            "your loss needs model=module, the nn.Module that it trains, got "
            + ("none" if model is None else type(model).__name__)
        )
    return OwnLoss(model, start)


def unused(objective: Objective, source: Source) -> str | None:
    """The name of data in memory that an objective of jensen's would ignore; one's own may use any."""
    own = isinstance(objective, OwnLoss) or not type(objective).__module__.startswith("jensen.")
    if own or not isinstance(source, Memory) or source.held is None:
        return None
    return next((name for name in source.held.rows.tensors if name not in (*KEYS, "a", "b")), None)


def own_recipe(objective: Objective, source: Source) -> Recipe:
    """The recipe of a user's objective, before settings are changed.

    Raises:
        ValueError: for data that an objective of jensen's does not use.
    """
    if name := unused(objective, source):
        raise ValueError(f"{type(objective).__name__} takes data named {' and '.join(KEYS)}, got {name!r}")
    by = objective.loss if isinstance(objective, OwnLoss) else objective
    name = getattr(by, "__name__", type(by).__name__)
    previews = {} if _draws(objective.model) else {"previews": 0}
    return Recipe(
        name="own",
        about=f"{type(objective.model).__name__} by {name}",
        data=source,
        family=Own(trained=type(objective.model).__name__, by=name),
        training=Training.model_validate({"steps": STEPS, "rate": 1e-3, **previews}),
    )


def _draws(model: nn.Module) -> bool:
    """Whether previews of the model's samples can be drawn."""
    sample = getattr(model, "sample", None)
    try:
        return sample is None or bool(inspect.signature(sample).bind(1, cond=None, generator=None))
    except TypeError:
        return False
