"""The files of deploy/: linters find nothing, what they name exists, and what they start answers."""

from __future__ import annotations

import fnmatch
import inspect
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import yaml
from redis import Redis

from captcha_service import HOST, SECRET, SECRETS, SITE, Visitor, listening
from jensen.apps.captcha.settings import PREFIX, Settings
from jensen.cli.main import serve
from servers import ROOT, SLOW, answers, caddy, missing, redis_server, serving, within

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
FILES = ("Caddyfile", "Dockerfile", "compose.yaml", "jensen-captcha.service")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SITES = json.dumps({SITE: {"secret": SECRETS[SITE], "hostnames": [HOST]}})


def text(name):
    return (DEPLOY / name).read_text(encoding="utf-8")


def instructions():
    """The instructions of the Dockerfile and their words."""
    lines = re.sub(r"\\\n\s*", "", text("Dockerfile")).splitlines()
    return [line.split(" ", 1) for line in lines if line and not line.startswith("#")]


def instruction(name):
    """The words of the last instruction of that name."""
    return [words for found, words in instructions() if found == name][-1]


def unit():
    """The settings of the systemd unit; each may be given several times."""
    found = defaultdict(list)
    for line in text("jensen-captcha.service").splitlines():
        if re.match(r"\w+=", line):
            found[line.partition("=")[0]].append(line.partition("=")[2])
    return found


def variables(words):
    return dict(word.split("=", 1) for word in words)


# -- linters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "hadolint deploy/Dockerfile",
        "check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml",
        "caddy validate --config deploy/Caddyfile --adapter caddyfile",
        "caddy fmt --diff deploy/Caddyfile",
    ],
)
def test_linters_find_nothing(command, tmp_path):
    name, *words = command.split()
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
    ran = subprocess.run([BIN / name, *words], cwd=ROOT, env=os.environ | homes, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_systemd_understands_the_unit_and_finds_it_closed(tmp_path):
    """An exposure of at most 2.0, of 10; `systemd-analyze security` calls 2 to 5 medium."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze is not installed")
    path = tmp_path / "jensen-captcha.service"
    path.write_text(text(path.name).replace("/opt/jensen/bin/jensen", str(BIN / "jensen")))
    for words in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=20", "--no-pager"]):
        ran = subprocess.run(["systemd-analyze", *words, path], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert path.name not in ran.stderr  # an unknown setting is a warning


# -- what they name ---------------------------------------------------------------------------------------------------


def test_every_setting_exists_and_no_secret_is_given():
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", "".join(map(text, FILES)) + page))
    assert {name.lower() for name in named} <= Settings.model_fields.keys()
    assert named >= {"SECRET", "SITES", "STORE", "TRUSTED_PROXIES"}
    given = [variables(map(unquoted, unit()["Environment"]))]
    given += [service.get("environment", {}) for service in COMPOSE["services"].values()]
    given += [variables(words.split()) for name, words in instructions() if name == "ENV"]
    assert not [name for names in given for name in names if re.search("SECRET|SITES|TOKEN|PASSWORD", name)]


def unquoted(word):
    return shlex.split(word)[0]


def test_ports_agree():
    default = inspect.signature(serve).parameters["port"].default
    (published,) = COMPOSE["services"]["api"]["ports"]
    words = COMPOSE["services"]["api"]["command"], shlex.split(unit()["ExecStart"][0])
    ports = [
        *published.split(":")[1:],
        *(found[found.index("--port") + 1] for found in words),
        instruction("EXPOSE"),
        *re.findall(r"127\.0\.0\.1:(\d+)", text("Dockerfile") + text("Caddyfile")),
        *re.findall(r"api:(\d+)", text("compose.yaml")),
    ]
    assert "--port" not in instruction("CMD")
    assert ports == [str(default)] * 8


def test_the_proxy_that_is_trusted_is_the_gateway_of_its_network():
    (network,) = COMPOSE["networks"]["outside"]["ipam"]["config"]
    for name in ("api", "pool"):
        trusted = COMPOSE["services"][name]["environment"][f"{PREFIX}TRUSTED_PROXIES"]
        assert json.loads(trusted) == [f"{network['gateway']}/32"]
    assert COMPOSE["services"]["api"]["ports"][0].startswith("127.0.0.1:")
    assert set(COMPOSE["secrets"]) == {f"{PREFIX}SECRET", f"{PREFIX}SITES"}


def test_redis_refuses_to_write_before_it_is_killed():
    service = COMPOSE["services"]["redis"]
    with redis_server(*service["command"][1:]) as address, Redis.from_url(address) as client:
        memory = client.info("memory")
    assert (memory["maxmemory"], memory["maxmemory_policy"]) == (384 * 2**20, "noeviction")
    assert service["mem_limit"] == "512m"


def test_the_token_of_metrics_is_there_when_the_comment_signs_are_removed():
    found = yaml.safe_load(re.sub("# (?=- JENSEN|JENSEN|  file)", "", text("compose.yaml")))
    secrets = {f"{PREFIX}{name}" for name in ("SECRET", "SITES", "METRICS_TOKEN")}
    assert secrets == found["secrets"].keys() == set(found["services"]["api"]["secrets"])
    assert found["secrets"][f"{PREFIX}METRICS_TOKEN"] == {"file": "./secrets/METRICS_TOKEN"}


def test_the_proxy_of_the_docs_is_that_of_the_file():
    _, _, block = text("Caddyfile").partition("\n")
    assert f"```\n{block}```\n" in (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_what_is_copied_makes_the_whole_package(tmp_path):
    """The COPY instructions, of files that the ignore file leaves, then the same back end that pip calls."""
    kept = [line[1:] for line in text("Dockerfile.dockerignore").splitlines() if line.startswith("!")]
    copied = [words.split() for name, words in instructions() if name == "COPY" and "--from" not in words]
    for *sources, to in copied:
        for source in sources:
            assert any(fnmatch.fnmatch(source, f"{name}*") for name in kept), source
            place = tmp_path / to / ("" if source == to else Path(source).name)
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place, **({"dirs_exist_ok": True} if copy is shutil.copytree else {}))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    made = set(ZipFile(wheel).namelist())
    files = [
        path for path in (ROOT / "src" / "jensen").rglob("*") if path.is_file() and path.parent.name != "__pycache__"
    ]
    assert {str(path.relative_to(ROOT / "src")) for path in files} <= made


def test_the_image_has_the_extras_that_the_stores_of_deploy_need():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (asked,) = re.findall(r"'\.\[(.*)\]'", text("Dockerfile"))
    assert set(asked.split(",")) <= extras.keys()
    assert {"serve", COMPOSE["services"]["api"]["environment"][f"{PREFIX}STORE"].split(":")[0]} <= set(asked.split(","))


# -- what they start --------------------------------------------------------------------------------------------------


def on_any_port(words):
    """A command, on a port that is free."""
    assert words.count("8000") == 1
    return [word.replace("8000", "0") for word in words]


def credentials(place):
    """A folder of secrets, as systemd and Docker make it."""
    place.mkdir()
    for name, value in (("SECRET", SECRET), ("SITES", SITES)):
        (place / f"{PREFIX}{name}").write_text(f"{value}\n")
    return {"CREDENTIALS_DIRECTORY": str(place)}


def ends(process):
    process.terminate()
    return process.wait(SLOW)


def test_the_command_of_the_unit_answers_and_draws(tmp_path):
    found = unit()
    program, name, *words = shlex.split(found["ExecStart"][0])
    assert (Path(program).name, name) == ("jensen", "serve")
    assert found["LoadCredential"] == [f"{PREFIX.removesuffix('_')}:/etc/jensen-captcha"]
    assert found["StateDirectory"] == ["jensen-captcha"]
    environment = variables(map(unquoted, found["Environment"]))
    assert environment["MPLCONFIGDIR"] == "%T"  # systemd's name of the folder for temporary files
    environment["MPLCONFIGDIR"] = str(tmp_path)
    state = f"/var/lib/{found['StateDirectory'][0]}/"
    assert state in environment[f"{PREFIX}STORE"]
    environment[f"{PREFIX}STORE"] = environment[f"{PREFIX}STORE"].replace(state, f"{tmp_path}/")
    environment |= credentials(tmp_path / "credentials")
    with serving(*on_any_port(words), environment=environment) as (process, said):
        within(SLOW, lambda: answers(said["address"], "/ready"))
        assert ends(process) == 0
    assert (tmp_path / "captcha.sqlite").exists()


def health(service, address):
    """The exit code of a service's check, or else of the image's, at an address."""
    given = service.get("healthcheck", {}).get("test") or json.loads(instruction("HEALTHCHECK").split("CMD ")[1])
    *_, program, option, code = given
    assert (program, option) == ("python", "-c")
    command = [sys.executable, "-c", re.sub(r"http://(127\.0\.0\.1|api):8000", address, code)]
    assert address in command[-1]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def test_the_services_of_compose_answer_draw_and_are_healthy(tmp_path):
    api, pool, redis = (COMPOSE["services"][name] for name in ("api", "pool", "redis"))
    assert json.loads(instruction("ENTRYPOINT")) == ["jensen", "serve"]
    program, *words = redis["command"]
    assert program == "redis-server"
    with redis_server(*words) as store:
        environment = pool["environment"] | {f"{PREFIX}STORE": store} | credentials(tmp_path / "secrets")
        with serving(*on_any_port(api["command"]), environment=environment) as (answering, said):
            address = said["address"]
            within(SLOW, lambda: answers(address, "/health"))
            assert (health(api, address), health(pool, address)) == (0, 1)
            with serving(*pool["command"], environment=environment) as (drawing, _):
                within(SLOW, lambda: answers(address, "/ready"))
                assert (health(api, address), health(pool, address)) == (0, 0)
                assert (ends(drawing), ends(answering)) == (0, 0)
            assert (health(api, address), health(pool, address)) == (1, 1)


def test_a_visitor_is_known_through_the_proxy_and_cannot_be_another(tmp_path):
    trusted = json.loads(variables(map(unquoted, unit()["Environment"]))[f"{PREFIX}TRUSTED_PROXIES"])
    with (
        listening(tmp_path, issue_rate="2/minute", trusted_proxies=trusted) as (service, _),
        caddy(service, "localhost") as (port, authority),
    ):
        context = ssl.create_default_context(cafile=authority)

        def asked(source, count, **headers):
            transport = httpx.HTTPTransport(verify=context, local_address=source)
            with httpx.Client(base_url=f"https://localhost:{port}", transport=transport, timeout=60) as client:
                visitor = Visitor(client)
                visitor.headers = visitor.headers | headers
                return [visitor.ask().status_code for _ in range(count)]

        assert asked("127.0.0.2", 3) == [201, 201, 429]
        assert asked("127.0.0.3", 3) == [201, 201, 429]
        assert asked("127.0.0.3", 1, **{"x-forwarded-for": "127.0.0.4"}) == [429]
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context, timeout=60) as client:
            for path in ("/health", "/ready", "/metrics", "/%6Detrics", "/HEALTH"):
                found = client.get(path)
                assert (found.status_code, found.content) == (404, b"")
            assert client.get("/widget.js").status_code == 200
