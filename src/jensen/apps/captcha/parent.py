"""Processes that end with the one that started them, even if that was killed."""

from __future__ import annotations

import os
import signal
import threading
import time

EVERY = 0.5  # seconds


def end_with_parent() -> None:
    """Send this process SIGTERM when it has lost the process that started it."""
    threading.Thread(target=_watch, args=[os.getppid()], name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
