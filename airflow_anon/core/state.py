"""What is known of one run that is waited for, and what the log is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from airflow_anon.core.flow import LogLine
from airflow_anon.core.messages import clipped, described, duration
from airflow_anon.runs import WorkflowRun, is_queued

MOST_STATUSES = 16
OTHERS = "others"


class Outcome(Enum):
    """What a wait knows after a poll."""

    WAITING = "waiting"
    OVER = "over"
    TIMEOUT = "timeout"
    USER_INPUT_TIMEOUT = "user_input_timeout"


@dataclass(slots=True)
class WaitState:
    """
    What is known of one run that is waited for.

    Times are seconds since the epoch by our own clock.

    :param seen_at: when the run was last seen; None before the first good poll.
    :param status: the run's status then; *state_name*: its ``currentStateName``.
    :param consecutive_failures: polls in a row that went unanswered since.
    :param failing_since: when the first of these went unanswered, if any did.
    :param last_failure: what the last of these ran into.
    :param awaiting_since: when the run began to wait for user input, while it does.
    :param polls: polls taken in all.
    :param spent: seconds seen in each status.
    :param user_input_seconds: seconds seen waiting for user input; unlike *spent*, over all deferrals.
    :param is_queued: whether the run's work had not begun when it was last seen.
    :param queued_seconds: how long after the run's creation it began, if that was seen.
    :param warned_of: unknown statuses that the log has been told of.
    :param last_logged_at: when the log was last told anything.
    :param polled_at: when the status was seen; unlike *seen_at* never what only counts as a poll.
    :param outcome: what the last poll came to.
    :param run: the run as that poll saw it, unless the wait just goes on.
    :param was_over: whether its end was seen elsewhere, in time.
    :param asks_for_input: whether the last poll found that it has begun to wait for user input.
    :param at: when that poll was taken; *due_at*: when to take the next.
    :param is_overtime: whether the wait goes on beyond its deadline, with a first poll's patience.
    """

    workflow_run_id: str
    seen_at: float | None = None
    status: str | None = None
    state_name: str | None = None
    consecutive_failures: int = 0
    failing_since: float = 0.0
    last_failure: str = ""
    awaiting_since: float | None = None
    polls: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    user_input_seconds: float = 0.0
    is_queued: bool = False
    queued_seconds: float | None = None
    warned_of: list[str] = field(default_factory=list)
    last_logged_at: float = 0.0
    polled_at: float | None = None
    outcome: Outcome = Outcome.WAITING
    run: WorkflowRun | None = None
    was_over: bool = False
    asks_for_input: bool = False
    at: float = 0.0
    due_at: float = 0.0
    spread: float = 0.0
    is_overtime: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.outcome is Outcome.OVER

    def saw(self, run: WorkflowRun, at: float, unchanged_for: float | None) -> tuple[list[LogLine], bool]:
        """
        Take in a good poll.

        :param unchanged_for: seconds for which, by the API's own clock, the run has not changed; None if
            that cannot be told.
        :return: what there is to tell, and whether the run has just begun to wait for user input.
        """
        lines = []
        self.polls += 1
        before, self.status = self.status, clipped(str(run.status))
        state_before, self.state_name = (
            self.state_name,
            run.current_state_name and clipped(run.current_state_name),
        )
        changed = (before, state_before) != (self.status, self.state_name)
        self._take_time(run, before, at)
        if self.seen_at is not None and before is not None:
            if self.consecutive_failures:
                lines.append(
                    LogLine(
                        "info",
                        f"Contact again after {duration(at - self.seen_at)}, in which "
                        f"{self.consecutive_failures} polls had no answer.",
                    )
                )
            if changed:
                lines.append(
                    LogLine(
                        "info",
                        f"Workflow run {run.id}: {described(before, state_before)} -> {self.described()}",
                    )
                )
        self.seen_at, self.consecutive_failures, self.last_failure = at, 0, ""
        if not run.is_known and self.warns_of(self.status):
            lines.append(LogLine("warning", self._unknown(run)))
        changed_at = None if unchanged_for is None else at - unchanged_for
        entered = run.awaits_user_input and changed
        if entered:
            self.awaiting_since = self._asked_at(at if changed_at is None else changed_at)
        elif not run.awaits_user_input:
            self.awaiting_since = None
        self.polled_at = at
        # Until it is known to whom it matters: a poll may be taken whose result nobody hears of.
        self.asks_for_input = run.awaits_user_input and (entered or self.asks_for_input)
        return lines, entered

    def warns_of(self, what: str) -> bool:
        """Say whether the log is to be warned of something: once, and not of more than a few."""
        if what in self.warned_of or len(self.warned_of) >= MOST_STATUSES:
            return False
        self.warned_of.append(what)
        return True

    def _asked_at(self, told: float) -> float:
        """Return since when the run waits for user input: never from before a poll that saw it do something else."""
        return told if self.polled_at is None else max(told, self.polled_at)

    def _take_time(self, run: WorkflowRun, before: str | None, at: float) -> None:
        if self.is_queued and self.queued_seconds is None:
            self.queued_seconds = run.seconds_queued
        self.is_queued = is_queued(run.status)
        if self.seen_at is None:
            return
        if self.awaiting_since is not None:
            self.user_input_seconds += at - self.seen_at
        if before is not None:
            name = before if before in self.spent or len(self.spent) < MOST_STATUSES else OTHERS
            self.spent[name] = self.spent.get(name, 0.0) + at - self.seen_at

    def failed(self, reason: str, at: float) -> None:
        """Take in a poll that went unanswered."""
        self.polls += 1
        if not self.consecutive_failures:
            self.failing_since = at
        self.consecutive_failures += 1
        self.last_failure = reason

    def waited(self) -> float:
        """Return the seconds between the first good poll and the last."""
        return sum(self.spent.values())

    def described(self) -> str:
        """Write the status that was last seen, with the name of the state."""
        return described(self.status, self.state_name)

    def where_the_time_went(self) -> str:
        """Write the seconds seen in each status, such as ``PENDING 2 s, IN_PROGRESS 5 s``."""
        return ", ".join(f"{status} {duration(seconds)}" for status, seconds in self.spent.items())

    @staticmethod
    def _unknown(run: WorkflowRun) -> str:
        ending = "has ended" if run.is_over else "has not ended, so the wait goes on"
        return (
            f"Workflow run {run.id} has the status {clipped(run.status)!r}, which this version of "
            f"airflow-provider-anon does not know. By its completedAt it {ending}."
        )
