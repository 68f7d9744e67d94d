"""
What is handed on of a wait: to the trigger, back from it, and from one poke to the next.

No I/O, no Airflow. All of it stays small, however many runs there are: those that are alike are written together.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from airflow_anon.core.errors import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.ids import normalise_id, read_ids
from airflow_anon.core.policy import NEVER, OPTIONS, WaitPolicy, pause_after
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.runs import WorkflowRun, is_queued

# By so many seconds after a task has left its worker the scheduler has heard of it: public reports of what happens
# otherwise show 3 to 27 s.
SETTLED_AFTER = 10.0
# Airflow ends a trigger that does not end by itself so many seconds after the wait's deadline.
TRIGGER_GRACE = 120.0
# Airflow adds the limit of a trigger to the time; what is longer than this never ends.
NO_LIMIT = 100 * 365 * 24 * 3600.0
# So many bytes of runs' JSON go into an event at most, and what it lacks is polled once more: an event goes through
# Airflow's database, and from process to process, several times.
MOST_IN_EVENT = 32 * 1024


def _number(value: Any) -> float:
    # A whole number in JSON may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise TypeError(value)
    return float(value)


def _of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(value)
        return value

    return read


def _seconds_in_each(value: Any) -> dict[str, float]:
    return {_of(str)(name): _number(seconds) for name, seconds in value.items()}


# What is written of a run, and of one that is waited for alone, and how it is read. A name keeps its meaning for ever.
OF_EACH: dict[str, Callable[[Any], Any]] = {
    "status": _of(str),
    "state_name": _of(str),
    "seen_at": _number,
    "polled_at": _number,
    "awaiting_since": _number,
    "consecutive_failures": _of(int),
    "failing_since": _number,
    "last_failure": _of(str),
    "asks_for_input": _of(bool),
    "was_over": _of(bool),
}
OF_ONE: dict[str, Callable[[Any], Any]] = {
    **OF_EACH,
    "polls": _of(int),
    "spent": _seconds_in_each,
    "user_input_seconds": _number,
    "is_queued": _of(bool),
    "queued_seconds": _number,
}
# What the trigger is told of each, by position: new ones come last.
TO_TRIGGER = ("status", "state_name", "awaiting_since", "polled_at", "user_input_seconds", "queued_seconds")


def longest_deferral(seconds: float) -> float:
    """Return how long Airflow is to let a trigger run whose wait is over after *seconds*."""
    return min(max(seconds, 0.0) + TRIGGER_GRACE, NO_LIMIT)


# From one poke to the next, and back from the triggerer.


def to_json(group: WaitGroup) -> dict[str, Any]:
    """Return plain JSON that :func:`recall` reads."""
    names = OF_EACH if group.alone is None else OF_ONE
    last_logged_at = group.last_logged_at if group.alone is None else group.alone.last_logged_at
    return {
        "mark": group.mark,
        "last_logged_at": last_logged_at,
        "warned_of": group.warned_of,
        "runs": _alike(_written(group, state, names) for state in group.members.values()),
    }


def recall(group: WaitGroup, stored: Mapping[str, Any]) -> None:
    """
    Give a new group what :func:`to_json` wrote of the same runs.

    :raises AnonProtocolError: it wrote that of others.
    """
    if stored["mark"] != group.mark:
        raise AnonProtocolError(f"What was kept is about other runs than {group.described()}.")
    group.is_new, group.last_logged_at = False, _number(stored["last_logged_at"])
    group.warned_of += map(_of(str), stored["warned_of"])
    for state, kept in _each(group, stored["runs"]):
        state.last_logged_at = group.last_logged_at
        state.outcome = Outcome(kept.get("outcome", Outcome.WAITING))
        state.due_at = _number(kept.get("due_at", 0.0))
        for name, read in OF_ONE.items():
            if name in kept:
                setattr(state, name, read(kept[name]))


def _written(group: WaitGroup, state: WaitState, names: Iterable[str]) -> dict[str, Any]:
    """Return what is known of a run, as far as it says anything."""
    written = {name: getattr(state, name) for name in names}
    written = {name: value for name, value in written.items() if value is not None and value != _UNSEEN[name]}
    if state.outcome is not Outcome.WAITING:
        written["outcome"] = state.outcome.value
    if group.alone is None and state.is_over:
        return {"outcome": written["outcome"]}
    if state.consecutive_failures:
        written["due_at"] = state.due_at
    return {name: _whole(group, value) for name, value in written.items()}


def _whole(group: WaitGroup, value: Any) -> Any:
    """Return whole seconds of a time, which many runs have in common."""
    return float(math.floor(value)) if group.alone is None and isinstance(value, float) else value


_UNSEEN = {name: getattr(WaitState(""), name) for name in OF_ONE}


def _alike(values: Iterable[Any]) -> list[list[Any]]:
    """Return each value once, after the numbers of all that have it."""
    numbers_of: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        numbers_of.setdefault(json.dumps(value), []).append(number)
    return [[spans(numbers), json.loads(value)] for value, numbers in numbers_of.items()]


def _each(group: WaitGroup, alike: Iterable[Any]) -> Iterator[tuple[WaitState, Any]]:
    """Return each run with its value, of what :func:`_alike` returned."""
    members = list(group.members.values())
    for numbers, value in alike:
        for number in numbers_in(numbers):
            yield members[number], value


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


# To the triggerer.


def to_kwargs(group: WaitGroup, *, all_again: bool = False) -> dict[str, Any]:
    """
    Return those of the trigger's arguments that say what is waited for and how: plain values, and lists of them.

    :param all_again: whether runs that are over are to be polled again, since their JSON is wanted there.
    """
    policy = group.policy
    return {
        **{name: getattr(policy, name) for name in OPTIONS},
        "started_at": policy.started_at,
        "deadline": _stored(policy.deadline),
        "fail_fast": group.fail_fast,
        "seen_at": group.seen_at,
        "seen_as": [[numbers, *values] for numbers, values in _alike(_seen_as(group, all_again=all_again))],
        "warned_of": group.warned_of,
    }


def _seen_as(group: WaitGroup, *, all_again: bool) -> Iterator[list[Any]]:
    for state in group.members.values():
        if state.is_over and not all_again:
            yield [Outcome.OVER.value]
            continue
        if state.asks_for_input:
            # Nobody has heard of it, as its JSON is lacking. It is found anew, as if it had not been seen.
            state.status, state.state_name, state.polled_at = None, None, state.awaiting_since
        yield [_whole(group, getattr(state, name)) for name in TO_TRIGGER]


def from_kwargs(policy: WaitPolicy, kwargs: Mapping[str, Any], now: float) -> WaitGroup:
    """
    Read the trigger's arguments.

    :param now: counts as the last good poll if there was one: while a triggerer is away, nobody polls.
    :raises AnonInvalidIdError: an id was rendered in the triggerer, and is none.
    """
    many, was_seen = kwargs["workflow_run_ids"], kwargs["seen_at"] is not None
    group = WaitGroup(
        policy,
        [normalise_id(kwargs["workflow_run_id"])] if many is None else read_ids(many),
        fail_fast=kwargs["fail_fast"],
        seen_at=now if was_seen else None,
        last_logged_at=now if was_seen else 0.0,
    )
    group.warned_of += kwargs["warned_of"]
    members = list(group.members.values())
    for numbers, *values in kwargs["seen_as"]:
        for state in (members[number] for number in numbers_in(numbers)):
            if values == [Outcome.OVER.value]:
                state.outcome = Outcome.OVER
                continue
            for name, value in zip(TO_TRIGGER, values, strict=False):
                setattr(state, name, value)
            # Of one that is taken on late nobody saw the work begin.
            state.is_queued = is_queued(state.status) and now <= kwargs["next_poll_at"]
    return group


def policy_from_kwargs(now: float, kwargs: Mapping[str, Any]) -> WaitPolicy:
    """Read those of a trigger's arguments that say how to wait."""
    started_at = kwargs["started_at"] or now
    timeout, deadline = kwargs["timeout"], kwargs["deadline"]
    if deadline is None:
        deadline = NEVER if timeout is None else started_at + timeout
    return WaitPolicy(
        started_at=started_at,
        deadline=deadline,
        **{name: kwargs[name] for name in OPTIONS},
    )


# Back from the triggerer.


def to_event(group: WaitGroup, error: AnonError | None = None) -> dict[str, Any]:
    """
    Return the payload of the trigger's one event: plain JSON.

    :param error: what ended the wait, if that was an error.
    """
    result = group.result()
    runs = [state.run.to_payload() for state in _that_fit(group) if state.run is not None]
    return {
        "outcome": "error" if error else result.outcome.value,
        "at": result.at,
        "error": error.to_payload() if error else None,
        "started_at": group.policy.started_at,
        "deadline": _stored(group.policy.deadline),
        "state": to_json(group),
        "runs": runs,
    }


def _that_fit(group: WaitGroup) -> list[WaitState]:
    """
    Return the runs whose JSON fits into an event, those first that ended badly.

    One that ended badly ends the wait for all, which takes its JSON: without it, it is waited for once more.
    """
    room, fitting = MOST_IN_EVENT, []
    known = [(state, state.run) for state in group.members.values() if state.run is not None]
    for state, run in sorted(known, key=lambda item: item[1].succeeded):
        size = len(json.dumps(run.to_payload()))
        if size <= room:
            room -= size
            fitting.append(state)
        elif state.is_over and not run.succeeded:
            state.outcome, state.was_over = Outcome.WAITING, True
    return fitting


def read_event(
    event: Any, make_group: Callable[[float, float], WaitGroup]
) -> tuple[WaitGroup, AnonError | None]:
    """
    Read the payload of a trigger's event; nothing in it is taken for a success.

    :param make_group: makes the sensor's group from *started_at* and *deadline*.
    :return: the group, with what was seen of it, and what ended its wait, if that was an error.
    :raises AnonProtocolError: it is no event of this package's trigger, or about other runs.
    """
    try:
        return _read_event(event, make_group)
    except AnonError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise AnonProtocolError(f"The trigger's event is not understood ({type(error).__name__}).") from error


def _read_event(
    event: Any, make_group: Callable[[float, float], WaitGroup]
) -> tuple[WaitGroup, AnonError | None]:
    deadline = event["deadline"]
    group = make_group(_number(event["started_at"]), NEVER if deadline is None else _number(deadline))
    error = None
    if event["outcome"] == "error":
        error = error_from_payload(event["error"])
        if not error.retryable and event["state"]["mark"] != group.mark:
            return group, error  # the ids were none in the triggerer
    else:
        Outcome(event["outcome"])
    recall(group, event["state"])
    group.round_at = _number(event["at"])
    for payload in event["runs"]:
        _take(group, payload)
    for state in group.members.values():
        if state.run is None and not state.is_over:
            state.outcome = Outcome.WAITING
    return group, error


def _take(group: WaitGroup, payload: Any) -> None:
    try:
        run = WorkflowRun.from_payload(payload)
    except ValueError as error:
        raise AnonProtocolError(f"The trigger's event holds no workflow run: {error}.") from error
    state, at = group.member(run.id), group.round_at
    if state.is_over and not run.is_over:
        raise AnonProtocolError(f"The trigger's event says that {run.id} is over, but it is not.")
    outcome = Outcome.OVER if run.is_over else state.outcome
    pause = pause_after(group.policy, state.awaiting_since, at)
    group.take(state, PollResult(outcome, at, run, pause, state.asks_for_input))


def _stored(deadline: float) -> float | None:
    """Write a deadline as JSON, which has no infinity."""
    return None if deadline == NEVER else deadline
