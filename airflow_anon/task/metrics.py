"""What waits tell Airflow's metrics, through its ``Stats``; while metrics are off, nothing is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http import HTTPStatus

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    Stats,
    TaskDeferred,
    conf,
)

from airflow_anon.core.answers import AnswerKind, kind_of
from airflow_anon.core.errors import AnonUnavailableError, AnonUnreadableConnectionError
from airflow_anon.core.flow import NoResponse, Response
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.polling import PollResult
from airflow_anon.core.sanitize import fit_text
from airflow_anon.core.state import Outcome
from airflow_anon.runs import WorkflowRunStatus

STARTED = "anon.wait.started"
ENDED = "anon.wait.ended"  # and the outcome: StatsD knows no tags
WAITED = "anon.wait.duration"
WAITED_FOR_USER = "anon.wait.user_input_duration"
QUEUED = "anon.run.queued_duration"
POLLS = "anon.polls"
THROTTLED = "anon.polls_throttled"

SWITCHES = ("statsd_on", "otel_on", "statsd_datadog_enabled")
FLUSH_EVERY = 1.0


@cache
def are_on() -> bool:
    """Say whether Airflow sends its metrics anywhere; that is settled when a process starts."""
    return any(conf.getboolean("metrics", switch, fallback=False) for switch in SWITCHES)


class PollCounter:
    """
    Counts the requests of one client, and passes them on once a second at most.

    Thousands of polls a second cost a sum each, and two packets in all.
    """

    def __init__(self, anon_conn_id: str) -> None:
        self.tags = {"anon_conn_id": fit_text(anon_conn_id)}
        self.polls = self.throttled = 0
        self.flush_at = 0.0

    def observe(self, reply: Response | NoResponse) -> None:
        """Count a request by its answer."""
        self.polls += 1
        self.throttled += _is_throttled(reply)
        now = time.monotonic()
        if now >= self.flush_at:
            self.flush_at = now + FLUSH_EVERY
            self.flush()

    def flush(self) -> None:
        """Pass on what was counted since."""
        if self.polls:
            Stats.incr(POLLS, self.polls, tags=self.tags)
        if self.throttled:
            Stats.incr(THROTTLED, self.throttled, tags=self.tags)
        self.polls = self.throttled = 0


def poll_counter(anon_conn_id: str) -> PollCounter | None:
    """Return a counter for the requests of a client; None while metrics are off."""
    return PollCounter(anon_conn_id) if are_on() else None


def _is_throttled(reply: Response | NoResponse) -> bool:
    if not isinstance(reply, Response) or kind_of(reply) is not AnswerKind.TRANSIENT:
        return False
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS or "Retry-After" in reply.headers


@dataclass
class WaitMetrics:
    """
    Counts one wait: once when it starts, once when it ends, however often it changes its process.

    :param group: what is waited for; None before it starts.
    :param polled: the poll that the wait was concluded by, once it was.
    """

    anon_conn_id: str
    group: WaitGroup | None = None
    polled: PollResult | None = None

    def start(self) -> None:
        """Count the start of a wait."""
        if are_on():
            Stats.incr(STARTED, tags=self._tags)

    @contextmanager
    def to_its_end(self, *, is_resumed: bool = False) -> Iterator[WaitMetrics]:
        """
        Count the end of the wait if it ends within.

        :param is_resumed: whether the wait started elsewhere, whatever becomes of it here.
        """
        try:
            yield self
        except BaseException as error:
            if (is_resumed or self.group is not None) and not _goes_on(error):
                self.end(error)
            raise
        if self.group is not None:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """Count the end of the wait, with what it took."""
        if not are_on():
            return
        Stats.incr(f"{ENDED}.{outcome_of(error, self.polled)}", tags=self._tags)
        if self.group is None:
            return
        at = time.time() if self.polled is None else self.polled.at
        self._time(WAITED, max(at - self.group.policy.started_at, 0.0))
        state = self.group.alone
        if state is not None and state.user_input_seconds:
            self._time(WAITED_FOR_USER, state.user_input_seconds)
        if state is not None and state.queued_seconds is not None:
            self._time(QUEUED, state.queued_seconds)

    @property
    def _tags(self) -> dict[str, str]:
        return {"anon_conn_id": fit_text(self.anon_conn_id)}

    def _time(self, name: str, seconds: float) -> None:
        Stats.timing(name, timedelta(seconds=seconds), tags=self._tags)


@contextmanager
def counted_wait(anon_conn_id: str, group: WaitGroup) -> Iterator[WaitMetrics]:
    """Count a wait that starts and ends here."""
    count = WaitMetrics(anon_conn_id, group)
    count.start()
    with count.to_its_end():
        yield count


def outcome_of(error: BaseException | None, polled: PollResult | None) -> str:
    """Name what became of a wait, by the poll that concluded it, or else by what was raised."""
    if polled is not None and polled.run is not None and polled.outcome is Outcome.OVER:
        return polled.run.status.lower() if polled.run.is_known else "unknown_status"
    if polled is not None:
        # Many runs that were none are over, and well.
        nothing = WorkflowRunStatus.COMPLETED.lower()
        return nothing if polled.outcome is Outcome.OVER else polled.outcome.value
    if isinstance(error, AirflowSkipException):
        error = error.__cause__ or error
    for kinds, name in OUTCOMES:
        if isinstance(error, kinds):
            return name
    return "interrupted"


OUTCOMES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (AirflowSensorTimeout, Outcome.TIMEOUT.value),
    (AirflowTaskTimeout, "execution_timeout"),
    ((AnonUnavailableError, AnonUnreadableConnectionError), "lost_contact"),
    (Exception, "error"),
)


def _goes_on(error: BaseException) -> bool:
    """Say whether a task leaves its worker for now only."""
    # Where AirflowRescheduleException is found differs between Airflow's versions.
    return isinstance(error, TaskDeferred) or hasattr(error, "reschedule_date")
