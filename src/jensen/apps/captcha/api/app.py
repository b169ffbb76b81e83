"""The application: what `uvicorn --factory jensen.apps.captcha.api.app:make` serves."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from jensen import __version__
from jensen.apps.captcha.api import forms
from jensen.apps.captcha.api.guard import UNAVAILABLE, Guard, Intake, address_of, body_of, headers_of, name_of
from jensen.apps.captcha.api.page import add_pages
from jensen.apps.captcha.api.verification import fields
from jensen.apps.captcha.clock import now
from jensen.apps.captcha.limits import Address
from jensen.apps.captcha.logs import say, start_logs
from jensen.apps.captcha.metrics import Metrics
from jensen.apps.captcha.parent import end_with_parent
from jensen.apps.captcha.service import RETRY, Refused, Service, failed
from jensen.apps.captcha.settings import Settings, read_settings
from jensen.apps.captcha.store import Store, Unavailable, open_store

SWEEP = 10.0  # seconds between two sweeps
THREADS = 64  # requests that wait for the store at a time
Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    status: {"model": forms.Error} for status in (400, 403, 404, 405, 408, 410, 413, 415, 422, 429, 503)
}
JSON = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)


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
    app = FastAPI(title="jensen CAPTCHA", version=__version__, docs_url=None, redoc_url=None, lifespan=_lifespan)
    app.state.service, app.state.metrics = service, metrics
    hostnames = sorted({re.escape(name) for site in service.sites.values() for name in site.hostnames})
    app.add_middleware(Intake, settings=settings)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=rf"https?://\[?({'|'.join(hostnames)})\]?(:\d+)?",
        allow_methods=["POST"],
        allow_headers=["Content-Type"],
        expose_headers=["Date", "Retry-After"],
        max_age=600,
    )
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


def _refusal(refused: Refused) -> JSONResponse:
    return JSONResponse(body_of(refused), refused.status, headers_of(refused))


def _errors(app: FastAPI) -> None:
    """Every error is a status and one sentence, which repeats nothing of the request."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        app.state.metrics.count(name_of(request.url.path), error.code)
        return _refusal(error)

    @app.exception_handler(Unavailable)
    def unavailable(request: Request, error: Unavailable) -> JSONResponse:
        say("the store cannot be reached", logging.ERROR, because=str(error))
        app.state.metrics.count(name_of(request.url.path), UNAVAILABLE.code)
        if name_of(request.url.path) == "verify":
            return JSONResponse(failed("internal-error"), 503, headers_of(UNAVAILABLE))
        return _refusal(UNAVAILABLE)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refusal(Refused(400, "bad-json", "The body must be JSON."))
        names = [str(place) for place in first["loc"][1:] if str(place) in KNOWN]
        what = f"The field {'.'.join(names)}" if names else "The body"
        return _refusal(Refused(422, "invalid-field", f"{what} is not as /openapi.json says: {first['type']}."))

    @app.exception_handler(StarletteHTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        sentence = STATUSES.get(error.status_code, "The request cannot be answered.")
        return JSONResponse({"error": sentence, "code": f"http-{error.status_code}"}, error.status_code, error.headers)


STATUSES = {400: "The body cannot be read.", 404: "There is nothing here.", 405: "This address has another method."}
KNOWN = {name for form in (forms.ChallengeRequest, forms.AnswerRequest) for name in form.model_fields} | {"origin"}


async def _json(request: Request) -> None:
    if not JSON.fullmatch(request.headers.get("content-type", "")):
        raise Refused(415, "not-json", "The Content-Type must be application/json.")


async def _address(request: Request) -> Address:
    found: Address = address_of(request.scope, request.app.state.service.settings)
    return found


async def _hostname(
    origin: Annotated[str | None, Header(description="the page's origin, sent by browsers")] = None,
) -> str | None:
    """The hostname of the page that asks."""
    try:
        return urlsplit(origin or "").hostname
    except ValueError:
        return None


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
    responses: Responses = {408: REFUSALS[408], 413: REFUSALS[413], 503: {"model": forms.Verified}}

    async def siteverify(request: Request) -> JSONResponse:
        """Redeem a token: it is accepted once, or again with the same idempotency_key."""
        given = await fields(request)
        found = failed("bad-request") if given is None else await to_thread.run_sync(lambda: service.verify(**given))
        app.state.metrics.count("verify", "accepted" if found["success"] else found["error-codes"][0])
        return JSONResponse(found)

    for path in ("/siteverify", "/turnstile/v0/siteverify", "/recaptcha/api/siteverify"):
        app.post(
            path,
            response_model=forms.Verified,
            responses=responses,
            openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
            include_in_schema=path == "/siteverify",
        )(siteverify)


def _operation(app: FastAPI) -> None:
    """What the operator asks."""
    service: Service = app.state.service
    settings = service.settings

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Whether this process answers, and what draws the pictures."""
        try:
            drawer = service.store.read_status().get("source")
        except Unavailable:
            drawer = None
        return {"status": "ok", "version": __version__, "demo": settings.demo, "drawer": drawer}

    @app.get("/ready", responses={503: {"model": forms.Error}})
    def ready() -> dict[str, str]:
        """Whether challenges can be issued: the store is reached, and the pool is not empty."""
        if not service.store.waiting()[0]:
            raise Refused(503, "empty-pool", "No picture is ready.", RETRY)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    def metrics(request: Request, authorization: Annotated[str, Header()] = "") -> Response:
        token = settings.metrics_token
        allowed = (
            hmac.compare_digest(authorization.encode(), f"Bearer {token.get_secret_value()}".encode())
            if token
            else address_of(request.scope, settings).is_loopback
        )
        if not allowed:
            raise HTTPException(404)
        return Response(app.state.metrics.page(service.store), media_type="text/plain; version=0.0.4; charset=utf-8")
