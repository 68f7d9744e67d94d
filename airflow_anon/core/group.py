"""
The runs that one task waits for, often a single one: what is known of each, and what all of it comes to.

No I/O, as in ``polling``, which judges each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from airflow_anon.core.errors import AnonProtocolError
from airflow_anon.core.flow import LogLine, Sleep
from airflow_anon.core.messages import STILL_WAITING_EVERY, duration, ending, facts_of, last_seen_since
from airflow_anon.core.policy import NEVER, SHORTEST_PAUSE, WaitPolicy
from airflow_anon.core.polling import FIRST_POLL_PATIENCE, PollResult
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.runs import WorkflowRun

MOST_NAMED = 10
MOST_WARNINGS = 5
# How long the polls of many runs may take beyond the wait's deadline, each of which waits for its turn.
LONGEST_ROUND = 30.0


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

    __slots__ = (
        "fail_fast",
        "ids",
        "is_new",
        "last_logged_at",
        "members",
        "policy",
        "room",
        "round_at",
        "warned_of",
        "warnings",
    )

    def __init__(
        self,
        policy: WaitPolicy,
        ids: Sequence[str] = (),
        *,
        fail_fast: bool = True,
        seen_at: float | None = None,
        last_logged_at: float = 0.0,
    ) -> None:
        self.policy = policy
        self.ids = ids
        self.fail_fast = fail_fast
        self.last_logged_at = last_logged_at
        self.is_new = seen_at is None
        self.warnings = 0
        self.round_at = policy.started_at
        # How many bytes of JSON may still be kept of runs that end well.
        self.room = NEVER
        # One list for all: the log is told once of each status that is not known.
        self.warned_of: list[str] = []
        self.members: dict[str, WaitState] = {}
        for workflow_run_id in ids:
            if workflow_run_id.lower() not in self.members:
                self.members[workflow_run_id.lower()] = WaitState(
                    workflow_run_id, seen_at=seen_at, last_logged_at=last_logged_at, warned_of=self.warned_of
                )

    @property
    def alone(self) -> WaitState | None:
        """The run that is waited for, if it is the only one."""
        return next(iter(self.members.values())) if len(self.members) == 1 else None

    @property
    def mark(self) -> str:
        """What is waited for, in a word that changes with it."""
        return sha256(",".join(self.members).encode()).hexdigest()

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
        """The runs that are over, as far as their JSON is at hand."""
        return [member.run for member in self.members.values() if member.run is not None and member.is_over]

    @property
    def all_well(self) -> bool:
        """Whether the JSON of all runs is at hand, and all ended well."""
        return all(member.run is not None and member.run.succeeded for member in self.members.values())

    @property
    def took_no_action(self) -> bool:
        """Whether there are runs, and all of them ended well without doing anything."""
        return bool(self.members) and all(run.took_no_action for run in self.runs)

    @property
    def asking(self) -> list[WorkflowRun]:
        """The runs that have just begun to wait for user input."""
        return [member.run for member in self.members.values() if member.asks_for_input and member.run]

    def asked(self) -> None:
        """Take in that the runs of :attr:`asking` are known."""
        for member in self.members.values():
            member.asks_for_input = member.asks_for_input and member.run is None

    def forget_questions(self) -> None:
        """Take in that nobody is to know of runs that have begun to wait for user input."""
        for member in self.members.values():
            member.asks_for_input = False

    @property
    def has_failures(self) -> bool:
        """Whether any of the last polls went unanswered."""
        return any(member.consecutive_failures for member in self.unfinished)

    @property
    def awaiting_since(self) -> float | None:
        """Since when a run has been waiting for user input, if one does."""
        times = (member.awaiting_since for member in self.unfinished)
        return min((since for since in times if since is not None), default=None)

    @property
    def seen_at(self) -> float | None:
        """When all of them had been seen, if they had."""
        seen = [member.at if member.is_over else member.seen_at for member in self.members.values()]
        return None if None in seen else min(seen, default=None)  # type: ignore[type-var]

    @property
    def was_seen(self) -> bool:
        """Whether any of the runs has been seen."""
        return any(member.is_over or member.seen_at is not None for member in self.members.values())

    def payloads(self) -> list[dict[str, Any]]:
        """Return the runs' JSON in the order of the ids."""
        runs = (self.members[workflow_run_id.lower()].run for workflow_run_id in self.ids)
        return [run.to_payload() for run in runs if run is not None]

    def member(self, workflow_run_id: str) -> WaitState:
        """
        Return the run with an id.

        :raises AnonProtocolError: it is none of these.
        """
        member = self.members.get(workflow_run_id.lower())
        if member is None:
            raise AnonProtocolError(f"{workflow_run_id} is none of the runs that are waited for.")
        return member

    # Polls.

    def policy_for(self, member: WaitState) -> WaitPolicy:
        """Return what was asked of the wait for one run."""
        return replace(self.policy, deadline=NEVER) if member.is_overtime else self.policy

    def due(self, now: float) -> list[WaitState]:
        """Begin a round of polls, and return the runs to poll: of many those that are due, a single one always."""
        self.round_at = now
        self.asked()
        for member in self.unfinished:
            member.outcome = Outcome.WAITING
        if self.alone is not None:
            return [self.alone]
        return [member for member in self.unfinished if member.due_at <= now]

    def unread(self, now: float) -> list[WaitState]:
        """Return the runs whose end was seen elsewhere, once there is none to wait for: now their JSON is wanted."""
        if self.result().outcome is Outcome.WAITING or self.decider() is not None:
            return []
        unread = [member for member in self.members.values() if member.is_over and not member.run]
        for member in unread:
            member.outcome, member.was_over = Outcome.WAITING, True
            self._begin_again(member, now)
        return unread

    def lacking(self, now: float) -> list[WaitState]:
        """Return the runs that are to be polled once more after the triggerer, as it brings back no JSON of them."""
        self.is_new = False
        if self.decider() is not None:
            return []
        lacking = [member for member in self.unfinished if not member.run]
        for member in lacking:
            self._begin_again(member, now)
        return lacking

    def _begin_again(self, member: WaitState, now: float) -> None:
        """Poll a run as if it had been seen just now, and never call silence about one that was over a timeout."""
        policy, self.round_at = self.policy, now
        member.seen_at, member.consecutive_failures, member.due_at = now, 0, 0.0
        if member.was_over and now + policy.outage_tolerance + FIRST_POLL_PATIENCE > policy.deadline:
            # The time would be over before contact counts as lost: it has a first poll's patience instead.
            member.is_overtime, member.seen_at = True, None

    def take(self, member: WaitState, polled: PollResult) -> bool:
        """Take in a poll of one run, and say whether it ends the wait for all."""
        member.outcome, member.at, member.spread = polled.outcome, polled.at, polled.pause.spread
        member.asks_for_input = member.asks_for_input or polled.asks_for_input
        goes_on = polled.outcome is Outcome.WAITING and not member.asks_for_input
        member.run = None if goes_on else polled.run
        member.due_at = polled.at + polled.pause.seconds
        if polled.run is not None and self.alone is None:
            # What was polled together is due together.
            interval = max(self.policy.interval(self.round_at), SHORTEST_PAUSE)
            member.due_at = min(member.due_at, self.round_at + interval)
        if polled.known is not None and polled.known[1].succeeded:
            size = len(polled.known[0])
            if size <= self.room:
                self.room -= size
            else:
                member.run = None
        return self._decides(member)

    def round_ends(self, now: float) -> float:
        """Return when a round that begins now has to be over: with the wait, but the last round has some time."""
        if any(member.is_overtime for member in self.members.values()):
            return now + FIRST_POLL_PATIENCE + LONGEST_ROUND
        is_last = now > self.policy.deadline - SHORTEST_PAUSE
        return now + LONGEST_ROUND if is_last else self.policy.deadline

    def expire(self, now: float) -> None:
        """End the wait for runs whose turn had not come when its time was over."""
        for member in self.unfinished:
            if member.outcome is Outcome.WAITING and now >= self.policy_for(member).deadline:
                member.outcome, member.at = Outcome.TIMEOUT, now

    def is_silent_about(self, workflow_run_id: str | None) -> bool:
        """Say whether the last poll of a run went unanswered; without an id, at any."""
        member = self.members.get(str(workflow_run_id).lower())
        return self.has_failures if member is None else member.consecutive_failures > 0

    def decider(self) -> WaitState | None:
        """Return the run that ends the wait for all, if one does."""
        return next((member for member in self.members.values() if self._decides(member)), None)

    def _decides(self, member: WaitState) -> bool:
        if member.outcome is Outcome.USER_INPUT_TIMEOUT:
            return True
        has_ended_badly = member.is_over and member.run is not None and not member.run.succeeded
        return self.fail_fast and has_ended_badly

    def result(self) -> PollResult:
        """Say what the last polls of all runs come to; the run is the one that says how they ended."""
        members = list(self.members.values())
        at = max([self.round_at, *(member.at for member in members)])
        ends = sorted(self.runs, key=lambda run: (run.succeeded, run.took_no_action))
        worst = ends[0] if ends else None
        if (decider := self.decider()) is not None:
            return PollResult(decider.outcome, at, worst)
        waiting = [member for member in members if member.outcome is Outcome.WAITING]
        if waiting:
            return PollResult(Outcome.WAITING, at, pause=self._pause(waiting, at))
        return PollResult(Outcome.TIMEOUT if self.unfinished else Outcome.OVER, at, worst)

    def _pause(self, waiting: list[WaitState], at: float) -> Sleep:
        seconds = min(member.due_at for member in waiting) - at
        spread = min(member.spread for member in waiting)
        if self.alone is not None:
            return Sleep(max(seconds, 0.0), spread)
        return Sleep(min(max(seconds, SHORTEST_PAUSE), max(self.policy.deadline - at, 0.0)), spread)

    # What the log and the errors say. A single run speaks for itself.

    def pick(self, line: LogLine) -> list[LogLine]:
        """Say what is logged of what one run has to say: of thousands, a few warnings now and then."""
        if self.alone is not None:
            return [line]
        if line.level != "warning" or self.warnings >= MOST_WARNINGS:
            return []
        self.warnings += 1
        return [line]

    def sum_up(self, now: float) -> list[LogLine]:
        """Return the summary of many runs, if it is time for one."""
        if self.alone is not None or now - self.last_logged_at < STILL_WAITING_EVERY:
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

    def ending(self) -> list[LogLine]:
        """Say how the runs ended, if any did."""
        if self.alone is not None:
            return [ending(self.alone, run) for run in self.runs]
        ends = Counter(str(run.status) for run in self.runs)
        how = ", ".join(f"{count:,} {status}" for status, count in ends.most_common())
        return [LogLine("info", f"{len(self.runs):,} of {counted(self.size)} over: {how or 'none'}.")]

    def described(self) -> str:
        """Write what is waited for."""
        return counted(self.size) if self.alone is None else f"workflow run {self.alone.workflow_run_id}"

    def last_seen(self) -> str:
        """Write what is known of the runs that are not over."""
        if self.alone is not None:
            return f"{last_seen_since(self.alone)}."
        seen = [f"{member.workflow_run_id}: {last_seen_since(member)}." for member in self.unfinished]
        return listed(seen or ["all are over."])

    def facts(self) -> dict[str, Any]:
        """Return what an error about all of them carries: the facts of the first that is not over."""
        return next(map(facts_of, self.unfinished or self.members.values()), {})
