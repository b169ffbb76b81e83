"""Training curves for TensorBoard, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summary_writer() -> Any:
    """The class of TensorBoard's writer.

    Raises:
        ValueError: if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("training.tensorboard needs tensorboard: install jensen with the extra tensorboard") from error
    return SummaryWriter


class Board:
    """Writes the journal's numbers to a folder that TensorBoard shows; those after step `after` are written again."""

    def __init__(self, folder: Path, after: int):
        self.writer = summary_writer()(str(folder), purge_step=after + 1)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()
