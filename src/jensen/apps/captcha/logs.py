"""Logs: a line of JSON for each event, without answers, tokens, secrets or addresses."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("jensen.captcha")


class Lines(logging.Formatter):
    """A record as a line of JSON, with the type and place of an error: its message may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            places = traceback.extract_tb(record.exc_info[2])
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{place.filename}:{place.lineno}" for place in places[-5:]]
        return json.dumps(line)


def start_logs() -> None:
    """Write the lines of the service, of uvicorn and of its stores to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    log.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every broken form
    logging.getLogger("uvicorn.access").disabled = True  # it quotes paths; requests have lines of their own


def say(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event."""
    log.log(level, event, extra={"fields": fields})
