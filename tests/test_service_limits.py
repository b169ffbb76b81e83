"""The CAPTCHA service over HTTP: how often and how much, what happens without its store, and what it counts."""

from __future__ import annotations

import contextlib
import random
import re
import secrets
import sqlite3
import time
from ipaddress import ip_address

import httpx
import pytest
import redis

from captcha_service import (
    HOST,
    ORIGIN,
    SECRETS,
    SITE,
    Visitor,
    listening,
    refused,
    settings,
    visiting,
)
from jensen.apps.captcha import limits as limiting
from jensen.apps.captcha.api import guard
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.limits import Limits
from jensen.apps.captcha.store import open_store
from servers import redis_server


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


def test_a_slow_body_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    with listening(tmp_path) as (address, _):

        def slowly():
            yield b"{"
            time.sleep(0.5)
            yield b"}"

        refused(httpx.post(f"{address}/challenge", content=slowly()), 408, "too-slow")
