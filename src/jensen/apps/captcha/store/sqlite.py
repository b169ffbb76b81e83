"""sqlite: one machine, any number of processes."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jensen.apps.captcha.store.base import Unavailable
from jensen.apps.captcha.store.sql import RATES, TABLES, Row, SQLStore
from jensen.core.naming import path_of

WAIT = 5.0  # seconds that a writer waits for another process
BATCH = 256  # statements that are committed together
OLDEST = (3, 35, 0)  # the first that returns rows from DELETE and UPDATE


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection in WAL mode. A new file is its user's alone, and so are those that sqlite puts beside it."""
    with contextlib.suppress(OSError):  # sqlite says why it cannot be opened
        path.touch(0o600)
    made = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode = WAL")
    made.execute(f"PRAGMA synchronous = {synchronous}")
    return made


@dataclass
class Job:
    """A statement that waits for its transaction."""

    statement: str
    values: dict[str, Any]
    done: Future[list[Row]] = field(default_factory=Future)


class Writer:
    """Executes the statements of many threads in one, and commits those that wait together: one write to disk for all.

    A statement is atomic by itself, and its caller goes on when it has been committed.
    """

    def __init__(self, path: Path, synchronous: str):
        self._connection = connect(path, synchronous)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)
        self._thread.start()

    def execute(self, statement: str, values: dict[str, Any]) -> list[Row]:
        job = Job(statement, values)
        self._jobs.put(job)
        return job.done.result()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch: list[Job | None] = [first]
            while len(batch) < BATCH and batch[-1] is not None and not self._jobs.empty():
                batch.append(self._jobs.get())
            self._commit([job for job in batch if job is not None])
            if batch[-1] is None:
                return

    def _commit(self, jobs: Sequence[Job]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [self._result(job) for job in jobs]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.done.set_exception(result) if isinstance(result, Exception) else job.done.set_result(result)

    def _result(self, job: Job) -> list[Row] | Exception:
        """The rows, or the error of this statement alone; an error that ended the transaction is raised.

        Values that sqlite cannot hold raise a ValueError or an OverflowError, which must not end the thread.
        """
        try:
            return self._connection.execute(job.statement, job.values).fetchall()
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if not self._connection.in_transaction:
                raise
            return error


class SQLite(SQLStore):
    """A file, and a second one beside it for rates, which need not survive a loss of power."""

    def __init__(self, path: Path | str):
        if sqlite3.sqlite_version_info < OLDEST:
            raise ValueError(f"sqlite must be at least 3.35, got {sqlite3.sqlite_version}")
        path = path_of(path, "path")
        if str(path) == ":memory:":
            raise ValueError("the store must be a file, got :memory:, which each connection has for itself")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"the folder of the store must exist, got {path}")
        try:
            self._main, self._rates = Writer(path, "FULL"), Writer(Path(f"{path}-rates"), "OFF")
            self._readers = connect(path, "FULL"), connect(Path(f"{path}-rates"), "OFF")
        except sqlite3.Error as error:
            raise ValueError(f"the store {path} cannot be opened: {error}") from error
        self._lock = threading.Lock()
        for statement in TABLES:
            self._write(statement.format(bytes="BLOB"), {})
        for statement in RATES:
            self._write_rate(statement, {})

    def _write(self, statement: str, values: dict[str, Any]) -> list[Row]:
        return self._by(self._main, statement, values)

    def _write_rate(self, statement: str, values: dict[str, Any]) -> list[Row]:
        return self._by(self._rates, statement, values)

    def _by(self, writer: Writer, statement: str, values: dict[str, Any]) -> list[Row]:
        try:
            return writer.execute(statement, values)
        except sqlite3.Error as error:
            raise Unavailable(f"sqlite: {type(error).__name__}") from error

    def _read(self, statement: str, values: dict[str, Any]) -> list[Row]:
        return self._from(self._readers[0], statement, values)

    def _read_rate(self, statement: str, values: dict[str, Any]) -> list[Row]:
        return self._from(self._readers[1], statement, values)

    def _from(self, reader: sqlite3.Connection, statement: str, values: dict[str, Any]) -> list[Row]:
        try:
            with self._lock:
                return reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"sqlite: {type(error).__name__}") from error

    def close(self) -> None:
        self._main.close()
        self._rates.close()
        for reader in self._readers:
            reader.close()
