"""Training steps of small versions of presets and of every option of their families."""

from __future__ import annotations

import functools
import typing

import torch
from pydantic import BaseModel

from jensen.core.progress import silent
from jensen.recipes.words import configure
from jensen.runs.opening import open_other
from jensen.runs.train import new_objective, new_state
from jensen.training import on_device, train_step
from jensen.training.step import _evaluation, gradients
from tiny import TINY, tiny

FITTED = {"moons-kernel": {"training__steps": 1}, "moons-mixture": {"training__steps": 1, "sweeps": 5}}
"""Settings of the presets that are fitted before their first step."""

COMBINED = {
    "ring-gan": [
        ["game.order=simultaneous", f"game.update={rule}"] for rule in ("extragradient", "optimistic", "consensus")
    ]
    + [["game.noise=0.1"]],
    "digits-gan": [["network.kind=residual", "network.width=8"]],
    "digits-iwae": [["network.latent=categorical", "bound.gradient=standard", "bound.relaxation=concrete"]],
    "digits-cyclegan": [["shown.penalty=0.5"], ['shown.augmentation=["crop","mosaic","flip","colour","translation"]']],
    "digits-ddpm": [["loss.name=bound", "network.schedule=learned"]],
    "moons-vae": [["bound.free_bits=0.1", "bound.free_bits_per=dimension"]],
    "digits-vae": [["training.average=[0.05,0.1]", "training.accumulate=2", "training.recompute=false"]],
}
"""Options that are valid together only."""


def small(name, *words, **more):
    """The recipe of a small version of a preset, changed by words such as "game.penalty=r1"."""
    return configure(name, [*tiny(name, **{"training__steps": 2, **FITTED.get(name, {}), **more})[1::2], *words])


def choices(settings, prefix=""):
    """Every other choice of every setting that has some: key and value."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from choices(value, f"{prefix}{name}.")
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if typing.get_origin(kind) is typing.Literal:
                yield from ((prefix + name, other) for other in typing.get_args(kind) if other != value)
        if isinstance(value, bool):
            yield prefix + name, str(not value).lower()


@functools.cache
def options():
    """For each preset, words that change it in one way: every valid choice of its family once, and `COMBINED`."""
    found, seen = {}, set()
    for name in sorted(TINY, key=lambda name: name == "captcha"):  # the slowest last: it tries what is left
        family = small(name).family
        found[name] = [[], *COMBINED.get(name, [])]
        for key, value in choices(family):
            if (family.kind, key, value) in seen or key.startswith(("sampling.", "network.size")):
                continue
            try:
                small(name, f"{key}={value}")
            except ValueError:
                continue
            seen.add((family.kind, key, value))
            found[name].append([f"{key}={value}"])
    return found


@functools.cache
def opened(source, seed):
    """The data of a source; no test may change them."""
    return source.open(seed, silent, open_other)


def begun(recipe, device="cpu"):
    """The initial state of training a recipe, and its batches, on a device."""
    data = opened(recipe.data, recipe.seed)
    recipe = recipe.on(data.space)
    torch.manual_seed(0)
    objective = new_objective(recipe, data).to(device)
    state = new_state(recipe, objective, recipe.training.budget())
    return state, on_device(recipe.family.stream(data, recipe.training.batch_size, recipe.seed), device)(0)


def gradients_of(state, batch):
    """For each player the gradient of its loss on a batch, one vector in double precision, and the loss."""
    found, state.draws = {}, 1
    for phase in state.objective.phases:
        torch.manual_seed(1)
        losses = gradients(state, phase.players, _evaluation(state, phase.players, batch))
        for name in phase.players:
            grads = [p.grad.to_dense() for p in state.players[name].parameters]
            found[name] = torch.cat([grad.reshape(-1).double() for grad in grads]), losses[name]
    return found


def stepped(recipe, device="cpu", steps=2):
    """The state after so many steps."""
    state, batches = begun(recipe, device)
    for _ in range(steps):
        train_step(state, batches, update=recipe.family.update())
    return state
