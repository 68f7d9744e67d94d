"""
Many runs that are waited for together: what is known of each, and what all of it comes to.

SANS-IO, as ``protocol`` is, which judges each run. What is written here travels in two ways: a
group's state from one start on a worker to the next, and the end of a wait from the triggerer.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_anon.exceptions import AnonError, AnonInvalidIdError, AnonProtocolError, error_from_payload
from airflow_anon.memory import STILL_WAITING_EVERY, Memory, News, duration
from airflow_anon.protocol import NEVER, Look, Outcome, Plan, Sleep, last_seen
from airflow_anon.runs import AWAITING, WorkflowRun, normalise_id

MOST_NAMED = 10
MOST_WARNINGS = 5


def read_ids(value: object) -> list[str]:
    """
    Read the ids of many runs: a list of them, or a text that a template made of one.

    :raises AnonInvalidIdError: it is neither, or one of them is no id.
    """
    listed_ids = _parsed(value) if isinstance(value, str) else value
    if not isinstance(listed_ids, Sequence) or isinstance(listed_ids, str | bytes):
        shown = repr(value)
        raise AnonInvalidIdError(
            f"workflow_run_ids must be a list of ids, not {shown if len(shown) <= 200 else f'{shown[:200]}...'}. "
            f"{_advice(value)}"
        )
    return [normalise_id(item, f"workflow_run_ids[{number}]") for number, item in enumerate(listed_ids)]


def _parsed(text: str) -> object:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _advice(value: object) -> str:
    try:
        normalise_id(value)
    except AnonInvalidIdError:
        return "Give it a list, the output of a task that returns one, or a template that renders to one."
    return "For a single run write it in brackets, or use AnonWorkflowRunSensor with workflow_run_id."


def counted(number: int) -> str:
    """Write how many workflow runs."""
    return f"{number:,} workflow run{'' if number == 1 else 's'}"


def listed(texts: Iterable[str]) -> str:
    """Write several sentences, but not thousands."""
    items = list(texts)
    more = f" And {len(items) - MOST_NAMED:,} more." if len(items) > MOST_NAMED else ""
    return " ".join(items[:MOST_NAMED]) + more


@dataclass(slots=True)
class Member:
    """
    One run of a group.

    :param run: the run, once it is over and was seen so here.
    :param asks_user: whether the last look found that it has begun to wait for a person.
    :param at: when that look was taken; *due_at*: when to take the next.
    """

    plan: Plan
    memory: Memory
    outcome: Outcome = Outcome.WAITING
    run: WorkflowRun | None = None
    asks_user: WorkflowRun | None = None
    at: float = 0.0
    due_at: float = 0.0
    spread: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.outcome is Outcome.OVER

    def kept(self) -> dict[str, Any]:
        """Return what a later start on a worker has to know, in whole seconds: many runs are then alike."""
        memory = self.memory
        if self.is_over:
            return {"is_over": True}
        state: dict[str, Any] = {
            "status": memory.status,
            "state_name": memory.state_name,
            "seen_at": _whole(memory.seen_at),
            "awaiting_since": _whole(memory.awaiting_since),
        }
        if memory.missed:
            state |= {
                "missed": memory.missed,
                "missed_since": _whole(memory.missed_since),
                "trouble": memory.trouble,
                "due_at": float(math.ceil(self.due_at)),
            }
        return state


def _whole(seconds: float | None) -> float | None:
    return None if seconds is None else float(math.floor(seconds))


class Group:
    """
    The runs of one wait, each with a memory of its own.

    :param plan: what holds for each; it names no run.
    :param ids: in the order in which their runs are handed on; one that is there twice is looked at once.
    :param fail_fast: whether the first run that does not end well ends the wait.
    :param seen_at: when all were last seen, if they were.
    :param told_at: when the log was last told anything.
    """

    def __init__(
        self,
        plan: Plan,
        ids: Sequence[str],
        *,
        fail_fast: bool,
        seen_at: float | None = None,
        told_at: float = 0.0,
    ) -> None:
        self.plan = plan
        self.ids = ids
        self.fail_fast = fail_fast
        self.told_at = told_at
        self.warnings = 0
        self.round_at = 0.0
        self.first: str | None = None
        # One list for all: the log is told once of each status that is not known.
        self.warned_of: list[str] = []
        self.members: dict[str, Member] = {}
        for workflow_run_id in ids:
            if workflow_run_id.lower() not in self.members:
                memory = Memory(seen_at=seen_at, told_at=told_at, warned_of=self.warned_of)
                self.members[workflow_run_id.lower()] = Member(
                    replace(plan, workflow_run_id=workflow_run_id), memory
                )

    @property
    def size(self) -> int:
        """How many runs there are."""
        return len(self.members)

    @property
    def unfinished(self) -> list[Member]:
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
        """The runs that have just begun to wait for a person."""
        return [member.asks_user for member in self.members.values() if member.asks_user is not None]

    @property
    def missed(self) -> bool:
        """Whether any of the last looks went unanswered."""
        return any(member.memory.missed for member in self.unfinished)

    @property
    def awaiting_since(self) -> float | None:
        """Since when a run has been waiting for a person, if one does."""
        return min((member.memory.awaiting_since for member in self.awaiting), default=None)  # type: ignore[type-var]

    @property
    def awaiting(self) -> list[Member]:
        """The runs that wait for a person."""
        return [member for member in self.unfinished if member.memory.awaiting_since is not None]

    @property
    def seen_at(self) -> float | None:
        """When all of them had been seen, if they had."""
        seen = [member.memory.seen_at for member in self.unfinished]
        return None if None in seen else min(seen, default=None)  # type: ignore[type-var]

    def payloads(self) -> list[dict[str, Any]]:
        """Return the runs' JSON in the order of the ids."""
        runs = (self.members[workflow_run_id.lower()].run for workflow_run_id in self.ids)
        return [run.to_payload() for run in runs if run is not None]

    # Looks.

    def due(self, now: float) -> dict[str, Member]:
        """Begin a round of looks, and return the runs to look at."""
        self.round_at = now
        for member in self.members.values():
            member.asks_user = None
        return {
            key: member
            for key, member in sorted(self.members.items(), key=lambda item: item[0] != self.first)
            if not member.is_over and member.due_at <= now
        }

    def unread(self, now: float) -> dict[str, Member]:
        """Return the runs whose end was seen elsewhere, once all are over: now their JSON is wanted."""
        if self.unfinished:
            return {}
        unread = {key: member for key, member in self.members.items() if member.run is None}
        for member in unread.values():
            member.memory.seen_at = now
        return unread

    def is_silent_about(self, workflow_run_id: str | None) -> bool:
        """Say whether the last look at a run went unanswered; without an id, at any."""
        member = self.members.get((workflow_run_id or "").lower())
        return self.missed if member is None else member.memory.missed > 0

    def take(self, key: str, look: Look) -> bool:
        """Take in a look at one run, and say whether it ends the wait for all."""
        member = self.members[key]
        member.outcome, member.at, member.spread = look.outcome, look.at, look.pause.spread
        member.run = look.run if member.is_over else None
        member.asks_user = look.run if look.asks_user else None
        member.due_at = look.at + look.pause.seconds
        if look.run is not None:
            # What was looked at together is due together.
            member.due_at = min(member.due_at, self.round_at + self.plan.interval(self.round_at))
        return self._decides(member)

    def drop(self, key: str) -> None:
        """Forget the JSON of a run that ended well."""
        member = self.members[key]
        if member.run is not None and member.run.succeeded:
            member.run = None

    def _decides(self, member: Member) -> bool:
        if member.outcome is Outcome.USER_INPUT_TIMEOUT:
            return True
        return self.fail_fast and member.run is not None and not member.run.succeeded

    def decider(self) -> Member | None:
        """Return the run that ends the wait for all, if one does."""
        return next((member for member in self.members.values() if self._decides(member)), None)

    def look(self) -> Look:
        """Say what the last looks at all runs come to."""
        members = list(self.members.values())
        at = max((member.at for member in members), default=self.plan.started_at)
        decider = self.decider()
        if decider is not None:
            return Look(decider.outcome, at)
        waiting = [member for member in members if member.outcome is Outcome.WAITING]
        if waiting:
            pause = min(member.due_at for member in waiting) - at
            return Look(
                Outcome.WAITING, at, pause=Sleep(max(pause, 0.0), min(member.spread for member in waiting))
            )
        return Look(Outcome.TIMEOUT if self.unfinished else Outcome.OVER, at)

    # What the log is told.

    def hear(self, news: News, now: float) -> list[News]:
        """Say what the log is told when a run has something to tell: of thousands, a summary now and then."""
        lines = []
        if now - self.told_at >= STILL_WAITING_EVERY:
            lines.append(News("info", self._summary(now) if self.told_at else self._beginning()))
            self.told_at, self.warnings = now, 0
        if news.level == "warning" and self.warnings < MOST_WARNINGS:
            lines.append(news)
            self.warnings += 1
        return lines

    def _beginning(self) -> str:
        plan = self.plan
        limit = "" if plan.deadline == NEVER else f", for at most {duration(plan.deadline - plan.started_at)}"
        return f"Waiting for {counted(self.size)}{limit}, with a look every {duration(plan.poke_interval)}."

    def _summary(self, now: float) -> str:
        unfinished = self.unfinished
        parts = [f"{self.size - len(unfinished):,} of {self.size:,} over"]
        statuses = Counter(member.memory.status or "not seen here yet" for member in unfinished)
        parts += [f"{count:,} {status}" for status, count in statuses.most_common()]
        if missed := sum(member.memory.missed > 0 for member in unfinished):
            parts.append(f"no answer about {missed:,}")
        left = "" if self.plan.deadline == NEVER else f", {duration(self.plan.deadline - now)} left"
        return f"Still waiting: {', '.join(parts)}; {duration(now - self.plan.started_at)} so far{left}."

    def ending(self) -> News:
        """Tell how the runs ended."""
        ends = Counter(str(run.status) for run in self.runs)
        how = ", ".join(f"{count:,} {status}" for status, count in ends.most_common())
        return News("info", f"{len(self.runs):,} of {counted(self.size)} over: {how or 'none'}.")

    def last_seen(self) -> str:
        """Write what is known of the runs that are not over."""
        return listed(
            f"{member.plan.workflow_run_id}: {last_seen(member.memory)}{_since_then(member.memory)}."
            for member in self.unfinished
        )

    # From one start on a worker to the next.

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON that :meth:`read` reads: runs that are alike are written together."""
        alike: dict[str, list[int]] = {}
        for number, member in enumerate(self.members.values()):
            alike.setdefault(json.dumps(member.kept()), []).append(number)
        return {
            "size": self.size,
            "told_at": self.told_at,
            "warned_of": self.warned_of,
            "runs": [{"numbers": spans(numbers), **json.loads(kept)} for kept, numbers in alike.items()],
        }

    def read(self, stored: Any) -> Group:
        """Take in what :meth:`to_json` wrote of the same runs; of others nothing is taken."""
        if not isinstance(stored, Mapping) or stored["size"] != self.size:
            return self
        self.told_at = stored["told_at"]
        self.warned_of += stored["warned_of"]
        members = list(self.members.values())
        for kept in stored["runs"]:
            for number in numbers_in(kept["numbers"]):
                members[number].outcome = Outcome.OVER if kept.get("is_over") else Outcome.WAITING
                members[number].due_at = kept.get("due_at", 0.0)
                members[number].memory = replace(
                    Memory.from_json(kept), told_at=self.told_at, warned_of=self.warned_of
                )
        return self

    def learn(self, returned: GroupReturn) -> None:
        """Take in what the triggerer saw of the run that ended its wait, and of those that ask a person."""
        if returned.memory is not None and returned.workflow_run_id is not None:
            # It goes first: the others need not be looked at if it ends the wait again.
            self.first = returned.workflow_run_id.lower()
            self._member(self.first).memory = replace(returned.memory, warned_of=self.warned_of)
        for workflow_run_id in returned.asking:
            # As if it had not been seen: it is found anew to wait for a person.
            memory = self._member(workflow_run_id).memory
            memory.status = memory.state_name = memory.awaiting_since = None

    def _member(self, workflow_run_id: str) -> Member:
        member = self.members.get(workflow_run_id.lower())
        if member is None:
            raise AnonProtocolError("The trigger's event is about other runs than these.")
        return member

    # To the triggerer.

    def to_kwargs(self, *, all_ids: bool) -> dict[str, Any]:
        """
        Return the trigger's arguments, as far as they are about the runs.

        :param all_ids: whether the trigger has to know also of the runs that are over.
        """
        awaiting = self.awaiting
        return {
            "workflow_run_ids": list(self.ids)
            if all_ids
            else [member.plan.workflow_run_id for member in self.unfinished],
            "fail_fast": self.fail_fast,
            "seen_at": self.seen_at,
            "awaiting_run_ids": [member.plan.workflow_run_id for member in awaiting],
            "awaiting_since": [member.memory.awaiting_since for member in awaiting],
            "awaiting_state_names": [member.memory.state_name for member in awaiting],
        }

    @classmethod
    def from_kwargs(cls, plan: Plan, kwargs: Mapping[str, Any], now: float) -> Group:
        """
        Read the trigger's arguments.

        :param now: counts as the last good look if there was one: while a triggerer is away, nobody looks.
        :raises AnonInvalidIdError: they were rendered in the triggerer, and are none.
        """
        seen = kwargs["seen_at"] is not None
        group = cls(
            plan,
            read_ids(kwargs["workflow_run_ids"]),
            fail_fast=kwargs["fail_fast"],
            seen_at=now if seen else None,
            told_at=now if seen else 0.0,
        )
        for workflow_run_id, since, state_name in zip(
            kwargs["awaiting_run_ids"], kwargs["awaiting_since"], kwargs["awaiting_state_names"], strict=True
        ):
            memory = group.members[workflow_run_id.lower()].memory
            memory.status, memory.state_name, memory.awaiting_since = str(AWAITING), state_name, since
        return group


def _since_then(memory: Memory) -> str:
    return f", and since then there was no answer ({memory.trouble})" if memory.trouble else ""


def spans(numbers: Iterable[int]) -> str:
    """Write ascending numbers in few characters: ``0-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def numbers_in(text: str) -> Iterator[int]:
    """Read what :func:`spans` wrote."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


@dataclass(frozen=True, slots=True)
class GroupReturn:
    """
    The end of a wait for many on its way back: what ended it, but none of the runs, which are looked at again.

    :param outcome: what the trigger took it for; None for an error.
    :param workflow_run_id: the run that ended the wait for all, if one did, with its *memory*.
    :param asking: the runs that have begun to wait for a person.
    """

    plan: Plan
    outcome: Outcome | None = None
    workflow_run_id: str | None = None
    memory: Memory | None = None
    asking: list[str] = field(default_factory=list)
    error: AnonError | None = None

    @classmethod
    def of(cls, group: Group) -> GroupReturn:
        """Say how the wait for a group ended."""
        decider = group.decider()
        asking = [run.id for run in group.asking][:MOST_NAMED]
        if decider is None:
            return cls(group.plan, group.look().outcome, asking=asking)
        return cls(group.plan, decider.outcome, decider.plan.workflow_run_id, decider.memory, asking)

    def to_event(self, group: Group | None = None) -> dict[str, Any]:
        """Return the payload of the trigger's one event: plain JSON, and small however many runs there are."""
        return {
            "outcome": "error" if self.outcome is None else self.outcome.value,
            "workflow_run_id": self.workflow_run_id,
            "memory": None if self.memory is None else self.memory.to_json(),
            "asks_user": self.asking,
            "error": None if self.error is None else self.error.to_payload(),
            "runs": 0 if group is None else group.size,
            "over": 0 if group is None else group.size - len(group.unfinished),
            "started_at": self.plan.started_at,
            "deadline": None if self.plan.deadline == NEVER else self.plan.deadline,
        }

    @classmethod
    def from_event(cls, event: Any, make_plan: Callable[[float, float], Plan]) -> GroupReturn:
        """
        Read the payload of a trigger's event.

        :param make_plan: makes the sensor's plan from *started_at* and *deadline*.
        :raises AnonProtocolError: it is no event of this package's trigger.
        """
        try:
            deadline = event["deadline"]
            plan = make_plan(float(event["started_at"]), NEVER if deadline is None else float(deadline))
            if event["outcome"] == "error":
                return cls(plan, error=error_from_payload(event["error"]))
            return cls(
                plan,
                Outcome(event["outcome"]),
                event["workflow_run_id"],
                event["memory"] and Memory.from_json(event["memory"]),
                list(event["asks_user"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnonProtocolError(
                f"The trigger's event is not understood ({type(error).__name__})."
            ) from error
