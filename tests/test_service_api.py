"""The CAPTCHA service over HTTP: the ways through it, from a picture to a token that is verified once."""

from __future__ import annotations

import base64
import random
import secrets
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import httpx
import pytest
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
    later,
    listening,
    refused,
    settings,
    visiting,
)
from jensen.apps.captcha.api.app import application
from jensen.apps.captcha.limits import UNKNOWN
from jensen.apps.captcha.service import Service
from jensen.apps.captcha.store import open_store

LIMITS = httpx.Limits(max_connections=100)


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


def test_a_challenge_is_bound_to_its_hostname(visitor):
    name = visitor.ask().json()["id"]
    beside = Visitor(visitor.client, {"origin": "https://shop.example:8443"})
    assert beside.type(name, "WRONG").status_code == 200  # another port is the same hostname
    with_other_hostname = Visitor(visitor.client, {"origin": "https://blog.example"}, OTHER)
    own = with_other_hostname.ask().json()["id"]
    refused(Visitor(visitor.client, ORIGIN, OTHER).type(own), 403, "wrong-hostname")


@pytest.mark.parametrize("path", ["/siteverify", "/turnstile/v0/siteverify", "/recaptcha/api/siteverify"])
def test_siteverify_is_at_the_paths_of_the_published_services(visitor, path):
    form = {"secret": SECRETS[SITE], "response": visitor.token(), "sitekey": SITE, "remoteip": "2001:db8::1"}
    assert visitor.client.post(path, json=form).json()["success"]
    refused(visitor.client.get(path, params=form), 405, "http-405")  # a secret has no place in an address


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
