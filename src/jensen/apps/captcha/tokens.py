"""Tokens: what a visitor who solved a challenge hands to the site, and the site to `siteverify`."""

from __future__ import annotations

import base64
import hmac
import re

from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.store import Challenge

FORM = re.compile(r"([0-9a-f]{8})\.([A-Za-z0-9_-]{24})\.[A-Za-z0-9_-]{43}")
LONGEST = 2048  # characters, as the published services state


def signed(keys: Keys, key: str, challenge: Challenge, valid: int) -> str:
    """The token of a challenge: KEY.ID.SIGNATURE, bound to its site, hostname, action and deadline."""
    fields = (challenge.id, challenge.site, challenge.hostname, challenge.action, valid)
    signature = base64.urlsafe_b64encode(keys.digest(key, "token", *fields)).rstrip(b"=").decode()
    return f"{key}.{challenge.id}.{signature}"


def parts(token: str) -> tuple[str, str] | None:
    """The key and the id that a token names, or None if it has not the form of one."""
    found = FORM.fullmatch(token) if len(token) <= LONGEST else None
    return (found[1], found[2]) if found else None


def genuine(keys: Keys, key: str, challenge: Challenge, token: str) -> bool:
    """Whether a token is that of a solved challenge, every byte of it, compared in constant time."""
    return hmac.compare_digest(token.encode(), signed(keys, key, challenge, challenge.valid).encode())
