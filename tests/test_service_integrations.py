"""The forms in examples/, each started by the command that it names and used as a visitor does, with a real service."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from captcha_service import OTHER, SECRETS, SITE, Visitor, listening
from servers import ROOT, SLOW, answers, free_port, within


def command(example, port):
    """The command of an example's first lines, on another port."""
    text = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")
    name, *words = shlex.split(re.search(r"export CAPTCHA_SECRET=\.\.\.\n(.*5000)\n", text)[1])
    words = [word.replace("5000", str(port)) for word in words]
    return [sys.executable, *([] if name == "python" else ["-m", name]), *words]


def fields(page):
    """The hidden fields of a form, which a browser sends with it."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', page))


@contextmanager
def running(example, environment):
    """A browser at an example's form."""
    port = free_port()
    with subprocess.Popen(command(example, port), cwd=ROOT, env=os.environ | environment) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as browser:
                within(SLOW, lambda: answers(str(browser.base_url)))
                yield browser
        finally:
            process.terminate()


@pytest.mark.parametrize("example", ["captcha_flask", "captcha_fastapi", "captcha_django"])
def test_a_form_accepts_a_solved_captcha_once_and_nothing_else(example, tmp_path):
    with ExitStack() as stack:
        service, _ = stack.enter_context(listening(tmp_path))
        client = stack.enter_context(httpx.Client(base_url=service, timeout=60))
        visitor, stranger = Visitor(client), Visitor(client, {"origin": f"https://{OTHER}.example"}, OTHER)
        environment = {"CAPTCHA": service, "CAPTCHA_SITE_KEY": SITE, "CAPTCHA_SECRET": SECRETS[SITE]}
        with running(example, environment) as browser:
            page = browser.get("/").text
            assert f'<script src="{service}/widget.js" defer></script>' in page
            assert answers(service, "/widget.js")
            assert f'<div class="jensen-captcha" data-site-key="{SITE}"></div>' in page

            def send(**more):
                return browser.post("/", data=fields(page) | {"name": "x"} | more).status_code

            def sent(*tokens):
                return [send(**{"jensen-captcha-response": token}) for token in tokens]

            first, second, third = visitor.token(), visitor.token(), visitor.token()
            assert sent(first, first) == [200, 400]
            assert sent("", "x", second[:-1], stranger.token()) == [400] * 4
            assert send() == 400
            assert sent(second) == [200]
            stack.close()  # the service ends
            assert sent(third) == [400]
