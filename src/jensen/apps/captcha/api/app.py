"""The application: what `uvicorn --factory jensen.apps.captcha.api.app:make` serves."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

from jensen import __version__
from jensen.apps.captcha.api import forms
from jensen.apps.captcha.api.guard import (
    UNAVAILABLE,
    VERIFY,
    Guard,
    Intake,
    Preflight,
    address_of,
    headers_of,
    local,
    name_of,
    refusal,
)
from jensen.apps.captcha.api.page import add_pages, refused_page
from jensen.apps.captcha.api.verification import fields
from jensen.apps.captcha.clock import now
from jensen.apps.captcha.limits import Address
from jensen.apps.captcha.logs import say, start_logs
from jensen.apps.captcha.metrics import Metrics
from jensen.apps.captcha.parent import end_with_parent
from jensen.apps.captcha.service import RETRY, Refused, Service, failed, too_many
from jensen.apps.captcha.settings import Settings, read_settings
from jensen.apps.captcha.store import Store, Unavailable, open_store

SWEEP = 10.0  # seconds between two sweeps
THREADS = 64  # requests that wait for the store at a time
Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    status: {"model": forms.Error} for status in (400, 403, 404, 405, 408, 410, 413, 415, 422, 429, 503)
}
JSON = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)
ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
BAD_JSON = Refused(400, "bad-json", "The body must be JSON in UTF-8.")
# what siteverify says without a site's secret
STRANGERS = ("bad-request", "missing-input-secret", "invalid-input-secret")


def make(*, demo: bool = False) -> FastAPI:
    """The application of the environment's settings, with logs; a worker process calls it, and ends with its parent."""
    start_logs()
    end_with_parent()
    settings = read_settings(demo=demo)
    return application(settings, open_store(settings.store))


def make_demo() -> FastAPI:
    """The application of a demonstration, with test keys; `jensen serve --demo` alone names it."""
    return make(demo=True)


def application(settings: Settings, store: Store) -> FastAPI:
    """The application over a store, which it closes when it ends."""
    metrics, service = Metrics(), Service(settings, store)
    app = FastAPI(
        title="jensen CAPTCHA",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect names the scheme of the proxy's request, which is http
        lifespan=_lifespan,
    )
    app.state.service, app.state.metrics = service, metrics
    hostnames = sorted({name for site in service.sites.values() for name in site.hostnames})
    app.add_middleware(Intake, settings=settings, limits=service.limits, refuse=_unread)
    app.add_middleware(Preflight, hostnames=hostnames, metrics=metrics)
    app.add_middleware(Guard, metrics=metrics)
    _errors(app)
    _visitors(app)
    _sites(app)
    _operation(app)
    add_pages(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    store: Store = app.state.service.store
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    sweeping = asyncio.create_task(_sweep(store))
    try:
        yield
    finally:
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        await to_thread.run_sync(store.close)


async def _sweep(store: Store) -> None:
    while True:
        try:
            await to_thread.run_sync(store.sweep, now())
        except Unavailable:
            say("the store cannot be reached", logging.WARNING)
        await asyncio.sleep(SWEEP)


def _counted(request: Request, refused: Refused) -> JSONResponse:
    request.app.state.metrics.count(name_of(request.scope["path"]), refused.code)
    return refusal(refused)


def _unread(request: Request, refused: Refused) -> Response:
    """The answer to a request whose body is not read: a page for a person without JavaScript."""
    page = name_of(request.scope["path"]) == "page"
    return refused_page(request, refused) if page else _counted(request, refused)


def _errors(app: FastAPI) -> None:
    """Every error is a status and one sentence, which repeats nothing of the request."""
    app.exception_handler(Refused)(_counted)

    @app.exception_handler(Unavailable)
    def unavailable(request: Request, error: Unavailable) -> JSONResponse:
        say("the store cannot be reached", logging.ERROR, because=str(error))
        found = _counted(request, UNAVAILABLE)
        if name_of(request.scope["path"]) == "verify":
            return JSONResponse(failed("internal-error"), 503, headers_of(UNAVAILABLE))
        return found

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _counted(request, BAD_JSON)
        return _counted(request, Refused(422, "invalid-field", forms.explained(request.scope["path"], first)))

    @app.exception_handler(StarletteHTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        path, sentence = request.scope["path"], STATUSES.get(error.status_code, "The request cannot be answered.")
        taken = [
            m for route in app.routes if isinstance(route, Route) and route.path == path for m in route.methods or ()
        ]
        if error.status_code == 405:
            sentence = f"{path} takes {forms.listed(sorted(taken))}."
        found = _counted(request, Refused(error.status_code, f"http-{error.status_code}", sentence))
        if error.status_code == 405:
            found.headers["allow"] = ", ".join(sorted(taken))
        return found


STATUSES = {400: "The body cannot be read.", 404: "There is nothing here."}


async def _json(request: Request) -> None:
    if not JSON.fullmatch(request.headers.get("content-type", "")):
        raise Refused(415, "not-json", "The Content-Type must be application/json.")
    if b"\0" in await request.body():  # UTF-16 and UTF-32, which json reads too; no JSON in UTF-8 has this byte
        raise BAD_JSON


async def _address(request: Request) -> Address:
    found: Address = address_of(request.scope, request.app.state.service.settings)
    return found


async def _hostname(
    origin: Annotated[str | None, Header(description="the page's origin, sent by browsers")] = None,
) -> str | None:
    """The hostname of the page that asks."""
    found = ORIGIN.fullmatch(origin or "")
    return found[1].strip("[]").lower() if found else None


By = Annotated[Address, Depends(_address)]
Hostname = Annotated[str | None, Depends(_hostname)]


def _visitors(app: FastAPI) -> None:
    """What a visitor's browser asks."""
    service: Service = app.state.service
    count: Callable[[str, str], None] = app.state.metrics.count

    @app.post("/challenge", responses=REFUSALS, dependencies=[Depends(_json)], status_code=201)
    def challenge(form: forms.ChallengeRequest, hostname: Hostname, address: By) -> forms.ChallengeResponse:
        """A picture to be read, and its text as it is spoken; each is given once."""
        issued = service.issue(form.site_key, hostname, form.action, form.cdata, address)
        count("issue", "issued")
        return forms.ChallengeResponse.of(issued, form.lang)

    @app.post("/answer", responses=REFUSALS, dependencies=[Depends(_json)])
    def answer(form: forms.AnswerRequest, hostname: Hostname, address: By) -> forms.AnswerResponse:
        """Compare an answer; the right one is exchanged for a token."""
        found = service.answer(form.site_key, hostname, form.id, form.answer, address)
        count("answer", "solved" if found.token else "wrong")
        return forms.AnswerResponse(
            solved=found.token is not None,
            token=found.token,
            expires=found.valid or None,
            tries_left=0 if found.token else found.left,
        )


CONTENT = {
    media: {"schema": forms.Verification.model_json_schema()}
    for media in ("application/json", "application/x-www-form-urlencoded")
}


def _sites(app: FastAPI) -> None:
    """What a site's server asks, at the paths of the published services."""
    service: Service = app.state.service
    refusals: Responses = {status: REFUSALS[status] for status in (408, 413, 415)}
    responses: Responses = refusals | {status: {"model": forms.Verified} for status in (429, 503)}

    async def siteverify(request: Request) -> JSONResponse:
        """Redeem a token: it is accepted once, or again with the same idempotency_key."""
        given = await fields(request)
        found = failed("bad-request") if given is None else await to_thread.run_sync(lambda: service.verify(**given))
        code = "accepted" if found["success"] else found["error-codes"][0]
        if code in STRANGERS:  # the secret of a site is never limited
            address = address_of(request.scope, service.settings)
            if wait := service.limits.wait_here("failed", address, now()):
                refused = too_many(wait)
                app.state.metrics.count("verify", refused.code)
                return JSONResponse(failed(refused.code), refused.status, headers_of(refused))
        app.state.metrics.count("verify", code)
        return JSONResponse(found)

    for path in VERIFY:
        app.post(
            path,
            response_model=forms.Verified,
            responses=responses,
            openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
            include_in_schema=path == VERIFY[0],
        )(siteverify)


def _operation(app: FastAPI) -> None:
    """What the operator asks."""
    service: Service = app.state.service
    refusals: Responses = {status: REFUSALS[status] for status in (403, 413, 415, 429)}

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses=refusals)
    def health(request: Request) -> dict[str, Any]:
        """Whether this process answers; to the operator, what draws the pictures too."""
        if not _by_operator(request):
            return {"status": "ok"}
        try:
            drawer = service.store.read_status().get("source")
        except Unavailable:
            drawer = None
        return {"status": "ok", "version": __version__, "demo": service.settings.demo, "drawer": drawer}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", responses=refusals | {503: REFUSALS[503]})
    def ready() -> dict[str, str]:
        """Whether challenges can be issued: the store is reached, and the pool is not empty."""
        if not service.store.waiting()[0]:
            raise Refused(503, "empty-pool", "No picture is ready.", RETRY)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    def metrics(request: Request) -> Response:
        if not _by_operator(request):
            raise HTTPException(404)
        return Response(app.state.metrics.page(service.store), media_type="text/plain; version=0.0.4; charset=utf-8")


def _by_operator(request: Request) -> bool:
    """Whether a request has the token, or comes from this machine if there is no token."""
    token = request.app.state.service.settings.metrics_token
    if token is None:
        return local(request.scope)
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token.get_secret_value()}".encode())
