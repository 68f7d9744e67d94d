"""What was asked of a wait, and the pauses and limits that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from airflow_anon.core.flow import Sleep

SHORTEST_PAUSE = 1.0
SPREAD = 0.05
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class WaitPolicy:
    """
    What was asked of a wait; all times in seconds, ``started_at`` and ``deadline`` since the epoch.

    All but the first two are options, by the names that they have in sensor and trigger.

    :param deadline: when the wait's time is over; infinite for none.
    :param poke_interval: the pause between two good polls.
    :param exponential_backoff: let the pauses grow, up to *max_wait*.
    :param outage_tolerance: how long the API may be unreachable, counted from the last good poll.
    :param user_input_timeout: how long the run may wait for user input.
    """

    started_at: float = 0.0
    deadline: float = NEVER
    poke_interval: float = 60.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    outage_tolerance: float = 600.0
    user_input_timeout: float | None = None

    def interval(self, now: float) -> float:
        """
        Return the pause between two good polls at *now*.

        With backoff each is as long as the whole wait so far and one interval more, which doubles
        them without having to count polls.
        """
        if not self.exponential_backoff:
            return self.poke_interval
        grown = max(now - self.started_at, 0.0) + self.poke_interval
        return min(grown, self.longest_interval)

    @property
    def timeout(self) -> float:
        """How long the wait may take; infinite for no limit."""
        return self.deadline - self.started_at

    @property
    def longest_interval(self) -> float:
        """The pause between two good polls that backoff does not go beyond."""
        if not self.exponential_backoff or not self.max_wait:
            return NEVER
        return max(self.max_wait, SHORTEST_PAUSE)


OPTIONS = {
    item.name: item.default for item in fields(WaitPolicy) if item.name not in {"started_at", "deadline"}
}


def options_of(sensor: Any) -> dict[str, Any]:
    """Return a sensor's options as plain values, a ``timedelta`` in seconds."""
    values = {name: getattr(sensor, name) for name in OPTIONS}
    values["exponential_backoff"] = bool(values["exponential_backoff"])  # a number since Airflow 3
    return {
        name: value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in values.items()
    }


def pause_after(policy: WaitPolicy, awaiting_since: float | None, at: float) -> Sleep:
    """Return the pause after a poll at *at* that was answered: no longer than the wait, or the user, has time."""
    left = limit_of(policy, awaiting_since) - at
    return spread_pause(policy.interval(at), min(left, policy.longest_interval), SPREAD)


def limit_of(policy: WaitPolicy, awaiting_since: float | None) -> float:
    """Return when the wait's time is over, or the user's if that is sooner."""
    if awaiting_since is None or policy.user_input_timeout is None:
        return policy.deadline
    return min(policy.deadline, awaiting_since + policy.user_input_timeout)


def spread_pause(seconds: float, left: float, spread: float) -> Sleep:
    """Pause at least *seconds*, spread out, but not beyond what is *left*."""
    seconds = min(max(seconds, SHORTEST_PAUSE), max(left, 0.0))
    return Sleep(seconds, min(seconds * spread, max(left - seconds, 0.0)))
