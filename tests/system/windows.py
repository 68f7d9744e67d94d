"""How often the API is asked while something goes wrong, and after: counted from the simulator's own records."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter

    from waits import Group, Runs

# In each interval a wait looks once, but a task that was begun anew looks at once.
MOST_PER_WAIT = 1.2
# A wait whose token is refused reads the connection, and asks again if that has changed.
MOST_PER_WAIT_WITH_OLD_TOKEN = 2.2


@dataclass(frozen=True)
class Window:
    """
    A stretch of time.

    :param waits: how many were under way when it began, *in_triggerer* so many of them there.
    :param requests: about their runs; *by_triggerer* so many of them.
    :param densest: the most that arrived within one interval, and *second* within one second.
    :param bound: the most for each wait: of all requests in the densest interval, or, if it
        *bounds_all*, of those that the triggerers made in the whole window.
    """

    name: str
    seconds: float
    waits: int
    in_triggerer: int
    requests: int
    by_triggerer: int
    densest: int
    second: int
    bound: float
    bounds_all: bool

    @property
    def per_wait(self) -> float:
        """What is bounded."""
        if self.bounds_all:
            return self.by_triggerer / max(self.in_triggerer, 1)
        return self.densest / max(self.waits, 1)

    @property
    def good(self) -> bool:
        """Whether there was no storm."""
        return self.per_wait <= self.bound

    def as_json(self) -> dict[str, Any]:
        """Return it for the result."""
        return asdict(self) | {"per_wait": round(self.per_wait, 3), "good": self.good}


class Meter:
    """
    Counts the requests of one window after the other.

    :param interval: the shortest pause of a wait between two looks.
    """

    def __init__(self, runs: Runs, groups: list[Group], interval: float) -> None:
        self.windows: list[Window] = []
        self._runs = runs
        self._groups = groups
        self._interval = interval
        self._begin()

    def _begin(self) -> None:
        self._at = time.monotonic()
        # A wait goes on until it has seen the end.
        seen = self._runs.seen_at
        self._open = {wait.id: group for group in self._groups for wait in group.waits if wait.id not in seen}
        self._before = self._runs.requests()

    def forget(self) -> None:
        """Begin a window; what was counted since the last one is nobody's."""
        self._begin()

    def end(self, name: str, *, bound: float = MOST_PER_WAIT, bounds_all: bool = False) -> None:
        """End the window that lasts, and begin the next."""
        seconds = time.monotonic() - self._at
        new = self._runs.requests() - self._before
        in_triggerer = {run_id for run_id, group in self._open.items() if group.options.get("deferrable")}
        arrivals = [at for at in self._runs.simulator.arrivals if at >= self._at]
        self.windows.append(
            Window(
                name,
                round(seconds, 1),
                waits=len(self._open),
                in_triggerer=len(in_triggerer),
                requests=_sum(new, set(self._open)),
                by_triggerer=_sum(new, in_triggerer),
                densest=densest(arrivals, self._interval),
                second=densest(arrivals, 1.0),
                bound=bound,
                bounds_all=bounds_all,
            )
        )
        self._begin()


def densest(arrivals: list[float], seconds: float) -> int:
    """Return the most arrivals, in order of time, of any stretch of so many seconds."""
    most = first = 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def _sum(counts: Counter[str], ids: set[str]) -> int:
    return sum(counts[run_id.lower()] for run_id in ids)
