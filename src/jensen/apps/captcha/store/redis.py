"""Redis: several machines. A change is a script, which Redis runs alone. All keys are in one slot of a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jensen.apps.captcha.store.base import KEPT, Challenge, Picture, Rate, Unavailable

WAIT = 3  # seconds
PREFIX = "{jensen-captcha}:"
POOL, SIZE, OPENED, STATUS, CHALLENGE, RATE = (
    PREFIX + name for name in ("pool", "size", "open", "status", "challenge:", "rate:")
)
ADD = """
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('INCRBY', KEYS[2], ARGV[2])
"""
TAKE = """
if redis.call('ZCOUNT', KEYS[3], '(' .. ARGV[1], '+inf') >= tonumber(ARGV[2]) then return false end
local picture = redis.call('LPOP', KEYS[1])
if picture then redis.call('DECRBY', KEYS[2], #picture - string.find(picture, '\\n', 1, true)) end
return picture
"""
ISSUE = """
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
"""
ANSWER = """
local found = redis.call('HMGET', KEYS[1], 'state', 'tries', 'expires')
local id, now, right, most, valid, forget = unpack(ARGV)
if found[1] ~= 'open' or tonumber(found[2]) >= tonumber(most) or tonumber(found[3]) <= tonumber(now) then return {} end
local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
redis.call('HSET', KEYS[1], 'forget', forget)
redis.call('PEXPIREAT', KEYS[1], forget)
if right == '1' then
  redis.call('HSET', KEYS[1], 'state', 'solved', 'solved', now, 'valid', valid)
  redis.call('ZREM', KEYS[2], id)
elseif tries >= tonumber(most) then
  redis.call('HSET', KEYS[1], 'state', 'spent')
  redis.call('ZREM', KEYS[2], id)
end
return redis.call('HGETALL', KEYS[1])
"""
REDEEM = """
local found = redis.call('HMGET', KEYS[1], 'state', 'valid', 'again')
local first = found[1] == 'solved' and tonumber(found[2]) > tonumber(ARGV[1])
local repeated = found[1] == 'redeemed' and found[3] == ARGV[2] and ARGV[2] ~= ''
if not (first or repeated) then return {} end
redis.call('HSET', KEYS[1], 'state', 'redeemed', 'again', ARGV[2])
return redis.call('HGETALL', KEYS[1])
"""
ADMIT = """
local now, step, span = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due = tonumber(redis.call('GET', KEYS[1]) or '0')
local paid = math.max(due, now) + step
if paid > now + span then return string.format('%.3f', due) end
redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.max(1, math.ceil(paid - now)))
return false
"""


class Redis:
    """Durable if Redis is: `appendonly yes` and `appendfsync always`."""

    def __init__(self, url: str):
        waits = {"socket_timeout": WAIT, "socket_connect_timeout": WAIT, "health_check_interval": 10}
        try:
            # a script that was sent twice would take two pictures, or refuse a token that it has just redeemed
            self._client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **waits)
        except ValueError as error:
            raise ValueError("the address of Redis must be redis://HOST:PORT/NUMBER") from error
        scripts = (ADD, TAKE, ISSUE, ANSWER, REDEEM, ADMIT)
        self._add, self._take, self._issue, self._answer, self._redeem, self._admit = map(
            self._client.register_script, scripts
        )
        try:
            with _reached():
                self._client.ping()
        except BaseException:
            self._client.close()
            raise

    def add(self, picture: Picture) -> None:
        with _reached():
            self._add([POOL, SIZE], [_packed(picture), len(picture.data) + len(picture.audio)])

    def waiting(self) -> tuple[int, int]:
        with _reached():
            pipeline = self._client.pipeline()
            pipeline.llen(POOL)
            pipeline.get(SIZE)
            count, size = pipeline.execute()
        return int(count), int(size or 0)

    def take(self, now: int, most: int) -> Picture | None:
        with _reached():
            found = self._take([POOL, SIZE, OPENED], [now, most])
        return _unpacked(found) if found else None

    def issue(self, challenge: Challenge) -> None:
        forget = challenge.expires + KEPT
        values = [item for pair in (asdict(challenge) | {"forget": forget}).items() for item in pair]
        with _reached():
            self._issue([CHALLENGE + challenge.id, OPENED], [challenge.id, challenge.expires, forget, *values])

    def outstanding(self, now: int) -> int:
        with _reached():
            return int(self._client.zcount(OPENED, f"({now}", "+inf"))

    def find(self, id: str) -> Challenge | None:  # noqa: A002
        with _reached():
            found: dict[Any, Any] = self._client.hgetall(CHALLENGE + id)
        return _challenge([item for pair in found.items() for item in pair])

    def answer(self, id: str, now: int, *, right: bool, tries: int, valid: int) -> Challenge | None:  # noqa: A002
        with _reached():
            found = self._answer([CHALLENGE + id, OPENED], [id, now, int(right), tries, valid, valid + KEPT])
        return _challenge(found)

    def redeem(self, id: str, now: int, again: str) -> Challenge | None:  # noqa: A002
        with _reached():
            return _challenge(self._redeem([CHALLENGE + id], [now, again]))

    def admit(self, name: str, now: int, rate: Rate) -> float:
        with _reached():
            due = self._admit([RATE + name], [now, rate.step, rate.span])
        return 0.0 if due is None else rate.wait(float(due), now)

    def write_status(self, status: dict[str, Any]) -> None:
        with _reached():
            self._client.set(STATUS, json.dumps(status))

    def read_status(self) -> dict[str, Any]:
        with _reached():
            found = self._client.get(STATUS)
        return json.loads(found) if found else {}

    def sweep(self, now: int) -> None:
        """Redis deletes the rest by itself."""
        with _reached():
            self._client.zremrangebyscore(OPENED, "-inf", now)

    def close(self) -> None:
        self._client.close()


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis: {type(error).__name__}") from error


def _packed(picture: Picture) -> bytes:
    """A line of JSON, then the bytes of the picture and of its recordings."""
    head = asdict(picture) | {"digest": picture.digest.hex(), "data": len(picture.data)}
    del head["audio"]
    return json.dumps(head).encode() + b"\n" + picture.data + picture.audio


def _unpacked(packed: bytes) -> Picture:
    line, _, rest = packed.partition(b"\n")
    head = json.loads(line)
    size = head["data"]
    return Picture(**head | {"digest": bytes.fromhex(head["digest"]), "data": rest[:size]}, audio=rest[size:])


def _challenge(items: list[bytes]) -> Challenge | None:
    if not items:
        return None
    found = dict(zip((name.decode() for name in items[::2]), items[1::2], strict=True))
    read: dict[str, Callable[[bytes], Any]] = {"str": bytes.decode, "int": int, "bytes": bytes}
    return Challenge(**{f.name: read[str(f.type)](found[f.name]) for f in fields(Challenge)})
