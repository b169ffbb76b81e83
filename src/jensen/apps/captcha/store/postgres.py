"""PostgreSQL: several machines."""

from __future__ import annotations

import logging
import re
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from jensen.apps.captcha.store.base import Unavailable
from jensen.apps.captcha.store.sql import RATES, TABLES, Row, SQLStore

WAIT = 3  # seconds
CONNECTIONS = 20
MAKING = 0x6A656E73656E  # the lock under which one process makes the tables

# callers get an `Unavailable`; the pool's own lines quote the address
logging.getLogger("psycopg.pool").disabled = True


class Postgres(SQLStore):
    """Tables in the first schema of the connection's search path."""

    take_lock = "FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str):
        options = {"autocommit": True, "connect_timeout": WAIT, "options": f"-c statement_timeout={1000 * WAIT}"}
        try:
            ports = str(psycopg.conninfo.conninfo_to_dict(url).get("port", "")).split(",")  # one for each host
            if not all(0 < int(port or 5432) < 2**16 for port in ports):
                raise ValueError("no port")
            self._pool = ConnectionPool(url, min_size=1, max_size=CONNECTIONS, timeout=WAIT, kwargs=options, open=True)
        except (psycopg.Error, ValueError) as error:
            raise ValueError("the address of PostgreSQL must be postgresql://USER:PASSWORD@HOST/DATABASE") from error
        try:
            self._make()
        except BaseException:
            self._pool.close()
            raise

    def _make(self) -> None:
        try:
            with self._pool.connection() as connection, connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [MAKING])
                for statement in (*TABLES, *RATES):
                    connection.execute(statement.format(bytes="BYTEA"))
        except (psycopg.Error, PoolTimeout) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}") from error

    def _write(self, statement: str, values: dict[str, Any]) -> list[Row]:
        try:
            with self._pool.connection() as connection:
                cursor = connection.execute(re.sub(r":(\w+)", r"%(\1)s", statement), values)
                return list(cursor.fetchall()) if cursor.description else []
        except (psycopg.Error, PoolTimeout) as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}") from error

    _write_rate = _read = _read_rate = _write

    def close(self) -> None:
        self._pool.close()
