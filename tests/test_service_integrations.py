"""The forms in examples/, each started by the command that it names and used as a visitor does, with a real service."""

from __future__ import annotations

import html
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from captcha_service import ANSWER, HOST, OTHER, SECRETS, SITE, Visitor, listening
from servers import ROOT, SLOW, answers, free_port, within


def command(example, port):
    """The command of an example's first lines, on another port."""
    text = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")
    name, *words = shlex.split(re.search(r"export CAPTCHA_SECRET=\.\.\.\n(.*5000)\n", text)[1])
    words = [word.replace("5000", str(port)) for word in words]
    return [sys.executable, *([] if name == "python" else ["-m", name]), *words]


def fields(page):
    """The hidden fields of a form, which a browser sends with it."""
    found = re.findall(r'<input type="hidden" name="([\w-]+)" value="([^"]*)">', page)
    return {name: html.unescape(value) for name, value in found}


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


EXAMPLES = pytest.mark.parametrize("example", ["captcha_flask", "captcha_fastapi", "captcha_django"])
SITES = {SITE: {"secret": SECRETS[SITE], "hostnames": [HOST, "127.0.0.1"]}}


@EXAMPLES
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


def solved(page):
    """What the button of the check sends, and where to, for a browser that follows a link to `page`."""
    with httpx.Client(timeout=60) as browser:
        shown = browser.get(page)
        assert shown.status_code == 200, shown.text
        passed = browser.post(page.partition("?")[0], data=fields(shown.text) | {"answer": ANSWER}).text
    return html.unescape(re.search(r'<form method="post" action="(http[^"]*)">', passed)[1]), fields(passed)


@EXAMPLES
def test_without_javascript_the_check_comes_first_and_the_form_after_it(example, tmp_path):
    with listening(tmp_path, sites=SITES) as (service, _):
        environment = {"CAPTCHA": service, "CAPTCHA_SITE_KEY": SITE, "CAPTCHA_SECRET": SECRETS[SITE]}
        with running(example, environment) as browser:
            page = browser.get("/").text
            link = html.unescape(re.search(r'<noscript>.*?<a href="([^"]*)">.*?</noscript>', page)[1])
            assert page.index(link.partition("?")[0]) < page.index('name="name"')  # before anything is typed
            address, sent = solved(link)
            assert address == str(browser.base_url.join("/checked"))
            browser.cookies.clear()  # those of SameSite=Lax are not sent from another site
            form = browser.post(address, data=sent, headers={"origin": service})
            assert form.status_code == 200, form.text
            assert fields(form.text).items() >= sent.items()
            assert 'jensen-captcha"' not in form.text  # no widget, which would have a token of its own
            answers = [browser.post("/", data=fields(form.text) | {"name": "x"}) for _ in range(2)]
            assert [(answer.status_code, "Welcome" in answer.text) for answer in answers] == [(200, True), (400, False)]


@EXAMPLES
def test_a_token_that_another_site_sends_is_text(example, tmp_path):
    hostile = "\"'><script>alert(1)</script>&{}{{7*7}}{%x%}"
    with running(example, {"CAPTCHA_SECRET": "x"}) as browser:
        form = browser.post(
            "/checked", data={"jensen-captcha-response": hostile}, headers={"origin": "https://a.example"}
        )
        assert form.status_code == 200
        assert fields(form.text)["jensen-captcha-response"] == hostile
        assert "<script>alert" not in form.text
