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
from airflow_anon.core.codec import (
    MOST_IN_EVENT,
    NEVER,
    from_kwargs,
    numbers_in,
    policy_from_kwargs,
    read_event,
    recall,
    spans,
    to_event,
    to_json,
    to_kwargs,
)
from airflow_anon.core.errors import AnonError, AnonProtocolError, error_from_payload
from airflow_anon.core.flow import Sleep
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome, WaitState
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
    arguments["seen_as"][0][4] = round(arguments["seen_as"][0][4] - arguments["started_at"])
    del arguments["started_at"], arguments["deferred_at"]
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


def run_of(status="IN_PROGRESS", run_id=RUN_ID, **fields):
    return WorkflowRun.from_payload(payload(status, id=run_id, **fields))


def group_of(*states, **policy):
    """Return a group of the one run, or of those whose states are given."""
    group = WaitGroup(
        WaitPolicy(**{"started_at": AT, "deadline": AT + 60, **policy}),
        [state.workflow_run_id for state in states] or [RUN_ID],
    )
    for key, state in zip(group.members, states, strict=False):
        state.warned_of = group.warned_of
        group.members[key] = state
    return group


def like(group):
    """Return how the sensor of a group makes it anew."""
    return lambda started_at, deadline: WaitGroup(WaitPolicy(started_at, deadline), group.ids)


def carried(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_the_trigger_is_given_what_the_first_poll_saw(deferred_with):
    arguments = arguments_of(deferred_with(poke_interval=60, timeout=3600))

    assert arguments["seen_as"][0][:3] == ["0", "IN_PROGRESS", "post_invoice"]
    assert arguments["deadline"] == 3600
    assert arguments["next_poll_at"] in {59, 60, 61}
    assert arguments["timeout"] is None


def test_what_the_trigger_is_given_is_plain_and_survives_json(deferred_with):
    path, kept = deferred_with(
        poke_interval=timedelta(minutes=1), timeout=timedelta(hours=1), user_input_timeout=timedelta(days=1)
    ).serialize()
    again = carried(kept)

    values = [*kept.values(), *kept["warned_of"], *kept["seen_as"], *kept["seen_as"][0]]
    assert {type(value) for value in values} <= {str, int, float, bool, type(None), list}
    assert again == kept
    assert AnonWorkflowRunTrigger(**again).serialize() == (path, kept)


def in_triggerer(group, now=AT + 3, next_poll_at=AT + 7, **options):
    """Hand a group over to a trigger, and return the trigger's."""
    several = len(group.ids) > 1
    arguments = {
        **AnonWorkflowRunTrigger(
            workflow_run_id=None if several else group.ids[0],
            workflow_run_ids=list(group.ids) if several else None,
            next_poll_at=next_poll_at,
            **to_kwargs(group, **options),
        ).serialize()[1]
    }
    arguments = carried(arguments)
    return from_kwargs(policy_from_kwargs(now, arguments), arguments, now)


ASKING = {
    "seen_at": AT,
    "polled_at": AT,
    "status": "AWAITING_USER_INPUT",
    "state_name": "approve",
    "awaiting_since": AT - 5,
}


def test_the_wait_is_the_same_on_the_other_side():
    group = group_of(
        WaitState(RUN_ID, **ASKING),
        poke_interval=7.0,
        exponential_backoff=True,
        max_wait=70.0,
        outage_tolerance=77.0,
        user_input_timeout=777.0,
    )

    there = in_triggerer(group)

    state = there.alone
    assert there.policy == group.policy
    assert (state.status, state.state_name) == ("AWAITING_USER_INPUT", "approve")
    assert (state.awaiting_since, state.polled_at, state.seen_at) == (AT - 5, AT, AT + 3)


def test_many_that_are_alike_are_written_together_and_are_the_same_on_the_other_side():
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(1000)]
    states = [WaitState(run_id, **ASKING) for run_id in ids]
    states[7].status = "PENDING"
    states[8].outcome = Outcome.OVER

    group = group_of(*states)
    there = in_triggerer(group)

    assert len(json.dumps(to_kwargs(group)["seen_as"])) < 500
    assert [state.status for state in there.members.values()][6:10] == [
        "AWAITING_USER_INPUT",
        "PENDING",
        None,
        "AWAITING_USER_INPUT",
    ]
    assert [state.is_over for state in there.members.values()].index(True) == 8


def test_runs_that_are_over_are_waited_for_again_if_their_json_is_wanted():
    group = group_of(WaitState(RUN_ID, outcome=Outcome.OVER), WaitState(OTHER_ID))

    assert not any(state.is_over for state in in_triggerer(group, all_again=True).members.values())


@pytest.mark.parametrize("late", [False, True])
def test_nobody_saw_the_work_begin_of_a_wait_that_is_taken_on_late(late):
    group = group_of(WaitState(RUN_ID, seen_at=AT, status="PENDING", is_queued=True))

    there = in_triggerer(group, now=AT + 8 if late else AT + 7)

    assert there.alone.is_queued is not late


def test_when_the_run_was_really_seen_goes_along_though_nobody_polled_since():
    there = in_triggerer(group_of(WaitState(RUN_ID, **ASKING)), now=AT + 5000)

    assert (there.alone.seen_at, there.alone.polled_at) == (AT + 5000, AT)


def test_the_unknown_statuses_that_were_warned_of_go_along():
    group = group_of(WaitState(RUN_ID, seen_at=AT, status="PENDING"))
    group.warned_of += ["PAUSED", "QUEUED"]

    there = in_triggerer(group)
    there.alone.saw(run_of("BLOCKED"), AT, 0.0)

    assert there.warned_of == ["PAUSED", "QUEUED", "BLOCKED"]
    assert group.warned_of == ["PAUSED", "QUEUED"]


def test_a_wait_without_a_limit_stays_without_one():
    assert in_triggerer(group_of(deadline=NEVER)).policy.deadline == NEVER


def test_no_credential_is_kept_or_shown(deferred_with, api):
    trigger = deferred_with()

    assert api[0].token not in repr(trigger) + json.dumps(trigger.serialize())


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([0, 1, 2], "0-2"), ([1, 3, 4, 9], "1,3-4,9")], ids=str
)
def test_numbers_are_written_in_few_characters(numbers, text):
    assert spans(numbers) == text
    assert list(numbers_in(text)) == numbers


# From one poke to the next


def test_what_is_known_of_a_single_run_is_kept_whole():
    group = group_of()
    group.alone.saw(run_of("PAUSED", currentStateName="fetch"), AT, 0.0)
    group.alone.saw(run_of("AWAITING_USER_INPUT"), AT + 5.5, 3.25)
    group.alone.failed("503 Service Unavailable", AT + 10)
    group.alone.last_logged_at = AT + 5.5

    again = group_of()
    recall(again, carried(to_json(group)))

    assert again.alone == group.alone


def test_of_many_runs_it_is_kept_in_whole_seconds_and_without_their_story():
    group = group_of(WaitState(RUN_ID, **ASKING), WaitState(OTHER_ID, outcome=Outcome.OVER))
    group.members[RUN_ID].awaiting_since = AT - 4.25
    group.members[RUN_ID].failed("503", AT + 10.5)
    group.members[RUN_ID].due_at = AT + 12.5

    again = group_of(WaitState(RUN_ID), WaitState(OTHER_ID))
    recall(again, carried(to_json(group)))

    first, second = again.members.values()
    assert (first.awaiting_since, first.failing_since, first.due_at) == (AT - 5, AT + 10, AT + 12)
    assert (first.last_failure, first.polls, second.is_over) == ("503", 0, True)


def test_fields_of_a_later_version_are_ignored_and_those_of_an_earlier_one_have_a_default():
    group = group_of()
    kept = {**to_json(group), "runs": [["0", {"seen_at": 5.0, "later": 7}]]}

    recall(group, kept)

    assert group.alone == WaitState(RUN_ID, seen_at=5.0)


def test_what_was_kept_of_other_runs_is_refused():
    with pytest.raises(AnonProtocolError, match="about other runs"):
        recall(group_of(), to_json(group_of(WaitState(OTHER_ID))))


# Back on the worker


def event_of(run=None, outcome=Outcome.OVER, state=None, error=None):
    group = group_of(state or WaitState(RUN_ID))
    if error is None:
        group.take(group.alone, PollResult(outcome, AT, run))
    return carried(to_event(group, error))


def read(event, *ids):
    return read_event(event, like(WaitGroup(WaitPolicy(), ids or (RUN_ID,))))


@pytest.mark.parametrize("outcome", [Outcome.OVER, Outcome.TIMEOUT, Outcome.USER_INPUT_TIMEOUT])
def test_an_event_is_plain_json_and_says_the_same_on_the_other_side(outcome):
    state = WaitState(
        RUN_ID,
        seen_at=AT,
        status="X",
        consecutive_failures=3,
        last_failure="503",
        spent={"PENDING": 2.5},
    )
    group = group_of(state)
    group.warned_of.append("X")
    run = run_of("COMPLETED" if outcome is Outcome.OVER else "IN_PROGRESS")
    group.take(state, PollResult(outcome, AT + 5, run, Sleep(55.0)))

    event = to_event(group)
    got, error = read(carried(event))

    assert carried(event) == event
    assert error is None
    assert got.policy == group.policy
    assert (got.result().outcome, got.result().at, got.alone.run) == (outcome, AT + 5, run)
    assert (got.alone.spent, got.warned_of) == ({"PENDING": 2.5}, ["X"])


def test_a_run_that_asks_for_user_input_comes_with_its_next_poll():
    group = group_of(WaitState(RUN_ID, **ASKING), user_input_timeout=10.0)
    run = run_of("AWAITING_USER_INPUT")
    group.take(group.alone, PollResult(Outcome.WAITING, AT, run, Sleep(5.0), asks_for_input=True))

    got, _ = read(to_event(group))

    assert got.asking == [run]
    assert got.result().outcome is Outcome.WAITING
    assert got.result().pause.seconds == 60.0


def test_an_event_is_small_however_mad_the_api_is():
    group = group_of()
    state = group.alone
    for number in range(500):
        mad = run_of(f"{chr(0x1F600) * 5000}{number}", currentStateName=chr(0x1F601) * 5000)
        state.saw(
            run_of(f"{number}{mad.status}", currentStateName=f"{number}{mad.current_state_name}"),
            AT + number,
            0,
        )
    state.failed("503 Service Unavailable", AT + 501)
    state.outcome = Outcome.TIMEOUT

    assert len(json.dumps(to_event(group))) < 64 * KIB
    assert len(json.dumps(to_kwargs(group))) < 32 * KIB
    assert state.polls == 501
    assert sum(state.spent.values()) == 499
    assert len(state.where_the_time_went()) < 8 * KIB


def ended(*runs):
    """Return what a triggerer saw of runs, and fired in an event."""
    group = group_of(*(WaitState(run.id) for run in runs))
    for state, run in zip(group.members.values(), runs, strict=True):
        group.take(state, PollResult(Outcome.OVER, AT, run))
    return to_event(group)


BIG = {"notes": "x" * (MOST_IN_EVENT // 2)}


def test_runs_that_do_not_fit_into_an_event_are_polled_once_more():
    ids = [RUN_ID, OTHER_ID, OTHER_ID.replace("3", "4")]
    event = ended(*(run_of("COMPLETED", run_id, **BIG) for run_id in ids))

    got, _ = read(event, *ids)

    assert len(json.dumps(event)) < MOST_IN_EVENT * 1.1
    assert [run["id"] for run in event["runs"]] == ids[:1]
    assert [state.workflow_run_id for state in got.unread(AT)] == ids[1:]


def test_a_failure_comes_first_in_an_event_and_if_it_does_not_fit_is_waited_for_once_more():
    small, big = run_of("FAILED", OTHER_ID), run_of("FAILED", OTHER_ID, **BIG, more=BIG)
    other = run_of("COMPLETED", **BIG)

    assert [run["id"] for run in ended(other, small)["runs"]] == [OTHER_ID, RUN_ID]
    got, _ = read(ended(other, big), RUN_ID, OTHER_ID)
    assert [(state.workflow_run_id, state.was_over) for state in got.lacking(AT)] == [(OTHER_ID, True)]


def test_a_status_of_the_api_is_kept_as_plain_text():
    state = WaitState(RUN_ID)
    state.saw(run_of("PENDING"), AT, 0)

    assert type(state.status) is str


def test_the_run_in_an_event_is_as_the_api_sent_it():
    run = run_of("COMPLETED", later={"added": [1, 2]})

    assert event_of(run)["runs"] == [payload("COMPLETED", later={"added": [1, 2]})]


def test_a_run_that_is_over_is_over_whatever_the_event_calls_it():
    for outcome in Outcome:
        got, _ = read(event_of(run_of("COMPLETED"), outcome) | {"runs": [payload("COMPLETED")]})
        assert got.result().outcome is Outcome.OVER


@pytest.mark.parametrize("outcome", Outcome)
def test_an_end_of_which_the_event_holds_no_run_is_polled_once_more(outcome):
    got, _ = read(event_of(None, outcome, WaitState(RUN_ID, **ASKING)))

    assert [*got.lacking(AT), *got.unread(AT)] == [got.alone]


def test_a_question_of_which_the_event_holds_no_run_is_reported_by_the_next_poll():
    state = WaitState(RUN_ID, **ASKING, asks_for_input=True)
    run = run_of("AWAITING_USER_INPUT", currentStateName="approve")

    got, _ = read(carried(to_event(group_of(state))))
    again = in_triggerer(got)
    got.alone.saw(run, AT + 9, None)
    got.take(got.alone, PollResult(Outcome.WAITING, AT + 9, run))

    assert got.asking == [run]
    assert (again.alone.status, again.alone.polled_at) == (None, AT - 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", 5),
        ("spent", [1]),
        ("spent", {"PENDING": "1"}),
        ("polled_at", "x"),
        ("awaiting_since", 10**400),
        ("polls", "7"),
        ("asks_for_input", "yes"),
        ("due_at", None),
    ],
)
def test_what_makes_no_sense_in_the_state_of_a_run_is_no_event(name, value):
    event = event_of(run_of("COMPLETED"))
    event["state"]["runs"] = [["0", {name: value}]]

    with pytest.raises(AnonProtocolError, match="not understood"):
        read(event)


def test_a_big_run_takes_no_room_from_small_ones():
    big = run_of("FAILED", notes="x" * 2 * MOST_IN_EVENT)

    assert [run["id"] for run in ended(big, run_of("COMPLETED", OTHER_ID))["runs"]] == [OTHER_ID]


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


@pytest.mark.parametrize("field", ["started_at", "deadline", "at"])
@pytest.mark.parametrize("value", NO_TIMES.values(), ids=NO_TIMES)
def test_what_is_no_time_is_refused_in_an_event(field, value):
    read(DONE)

    with pytest.raises(AnonProtocolError, match="not understood"):
        read({**DONE, field: value})


def with_runs(*runs):
    return {**DONE, "runs": list(runs)}


NO_EVENTS = {
    "none": None,
    "empty": {},
    "list": [],
    "text": "completed",
    "number": 7,
    "status success": {"status": "success"},
    "status failed": {"status": "failed", "message": "no"},
    "run alone": payload("COMPLETED"),
    "unfinished run claimed over": with_runs(payload("IN_PROGRESS")),
    "unknown and unfinished claimed over": with_runs(payload("QUEUED")),
    "other run": with_runs(payload("COMPLETED", id=OTHER_ID)),
    "other wait": {**DONE, "state": {**DONE["state"], "mark": "another"}},
    "mark is a number": {**DONE, "state": {**DONE["state"], "mark": 7}},
    "more runs than there are": {**DONE, "state": {**DONE["state"], "runs": [["0-7", {}]]}},
    "numbers are words": {**DONE, "state": {**DONE["state"], "runs": [["all", {}]]}},
    "weird outcome": {**DONE, "outcome": "weird"},
    "success as outcome": {**DONE, "outcome": "success"},
    "outcome is a list": {**DONE, "outcome": []},
    "runs are a text": {**DONE, "runs": "COMPLETED"},
    "run is a text": with_runs("COMPLETED"),
    "run lacks a field": with_runs({"id": RUN_ID, "workflowId": RUN_ID}),
    "no state": {**DONE, "state": None},
    "time is none": {**DONE, "at": None},
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


def test_what_a_later_version_adds_to_an_event_is_ignored(api):
    event = {**DONE, "later": 7, "state": {**DONE["state"], "later": 7}}

    assert sensor_with().execute_complete(context_of(api), event) == payload("COMPLETED")


# Errors


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_with_its_class_and_its_data(kind):
    error = kind("no", workflow_run_id=RUN_ID, status_code=503, last_status="PENDING", last_seen_at=AT)
    if hasattr(error, "field"):
        error.field, error.conn_id = "host", "anon_default"

    _, got = read(event_of(error=error))

    assert (type(got), str(got), got.retryable) == (kind, "no", kind.retryable)
    assert vars(got) == {**vars(error), "retryable": kind.retryable}


@pytest.mark.parametrize("retryable", [True, False])
def test_whether_a_retry_may_help_crosses_too(retryable):
    error = exceptions.AnonConfigurationError("no", retryable=retryable)

    assert read(event_of(error=error))[1].retryable is retryable


def test_an_id_that_was_none_in_the_triggerer_alone_is_reported_as_that():
    error = exceptions.AnonInvalidIdError("'None' is not the id of a workflow run")
    nothing = WaitGroup(WaitPolicy(started_at=AT, deadline=AT + 60))

    assert type(read(carried(to_event(nothing, error)))[1]) is exceptions.AnonInvalidIdError


@pytest.mark.parametrize(
    "kind", ["AnonLaterError", "ValueError", "AnonWaitTimeoutError", "error_from_payload", "Any"]
)
def test_an_error_of_an_unknown_kind_is_still_an_error(kind):
    error = error_from_payload({"kind": kind, "message": "no", "later": 7})

    assert (type(error), str(error), hasattr(error, "later")) == (AnonError, "no", False)
