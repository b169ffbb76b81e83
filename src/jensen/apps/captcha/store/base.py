"""What the service keeps, and the changes that a store makes to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol, Self

KEPT = 600_000  # milliseconds for which a challenge is remembered after its last deadline: replays are told apart
OPEN, SOLVED, SPENT, REDEEMED = "open", "solved", "spent", "redeemed"
SECONDS = {"second": 1, "minute": 60, "hour": 3600}


class Unavailable(Exception):
    """The store cannot be reached, or cannot write: nothing was acknowledged."""


@dataclass(frozen=True)
class Picture:
    """A picture that waits in the pool. It becomes the challenge of the same id, and its text is in no field.

    Attributes:
        id: 144 random bits.
        made: milliseconds since 1970.
        key: id of the key of the digest.
        digest: keyed digest of the id and the text.
        media: media type of the data.
        data: the encoded picture.
        audio: the recordings of the text, packed; empty without any.
    """

    id: str
    made: int
    key: str
    digest: bytes
    media: str
    data: bytes
    audio: bytes = b""


@dataclass(frozen=True)
class Challenge:
    """A picture that was given to a visitor: open -> solved -> redeemed, or open -> spent.

    Attributes:
        id: the id of its picture.
        site, hostname, action, cdata: for whom it was issued.
        key, digest: keyed digest of the id, the site, the deadline and the answer.
        issued, expires: milliseconds since 1970; answers are accepted before `expires`.
        state: open, solved (a token may be redeemed), redeemed, or spent (no try is left).
        tries: answers that were counted.
        solved, valid: when it was solved, and until when its token may be redeemed; 0 before.
        again: digest of the idempotency key of its redemption, or "".
        forget: when it may be deleted.
    """

    id: str
    site: str
    hostname: str
    action: str
    cdata: str
    key: str
    digest: bytes
    issued: int
    expires: int
    state: str = OPEN
    tries: int = 0
    solved: int = 0
    valid: int = 0
    again: str = ""
    forget: int = 0


@dataclass(frozen=True)
class Rate:
    """At most `count` events in `seconds`, evenly or at once.

    >>> Rate.of("30/minute")
    Rate(count=30, seconds=60)
    """

    count: int
    seconds: int

    @classmethod
    def of(cls, text: str) -> Self:
        """A rate from text. Raises a ValueError for anything but COUNT/second, COUNT/minute or COUNT/hour."""
        found = re.fullmatch(r"([1-9][0-9]{0,8})/(second|minute|hour)", text)
        if found is None:
            raise ValueError(f"a rate must be of the form 30/minute (or second, hour), got {text!r}")
        return cls(int(found[1]), SECONDS[found[2]])

    @property
    def step(self) -> float:
        """Milliseconds that an event takes of the span."""
        return 1000 * self.seconds / self.count

    @property
    def span(self) -> float:
        """Milliseconds of `count` events."""
        return 1000.0 * self.seconds

    def wait(self, due: float, now: int) -> float:
        """Seconds until the next event is admitted, if the events so far are paid for at the time `due`."""
        return max(due + self.step - self.span - now, 1.0) / 1000


class Store(Protocol):
    """Every change is one atomic statement: whatever is killed and whatever runs beside it, it happens once or not.

    Times are milliseconds since 1970. Every method raises `Unavailable` if the store cannot be reached or written.
    """

    def add(self, picture: Picture) -> None:
        """Put a picture in the pool."""

    def waiting(self) -> tuple[int, int]:
        """Pictures in the pool, and their bytes, those of the recordings among them."""

    def take(self, now: int, most: int) -> Picture | None:
        """Remove the oldest picture from the pool; None if there is none, or if `most` challenges are open."""

    def issue(self, challenge: Challenge) -> None:
        """Keep a challenge. It is on disk (sqlite, PostgreSQL) when this returns."""

    def outstanding(self, now: int) -> int:
        """Number of challenges that may still be answered."""

    def find(self, id: str) -> Challenge | None:  # noqa: A002
        """A challenge by its id."""

    def answer(self, id: str, now: int, *, right: bool, tries: int, valid: int) -> Challenge | None:  # noqa: A002
        """Count an answer, which solves the challenge or is the last wrong one of `tries`; the challenge after it.

        None, and nothing is changed, if the challenge is not open, has expired or has no try left.
        """

    def redeem(self, id: str, now: int, again: str) -> Challenge | None:  # noqa: A002
        """Redeem a solved challenge. None if it is not solved, its token has expired, or it was redeemed already with
        another `again`, or with "".
        """

    def admit(self, name: str, now: int, rate: Rate) -> float:
        """Count an event by name; 0, or the seconds to wait if it is not admitted and not counted (GCRA)."""

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace what the pool says of itself."""

    def read_status(self) -> dict[str, Any]:
        """What the pool last said of itself, or nothing."""

    def sweep(self, now: int) -> None:
        """Delete what is forgotten."""

    def close(self) -> None:
        """Release files and connections."""
