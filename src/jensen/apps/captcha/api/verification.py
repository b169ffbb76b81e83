"""Reading what client libraries send to siteverify: a form or JSON."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from jensen.apps.captcha.settings import once

NAMES = {"secret": "secret", "response": "response", "sitekey": "sitekey", "idempotency_key": "again"}
LONGEST = 4096  # characters of a field


async def fields(request: Request) -> dict[str, str] | None:
    """The fields of a request by the names of `Service.verify`, or None if it cannot be read.

    Fields of other names, remoteip among them, are ignored, as the published services ignore them.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "application/json":
        given = await _object(request)
    elif media in ("application/x-www-form-urlencoded", "multipart/form-data"):
        given = await read_form(request)
    else:
        return None
    known = {NAMES[key]: value for key, value in (given or {}).items() if key in NAMES and value is not None}
    right = given is not None and all(isinstance(v, str) and len(v) <= LONGEST for v in known.values())
    return {"secret": "", "response": ""} | known if right else None


async def _object(request: Request) -> dict[str, Any] | None:
    try:
        text = (await request.body()).decode("utf-8-sig")  # from bytes json would read UTF-16 too
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def read_form(request: Request) -> dict[str, Any] | None:
    """A form in which no field is given twice."""
    try:
        async with request.form(max_files=0, max_fields=16) as form:
            items = form.multi_items()
    except HTTPException:
        return None
    return dict(items) if len({name for name, _ in items}) == len(items) else None
