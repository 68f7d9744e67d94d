"""What a sensor hands to its trigger and gets back, with both codecs of each. No I/O, no Airflow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_anon.exceptions import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.memory import Memory
from airflow_anon.protocol import NEVER, Look, Outcome, Plan, pause_after
from airflow_anon.runs import WorkflowRun, is_queued, plain

# By so many seconds after a task has left its worker the scheduler has heard of it: public reports of what happens
# otherwise show 3 to 27 s.
SETTLED_AFTER = 10.0


@dataclass(frozen=True, slots=True)
class Handoff:
    """
    A wait on its way from a worker to the triggerer.

    :param next_look_at: when the run is to be looked at next, in seconds since the epoch.
    :param asks_user: whether the sensor wants to know when the run begins to wait for a person.
    """

    anon_conn_id: str
    plan: Plan
    memory: Memory = field(default_factory=Memory)
    next_look_at: float = 0.0
    asks_user: bool = False

    def to_kwargs(self) -> dict[str, Any]:
        """Return the trigger's arguments, which Airflow keeps in its database: plain values only."""
        memory = self.memory
        return {
            "workflow_run_id": self.plan.workflow_run_id,
            **self.to_kwargs_of_plan(),
            "seen_at": memory.seen_at,
            "last_status": memory.status,
            "last_state_name": memory.state_name,
            "awaiting_since": memory.awaiting_since,
            "user_input_seconds": memory.user_input_seconds,
            "queued_seconds": memory.queued_seconds,
            "unwatched": memory.unwatched,
            "warned_of": memory.warned_of,
        }

    def to_kwargs_of_plan(self) -> dict[str, Any]:
        """Return those of the trigger's arguments that are not about the run."""
        plan = self.plan
        return {
            "anon_conn_id": self.anon_conn_id,
            "poke_interval": plan.poke_interval,
            "exponential_backoff": plan.exponential_backoff,
            "max_wait": plan.max_wait,
            "outage_tolerance": plan.outage_tolerance,
            "user_input_timeout": plan.user_input_timeout,
            "started_at": plan.started_at,
            "deadline": stored(plan.deadline),
            "next_look_at": self.next_look_at,
            "asks_user": self.asks_user,
        }

    @classmethod
    def from_kwargs(cls, now: float, kwargs: Mapping[str, Any]) -> Handoff:
        """
        Read the trigger's arguments.

        :param now: counts as the last good look if there was one: while a triggerer is away, nobody looks.
        """
        last_status, unwatched = kwargs["last_status"], went_unwatched(now, kwargs)
        return cls(
            kwargs["anon_conn_id"],
            plan_from_kwargs(now, kwargs),
            Memory(
                seen_at=None if kwargs["seen_at"] is None else now,
                status=last_status,
                state_name=kwargs["last_state_name"],
                awaiting_since=kwargs["awaiting_since"],
                unwatched=unwatched,
                user_input_seconds=kwargs["user_input_seconds"],
                # Then nobody saw the work begin.
                is_queued=is_queued(last_status) and not unwatched,
                queued_seconds=kwargs["queued_seconds"],
                warned_of=list(kwargs["warned_of"] or ([last_status] if last_status else [])),
                told_at=0.0 if kwargs["seen_at"] is None else now,
                looked_at=None if last_status is None else kwargs["seen_at"],
            ),
            next_look_at=kwargs["next_look_at"],
            asks_user=kwargs["asks_user"],
        )


def plan_from_kwargs(now: float, kwargs: Mapping[str, Any]) -> Plan:
    """Read those of a trigger's arguments that say how to wait; of many runs none is named."""
    started_at = kwargs["started_at"] or now
    timeout, deadline = kwargs["timeout"], kwargs["deadline"]
    if deadline is None:
        deadline = NEVER if timeout is None else started_at + timeout
    names = ("poke_interval", "exponential_backoff", "max_wait", "outage_tolerance", "user_input_timeout")
    return Plan(
        plain(kwargs.get("workflow_run_id", "")),
        started_at=started_at,
        deadline=deadline,
        **{name: kwargs[name] for name in names},
    )


def went_unwatched(now: float, kwargs: Mapping[str, Any]) -> bool:
    """Say whether a trigger is taken on too late for a look: its triggerer had died, and what that saw is lost."""
    return bool(kwargs["unwatched"] or now > kwargs["next_look_at"])


@dataclass(frozen=True, slots=True)
class Return:
    """
    A wait on its way back: what the trigger saw last, or the error that ended its wait.

    :param look: without its news, which stay behind.
    """

    plan: Plan
    memory: Memory
    look: Look | None = None
    error: AnonError | None = None

    def to_event(self) -> dict[str, Any]:
        """Return the payload of the trigger's one event: plain JSON."""
        plan, look = self.plan, self.look
        return {
            "workflow_run_id": plan.workflow_run_id,
            "outcome": "error" if look is None else look.outcome.value,
            "asks_user": look is not None and look.asks_user,
            "at": None if look is None else look.at,
            "run": None if look is None or look.run is None else look.run.to_payload(),
            "error": None if self.error is None else self.error.to_payload(),
            "started_at": plan.started_at,
            "deadline": stored(plan.deadline),
            "memory": self.memory.to_json(),
        }

    @classmethod
    def from_event(cls, event: object, make_plan: Callable[[float, float], Plan]) -> Return:
        """
        Read the payload of a trigger's event; nothing in it is taken for a success.

        :param make_plan: makes the sensor's plan from *started_at* and *deadline*.
        :raises AnonProtocolError: it is no event of this package's trigger, or of another run.
        """
        try:
            return cls._read(event, make_plan)
        except AnonError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnonProtocolError(
                f"The trigger's event is not understood ({type(error).__name__})."
            ) from error

    @classmethod
    def _read(cls, event: Any, make_plan: Callable[[float, float], Plan]) -> Return:
        plan = make_plan(*times_in(event))
        if event["workflow_run_id"].strip().lower() != plan.workflow_run_id.lower():
            raise AnonProtocolError(f"The trigger's event is about another run than {plan.workflow_run_id}.")
        memory = Memory.from_json(event["memory"])
        if event["outcome"] == "error":
            return cls(plan, memory, error=error_from_payload(event["error"]))
        run = None if event["run"] is None else WorkflowRun.from_payload(event["run"])
        if run is not None and run.id.lower() != plan.workflow_run_id.lower():
            raise AnonProtocolError(f"The trigger's event holds another run than {plan.workflow_run_id}.")
        outcome = Outcome(event["outcome"])
        if run is not None and run.is_over:
            outcome = Outcome.OVER
        elif outcome is Outcome.OVER:
            raise AnonProtocolError(
                f"The trigger's event says that {plan.workflow_run_id} is over, but it is not."
            )
        at = _number(event["at"])
        pause = pause_after(plan, memory.awaiting_since, at)
        return cls(plan, memory, Look(outcome, at, run, pause, asks_user=event["asks_user"] is True))


def stored(deadline: float) -> float | None:
    """Write a deadline as JSON, which has no infinity."""
    return None if deadline == NEVER else deadline


def times_in(event: Any) -> tuple[float, float]:
    """Read from an event when its wait began, and its deadline."""
    deadline = event["deadline"]
    return _number(event["started_at"]), NEVER if deadline is None else _number(deadline)


def _number(value: Any) -> float:
    # A whole number in JSON may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise TypeError(value)
    return float(value)
