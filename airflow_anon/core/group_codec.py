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

from airflow_anon.core.codec import stored, times_in
from airflow_anon.core.errors import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.core.group import MOST_NAMED, WaitGroup
from airflow_anon.core.ids import read_ids
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.state import Outcome, WaitState

# From one start on a worker to the next.


def to_json(group: WaitGroup) -> dict[str, Any]:
    """Return plain JSON that :func:`recall` reads."""
    alike = _alike(_kept(member) for member in group.members.values())
    return {
        "size": group.size,
        "last_logged_at": group.last_logged_at,
        "warned_of": group.warned_of,
        "runs": [{"numbers": numbers, **kept} for numbers, kept in alike],
    }


def recall(group: WaitGroup, stored: Any) -> WaitGroup:
    """Give a new group what :func:`to_json` wrote of the same runs; of others it is given nothing."""
    if not isinstance(stored, Mapping) or stored["size"] != group.size:
        return group
    group.is_new, group.last_logged_at = False, stored["last_logged_at"]
    group.warned_of += stored["warned_of"]
    members = list(group.members.items())
    for kept in stored["runs"]:
        for number in numbers_in(kept["numbers"]):
            key, before = members[number]
            group.members[key] = replace(
                WaitState.from_json(before.workflow_run_id, kept),
                outcome=Outcome.OVER if kept.get("is_over") else Outcome.WAITING,
                due_at=kept.get("due_at", 0.0),
                last_logged_at=group.last_logged_at,
                warned_of=group.warned_of,
            )
    return group


def _kept(state: WaitState) -> dict[str, Any]:
    if state.is_over:
        return {"is_over": True}
    kept: dict[str, Any] = {
        "status": state.status,
        "state_name": state.state_name,
        "seen_at": _whole(state.seen_at),
        "polled_at": _whole(state.polled_at),
        "awaiting_since": _whole(state.awaiting_since),
    }
    if state.consecutive_failures:
        kept |= {
            "consecutive_failures": state.consecutive_failures,
            "failing_since": _whole(state.failing_since),
            "last_failure": state.last_failure,
            "due_at": _whole(state.due_at),
        }
    return kept


def _whole(seconds: float | None) -> float | None:
    """Return whole seconds, which many runs have in common."""
    return None if seconds is None else float(math.floor(seconds))


# To the triggerer.


def to_kwargs(group: WaitGroup, *, all_ids: bool) -> dict[str, Any]:
    """
    Return the trigger's arguments, as far as they are about the runs: plain values and lists of them.

    :param all_ids: whether the trigger has to know also of the runs that are over.
    """
    states = list(group.members.values()) if all_ids else group.unfinished
    seen_as = [
        [state.status, state.state_name, state.awaiting_since, _whole(state.polled_at)] for state in states
    ]
    return {
        "workflow_run_ids": list(group.ids) if all_ids else [state.workflow_run_id for state in states],
        "fail_fast": group.fail_fast,
        "seen_at": group.seen_at,
        "seen_as": [[numbers, *values] for numbers, values in _alike(seen_as)],
        "warned_of": group.warned_of,
    }


def from_kwargs(policy: WaitPolicy, kwargs: Mapping[str, Any], now: float) -> WaitGroup:
    """
    Read the trigger's arguments.

    :param now: counts as the last good poll if there was one: while a triggerer is away, nobody polls.
    :raises AnonInvalidIdError: they were rendered in the triggerer, and are none.
    """
    seen = kwargs["seen_at"] is not None
    group = WaitGroup(
        policy,
        read_ids(kwargs["workflow_run_ids"]),
        fail_fast=kwargs["fail_fast"],
        seen_at=now if seen else None,
        last_logged_at=now if seen else 0.0,
    )
    group.warned_of += kwargs["warned_of"]
    members = list(group.members.values())
    for numbers, status, state_name, awaiting_since, *polled_at in kwargs["seen_as"]:
        for number in numbers_in(numbers):
            state = members[number]
            state.status, state.state_name, state.awaiting_since = status, state_name, awaiting_since
            state.polled_at = polled_at[0] if polled_at else None
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
class GroupEventPayload:
    """
    The end of a wait for many on its way back: what ended it, but none of the runs, which are polled again.

    :param outcome: what the trigger took it for; None for an error.
    :param workflow_run_id: the run that ended the wait for all, if one did, with its *state*.
    :param asking: the runs that have begun to wait for user input, and *asked_at* when each of them did.
    """

    policy: WaitPolicy
    outcome: Outcome | None = None
    workflow_run_id: str | None = None
    state: WaitState | None = None
    asking: list[str] = field(default_factory=list)
    warned_of: list[str] = field(default_factory=list)
    error: AnonError | None = None
    asked_at: list[float | None] = field(default_factory=list)

    @classmethod
    def of(cls, group: WaitGroup) -> GroupEventPayload:
        """Say how the wait for a group ended."""
        decider = group.decider()
        asking = [run.id for run in group.asking][:MOST_NAMED]
        asked_at = [group.member(workflow_run_id).awaiting_since for workflow_run_id in asking]
        if decider is None:
            return cls(group.policy, group.result().outcome, asking=asking, asked_at=asked_at)
        return cls(
            group.policy,
            decider.outcome,
            decider.workflow_run_id,
            decider,
            asking,
            asked_at=asked_at,
        )

    def to_event(self, group: WaitGroup | None = None) -> dict[str, Any]:
        """Return the payload of the trigger's one event: plain JSON, and small however many runs there are."""
        return {
            "outcome": "error" if self.outcome is None else self.outcome.value,
            "workflow_run_id": self.workflow_run_id,
            "state": None if self.state is None else self.state.to_json(),
            "asks_for_input": self.asking,
            "asked_at": self.asked_at,
            "warned_of": [] if group is None else group.warned_of,
            "error": None if self.error is None else self.error.to_payload(),
            "runs": 0 if group is None else group.size,
            "over": 0 if group is None else group.size - len(group.unfinished),
            "started_at": self.policy.started_at,
            "deadline": stored(self.policy.deadline),
        }

    @classmethod
    def from_event(cls, event: Any, make_policy: Callable[[float, float], WaitPolicy]) -> GroupEventPayload:
        """
        Read the payload of a trigger's event.

        :param make_policy: makes the sensor's policy from *started_at* and *deadline*.
        :raises AnonProtocolError: it is no event of this package's trigger.
        """
        try:
            policy = make_policy(*times_in(event))
            warned_of = list(event["warned_of"])
            if event["outcome"] == "error":
                return cls(policy, warned_of=warned_of, error=error_from_payload(event["error"]))
            return cls(
                policy,
                Outcome(event["outcome"]),
                event["workflow_run_id"],
                event["state"] and WaitState.from_json(event["workflow_run_id"], event["state"]),
                list(event["asks_for_input"]),
                warned_of,
                asked_at=list(event.get("asked_at", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnonProtocolError(
                f"The trigger's event is not understood ({type(error).__name__})."
            ) from error

    def apply_to(self, group: WaitGroup) -> None:
        """
        Tell the group what the triggerer saw: runs that were over, the one that ended its wait, those that ask for user input.

        :raises AnonProtocolError: it is another group.
        """
        for member in group.unfinished:
            member.was_over = self.outcome is Outcome.OVER and self.workflow_run_id is None
        group.warned_of += [status for status in self.warned_of if status not in group.warned_of]
        if self.state is not None and self.workflow_run_id is not None:
            # It goes first: the others need not be polled if it ends the wait again.
            group.first = self.workflow_run_id.lower()
            before = group.member(self.workflow_run_id)
            group.members[group.first] = replace(
                self.state,
                workflow_run_id=before.workflow_run_id,
                warned_of=group.warned_of,
                was_over=self.outcome is Outcome.OVER,
            )
        for workflow_run_id, asked_at in zip_longest(self.asking, self.asked_at[: len(self.asking)]):
            # As if it had not been seen: it is found anew to wait for user input, and since then.
            state = group.member(workflow_run_id)
            state.status = state.state_name = state.awaiting_since = None
            state.polled_at = asked_at
