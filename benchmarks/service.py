"""200 visitors at once for a minute on loopback, then the same with SIGKILL in the middle and a restart.

`python benchmarks/service.py [SECONDS [VISITORS [WORKERS]]]` fills the pool first, starts `jensen serve --part api` on
sqlite, and lets each visitor ask, answer and verify again and again. It prints the median and the 99th percentile of
each request, requests a second, every status, and what must be zero: challenges that were solved twice, tokens that
were redeemed twice, and answers that were acknowledged and lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from jensen.apps.captcha.answers import new_id, text_digest
from jensen.apps.captcha.clock import now
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.store import REDEEMED, Picture, Store, open_store

SITE, HOST, ANSWER = "bench", "bench.example", "K7MPXQ"
SECRET, SITE_SECRET = secrets.token_hex(32), secrets.token_hex(32)
BYTES = 2500  # of a picture
EACH = 60  # pictures for each visitor


@dataclass
class Seen:
    """What visitors saw: times and statuses by request, tokens, and tokens that were redeemed."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter = field(default_factory=Counter)
    issued: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    redeemed: list[str] = field(default_factory=list)
    wrong: int = 0


def fill(store: Store, count: int) -> None:
    keys = Keys([SECRET])

    def add(_: int) -> None:
        name = new_id()
        digest = text_digest(keys, keys.current, name, ANSWER)
        store.add(Picture(name, now(), keys.current, digest, "image/png", secrets.token_bytes(BYTES)))

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(add, range(count)))


def start(place: Path, port: int, workers: int) -> subprocess.Popen:
    sites = {SITE: {"secret": SITE_SECRET, "hostnames": [HOST]}}
    rates = dict.fromkeys(("ISSUE_RATE", "ANSWER_RATE", "ALL_ISSUE_RATE", "ALL_ANSWER_RATE"), "1000000/second")
    given = {"SECRET": SECRET, "SITES": json.dumps(sites), "STORE": f"sqlite:///{place}/captcha.sqlite", **rates}
    environment = os.environ | {f"JENSEN_CAPTCHA_{name}": value for name, value in given.items()}
    command = [sys.executable, "-c", "from jensen.cli.main import entry; entry()", "serve", "--part", "api"]
    options = ["--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.1)


async def visit(client: httpx.AsyncClient, seen: Seen, until: float) -> None:
    """Ask, answer and verify until the time is over; a request that finds no service is repeated."""
    origin = {"origin": f"https://{HOST}"}

    async def post(what: str, **more) -> httpx.Response | None:
        began = time.perf_counter()
        try:
            response = await client.post(f"/{what}", **more)
        except httpx.TransportError:
            seen.statuses[what, "no connection"] += 1
            await asyncio.sleep(0.2)
            return None
        seen.seconds[what].append(time.perf_counter() - began)
        seen.statuses[what, response.status_code] += 1
        return response

    while time.monotonic() < until:
        asked = await post("challenge", json={"site_key": SITE}, headers=origin)
        if asked is None or asked.status_code != 201:
            await asyncio.sleep(0.2)
            continue
        name, answered = asked.json()["id"], None
        seen.issued.append(name)
        while answered is None and time.monotonic() < until:
            answered = await post("answer", json={"site_key": SITE, "id": name, "answer": ANSWER}, headers=origin)
        if answered is None or not answered.json().get("solved"):
            seen.wrong += answered is not None and answered.status_code != 410  # 410: counted, its answer was not heard
            continue
        token = answered.json()["token"]
        seen.tokens.append((name, token))
        form = {"secret": SITE_SECRET, "response": token}
        for verified in await asyncio.gather(post("siteverify", data=form), post("siteverify", data=form)):
            if verified is not None and verified.json()["success"]:
                seen.redeemed.append(token)


async def crowd(port: int, visitors: int, seconds: float, seen: Seen) -> None:
    limits = httpx.Limits(max_connections=2 * visitors, max_keepalive_connections=2 * visitors)
    until = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
        await asyncio.gather(*(visit(client, seen, until) for _ in range(visitors)))


async def restarted(place: Path, port: int, workers: int, process: subprocess.Popen, after: float) -> subprocess.Popen:
    await asyncio.sleep(after)
    process.kill()
    process.wait()
    await asyncio.sleep(1.5)  # its workers, if there are several, have ended
    return await asyncio.to_thread(start, place, port, workers)


def said(seen: Seen, store: Store, took: float) -> None:
    for what, found in seen.seconds.items():
        p50, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
        print(f"{what}: {len(found) / took:.0f} a second, p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms")
    print("statuses:", {f"{what} {status}": count for (what, status), count in sorted(seen.statuses.items(), key=str)})
    twice = [count for count in Counter(seen.redeemed).values() if count > 1]
    lost = [name for name, _ in seen.tokens if store.find(name) is None]
    open_again = [t for n, t in seen.tokens if t in set(seen.redeemed) and store.find(n).state != REDEEMED]
    print(
        f"given twice {len(seen.issued) - len(set(seen.issued))}, solved twice "
        f"{len(seen.tokens) - len({n for n, _ in seen.tokens})}, redeemed twice {len(twice)}, lost {len(lost)}, "
        f"redeemed and forgotten {len(open_again)}, right answers called wrong {seen.wrong}"
    )


async def measure(place: Path, seconds: float, visitors: int, workers: int, kill: bool) -> None:
    store = open_store(f"sqlite:///{place}/captcha.sqlite")
    await asyncio.to_thread(fill, store, EACH * visitors)
    port = 8765
    process = start(place, port, workers)
    seen, began = Seen(), time.monotonic()
    tasks = [crowd(port, visitors, seconds, seen)]
    if kill:
        tasks.append(restarted(place, port, workers, process, seconds / 2))
    results = await asyncio.gather(*tasks)
    said(seen, store, time.monotonic() - began)
    process = results[-1] if kill else process
    process.terminate()
    process.wait()
    store.close()


def main(seconds: float = 60, visitors: int = 200, workers: int = 1) -> None:
    for kill in (False, True):
        print("with SIGKILL in the middle" if kill else f"{visitors} visitors, {seconds:g} s, {workers} workers")
        with TemporaryDirectory() as place:
            asyncio.run(measure(Path(place), seconds, visitors, workers, kill))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
