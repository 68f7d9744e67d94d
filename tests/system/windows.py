"""How often the API is asked while something goes wrong, and after: counted from the simulator's own records."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter

    from waits import Group, Runs

# In each interval a wait polls once, but a task that was begun anew polls at once.
MOST_PER_WAIT = 1.2
# A wait whose token is refused reads the connection, and asks again if that has changed.
MOST_PER_WAIT_WITH_OLD_TOKEN = 2.2

IN_AN_INTERVAL = "in the densest interval"
BY_TRIGGERERS = "in all, by the triggerers"
ATTEMPTS = "in all; attempts to connect"
NOT_COUNTED = "not counted: root alone can"


@dataclass(frozen=True)
class Window:
    """
    A stretch of time.

    :param waits: how many were under way when it began, *in_triggerer* so many of them there.
    :param requests: about their runs; *by_triggerer* so many of them.
    :param densest: the most that arrived within one interval, and *second* within one second.
    :param most: requests for each wait: in the densest interval, or in all, as *counted* says.
    :param bound: what *most* is not to exceed.
    """

    name: str
    seconds: float
    waits: int
    in_triggerer: int
    requests: int | None
    by_triggerer: int | None
    densest: int | None
    second: int | None
    counted: str
    most: float | None
    bound: float

    @property
    def good(self) -> bool:
        """Whether there was no storm; that nothing was counted is said, and proves nothing either way."""
        return self.waits > 0 and (self.most is None or self.most <= self.bound)

    def as_json(self) -> dict[str, Any]:
        """Return it for the result."""
        return asdict(self) | {"good": self.good}


class Meter:
    """
    Counts the requests of one window after the other.

    :param interval: the shortest pause of a wait between two polls.
    """

    def __init__(self, runs: Runs, groups: list[Group], interval: float) -> None:
        self.windows: list[Window] = []
        self._runs = runs
        self._groups = groups
        self._interval = interval
        self._begin()

    def end(self, name: str, bound: float = MOST_PER_WAIT) -> None:
        """End a window in which the API answered, and begin the next: no interval may have too many requests."""
        window = self._end(name, bound)
        most = (window.densest or 0) / max(window.waits, 1)
        self._keep(replace(window, counted=IN_AN_INTERVAL, most=most))

    def end_turned_down(self, name: str) -> None:
        """End a window in which all were turned down: all of it may have as many from the triggerers as an interval."""
        window = self._end(name, MOST_PER_WAIT)
        most = (window.by_triggerer or 0) / max(window.in_triggerer, 1)
        self._keep(replace(window, counted=BY_TRIGGERERS, most=most))

    def end_away(self, name: str, knocks: int | None) -> None:
        """End a window in which no request could arrive, but there were so many attempts to connect, if they were counted."""
        window = self._end(name, MOST_PER_WAIT)
        known = {"by_triggerer": None, "densest": None, "second": None, "requests": knocks}
        if knocks is None:
            self._keep(replace(window, **known, counted=NOT_COUNTED, most=None))
        else:
            self._keep(replace(window, **known, counted=ATTEMPTS, most=knocks / max(window.waits, 1)))

    def _begin(self) -> None:
        self._at = time.monotonic()
        # A wait goes on until it has seen the end.
        seen = self._runs.seen_at
        self._open = {wait.id: group for group in self._groups for wait in group.waits if wait.id not in seen}
        self._before = self._runs.requests()

    def _keep(self, window: Window) -> None:
        self.windows.append(window)
        self._begin()

    def _end(self, name: str, bound: float) -> Window:
        new = self._runs.requests() - self._before
        in_triggerer = {run_id for run_id, group in self._open.items() if group.options.get("deferrable")}
        arrivals = [at for at in self._runs.simulator.arrivals if at >= self._at]
        return Window(
            name,
            round(time.monotonic() - self._at, 1),
            waits=len(self._open),
            in_triggerer=len(in_triggerer),
            requests=_sum(new, set(self._open)),
            by_triggerer=_sum(new, in_triggerer),
            densest=densest(arrivals, self._interval),
            second=densest(arrivals, 1.0),
            counted="",
            most=0.0,
            bound=bound,
        )


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
