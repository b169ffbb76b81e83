"""What the service does, without HTTP: it issues challenges, counts answers, and redeems tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from jensen.apps.captcha import answers, demo, tokens
from jensen.apps.captcha.clock import SECOND
from jensen.apps.captcha.clock import now as current
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.limits import Address, Limits
from jensen.apps.captcha.logs import say
from jensen.apps.captcha.settings import Settings, Site
from jensen.apps.captcha.store import OPEN, SOLVED, Challenge, Picture, Store

RETRY = 5.0  # seconds after which an empty pool may be asked again
LONGEST = 64  # characters of an answer


class Refused(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status.
        code: a name for programs.
        sentence: what is wrong, without anything that was given.
        wait: seconds after which the request may be repeated, or None.
    """

    def __init__(self, status: int, code: str, sentence: str, wait: float | None = None):
        super().__init__(code)
        self.status, self.code, self.sentence, self.wait = status, code, sentence, wait


def too_many(wait: float) -> Refused:
    """What is said to an address that asks too often."""
    return Refused(429, "too-many-requests", "Too many requests: try again later.", wait)


@dataclass(frozen=True)
class Issued:
    """A challenge, and the picture to be read; it is shown once."""

    challenge: Challenge
    picture: Picture


@dataclass(frozen=True)
class Answered:
    """What became of an answer: a token and its deadline, or the number of tries that are left."""

    token: str | None
    valid: int
    left: int


class Service:
    """The service over a store; any number of them, on any number of machines, may share one."""

    def __init__(self, settings: Settings, store: Store):
        self.settings, self.store = settings, store
        self.keys = Keys(settings.secrets())
        self.sites = settings.sites | demo.verdict_sites(settings)
        self.limits = Limits(settings, store, self.keys)
        self._secrets = {
            self._secret_digest(secret.get_secret_value()): key
            for key, site in self.sites.items()
            for secret in (site.secret, site.previous_secret)
            if secret is not None
        }

    def issue(self, site_key: str, hostname: str | None, action: str, cdata: str, address: Address) -> Issued:
        """Take a picture from the pool and make it a challenge. Raises Refused."""
        self._site(site_key, hostname)
        now = current()
        self._limited("issue", address, now)
        picture = self._picture(now)
        expires = now + SECOND * self.settings.challenge_seconds
        digest = answers.challenge_digest(self.keys, picture.key, picture.id, site_key, expires, picture.digest)
        challenge = Challenge(
            picture.id, site_key, hostname or "", action, cdata, picture.key, digest, issued=now, expires=expires
        )
        self.store.issue(challenge)
        return Issued(challenge, picture)

    def answer(self, site_key: str, hostname: str | None, id: str, answer: str, address: Address) -> Answered:  # noqa: A002
        """Count an answer and compare it. Raises Refused."""
        self._site(site_key, hostname)
        if not answers.normalised(answer):
            raise Refused(422, "empty-answer", "The answer must have a letter or a digit.")
        now = current()
        self._limited("answer", address, now)
        challenge = self.store.find(id)
        if challenge is None or challenge.site != site_key:
            raise Refused(404, "unknown-challenge", "There is no such challenge for this site.")
        if challenge.hostname != hostname:
            raise Refused(403, "wrong-hostname", "The challenge was issued for another hostname.")
        if not self.keys.knows(challenge.key):
            raise Refused(410, "expired", "The challenge has expired: ask for another one.")
        return self._counted(challenge, answer, now)

    def _counted(self, challenge: Challenge, answer: str, now: int) -> Answered:
        """A right and a wrong answer do the same: one comparison, one statement, one signature."""
        right = answers.right(self.keys, challenge, answer)
        if self.settings.demo:
            right = demo.VERDICTS.get(challenge.site, right)
        valid = now + SECOND * self.settings.token_seconds
        after = self.store.answer(challenge.id, now, right=right, tries=self.settings.tries, valid=valid)
        token = tokens.signed(self.keys, self.keys.current, challenge, valid)
        if after is None:
            self._refuse_closed(challenge, now)
        solved = after.state == SOLVED
        return Answered(token if solved else None, valid if solved else 0, self.settings.tries - after.tries)

    def _refuse_closed(self, challenge: Challenge, now: int) -> NoReturn:
        latest = self.store.find(challenge.id) or challenge
        if latest.state == OPEN and latest.expires <= now:
            raise Refused(410, "expired", "The challenge has expired: ask for another one.")
        raise Refused(410, "closed", "The challenge was answered already: ask for another one.")

    def _picture(self, now: int) -> Picture:
        """A picture whose key is still known; those that wait longer than a secret is known are dropped."""
        while picture := self.store.take(now, self.settings.outstanding):
            if self.keys.knows(picture.key):
                return picture
            say("a picture of an unknown secret is dropped", logging.WARNING)
        if self.store.outstanding(now) >= self.settings.outstanding:
            raise Refused(503, "too-many-challenges", "Too many challenges are open: try again soon.", RETRY)
        raise Refused(503, "empty-pool", "No picture is ready: try again soon.", RETRY)

    def _site(self, key: str, hostname: str | None) -> Site:
        site = self.sites.get(key)
        if site is None:
            raise Refused(404, "unknown-site", "There is no site with this key.")
        if hostname not in site.hostnames:
            raise Refused(403, "wrong-hostname", "The Origin header must name a hostname of this site.")
        return site

    def _limited(self, what: str, address: Address, now: int) -> None:
        if wait := self.limits.wait(what, address, now):
            raise too_many(wait)

    def _secret_digest(self, secret: str) -> bytes:
        return self.keys.digest(self.keys.current, "site secret", secret)

    def verify(self, secret: str, response: str, sitekey: str = "", again: str = "") -> dict[str, Any]:
        """Redeem a token, in the form that the published services answer.

        Args:
            secret: the secret of the site.
            response: the token.
            sitekey: the site's key, or "" if it is not to be compared.
            again: an idempotency key, with which the same request may be repeated, or "".
        """
        missing = [f"missing-input-{what}" for what, given in (("secret", secret), ("response", response)) if not given]
        if missing:
            return failed(*missing)
        if self.settings.demo and secret in demo.VERIFICATIONS:
            return _tested(demo.VERIFICATIONS[secret])
        site = self._secrets.get(self._secret_digest(secret))
        if site is None:
            return failed("invalid-input-secret")
        if sitekey and sitekey != site:
            return failed("sitekey-secret-mismatch")
        return self._redeemed(site, response, again)

    def _redeemed(self, site: str, token: str, again: str) -> dict[str, Any]:
        named = tokens.parts(token)
        if named is None or not self.keys.knows(named[0]):
            return failed("invalid-input-response")
        challenge = self.store.find(named[1])
        if challenge is None or challenge.site != site or not tokens.genuine(self.keys, named[0], challenge, token):
            return failed("invalid-input-response")
        digest = self.keys.digest(named[0], "idempotency", again).hex() if again else ""
        redeemed = self.store.redeem(challenge.id, current(), digest)
        return failed("timeout-or-duplicate") if redeemed is None else _success(redeemed)


def failed(*codes: str) -> dict[str, Any]:
    """What siteverify says of a token that is not accepted."""
    return {"success": False, "error-codes": list(codes)}


def _success(challenge: Challenge) -> dict[str, Any]:
    time = datetime.fromtimestamp(challenge.solved / SECOND, UTC).isoformat(timespec="milliseconds")
    return {
        "success": True,
        "challenge_ts": time.replace("+00:00", "Z"),
        "hostname": challenge.hostname,
        "error-codes": [],
        "action": challenge.action,
        "cdata": challenge.cdata,
    }


def _tested(codes: tuple[str, ...]) -> dict[str, Any]:
    """What the test keys say."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    passed = {
        "success": True,
        "challenge_ts": time,
        "hostname": "localhost",
        "error-codes": [],
        "action": "",
        "cdata": "",
    }
    return failed(*codes) if codes else passed
