"""`--processes N`: torchrun's engine on this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from jensen.core.failure import Failure
from jensen.training.distributed import launched

MOST = 256  # processes on one machine


def needed(processes: int) -> bool:
    """Whether so many processes must be started: this process is not one of them.

    Raises:
        ValueError: for fewer than 1 process or more than `MOST`, or if another number was started.
    """
    if not 1 <= processes <= MOST:
        raise ValueError(f"--processes must be from 1 to {MOST}, got {processes}")
    if launched() and int(os.environ["WORLD_SIZE"]) != processes:
        raise ValueError(f"--processes must be left out under torchrun, got {processes}")
    return processes > 1 and not launched()


def launch(processes: int, work: Callable[[list[str]], int], words: list[str]) -> int:
    """Call `work` with these words in several processes on this machine; returns 0, or the first other exit code.

    As `torchrun --standalone --nproc-per-node=N` does, and with this machine's cores divided among them. If one ends
    with another code, the others are stopped; so they are by a signal, which is passed on to them.

    Raises:
        Failure: if a process was killed.
        KeyboardInterrupt: if a signal ended them before one of them could say so.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for name in (
        "distributed.elastic.agent.server.api",
        "distributed.elastic.multiprocessing.api",
        "multiprocessing.spawn",
    ):
        logging.getLogger(f"torch.{name}").setLevel(logging.CRITICAL)  # of every signal and every failure
    config = LaunchConfig(
        *(1, 1, processes),
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.1,
    )
    said = get_context("spawn").Event()
    try:
        elastic_launch(config, _worker)(work, words, said)
    except SignalException:
        if not said.is_set():
            raise KeyboardInterrupt from None
        return 130
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        raise Failure(f"process {rank} of {processes} was ended by {failure.signal_name()}") from None
    return 0


def _worker(work: Callable[[list[str]], int], words: list[str], said: Event) -> None:
    """Call `work` and exit with its code: a process that returned would wait for the others."""
    if code := work(words):
        said.set()
        sys.exit(code)
