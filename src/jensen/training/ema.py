"""Averaged weights, which are used for sampling and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from jensen.core.objective import copied
from jensen.training.sharding import share

SMALL = 64  # rows or columns up to which singular vectors are computed; for larger weights they are tracked
TURNS = 16  # power iterations per step when tracking


def begin_average(model: nn.Module) -> nn.Module:
    """A copy of the model for averaged weights: in evaluation mode, without gradients, in float32 or above.

    In bfloat16 an update of relative size 1 - decay = 0.001 is lost to rounding, and the average would never change.
    The copy takes float32 inputs; `copy.deepcopy(average).bfloat16()` is the average in the model's own precision.

    >>> begin_average(nn.Linear(1, 1).bfloat16()).weight.dtype
    torch.float32
    """
    return _raised(copied(model).requires_grad_(False).eval())


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    r"""$a \leftarrow \beta a + (1 - \beta) w$ for parameters; buffers are copied.

    Both modules have the same structure. Averaged weights below float32 are converted to it, see `begin_average`.

    A buffer is state, not a weight: the mean of two counts, masks or unit vectors is not a valid value of the buffer.
    Batch norm's running statistics are copied too. They belong to the live weights, so they are only approximate for
    the averaged network; exact ones need a pass over the data, as `torch.optim.swa_utils.update_bn(batches, average)`
    does.

    Weights that torch computes from others, by parametrisations or older hooks, keep their constraint:

    - spectral norm: singular vectors are those of the averaged weight, not of the live one, so that its largest
      singular value is 1. They are computed for up to 64 rows or columns; for larger weights they are tracked by power
      iterations, with more iterations per step than in the live model;
    - weight norm: direction and norm g are averaged, and the norm is the averaged g;
    - orthogonal: coordinates are averaged about one base. If the live model has a new base, its coordinates are copied;
      the signs of Householder's parametrisation are copied.

    Args:
        average: the average, changed in place.
        model: the live model.
        decay: beta, from 0 (a copy) to 1.

    Raises:
        ValueError: unless 0 <= decay <= 1, or if the modules have other parameters.

    Source: Polyak & Juditsky (1992); Miyato et al. (2018), algorithm 1.

    >>> average, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    >>> _ = nn.init.constant_(model.weight, 3.0), nn.init.constant_(model.running_mean, 3.0)
    >>> update_average(average, model, decay=0.75)
    >>> average.weight.item(), average.running_mean.item()
    (1.5, 3.0)
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    if [p.shape for p in average.parameters()] != [p.shape for p in model.parameters()]:
        place = misfit(dict(average.named_parameters()), dict(model.named_parameters()))
        raise ValueError(f"model must have the structure of the average: {place}")
    modules = list(zip(_raised(average).modules(), model.modules(), strict=True))
    weights: dict[Tensor, Tensor] = {  # each once, even if tied
        mine: getattr(other, name)
        for one, other in modules
        for name, mine in one._parameters.items()
        if mine is not None
    }
    moved = [mine for mine in weights if mine.is_floating_point() or mine.is_complex()]
    if moved:
        live = [share(weights[mine]).to(mine.dtype) for mine in moved]
        torch._foreach_lerp_([share(mine) for mine in moved], live, 1 - decay)
    for mine in weights.keys() - moved:  # integers
        mine.copy_(weights[mine])
    for one, other in modules:
        if isinstance(one, ParametrizationList):
            _keep_chart(one, other)
    for one, other in modules:
        for name, state in one._buffers.items():
            if state is not None and name not in _vectors(one):
                state.copy_(getattr(other, name))
    for one, _ in modules:
        recompute(one)


def misfit(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first entry in which two states of modules differ, with both shapes, or ""."""
    for name in dict.fromkeys([*own, *other]):
        here, there = (_shape(state[name]) if name in state else "missing" for state in (own, other))
        if here != there:
            return f"{name} must be {here}, got {there}"
    return ""


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = "" if value.is_floating_point() else str(value.dtype).removeprefix("torch.") + " "
    return f"{kind}{tuple(value.shape)}"


def _raised(module: nn.Module) -> nn.Module:
    """Convert parameters and buffers below float32 precision to float32, in place."""

    def raised(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.element_size() < 4:
            return x.float()
        return x.to(torch.complex64) if x.dtype == torch.complex32 else x

    if any(raised(x) is not x for x in (*module.parameters(), *module.buffers())):
        module._apply(raised)
    return module


def _keep_chart(mine: ParametrizationList, now: Any) -> None:
    """Copy the coordinates of an orthogonal weight whose base has changed, and the signs on Householder's diagonal."""
    for own, live in zip(mine, now, strict=True):
        if not isinstance(own, _Orthogonal):
            continue
        if "base" in own._buffers and not torch.equal(own.base, live.base.to(own.base.dtype)):
            for name, coordinates in mine.named_parameters(recurse=False):
                coordinates.copy_(getattr(now, name))
        elif own.orthogonal_map.name == "householder":
            signs = now.original.diagonal(dim1=-2, dim2=-1).sign()
            mine.get_parameter("original").diagonal(dim1=-2, dim2=-1).copy_(signs)


def _vectors(module: nn.Module) -> set[str]:
    """Names of the buffers in which a spectral norm keeps its singular vectors."""
    if isinstance(module, _SpectralNorm):
        return set(module._buffers)
    hooks = module._forward_pre_hooks.values()
    return {hook.name + end for hook in hooks if isinstance(hook, SpectralNorm) for end in ("_u", "_v")}


def recompute(module: nn.Module) -> None:
    """Update singular vectors to the averaged weight, and the weights that older hooks compute."""
    if isinstance(module, ParametrizationList):
        handles = [p.register_forward_pre_hook(_turn) for p in module if _vectors(p)]
        if handles:
            module()
        for handle in handles:
            handle.remove()
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            matrix = hook.reshape_weight_to_matrix(getattr(module, f"{hook.name}_orig"))
            _point(matrix, *(getattr(module, f"{hook.name}_{end}") for end in "uv"))
        if isinstance(hook, SpectralNorm | WeightNorm | BasePruningMethod):
            hook(module, ())


def _turn(norm: nn.Module, weight: tuple[Tensor]) -> None:
    assert isinstance(norm, _SpectralNorm)
    _point(norm._reshape_weight_to_matrix(weight[0]), norm._u, norm._v)


def _point(matrix: Tensor, u: Tensor, v: Tensor) -> None:
    """Set u and v to the leading singular vectors, in place; nan if the matrix is not finite."""
    if min(matrix.shape) <= SMALL and bool(matrix.isfinite().all()):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        u.copy_(left[:, 0])
        v.copy_(right[0].conj())
        return
    for _ in range(TURNS):
        u.copy_(F.normalize(matrix @ v, dim=0))
        v.copy_(F.normalize(matrix.mH @ u, dim=0))


def warm_decay(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + step) / (10 + step)): early weights are forgotten quickly.

    >>> warm_decay(0.998)(0), warm_decay(0.998)(10**6)
    (0.1, 0.998)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return lambda step: min(decay, (1 + step) / (10 + step))
