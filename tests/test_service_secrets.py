"""Answers, tokens, keys, addresses and settings of the CAPTCHA service."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import string
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jensen.apps.captcha import answers, demo, tokens
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.limits import UNKNOWN, client_address, network
from jensen.apps.captcha.settings import VARIED, Settings, Site, read_settings
from jensen.apps.captcha.store import Challenge

KEYS = Keys(["a" * 32])
KEY = KEYS.current
ID = "abcdefghijklmnopqrstuvwx"
SECRET, OTHER = "ac66114bd5a08c8db42e2d7c1ba59a88", "c6d04a7adfd667e4c4f3df1b7af8bdbf"
SITES = {"shop": {"secret": OTHER, "hostnames": ["shop.example"]}}


def challenge(text="K7MPX", **more):
    given = {"id": ID, "site": "shop", "hostname": "shop.example", "action": "login", "expires": 20, **more}
    digest = answers.text_digest(KEYS, KEY, given["id"], text)
    bound = answers.challenge_digest(KEYS, KEY, given["id"], given["site"], given["expires"], digest)
    return Challenge(cdata="", key=KEY, digest=bound, issued=10, **given)


def test_a_digest_is_an_hmac_over_fields_with_their_lengths():
    message = b"\0\0\0\4text\0\0\0\2ab\0\0\0\0\0\0\0\1\xff\0\0\0\3-12"
    expected = hmac.new(b"a" * 32, message, hashlib.sha256).digest()
    assert KEYS.digest(KEY, "text", "ab", "", b"\xff", -12) == expected


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_other_fields_have_another_digest(first, second):
    assert (KEYS.digest(KEY, "x", *first) == KEYS.digest(KEY, "x", *second)) == (first == second)


def test_text_of_any_kind_has_a_digest():
    assert KEYS.digest(KEY, "x", "\ud800") != KEYS.digest(KEY, "x", "?")


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("k7mpx", "K7MPX"),
        ("  K7 MP\u00a0X\n", "K7MPX"),
        ("\uff2b\uff17\uff2d\uff30\uff38", "K7MPX"),  # full width
        ("\u06f1\u06f2\u06f3", "123"),  # Persian
        ("\u0661\u0662\u0663", "123"),  # Arabic
        ("\u0967\u0968", "12"),  # Devanagari
        ("\u200b", "\u200b"),
        ("", ""),
        (" \t\u3000", ""),
    ],
)
def test_answers_are_compared_in_a_plain_form(typed, plain):
    assert answers.normalised(typed) == plain
    assert answers.normalised(plain) == plain


def test_an_answer_is_that_of_its_challenge_alone():
    asked = challenge()
    assert answers.right(KEYS, asked, " k7mpx")
    wrong = {
        "answer": (asked, "K7MPY"),
        "id": (replace(asked, id=ID[::-1]), "K7MPX"),
        "site": (replace(asked, site="blog"), "K7MPX"),
        "deadline": (replace(asked, expires=21), "K7MPX"),
        "digest": (replace(asked, digest=bytes(32)), "K7MPX"),
    }
    assert {name: answers.right(KEYS, *case) for name, case in wrong.items()} == dict.fromkeys(wrong, False)


def test_ids_have_144_random_bits():
    made = {answers.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(name) for name in made} == {24}
    assert len(set("".join(made))) == 64


def test_every_change_of_a_byte_makes_a_token_another():
    solved = replace(challenge(), valid=30)
    token = tokens.signed(KEYS, KEY, solved, 30)
    assert tokens.parts(token) == (KEY, ID)
    assert tokens.genuine(KEYS, KEY, solved, token)
    for place in range(len(token)):
        for character in map(chr, range(256)):
            changed = token[:place] + character + token[place + 1 :]
            named = tokens.parts(changed)
            accepted = named == (KEY, ID) and tokens.genuine(KEYS, KEY, solved, changed)
            assert accepted == (changed == token)
    for changed in (token[:-1], token + "=", token + "\n", " " + token, token.upper(), "", token[1:]):
        assert tokens.parts(changed) is None or not tokens.genuine(KEYS, tokens.parts(changed)[0], solved, changed)


@pytest.mark.parametrize(
    "change", [{"site": "blog"}, {"hostname": "x"}, {"action": "pay"}, {"valid": 31}, {"id": ID[::-1]}]
)
def test_a_token_is_bound_to_what_it_was_given_for(change):
    solved = replace(challenge(), valid=30)
    token = tokens.signed(KEYS, KEY, solved, 30)
    assert not tokens.genuine(KEYS, KEY, replace(solved, **change), token)


def test_a_replaced_secret_is_recognised_until_the_next_one():
    first, second, third = Keys(["1" * 32]), Keys(["2" * 32, "1" * 32]), Keys(["3" * 32, "2" * 32])
    assert second.current != first.current
    assert second.knows(first.current)
    assert not third.knows(first.current)
    assert second.digest(first.current, "x", "y") == first.digest(first.current, "x", "y")


PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not from a proxy
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the first is the visitor's own words
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("", ["198.51.100.7"], str(UNKNOWN)),
        ("unix", [], str(UNKNOWN)),
    ],
)
def test_the_address_is_the_last_one_that_no_trusted_proxy_has(peer, forwarded, found):
    assert str(client_address(peer, forwarded, PROXIES)) == found


def test_addresses_of_one_customer_are_one():
    assert network(ip_address("2001:db8:1:2:aaaa::1")) == network(ip_address("2001:db8:1:2:bbbb::2"))
    assert network(ip_address("2001:db8:1:2::1")) != network(ip_address("2001:db8:1:3::1"))
    assert network(ip_address("192.0.2.1")) != network(ip_address("192.0.2.2"))


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("JENSEN_CAPTCHA_SECRET", SECRET)
    monkeypatch.setenv("JENSEN_CAPTCHA_SITES", json.dumps(SITES))
    monkeypatch.setenv("JENSEN_CAPTCHA_TRUSTED_PROXIES", '["10.0.0.0/8"]')
    monkeypatch.setenv("JENSEN_CAPTCHA_TRIES", "2")
    found = read_settings()
    assert found.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert (found.tries, found.sites["shop"].hostnames, found.demo) == (2, ("shop.example",), False)
    assert SECRET not in repr(found)
    assert SECRET not in str(found.model_dump())


WEAK = (
    "",
    "secret",
    "change-me",
    "a" * 64,
    "0123456789" * 3,
    "0123456789abcdef" * 2,
    "c6d04a7adfd667e" * 3,
    "c6d04a7adfd667e4-" * 2 + "c6d04",
    "abcdefghijklmnopqrstuvwxyz0123456789",
    "ZYXWVUTSRQPONMLKJIHGFEDCBA9876543210",
    "qwertyuiopasdfghjklzxcvbnm1234567890",
    "aabbccddeeffgghhiijjkkllmmnnooppqq",
    *demo.VERIFICATIONS,
)


@pytest.mark.parametrize("secret", WEAK)
def test_secrets_that_can_be_guessed_are_refused_and_not_repeated(secret):
    with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SECRET must be 32 or more random characters") as refused:
        read_settings(secret=secret, sites=SITES)
    assert not secret or secret not in str(refused.value)
    for name in ("secret", "previous_secret"):
        sites = {"shop": SITES["shop"] | {name: secret}}
        with pytest.raises(ValueError, match=rf"^JENSEN_CAPTCHA_SITES.shop.{name} must be 32 or more"):
            read_settings(secret=SECRET, sites=sites)


def test_random_secrets_are_accepted():
    rng = random.Random(0)
    for characters, length in (("0123456789abcdef", 32), ("0123456789", 40), (string.ascii_letters, 32)):
        for _ in range(1000):
            site = SITES["shop"] | {"secret": "".join(rng.choices(characters, k=length))}
            if len(set(site["secret"])) >= VARIED:
                Site(**site)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": {}}, "JENSEN_CAPTCHA_SITES must have a site or more"),
        ({"sites": {"a b": SITES["shop"]}}, "JENSEN_CAPTCHA_SITES: a site's key must be of 1 to 64"),
        ({"sites": {demo.PASSES: SITES["shop"]}}, "and no test key"),
        ({"sites": {demo.FAILS: SITES["shop"]}}, "and no test key"),
        (
            {"sites": SITES | {"blog": SITES["shop"]}},
            "JENSEN_CAPTCHA_SITES.blog.secret must be another secret than JENSEN_CAPTCHA_SITES.shop.secret",
        ),
        (
            {"sites": {"shop": SITES["shop"] | {"previous_secret": OTHER}}},
            "JENSEN_CAPTCHA_SITES.shop.previous_secret must be another secret than JENSEN_CAPTCHA_SITES.shop.secret",
        ),
        ({"secret": OTHER}, "JENSEN_CAPTCHA_SITES.shop.secret must be another secret than JENSEN_CAPTCHA_SECRET"),
        (
            {"previous_secret": OTHER},
            "JENSEN_CAPTCHA_SITES.shop.secret must be another secret than JENSEN_CAPTCHA_PREVIOUS_SECRET",
        ),
        (
            {"previous_secret": SECRET},
            "JENSEN_CAPTCHA_PREVIOUS_SECRET must be another secret than JENSEN_CAPTCHA_SECRET",
        ),
        ({"metrics_token": SECRET}, "JENSEN_CAPTCHA_METRICS_TOKEN must be another secret than JENSEN_CAPTCHA_SECRET"),
        (
            {"sites": {"shop": SITES["shop"] | {"hostnames": []}}},
            "JENSEN_CAPTCHA_SITES.shop.hostnames must be a list of 1 or more",
        ),
        ({"sites": {"shop": SITES["shop"] | {"hostnames": ["https://x"]}}}, "must be hostnames in small letters"),
        ({"issue_rate": "30/day"}, "JENSEN_CAPTCHA_ISSUE_RATE: a rate must be of the form"),
        ({"pool_low": 9, "pool_high": 8}, "JENSEN_CAPTCHA_POOL_LOW must be at most JENSEN_CAPTCHA_POOL_HIGH, 8, got 9"),
        ({"tries": 4}, "JENSEN_CAPTCHA_TRIES must be at most 3"),
        (
            {"trusted_proxies": ["10.0.0.1/8"]},
            "JENSEN_CAPTCHA_TRUSTED_PROXIES.0 must be a network such as 10.0.0.0/8, got",
        ),
        (
            {"trusted_proxies": ["10.0.0.1/8"]},
            "must be a network such as 10.0.0.0/8, got '10.0.0.1/8'; did you mean '10.0.0.0/8'?",
        ),
        ({"trusted_proxies": [True]}, "TRUSTED_PROXIES.0 must be a network such as 10.0.0.0/8, got True"),
        (
            {"trusted_proxies": ["10.0.0.0/8", "0.0.0.0/1"]},
            "TRUSTED_PROXIES.1 must be a network of your proxies, no larger",
        ),
        ({"trusted_proxies": ["::/0"]}, "TRUSTED_PROXIES.0 must be a network of your proxies, no larger"),
        ({"trusted_proxies": ["::ffff:10.0.0.0/104"]}, "TRUSTED_PROXIES.0 must be written as IPv4, got"),
        ({"sites": {OTHER: "shop"}}, 'SITES.... must be {"secret": "...", "hostnames": ["example.org"]}'),
        ({"sites": {OTHER: {"hostnames": ["x"]}}}, "SITES.....secret must be set"),
        ({"sites": {f"{OTHER}!": SITES["shop"]}}, f"and no test key, got a text of {len(OTHER) + 1} characters"),
        ({"sites": {"shop": SITES["shop"] | {OTHER: 1}}}, "SITES.shop.... is no setting of a site"),
        ({"sites": {"shop": SITES["shop"] | {"hostnames": [f"{OTHER}.X"]}}}, "such as example.org, got a text of"),
        ({"metrics_token": "\udcff" + OTHER[::-1]}, "JENSEN_CAPTCHA_METRICS_TOKEN must be 32 or more"),
        ({"secret": "ä" + OTHER[::-1]}, "JENSEN_CAPTCHA_SECRET must be 32 or more"),
        ({"secret": OTHER[::-1] + "\n"}, "JENSEN_CAPTCHA_SECRET must be 32 or more"),
        ({"metrics_token": "short"}, "JENSEN_CAPTCHA_METRICS_TOKEN must be 32 or more"),
    ],
)
def test_settings_are_refused_in_a_sentence(change, said):
    with pytest.raises(ValueError) as refused:
        read_settings(**{"secret": SECRET, "sites": SITES, **change})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    assert OTHER not in str(refused.value)


def test_settings_without_a_variable_are_read_from_files(monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("JENSEN_CAPTCHA_TRIES", "2")
    for name, text in (("SECRET", f"{SECRET}\n"), ("SITES", json.dumps(SITES)), ("TRIES", "1")):
        (tmp_path / f"JENSEN_CAPTCHA_{name}").write_text(text)
    (tmp_path / "other").write_text("x")
    found = read_settings()
    assert found == read_settings(secret=SECRET, sites=SITES, tries=2)
    (tmp_path / "JENSEN_CAPTCHA_SITES").write_text("{")
    with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SITES must be JSON$"):
        read_settings()
    monkeypatch.setenv("JENSEN_CAPTCHA_SITES", json.dumps({"blog": SITES["shop"]}))
    assert set(read_settings().sites) == {"blog"}  # a variable takes the place of the whole file
    secret = tmp_path / "JENSEN_CAPTCHA_SECRET"
    secret.write_bytes(b"\xff" * 32)
    with pytest.raises(ValueError, match=rf"^{secret} must be text in UTF-8$"):
        read_settings()
    secret.unlink()
    secret.mkdir()
    with pytest.raises(IsADirectoryError, match=str(secret)):
        read_settings()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "nowhere")
    with pytest.raises(ValueError, match=r"^CREDENTIALS_DIRECTORY must be a folder, got nowhere$"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ISUE_RATE", "; did you mean 'JENSEN_CAPTCHA_ISSUE_RATE'?"),
        ("SITES__SHOP", "; did you mean 'JENSEN_CAPTCHA_SITES'?"),
        ("DEMO", ": a demonstration is started by jensen serve --demo"),
    ],
)
def test_what_is_no_setting_is_refused_as_a_variable_and_as_a_file(name, said, monkeypatch, tmp_path):
    name, given = f"JENSEN_CAPTCHA_{name}", {"secret": SECRET, "sites": SITES}
    for spelled in (name, name.lower()):
        monkeypatch.setenv(spelled, "1")
        with pytest.raises(ValueError) as refused:
            read_settings(**given)
        monkeypatch.delenv(spelled)
        assert str(refused.value) == f"{name} is no setting{said}"
    (tmp_path / name).write_text("1")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ValueError, match=f"^{name} is no setting"):
        read_settings(**given)


def test_what_kubernetes_sets_for_a_service_is_no_mistake(monkeypatch):
    settings = read_settings(secret=SECRET, sites=SITES)
    for service in ("", "REDIS_"):  # services jensen-captcha and jensen-captcha-redis
        monkeypatch.setenv(f"JENSEN_CAPTCHA_{service}PORT", "9000")  # by a person: --port was meant
        with pytest.raises(ValueError, match=f"^JENSEN_CAPTCHA_{service}PORT is no setting"):
            read_settings(secret=SECRET, sites=SITES)
        names = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP", "PORT_80_TCP_PORT")
        for name in names:
            monkeypatch.setenv(f"JENSEN_CAPTCHA_{service}{name}", "1")
        assert read_settings(secret=SECRET, sites=SITES) == settings


def test_what_is_missing_or_no_json_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SECRET must be set$"):
        read_settings(sites=SITES)
    monkeypatch.setenv("JENSEN_CAPTCHA_SITES", "{")
    with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SITES must be JSON$"):
        read_settings(secret=SECRET)
    site = json.dumps(SITES["shop"])
    for twice, text in (
        ("shop", f'{{"shop": {site}, "shop": {site}}}'),
        ("secret", f'{{"shop": {{"secret": 1, {site[1:]}}}'),
    ):
        monkeypatch.setenv("JENSEN_CAPTCHA_SITES", text)
        with pytest.raises(ValueError, match=rf"^JENSEN_CAPTCHA_SITES must have each key once, got '{twice}' twice$"):
            read_settings(secret=SECRET)
    monkeypatch.setenv("JENSEN_CAPTCHA_SITES", f'{{"{OTHER}": 1, "{OTHER}": 1}}')
    with pytest.raises(ValueError, match=r"must have each key once, got a text of \d+ characters twice$"):
        read_settings(secret=SECRET)
    for text in ("[" * 20_000, f"[{'9' * 5000}]"):
        monkeypatch.setenv("JENSEN_CAPTCHA_SITES", text)
        with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SITES must be JSON$"):
            read_settings(secret=SECRET)


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("JENSEN_CAPTCHA_TRUSTED_PROXIES", "")
    assert read_settings(secret=SECRET, sites=SITES).trusted_proxies == ()
    monkeypatch.setenv("JENSEN_CAPTCHA_SECRET", "")
    with pytest.raises(ValueError, match=r"^JENSEN_CAPTCHA_SECRET must be set$"):
        read_settings(sites=SITES)


def test_a_demonstration_has_secrets_of_its_own_and_test_keys(monkeypatch):
    first, second = demo.demo_environment(), demo.demo_environment()
    assert first["SECRET"] != second["SECRET"]
    for name, value in first.items():
        monkeypatch.setenv(f"JENSEN_CAPTCHA_{name}", value)
    chosen = read_settings(demo=True)
    assert set(demo.verdict_sites(chosen)) == {demo.PASSES, demo.FAILS}
    assert demo.verdict_sites(read_settings(demo=False)) == {}


def test_every_setting_is_documented_with_its_default():
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    for name, setting in Settings.model_fields.items():
        given = setting.default if isinstance(setting.default, str) else json.dumps(setting.default, default=str)
        default = "must be set" if setting.is_required() else f"`{given}`" if setting.default else "none"
        assert (f"| `{name.upper()}` | {default} | {setting.description} |" in page) == (name != "demo")
