"""Prometheus metrics: counts and times of requests, and what the store and the pool say of themselves.

With several worker processes PROMETHEUS_MULTIPROC_DIR names the folder in which they add up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from jensen.apps.captcha.clock import now
from jensen.apps.captcha.store import Store, Unavailable

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
POOL = {
    "drawn": "pictures that the pool's process has drawn since its start",
    "accepted": "pictures of these whose text its reader read",
    "legibility": "share of characters that the reader read in them",
    "rate": "pictures that it accepts in a second of drawing",
}


class Metrics:
    """The counters of a process. Labels are names of our own, never what a visitor sent."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._outcomes = Counter(
            "captcha_outcomes", "what became of requests", ["request", "outcome"], registry=self._registry
        )
        self._seconds = Histogram(
            "captcha_request_seconds", "time to answer", ["request"], buckets=SECONDS, registry=self._registry
        )

    def count(self, request: str, outcome: str) -> None:
        """Count what became of a request."""
        self._outcomes.labels(request, outcome).inc()

    def time(self, request: str, seconds: float) -> None:
        """Note how long a request took."""
        self._seconds.labels(request).observe(seconds)

    def page(self, store: Store) -> bytes:
        """All metrics as Prometheus reads them."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        beside = CollectorRegistry()
        beside.register(Stored(store))
        return generate_latest(registry) + generate_latest(beside)


class Stored(Collector):
    """What the store holds, read when it is asked for; nothing but a 0 if it cannot be reached."""

    def __init__(self, store: Store):
        self._store = store

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            values = read(self._store)
        except Unavailable:
            yield GaugeMetricFamily("captcha_store_up", "whether the store is reached", value=0)
            return
        yield GaugeMetricFamily("captcha_store_up", "whether the store is reached", value=1)
        for name, (what, value) in values.items():
            yield GaugeMetricFamily(f"captcha_{name}", what, value=value)


def read(store: Store) -> dict[str, tuple[str, float]]:
    """The gauges: name -> (what it is, value)."""
    count, size = store.waiting()
    status: dict[str, Any] = store.read_status()
    return {
        "pool_pictures": ("pictures that wait in the pool", count),
        "pool_bytes": ("bytes of these pictures", size),
        "outstanding": ("challenges that may be answered", store.outstanding(now())),
        **{f"pool_{name}": (what, status[name]) for name, what in POOL.items() if name in status},
    }
