"""A browser for tests: Chromium of the machine, driven by Playwright, and a shop whose pages use the widget."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import httpx
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from captcha_service import SECRETS, SITE, fill
from jensen.apps.captcha.speech import Speaker
from jensen.apps.captcha.store import Store
from jensen.data.captcha import Painter, Style

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = "CI" in os.environ  # continuous integration sets it
TEXT = "7038"
ORDERED, REFUSED = "The order was accepted", "The order was rejected"  # words that the widget does not say
POLICY = (
    "default-src 'none'; script-src {service}; style-src {service}; connect-src {service}; img-src data:; "
    "media-src data:; form-action 'self'"
)
WATCH = """
window.calls = [];
window.solved = (token) => calls.push(["solved", token]);
window.lapsed = () => calls.push(["lapsed"]);
window.failed = (code) => calls.push(["failed", code]);
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield browser
        finally:
            browser.close()


def supply(store: Store, count: int, text: str = TEXT, style: Style = Style()) -> None:
    """Put pictures of a text in the pool that people could read and hear, each another one."""
    painter, clips = Painter(style), Speaker(["en", "de", "fa"], text).clips(text)
    for k in range(count):
        file = BytesIO()
        Image.fromarray(painter.paint(k, 0, text=text)[1].squeeze()).save(file, "WEBP", lossless=True)
        fill(store, 1, text=text, data=file.getvalue(), clips=clips)


@dataclass
class Visitor:
    """A page, and what its console has said."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.add_init_script(WATCH)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def calls(self) -> list:
        return self.page.evaluate("calls")


@contextmanager
def visit(browser: Browser, **options) -> Iterator[Visitor]:
    """A visitor in a context of its own, on a screen that is 320 pixels wide unless it is given."""
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 320, "height": 640}, **options})
    context.set_default_timeout(60_000)
    try:
        yield Visitor(context.new_page())
    finally:
        context.close()


SHOP = """<!doctype html>
<html lang="{lang}"><head><title>Shop</title><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><script src="{service}/widget.js" defer></script></head>
<body><main><h1>Shop</h1><form method="post" action="/buy"><p><label>Item <input name="item" value="tea"></label></p>
<div class="jensen-captcha" data-site-key="{site}" data-action="buy" data-cdata="cart-7" data-callback="solved"
 data-expired-callback="lapsed" data-error-callback="failed" {more}></div><p><button>Buy</button></p></form></main>
</body></html>"""


class Shop(BaseHTTPRequestHandler):
    """The shop's server: a page with the widget under a strict policy, and an order that is verified by its token."""

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        given = {"lang": "en", "more": "", "site": SITE, "service": self.server.service, **asked}
        self._send(SHOP.format(**given))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.orders.append(form)
        asked = {"secret": SECRETS[SITE], "response": form.get("jensen-captcha-response", "")}
        found = httpx.post(f"{self.server.service}/siteverify", data=asked, timeout=60).json()
        self._send(f"<!doctype html><title>Order</title><p>{ORDERED if found['success'] else REFUSED}</p>")

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-security-policy", POLICY.format(service=self.server.service))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_) -> None:
        """Nothing is logged."""


@contextmanager
def shop(service: str) -> Iterator[tuple[str, list]]:
    """The address of a shop that uses the service, and the orders that it was sent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        server.service, server.orders, server.daemon_threads = service, [], True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}", server.orders
        finally:
            server.shutdown()
            thread.join()
