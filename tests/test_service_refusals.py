"""The CAPTCHA service over HTTP: what it refuses, with the status and the sentence, and what its answers hold."""

from __future__ import annotations

import gzip
import json
import logging
import re
from io import StringIO

import pytest
from pydantic import ValidationError

from captcha_service import (
    ANSWER,
    HOST,
    ORIGIN,
    SECRETS,
    SITE,
    Visitor,
    refused,
    visiting,
)
from jensen.apps.captcha import demo
from jensen.apps.captcha.api import forms, guard
from jensen.apps.captcha.logs import Lines

ODD = [
    f"https://evil@{HOST}",
    f"https://{HOST}/",
    f"https://{HOST}?x",
    f"ftp://{HOST}",
    f"//{HOST}",
    f"https://{HOST}:x",
]


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", f"https://{HOST}.evil.example", "http://[", HOST, *ODD]
)
def test_pages_of_other_hostnames_are_refused(visitor, origin):
    elsewhere = Visitor(visitor.client, {} if origin is None else {"origin": origin})
    refused(elsewhere.ask(), 403, "wrong-hostname")
    refused(elsewhere.type(visitor.ask().json()["id"]), 403, "wrong-hostname")


def test_what_is_not_there_is_said(visitor):
    refused(visitor.ask(site_key="nobody"), 404, "unknown-site")
    refused(visitor.type("A" * 24), 404, "unknown-challenge")
    refused(visitor.client.get("/nowhere"), 404, "http-404")
    refused(visitor.client.post("/siteverify/", data={"secret": "x"}), 404, "http-404")  # and is not sent on by HTTP
    for path, asked, taken in (
        ("/challenge", "GET", "POST"),
        ("/turnstile/v0/siteverify", "GET", "POST"),
        ("/health", "POST", "GET and HEAD"),
        ("/page", "DELETE", "GET, HEAD and POST"),
    ):
        response = refused(visitor.client.request(asked, path), 405, "http-405")
        assert response.json()["error"] == f"{path} takes {taken}."
        assert response.headers["allow"] == taken.replace(" and ", ", ")
    refused(visitor.type(visitor.ask().json()["id"], " \t"), 422, "empty-answer")


BODIES = [
    (b"", 422, "invalid-field"),
    (b"{", 400, "bad-json"),
    (b"\xff\xfe", 400, None),
    (b"null", 422, "invalid-field"),
    (b"[]", 422, "invalid-field"),
    (b"[" * 10_000, 400, None),
    (b'{"site_key": "shop", "more": 1}', 422, "invalid-field"),
    (b'{"site_key": 1}', 422, "invalid-field"),
    (b'{"site_key": "shop\\n"}', 422, "invalid-field"),
    (b'{"site_key": "\\ud800"}', 422, "invalid-field"),
    (b'{"site_key": "shop", "action": "\\u0000"}', 422, "invalid-field"),
    (b'{"site_key": "shop", "action": "' + b"a" * 33 + b'"}', 422, "invalid-field"),
    (b'{"site_key": "shop", "cdata": "' + b"a" * 256 + b'"}', 422, "invalid-field"),
]


@pytest.mark.parametrize(("body", "status", "code"), BODIES)
def test_bodies_that_are_no_requests(visitor, body, status, code):
    response = visitor.client.post("/challenge", content=body, headers={"content-type": "application/json", **ORIGIN})
    refused(response, status, code or response.json()["code"])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/challenge", {"cdata": "hello world"}, "cdata must be text of at most 255 letters, digits, _ and -."),
        ("/challenge", {"action": 5}, "action must be text of at most 32 letters, digits, _ and -."),
        ("/challenge", {"lang": "de_AT"}, "lang must be text of at most 35 letters, digits and -."),
        ("/challenge", {"site_key": ""}, "site_key must be text of 1 to 64 letters, digits, _ and -."),
        ("/challenge", {"more": 1}, "/challenge takes site_key, action, cdata and lang only."),
        ("/challenge", [], "The body must be a JSON object."),
        ("/challenge", None, "The body must be a JSON object."),
        ("/answer", {"id": "x", "answer": "x"}, "id must be text of 24 letters, digits, _ and -."),
        ("/answer", {"id": "A" * 24, "answer": "x" * 65}, "answer must be text of at most 64 characters."),
        ("/answer", {"id": "A" * 24}, "answer must be given."),
        ("/answer", {"id": "A" * 24, "answer": "x", "lang": ""}, "/answer takes site_key, id and answer only."),
    ],
)
def test_what_a_request_must_be_is_said(visitor, path, body, said):
    given = {"site_key": SITE} | body if isinstance(body, dict) else body
    headers = {"content-type": "application/json", **ORIGIN}
    response = refused(visitor.client.post(path, content=json.dumps(given), headers=headers), 422, "invalid-field")
    assert response.json()["error"] == said


def test_the_lengths_that_are_said_are_those_that_are_taken():
    right = {"site_key": SITE, "id": "A" * 24, "answer": "x"}
    for form in forms.FORMS.values():
        for name in form.model_fields:
            most = int(re.findall("[0-9]+", forms.RULES[name])[-1])
            given = {key: value for key, value in right.items() if key in form.model_fields}
            assert getattr(form.model_validate(given | {name: "a" * most}), name) == "a" * most
            with pytest.raises(ValidationError):
                form.model_validate(given | {name: "a" * (most + 1)})


def test_bodies_are_plain_utf_8(visitor):
    headers = {"content-type": "application/json", **ORIGIN}
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        content = json.dumps({"site_key": SITE}).encode(encoding)
        response = refused(visitor.client.post("/challenge", content=content, headers=headers), 400, "bad-json")
        assert response.json()["error"] == "The body must be JSON in UTF-8."
        content = json.dumps({"secret": SECRETS[SITE], "response": "x"}).encode(encoding)
        response = visitor.client.post("/siteverify", content=content, headers=headers)
        assert response.json()["error-codes"] == ["bad-request"]
    for path in ("/challenge", "/answer", "/siteverify"):
        content = gzip.compress(json.dumps({"site_key": SITE}).encode())
        response = visitor.client.post(path, content=content, headers=headers | {"content-encoding": "gzip"})
        assert refused(response, 415, "encoded").json()["error"].startswith("A body must not be compressed")
    assert visitor.client.post(
        "/challenge", json={"site_key": SITE}, headers=ORIGIN | {"content-encoding": "identity"}
    ).is_success


def test_what_was_typed_is_never_repeated(visitor):
    name = visitor.ask().json()["id"]
    for form in ({"answer": ["MARKED"]}, {"answer": "MARKED" * 20}, {"MARKED": 1}, {"id": "MARKED"}):
        response = refused(visitor.type(name, **{"answer": "x", **form}), 422, "invalid-field")
        assert "MARKED" not in response.text


def test_other_media_and_sizes_are_refused(visitor):
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        response = visitor.client.post("/challenge", content=b"{}", headers={"content-type": media, **ORIGIN})
        refused(response, 415, "not-json")
    for path in ("/challenge", "/answer", "/siteverify", "/nowhere"):
        for content in (b"x" * 16_385, iter([b"x" * 9000, b"x" * 9000])):  # with and without a stated length
            refused(visitor.client.post(path, content=content), 413, "too-large")
    assert visitor.client.post("/siteverify", content=b"x" * 16_384).status_code == 200


def test_siteverify_says_what_is_wrong_by_its_published_code(visitor):
    def said(**more):
        return visitor.client.post("/siteverify", **more).json()["error-codes"]

    secret = SECRETS[SITE]
    assert said(data={}) == ["bad-request"]
    assert said(data={"response": "x"}) == ["missing-input-secret"]
    assert said(data={"secret": secret}) == ["missing-input-response"]
    assert said(data={"x": "y"}) == ["missing-input-secret", "missing-input-response"]
    assert said(data={"secret": "nobody", "response": "x"}) == ["invalid-input-secret"]
    assert said(data={"secret": secret[:-1], "response": "x"}) == ["invalid-input-secret"]
    lone = b'{"secret": "\\ud800", "response": "x"}'
    assert said(content=lone, headers={"content-type": "application/json"}) == ["invalid-input-secret"]
    assert said(data={"secret": secret, "response": "x"}) == ["invalid-input-response"]
    assert said(json={"secret": secret, "response": "x"}) == ["invalid-input-response"]
    assert said(json={"secret": secret, "response": None}) == ["missing-input-response"]
    assert said(json={"secret": secret, "response": 1}) == ["bad-request"]
    assert said(json=["secret"]) == ["bad-request"]
    assert said(json={"secret": secret, "response": "x" * 5000}) == ["bad-request"]
    assert said(content=b"{", headers={"content-type": "application/json"}) == ["bad-request"]
    twice = json.dumps({"secret": secret, "response": "x"})[:-1] + ', "secret": "y"}'
    assert said(content=twice, headers={"content-type": "application/json"}) == ["bad-request"]
    assert said(content=b"[" * 10_000, headers={"content-type": "application/json"}) == ["bad-request"]
    assert said(content=b"\xff", headers={"content-type": "application/json"}) == ["bad-request"]
    assert said(content=b"secret=a&secret=b", headers={"content-type": "application/x-www-form-urlencoded"}) == [
        "bad-request"
    ]
    assert said(content=b"x", headers={"content-type": "text/plain"}) == ["bad-request"]
    assert said(content=b"x", headers={"content-type": "multipart/form-data"}) == ["bad-request"]
    assert said(files={"secret": b"file"}) == ["bad-request"]
    assert said(files={"secret": (None, secret), "response": (None, "x")}) == ["invalid-input-response"]


def test_headers_of_every_answer(visitor):
    name = visitor.ask().json()["id"]
    responses = [
        visitor.ask(),
        visitor.type(name, ""),
        visitor.client.get("/nowhere"),
        visitor.client.post("/siteverify"),
    ]
    for response in (*responses, visitor.client.post("/answer", content=b"x" * 20_000)):
        assert guard.HEADERS.items() <= dict(response.headers).items()
        assert "set-cookie" not in response.headers
        assert "server" not in response.headers


NAMED = "The Origin header must name a hostname of a site."


def test_pages_of_the_sites_alone_may_read_answers(visitor):
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = visitor.client.options("/challenge", headers=ORIGIN | asked)
    assert preflight.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert visitor.ask().headers["access-control-allow-origin"] == ORIGIN["origin"]
    for origin in ("https://evil.example", f"https://{HOST}.evil.example", "https://shopxexample", "null"):
        found = visitor.client.options("/challenge", headers={"origin": origin} | asked)
        assert refused(found, 403, "wrong-hostname").json()["error"] == NAMED
        assert "access-control-allow-origin" not in found.headers
    for more in ({"access-control-request-method": "PUT"}, {"access-control-request-headers": "x-other"}):
        refused(visitor.client.options("/challenge", headers=ORIGIN | asked | more), 403, "wrong-preflight")


def test_an_error_that_nobody_foresaw_repeats_nothing(visitor, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError(f"the answer was {ANSWER}")

    name = visitor.ask().json()["id"]
    lines = StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(Lines())
    monkeypatch.setattr(logging.getLogger("jensen.captcha"), "handlers", [handler])
    monkeypatch.setattr(visitor.store, "answer", broken)
    response = refused(visitor.type(name), 500, "internal-error")
    assert guard.HEADERS.items() <= dict(response.headers).items()
    assert ANSWER not in lines.getvalue()
    (line,) = [found for found in map(json.loads, lines.getvalue().splitlines()) if "error" in found]
    assert line["error"] == "RuntimeError"
    assert "test_service_refusals.py" in line["at"][-1]


def test_test_keys_are_for_a_demonstration_on_this_machine(tmp_path):
    host = {"origin": "http://localhost:8000"}
    with visiting(tmp_path, demo=True, trusted_proxies=["127.0.0.0/8"]) as visitor:
        passes, fails = (Visitor(visitor.client, host, key) for key in (demo.PASSES, demo.FAILS))
        assert passes.type(passes.ask().json()["id"], "anything").json()["solved"]
        assert not fails.type(fails.ask().json()["id"]).json()["solved"]
        said = [
            visitor.client.post("/siteverify", data={"secret": secret, "response": "x"}).json()
            for secret in demo.VERIFICATIONS
        ]
        assert [found["error-codes"] for found in said] == [[], ["invalid-input-response"], ["timeout-or-duplicate"]]
        assert [found["success"] for found in said] == [True, False, False]
        for proxied in ("x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host"):
            refused(visitor.client.get("/health", headers={proxied: "127.0.0.1"}), 403, "demonstration")
        for name in ("captcha.shop.example", "127.0.0.1.example", "localhost.example:80", "evil@localhost", ""):
            refused(visitor.client.get("/health", headers={"host": name}), 403, "demonstration")
        for name in ("localhost", "127.0.0.1:80", "[::1]:8000"):
            assert visitor.client.get("/health", headers={"host": name}).status_code == 200
    with visiting(tmp_path) as visitor:
        refused(Visitor(visitor.client, host, demo.PASSES).ask(), 404, "unknown-site")
        for secret in demo.VERIFICATIONS:
            found = visitor.client.post("/siteverify", data={"secret": secret, "response": "x"}).json()
            assert found["error-codes"] == ["invalid-input-secret"]
