"""
What is handed on of a wait for many runs, with both codecs of each. No I/O, no Airflow.

A worker hands it to the trigger, and keeps for itself what the trigger need not bring back; the
trigger brings back how its wait ended. All of it stays small: runs that are alike are written
together, and no run's JSON is among it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from airflow_anon.exceptions import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.group import MOST_NAMED, Group, Member, read_ids
from airflow_anon.handoff import stored, times_in, went_unwatched
from airflow_anon.memory import Memory
from airflow_anon.protocol import Outcome, Plan

# From one start on a worker to the next.


def to_json(group: Group) -> dict[str, Any]:
    """Return plain JSON that :func:`recall` reads."""
    alike = _alike(_kept(member) for member in group.members.values())
    return {
        "size": group.size,
        "told_at": group.told_at,
        "warned_of": group.warned_of,
        "runs": [{"numbers": numbers, **kept} for numbers, kept in alike],
    }


def recall(group: Group, stored: Any) -> Group:
    """Give a new group what :func:`to_json` wrote of the same runs; of others it is given nothing."""
    if not isinstance(stored, Mapping) or stored["size"] != group.size:
        return group
    group.is_new, group.told_at = False, stored["told_at"]
    group.warned_of += stored["warned_of"]
    members = list(group.members.values())
    for kept in stored["runs"]:
        for number in numbers_in(kept["numbers"]):
            members[number].outcome = Outcome.OVER if kept.get("is_over") else Outcome.WAITING
            members[number].due_at = kept.get("due_at", 0.0)
            members[number].memory = replace(
                Memory.from_json(kept), told_at=group.told_at, warned_of=group.warned_of
            )
    return group


def _kept(member: Member) -> dict[str, Any]:
    if member.is_over:
        return {"is_over": True}
    memory = member.memory
    kept: dict[str, Any] = {
        "status": memory.status,
        "state_name": memory.state_name,
        "seen_at": _whole(memory.seen_at),
        "looked_at": _whole(memory.looked_at),
        "awaiting_since": _whole(memory.awaiting_since),
    }
    if memory.missed:
        kept |= {
            "missed": memory.missed,
            "missed_since": _whole(memory.missed_since),
            "trouble": memory.trouble,
            "due_at": _whole(member.due_at),
        }
    return kept


def _whole(seconds: float | None) -> float | None:
    """Return whole seconds, which many runs have in common."""
    return None if seconds is None else float(math.floor(seconds))


# To the triggerer.


def to_kwargs(group: Group, *, all_ids: bool) -> dict[str, Any]:
    """
    Return the trigger's arguments, as far as they are about the runs: plain values and lists of them.

    :param all_ids: whether the trigger has to know also of the runs that are over.
    """
    members = list(group.members.values()) if all_ids else group.unfinished
    memories = [member.memory for member in members]
    seen_as = [
        [memory.status, memory.state_name, memory.awaiting_since, _whole(memory.looked_at)]
        for memory in memories
    ]
    return {
        "workflow_run_ids": list(group.ids)
        if all_ids
        else [member.plan.workflow_run_id for member in members],
        "fail_fast": group.fail_fast,
        "seen_at": group.seen_at,
        "seen_as": [[numbers, *values] for numbers, values in _alike(seen_as)],
        "unwatched": any(member.memory.unwatched for member in group.unfinished),
        "warned_of": group.warned_of,
    }


def from_kwargs(plan: Plan, kwargs: Mapping[str, Any], now: float) -> Group:
    """
    Read the trigger's arguments.

    :param now: counts as the last good look if there was one: while a triggerer is away, nobody looks.
    :raises AnonInvalidIdError: they were rendered in the triggerer, and are none.
    """
    seen = kwargs["seen_at"] is not None
    group = Group(
        plan,
        read_ids(kwargs["workflow_run_ids"]),
        fail_fast=kwargs["fail_fast"],
        seen_at=now if seen else None,
        told_at=now if seen else 0.0,
    )
    group.warned_of += kwargs["warned_of"]
    members, unwatched = list(group.members.values()), went_unwatched(now, kwargs)
    for numbers, status, state_name, awaiting_since, *looked_at in kwargs["seen_as"]:
        for number in numbers_in(numbers):
            memory = members[number].memory
            memory.status, memory.state_name, memory.awaiting_since = status, state_name, awaiting_since
            memory.unwatched = unwatched
            memory.looked_at = looked_at[0] if looked_at else None
    return group


def _alike(values: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return each value once, with the numbers of all that have it."""
    numbers_of: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        numbers_of.setdefault(json.dumps(value), []).append(number)
    return [(spans(numbers), json.loads(value)) for value, numbers in numbers_of.items()]


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


# Back from the triggerer.


@dataclass(frozen=True, slots=True)
class GroupReturn:
    """
    The end of a wait for many on its way back: what ended it, but none of the runs, which are looked at again.

    :param outcome: what the trigger took it for; None for an error.
    :param workflow_run_id: the run that ended the wait for all, if one did, with its *memory*.
    :param asking: the runs that have begun to wait for a person, and *asked_at* when each of them did.
    """

    plan: Plan
    outcome: Outcome | None = None
    workflow_run_id: str | None = None
    memory: Memory | None = None
    asking: list[str] = field(default_factory=list)
    warned_of: list[str] = field(default_factory=list)
    error: AnonError | None = None
    asked_at: list[float | None] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group) -> GroupReturn:
        """Say how the wait for a group ended."""
        decider = group.decider()
        asking = [run.id for run in group.asking][:MOST_NAMED]
        asked_at = [group.member(workflow_run_id).memory.awaiting_since for workflow_run_id in asking]
        if decider is None:
            return cls(group.plan, group.look().outcome, asking=asking, asked_at=asked_at)
        return cls(
            group.plan,
            decider.outcome,
            decider.plan.workflow_run_id,
            decider.memory,
            asking,
            asked_at=asked_at,
        )

    def to_event(self, group: Group | None = None) -> dict[str, Any]:
        """Return the payload of the trigger's one event: plain JSON, and small however many runs there are."""
        return {
            "outcome": "error" if self.outcome is None else self.outcome.value,
            "workflow_run_id": self.workflow_run_id,
            "memory": None if self.memory is None else self.memory.to_json(),
            "asks_user": self.asking,
            "asked_at": self.asked_at,
            "warned_of": [] if group is None else group.warned_of,
            "error": None if self.error is None else self.error.to_payload(),
            "runs": 0 if group is None else group.size,
            "over": 0 if group is None else group.size - len(group.unfinished),
            "started_at": self.plan.started_at,
            "deadline": stored(self.plan.deadline),
        }

    @classmethod
    def from_event(cls, event: Any, make_plan: Callable[[float, float], Plan]) -> GroupReturn:
        """
        Read the payload of a trigger's event.

        :param make_plan: makes the sensor's plan from *started_at* and *deadline*.
        :raises AnonProtocolError: it is no event of this package's trigger.
        """
        try:
            plan = make_plan(*times_in(event))
            warned_of = list(event["warned_of"])
            if event["outcome"] == "error":
                return cls(plan, warned_of=warned_of, error=error_from_payload(event["error"]))
            return cls(
                plan,
                Outcome(event["outcome"]),
                event["workflow_run_id"],
                event["memory"] and Memory.from_json(event["memory"]),
                list(event["asks_user"]),
                warned_of,
                asked_at=list(event.get("asked_at", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnonProtocolError(
                f"The trigger's event is not understood ({type(error).__name__})."
            ) from error

    def tell(self, group: Group) -> None:
        """
        Tell the group what the triggerer saw: runs that were over, the one that ended its wait, those that ask a person.

        :raises AnonProtocolError: it is another group.
        """
        for member in group.unfinished:
            member.memory.unwatched = True
            member.was_over = self.outcome is Outcome.OVER and self.workflow_run_id is None
        group.warned_of += [status for status in self.warned_of if status not in group.warned_of]
        if self.memory is not None and self.workflow_run_id is not None:
            # It goes first: the others need not be looked at if it ends the wait again.
            group.first = self.workflow_run_id.lower()
            member = group.member(self.workflow_run_id)
            member.memory = replace(self.memory, warned_of=group.warned_of)
            member.was_over = self.outcome is Outcome.OVER
        for workflow_run_id, asked_at in zip_longest(self.asking, self.asked_at[: len(self.asking)]):
            # As if it had not been seen: it is found anew to wait for a person, and since then.
            memory = group.member(workflow_run_id).memory
            memory.status = memory.state_name = memory.awaiting_since = None
            memory.looked_at = asked_at
