"""The statements that sqlite and PostgreSQL share; a store adds how they are executed."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from jensen.apps.captcha.store.base import KEPT, Challenge, Picture, Rate

Row = Sequence[Any]
COLUMNS = {kind: ", ".join(f.name for f in fields(kind)) for kind in (Picture, Challenge)}
VALUES = {kind: ", ".join(f":{f.name}" for f in fields(kind)) for kind in (Picture, Challenge)}
TABLES = (
    "CREATE TABLE IF NOT EXISTS picture (id TEXT PRIMARY KEY, made BIGINT NOT NULL, key TEXT NOT NULL, "
    "digest {bytes} NOT NULL, media TEXT NOT NULL, data {bytes} NOT NULL, audio {bytes} NOT NULL)",
    "CREATE INDEX IF NOT EXISTS picture_made ON picture (made)",
    "CREATE TABLE IF NOT EXISTS challenge (id TEXT PRIMARY KEY, site TEXT NOT NULL, hostname TEXT NOT NULL, "
    "action TEXT NOT NULL, cdata TEXT NOT NULL, key TEXT NOT NULL, digest {bytes} NOT NULL, issued BIGINT NOT NULL, "
    "expires BIGINT NOT NULL, state TEXT NOT NULL, tries BIGINT NOT NULL, solved BIGINT NOT NULL, "
    "valid BIGINT NOT NULL, again TEXT NOT NULL, forget BIGINT NOT NULL)",
    # every answer, right or wrong, moves its entry: neither is faster
    "CREATE INDEX IF NOT EXISTS challenge_open ON challenge (expires, state, tries)",
    "CREATE INDEX IF NOT EXISTS challenge_forget ON challenge (forget)",
    "CREATE TABLE IF NOT EXISTS status (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
RATES = (
    "CREATE TABLE IF NOT EXISTS rate (name TEXT PRIMARY KEY, due DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX IF NOT EXISTS rate_due ON rate (due)",
)
ADD = f"INSERT INTO picture ({COLUMNS[Picture]}) VALUES ({VALUES[Picture]})"  # noqa: S608 (names of our own fields)
WAITING = "SELECT count(*), coalesce(sum(length(data) + length(audio)), 0) FROM picture"
OUTSTANDING = "SELECT count(*) FROM challenge WHERE state = 'open' AND expires > :now"
TAKE = (
    "DELETE FROM picture WHERE id = (SELECT id FROM picture ORDER BY made LIMIT 1 {lock}) "  # noqa: S608
    f"AND ({OUTSTANDING}) < :most RETURNING {COLUMNS[Picture]}"
)
ISSUE = f"INSERT INTO challenge ({COLUMNS[Challenge]}) VALUES ({VALUES[Challenge]})"  # noqa: S608
FIND = f"SELECT {COLUMNS[Challenge]} FROM challenge WHERE id = :id"  # noqa: S608
ANSWER = (
    "UPDATE challenge SET tries = tries + 1, "  # noqa: S608
    "state = CASE WHEN :right THEN 'solved' WHEN tries + 1 >= :tries THEN 'spent' ELSE 'open' END, "
    "solved = CASE WHEN :right THEN :now ELSE 0 END, valid = CASE WHEN :right THEN :valid ELSE 0 END, "
    "forget = :forget "
    "WHERE id = :id AND state = 'open' AND expires > :now AND tries < :tries "
    f"RETURNING {COLUMNS[Challenge]}"
)
REDEEM = (
    "UPDATE challenge SET state = 'redeemed', again = :again WHERE id = :id "  # noqa: S608
    "AND (state = 'solved' AND valid > :now OR state = 'redeemed' AND again = :again AND again <> '') "
    f"RETURNING {COLUMNS[Challenge]}"
)
ADMIT = (
    "INSERT INTO rate (name, due) VALUES (:name, :now + :step) ON CONFLICT (name) DO UPDATE "
    "SET due = CASE WHEN rate.due > :now THEN rate.due ELSE :now END + :step "
    "WHERE CASE WHEN rate.due > :now THEN rate.due ELSE :now END + :step <= :now + :span RETURNING due"
)
DUE = "SELECT due FROM rate WHERE name = :name"
WRITE_STATUS = (
    "INSERT INTO status (name, value) VALUES ('pool', :value) ON CONFLICT (name) DO UPDATE SET value = :value"
)
READ_STATUS = "SELECT value FROM status WHERE name = 'pool'"
SWEEP = "DELETE FROM challenge WHERE forget < :now"
SWEEP_RATES = "DELETE FROM rate WHERE due < :now"


class SQLStore(ABC):
    """The store's changes as statements. A subclass executes them: durably, or (rates) at least atomically."""

    take_lock = ""

    @abstractmethod
    def _write(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Execute a statement in a transaction that is on disk afterwards."""

    @abstractmethod
    def _write_rate(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Execute a statement on rates, which a machine may lose when it loses power."""

    @abstractmethod
    def _read(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Execute a query."""

    @abstractmethod
    def _read_rate(self, statement: str, values: dict[str, Any]) -> list[Row]:
        """Execute a query on rates."""

    def add(self, picture: Picture) -> None:
        self._write(ADD, asdict(picture))

    def waiting(self) -> tuple[int, int]:
        count, size = self._read(WAITING, {})[0]
        return int(count), int(size)

    def take(self, now: int, most: int) -> Picture | None:
        rows = self._write(TAKE.format(lock=self.take_lock), {"now": now, "most": most})
        return Picture(*rows[0]) if rows else None

    def issue(self, challenge: Challenge) -> None:
        self._write(ISSUE, asdict(challenge) | {"forget": challenge.expires + KEPT})

    def outstanding(self, now: int) -> int:
        return int(self._read(OUTSTANDING, {"now": now})[0][0])

    def find(self, id: str) -> Challenge | None:  # noqa: A002
        return _challenge(self._read(FIND, {"id": id}))

    def answer(self, id: str, now: int, *, right: bool, tries: int, valid: int) -> Challenge | None:  # noqa: A002
        values = {"id": id, "now": now, "right": right, "tries": tries, "valid": valid, "forget": valid + KEPT}
        return _challenge(self._write(ANSWER, values))

    def redeem(self, id: str, now: int, again: str) -> Challenge | None:  # noqa: A002
        return _challenge(self._write(REDEEM, {"id": id, "now": now, "again": again}))

    def admit(self, name: str, now: int, rate: Rate) -> float:
        values = {"name": name, "now": float(now), "step": rate.step, "span": rate.span}
        if self._write_rate(ADMIT, values):
            return 0.0
        due = self._read_rate(DUE, {"name": name})
        return rate.wait(due[0][0], now) if due else 0.001

    def write_status(self, status: dict[str, Any]) -> None:
        self._write(WRITE_STATUS, {"value": json.dumps(status)})

    def read_status(self) -> dict[str, Any]:
        rows = self._read(READ_STATUS, {})
        return json.loads(rows[0][0]) if rows else {}

    def sweep(self, now: int) -> None:
        self._write(SWEEP, {"now": now})
        self._write_rate(SWEEP_RATES, {"now": float(now)})


def _challenge(rows: list[Row]) -> Challenge | None:
    return Challenge(*rows[0]) if rows else None
