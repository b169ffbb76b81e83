"""Pages for people: the files of the widget, the check as a form without JavaScript, and a demonstration."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field, ValidationError

from jensen.apps.captcha import demo
from jensen.apps.captcha.api import forms
from jensen.apps.captcha.api.guard import UNAVAILABLE, address_of, headers_of
from jensen.apps.captcha.api.verification import read_form
from jensen.apps.captcha.api.words import FOLDER, MESSAGES, SENTENCES, language_of, number
from jensen.apps.captcha.logs import say
from jensen.apps.captcha.service import LONGEST, Refused, Service, failed
from jensen.apps.captcha.store import Unavailable

RESPONSE = "jensen-captcha-response"
FILES = {"widget.js": "text/javascript", "widget.css": "text/css", "page.css": "text/css"}
READ = ["GET", "HEAD"]
SHARED = {"cache-control": "public, max-age=600", "cross-origin-resource-policy": "cross-origin"}
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self'; img-src data:; media-src data:; connect-src 'self'; "
    "form-action 'self' {target}; frame-ancestors 'none'; base-uri 'none'"
)
RETURN = re.compile(  # stricter than browsers, so that both find the same hostname
    r"(?P<origin>https?://(?P<host>\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?)(/[\w.~:/?#\[\]@!$&'()*+,;=%-]*)?",
    re.ASCII,
)
RENEWED = {"expired": "expired", "closed": "closed", "unknown-challenge": "expired", "empty-answer": "missing"}
UNREADABLE = Refused(422, "invalid-form", "The form cannot be read.")
INVALID = ("spent", "missing")  # sentences that say what is wrong with what was typed
TEMPLATES = Environment(loader=PackageLoader("jensen.apps.captcha", "page"), autoescape=True, undefined=StrictUndefined)


def add_pages(app: FastAPI) -> None:
    """Add the pages; the demonstration if the service is one, with its site."""
    for name, media in FILES.items():
        _add_file(app, name, media)
    _add_check(app)
    if app.state.service.settings.demo and demo.SITE in app.state.service.sites:
        _add_demo(app)


def _add_file(app: FastAPI, name: str, media: str) -> None:
    text = FOLDER.joinpath(name).read_text(encoding="utf-8")
    if name == "widget.js":
        text = f"({text.rstrip()})({json.dumps(MESSAGES, ensure_ascii=False)});\n"

    @app.api_route(f"/{name}", methods=READ, include_in_schema=False)
    async def file() -> Response:
        return Response(text, media_type=media, headers=SHARED)


@dataclass(frozen=True)
class Asked:
    """A request for a page, and what its address or its form holds."""

    request: Request
    given: Mapping[str, str]

    @property
    def language(self) -> str:
        return language_of(self.given.get("lang", ""), self.request.headers.get("accept-language", ""))

    def page(
        self, template: str, status: int = 200, *, scripts: str = "'none'", target: str = "", **values: Any
    ) -> HTMLResponse:
        """A page in the visitor's language, which may send forms here and to the origin `target`."""
        common = {"language": self.language, "words": MESSAGES[self.language], "response": RESPONSE}
        headers = {
            "content-language": self.language,
            "content-security-policy": POLICY.format(scripts=scripts, target=target),
            "vary": "Accept-Language",
        }
        if target:
            headers["referrer-policy"] = "strict-origin"  # the site learns who sends the form
        return HTMLResponse(TEMPLATES.get_template(template).render(common | values), status, headers)


class Visit(forms.ChallengeRequest):
    """What the address of the check holds; the token is sent to `return_to`, or shown to be copied."""

    return_to: Annotated[str, Field(max_length=1024)] = ""


class Attempt(Visit):
    """What its form holds."""

    id: forms.Id
    answer: Annotated[str, Field(max_length=LONGEST)]


class Unfit(Refused):
    """A request whose parameter is not right; `why` is the name of the sentence for the owner of the site."""

    def __init__(self, parameter: str, why: str = "owner_invalid", status: int = 422, code: str = "invalid-field"):
        super().__init__(status, code, f"The parameter {parameter} is not right.")
        self.parameter, self.why = parameter, why


class Check:
    """The check as a form. A picture is shown once, so that an answer that is not right is followed by another."""

    def __init__(self, app: FastAPI, asked: Asked):
        self._service: Service = app.state.service
        self._count: Callable[[str, str], None] = app.state.metrics.count
        self._asked, self._hostname = asked, ""
        self._address = address_of(asked.request.scope, self._service.settings)

    def respond(self, work: Callable[[], HTMLResponse]) -> HTMLResponse:
        """The page that `show` or `answer` makes, or one that says why there is none."""
        try:
            return work()
        except Refused as refused:
            return self.refused(refused)
        except Unavailable as error:
            say("the store cannot be reached", logging.ERROR, because=str(error))
            return self.refused(UNAVAILABLE)

    def refused(self, refused: Refused) -> HTMLResponse:
        """The page that says why there is no check."""
        self._count("page", refused.code)
        again, owner = refused.wait is not None, ""
        if isinstance(refused, Unfit):
            owner = MESSAGES[self._asked.language][refused.why].format(parameter=refused.parameter)
        sentence = SENTENCES.get(refused.status, "refused")
        found = self._page(sentence, status=refused.status, wrong=True, again=again, owner=owner, hostname="")
        found.headers.update(headers_of(refused))
        return found

    def show(self) -> HTMLResponse:
        """The page with a picture; for a HEAD request its headers, which cost none."""
        visit = self._read(Visit)
        if self._asked.request.method == "HEAD":
            headers = self._page("")
            del headers.headers["content-length"]  # that of the page with a picture is not known
            return headers
        return self._challenge(visit, "")

    def answer(self) -> HTMLResponse:
        """The page after an answer: with a token, or another picture."""
        attempt = self._read(Attempt)
        try:
            found = self._service.answer(attempt.site_key, self._hostname, attempt.id, attempt.answer, self._address)
        except Refused as refused:
            if refused.code not in RENEWED:
                raise
            return self._challenge(attempt, RENEWED[refused.code])
        self._count("answer", "solved" if found.token else "wrong")
        if found.token is None:
            return self._challenge(attempt, "spent")
        back = RETURN.fullmatch(attempt.return_to)
        return self._page("passed", token=found.token, back=attempt.return_to, target=back["origin"] if back else "")

    def _read(self, kind: type[Any]) -> Any:
        """The fields; the check is for the hostname of `return_to`, or else for the first of the site."""
        given = self._asked.given
        try:
            visit = kind.model_validate({name: given[name] for name in kind.model_fields if name in given})
        except ValidationError as error:
            raise Unfit(str(error.errors()[0]["loc"][0])) from None
        site, back = self._service.sites.get(visit.site_key), RETURN.fullmatch(visit.return_to)
        if site is None:
            raise Unfit("site_key", "owner_site", 404, "unknown-site")
        if visit.return_to and back is None:
            raise Unfit("return_to")
        self._hostname = back["host"].strip("[]") if back else site.hostnames[0]
        if visit.return_to.startswith("http:") and not _loopback(self._hostname):
            raise Unfit("return_to", "owner_secure")
        if self._hostname not in site.hostnames:
            raise Unfit("return_to", "owner_hostname", 403, "wrong-hostname")
        return visit

    def _challenge(self, visit: Visit, sentence: str) -> HTMLResponse:
        issued = self._service.issue(visit.site_key, self._hostname, visit.action, visit.cdata, self._address)
        self._count("issue", "issued")
        shown = forms.ChallengeResponse.of(issued, self._asked.language)
        return self._page(sentence, wrong=True, shown=shown)

    def _page(self, sentence: str, **values: Any) -> HTMLResponse:
        kept = ("site_key", "lang", "action", "cdata", "return_to")
        fields = {name: self._asked.given[name] for name in kept if self._asked.given.get(name)}
        language, words = self._asked.language, MESSAGES[self._asked.language]
        minutes = number(self._service.settings.token_seconds // 60, language)
        said, invalid = words.get(sentence, ""), sentence in INVALID
        common: dict[str, Any] = {"hostname": self._hostname, "said": said, "invalid": invalid, "fields": fields}
        nothing = {"wrong": False, "again": False, "shown": None, "token": None, "back": "", "owner": ""}
        return self._asked.page("check.html", minutes=minutes, **nothing | common | values)


def refused_page(request: Request, refused: Refused) -> HTMLResponse:
    """The page of the check for a request whose body is not read."""
    return Check(request.app, Asked(request, request.query_params)).refused(refused)


def _loopback(hostname: str) -> bool:
    """Whether a hostname is this machine's, which a browser reaches without a network."""
    try:
        return hostname == "localhost" or ip_address(hostname).is_loopback
    except ValueError:
        return False


def _add_check(app: FastAPI) -> None:
    @app.api_route("/page", methods=READ, include_in_schema=False)
    def show(request: Request) -> HTMLResponse:
        check = Check(app, Asked(request, request.query_params))
        return check.respond(check.show)

    @app.post("/page", include_in_schema=False)
    async def answer(request: Request) -> HTMLResponse:
        given = await read_form(request)
        check = Check(app, Asked(request, given or {}))
        return check.refused(UNREADABLE) if given is None else await to_thread.run_sync(check.respond, check.answer)


def _add_demo(app: FastAPI) -> None:
    """A comment's form, whose server redeems the token as a site's does."""
    service: Service = app.state.service
    secret = service.sites[demo.SITE].secret.get_secret_value()

    def page(asked: Asked, found: Mapping[str, Any] | None) -> HTMLResponse:
        comment, said = asked.given.get("comment", ""), ""
        if found:
            said = MESSAGES[asked.language]["demo_accepted" if found["success"] else "demo_refused"]
        values: dict[str, Any] = {"languages": MESSAGES, "site": demo.SITE, "found": found, "comment": comment}
        return asked.page("demo.html", scripts="'self'", said=said, **values)

    @app.api_route("/", methods=READ, include_in_schema=False)
    async def empty(request: Request) -> HTMLResponse:
        return page(Asked(request, request.query_params), None)

    @app.post("/", include_in_schema=False)
    async def posted(request: Request) -> HTMLResponse:
        given = await read_form(request) or {}
        token = given.get(RESPONSE, "")
        return page(Asked(request, given), await to_thread.run_sync(_verified, service, secret, token))


def _verified(service: Service, secret: str, token: str) -> dict[str, Any]:
    try:
        return service.verify(secret, token)
    except Unavailable:
        return failed("internal-error")
