"""A device that is not there: tensors hold numbers of the CPU, say that they are elsewhere, and obey CUDA's rules.

`with pretended():` makes torch's device "meta" such a device, on which everything can be computed. A tensor that is
made on the CPU by mistake then raises in the first operation that mixes it with others, in forward and backward passes,
as it would on a GPU. The rules, as CUDA has them:

- the tensors of an operation are on one device;
- but a tensor without dimensions may be on the CPU: beside others in an elementwise operation whose result is not
  itself, or as the value written by `index_put_`, `index_fill_` and `masked_fill_`;
- indices of a tensor on the device may be on the CPU, but not the converse;
- copies (`to`, `copy_`, `cpu`, `item`, `tolist`) go from any device to any; `numpy` needs the CPU;
- a generator draws on its own device only.
"""

from __future__ import annotations

import contextlib
import warnings
from unittest import mock

import torch
from torch import Tensor
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

AWAY, CPU, aten = torch.device("meta"), torch.device("cpu"), torch.ops.aten
COPIES = {aten._to_copy, aten.copy_, aten._foreach_copy_}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
NUMBERS = {aten.index_put, aten.index_put_, aten._index_put_impl_, aten.index_fill, aten.index_fill_}
NUMBERS |= {aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_}
GENERATOR = torch.Generator


class Elsewhere(Tensor):
    """A tensor that pretends to be on the device; `numbers` are its numbers, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers):
        layout = {} if numbers.is_sparse else {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        of = {"dtype": numbers.dtype, "layout": numbers.layout, "device": AWAY}
        out = Tensor._make_wrapper_subclass(cls, numbers.size(), **layout, **of)
        out.numbers = numbers
        return out

    def __repr__(self):
        return f"Elsewhere({self.numbers!r})"

    @property
    def data(self):
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        Tensor.data.__set__(self, other)
        self.numbers = other.numbers

    def untyped_storage(self):
        return self.numbers.untyped_storage()

    def __reduce_ex__(self, protocol):
        return self.numbers.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Any(type(torch.Generator)):
    def __instancecheck__(cls, v):
        return type(v) is GENERATOR or super().__instancecheck__(v)


class Generator(torch.Generator, metaclass=_Any):
    """A generator that may pretend to be on the device."""

    def __new__(cls, device="cpu"):
        out = super().__new__(cls)
        out.home = torch.device(device)
        return out

    device = property(lambda self: self.home)


class _Dispatch(TorchDispatchMode):
    """Operations without a tensor of the device, which may make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Function(TorchFunctionMode):
    """What torch decides before an operation is dispatched: values of a new tensor, and the device of a generator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor):
            home = (
                args[0].device if func is Tensor.new_tensor else args[0].device if isinstance(args[0], Tensor) else CPU
            )
            device = torch.device(kwargs.pop("device", None) or home)
            return func(*args, **kwargs, device=CPU).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func is Tensor.new and args[0].is_sparse:
            return torch.sparse_coo_tensor(*args[1:], device=args[0].device, check_invariants=False)
        found = func(*args, **kwargs)
        generator = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)), None)
        if generator is not None and isinstance(found, Tensor) and found.device != generator.device:
            raise RuntimeError(f"{_name(func)} draws on {_said(found)} with a generator on {_said(generator)}")
        return found


def _name(func):
    return getattr(func, "__name__", str(func))


def _said(v):
    return "the device" if v.device == AWAY else "the CPU"


def _run(func, args, kwargs):
    """Carry out an operation on numbers of the CPU, and put its results where they belong."""
    flat, tree = tree_flatten((args, kwargs))
    given = [v for v in flat if isinstance(v, Tensor)]
    if any(v.is_meta and not isinstance(v, Elsewhere) for v in given):
        raise NotImplementedError(f"{func} has a tensor that torch made without numbers")
    away = any(isinstance(v, Elsewhere) for v in given)
    home = torch.device(kwargs.get("device") or (AWAY if away else CPU))
    if away:
        _refuse_mixed(func, args, given)
    bare, named = tree_unflatten([v.numbers if isinstance(v, Elsewhere) else v for v in flat], tree)
    out = func(*bare, **named | ({"device": CPU} if named.get("device") else {}))
    if func.overloadpacket is aten.copy_:
        return args[0]
    if home == CPU:
        return out
    out = tree_map_only(Tensor, Elsewhere, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if away else out


def _refuse_mixed(func, args, given):
    """Raise a RuntimeError if the operation mixes devices as CUDA does not allow."""
    packet = func.overloadpacket
    if packet in COPIES:
        return
    if packet in INDEXED and isinstance(args[0], Elsewhere):
        given = [v for v in (args[0], *args[2:]) if isinstance(v, Tensor)]
    strays = [v for v in given if not isinstance(v, Elsewhere)]
    if not strays:
        return
    into = func._schema.is_mutable and strays[0] is args[0]
    number = packet in NUMBERS or (torch.Tag.pointwise in func.tags and packet is not aten.equal)
    if into or not number or any(v.ndim for v in strays):
        shapes = ", ".join(f"{tuple(v.shape)} on {_said(v)}" for v in given)
        raise RuntimeError(f"{func} mixes devices: {shapes}")


def _jvp(f, at, along):
    return torch.autograd.functional.jvp(f, at, along, create_graph=torch.is_grad_enabled())


@contextlib.contextmanager
def pretended():
    """Make "meta" a device on which everything can be computed, with CUDA's rules.

    Generators can be made for it, and fused optimizers know it. What torch lacks for such tensors is replaced: autocast
    is that of the CPU, and `torch.func.jvp` differentiates in reverse mode.
    """
    autocast, devices = torch.autocast, ["cpu", "meta"]
    with contextlib.ExitStack() as held:
        for owner, name, value in (
            (torch, "Generator", Generator),
            (torch, "autocast", lambda device, *args, **more: autocast("cpu", *args, **more)),
            (torch.func, "jvp", _jvp),
            (optimizer, "_get_fused_kernels_supported_devices", lambda: devices),
        ):
            held.enter_context(mock.patch.object(owner, name, value))
        held.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")  # which is done here
        held.enter_context(_Function())
        held.enter_context(_Dispatch())
        yield AWAY
