"""The pages of the CAPTCHA service over HTTP: languages, headers, the check without JavaScript, the demonstration."""

from __future__ import annotations

import base64
import html
import json
import re
from string import Formatter

import pytest

from captcha_service import ANSWER, CLIPS, HOST, PICTURE, SECRETS, SITE, fill, visiting
from jensen.apps.captcha import demo, service
from jensen.apps.captcha.api import words
from jensen.apps.captcha.store import Unavailable

SITES = {demo.SITE: {"secret": "ac66114bd5a08c8db42e2d7c1ba59a88", "hostnames": ["127.0.0.1"]}}


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    with visiting(tmp_path_factory.mktemp("demo"), pictures=40, demo=True, sites=SITES) as found:
        yield found


def shown(visitor, status=200, **more):
    """The page of the check."""
    found = visitor.client.get("/page", params={"site_key": SITE, **more})
    assert found.status_code == status, found.text
    return found


def typed(visitor, page, answer=ANSWER, **more):
    """The page after an answer in its form."""
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    given = {name: html.unescape(value) for name, value in fields.items()}
    return visitor.client.post("/page", data={**given, "answer": answer, **more})


def name_of(page):
    return re.search(r'name="id" value="([^"]*)"', page.text)[1]


def token_of(page):
    return re.search(r"<textarea [^>]*>([^<]*)</textarea>|response\" value=\"([^\"]*)\"", page.text).group(1, 2)


def directives(page):
    policy = page.headers["content-security-policy"]
    return {name: values for name, *values in (part.split() for part in policy.split(";"))}


def test_every_language_has_every_sentence_with_the_same_values():
    def values(text):
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    english = words.MESSAGES["en"]
    for messages in words.MESSAGES.values():
        assert messages.keys() == english.keys()
        assert all(messages.values())
        assert {key: values(text) for key, text in messages.items()} == {k: values(t) for k, t in english.items()}


@pytest.mark.parametrize(
    ("lang", "accepted", "found"),
    [
        ("", "", "en"),
        ("", "de", "de"),
        ("", "fa-IR,fa;q=0.9,en;q=0.8", "fa"),
        ("", "fr,de;q=0.1,en;q=0.2", "en"),
        ("", "de;q=0,fa;q=0.1", "fa"),
        ("", "de;q=x,fa;q=0.1", "fa"),
        ("", "*", "en"),
        ("", "deu,far", "en"),
        ("de-AT", "fa", "de"),
        ("fr", "fa", "fa"),
        ("", ";;,;q=1," * 50, "en"),
    ],
)
def test_the_language_is_that_of_the_address_or_the_best_that_is_accepted(visitor, lang, accepted, found):
    page = visitor.client.get("/page", params={"site_key": SITE, "lang": lang}, headers={"accept-language": accepted})
    direction = "rtl" if found == "fa" else "ltr"
    assert f'<html lang="{found}" dir="{direction}">' in page.text
    assert words.MESSAGES[found]["label"] in page.text
    assert page.headers["content-language"] == found
    assert "Accept-Language" in page.headers["vary"]


def test_the_page_shows_a_picture_and_plays_its_recording_in_its_language(visitor):
    for lang, clip in (("en", "en"), ("de", "de"), ("fa", "en")):  # the pool has no Persian ones
        page = shown(visitor, lang=lang)
        data = dict(re.findall(r'src="data:([a-z/]+);base64,([^"]*)"', page.text))
        assert {media: base64.b64decode(text) for media, text in data.items()} == {
            "image/webp": PICTURE,
            "audio/mpeg": CLIPS[clip],
        }
        assert words.MESSAGES[lang]["alt"] in page.text
        assert "<script" not in page.text


def test_a_picture_without_a_recording_has_no_player(tmp_path):
    with visiting(tmp_path, pictures=0) as visitor:
        fill(visitor.store, 2, clips={})
        assert "<audio" not in shown(visitor).text
        assert visitor.ask().json()["audio"] is None


def test_the_interface_gives_the_recording_of_the_language(visitor):
    for lang, clip in (("", "en"), ("de-CH", "de"), ("DE", "de"), ("fr", "en")):
        audio = visitor.ask(lang=lang).json()["audio"]
        assert (audio["media_type"], audio["lang"]) == ("audio/mpeg", clip)
        assert base64.b64decode(audio["data"]) == CLIPS[clip]


def test_a_right_answer_is_a_token_to_copy_which_is_good_once(visitor):
    token, _ = token_of(typed(visitor, shown(visitor, action="login", cdata="c-1"), " k7m pxq "))
    found = visitor.verify(token)
    assert (found["success"], found["hostname"], found["action"], found["cdata"]) == (True, HOST, "login", "c-1")
    assert not visitor.verify(token)["success"]


def test_a_right_answer_is_sent_on_to_an_address_of_the_site(visitor):
    back = "https://shop.example:8443/comment?a=1&b=2#c"
    page = typed(visitor, shown(visitor, return_to=back))
    assert f'<form method="post" action="{html.escape(back)}">' in page.text
    assert directives(page)["form-action"] == ["'self'", "https://shop.example:8443"]
    assert page.headers["referrer-policy"] == "strict-origin"
    _, token = token_of(page)
    assert visitor.verify(token)["hostname"] == HOST


STRANGERS = [
    "https://evil.example/",
    "https://shop.example.evil.example/",
    "https://evilshop.example/",
]
MALFORMED = [
    "http://evil.example",
    "//evil.example/",
    "/comment",
    "javascript:alert(1)",
    "data:text/html,x",
    "https://shop.example@evil.example/",
    "https://evil.example\\@shop.example/",
    "https://shop.example\\evil.example/",
    "https:\\\\shop.example",
    "https://shop.example:443@evil.example/",
    "https://shop.example:x/",
    "https://SHOP.example/",
    "https://shop.example\n.evil.example/",
    "https://shop.example/\nx",
    " https://shop.example/",
    'https://shop.example/"><script>alert(1)</script>',
    "https://shop.example/\u0430",
    "https://shop.example; script-src *",
    "https://shop\u3002example/",
]


@pytest.mark.parametrize(
    ("back", "status"), [(b, 403) for b in STRANGERS] + [(b, 422) for b in MALFORMED] + [("https://[::1]/", 403)]
)
def test_nothing_is_sent_to_other_addresses(visitor, back, status):
    refused = shown(visitor, status, return_to=back)
    assert words.MESSAGES["en"]["refused"] in refused.text
    for page in (refused, typed(visitor, shown(visitor), return_to=back)):
        assert page.status_code == status
        assert "evil" not in page.text
        assert "location" not in page.headers
        assert directives(page)["form-action"] == ["'self'"]
        assert "-response" not in page.text


def test_an_answer_that_is_not_right_is_followed_by_another_picture(visitor):
    page, names = shown(visitor), set()
    for answer, sentence in (("WRONG", "spent"), ("  ", "missing"), (ANSWER, "token")):
        names.add(name_of(page))
        page = typed(visitor, page, answer)
        assert page.status_code == 200
        assert words.MESSAGES["en"][sentence] in page.text
    assert len(names) == 3


def test_an_answer_that_is_late_or_repeated_is_followed_by_another_picture(tmp_path, monkeypatch):
    with visiting(tmp_path) as visitor:
        page, other, now = shown(visitor), shown(visitor), service.current
        typed(visitor, page)
        again = typed(visitor, page)
        monkeypatch.setattr(service, "current", lambda: now() + 301_000)
        pages = {"expired": typed(visitor, other), "closed": again}
        unknown = typed(visitor, shown(visitor), id="A" * 24)
        for sentence, found in (*pages.items(), ("expired", unknown)):
            assert words.MESSAGES["en"][sentence] in found.text
            assert name_of(found) not in (name_of(page), name_of(other))


def test_why_there_is_no_picture_is_one_sentence(tmp_path, monkeypatch):
    english = words.MESSAGES["en"]
    with visiting(tmp_path, pictures=1, issue_rate="3/hour") as visitor:
        shown(visitor)
        page = shown(visitor, 503, action="login")
        assert english["busy"] in page.text
        assert page.headers["retry-after"] == "5"
        assert f'href="page?site_key={SITE}&amp;action=login"' in page.text

        def lost(*_):
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(visitor.store, "take", lost)
            assert english["busy"] in shown(visitor, 503).text
        page = shown(visitor, 429)
        assert english["limited"] in page.text
        assert int(page.headers["retry-after"]) > 60
        assert english["refused"] in visitor.client.get("/page", params={"site_key": "nobody"}).text
        assert visitor.client.get("/page").status_code == 422


@pytest.mark.parametrize("lang", words.LANGUAGES)
@pytest.mark.parametrize(
    ("given", "parameter", "why", "status"),
    [
        ({"site_key": ""}, "site_key", "owner_invalid", 422),
        ({"site_key": "a b"}, "site_key", "owner_invalid", 422),
        ({"site_key": "nobody"}, "site_key", "owner_site", 404),
        ({"action": "a b"}, "action", "owner_invalid", 422),
        ({"cdata": "x" * 256}, "cdata", "owner_invalid", 422),
        ({"return_to": "/comment"}, "return_to", "owner_invalid", 422),
        ({"return_to": "https://evil.example/"}, "return_to", "owner_hostname", 403),
        ({"return_to": "http://shop.example/"}, "return_to", "owner_secure", 422),
    ],
)
def test_the_owner_of_the_site_is_told_which_parameter_is_wrong(visitor, lang, given, parameter, why, status):
    messages = words.MESSAGES[lang]
    text = html.unescape(shown(visitor, status, **{"lang": lang, **given}).text)
    assert f">{messages['refused']}<" in text
    assert f"<title>{messages['refused']} \u2013 {messages['title']}</title>" in text
    assert f"<p>{messages[why].format(parameter=parameter)}</p>" in text
    assert text.count(messages["owner_invalid"].split(":")[0]) == 1
    assert SECRETS[SITE] not in text


def test_a_language_that_is_not_right_is_named(visitor):
    assert words.MESSAGES["en"]["owner_invalid"].format(parameter="lang") in shown(visitor, 422, lang="e n").text


def test_the_owner_is_told_nothing_when_the_address_is_right(tmp_path):
    with visiting(tmp_path, pictures=1) as visitor:
        start = words.MESSAGES["en"]["owner_invalid"].split(":")[0]
        page = shown(visitor)
        unread = visitor.client.post("/page", files={"answer": b"file"})
        for found in (page, typed(visitor, page), shown(visitor, 503), unread):
            assert start not in found.text


@pytest.mark.parametrize(
    ("back", "secure"),
    [
        ("http://localhost:5000/x", True),
        ("http://127.0.0.1/x", True),
        ("http://127.9.9.9/x", True),
        ("http://[::1]:5000/", True),
        ("http://10.0.0.1/x", False),
        ("http://localhost.example/x", False),
        ("https://10.0.0.1/x", True),
    ],
)
def test_a_token_is_sent_without_tls_to_this_machine_alone(tmp_path, back, secure):
    names = ["localhost", "127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "localhost.example"]
    with visiting(tmp_path, pictures=1, sites={SITE: {"secret": SECRETS[SITE], "hostnames": names}}) as visitor:
        page = shown(visitor, 200 if secure else 422, return_to=back)
        assert (words.MESSAGES["en"]["owner_secure"].format(parameter="return_to") in page.text) is not secure


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_what_is_wrong_comes_first_in_the_title_and_belongs_to_the_field(visitor, lang):
    messages, page = words.MESSAGES[lang], shown(visitor, lang=lang)
    assert f"<title>{messages['title']}</title>" in page.text
    assert not re.search("role=|autofocus|aria-invalid|aria-describedby", page.text)
    for given, sentence, invalid in (
        ({"answer": "WRONG"}, "spent", True),
        ({"answer": " "}, "missing", True),
        ({"id": "A" * 24}, "expired", False),
    ):
        page = typed(visitor, page, **given)
        assert f"<title>{messages[sentence]} \u2013 {messages['title']}</title>" in page.text
        assert f'<p id="said" role="alert">{messages[sentence]}</p>' in page.text
        field = re.search('<input id="answer"[^>]*>', page.text)[0]
        assert 'aria-describedby="said" autofocus' in field
        assert ('aria-invalid="true"' in field) is invalid
    page = typed(visitor, page)
    assert f"<title>{messages['passed']} \u2013 {messages['title']}</title>" in page.text
    assert f'<p id="said" role="status" tabindex="-1" autofocus>{messages["passed"]}</p>' in page.text


def test_a_head_request_has_the_headers_of_the_page_and_takes_no_picture(demonstration):
    client = demonstration.client
    for path in ("/", "/widget.js", "/widget.css", "/page.css", f"/page?site_key={demo.SITE}", "/page"):
        waiting = demonstration.store.waiting()
        head = client.head(path)
        assert head.content == b""
        assert demonstration.store.waiting() == waiting
        found = client.get(path)
        assert head.status_code == found.status_code == (422 if path == "/page" else 200)
        lengths = {"date", "content-length", "transfer-encoding"}
        assert {k: v for k, v in head.headers.items() if k not in lengths} == {
            k: v for k, v in found.headers.items() if k not in lengths
        }
        assert head.headers.get("content-length", found.headers["content-length"]) == found.headers["content-length"]


HOSTILE = "\"'><script>alert(1)</script>&{{7*7}}{}"


@pytest.mark.parametrize("name", ["site_key", "lang", "action", "cdata", "return_to", "id", "answer"])
def test_what_is_sent_is_not_repeated_as_markup(visitor, name):
    pages = [typed(visitor, shown(visitor), **{name: HOSTILE})]
    if name not in ("id", "answer"):
        pages.append(visitor.client.get("/page", params={"site_key": SITE, name: HOSTILE}))
    for page in pages:
        assert page.status_code in (200, 404, 422)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<script>" not in page.text
        assert "49" not in re.sub(r'(value|src|href)="[^"]*"', "", page.text)


def test_forms_that_cannot_be_read_are_refused(visitor):
    multipart = {"content-type": "multipart/form-data"}
    for content, headers in ((b"id=a&id=b", {"content-type": "application/x-www-form-urlencoded"}), (b"x", multipart)):
        assert visitor.client.post("/page", content=content, headers=headers).status_code == 422
    assert visitor.client.post("/page", files={"answer": b"file"}).status_code == 422


def test_pages_load_nothing_but_their_own_files(visitor, demonstration):
    page = shown(visitor)
    assert directives(page) == {
        "default-src": ["'none'"],
        "script-src": ["'none'"],
        "style-src": ["'self'"],
        "img-src": ["data:"],
        "media-src": ["data:"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
    shop = demonstration.client.get("/")
    assert directives(shop) == directives(page) | {"script-src": ["'self'"]}
    for found in (page, shop, visitor.client.get("/page"), demonstration.client.post("/")):
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=\"widget.js\")", found.text)
        assert set(re.findall(r'(?:src|href)="(?!data:|page\?|\./\?)([^"]*)"', found.text)) <= {
            "widget.js",
            "widget.css",
            "page.css",
        }
        assert found.headers["cache-control"] == "no-store"
        assert "set-cookie" not in found.headers


def test_files_of_the_widget_may_be_used_by_other_pages(visitor):
    for name, media in (("widget.js", "text/javascript"), ("widget.css", "text/css"), ("page.css", "text/css")):
        found = visitor.client.get(f"/{name}")
        assert found.headers["content-type"] == f"{media}; charset=utf-8"
        assert found.headers["cross-origin-resource-policy"] == "cross-origin"
        assert found.headers["cache-control"] == "public, max-age=600"
        assert "http" not in found.text.replace("http://www.w3.org/2000/svg", "")
    script = visitor.client.get("/widget.js").text
    assert json.loads(script[script.rindex("})(") + 3 : -3]) == words.MESSAGES


def test_a_browser_may_read_why_a_request_was_refused_early(visitor):
    origin = {"origin": f"https://{HOST}"}
    found = visitor.client.post("/answer", content=b"x" * 20_000, headers=origin)
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (413, origin["origin"])
    exposed = visitor.client.post("/challenge", content=b"", headers=origin).headers["access-control-expose-headers"]
    assert set(exposed.split(", ")) == {"Date", "Retry-After"}
    elsewhere = visitor.client.post("/answer", content=b"x" * 20_000, headers={"origin": "https://evil.example"})
    assert elsewhere.status_code == 413
    assert "access-control-allow-origin" not in elsewhere.headers


def test_the_check_that_is_refused_before_its_form_is_read_is_a_page_too(tmp_path):
    """Without JavaScript the browser shows the answer itself."""
    german, english = words.MESSAGES["de"], words.MESSAGES["en"]
    with visiting(tmp_path, trusted_proxies=["127.0.0.0/8"], request_rate="2/hour") as visitor:
        asked = {"params": {"site_key": SITE, "lang": "de"}, "headers": {"x-forwarded-for": "192.0.2.1"}}
        large = visitor.client.post("/page", content=b"x" * 20_000, **asked)
        packed = visitor.client.post("/page", content=b"x", params={}, headers={"content-encoding": "gzip"})
        visitor.client.get("/page", **asked)
        limited = visitor.client.get("/page", **asked)
    for found, status, said in ((large, 413, german["refused"]), (packed, 415, english["refused"])):
        assert (found.status_code, "<a " in found.text) == (status, False)
        assert f'role="alert" tabindex="-1" autofocus>{said}<' in found.text
    assert (limited.status_code, int(limited.headers["retry-after"]) > 1000) == (429, True)
    assert german["limited"] in limited.text
    assert f'href="page?site_key={SITE}&amp;lang=de">{german["again"]}</a>' in limited.text


def test_the_demonstration_redeems_its_token_itself(demonstration):
    visitor, english = demonstration, words.MESSAGES["en"]
    assert f'data-site-key="{demo.SITE}"' in visitor.client.get("/").text
    page = visitor.client.get("/page", params={"site_key": demo.SITE, "action": "comment"})
    token, _ = token_of(typed(visitor, page))
    comment = {"comment": f"Hello {HOSTILE}"}
    for given, sentence in (
        ({}, "demo_refused"),
        ({"jensen-captcha-response": "x"}, "demo_refused"),
        ({"jensen-captcha-response": token}, "demo_accepted"),
        ({"jensen-captcha-response": token}, "demo_refused"),
    ):
        found = visitor.client.post("/", data=comment | given)
        assert english[sentence] in found.text
        assert HOSTILE in html.unescape(found.text)
        assert "<script>alert" not in found.text
    assert words.MESSAGES["fa"]["demo_refused"] in visitor.client.post("/", data={"lang": "fa"}).text


def test_the_demonstration_is_in_a_demonstration_alone(visitor):
    assert visitor.client.get("/").status_code == 404
    assert visitor.client.post("/").status_code == 404


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_the_demonstration_says_what_became_of_the_comment_in_its_title(demonstration, lang):
    messages = words.MESSAGES[lang]
    page = demonstration.client.post("/", data={"lang": lang})
    assert f"<title>{messages['demo_refused']} \u2013 {messages['demo_title']}</title>" in page.text
    assert f'<p role="alert" tabindex="-1" autofocus>{messages["demo_refused"]}</p>' in page.text
    assert f"<title>{messages['demo_title']}</title>" in demonstration.client.get("/", params={"lang": lang}).text


NEW_TAB = {
    "en": "(in a new tab)",
    "de": "(in neuem Tab)",
    "fa": "(\u062f\u0631 \u0632\u0628\u0627\u0646\u0647\u0654 \u062a\u0627\u0632\u0647)",
}


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_a_link_that_opens_a_new_tab_says_so(demonstration, lang):
    links = re.findall('target="_blank">([^<]*)</a>', demonstration.client.get("/", params={"lang": lang}).text)
    assert [link.endswith(NEW_TAB[lang]) for link in links] == [True]


def test_no_rule_of_a_style_sheet_is_given_twice(visitor):
    for name in ("widget.css", "page.css"):
        selectors = re.findall(r"^\s*([^{}@;/]+) \{$", visitor.client.get(f"/{name}").text, re.MULTILINE)
        plain = [s for s in selectors if s not in (":host,\n:root", ":host,\n  :root", ".captcha img")]
        assert len(plain) == len(set(plain)), name


def test_a_secret_of_the_site_is_not_on_a_page(visitor, demonstration):
    assert SITES[demo.SITE]["secret"] not in demonstration.client.get("/").text + demonstration.client.post("/").text
    assert SECRETS[SITE] not in shown(visitor).text
