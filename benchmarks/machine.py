"""The machine of a benchmark, its peak speed, and the tables of results."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jensen.training.strict_json import dumps


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


FUSED = {  # fused attention on the CPU, which torch's table lacks: functions of the shapes
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


PEERS = ("diffusers",)


def facts() -> dict[str, str]:
    """Versions, processor and number of threads."""
    return {
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jensen": version("jensen"),
        **{name: version(name) for name in PEERS if find_spec(name.replace("-", "_")) is not None},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{found[0]} ({len(found)} seen)" if found else platform.processor()


def matrix_speed(dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second: the better of a large matrix product and a large convolution.

    Both are tried because they may come from different libraries: in float32 the products of MKL stay far
    below the convolutions of oneDNN on some processors.
    """
    channels, rows, side = size // 4, 16, 16
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    x = torch.randn(rows, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    product = 2 * size**3 / _seconds(lambda: a @ b)
    convolution = 2 * 9 * channels**2 * rows * side**2 / _seconds(lambda: F.conv2d(x, w, padding=1))
    return max(product, convolution)


def _seconds(work: Callable[[], object], times: int = 2) -> float:
    """Seconds of the fastest call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def count_flops(work: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attentions of `work`, forward and backward."""
    counter = FlopCounterMode(display=False, custom_mapping=FUSED)
    with counter:
        work()
    return counter.get_total_flops()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def spread(values: Sequence[float], digits: int = 1, percent: bool = False) -> str:
    """Mean and standard error as text."""
    scale, unit = (100, "%") if percent else (1, "")
    shown = f"{scale * mean(values):.{digits}f}{unit}"
    return shown if len(values) < 2 else f"{shown} ± {scale * stdev(values) / math.sqrt(len(values)):.{digits}f}"


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result as JSON, if a file is given."""
    if path is not None:
        path.write_text(dumps(result, indent=2) + "\n", encoding="utf-8")
