"""Weights, gradients, averages and optimizer states divided among the processes (FSDP2, ZeRO)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils.parametrize import ParametrizationList

from jensen.training.distributed import processes

if TYPE_CHECKING:  # they take a second to import
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def divide(objective: nn.Module) -> None:
    """Divide the parameters of an objective among the processes, in place; copies of its model are divided too.

    Each process keeps an equal share of the rows of every parameter. The objective's parameters are whole from its
    forward pass until `put_back`, so that losses may differentiate them twice and use them in any method; their
    gradients are averaged over the processes by the backward pass. Numbers (parameters of shape ()) stay whole.

    Raises:
        ValueError: if weights are computed from others, as in spectral norm, or have sparse gradients.
    """
    for module in objective.modules():
        if isinstance(module, ParametrizationList):
            raise ValueError("training.sharding must be replicated for parametrized weights, such as spectral norm")
        if isinstance(module, nn.Embedding) and module.sparse:
            raise ValueError("training.sharding must be replicated for tables with sparse gradients")
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(objective.parameters()).device.type, (processes(),))
    numbers = {p for p in objective.parameters() if not p.ndim}
    for p in objective.parameters():
        p.data = p.data.contiguous()  # of a U-Net, channels come last in memory, and FSDP2 divides no such rows
    root = fully_shard(objective, mesh=mesh, reshard_after_forward=False, ignored_params=numbers)
    root.set_reshard_after_backward(False)
    root.set_force_sum_reduction_for_comms(True)  # gloo has no mean


def put_back(objective: nn.Module) -> None:
    """Keep only this process's share of the weights again, after a forward pass."""
    if is_divided(objective):
        cast("FSDPModule", objective).reshard()


def is_divided(objective: nn.Module) -> bool:
    """Whether `divide` was called with it."""
    return hasattr(objective, "reshard")


def is_share(x: object) -> TypeGuard[DTensor]:
    """Whether it is a tensor that is divided among the processes."""
    return hasattr(x, "full_tensor")


def share(x: Tensor) -> Tensor:
    """The rows of a divided tensor that this process holds, in the same memory; any other tensor itself."""
    return x.to_local() if is_share(x) else x


def whole(tree: Any) -> Any:
    """The same nested containers with whole tensors; every process must call it."""
    return changed(tree, lambda x: x.full_tensor() if is_share(x) else x)


def shares(tree: Any) -> Any:
    """The same nested containers with this process's share of each tensor, in the same memory."""
    return changed(tree, share)


def like(x: Tensor, other: Any) -> Tensor:
    """A whole tensor, equal in every process, divided as `other` is; without values if it has none (meta)."""
    if not is_share(other) or is_share(x) or x.shape != other.shape:
        return x
    if x.is_meta:
        return torch.empty_like(other, dtype=x.dtype, requires_grad=False)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def changed(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested containers with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return type(tree)((key, changed(value, change)) for key, value in tree.items())
    return [changed(value, change) for value in tree] if isinstance(tree, list) else tree


def gathered(module: nn.Module) -> nn.Module:
    """A copy of a divided module with whole parameters; every process must call it. Any other module itself."""
    if not any(is_share(p) for p in module.parameters()):
        return module
    made = copy.deepcopy(module)
    for part in made.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(whole(p.detach()), requires_grad=False)
    return made


def loaded(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors divided as those of the module's state."""
    mine = module.state_dict()
    return {name: like(value, mine.get(name)) for name, value in state.items()}


def loaded_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state, divided as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {k: {n: like(v, parameters[k]) if isinstance(v, Tensor) else v for n, v in kept.items()}
               for k, kept in state["state"].items()}  # fmt: skip
    return {**state, "state": moments}


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together, divided ones summed over the processes."""
    listed = list(tensors)
    shares = [share(x) for x in listed if is_share(x)]
    rest = [x for x in listed if not is_share(x)]
    if not shares:
        return nn.utils.get_total_norm(rest)
    square = nn.utils.get_total_norm(shares).square()
    dist.all_reduce(square)
    return (square + nn.utils.get_total_norm(rest).to(square).square()).sqrt()
