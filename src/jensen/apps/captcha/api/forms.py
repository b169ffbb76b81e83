"""What requests and answers hold; OpenAPI is made from these."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from jensen.apps.captcha.clips import MEDIA, chosen
from jensen.apps.captcha.service import LONGEST, Issued

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="public key of the site")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{24}$", description="id of the challenge")]
Label = r"^[A-Za-z0-9_-]*$"
Milliseconds = Annotated[int, Field(description="milliseconds since 1970")]


class Form(BaseModel):
    """A request: no other fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class ChallengeRequest(Form):
    site_key: Key
    action: Annotated[str, Field(max_length=32, pattern=Label, description="what the visitor is about to do")] = ""
    cdata: Annotated[str, Field(max_length=255, pattern=Label, description="returned by siteverify")] = ""
    lang: Annotated[str, Field(max_length=35, pattern=r"^[A-Za-z0-9-]*$", description="of the page")] = ""


class AnswerRequest(Form):
    site_key: Key
    id: Id
    answer: Annotated[str, Field(max_length=LONGEST, description="what the visitor typed")]


FORMS: dict[str, type[Form]] = {"/challenge": ChallengeRequest, "/answer": AnswerRequest}
RULES = {
    "site_key": "1 to 64 letters, digits, _ and -",
    "id": "24 letters, digits, _ and -",
    "action": "at most 32 letters, digits, _ and -",
    "cdata": "at most 255 letters, digits, _ and -",
    "lang": "at most 35 letters, digits and -",
    "answer": f"at most {LONGEST} characters",
}


def explained(path: str, error: Mapping[str, Any]) -> str:
    """What is wrong with a request, by the first error of its form, without anything that was given."""
    *_, name = error["loc"]
    if len(error["loc"]) == 1:
        return "The body must be a JSON object."
    if name not in FORMS[path].model_fields:
        return f"{path} takes {listed([*FORMS[path].model_fields])} only."
    return f"{name} must be {'given' if error['type'] == 'missing' else f'text of {RULES[name]}'}."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


class Picture(BaseModel):
    media_type: Literal["image/png", "image/webp"]
    data: Annotated[str, Field(description="the picture in base64")]


class Audio(BaseModel):
    media_type: Literal["audio/mpeg"]
    data: Annotated[str, Field(description="the recording in base64")]
    lang: Annotated[str, Field(description="in which it is spoken: en, de or fa")]


class ChallengeResponse(BaseModel):
    id: Id
    picture: Picture
    audio: Annotated[Audio | None, Field(description="the same characters, spoken; null if there is no recording")]
    expires: Milliseconds

    @classmethod
    def of(cls, issued: Issued, lang: str) -> Self:
        """What is shown of a challenge on a page in a language."""
        picture, clip = issued.picture, chosen(issued.picture.audio, lang)
        audio = clip and {"media_type": MEDIA, "data": _text(clip[1]), "lang": clip[0]}
        shown = {"media_type": picture.media, "data": _text(picture.data)}
        return cls.model_validate(
            {"id": picture.id, "picture": shown, "audio": audio, "expires": issued.challenge.expires}
        )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class AnswerResponse(BaseModel):
    solved: bool
    token: Annotated[str | None, Field(description="to be sent to the site, if solved")]
    expires: Annotated[int | None, Field(description="until when it may be verified, milliseconds since 1970")]
    tries_left: Annotated[int, Field(description="0: ask for another challenge")]


class Error(BaseModel):
    error: Annotated[str, Field(description="one sentence")]
    code: str


class Verification(BaseModel):
    """A request of a site's server, as a form or as JSON."""

    secret: Annotated[str, Field(description="secret of the site")]
    response: Annotated[str, Field(description="the token")]
    remoteip: Annotated[str, Field(description="accepted and not used")] = ""
    sitekey: Annotated[str, Field(description="compared with the site's key, if given")] = ""
    idempotency_key: Annotated[str, Field(description="with the same one a request may be repeated")] = ""


class Verified(BaseModel):
    success: bool
    challenge_ts: Annotated[str, Field(description="when the challenge was solved (ISO 8601)")] = ""
    hostname: str = ""
    error_codes: Annotated[list[str], Field(alias="error-codes")]
    action: str = ""
    cdata: str = ""
