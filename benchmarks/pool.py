"""Pictures a second that the pool of `jensen serve` makes, how many of them its filter keeps, and what that is worth.

    .venv/bin/python benchmarks/pool.py [RUN [SECONDS]]

Draws, filters and stores pictures, with their recordings, for SECONDS (120) with all threads and then with one, as the
process that fills the pool does. A challenge costs one picture that is kept.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jensen.apps.captcha.pool import Pool, Trained, speaker
from jensen.apps.captcha.settings import Settings
from jensen.apps.captcha.store import open_store
from jensen.metrics import wilson
from jensen.runs.opening import open_run
from machine import facts

DAY = 24 * 60 * 60
CORES = sorted(os.sched_getaffinity(0))


def measure(drawer: Trained, seconds: float, threads: int) -> str:
    """Fill a new pool for some time; returns a line of the table."""
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, CORES[:threads])  # recordings are encoded in threads of their own
    with TemporaryDirectory() as place:
        sites = {"bench": {"secret": secrets.token_hex(32), "hostnames": ["bench.example"]}}
        path = f"sqlite:///{place}/captcha.sqlite"
        settings = Settings(secret=secrets.token_hex(32), sites=sites, store=path)
        store = open_store(settings.store)
        pool = Pool(drawer, store, settings, speaker(settings, drawer.texts.alphabet))
        pool.add(drawer.batch)  # the first batch is slower
        pool.tally = type(pool.tally)()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            pool.add(drawer.batch)
        store.close()
    tally = pool.tally
    kept, characters = wilson(tally.accepted, tally.drawn), tally.read / tally.characters
    drawn, rate = tally.drawn / tally.seconds, tally.accepted / tally.seconds
    return f"| {threads} | {tally.drawn:,} | {drawn:.2f} | {kept} | {characters:.1%} | {rate:.2f} | {rate * DAY:,.0f} |"


def main(run: str = "captcha-release", seconds: str = "120") -> None:
    """Print the table."""
    made = open_run(Path(run), "cpu")
    sampling = made.recipe.family.sampling
    drawer = Trained(made)
    print(f"{run}: {sampling.steps} steps, guidance {sampling.guidance}, batches of {drawer.batch}; {facts()}\n")
    print("| threads | drawn | a second | kept by the filter | characters read | kept a second | challenges a day |")
    print("|---|---|---|---|---|---|---|")
    for threads in sorted({torch.get_num_threads(), 1}, reverse=True):
        print(measure(drawer, float(seconds), threads), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
