"""Averaged weights: what is sampled and exported."""

from __future__ import annotations

from collections.abc import Callable
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

SMALL = 64  # rows or columns: singular vectors of no more are computed, of more they are followed
TURNS = 16  # power iterations a step in following


def begin_average(model: nn.Module) -> nn.Module:
    """A copy of the model to average into: in evaluation mode, without gradients, weights below float32 raised to it.

    In bfloat16 a step of 1 - decay = 0.001 is lost to rounding, and the average would never move. The copy takes the
    inputs of a float32 model; `sample` and `log_likelihood` follow it, and `copy.deepcopy(average).bfloat16()` is the
    average in the model's own precision.

    >>> begin_average(nn.Linear(1, 1).bfloat16()).weight.dtype
    torch.float32
    """
    return _raised(copied(model).requires_grad_(False).eval())


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    r"""$a \leftarrow \beta a + (1 - \beta) w$ over parameters; buffers are copied; computed weights keep their promise.

    Both are modules of one structure. Weights of the average below float32 are raised to it, see `begin_average`.

    A buffer is state, not a weight: the mean of two counts, masks or unit vectors is none. Batch norm's running
    statistics are copied with the rest. They are those of the live weights, so an averaged network sees inputs that
    differ from them by what averaging changed; exact ones take a pass over the data, as
    `torch.optim.swa_utils.update_bn(batches, average)` does.

    Weights that are computed from others, through torch's parametrisations and its older hooks:

    - spectral norm: singular vectors are those of the averaged weight, so that its largest singular value is 1; the
      live model's belong to another matrix. They are computed for up to 64 rows or columns. Of larger weights they are
      followed by power iterations from where they were, as the live model does it, and more of them;
    - weight norm: direction and norm g are averaged, and the norm is the averaged g;
    - orthogonal: coordinates are averaged about one base. Where the live model has been given a new base, its
      coordinates are taken over; Householder's signs are copied.

    Args:
        average: changed in place.
        model: as training left it.
        decay: beta, from 0 (a copy) to 1.

    Raises:
        ValueError: unless 0 <= decay <= 1.

    Source: Polyak & Juditsky (1992); Miyato et al. (2018), algorithm 1.

    >>> average, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    >>> _ = nn.init.constant_(model.weight, 3.0), nn.init.constant_(model.running_mean, 3.0)
    >>> update_average(average, model, decay=0.75)
    >>> average.weight.item(), average.running_mean.item()
    (1.5, 3.0)
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    modules = list(zip(_raised(average).modules(), model.modules(), strict=True))
    weights: dict[Tensor, Tensor] = {  # once each, tied ones too
        mine: getattr(other, name)
        for one, other in modules
        for name, mine in one._parameters.items()
        if mine is not None
    }
    moved = [mine for mine in weights if mine.is_floating_point() or mine.is_complex()]
    if moved:
        torch._foreach_lerp_(moved, [weights[mine].to(mine.dtype) for mine in moved], 1 - decay)
    for mine in weights.keys() - moved:  # whole numbers
        mine.copy_(weights[mine])
    for one, other in modules:
        if isinstance(one, ParametrizationList):
            _keep_chart(one, other)
    for one, other in modules:
        for name, state in one._buffers.items():
            if state is not None and name not in _vectors(one):
                state.copy_(getattr(other, name))
    for one, _ in modules:
        _recompute(one)


def _raised(module: nn.Module) -> nn.Module:
    """In place, and what is in float32 or above is left as it is."""

    def raised(x: Tensor) -> Tensor:
        if x.is_floating_point() and x.element_size() < 4:
            return x.float()
        return x.to(torch.complex64) if x.dtype == torch.complex32 else x

    if any(raised(x) is not x for x in (*module.parameters(), *module.buffers())):
        module._apply(raised)
    return module


def _keep_chart(mine: ParametrizationList, now: Any) -> None:
    """Coordinates of an orthogonal weight mean something about one base; Householder's diagonal is signs alone."""
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


def _recompute(module: nn.Module) -> None:
    """Turn singular vectors to the averaged weight; what older hooks have computed follows it."""
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
    """Leading singular vectors, in place; of a matrix that is not finite, nan."""
    if min(matrix.shape) <= SMALL and bool(matrix.isfinite().all()):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        u.copy_(left[:, 0])
        v.copy_(right[0].conj())
        return
    for _ in range(TURNS):
        u.copy_(F.normalize(matrix @ v, dim=0))
        v.copy_(F.normalize(matrix.mH @ u, dim=0))


def warm_decay(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + step) / (10 + step)): early steps are soon forgotten.

    >>> warm_decay(0.998)(0), warm_decay(0.998)(10**6)
    (0.1, 0.998)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return lambda step: min(decay, (1 + step) / (10 + step))
