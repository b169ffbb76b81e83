"""Decoding many pictures in several processes, which import neither torch nor the program that starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np

from jensen.data.decode import Form, decode
from jensen.data.listing import Place

CHUNK = 32  # pictures that a process decodes at a time
LITTLE, EACH = 30_000_000, 10_000  # bytes that one process decodes in about the time that others take to start


def decoded(
    places: Sequence[Place], form: Form, processes: int | None = None
) -> Generator[np.ndarray | str, None, None]:
    """Yield the decoded pictures in order; for a broken picture, the reason.

    Args:
        places: locations of their bytes.
        form: the form to which they are converted.
        processes: None: one per core, or only this process for little data.

    Raises:
        ValueError: for fewer than 1 process.
    """
    if processes is None:
        processes = 1 if sum(place.length + EACH for place in places) < LITTLE else cores()
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    chunks = [places[k : k + CHUNK] for k in range(0, len(places), CHUNK)]
    if processes == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield from _chunk(chunk, form)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context, initializer=_depend) as pool:
        try:
            with _no_main():
                found = pool.map(_chunk, chunks, [form] * len(chunks))
            for made in found:
                yield from made
        finally:
            pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _depend() -> None:
    """Ignore interrupts, which the parent handles, and end if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _chunk(places: Sequence[Place], form: Form) -> list[np.ndarray | str]:
    return [_one(place, form) for place in places]


def _one(place: Place, form: Form) -> np.ndarray | str:
    try:
        return decode(place.read(), form)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


@contextmanager
def _no_main() -> Iterator[None]:
    """Context manager: processes started inside do not import the main program, which may lack a `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
