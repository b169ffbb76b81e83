"""Where pictures, challenges, tokens and rates are kept: one interface, three stores."""

from __future__ import annotations

from jensen.apps.captcha.store.base import (
    OPEN,
    REDEEMED,
    SOLVED,
    SPENT,
    Challenge,
    Picture,
    Rate,
    Store,
    Unavailable,
)

__all__ = ["OPEN", "REDEEMED", "SOLVED", "SPENT", "Challenge", "Picture", "Rate", "Store", "Unavailable", "open_store"]


def open_store(url: str) -> Store:
    """The store of an address.

    Args:
        url: sqlite:///captcha.sqlite (a path), redis://HOST:PORT/NUMBER or postgresql://USER:PASSWORD@HOST/DATABASE.

    Raises:
        ValueError: for another address, or one whose client is not installed. Unavailable: if it cannot be reached.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from jensen.apps.captcha.store.sqlite import SQLite

        return SQLite(rest[1:])
    if scheme in ("redis", "rediss", "unix"):
        return _redis(url)
    if scheme in ("postgresql", "postgres"):
        return _postgres(url)
    raise ValueError("the store must be sqlite:///FILE, redis://HOST:PORT/NUMBER or postgresql://USER@HOST/DATABASE")


def _redis(url: str) -> Store:
    try:
        from jensen.apps.captcha.store.redis import Redis
    except ModuleNotFoundError as error:
        raise ValueError("to keep challenges in Redis, install jensen with the extra redis") from error
    return Redis(url)


def _postgres(url: str) -> Store:
    try:
        from jensen.apps.captcha.store.postgres import Postgres
    except ModuleNotFoundError as error:
        raise ValueError("to keep challenges in PostgreSQL, install jensen with the extra postgres") from error
    return Postgres(url)
