"""What goes to the triggerer and what comes back is plain, complete, and never taken on trust."""

from __future__ import annotations

import inspect
import json
import os
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from carry_out import TaskInstance, TaskInstance3
from samples import RUN_ID, payload

from airflow_anon import exceptions
from airflow_anon.core.codec import NEVER, EventPayload, TriggerArgs
from airflow_anon.core.errors import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.core.flow import Sleep
from airflow_anon.core.group_codec import GroupEventPayload
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import Outcome, PollResult
from airflow_anon.core.state import WaitState
from airflow_anon.runs import WorkflowRun
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.triggers import AnonWorkflowRunTrigger

OTHER_ID = "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
AT = 1_750_000_000.0
KIB = 1024
KINDS = sorted(
    (kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, AnonError)),
    key=lambda kind: kind.__name__,
)


def sensor_with(**options):
    return AnonWorkflowRunSensor(**{"task_id": "wait", "workflow_run_id": RUN_ID, **options})


@pytest.fixture
def deferred_with(api):
    """Run a deferrable sensor up to its deferral and return its trigger."""
    simulator, _ = api
    for run_id in (RUN_ID, OTHER_ID):
        simulator.create_run("IN_PROGRESS (post_invoice) 24h, COMPLETED", run_id)

    def deferred_with(**options):
        with pytest.raises(TaskDeferred) as caught:
            sensor_with(deferrable=True, **options).execute(context_of(api))
        return caught.value.trigger

    return deferred_with


def arguments_of(trigger):
    """Return a trigger's arguments, its times counted from the beginning of the wait."""
    _, arguments = trigger.serialize()
    for name in ("deadline", "next_poll_at", "seen_at"):
        arguments[name] = round(arguments[name] - arguments["started_at"])
    del arguments["started_at"]
    return arguments


def context_of(api):
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    instance = kind(api[1], None, start_date=api[1].utcnow())
    return {"ti": instance, "task_instance": instance}


# To the triggerer

MATTERS_TO_THE_TRIGGER = {
    "workflow_run_id": OTHER_ID,
    "anon_conn_id": "another",
    "outage_tolerance": 77,
    "user_input_timeout": 77,
    "on_awaiting_user_input_callback": print,
    "poke_interval": 77,
    "timeout": 77,
    "exponential_backoff": True,
    "max_wait": timedelta(seconds=77),
    "skip_on_no_action": True,
    "end_from_trigger": True,
    "do_xcom_push": False,
}
SETTLED_ON_A_WORKER = {
    "deferrable",
    "start_from_trigger",
    "mode",
    "soft_fail",
    "silent_fail",
    "never_fail",
    "kwargs",
}


def test_every_parameter_of_the_sensor_is_known_to_these_tests():
    kinds = AnonWorkflowRunSensor.__mro__
    names = [kind.__name__ for kind in kinds]
    kinds = kinds[: names.index("BaseSensorOperator") + 1]
    parameters = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}

    assert {"workflow_run_id", "deferrable", "poke_interval"} <= parameters
    assert parameters - {"self"} <= MATTERS_TO_THE_TRIGGER.keys() | SETTLED_ON_A_WORKER


@pytest.mark.parametrize("name", MATTERS_TO_THE_TRIGGER)
def test_a_parameter_that_matters_to_the_wait_reaches_the_trigger(name, deferred_with, monkeypatch):
    if name == "end_from_trigger" and not AIRFLOW_V_3_3_PLUS:
        pytest.skip("this version of Airflow cannot end a task in the triggerer")
    monkeypatch.setenv("AIRFLOW_CONN_ANOTHER", os.environ["AIRFLOW_CONN_ANON_DEFAULT"])

    with_it = arguments_of(deferred_with(**{name: MATTERS_TO_THE_TRIGGER[name]}))

    assert with_it != arguments_of(deferred_with())


def test_the_trigger_is_given_what_the_first_poll_saw(deferred_with):
    arguments = arguments_of(deferred_with(poke_interval=60, timeout=3600))

    assert arguments["last_status"] == "IN_PROGRESS"
    assert arguments["last_state_name"] == "post_invoice"
    assert arguments["deadline"] == 3600
    assert arguments["next_poll_at"] in {59, 60, 61}
    assert arguments["timeout"] is None


def test_what_the_trigger_is_given_is_plain_and_survives_json(deferred_with):
    path, kept = deferred_with(
        poke_interval=timedelta(minutes=1), timeout=timedelta(hours=1), user_input_timeout=timedelta(days=1)
    ).serialize()
    again = json.loads(json.dumps(kept))

    texts = kept["warned_of"]
    assert {type(value) for value in [*kept.values(), *texts]} <= {str, int, float, bool, type(None), list}
    assert again == kept
    assert AnonWorkflowRunTrigger(**again).serialize() == (path, kept)


def test_the_wait_is_the_same_on_the_other_side():
    policy = WaitPolicy(
        RUN_ID,
        started_at=AT,
        deadline=AT + 100,
        poke_interval=7.0,
        exponential_backoff=True,
        max_wait=70.0,
        outage_tolerance=77.0,
        user_input_timeout=777.0,
    )
    state = WaitState(seen_at=AT, status="AWAITING_USER_INPUT", state_name="approve", awaiting_since=AT - 5)
    there = TriggerArgs("a", policy, state, next_poll_at=AT + 7, asks_for_input=True)

    kwargs = {"timeout": None, **json.loads(json.dumps(there.to_kwargs()))}
    here = TriggerArgs.from_kwargs(AT + 3, kwargs)

    assert (here.anon_conn_id, here.policy, here.next_poll_at, here.asks_for_input) == (
        "a",
        policy,
        AT + 7,
        True,
    )
    kept = here.state
    assert (kept.status, kept.state_name, kept.awaiting_since) == ("AWAITING_USER_INPUT", "approve", AT - 5)
    assert kept.seen_at == AT + 3


@pytest.mark.parametrize("late", [False, True])
def test_nobody_saw_the_work_begin_of_a_wait_that_is_taken_on_late(late):
    state = WaitState(seen_at=AT, status="PENDING", is_queued=True)
    kwargs = {"timeout": None, **TriggerArgs("a", WaitPolicy(RUN_ID), state, next_poll_at=AT + 7).to_kwargs()}

    here = TriggerArgs.from_kwargs(AT + 8 if late else AT + 7, kwargs).state

    assert here.is_queued is not late


@pytest.mark.parametrize(
    ("status", "polled_at"), [("IN_PROGRESS", AT), (None, None)], ids=["seen", "never seen"]
)
def test_when_the_run_was_really_seen_goes_along_though_nobody_polled_since(status, polled_at):
    state = WaitState(seen_at=AT, status=status)
    kwargs = {"timeout": None, **TriggerArgs("a", WaitPolicy(RUN_ID), state, next_poll_at=AT + 7).to_kwargs()}

    here = TriggerArgs.from_kwargs(AT + 5000, kwargs).state

    assert (here.seen_at, here.polled_at) == (AT + 5000, polled_at)


def test_the_unknown_statuses_that_were_warned_of_go_along():
    state = WaitState(seen_at=AT, status="PENDING", warned_of=["PAUSED", "QUEUED"])
    kwargs = {"timeout": None, **TriggerArgs("a", WaitPolicy(RUN_ID), state).to_kwargs()}

    here = TriggerArgs.from_kwargs(AT, json.loads(json.dumps(kwargs))).state
    here.saw(run_of("BLOCKED"), AT, 0.0)

    assert here.warned_of == ["PAUSED", "QUEUED", "BLOCKED"]
    assert kwargs["warned_of"] == state.warned_of == ["PAUSED", "QUEUED"]


def test_an_unknown_status_that_an_earlier_release_saw_last_is_not_warned_of_again():
    state = WaitState(seen_at=AT, status="PAUSED")
    kwargs = {"timeout": None, **TriggerArgs("a", WaitPolicy(RUN_ID), state).to_kwargs(), "warned_of": None}

    assert TriggerArgs.from_kwargs(AT, kwargs).state.saw(run_of("PAUSED"), AT, 0.0)[0] == []


def test_a_wait_without_a_limit_stays_without_one():
    kwargs = {"timeout": None, **TriggerArgs("a", WaitPolicy(RUN_ID)).to_kwargs()}

    assert json.loads(json.dumps(kwargs, allow_nan=False))["deadline"] is None
    assert TriggerArgs.from_kwargs(AT, kwargs).policy.deadline == NEVER


def test_no_credential_is_kept_or_shown(deferred_with, api):
    trigger = deferred_with()

    assert api[0].token not in repr(trigger) + json.dumps(trigger.serialize())


# Back on the worker


def run_of(status="IN_PROGRESS", **fields):
    return WorkflowRun.from_payload(payload(status, **fields))


def event_of(run=None, outcome=Outcome.OVER, state=None, error=None):
    polled = None if error else PollResult(outcome, AT, run=run)
    event = EventPayload(WaitPolicy(RUN_ID, deadline=AT), state or WaitState(), polled, error).to_event()
    return json.loads(json.dumps(event))


def make_policy(started_at, deadline):
    return WaitPolicy(RUN_ID, started_at=started_at, deadline=deadline)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_event_is_plain_json_and_says_the_same_on_the_other_side(outcome):
    run = run_of("COMPLETED" if outcome is Outcome.OVER else "IN_PROGRESS")
    state = WaitState(
        seen_at=AT,
        status="X",
        consecutive_failures=3,
        last_failure="503",
        spent={"PENDING": 2.5},
        warned_of=["X"],
    )
    sent = EventPayload(
        WaitPolicy(RUN_ID, started_at=AT, deadline=AT + 60),
        state,
        PollResult(outcome, AT + 5, run, Sleep(55.0)),
    )

    event = sent.to_event()
    got = EventPayload.from_event(json.loads(json.dumps(event, allow_nan=False)), make_policy)

    assert json.loads(json.dumps(event)) == event
    assert got == sent


def test_an_event_is_small_however_mad_the_api_is():
    state = WaitState()
    for number in range(500):
        mad = run_of(f"{chr(0x1F600) * 5000}{number}", currentStateName=chr(0x1F601) * 5000)
        state.saw(
            run_of(f"{number}{mad.status}", currentStateName=f"{number}{mad.current_state_name}"),
            AT + number,
            0,
        )
    state.failed("503 Service Unavailable", AT + 501)

    event = event_of(state=state, outcome=Outcome.TIMEOUT)
    arguments = TriggerArgs("a", WaitPolicy(RUN_ID), state).to_kwargs()

    assert len(json.dumps(event)) < 64 * KIB
    assert len(json.dumps(arguments)) < 32 * KIB
    assert state.polls == 501
    assert sum(state.spent.values()) == 499
    assert len(state.where_the_time_went()) < 8 * KIB


def test_a_status_of_the_api_is_kept_as_plain_text():
    state = WaitState()
    state.saw(run_of("PENDING"), AT, 0)

    assert type(state.status) is str


def test_the_run_in_an_event_is_as_the_api_sent_it():
    run = run_of("COMPLETED", later={"added": [1, 2]})

    assert event_of(run)["run"] == payload("COMPLETED", later={"added": [1, 2]})


def test_a_run_that_is_over_is_over_whatever_the_event_calls_it():
    for outcome in Outcome:
        assert (
            EventPayload.from_event(event_of(run_of("COMPLETED"), outcome), make_policy).polled.outcome
            is Outcome.OVER
        )


DONE = event_of(run_of("COMPLETED"))
NO_TIMES = {
    "a text": "1750000000",
    "true": True,
    "no number": float("nan"),
    "infinite": float("inf"),
    "long before": float("-inf"),
    "beyond numbers": 10**400,
    "a list": [1],
}


@pytest.mark.parametrize("field", ["started_at", "deadline"])
@pytest.mark.parametrize("value", NO_TIMES.values(), ids=NO_TIMES)
@pytest.mark.parametrize(
    "event",
    [DONE, GroupEventPayload(WaitPolicy("", deadline=AT), Outcome.OVER).to_event()],
    ids=["one", "many"],
)
def test_what_is_no_time_is_refused_in_the_event_of_one_run_and_of_many(event, field, value):
    kind = EventPayload if "run" in event else GroupEventPayload
    kind.from_event(event, make_policy)

    with pytest.raises(AnonProtocolError, match="not understood"):
        kind.from_event({**event, field: value}, make_policy)


NO_EVENTS = {
    "none": None,
    "empty": {},
    "list": [],
    "text": "completed",
    "number": 7,
    "status success": {"status": "success"},
    "status failed": {"status": "failed", "message": "no"},
    "run alone": payload("COMPLETED"),
    "unfinished run claimed over": event_of(run_of("IN_PROGRESS")),
    "unknown and unfinished claimed over": event_of(run_of("QUEUED")),
    "no run claimed over": event_of(None),
    "other run": event_of(run_of("COMPLETED", id=OTHER_ID)),
    "other wait": {**DONE, "workflow_run_id": OTHER_ID},
    "id is a number": {**DONE, "workflow_run_id": 7},
    "weird outcome": {**DONE, "outcome": "weird"},
    "success as outcome": {**DONE, "outcome": "success"},
    "outcome is a list": {**DONE, "outcome": []},
    "run is a text": {**DONE, "run": "COMPLETED"},
    "run lacks a field": {**DONE, "run": {"id": RUN_ID, "workflowId": RUN_ID}},
    "no state": {**DONE, "state": None},
    "time is a text": {**DONE, "at": "now"},
    "time is none": {**DONE, "at": None},
    "time is infinite": {**DONE, "at": float("inf")},
    "beginning is a text": {**DONE, "started_at": "now"},
    "deadline is a text": {**DONE, "deadline": "never"},
    "deadline is true": {**DONE, "deadline": True},
    "error without one": {**DONE, "outcome": "error"},
    "error is a text": {**DONE, "outcome": "error", "error": "no"},
    "error without a kind": {**DONE, "outcome": "error", "error": {"message": "no"}},
    "error of a mad kind": {**DONE, "outcome": "error", "error": {"kind": ["x"], "message": "no"}},
}


@pytest.mark.parametrize("event", NO_EVENTS.values(), ids=NO_EVENTS)
def test_what_is_no_event_of_the_trigger_never_passes(event, api):
    with pytest.raises(AnonError) as caught:
        sensor_with().execute_complete(context_of(api), event)

    assert type(caught.value) is AnonProtocolError
    assert str(caught.value)


@pytest.mark.parametrize("field", [name for name in DONE if name != "error"])
def test_an_event_that_lacks_anything_never_passes(field, api):
    event = event_of(run_of("COMPLETED"))
    del event[field]

    with pytest.raises(AnonProtocolError, match="KeyError"):
        sensor_with().execute_complete(context_of(api), event)


def test_what_a_later_version_adds_to_an_event_is_passed_over(api):
    event = {**DONE, "later": 7, "state": {**DONE["state"], "later": 7}}

    assert sensor_with().execute_complete(context_of(api), event) == payload("COMPLETED")


# Errors


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_with_its_class_and_its_data(kind):
    error = kind("no", workflow_run_id=RUN_ID, status_code=503, last_status="PENDING", last_seen_at=AT)
    if hasattr(error, "field"):
        error.field, error.conn_id = "host", "anon_default"

    event = event_of(error=error)
    got = EventPayload.from_event(event, make_policy).error

    assert (type(got), str(got), got.retryable) == (kind, "no", kind.retryable)
    assert vars(got) == {**vars(error), "retryable": kind.retryable}


@pytest.mark.parametrize("retryable", [True, False])
def test_whether_a_retry_may_help_crosses_too(retryable):
    error = exceptions.AnonConfigurationError("no", retryable=retryable)

    assert EventPayload.from_event(event_of(error=error), make_policy).error.retryable is retryable


@pytest.mark.parametrize(
    "kind", ["AnonLaterError", "ValueError", "AnonWaitTimeoutError", "error_from_payload", "Any"]
)
def test_an_error_of_an_unknown_kind_is_still_an_error(kind):
    error = error_from_payload({"kind": kind, "message": "no", "later": 7})

    assert (type(error), str(error), hasattr(error, "later")) == (AnonError, "no", False)
