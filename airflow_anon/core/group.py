"""
Many runs that are waited for together: what is known of each, and what all of it comes to.

No I/O, as in ``polling``, which judges each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from airflow_anon.core.errors import AnonProtocolError
from airflow_anon.core.flow import LogLine, Sleep
from airflow_anon.core.messages import STILL_WAITING_EVERY, duration, last_seen
from airflow_anon.core.policy import NEVER, SHORTEST_PAUSE, WaitPolicy
from airflow_anon.core.polling import FIRST_POLL_PATIENCE, PollResult
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.runs import WorkflowRun

MOST_NAMED = 10
MOST_WARNINGS = 5


def counted(number: int) -> str:
    """Write how many workflow runs."""
    return f"{number:,} workflow run{'' if number == 1 else 's'}"


def listed(texts: Iterable[str]) -> str:
    """Write several sentences, but not thousands."""
    items = list(texts)
    more = f" And {len(items) - MOST_NAMED:,} more." if len(items) > MOST_NAMED else ""
    return " ".join(items[:MOST_NAMED]) + more


class WaitGroup:
    """
    The runs of one wait, each with a state of its own.

    :param policy: what holds for each.
    :param ids: in the order in which their runs are handed on; one that is there twice is polled once.
    :param fail_fast: whether the first run that does not end well ends the wait.
    :param seen_at: when all were last seen, if they were.
    :param last_logged_at: when the log was last told anything.
    """

    def __init__(
        self,
        policy: WaitPolicy,
        ids: Sequence[str],
        *,
        fail_fast: bool,
        seen_at: float | None = None,
        last_logged_at: float = 0.0,
    ) -> None:
        self.policy = policy
        self.ids = ids
        self.fail_fast = fail_fast
        self.last_logged_at = last_logged_at
        self.is_new = seen_at is None
        self.warnings = 0
        self.round_at = 0.0
        self.first: str | None = None
        # One list for all: the log is told once of each status that is not known.
        self.warned_of: list[str] = []
        self.members: dict[str, WaitState] = {}
        for workflow_run_id in ids:
            if workflow_run_id.lower() not in self.members:
                self.members[workflow_run_id.lower()] = WaitState(
                    workflow_run_id, seen_at=seen_at, last_logged_at=last_logged_at, warned_of=self.warned_of
                )

    @property
    def size(self) -> int:
        """How many runs there are."""
        return len(self.members)

    @property
    def unfinished(self) -> list[WaitState]:
        """The runs that are not over."""
        return [member for member in self.members.values() if not member.is_over]

    @property
    def runs(self) -> list[WorkflowRun]:
        """The runs that are over, as far as they were seen here."""
        return [member.run for member in self.members.values() if member.run is not None]

    @property
    def all_well(self) -> bool:
        """Whether all runs were seen here to end well."""
        return all(member.run is not None and member.run.succeeded for member in self.members.values())

    @property
    def took_no_action(self) -> bool:
        """Whether there are runs, and all of them ended well without doing anything."""
        return bool(self.members) and all(run.took_no_action for run in self.runs)

    @property
    def asking(self) -> list[WorkflowRun]:
        """The runs that have just begun to wait for user input."""
        return [
            member.asks_for_input for member in self.members.values() if member.asks_for_input is not None
        ]

    def asked(self) -> None:
        """Take in that whoever has just begun to wait for user input is known."""
        for member in self.members.values():
            member.asks_for_input = None

    @property
    def consecutive_failures(self) -> bool:
        """Whether any of the last polls went unanswered."""
        return any(member.consecutive_failures for member in self.unfinished)

    @property
    def awaiting_since(self) -> float | None:
        """Since when a run has been waiting for user input, if one does."""
        return min((member.awaiting_since for member in self.awaiting), default=None)  # type: ignore[type-var]

    @property
    def awaiting(self) -> list[WaitState]:
        """The runs that wait for user input."""
        return [member for member in self.unfinished if member.awaiting_since is not None]

    @property
    def seen_at(self) -> float | None:
        """When all of them had been seen, if they had."""
        seen = [member.seen_at for member in self.unfinished]
        return None if None in seen else min(seen, default=None)  # type: ignore[type-var]

    @property
    def was_seen(self) -> bool:
        """Whether any of the runs has been seen."""
        return any(member.is_over or member.seen_at is not None for member in self.members.values())

    def payloads(self) -> list[dict[str, Any]]:
        """Return the runs' JSON in the order of the ids."""
        runs = (self.members[workflow_run_id.lower()].run for workflow_run_id in self.ids)
        return [run.to_payload() for run in runs if run is not None]

    # Polls.

    def policy_for(self, member: WaitState) -> WaitPolicy:
        """Return what was asked of the wait for one run."""
        return replace(self.policy, deadline=NEVER) if member.is_overtime else self.policy

    def begin_again(self, member: WaitState, now: float) -> None:
        """Poll a run as if it had been seen just now, and never call silence about one that was over a timeout."""
        policy = self.policy
        member.seen_at, member.consecutive_failures, member.due_at = now, 0, 0.0
        if member.was_over and now + policy.outage_tolerance + FIRST_POLL_PATIENCE > policy.deadline:
            # The time would be over before contact counts as lost: it has a first poll's patience instead.
            member.is_overtime, member.seen_at = True, None

    def due(self, now: float) -> dict[str, WaitState]:
        """Begin a round of polls, and return the runs to poll."""
        self.round_at = now
        self.asked()
        return {
            key: member
            for key, member in sorted(self.members.items(), key=lambda item: item[0] != self.first)
            if not member.is_over and member.due_at <= now
        }

    def unread(self, now: float) -> dict[str, WaitState]:
        """Return the runs whose end was seen elsewhere, once there is none to wait for: now their JSON is wanted."""
        if self.result().outcome is Outcome.WAITING or self.decider() is not None:
            return {}
        unread = {key: member for key, member in self.members.items() if member.is_over and not member.run}
        for member in unread.values():
            member.was_over = True
            self.begin_again(member, now)
        return unread

    def is_silent_about(self, workflow_run_id: str | None) -> bool:
        """Say whether the last poll of a run went unanswered; without an id, at any."""
        member = self.members.get((workflow_run_id or "").lower())
        return self.consecutive_failures if member is None else member.consecutive_failures > 0

    def take(self, key: str, polled: PollResult) -> bool:
        """Take in a poll of one run, and say whether it ends the wait for all."""
        member = self.members[key]
        member.outcome, member.at, member.spread = polled.outcome, polled.at, polled.pause.spread
        member.run = polled.run if member.is_over else None
        member.asks_for_input = polled.run if polled.asks_for_input else None
        member.due_at = polled.at + polled.pause.seconds
        if polled.run is not None:
            # What was polled together is due together.
            interval = max(self.policy.interval(self.round_at), SHORTEST_PAUSE)
            member.due_at = min(member.due_at, self.round_at + interval)
        return self._decides(member)

    def drop(self, key: str) -> None:
        """Forget the JSON of a run that ended well."""
        member = self.members[key]
        if member.run is not None and member.run.succeeded:
            member.run = None

    def _decides(self, member: WaitState) -> bool:
        if member.outcome is Outcome.USER_INPUT_TIMEOUT:
            return True
        return self.fail_fast and member.run is not None and not member.run.succeeded

    def decider(self) -> WaitState | None:
        """Return the run that ends the wait for all, if one does."""
        return next((member for member in self.members.values() if self._decides(member)), None)

    def result(self) -> PollResult:
        """Say what the last polls of all runs come to."""
        members = list(self.members.values())
        at = max([self.round_at, *(member.at for member in members)])
        decider = self.decider()
        if decider is not None:
            return PollResult(decider.outcome, at)
        waiting = [member for member in members if member.outcome is Outcome.WAITING]
        if waiting:
            pause = max(min(member.due_at for member in waiting) - at, SHORTEST_PAUSE)
            left = max(self.policy.deadline - at, 0.0)
            return PollResult(
                Outcome.WAITING,
                at,
                pause=Sleep(min(pause, left), min(member.spread for member in waiting)),
            )
        return PollResult(Outcome.TIMEOUT if self.unfinished else Outcome.OVER, at)

    def result_for_all(self) -> PollResult:
        """Return a poll of the one run that says how all of them ended: a bad end first, then work that was done."""
        ends = sorted(self.runs, key=lambda run: (run.succeeded, run.took_no_action))
        return replace(self.result(), run=ends[0] if ends else None)

    # What the log is told.

    def pick(self, line: LogLine) -> list[LogLine]:
        """Say what the log is told of what one run has to tell: of thousands, a few warnings now and then."""
        if line.level != "warning" or self.warnings >= MOST_WARNINGS:
            return []
        self.warnings += 1
        return [line]

    def sum_up(self, now: float) -> list[LogLine]:
        """Return the summary of all runs, if it is time for one."""
        if now - self.last_logged_at < STILL_WAITING_EVERY:
            return []
        text = self._beginning() if self.is_new else self._summary(now)
        self.is_new, self.last_logged_at, self.warnings = False, now, 0
        return [LogLine("info", text)]

    def _beginning(self) -> str:
        policy = self.policy
        limit = "" if policy.deadline == NEVER else f", for at most {duration(policy.timeout)}"
        return f"Waiting for {counted(self.size)}{limit}, with a poll every {duration(policy.poke_interval)}."

    def _summary(self, now: float) -> str:
        unfinished = self.unfinished
        parts = [f"{self.size - len(unfinished):,} of {self.size:,} over"]
        statuses = Counter(member.status or "not seen here yet" for member in unfinished)
        parts += [f"{count:,} {status}" for status, count in statuses.most_common()]
        if missed := sum(member.consecutive_failures > 0 for member in unfinished):
            parts.append(f"no answer about {missed:,}")
        left = "" if self.policy.deadline == NEVER else f", {duration(self.policy.deadline - now)} left"
        return f"Still waiting: {', '.join(parts)}; {duration(now - self.policy.started_at)} so far{left}."

    def ending(self) -> LogLine:
        """Tell how the runs ended."""
        ends = Counter(str(run.status) for run in self.runs)
        how = ", ".join(f"{count:,} {status}" for status, count in ends.most_common())
        return LogLine("info", f"{len(self.runs):,} of {counted(self.size)} over: {how or 'none'}.")

    def last_seen(self) -> str:
        """Write what is known of the runs that are not over."""
        return listed(
            f"{member.workflow_run_id}: {last_seen(member)}{_since_then(member)}."
            for member in self.unfinished
        )

    def member(self, workflow_run_id: str) -> WaitState:
        """
        Return the run with an id.

        :raises AnonProtocolError: it is none of these.
        """
        member = self.members.get(workflow_run_id.lower())
        if member is None:
            raise AnonProtocolError(f"{workflow_run_id} is none of the runs that are waited for.")
        return member


def _since_then(state: WaitState) -> str:
    return f", and since then there was no answer ({state.last_failure})" if state.last_failure else ""
