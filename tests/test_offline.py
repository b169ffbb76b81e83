"""jensen needs no network: it is used in a process in which looking up a name or reaching another machine raises."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tiny import tiny

# Python imports sitecustomize at its start, in every process: each refuses, and says so in a file, even if its caller
# catches the error. Audit hooks see every call of the socket module and cannot be removed. They do not see sockets that
# a library opens in C++.
GUARD = """
import ipaddress, os, sys

def loopback(host):
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except (AttributeError, ValueError):
        return host in ("localhost", b"localhost", None)

def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = args[1][0] if isinstance(args[1], tuple) else "localhost"  # else a path: of a socket in the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    else:
        return
    if not loopback(host):
        with open(os.environ["REACHED"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError(f"no network: {event} {host}")

sys.addaudithook(watch)
"""
USE = """
import sys
from jensen.cli.main import main
import jensen
run, train = sys.argv[1], sys.argv[2:]
assert main(["recipes"]) == 0
jensen.load_data("digits")
assert main(train) == 0
assert main(["sample", run, "-n", "4", "--out", run + "/x.png"]) == 0
assert main(["evaluate", run]) == 0
assert main(["check", "dirac-gan/equilibrium"]) == 0
"""


@pytest.fixture
def offline(tmp_path):
    """Runs Python behind the guard: the finished process, and what it tried to reach."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    reached = tmp_path / "reached"
    path = os.pathsep.join(filter(None, (str(tmp_path / "guard"), os.environ.get("PYTHONPATH"))))

    def run(code, *words):
        environment = os.environ | {"PYTHONPATH": path, "REACHED": str(reached)}
        ran = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        return ran, reached.read_text(encoding="utf-8") if reached.exists() else ""

    return run


def test_a_run_is_trained_drawn_judged_and_checked_without_a_network(offline, tmp_path):
    run = str(tmp_path / "run")
    ran, reached = offline(USE, run, "train", "digits-vae", "--out", run, "--steps", "2", *tiny("digits-vae"))
    assert ran.returncode == 0, ran.stderr
    assert reached == ""
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('192.0.2.1', 80))",
        "socket.getaddrinfo('example.org', 80)",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))",
        "urllib.request.urlopen('https://example.org')",
    ],
)
def test_the_guard_refuses_and_remembers(offline, call):
    ran, reached = offline(f"import contextlib, socket, urllib.request\nwith contextlib.suppress(OSError): {call}")
    assert ran.returncode == 0, ran.stderr
    assert "192.0.2.1" in reached or "example.org" in reached


def test_loopback_and_sockets_of_the_file_system_pass(offline, tmp_path):
    code = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, {str(tmp_path / "s")!r})):
    server = socket.socket(family)
    server.bind(address)
    server.listen()
    socket.socket(family).connect(server.getsockname())
"""
    ran, reached = offline(code)
    assert ran.returncode == 0, ran.stderr
    assert reached == ""
