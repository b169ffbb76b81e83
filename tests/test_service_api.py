"""The CAPTCHA service over HTTP: every way through it, and every way that is refused, with its status and sentence."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import random
import re
import secrets
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import StringIO
from ipaddress import ip_address

import httpx
import pytest
import redis
from pydantic import ValidationError
from scipy.stats import mannwhitneyu

from captcha_service import (
    ANSWER,
    HOST,
    ORIGIN,
    OTHER,
    PICTURE,
    SECRETS,
    SITE,
    Visitor,
    fill,
    listening,
    settings,
    visiting,
)
from jensen.apps.captcha import demo, service
from jensen.apps.captcha import limits as limiting
from jensen.apps.captcha.api import forms, guard
from jensen.apps.captcha.api.app import application
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.limits import UNKNOWN, Limits
from jensen.apps.captcha.logs import Lines
from jensen.apps.captcha.service import Service
from jensen.apps.captcha.store import open_store
from servers import redis_server

LIMITS = httpx.Limits(max_connections=100)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    """A visitor of a service that tests share."""
    with visiting(tmp_path_factory.mktemp("service"), pictures=200) as found:
        yield found


@pytest.fixture
def own(tmp_path):
    """A visitor of a service of one test."""
    with visiting(tmp_path) as found:
        yield found


def refused(response, status, code):
    """Whether it is refused with one sentence, in the one form."""
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    sentence = response.json()["error"]
    assert set(response.json()) == {"error", "code"}
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence[0] == "/" or sentence.split()[0] in forms.RULES
    assert "\n" not in sentence
    return response


def test_a_picture_is_read_and_its_token_is_verified_once(visitor):
    asked = visitor.ask(action="login", cdata="cart-7")
    assert asked.status_code == 201
    assert set(asked.json()) == {"id", "picture", "audio", "expires"}
    assert base64.b64decode(asked.json()["picture"]["data"]) == PICTURE
    before = datetime.now().astimezone()
    answered = visitor.type(asked.json()["id"], " k7m pxq")
    assert answered.status_code == 200
    assert set(answered.json()) == {"solved", "token", "expires", "tries_left"}
    assert answered.json()["solved"]
    token = answered.json()["token"]
    found = visitor.verify(token, remoteip="192.0.2.1")
    solved = datetime.fromisoformat(found.pop("challenge_ts"))
    assert before - timedelta(seconds=1) < solved < before + timedelta(seconds=5)
    assert found == {"success": True, "hostname": HOST, "error-codes": [], "action": "login", "cdata": "cart-7"}
    assert visitor.verify(token) == {"success": False, "error-codes": ["timeout-or-duplicate"]}


def test_three_wrong_answers_are_final(visitor):
    name = visitor.ask().json()["id"]
    for left in (2, 1, 0):
        assert visitor.type(name, "WRONG").json() == {
            "solved": False,
            "token": None,
            "expires": None,
            "tries_left": left,
        }
    refused(visitor.type(name), 410, "closed")


def test_a_solved_challenge_is_not_solved_again(visitor):
    name = visitor.ask().json()["id"]
    assert visitor.type(name).json()["solved"]
    refused(visitor.type(name), 410, "closed")


def later(monkeypatch, seconds):
    now = service.current
    monkeypatch.setattr(service, "current", lambda: now() + 1000 * seconds)


def test_challenges_and_tokens_expire(own, monkeypatch):
    visitor = own
    name, token = visitor.ask().json()["id"], visitor.token()
    later(monkeypatch, 301)
    refused(visitor.type(name), 410, "expired")
    assert visitor.verify(token)["error-codes"] == ["timeout-or-duplicate"]


def test_an_idempotency_key_repeats_its_response(visitor):
    token, key = visitor.token(action="pay"), str(uuid.uuid4())
    first = visitor.verify(token, idempotency_key=key)
    assert first["success"]
    assert visitor.verify(token, idempotency_key=key) == first
    assert visitor.verify(token, idempotency_key=str(uuid.uuid4()))["error-codes"] == ["timeout-or-duplicate"]
    assert visitor.verify(token)["error-codes"] == ["timeout-or-duplicate"]


def test_every_changed_byte_of_a_token_is_refused(visitor):
    token = visitor.token()
    for place in range(len(token)):
        changed = token[:place] + chr(ord(token[place]) ^ 1) + token[place + 1 :]
        assert visitor.verify(changed)["error-codes"] == ["invalid-input-response"]
    for changed in (token + "A", token[:-1], token + "\0", token + " ", "\u0661" + token[1:], "A" * 3000):
        assert visitor.verify(changed)["error-codes"] == ["invalid-input-response"]
    assert visitor.verify(token)["success"]


def test_nothing_crosses_from_a_site_to_another(visitor):
    other = Visitor(visitor.client, {"origin": "https://blog.example"}, OTHER)
    name = visitor.ask().json()["id"]
    refused(other.type(name), 404, "unknown-challenge")
    refused(
        Visitor(visitor.client, {"origin": "https://shop.example"}, SITE).type(name, site_key=OTHER),
        404,
        "unknown-challenge",
    )
    token = visitor.type(name).json()["token"]
    assert other.verify(token)["error-codes"] == ["invalid-input-response"]
    assert visitor.verify(token, sitekey=OTHER)["error-codes"] == ["sitekey-secret-mismatch"]
    assert visitor.verify(token, sitekey=SITE)["success"]


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


def test_a_challenge_is_bound_to_its_hostname(visitor):
    name = visitor.ask().json()["id"]
    beside = Visitor(visitor.client, {"origin": "https://shop.example:8443"})
    assert beside.type(name, "WRONG").status_code == 200  # another port is the same hostname
    with_other_hostname = Visitor(visitor.client, {"origin": "https://blog.example"}, OTHER)
    own = with_other_hostname.ask().json()["id"]
    refused(Visitor(visitor.client, ORIGIN, OTHER).type(own), 403, "wrong-hostname")


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


@pytest.mark.parametrize("path", ["/siteverify", "/turnstile/v0/siteverify", "/recaptcha/api/siteverify"])
def test_siteverify_is_at_the_paths_of_the_published_services(visitor, path):
    form = {"secret": SECRETS[SITE], "response": visitor.token(), "sitekey": SITE, "remoteip": "2001:db8::1"}
    assert visitor.client.post(path, json=form).json()["success"]
    refused(visitor.client.get(path, params=form), 405, "http-405")  # a secret has no place in an address


def test_an_empty_pool_is_refused_and_no_picture_is_given_twice(tmp_path):
    with visiting(tmp_path, pictures=3) as visitor:
        ids = {visitor.ask().json()["id"] for _ in range(3)}
        assert len(ids) == 3
        response = refused(visitor.ask(), 503, "empty-pool")
        assert response.headers["retry-after"] == "5"
        refused(visitor.client.get("/ready"), 503, "empty-pool")


def test_as_many_challenges_are_open_as_may_be(tmp_path):
    with visiting(tmp_path, outstanding=2) as visitor:
        first = visitor.ask().json()["id"]
        visitor.ask()
        response = refused(visitor.ask(), 503, "too-many-challenges")
        assert int(response.headers["retry-after"]) >= 1
        visitor.type(first)
        assert visitor.ask().status_code == 201


def test_an_address_may_ask_so_often(tmp_path):
    with visiting(tmp_path, issue_rate="2/minute", answer_rate="1/hour", trusted_proxies=["127.0.0.0/8"]) as visitor:

        def by(address):
            return Visitor(visitor.client, {**ORIGIN, "x-forwarded-for": address})

        ids = [by("2001:db8::1").ask().json()["id"], by("2001:db8::2").ask().json()["id"]]
        response = refused(by("2001:db8::3").ask(), 429, "too-many-requests")
        assert 28 <= int(response.headers["retry-after"]) <= 30
        assert by("2001:db8:0:1::1").ask().status_code == 201  # another /64
        assert by("192.0.2.1").type(ids[0], "WRONG").status_code == 200
        refused(by("192.0.2.1").type(ids[0]), 429, "too-many-requests")
        assert by("192.0.2.2").type(ids[0]).json()["solved"]


def test_everyone_together_may_ask_so_often(tmp_path):
    with visiting(tmp_path, all_issue_rate="3/hour", trusted_proxies=["127.0.0.0/8"]) as visitor:
        found = [
            Visitor(visitor.client, {**ORIGIN, "x-forwarded-for": f"192.0.2.{k}"}).ask().status_code for k in range(4)
        ]
        assert found == [201, 201, 201, 429]


def test_secrets_may_be_wrong_so_often_and_the_right_one_always_counts(tmp_path):
    with visiting(tmp_path, failed_rate="2/minute", trusted_proxies=["127.0.0.0/8"]) as visitor:

        def by(address, secret, token="x"):
            form, headers = {"secret": secret, "response": token}, {"x-forwarded-for": address}
            return visitor.client.post("/siteverify", data=form, headers=headers)

        found = [by("192.0.2.1", secret) for secret in ("wrong", "", "wrong", "wrong")]
        assert [each.status_code for each in found] == [200, 200, 429, 429]
        assert found[2].json() == {"success": False, "error-codes": ["too-many-requests"]}
        assert 28 <= int(found[2].headers["retry-after"]) <= 30
        assert by("192.0.2.2", "wrong").status_code == 200
        for _ in range(5):
            assert by("192.0.2.1", SECRETS[SITE]).json()["error-codes"] == ["invalid-input-response"]
        assert by("192.0.2.1", SECRETS[SITE], visitor.token()).json()["success"]


def test_an_address_may_request_anything_so_often(tmp_path):
    with visiting(tmp_path, request_rate="4/minute", trusted_proxies=["127.0.0.0/8"]) as visitor:

        def by(address, path, method="GET"):
            return visitor.client.request(method, path, headers={"x-forwarded-for": address})

        paths = ("/nowhere", "/page", "/health", "/challenge")
        assert [by("192.0.2.1", path).status_code for path in paths] == [404, 422, 200, 405]
        for path in ("/nowhere", "/health", "/challenge", "/ready", "/widget.js", "/x/siteverify", "/siteverify"):
            response = refused(by("192.0.2.1", path), 429, "too-many-requests")
            assert 13 <= int(response.headers["retry-after"]) <= 15
        assert by("192.0.2.1", "/siteverify", "POST").status_code == 200
        assert by("192.0.2.2", "/health").status_code == 200
        assert {visitor.client.get("/health").status_code for _ in range(9)} == {200}  # this machine is not counted


def test_rates_in_memory_are_those_of_a_store_and_take_little_of_it(tmp_path, monkeypatch):
    chosen = settings(tmp_path, failed_rate="3/minute")
    store = open_store(chosen.store)
    limits, address, now, draws = Limits(chosen, store, Keys(chosen.secrets())), ip_address("192.0.2.1"), 0, []
    for _ in range(200):
        now += random.Random(now).randrange(30_000)
        draws.append(limits.wait_here("failed", address, now))
        assert draws[-1] == pytest.approx(store.admit("failed", now, chosen.rate("failed_rate")), abs=1e-3)
    assert 0 < draws.count(0.0) < 200
    store.close()
    monkeypatch.setattr(limiting, "MOST", 5)
    for k in range(9):
        assert limits.wait_here("failed", ip_address(f"198.51.100.{k}"), now) == 0
    assert len(limits._due) == 5


def test_a_secret_is_replaced_while_challenges_are_open(tmp_path):
    old, new, newer = (secrets.token_hex(32) for _ in range(3))
    with visiting(tmp_path, secret=old) as visitor:
        name, token = visitor.ask().json()["id"], visitor.token()
    with visiting(tmp_path, secret=new, previous_secret=old, pictures=0) as visitor:
        assert visitor.type(name).json()["solved"]
        assert visitor.verify(token)["success"]
        assert visitor.ask().status_code == 201  # a picture of the old secret
        late, token = visitor.ask().json()["id"], visitor.token()
    with visiting(tmp_path, secret=newer, previous_secret=None, pictures=0) as visitor:
        refused(visitor.type(late), 410, "expired")
        assert visitor.verify(token)["error-codes"] == ["invalid-input-response"]
        refused(visitor.ask(), 503, "empty-pool")  # pictures of forgotten secrets are dropped


def test_machines_with_one_store_are_given_a_new_secret_in_two_rounds(tmp_path):
    """Between them some sign with the new secret, which all know already."""
    old, new = (secrets.token_hex(32) for _ in range(2))
    with (
        visiting(tmp_path, secret=old, previous_secret=new) as first,
        visiting(tmp_path, secret=new, previous_secret=old) as second,
    ):
        for one, other in ((first, second), (second, first)):
            assert other.type(one.ask().json()["id"]).json()["solved"]
            assert other.verify(one.token())["success"]


def test_a_site_replaces_its_secret(tmp_path):
    new = secrets.token_hex(32)
    sites = {SITE: {"secret": new, "previous_secret": SECRETS[SITE], "hostnames": [HOST]}}
    with visiting(tmp_path, sites=sites) as visitor:
        assert visitor.verify(visitor.token())["success"]
        assert visitor.verify(visitor.token(), secret=new)["success"]


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


def test_a_store_that_is_lost_is_a_503(tmp_path):
    with redis_server() as address, visiting(tmp_path, store=address) as visitor:
        name, token = visitor.ask().json()["id"], visitor.token()
        redis.Redis.from_url(address).shutdown(nosave=True)
        assert refused(visitor.ask(), 503, "store-unavailable").headers["retry-after"] == "5"
        refused(visitor.type(name), 503, "store-unavailable")
        refused(visitor.client.get("/ready"), 503, "store-unavailable")
        response = visitor.client.post("/siteverify", data={"secret": SECRETS[SITE], "response": token})
        assert (response.status_code, response.json()) == (503, {"success": False, "error-codes": ["internal-error"]})
        assert visitor.client.get("/health").json()["drawer"] is None  # the process answers
        assert "captcha_store_up 0.0" in visitor.client.get("/metrics").text


def test_a_store_that_is_locked_is_a_503_and_nothing_is_lost(own, tmp_path, monkeypatch):
    name = own.ask().json()["id"]
    own.store._main._connection.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(tmp_path / "captcha.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused(own.type(name), 503, "store-unavailable")
        other.execute("ROLLBACK")
    assert own.type(name).json()["tries_left"] == 0
    assert own.store.find(name).tries == 1


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
    assert "test_service_api.py" in line["at"][-1]


def test_metrics_count_and_are_for_this_machine_or_a_token(tmp_path):
    with visiting(tmp_path, pictures=4, trusted_proxies=["127.0.0.0/8"]) as visitor:
        visitor.verify(visitor.token())
        visitor.store.write_status({"source": "x", "drawn": 9, "accepted": 7, "legibility": 0.95})
        page = visitor.client.get("/metrics").text
        for line in (
            'captcha_outcomes_total{outcome="issued",request="issue"} 1.0',
            'captcha_outcomes_total{outcome="accepted",request="verify"} 1.0',
            'captcha_request_seconds_count{request="answer"} 1.0',
            "captcha_pool_pictures 3.0",
            "captcha_pool_accepted 7.0",
            "captcha_pool_legibility 0.95",
            "captcha_store_up 1.0",
            "captcha_outstanding 0.0",
        ):
            assert line in page.splitlines()
        refused(visitor.client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}), 404, "http-404")
    token = secrets.token_hex(32)
    with visiting(tmp_path, metrics_token=token) as visitor:
        assert visitor.client.get("/health").json() == {"status": "ok"}
        found = visitor.client.get("/health", headers={"authorization": f"Bearer {token}"}).json()
        assert set(found) == {"status", "version", "demo", "drawer"}
        refused(visitor.client.get("/metrics"), 404, "http-404")
        refused(visitor.client.get("/metrics", headers={"authorization": f"Bearer {token}x"}), 404, "http-404")
        assert visitor.client.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_health_and_readiness(visitor):
    assert visitor.client.get("/ready").json() == {"status": "ready"}
    visitor.store.write_status({"source": "the classical drawer"})
    found = visitor.client.get("/health").json()
    assert (found["status"], found["demo"], found["drawer"]) == ("ok", False, "the classical drawer")
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"host": HOST}):  # through a proxy: a stranger
        assert visitor.client.get("/health", headers=headers).json() == {"status": "ok"}
        refused(visitor.client.get("/metrics", headers=headers), 404, "http-404")


def test_health_and_readiness_answer_head(tmp_path):
    with visiting(tmp_path, pictures=1) as visitor:
        for path in ("/health", "/ready"):
            found = visitor.client.head(path)
            assert (found.status_code, found.content) == (200, b"")
        visitor.ask()
        assert visitor.client.head("/ready").status_code == 503


def test_what_is_refused_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    with visiting(tmp_path, trusted_proxies=["127.0.0.0/8"], request_rate="1/hour") as visitor:
        client, preflight = visitor.client, {"origin": "https://evil.example", "access-control-request-method": "POST"}

        def slowly():
            yield b"{"
            time.sleep(0.5)
            yield b"}"

        monkeypatch.setattr(visitor.store, "answer", lambda *_, **__: {}["no such key"])
        for _ in range(2):
            client.get("/nowhere", headers={"x-forwarded-for": "192.0.2.1"})
        client.post("/challenge", content=b"x" * 20_000)
        client.post("/answer", content=slowly())
        client.post("/challenge", content=b"{", headers={"content-type": "application/json"})
        visitor.ask(more=1)
        client.get("/answer")
        client.post("/page", headers={"content-encoding": "br"})
        client.options("/challenge", headers=preflight)
        visitor.type(visitor.ask().json()["id"])
        page = client.get("/metrics").text
    found = re.findall(r'captcha_outcomes_total\{outcome="([^"]+)",request="([^"]+)"\} 1\.0', page)
    assert sorted(found) == sorted(
        [
            ("http-404", "other"),
            ("too-many-requests", "other"),
            ("too-large", "issue"),
            ("too-slow", "answer"),
            ("bad-json", "issue"),
            ("invalid-field", "issue"),
            ("http-405", "answer"),
            ("encoded", "page"),
            ("wrong-hostname", "preflight"),
            ("issued", "issue"),
            ("internal-error", "answer"),
        ]
    )
    with visiting(tmp_path, demo=True) as visitor:
        refused(visitor.client.get("/health", headers={"via": "x"}), 403, "demonstration")
        assert (
            'captcha_outcomes_total{outcome="demonstration",request="health"} 1.0'
            in visitor.client.get("/metrics").text
        )


@pytest.mark.parametrize(("trusted", "warnings"), [([], 1), (["10.0.0.0/8"], 1), (["127.0.0.0/8"], 0)])
def test_a_proxy_that_is_not_believed_is_a_warning_once(tmp_path, caplog, trusted, warnings):
    with visiting(tmp_path, trusted_proxies=trusted) as visitor:
        for _ in range(3):
            visitor.client.get("/health", headers={"x-forwarded-for": "192.0.2.1"})
    said = [record for record in caplog.records if "JENSEN_CAPTCHA_TRUSTED_PROXIES" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"] * warnings


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


def test_a_slow_body_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    with listening(tmp_path) as (address, _):

        def slowly():
            yield b"{"
            time.sleep(0.5)
            yield b"}"

        refused(httpx.post(f"{address}/challenge", content=slowly()), 408, "too-slow")


def test_of_many_requests_to_verify_one_token_one_succeeds(tmp_path):
    with (
        listening(tmp_path) as (address, _),
        httpx.Client(base_url=address, timeout=60, limits=LIMITS) as client,
    ):
        visitor = Visitor(client)
        token = visitor.token()
        with ThreadPoolExecutor(100) as threads:
            found = list(threads.map(lambda _: visitor.verify(token), range(300)))
    codes = Counter(tuple(each["error-codes"]) for each in found)
    assert codes == {(): 1, ("timeout-or-duplicate",): 299}


def answer_times(place, slower=0.0, count=200):
    """Seconds that wrong and right answers take, in random order.

    In turn, every second answer could meet the tick of the machine's scheduler, and always those of one kind.
    """
    chosen = settings(place)
    store = open_store(chosen.store)
    fill(store, 2 * count)
    served, found = Service(chosen, store), ([], [])
    for right in random.Random(0).sample([False, True] * count, 2 * count):
        name = served.issue(SITE, HOST, "", "", UNKNOWN).challenge.id
        begun = time.perf_counter()
        answered = served.answer(SITE, HOST, name, ANSWER if right else "K7MPXA", UNKNOWN)
        if slower and answered.token:
            time.sleep(slower)
        found[right].append(time.perf_counter() - begun)
    store.close()
    return found


def test_right_and_wrong_answers_take_times_that_cannot_be_told_apart(tmp_path):
    """Mann and Whitney's test of 200 answers of each kind at the level 1e-4; it sees one kind delayed by twice its
    interquartile range. The order is random, so that the level holds whatever else runs on the machine.
    """
    for name in ("equal", "slower"):
        (tmp_path / name).mkdir()
    wrong, right = answer_times(tmp_path / "equal")
    low, _, high = statistics.quantiles(wrong, n=4)
    assert mannwhitneyu(wrong, right).pvalue > 1e-4
    assert mannwhitneyu(*answer_times(tmp_path / "slower", 2 * (high - low))).pvalue < 1e-4


def test_requests_import_neither_torch_nor_a_model():
    code = """
import sys
import jensen.apps.captcha.api.app
print([name for name in sys.modules if name.split(".")[0] in ("torch", "numpy")
       or name.startswith("jensen.") and not name.startswith(("jensen.apps", "jensen.core"))])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_the_application_is_described(tmp_path):
    chosen = settings(tmp_path)
    store = open_store(chosen.store)
    paths = application(chosen, store).openapi()["paths"]
    store.close()
    assert set(paths) == {"/challenge", "/answer", "/siteverify", "/health", "/ready"}
