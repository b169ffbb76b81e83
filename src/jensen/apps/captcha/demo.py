"""What exists in a demonstration only: a site on this machine, and keys with which a verdict can be chosen."""

from __future__ import annotations

import json
import secrets

from pydantic import SecretStr

from jensen.apps.captcha.settings import PREFIX, Settings, Site

SITE, RUN = "demo", "captcha-release"
GENERATED = (f"{PREFIX}SECRET", f"{PREFIX}SITES")
HOSTNAMES = ("localhost", "127.0.0.1", "::1")
PASSES, FAILS = "1x00000000000000000000AA", "2x00000000000000000000AB"
VERDICTS = {PASSES: True, FAILS: False}
"""Site keys for which every answer is right, or wrong; they are Turnstile's."""
VERIFICATIONS: dict[str, tuple[str, ...]] = {
    "1x0000000000000000000000000000000AA": (),
    "2x0000000000000000000000000000000AA": ("invalid-input-response",),
    "3x0000000000000000000000000000000AA": ("timeout-or-duplicate",),
}
"""Secrets for which every response passes, or fails with these codes; they are Turnstile's."""


def demo_environment() -> dict[str, str]:
    """Settings of a demonstration: generated secrets, and one site on this machine."""
    site = {"secret": secrets.token_hex(32), "hostnames": list(HOSTNAMES)}
    return {"SECRET": secrets.token_hex(32), "SITES": json.dumps({SITE: site})}


def verdict_sites(settings: Settings) -> dict[str, Site]:
    """The sites of the test keys; none outside a demonstration."""
    if not settings.demo:
        return {}
    return {key: Site(secret=SecretStr(secrets.token_hex(32)), hostnames=HOSTNAMES) for key in VERDICTS}
