"""`jensen serve` as it is typed: its processes, their end, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import torch
from PIL import Image

from captcha_service import ANSWER, SECRET, SECRETS, SITE, Visitor, fill
from jensen.apps.captcha import serving as starting
from jensen.apps.captcha.demo import SITE as DEMO
from jensen.apps.captcha.parent import STARTER
from jensen.apps.captcha.store import open_store
from jensen.cli import serving as extra
from jensen.cli.main import main
from jensen.recipes.families.base import Family
from jensen.recipes.sources.captcha import Captcha
from jensen.runs.opening import open_run
from servers import SLOW, answers, events, serving, within


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split() + [
        child for thread in Path(f"/proc/{pid}/task").iterdir() for child in (thread / "children").read_text().split()
    ]


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def workers(pid):
    """The processes that answer requests."""
    return {int(child) for child in children(pid) if running(child) and "spawn_main" in command(child)}


def command(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def environment(store):
    sites = {SITE: {"secret": SECRETS[SITE], "hostnames": ["shop.example"]}}
    given = {"SECRET": SECRET, "SITES": json.dumps(sites), "STORE": store}
    return {f"JENSEN_CAPTCHA_{name}": value for name, value in given.items()}


def read(picture):
    """What the shipped reader reads."""
    image = Image.open(io.BytesIO(base64.b64decode(picture["data"])))
    x = torch.tensor(list(image.convert("RGB").tobytes())).view(1, image.height, image.width, 3) / 127.5 - 1
    run = open_run("captcha-release-reader")
    return run.space.cond.decode(run.model.read(x.permute(0, 3, 1, 2))[0])[0]


def test_a_demonstration_draws_asks_and_verifies_and_ends_whole():
    with serving("--port", "0", "--demo") as (process, said):
        address = said["address"]
        within(SLOW, lambda: answers(address, "/ready"))
        assert httpx.get(f"{address}/health").json()["drawer"] == "the run captcha-release"
        with httpx.Client(base_url=address, timeout=60) as client:
            visitor = Visitor(client, {"origin": address}, DEMO)
            asked = visitor.ask().json()
            token = visitor.type(asked["id"], read(asked["picture"])).json()["token"]
            site, secret = re.fullmatch(
                r"site key (\w+), secret (\w+), until the service ends\n", process.stdout.readline()
            ).groups()
            assert site == DEMO
            assert client.post("/siteverify", json={"secret": secret, "response": token}).json()["success"]
        drawing = children(process.pid)
        assert drawing
        process.send_signal(signal.SIGTERM)
        assert process.wait(SLOW) == 0
        within(SLOW, lambda: not any(map(running, drawing)))
        said = events(process.log)
        (begun,) = [event for event in said if event["event"] == "drawing begins"]
        assert (begun["drawer"], begun["length"], begun["alphabet"]) == ("the run captcha-release", "5 to 6", 24)
        assert [event["event"] for event in said].index("stopped") == len(said) - 1


def test_a_kill_loses_nothing_and_leaves_no_process(tmp_path):
    """Two workers; a challenge, and a token, that were given before the kill are good after it, once."""
    address = f"sqlite:///{tmp_path}/captcha.sqlite"
    store = open_store(address)
    fill(store, 8)
    words = ("--part", "api", "--workers", "2")
    with serving("--port", "0", *words, environment=environment(address)) as (process, said):
        at = said["address"]
        within(SLOW, lambda: answers(at, "/ready"))
        with httpx.Client(base_url=at, timeout=60) as client:
            visitor = Visitor(client)
            name, token, used = visitor.ask().json()["id"], visitor.token(), visitor.token()
            assert visitor.verify(used)["success"]
        counted = sum(
            float(line.split()[-1])
            for line in httpx.get(f"{at}/metrics", timeout=60).text.splitlines()
            if line.startswith('captcha_outcomes_total{outcome="issued"')
        )
        assert counted == 3  # of both workers together
        left = children(process.pid)
        process.kill()
        process.wait()
        within(SLOW, lambda: not any(map(running, left)))
    with serving("--port", "0", "--part", "api", environment=environment(address)) as (process, said):
        at = said["address"]
        within(SLOW, lambda: answers(at, "/ready"))
        with httpx.Client(base_url=at, timeout=60) as client:
            visitor = Visitor(client)
            assert visitor.verify(token)["success"]
            assert visitor.verify(used)["error-codes"] == ["timeout-or-duplicate"]
            assert visitor.type(name, ANSWER).json()["solved"]
    store.close()


def test_a_worker_that_is_lost_is_an_error_in_the_log_and_started_again(tmp_path):
    words, given = (
        ("--part", "api", "--workers", "2", "--port", "0"),
        environment(f"sqlite:///{tmp_path}/captcha.sqlite"),
    )
    with serving(*words, environment=given) as (process, said):
        within(SLOW, lambda: answers(said["address"], "/health"))
        within(SLOW, lambda: len(workers(process.pid)) == 2)
        os.kill(workers(process.pid).pop(), signal.SIGKILL)

        def lost():
            return [event for event in events(process.log) if "worker was lost" in event["event"]]

        within(SLOW, lost)
        assert [(event["level"], event["code"]) for event in lost()] == [("error", -signal.SIGKILL)]
        within(SLOW, lambda: len(workers(process.pid)) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SLOW) == 0
        assert events(process.log)[-1]["event"] == "stopped"


def test_a_worker_of_a_starved_machine_is_waited_for(monkeypatch):
    made = []
    monkeypatch.setattr(starting, "Workers", lambda config, sockets: made.append(config) or Mock())
    starting._answer(None, 2, starting.FACTORY[False])
    assert made[0].timeout_worker_healthcheck == 60


def test_drawing_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "PATIENCE", 0.5)
    deaf = tmp_path / "deaf"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w'); time.sleep(300)"
    drawing = starting.Drawing([sys.executable, "-c", code])
    thread = threading.Thread(target=drawing.run)
    thread.start()
    within(SLOW, deaf.exists)
    began = time.monotonic()
    drawing.stop()
    thread.join(SLOW)
    assert not thread.is_alive()
    assert 0.5 <= time.monotonic() - began < SLOW
    assert drawing.process.returncode == -signal.SIGKILL


def test_drawing_that_starts_while_the_service_ends_is_ended(monkeypatch):
    drawing, start = starting.Drawing(["sleep", "300"]), subprocess.Popen

    def late(*words, **more):
        drawing.stop()
        return start(*words, **more)

    monkeypatch.setattr(subprocess, "Popen", late)
    thread = threading.Thread(target=drawing.run, daemon=True)
    thread.start()
    thread.join(SLOW / 2)
    assert not thread.is_alive()
    assert drawing.process.returncode == -signal.SIGKILL


def test_a_process_ends_if_its_parent_ended_before_it_could_look():
    gone = subprocess.Popen(["true"])
    gone.wait()
    code = "import time; from jensen.apps.captcha.parent import end_with_parent; end_with_parent(); time.sleep(300)"
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | {STARTER: str(gone.pid)})
    assert ran.returncode == -signal.SIGTERM


def test_a_run_whose_settings_are_broken_ends_the_service(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-c", "from jensen.cli.main import entry; entry()", "serve", tmp_path, "--demo"]
    ran = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=SLOW)
    assert ran.returncode == 2
    assert f"jensen: {tmp_path}/config.json is broken: " in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("captcha-relaese", "there is no run folder captcha-relaese; did you mean 'captcha-release'?"),
        ("empty", "empty is not a run: it has no config.json"),
        (
            "captcha-release-reader",
            "RUN must draw CAPTCHAs from their texts, got captcha-release-reader, a run of captcha-release-reader",
        ),
    ],
)
@pytest.mark.parametrize("options", [("--demo",), ("--part", "pool"), ()])
def test_what_is_not_a_run_that_draws_is_refused_before_anything_starts(run, said, options, tmp_path):
    (tmp_path / "empty").mkdir()
    code = (
        "import sys; from jensen.cli.main import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "serve", run, *options, "--port", "0"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SLOW)
    assert (ran.returncode, ran.stderr) == (2, f"jensen: {said}\n")


def test_the_families_that_draw_from_texts_are_those_that_are_served():
    ours = {kind: family for kind, family in Family.kinds.items() if family.__module__.startswith("jensen.")}
    conditional = [kind for kind, family in ours.items() if family.conditional is not Family.conditional]
    assert [(Captcha.kind, kind) for kind in conditional] == [starting.DRAWS]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "serve needs RUN, the folder of a run that draws CAPTCHAs, or --demo"),
        (["--demo", "--host", "0.0.0.0"], "--demo serves this machine only: --host must be 127.0.0.1"),
        (["--part", "api"], "JENSEN_CAPTCHA_SECRET must be set"),
        (["captcha-release"], "JENSEN_CAPTCHA_SECRET must be set"),
        (["--part", "api", "captcha-release"], "--part api draws nothing: leave RUN out"),
        (["--demo", "--part", "api"], "--demo answers and draws: leave --part out"),
        (["--demo", "--part", "pool"], "--demo answers and draws: leave --part out"),
        (["--demo", "--store", "sqlite:///x"], "--demo has a store of its own: leave --store out"),
        (["--demo", "DEMO"], "JENSEN_CAPTCHA_DEMO is no setting: a demonstration is started by jensen serve --demo"),
        (["--part", "api", "DEMO"], "JENSEN_CAPTCHA_DEMO is no setting"),
        (["--demo", "secret"], "--demo generates its secrets: leave it out, or unset jensen_captcha_secret"),
        (["--port", "70000"], "--port must be at most 65535, got '70000'"),
        (["--workers", "0"], "--workers must be at least 1, got '0'"),
        (["--part", "all of it"], "--part must be"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(words, said, capsys, monkeypatch):
    monkeypatch.delenv("JENSEN_CAPTCHA_SECRET", raising=False)
    variables = {"DEMO": "JENSEN_CAPTCHA_DEMO", "secret": "jensen_captcha_secret"}  # set, if its name is a word
    for name in variables.keys() & set(words):
        monkeypatch.setenv(variables[name], "1")
    words = [word for word in words if word not in variables]
    before = dict(os.environ)
    assert main(["serve", *words]) == 2
    assert said in capsys.readouterr().err
    assert dict(os.environ) | {"MPLBACKEND": ""} == before | {"MPLBACKEND": ""}


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [
        (
            "mysql://x",
            2,
            "the store must be sqlite:///FILE, redis://HOST:PORT/NUMBER or postgresql://USER@HOST/DATABASE",
        ),
        ("redis://127.0.0.1:1/0", 1, "the store cannot be reached (Redis: ConnectionError)"),
        ("postgresql://u@127.0.0.1:1/x", 1, "the store cannot be reached (PostgreSQL: PoolTimeout)"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(store, code, said, capsys, monkeypatch):
    for name, value in environment("sqlite:///x").items():
        monkeypatch.setenv(name, value)
    assert main(["serve", "--part", "api", "--store", store]) == code
    assert capsys.readouterr().err == f"jensen: {said}\n"


def test_a_port_in_use_is_refused(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "--demo", "--port", port]) == 2
    assert f"--host and --port must be free to listen on, got 127.0.0.1 {port}" in capsys.readouterr().err


def test_the_extra_that_is_missing_is_named(capsys, monkeypatch):
    monkeypatch.setattr(extra, "NEEDED", ("fastapi", "no_such_package"))
    assert main(["serve", "--demo"]) == 2
    assert (
        capsys.readouterr().err == "jensen: jensen serve needs no_such_package: install jensen with the extra serve\n"
    )


def test_help_and_other_commands_do_not_need_the_extra():
    code = "import sys, jensen.cli.main, jensen.cli.serving as _; print({'fastapi', 'torch'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
