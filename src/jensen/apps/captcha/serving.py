"""`jensen serve`: worker processes that answer requests, and the process that draws."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import uvicorn
from uvicorn.supervisors import Multiprocess

from jensen.apps.captcha import demo
from jensen.apps.captcha.logs import say, start_logs
from jensen.apps.captcha.parent import STARTER
from jensen.apps.captcha.settings import PREFIX, read_settings
from jensen.apps.captcha.store import Unavailable, open_store
from jensen.core.failure import Failure, Told
from jensen.shipped import CONFIG, located, no_run, said

Part = Literal["all", "api", "pool"]
FACTORY = {False: "jensen.apps.captcha.api.app:make", True: "jensen.apps.captcha.api.app:make_demo"}  # a demonstration?
DRAWS = ("captcha", "diffusion")  # data and family of a run that draws CAPTCHAs from their texts
CONNECTIONS = 1000  # of a worker
PATIENCE = 10  # seconds in which requests, and the drawing, end when the service stops
HUNG = 60  # seconds after which a worker that does not answer is killed; a starved machine is slow, not hung
SLOWEST = 30.0  # seconds between two starts of a process that fails


def serve(
    run: Path | None, *, demonstrate: bool, host: str, port: int, workers: int, store: str | None, part: Part
) -> None:
    """Serve until a signal ends it.

    Args:
        run: the run whose model draws; None: in a demonstration, one that is part of jensen.
        demonstrate: generated secrets, test keys, this machine only.
        host, port: where to listen; port 0 is any that is free.
        workers: processes that answer requests.
        store: address of the store, instead of JENSEN_CAPTCHA_STORE.
        part: all, or only the processes that answer, or only the one that draws.

    Raises:
        ValueError: for settings that cannot be used. Failure: if the store cannot be reached. Told: if drawing cannot
            begin, and has said why.
    """
    if demonstrate and part != "all":
        raise ValueError("--demo answers and draws: leave --part out")
    if demonstrate and store is not None:
        raise ValueError("--demo has a store of its own: leave --store out")
    if run is None and not demonstrate and part != "api":
        raise ValueError("serve needs RUN, the folder of a run that draws CAPTCHAs, or --demo")
    if run is not None and part == "api":
        raise ValueError("--part api draws nothing: leave RUN out")
    if demonstrate and (given := [name for name in os.environ if name.upper() in demo.GENERATED]):
        raise ValueError(f"--demo generates its secrets: leave it out, or unset {given[0]}")
    if demonstrate and not _loopback(host):
        raise ValueError(f"--demo serves this machine only: --host must be 127.0.0.1, ::1 or localhost, got {host}")
    if run is not None:
        _refuse_other(run)
    with contextlib.ExitStack() as stack:
        _prepare(stack, demonstrate, store, workers)
        _check_store()
        listener = None if part == "pool" else stack.enter_context(_listener(host, port))
        start_logs()
        stack.callback(say, "stopped")
        if listener:
            _tell(listener, demonstrate)
        drawing = None if part == "api" else stack.enter_context(_drawing(run or Path(demo.RUN)))
        with contextlib.suppress(KeyboardInterrupt):
            _answer(listener, workers, FACTORY[demonstrate]) if listener else _wait(drawing)
        if drawing is not None and drawing.code is not None:
            raise Told(drawing.code)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_other(run: Path) -> None:
    """Refuse what is not a run that draws CAPTCHAs, as far as this is known without torch."""
    folder = located(run)
    if why := no_run(folder):
        raise ValueError(why)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name, kinds = config["name"], (config["data"]["kind"], config["family"]["kind"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return  # it is broken: the process that draws reads all of it, and says where
    if kinds != DRAWS:
        raise ValueError(f"RUN must draw CAPTCHAs from their texts, got {said(folder)}, a run of {name}")


def _prepare(stack: contextlib.ExitStack, demonstrate: bool, store: str | None, workers: int) -> None:
    """Put settings in the environment, from which the other processes read them; it is as before afterwards."""
    given = {}
    if demonstrate:
        folder = stack.enter_context(TemporaryDirectory(prefix="jensen-captcha-"))
        given = demo.demo_environment() | {"STORE": f"sqlite:///{folder}/captcha.sqlite"}
    if store is not None:
        given["STORE"] = store
    changes = {PREFIX + name: value for name, value in given.items()}
    if workers > 1:
        changes["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(TemporaryDirectory(prefix="jensen-metrics-"))
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    stack.callback(_restore, before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _tell(listener: socket.socket, demonstrate: bool) -> None:
    """Log the address, and print the keys of the demonstration's site, which were made for it."""
    name, port = listener.getsockname()[:2]
    say("listening", address=f"http://{f'[{name}]' if ':' in name else name}:{port}")
    if not demonstrate:
        return
    site = read_settings().sites[demo.SITE]
    sys.stdout.write(f"site key {demo.SITE}, secret {site.secret.get_secret_value()}, until the service ends\n")
    sys.stdout.flush()


def _check_store() -> None:
    try:
        open_store(read_settings().store).close()
    except Unavailable as error:
        raise Failure(f"the store cannot be reached ({error})") from error


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise ValueError(f"--host and --port must be free to listen on, got {host} {port}: {reason}") from error


def _answer(listener: socket.socket, workers: int, factory: str) -> None:
    """Answer requests until a signal comes; those that have begun are ended first."""
    config = uvicorn.Config(
        factory,
        factory=True,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whose headers are believed is a setting of ours
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
        timeout_worker_healthcheck=HUNG,
    )
    if workers > 1:
        Workers(config, sockets=[listener]).run()
    else:
        uvicorn.Server(config).run(sockets=[listener])


class Workers(Multiprocess):
    """Worker processes; one that is lost is an error in the log."""

    def keep_subprocess_alive(self) -> None:
        before = list(self.processes)
        super().keep_subprocess_alive()
        for lost in before:
            if lost not in self.processes:
                say("a worker was lost and is started again", logging.ERROR, code=lost.exitcode)


@dataclass
class Drawing:
    """The process that draws, started again if it fails.

    Attributes:
        code: the exit code with which it refused to begin, or None.
    """

    command: list[str]
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start it until it is to end; one that refuses its settings (exit code 2) ends the service."""
        wait = 1.0
        while not self.ended.is_set():
            self.process = subprocess.Popen(self.command, env=os.environ | {STARTER: str(os.getpid())})
            if self.ended.is_set():  # `stop` may have looked for it before it was there
                self.process.kill()
            code = self.process.wait()
            if self.ended.is_set():
                return
            if code == 2:
                self.code = code
                self.ended.set()
                os.kill(os.getpid(), 15)
                return
            say("the process that draws has failed and is started again", logging.ERROR, code=code)
            self.ended.wait(wait)
            wait = min(2 * wait, SLOWEST)

    def stop(self) -> None:
        """End it; what it draws at that time is lost if it takes too long."""
        self.ended.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def _drawing(run: Path) -> Iterator[Drawing]:
    drawing = Drawing([sys.executable, "-m", "jensen.apps.captcha.pool", str(run)])
    thread = threading.Thread(target=drawing.run, name="drawing")
    thread.start()
    try:
        yield drawing
    finally:
        drawing.stop()
        thread.join()


def _wait(drawing: Drawing | None) -> None:
    while drawing is not None and not drawing.ended.wait(1.0):
        continue
