"""Processes that end with the one that started them, even if that was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

EVERY = 0.5  # seconds
STARTER = "JENSEN_STARTER"  # names the process that started this one, which may end before this one can ask


def end_with_parent() -> None:
    """Send this process SIGTERM when it has lost the process that started it."""
    spawned = multiprocessing.parent_process()
    parent = spawned.pid if spawned else int(os.environ.get(STARTER, os.getppid()))
    threading.Thread(target=_watch, args=[parent], name="parent", daemon=True).start()


def _watch(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
