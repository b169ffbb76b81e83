"""The precision in which networks are evaluated."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "bfloat16", "float32"]

BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # instructions of x86-64 processors, and of ARM's


def native(device: torch.device) -> bool:
    """Whether a device has arithmetic in bfloat16.

    A processor without it, such as one with AVX2 alone, emulates it, much more slowly than float32.

    >>> native(torch.device("meta"))
    False
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(able.get(name, False) for name in BFLOAT16)


def mixed(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast: bfloat16, or None for float32; "auto" is bfloat16 on a device that has arithmetic in it.

    >>> mixed("bfloat16", torch.device("cpu")), mixed("float32", torch.device("cpu"))
    (torch.bfloat16, None)
    """
    half = native(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if half else None


def emulated(key: str, precision: str, device: torch.device) -> tuple[str, ...]:
    """A note if a device emulates the precision that the setting `key` asks for."""
    slow = precision == "bfloat16" and not native(device)
    return (f"{key}=bfloat16 is emulated on this device, which takes longer than float32: use auto",) * slow
