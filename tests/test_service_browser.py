"""The pages and the widget in Chromium: a person's ways through them, accessibility, and what they may load."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

import browser as browsers
from browser import ORDERED, POLICY, REFUSED, TEXT, chromium, shop, supply, visit
from captcha_service import HOST, SECRETS, SITE, listening
from captcha_service import Visitor as Client
from jensen.apps.captcha import demo, service
from jensen.apps.captcha.api.words import MESSAGES
from jensen.apps.captcha.store import Unavailable

pytestmark = pytest.mark.skipif(
    browsers.PROGRAM is None and not browsers.REQUIRED, reason="Chromium is not installed on this machine"
)
SITES = {SITE: {"secret": SECRETS[SITE], "hostnames": [HOST, "localhost"]}}
DEMO = {demo.SITE: {"secret": "ac66114bd5a08c8db42e2d7c1ba59a88", "hostnames": ["127.0.0.1"]}}
EN = MESSAGES["en"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a service, and its store."""
    with listening(tmp_path_factory.mktemp("service"), pictures=0, sites=SITES) as (address, store):
        supply(store, 120)
        yield address, store


@pytest.fixture(scope="module")
def shopped(served):
    """The address of a shop on another origin, and its orders."""
    with shop(served[0]) as found:
        yield found


@pytest.fixture
def own(tmp_path):
    """The address of a shop of one test, its orders, and the store of its service."""
    with listening(tmp_path, pictures=0, sites=SITES) as (address, store), shop(address) as found:
        supply(store, 2)
        yield (*found, store)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    with listening(tmp_path_factory.mktemp("demo"), pictures=0, sites=DEMO, demo=True) as (address, store):
        supply(store, 30)
        yield address


@pytest.fixture
def visitor(browser):
    with visit(browser) as found:
        yield found
        assert found.errors == []


def at(shopped, **query):
    return f"{shopped[0]}/?{urlencode(query)}"


def widget(page, lang="en"):
    return page.get_by_role("group", name=MESSAGES[lang]["title"])


def opened(visitor, address, lang="en"):
    """The widget of a page, with its picture."""
    visitor.page.goto(address)
    found = widget(visitor.page, lang)
    found.get_by_role("img").wait_for()
    return found


def picture(found):
    return found.get_by_role("img").get_attribute("src")


def button(found, name, lang="en"):
    return found.get_by_role("button", name=MESSAGES[lang][name], exact=True)


def says(found, sentence, lang="en", **values):
    text = MESSAGES[lang][sentence].format_map(MESSAGES[lang] | values)
    found.get_by_role("status").get_by_text(text, exact=True).wait_for()


def passed(found):
    found.get_by_text(EN["passed"], exact=True).wait_for()


def ordered(page, answer=ORDERED):
    """The shop has answered; every sentence is waited for exactly, since some of the widget's contain others."""
    page.get_by_text(answer, exact=True).wait_for()


def until(happens):
    """Wait; the page's policy forbids Playwright's own way, which evaluates text."""
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def said(visitor):
    """What the browser has said of requests that failed; nothing else was said, and it is forgotten."""
    found = [
        re.fullmatch(r"Failed to load resource: (?:the server responded with a status of )?(.*)", text)
        for text in visitor.errors
    ]
    assert all(found), visitor.errors
    visitor.errors.clear()
    return {text[1] for text in found}


def test_a_person_looks_asks_for_another_picture_listens_types_and_passes(visitor, shopped):
    found = opened(visitor, at(shopped, more='data-response-field-name="cf-turnstile-response other"'))
    image = found.get_by_role("img")
    assert image.get_attribute("alt") == EN["alt"]
    assert image.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [64, 24]
    first = picture(found)
    button(found, "fresh").click()
    says(found, "renewed")
    assert picture(found) != first
    listen = button(found, "listen")
    listen.click()
    until(lambda: listen.get_attribute("aria-pressed") == "true")
    listen.click()
    until(lambda: listen.get_attribute("aria-pressed") == "false")
    found.get_by_label(EN["label"]).fill(f" {TEXT[:2]} {TEXT[2:]} ")
    button(found, "check").click()
    passed(found)
    ((name, token),) = visitor.calls()
    assert name == "solved"
    assert visitor.page.evaluate("jensenCaptcha.getResponse()") == token
    visitor.page.get_by_role("button", name="Buy").click()
    ordered(visitor.page)
    assert shopped[1][-1] == {
        "item": "tea",
        "jensen-captcha-response": token,
        "cf-turnstile-response": token,
        "other": token,
    }
    assert visitor.page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert visitor.page.context.cookies() == []


def test_the_recording_is_played_to_its_end(visitor, shopped):
    """The clip is decoded: its length is that of the recording."""
    visitor.page.add_init_script(
        "const made = Audio; window.Audio = function () { return (window.heard = new made()); };"
    )
    found = opened(visitor, at(shopped))
    button(found, "listen").click()
    until(lambda: visitor.page.evaluate("heard.currentTime") > 0.5)
    assert 3 < visitor.page.evaluate("heard.duration") < 15
    visitor.page.evaluate("heard.currentTime = heard.duration - 0.2")
    until(lambda: visitor.page.evaluate("heard.ended"))
    until(lambda: button(found, "listen").get_attribute("aria-pressed") == "false")


def test_a_wrong_answer_is_said_and_the_right_one_passes_after_it(visitor, shopped):
    found = opened(visitor, at(shopped))
    field, first = found.get_by_label(EN["label"]), picture(found)
    button(found, "check").click()
    says(found, "missing")
    field.fill("1111")
    field.press("Enter")
    says(found, "wrong", left="2")
    assert field.get_attribute("aria-invalid") == "true"
    assert field.evaluate("(field) => field.matches(':focus') && field.selectionEnd - field.selectionStart") == 4
    assert picture(found) == first
    field.fill(TEXT)
    field.press("Enter")
    passed(found)


def test_three_wrong_answers_are_followed_by_another_picture(visitor, shopped):
    found = opened(visitor, at(shopped))
    field, first = found.get_by_label(EN["label"]), picture(found)
    for sentence, left in (("wrong", "2"), ("wrong", "1"), ("spent", "")):
        field.fill("1111")
        field.press("Enter")
        says(found, sentence, left=left)
    assert picture(found) != first
    assert field.input_value() == ""


def test_a_late_answer_is_followed_by_another_picture(visitor, own, monkeypatch):
    found = opened(visitor, at(own))
    field, first, now = found.get_by_label(EN["label"]), picture(found), service.current
    monkeypatch.setattr(service, "current", lambda: now() + 301_000)
    field.fill(TEXT)
    field.press("Enter")
    says(found, "expired")
    assert picture(found) != first
    assert said(visitor) == {"410 (Gone)"}


class Held:
    """Requests of a page for a path, which are let go when the test says so."""

    def __init__(self, page, path):
        self.routes = []
        page.route(f"**/{path}", lambda route: self.routes.append(route))

    def let_go(self):
        for route in self.routes:
            route.continue_()


IMPATIENT = {
    "a double click": lambda found: button(found, "check").dblclick(),
    "enter, then the button": lambda found: (
        found.get_by_label(EN["label"]).press("Enter"),
        button(found, "check").click(),
    ),
    "enter, then the form": lambda found: (
        found.get_by_label(EN["label"]).press("Enter"),
        found.page.get_by_role("button", name="Buy").click(),
    ),
    "the form, twice": lambda found: found.page.get_by_role("button", name="Buy").dblclick(),
}


@pytest.mark.parametrize("way", IMPATIENT)
def test_one_answer_is_sent_at_a_time(visitor, shopped, way):
    found, count = opened(visitor, at(shopped)), len(shopped[1])
    held = Held(visitor.page, "answer")
    found.get_by_label(EN["label"]).fill(TEXT)
    IMPATIENT[way](found)
    until(lambda: visitor.page.evaluate("true") and held.routes)
    assert len(held.routes) == 1
    assert len(shopped[1]) == count
    held.let_go()
    if "form" in way:
        ordered(visitor.page)
        assert len(shopped[1]) == count + 1
    else:
        passed(found)
        assert [name for name, *_ in visitor.calls()] == ["solved"]
    assert len(held.routes) == 1


def test_a_form_that_is_sent_twice_while_it_is_checked_is_sent_once(visitor, shopped):
    """The page sends it itself, and stays."""
    found = opened(visitor, at(shopped))
    visitor.page.evaluate(
        """() => {
          window.sent = 0;
          document.querySelector("form").addEventListener("submit", (event) => (event.preventDefault(), sent++));
        }"""
    )
    held = Held(visitor.page, "answer")
    found.get_by_label(EN["label"]).fill(TEXT)
    visitor.page.get_by_role("button", name="Buy").dblclick()
    until(lambda: visitor.page.evaluate("true") and held.routes)
    held.let_go()
    passed(found)
    until(lambda: visitor.page.evaluate("sent"))
    assert visitor.page.evaluate("sent") == 1


def test_a_key_that_is_held_is_pressed_once(visitor, shopped):
    found, sent = opened(visitor, at(shopped)), []
    field = found.get_by_label(EN["label"])
    visitor.page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))

    def hold(sentence, **values):
        for _ in range(4):  # without a release, all but the first are repetitions
            visitor.page.keyboard.down("Enter")
            says(found, sentence, **values)
        visitor.page.keyboard.up("Enter")

    button(found, "fresh").focus()
    hold("renewed")
    field.fill("1111")
    hold("wrong", left="2")
    field.fill(TEXT)
    field.press("Enter")
    passed(found)
    assert [name for name in sent if name in ("challenge", "answer")] == ["challenge", "answer", "answer"]


def test_another_picture_is_asked_for_once_and_ends_the_wait_for_an_answer(visitor, shopped):
    found = opened(visitor, at(shopped))
    answers, first = Held(visitor.page, "answer"), picture(found)
    field = found.get_by_label(EN["label"])
    field.fill(TEXT)
    field.press("Enter")
    until(lambda: visitor.page.evaluate("true") and answers.routes)
    challenges = Held(visitor.page, "challenge")
    button(found, "fresh").dblclick()
    until(lambda: visitor.page.evaluate("true") and challenges.routes)
    assert len(challenges.routes) == 1
    challenges.let_go()
    says(found, "renewed")
    assert picture(found) != first
    field.fill(TEXT)
    field.press("Enter")
    until(lambda: visitor.page.evaluate("true") and len(answers.routes) == 2)
    answers.let_go()
    passed(found)
    assert [name for name, *_ in visitor.calls()] == ["solved"]


@pytest.mark.parametrize("lang", MESSAGES)
def test_an_answered_picture_is_said_to_be_answered(visitor, served, shopped, lang):
    found = opened(visitor, at(shopped, lang=lang), lang)
    first = picture(found)

    def lose(route):
        route.fetch()  # the service has counted it, and its answer is lost
        route.abort()

    visitor.page.route("**/answer", lose, times=1)
    field = found.get_by_label(MESSAGES[lang]["label"])
    field.fill(TEXT)
    field.press("Enter")
    says(found, "offline", lang)
    field.press("Enter")
    says(found, "closed", lang)
    assert picture(found) != first
    assert said(visitor) == {"net::ERR_FAILED", "410 (Gone)"}


def test_a_form_that_is_sent_first_is_checked_first(visitor, shopped):
    found = opened(visitor, at(shopped))
    buy = visitor.page.get_by_role("button", name="Buy")
    count = len(shopped[1])
    buy.click()
    says(found, "missing")
    assert len(shopped[1]) == count
    found.get_by_label(EN["label"]).fill(TEXT)
    buy.click()
    ordered(visitor.page)


@pytest.mark.parametrize("late", [("challenge",), ("challenge", "widget.css")], ids=["picture", "picture and styles"])
@pytest.mark.parametrize("lang", MESSAGES)
def test_a_form_that_is_sent_before_there_is_a_picture_is_held_and_the_visitor_is_told(visitor, shopped, lang, late):
    held, count = [Held(visitor.page, path) for path in late], len(shopped[1])
    visitor.page.goto(at(shopped, lang=lang), wait_until="commit")
    buy, found = visitor.page.get_by_role("button", name="Buy"), widget(visitor.page, lang)
    until(lambda: visitor.page.evaluate("true") and all(each.routes for each in held))
    buy.click()
    says(found, "busy", lang)
    assert len(shopped[1]) == count
    for each in held:
        each.let_go()
    found.get_by_role("img").wait_for()
    assert found.get_by_role("status").inner_text() == ""
    field = found.get_by_label(MESSAGES[lang]["label"])
    assert field.evaluate("(field) => field.matches(':focus')")
    field.fill(TEXT)
    buy.click()
    ordered(visitor.page)
    assert len(shopped[1]) == count + 1


def test_a_form_that_is_sent_while_another_picture_loads_is_held(visitor, shopped):
    found, count = opened(visitor, at(shopped)), len(shopped[1])
    held, buy = Held(visitor.page, "challenge"), visitor.page.get_by_role("button", name="Buy")
    button(found, "fresh").click()
    until(lambda: visitor.page.evaluate("true") and held.routes)
    buy.click()
    says(found, "busy")
    assert len(shopped[1]) == count
    held.routes.pop().abort()
    says(found, "offline")
    buy.click()  # there will be no picture: the shop's server decides
    ordered(visitor.page, REFUSED)
    assert len(shopped[1]) == count + 1
    assert said(visitor) == {"net::ERR_FAILED"}


def test_a_token_that_was_not_used_in_time_is_taken_back(visitor, shopped):
    visitor.page.clock.install()
    found = opened(visitor, at(shopped))
    found.get_by_label(EN["label"]).fill(TEXT)
    button(found, "check").click()
    passed(found)
    visitor.page.clock.fast_forward(301_000)
    says(found, "lapsed")
    assert [name for name, *_ in visitor.calls()] == ["solved", "lapsed"]
    assert visitor.page.locator("input[name=jensen-captcha-response]").input_value() == ""


LATE = """
const host = document.createElement("div");
Object.assign(host.dataset, { siteKey: "shop", lang: "de-AT" });
host.id = "late";
document.querySelector("form").append(host);
jensenCaptcha.render("#late");
jensenCaptcha.render(host); // it is there already
"""


def test_a_widget_can_be_added_and_asked_for_another_picture(visitor, shopped):
    opened(visitor, at(shopped))
    visitor.page.evaluate(f"() => {{ {LATE} }}")
    found = widget(visitor.page, "de")
    found.get_by_role("img").wait_for()
    first = picture(found)
    visitor.page.evaluate("jensenCaptcha.reset('#late')")
    until(lambda: picture(found) != first)
    assert found.count() == 1
    assert visitor.page.evaluate("jensenCaptcha.getResponse('#late')") == ""


REPLACE = """
const [gone] = document.getElementsByClassName("jensen-captcha");
const next = gone.cloneNode();
gone.replaceWith(next);
jensenCaptcha.render(next);
window.gone = new WeakRef(gone);
"""


def test_a_widget_that_was_taken_out_of_the_page_does_not_hold_its_form_and_is_forgotten(visitor, shopped):
    opened(visitor, at(shopped))
    page = visitor.page
    page.evaluate(f"() => {{ {REPLACE} }}")
    found = widget(page)
    found.get_by_role("img").wait_for()
    first = picture(found)
    page.evaluate("jensenCaptcha.reset()")
    until(lambda: found.get_by_role("img").count() and picture(found) != first)
    found.get_by_label(EN["label"]).fill(TEXT)
    button(found, "check").click()
    passed(found)
    ((_, token),) = visitor.calls()
    assert page.evaluate("jensenCaptcha.getResponse()") == token
    devtools = page.context.new_cdp_session(page)
    until(lambda: devtools.send("HeapProfiler.collectGarbage") == {} and page.evaluate("gone.deref() === undefined"))
    page.get_by_role("button", name="Buy").click()
    ordered(page)


def test_a_widget_that_is_put_back_into_the_page_works_on(visitor, shopped):
    found, page = opened(visitor, at(shopped)), visitor.page
    first = picture(found)
    page.evaluate("() => (window.kept = document.querySelector('.jensen-captcha')).remove()")
    assert page.evaluate("jensenCaptcha.getResponse()") == ""
    page.evaluate("() => { document.querySelector('form').prepend(kept); jensenCaptcha.render(kept); }")
    assert picture(found) == first
    found.get_by_label(EN["label"]).fill(TEXT)
    page.get_by_role("button", name="Buy").click()
    ordered(page)


def test_a_widget_that_was_taken_out_of_the_page_asks_for_no_picture(visitor, own):
    """Neither when its token lapses, nor when the pool is empty."""
    visitor.page.clock.install()
    found, asked = opened(visitor, at(own)), []
    visitor.page.on("response", lambda response: asked.append(response.status))
    found.get_by_label(EN["label"]).fill(TEXT)
    button(found, "check").click()
    passed(found)
    visitor.page.evaluate("() => (window.kept = document.querySelector('.jensen-captcha')).remove()")
    visitor.page.clock.fast_forward(400_000)
    assert [name for name, *_ in visitor.calls()] == ["solved"]
    assert visitor.page.evaluate("jensenCaptcha.getResponse(kept)") == ""
    while own[2].take(0, 9):
        pass
    for count in (1, 2):
        visitor.page.evaluate("jensenCaptcha.reset(kept)")
        until(lambda count=count: visitor.calls()[1:] == [["failed", "empty-pool"]] * count)
        visitor.page.clock.fast_forward(60_000)
    assert asked == [200, 503, 503]
    assert said(visitor) == {"503 (Service Unavailable)"}


def test_a_page_that_is_gone_back_to_is_checked_again(visitor, shopped):
    """The browser shows it from its memory, with a token that was used."""
    found = opened(visitor, at(shopped))
    found.get_by_label(EN["label"]).fill(TEXT)
    button(found, "check").click()
    passed(found)
    visitor.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    found.get_by_role("img").wait_for()
    assert visitor.page.evaluate("jensenCaptcha.getResponse()") == ""


def test_an_empty_pool_is_asked_again_by_itself(visitor, own):
    while own[2].take(0, 9):
        pass
    visitor.page.clock.install()
    visitor.page.goto(at(own))
    found = widget(visitor.page)
    says(found, "busy")
    assert visitor.calls() == [["failed", "empty-pool"]]
    visitor.page.get_by_role("button", name="Buy").click()
    says(found, "busy")
    assert own[1] == []
    supply(own[2], 1)
    visitor.page.clock.fast_forward(5000)
    found.get_by_role("img").wait_for()
    assert found.get_by_role("status").inner_text() == ""
    assert said(visitor) == {"503 (Service Unavailable)"}


@pytest.mark.parametrize("lang", MESSAGES)
def test_a_pool_that_stays_empty_is_asked_no_more_and_the_visitor_is_told(visitor, own, lang):
    found = opened(visitor, at(own, lang=lang), lang)
    while own[2].take(0, 9):
        pass
    asked = []
    visitor.page.on("response", lambda response: asked.append(response.status))
    visitor.page.clock.install()
    button(found, "fresh", lang).click()
    until(lambda: visitor.page.clock.fast_forward(5000) or asked.count(503) == 11)
    says(found, "stopped", lang)
    visitor.page.clock.fast_forward(600_000)
    assert found.get_by_role("img").count() == 0  # the earlier picture cannot be answered any more
    assert found.get_by_label(MESSAGES[lang]["label"]).get_attribute("aria-invalid") is None
    supply(own[2], 1)
    button(found, "fresh", lang).click()
    says(found, "renewed", lang)
    found.get_by_role("img").wait_for()
    assert asked.count(503) == 11
    assert said(visitor) == {"503 (Service Unavailable)"}


def test_an_answer_that_could_not_be_checked_is_kept_and_not_called_wrong(visitor, own, monkeypatch):
    found = opened(visitor, at(own))
    field = found.get_by_label(EN["label"])

    def lost(*_, **__):
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(own[2], "find", lost)
        field.fill(TEXT)
        field.press("Enter")
        says(found, "unchecked")
    assert field.get_attribute("aria-invalid") is None
    field.press("Enter")
    passed(found)
    assert said(visitor) == {"503 (Service Unavailable)"}


def test_an_answer_that_is_cut_off_is_not_called_wrong(visitor, shopped):
    found = opened(visitor, at(shopped))
    field, first = found.get_by_label(EN["label"]), picture(found)
    visitor.page.route("**/answer", lambda route: route.fulfill(response=route.fetch(), body='{"solved": t'), times=1)
    field.fill("1111")
    field.press("Enter")
    says(found, "offline")
    assert picture(found) == first


def test_a_network_that_is_down_is_said_and_the_answer_is_kept(visitor, shopped):
    found = opened(visitor, at(shopped))
    field = found.get_by_label(EN["label"])
    visitor.page.route("**/answer", lambda route: route.abort())
    field.fill(TEXT)
    field.press("Enter")
    says(found, "offline")
    assert field.input_value() == TEXT
    assert field.get_attribute("aria-invalid") is None
    visitor.page.unroute("**/answer")
    field.press("Enter")
    passed(found)
    assert visitor.calls()[0] == ["failed", "network"]
    assert said(visitor) == {"net::ERR_FAILED"}


def test_a_page_of_another_site_is_told_so(visitor, shopped):
    visitor.page.goto(at(shopped, site="nobody"))
    says(widget(visitor.page), "refused")
    assert visitor.calls() == [["failed", "unknown-site"]]
    visitor.page.get_by_role("button", name="Buy").click()  # the shop's server decides
    ordered(visitor.page, REFUSED)
    assert said(visitor) == {"404 (Not Found)"}


FOCUSED = """() => {
  let found = document.activeElement;
  while (found.shadowRoot?.activeElement) found = found.shadowRoot.activeElement;
  const style = getComputedStyle(found);
  return [found.textContent.trim() || found.id || found.name, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


def test_the_keyboard_is_enough_and_its_focus_is_seen(visitor, shopped):
    opened(visitor, at(shopped))
    page, seen = visitor.page, []
    for _ in range(6):
        page.keyboard.press("Tab")
        name, style, width = page.evaluate(FOCUSED)
        seen.append(name)
        assert style != "none"
        assert width >= (1 if name in ("item", "Buy") else 3)  # the shop's own have those of the browser
    assert seen == ["item", "answer", EN["check"], EN["fresh"], EN["listen"], "Buy"]
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    says(widget(page), "renewed")
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    passed(widget(page))
    assert page.evaluate(FOCUSED)[0] == EN["passed"]
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Buy"
    page.keyboard.press("Enter")
    ordered(page)


def test_without_javascript_the_check_is_a_form(browser, served, shopped):
    with visit(browser, java_script_enabled=False) as visitor:
        page = visitor.page
        page.goto(f"{served[0]}/page?site_key={SITE}")
        first = page.get_by_role("img").get_attribute("src")
        assert page.locator("audio").get_attribute("aria-label") == EN["recording"]
        page.get_by_role("link", name=EN["fresh"]).click()
        assert page.get_by_role("img").get_attribute("src") != first
        page.get_by_label(EN["label"]).fill("1111")
        page.get_by_role("button", name=EN["check"]).click()
        page.get_by_text(EN["spent"], exact=True).wait_for()
        assert page.evaluate("document.activeElement.id") == "answer"
        page.get_by_label(EN["label"]).fill(TEXT)
        page.get_by_role("button", name=EN["check"]).click()
        token = page.get_by_label(EN["token"]).input_value()
        assert page.evaluate("document.activeElement.textContent") == EN["passed"]
        page.goto(f"{served[0]}/page?site_key={SITE}&return_to={shopped[0]}/buy")
        page.get_by_label(EN["label"]).fill(TEXT)
        page.keyboard.press("Enter")
        page.get_by_role("button", name=EN["continue"].format(hostname="localhost")).click()
        ordered(page)
        assert visitor.errors == []
    with httpx.Client(base_url=served[0], timeout=60) as client:
        assert Client(client).verify(token)["success"]


def test_without_javascript_the_demonstration_takes_a_code(browser, demonstration):
    with visit(browser, java_script_enabled=False) as visitor:
        page = visitor.page
        page.goto(demonstration)
        page.get_by_label(EN["demo_comment"]).fill("Hello")
        with page.context.expect_page() as other:
            page.get_by_role("link", name=EN["demo_open"]).click()
        other.value.get_by_label(EN["label"]).fill(TEXT)
        other.value.keyboard.press("Enter")
        page.get_by_label(EN["token"]).fill(other.value.get_by_label(EN["token"]).input_value())
        page.get_by_role("button", name=EN["demo_send"]).click()
        page.get_by_text(EN["demo_accepted"], exact=True).wait_for()
        assert page.get_by_text("Hello").is_visible()


def test_the_demonstration_posts_a_comment(visitor, demonstration):
    found = opened(visitor, f"{demonstration}/?lang=fa", "fa")
    visitor.page.get_by_label(MESSAGES["fa"]["demo_comment"]).fill("\u0633\u0644\u0627\u0645")
    found.get_by_label(MESSAGES["fa"]["label"]).fill("\u06f7\u06f0\u06f3\u06f8")  # in Persian digits
    visitor.page.get_by_role("button", name=MESSAGES["fa"]["demo_send"]).click()
    visitor.page.get_by_text(MESSAGES["fa"]["demo_accepted"], exact=True).wait_for()


def addresses(kind, lang, served, shopped, demonstration):
    return {
        "widget": at(shopped, lang=lang),
        "demo": f"{demonstration}/?lang={lang}",
        "check": f"{served[0]}/page?site_key={SITE}&lang={lang}",
    }[kind]


@pytest.mark.parametrize(("kind", "scheme"), itertools.product(("widget", "demo", "check"), ("light", "dark")))
def test_pages_are_accessible_and_fit_the_smallest_screen(browser, served, shopped, demonstration, kind, scheme):
    """axe-core finds nothing; nothing is wider than the screen; what is pressed has 44 pixels; right-to-left holds."""
    for lang in MESSAGES:
        with visit(browser, color_scheme=scheme) as visitor:
            page = visitor.page
            page.goto(addresses(kind, lang, served, shopped, demonstration))
            page.get_by_role("img").wait_for()
            assert visitor.errors == []
            assert page.evaluate("violations") == []  # axe-core has styles of its own, which the policy forbids
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            scope = widget(page, lang) if kind == "widget" else page
            for pressed in (*scope.get_by_role("button").all(), *scope.get_by_role("link").all()):
                assert pressed.bounding_box()["height"] >= 44
                assert pressed.bounding_box()["width"] >= 44
            field = page.get_by_label(MESSAGES[lang]["label"])
            direction = "(element) => getComputedStyle(element).direction"
            assert field.evaluate(direction) == "ltr"
            above = "(element) => getComputedStyle(element.closest('form, [role=group]')).direction"
            assert field.evaluate(above) == ("rtl" if lang == "fa" else "ltr")
            field.fill("1111")
            field.press("Enter")
            page.get_by_text(
                re.compile(f"^{re.escape(MESSAGES[lang]['wrong'].split('{')[0])}|{re.escape(MESSAGES[lang]['spent'])}")
            ).wait_for()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def test_the_checks_of_accessibility_and_policy_see_what_is_wrong(browser, shopped):
    with visit(browser) as visitor:
        found = opened(visitor, at(shopped))
        found.get_by_role("img").evaluate("(image) => image.removeAttribute('alt')")
        found.get_by_role("status").evaluate(
            "(status) => { status.textContent = 'hardly seen'; status.style.color = '#ddd'; }"
        )
        rules = {violation["id"] for violation in Axe().run(visitor.page).response["violations"]}
        assert {"image-alt", "color-contrast"} <= rules
        visitor.page.evaluate("document.body.append(Object.assign(new Image(), { src: 'https://evil.example/x.png' }))")
        until(lambda: "img-src" in visitor.page.evaluate("violations"))
        assert visitor.errors


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_theme_can_be_chosen(browser, shopped, theme):
    other = {"light": "dark", "dark": "light"}[theme]
    with visit(browser, color_scheme=other) as visitor:
        colours = "(group) => getComputedStyle(group).backgroundColor"
        chosen = opened(visitor, at(shopped, more=f'data-theme="{theme}"')).evaluate(colours)
        assert chosen == {"light": "rgb(255, 255, 255)", "dark": "rgb(27, 33, 41)"}[theme]
        assert opened(visitor, at(shopped)).evaluate(colours) != chosen


@pytest.mark.parametrize(("motion", "duration"), [("reduce", "0s"), ("no-preference", "0.15s")])
def test_nothing_moves_for_those_who_want_no_motion(browser, shopped, motion, duration):
    with visit(browser, reduced_motion=motion) as visitor:
        image = opened(visitor, at(shopped)).get_by_role("img")
        assert image.evaluate("(image) => getComputedStyle(image).transitionDuration") == duration


def test_the_policy_that_is_documented_for_sites_is_that_of_the_shop():
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    for directive in POLICY.format(service="https://captcha.shop.example").split("; ")[1:-1]:
        assert directive in page
