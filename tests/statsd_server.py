"""A StatsD server on loopback, and Airflow's own ``Stats`` led to it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.providers.common.compat.sdk import Stats, conf
from airflow.providers.common.compat.version_compat import (
    AIRFLOW_V_3_2_PLUS,
    AIRFLOW_V_3_3_PLUS,
)

from airflow_anon.task import metrics

OURS = "airflow.anon."


class StatsD:
    """What has arrived of this package's metrics, by names without Airflow's prefix."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.packets = 0
        self._counters: Counter[str] = Counter()
        self._timings: dict[str, list[float]] = {}

    @property
    def counters(self) -> dict[str, int]:
        self._read()
        return dict(self._counters)

    @property
    def timings(self) -> dict[str, list[float]]:
        """Seconds."""
        self._read()
        return self._timings

    def _read(self) -> None:
        while True:
            try:
                packet = self.sock.recv(65536)
            except BlockingIOError:
                return
            for line in packet.decode().splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        name, _, rest = line.partition(":")
        value, _, kind = rest.partition("|")
        if not name.startswith(OURS):
            return
        self.packets += 1
        name = name.removeprefix("airflow.")
        if kind == "c":
            self._counters[name] += int(value)
        else:
            assert kind == "ms"
            self._timings.setdefault(name, []).append(float(value) / 1000)


@contextmanager
def statsd(monkeypatch: Any, **options: str) -> Iterator[StatsD]:
    """Serve StatsD, with Airflow's metrics on and sent there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        settings = {"statsd_host": "127.0.0.1", "statsd_port": str(sock.getsockname()[1]), **options}
        for name, value in settings.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{name.upper()}", value)
        start_stats()
        yield StatsD(sock)
    monkeypatch.undo()
    start_stats()


def start_stats() -> None:
    """Do what Airflow does for its metrics when a process starts."""
    metrics.are_on.cache_clear()
    if AIRFLOW_V_3_2_PLUS:
        from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

        if AIRFLOW_V_3_3_PLUS:
            Stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
        else:
            Stats.initialize(factory=get_stats_factory(Stats))
        return
    from airflow.metrics import statsd_logger
    from airflow.metrics.base_stats_logger import NoStatsLogger

    is_on = conf.getboolean("metrics", "statsd_on")
    type(Stats).factory = statsd_logger.get_statsd_logger if is_on else NoStatsLogger
    Stats.instance = None
