"""`jensen serve`: the service is an extra, which is imported when it is started."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

NEEDED = ("fastapi", "uvicorn", "pydantic_settings", "prometheus_client", "python_multipart")


def serve(
    run: Path | None,
    demonstrate: bool,
    host: str,
    port: int,
    workers: int,
    store: str | None,
    part: Literal["all", "api", "pool"],
) -> None:
    """Serve CAPTCHAs.

    Raises:
        ValueError: if what the service needs is not installed.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"jensen serve needs {', '.join(missing)}: install jensen with the extra serve")
    from jensen.apps.captcha import serving

    serving.serve(run, demonstrate=demonstrate, host=host, port=port, workers=workers, store=store, part=part)
