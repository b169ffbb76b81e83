"""Answers are never kept: only a keyed digest that binds them to one challenge, one site and one deadline."""

from __future__ import annotations

import hmac
import secrets
import unicodedata

from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.store import Challenge

ID = 18  # random bytes


def new_id() -> str:
    """144 random bits, as 24 characters."""
    return secrets.token_urlsafe(ID)


def normalised(answer: str) -> str:
    """An answer as it is compared: without spaces, in capitals, full-width characters and digits of any script plain.

    >>> normalised(" k7m px"), normalised("\u06f1\u06f2\u0663"), normalised("\uff2b7")
    ('K7MPX', '123', 'K7')
    """
    plain = unicodedata.normalize("NFKC", answer).upper()
    digits = (unicodedata.decimal(c, None) for c in plain)
    return "".join(c if d is None else str(d) for c, d in zip(plain, digits, strict=True) if not c.isspace())


def text_digest(keys: Keys, key: str, id: str, text: str) -> bytes:  # noqa: A002
    """What the pool keeps of the text of a picture: a digest of the id and the text."""
    return keys.digest(key, "text", id, normalised(text))


def challenge_digest(keys: Keys, key: str, id: str, site: str, expires: int, text: bytes) -> bytes:  # noqa: A002
    """What a challenge keeps: a digest of the id, the site, the deadline and the digest of the text."""
    return keys.digest(key, "challenge", id, site, expires, text)


def right(keys: Keys, challenge: Challenge, answer: str) -> bool:
    """Whether an answer is that of the challenge, compared in constant time."""
    text = text_digest(keys, challenge.key, challenge.id, answer)
    digest = challenge_digest(keys, challenge.key, challenge.id, challenge.site, challenge.expires, text)
    return hmac.compare_digest(digest, challenge.digest)
