"""The clock of the service."""

from __future__ import annotations

import time

SECOND = 1000  # milliseconds


def now() -> int:
    """Milliseconds since 1970, on this machine's clock; machines that share a store need synchronised clocks."""
    return time.time_ns() // 1_000_000
