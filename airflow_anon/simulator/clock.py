"""What time it is for simulated runs: the real time, or one that a test moves."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class Clock:
    """The real time."""

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()


class MovableClock(Clock):
    """
    A time that stands still until it is moved.

    :param start: seconds since the epoch; the real time if left out.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        if seconds < 0:
            raise ValueError(f"time cannot go back: {seconds} seconds")
        self._now += seconds


def timestamp(seconds: float) -> str:
    """Write a time as the API does."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
