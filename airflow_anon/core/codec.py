"""What a sensor hands to its trigger and gets back, with both codecs of each. No I/O, no Airflow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_anon.core.errors import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.core.ids import plain
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


def longest_deferral(seconds: float) -> float:
    """Return how long Airflow is to let a trigger run whose wait is over after *seconds*."""
    return min(max(seconds, 0.0) + TRIGGER_GRACE, NO_LIMIT)


@dataclass(frozen=True, slots=True)
class TriggerArgs:
    """
    A wait on its way from a worker to the triggerer.

    :param next_poll_at: when the run is to be polled next, in seconds since the epoch.
    :param asks_for_input: whether the sensor wants to know when the run begins to wait for user input.
    """

    anon_conn_id: str
    policy: WaitPolicy
    state: WaitState
    next_poll_at: float = 0.0
    asks_for_input: bool = False

    def to_kwargs(self) -> dict[str, Any]:
        """Return the trigger's arguments, which Airflow keeps in its database: plain values only."""
        state = self.state
        return {
            "workflow_run_id": self.state.workflow_run_id,
            **policy_kwargs(
                self.anon_conn_id, self.policy, self.next_poll_at, asks_for_input=self.asks_for_input
            ),
            "seen_at": state.seen_at,
            "last_status": state.status,
            "last_state_name": state.state_name,
            "awaiting_since": state.awaiting_since,
            "user_input_seconds": state.user_input_seconds,
            "queued_seconds": state.queued_seconds,
            "warned_of": state.warned_of,
        }

    @classmethod
    def from_kwargs(cls, now: float, kwargs: Mapping[str, Any]) -> TriggerArgs:
        """
        Read the trigger's arguments.

        :param now: counts as the last good poll if there was one: while a triggerer is away, nobody polls.
        """
        last_status = kwargs["last_status"]
        return cls(
            kwargs["anon_conn_id"],
            policy_from_kwargs(now, kwargs),
            WaitState(
                plain(kwargs["workflow_run_id"]),
                seen_at=None if kwargs["seen_at"] is None else now,
                status=last_status,
                state_name=kwargs["last_state_name"],
                awaiting_since=kwargs["awaiting_since"],
                user_input_seconds=kwargs["user_input_seconds"],
                # Of one that is taken on late nobody saw the work begin.
                is_queued=is_queued(last_status) and now <= kwargs["next_poll_at"],
                queued_seconds=kwargs["queued_seconds"],
                warned_of=list(kwargs["warned_of"] or ([last_status] if last_status else [])),
                last_logged_at=0.0 if kwargs["seen_at"] is None else now,
                polled_at=None if last_status is None else kwargs["seen_at"],
            ),
            next_poll_at=kwargs["next_poll_at"],
            asks_for_input=kwargs["asks_for_input"],
        )


def policy_kwargs(
    anon_conn_id: str, policy: WaitPolicy, next_poll_at: float, *, asks_for_input: bool
) -> dict[str, Any]:
    """Return those of the trigger's arguments that are not about the run."""
    return {
        "anon_conn_id": anon_conn_id,
        **{name: getattr(policy, name) for name in OPTIONS},
        "started_at": policy.started_at,
        "deadline": stored(policy.deadline),
        "next_poll_at": next_poll_at,
        "asks_for_input": asks_for_input,
    }


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


@dataclass(frozen=True, slots=True)
class EventPayload:
    """
    A wait on its way back: what the trigger saw last, or the error that ended its wait.

    :param polled: without its lines for the log, which stay behind.
    """

    policy: WaitPolicy
    state: WaitState
    polled: PollResult | None = None
    error: AnonError | None = None

    def to_event(self) -> dict[str, Any]:
        """Return the payload of the trigger's one event: plain JSON."""
        policy, polled = self.policy, self.polled
        return {
            "workflow_run_id": self.state.workflow_run_id,
            "outcome": "error" if polled is None else polled.outcome.value,
            "asks_for_input": polled is not None and polled.asks_for_input,
            "at": None if polled is None else polled.at,
            "run": None if polled is None or polled.run is None else polled.run.to_payload(),
            "error": None if self.error is None else self.error.to_payload(),
            "started_at": policy.started_at,
            "deadline": stored(policy.deadline),
            "state": self.state.to_json(),
        }

    @classmethod
    def from_event(
        cls, event: object, workflow_run_id: str, make_policy: Callable[[float, float], WaitPolicy]
    ) -> EventPayload:
        """
        Read the payload of a trigger's event; nothing in it is taken for a success.

        :param workflow_run_id: the sensor's.
        :param make_policy: makes the sensor's policy from *started_at* and *deadline*.
        :raises AnonProtocolError: it is no event of this package's trigger, or of another run.
        """
        try:
            return cls._read(event, workflow_run_id, make_policy)
        except AnonError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnonProtocolError(
                f"The trigger's event is not understood ({type(error).__name__})."
            ) from error

    @classmethod
    def _read(
        cls, event: Any, workflow_run_id: str, make_policy: Callable[[float, float], WaitPolicy]
    ) -> EventPayload:
        policy = make_policy(*times_in(event))
        if event["workflow_run_id"].strip().lower() != workflow_run_id.lower():
            raise AnonProtocolError(f"The trigger's event is about another run than {workflow_run_id}.")
        state = WaitState.from_json(workflow_run_id, event["state"])
        if event["outcome"] == "error":
            return cls(policy, state, error=error_from_payload(event["error"]))
        run = _run_of(event["run"])
        if run is not None and run.id.lower() != workflow_run_id.lower():
            raise AnonProtocolError(f"The trigger's event holds another run than {workflow_run_id}.")
        outcome = Outcome(event["outcome"])
        if run is not None and run.is_over:
            outcome = Outcome.OVER
        elif outcome is Outcome.OVER:
            raise AnonProtocolError(
                f"The trigger's event says that {workflow_run_id} is over, but it is not."
            )
        at = _number(event["at"])
        pause = pause_after(policy, state.awaiting_since, at)
        return cls(
            policy, state, PollResult(outcome, at, run, pause, asks_for_input=event["asks_for_input"] is True)
        )


def _run_of(payload: object) -> WorkflowRun | None:
    try:
        return None if payload is None else WorkflowRun.from_payload(payload)
    except ValueError as error:
        raise AnonProtocolError(f"The trigger's event holds no workflow run: {error}.") from error


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
