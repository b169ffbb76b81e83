"""What stands before every request: headers of its answer, a line in the log, limits of its body."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jensen.apps.captcha.clock import now
from jensen.apps.captcha.limits import Limits, client_address
from jensen.apps.captcha.logs import log, say
from jensen.apps.captcha.metrics import Metrics
from jensen.apps.captcha.service import RETRY, Refused, too_many
from jensen.apps.captcha.settings import PREFIX, Settings

FAILED = Refused(500, "internal-error", "The service failed.")
UNAVAILABLE = Refused(503, "store-unavailable", "The store cannot be reached: try again soon.", RETRY)
PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")  # headers that proxies add
LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")  # this machine's names, in the header Host
STRANGE = Refused(403, "wrong-hostname", "The Origin header must name a hostname of a site.")
NO_POST = Refused(403, "wrong-preflight", "Pages of a site may POST, with the header Content-Type.")
PATIENCE = 10.0  # seconds in which a body must arrive
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
VERIFY = ("/siteverify", "/turnstile/v0/siteverify", "/recaptcha/api/siteverify")
NAMES = {
    **dict.fromkeys(VERIFY, "verify"),
    "/challenge": "issue",
    "/answer": "answer",
    "/page": "page",
    "/widget.js": "widget",
    "/health": "health",
    "/ready": "ready",
    "/metrics": "metrics",
}


def name_of(path: str) -> str:
    """The name of a request in metrics and logs, where no path that a visitor made up is written."""
    return NAMES.get(path, "other")


def body_of(refused: Refused) -> dict[str, str]:
    """What is said of a refusal."""
    return {"error": refused.sentence, "code": refused.code}


def headers_of(refused: Refused) -> dict[str, str]:
    """Its headers."""
    return {} if refused.wait is None else {"retry-after": str(max(1, math.ceil(refused.wait)))}


def refusal(refused: Refused) -> JSONResponse:
    """The answer to what is refused."""
    return JSONResponse(body_of(refused), refused.status, headers_of(refused))


class Guard:
    """Adds headers to the answer, logs the request, and answers if the application fails."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, begun = time.perf_counter(), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 (its message may quote the request: only its place is logged)
            log.error("failed", exc_info=error)
            if not begun:
                self._metrics.count(name_of(scope["path"]), FAILED.code)
                await refusal(FAILED)(scope, receive, answer)
        finally:
            took, name = time.perf_counter() - began, name_of(scope["path"])
            self._metrics.time(name, took)
            say("request", request=name, method=scope["method"], status=status, ms=round(1000 * took, 1))


class Preflight(CORSMiddleware):
    """Answers a browser that asks which pages may read answers; what is refused is said as everywhere else."""

    def __init__(self, app: ASGIApp, hostnames: Sequence[str], metrics: Metrics):
        super().__init__(
            app,
            allow_origin_regex=rf"https?://\[?({'|'.join(map(re.escape, hostnames))})\]?(:\d+)?",
            allow_methods=["POST"],
            allow_headers=["Content-Type"],
            expose_headers=["Date", "Retry-After"],
            max_age=600,
        )
        self._metrics = metrics

    def preflight_response(self, request_headers: Headers) -> Response:
        found = super().preflight_response(request_headers)
        if found.status_code == 200:
            return found
        refused = NO_POST if self.is_allowed_origin(request_headers["origin"]) else STRANGE
        self._metrics.count("preflight", refused.code)
        response = refusal(refused)
        response.headers["vary"] = found.headers["vary"]
        return response


class Intake:
    """Reads a request's whole body, which is small, before the application sees it."""

    def __init__(
        self, app: ASGIApp, settings: Settings, limits: Limits, refuse: Callable[[Request, Refused], Response]
    ):
        self._app, self._settings, self._limits, self._refused = app, settings, limits, refuse
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._refuse(scope)
            body = await self._body(scope, receive)
        except Refused as refused:
            await self._refused(Request(scope), refused)(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _refuse(self, scope: Scope) -> None:
        """Refuse what its headers decide; a demonstration answers this machine only, and no proxy."""
        headers, here = Headers(scope=scope), local(scope)
        if self._settings.demo and not here:
            raise Refused(403, "demonstration", "A demonstration serves the machine that it runs on.")
        if "x-forwarded-for" in headers:
            self._warn(scope)
        verifies = scope["method"] == "POST" and name_of(scope["path"]) == "verify"  # limited if its secret is wrong
        limited = not here and not verifies
        if limited and (wait := self._limits.wait_here("request", address_of(scope, self._settings), now())):
            raise too_many(wait)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "encoded", "A body must not be compressed (Content-Encoding).")

    def _warn(self, scope: Scope) -> None:
        """Say once that a header is not believed."""
        peer = client_address(_peer(scope), [], [])
        if not self._warned and not any(peer in network for network in self._settings.trusted_proxies):
            self._warned = True
            setting, shared = f"{PREFIX}TRUSTED_PROXIES", "visitors of this proxy have the limits of one address"
            say(f"X-Forwarded-For is not believed: {setting} does not name who sends it", logging.WARNING, so=shared)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._settings.body_bytes
        too_large = Refused(413, "too-large", f"A request must have at most {most} bytes.")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        body, more = b"", True
        try:
            async with asyncio.timeout(PATIENCE):
                while more:
                    message: MutableMapping[str, Any] = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "too-slow", f"A request must arrive within {PATIENCE:g} seconds.") from None
        return body


def address_of(scope: Scope, settings: Settings) -> Any:
    """The visitor's address."""
    return client_address(_peer(scope), Headers(scope=scope).getlist("x-forwarded-for"), settings.trusted_proxies)


def local(scope: Scope) -> bool:
    """Whether this machine asks itself, under its own name and not through a proxy."""
    headers = Headers(scope=scope)
    named = LOCAL.fullmatch(headers.get("host", "")) is not None
    return named and client_address(_peer(scope), [], []).is_loopback and not any(name in headers for name in PROXIED)


def _peer(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""
