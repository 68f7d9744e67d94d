"""What a wait does on a worker that the table of outcomes does not show."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from carry_out import (
    AirflowRescheduleException,
    Store,
    TaskInstance,
    TaskInstance3,
    carry_out,
    events_of,
    reschedule_dates,
)

from airflow_anon.core.codec import SETTLED_AFTER, to_event
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonProtocolError,
    AnonUnavailableError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
)
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.task.kept import STORE_KEY

GOOD = "slow 0s"
ONLY_2 = pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="Airflow 3 forgets the first try's reschedules itself")
# What Airflow resumes a task with whose trigger raised, or did not end in time.
BROKEN = {"error": "Trigger failure", "traceback": None}
TRIGGER_TIMEOUT = {"error": "Trigger timeout" if AIRFLOW_V_3_0_PLUS else "Trigger/execution timeout"}


def forgetful(api, run_id, **options):
    """Carry a rescheduled sensor out where Airflow keeps nothing for it, as before 3.3."""
    options = {"poke_interval": 30, "timeout": 3600, **options}
    return carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, mode="reschedule", **options),
        api[1],
        keeps=False,
    )


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_there_is_a_last_poll_though_airflow_began_to_count_before(api, mode, monkeypatch):
    simulator, clock = api
    monkeypatch.setattr("airflow_anon.task.waits.HEAD_START", 5.0)  # however slow this machine is
    run_id = simulator.create_run("IN_PROGRESS 9h, COMPLETED")

    class Slow(AnonWorkflowRunSensor):
        def poke(self, context):
            if not clock.slept:
                clock.sleep(0.05)
            return super().poke(context)

    # The second poll comes after 9.96 to 10 s by our count, which is 10.01 to 10.05 s by Airflow's.
    story = carry_out(
        lambda: Slow(task_id="wait", workflow_run_id=run_id, mode=mode, poke_interval=9.96, timeout=10), clock
    )

    assert isinstance(story.error, AnonWaitTimeoutError)
    assert story.error.last_status == "IN_PROGRESS"


def test_a_forgetful_sensor_leaves_its_worker_while_all_is_well(api):
    run_id = api[0].create_run("PENDING 40s, AWAITING_USER_INPUT 100s, IN_PROGRESS 100s, COMPLETED")

    story = forgetful(api, run_id)

    assert story.state == "success", story.error
    assert story.starts == api[0].requests_for(run_id)


def test_a_forgetful_sensor_stays_until_the_api_answers_again(api):
    run_id = api[0].create_run("PENDING 600s, COMPLETED")
    api[0].add_faults(f"{GOOD} x2, 503 x4", run_id)

    story = forgetful(api, run_id)

    assert story.state == "success", story.error
    assert story.starts == api[0].requests_for(run_id) - 4


def test_a_forgetful_sensor_loses_contact_as_others_do(api):
    run_id = api[0].create_run("PENDING 24h, COMPLETED")
    api[0].add_faults(f"{GOOD} x3, 503 x99", run_id)

    story = forgetful(api, run_id, outage_tolerance=300)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonUnavailableError)
    assert story.starts == 4


def test_a_forgetful_sensor_stays_until_the_user_has_answered(api):
    asked = []
    run_id = api[0].create_run("PENDING 40s, AWAITING_USER_INPUT 300s, IN_PROGRESS 100s, COMPLETED")

    story = forgetful(api, run_id, on_awaiting_user_input_callback=asked.append)

    assert story.state == "success", story.error
    assert len(asked) == 1
    assert 1 < story.starts < api[0].requests_for(run_id)


def test_a_forgetful_sensor_knows_when_user_input_takes_too_long(api):
    run_id = api[0].create_run("PENDING 40s, AWAITING_USER_INPUT until answered, COMPLETED")

    story = forgetful(api, run_id, user_input_timeout=300)

    assert (story.state, type(story.error)) == ("failed", AnonUserInputTimeoutError)


def second_try(api, run_id, *, keeps, rescheduled_at, **options):
    """Carry out a rescheduled sensor's second try, as Airflow begins it half an hour after the first."""
    ti = context_of(api[1])["ti"]
    ti.try_number = ti.max_tries = 2
    ti.first_start, ti.rescheduled_try = api[1].utcnow() - timedelta(minutes=30), rescheduled_at
    store = Store()
    store.set(STORE_KEY, {"mark": ["anon_default", 1], "started_at": 0.0, "state": {}})
    options = {"poke_interval": 60, "timeout": 36_000, "retries": 2, **options}
    sensor = AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, mode="reschedule", **options)
    ti.task = sensor
    with reschedule_dates(api[1], ti):
        return sensor.execute(
            {"ti": ti, "task_instance": ti, **({"task_state_store": store} if keeps else {})}
        )


@pytest.mark.parametrize("keeps", [True, pytest.param(False, marks=ONLY_2)])
def test_every_try_begins_anew_in_reschedule_mode_too(api, keeps):
    run_id = api[0].create_run("IN_PROGRESS 6h, COMPLETED")
    api[0].token = "other"

    with pytest.raises(AnonAuthenticationError):
        second_try(api, run_id, keeps=keeps, rescheduled_at=1)

    assert api[1].offset == 0


@ONLY_2
def test_a_try_that_was_rescheduled_has_seen_the_run(api):
    run_id = api[0].create_run("IN_PROGRESS 6h, COMPLETED")
    api[0].add_faults("401 x1", run_id)

    with pytest.raises(AirflowRescheduleException):
        second_try(api, run_id, keeps=False, rescheduled_at=2)


def test_what_airflow_keeps_of_the_time_of_a_rescheduled_sensor_holds_for_all_tries(api):
    run_id = api[0].create_run("IN_PROGRESS 6h, COMPLETED")

    with pytest.raises(AnonWaitTimeoutError, match="not over after 30 min"):
        second_try(api, run_id, keeps=True, rescheduled_at=1, timeout=1200)


class Instance:
    """A task instance that began two minutes ago and is back from the triggerer."""

    map_index = -1
    try_number = 1

    def __init__(self):
        self.start_date = datetime.now(timezone.utc) - timedelta(minutes=2)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__


def resume(sensor, method, kwargs):
    return sensor.resume_execution(method, kwargs, {"ti": Instance()})


def broken_trigger(api, script, **options):
    sensor = AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id=api[0].create_run(script), deferrable=True, **options
    )
    return sensor, {
        "error": "Trigger failure",
        "traceback": ["Traceback\n", "ModuleNotFoundError: airflow_anon\n"],
    }


def test_a_broken_trigger_is_logged_with_its_traceback_and_what_to_do(api, capsys, caplog):
    sensor, failure = broken_trigger(api, "IN_PROGRESS")

    with pytest.raises(AnonUnavailableError, match="installed there, in the version of the workers"):
        resume(sensor, "__fail__", failure)

    assert "ModuleNotFoundError: airflow_anon" in capsys.readouterr().out + caplog.text


def test_a_broken_trigger_of_a_run_that_is_over_is_forgiven(api):
    sensor, failure = broken_trigger(api, "COMPLETED")

    assert resume(sensor, "__fail__", failure)["status"] == "COMPLETED"


def test_a_broken_trigger_while_the_api_is_away_makes_nothing_up(api):
    sensor, failure = broken_trigger(api, "IN_PROGRESS")
    api[0].start_outage("503")

    with pytest.raises(AnonUnavailableError, match="the run has not been seen") as broken:
        resume(sensor, "__fail__", failure)

    assert broken.value.last_seen_at is None


def test_an_execution_timeout_is_named_as_what_it_is(api):
    sensor, failure = broken_trigger(api, "IN_PROGRESS", execution_timeout=timedelta(minutes=1))

    with pytest.raises(
        AirflowTaskTimeout, match="longer than execution_timeout, 1 min; it was last seen IN_PROGRESS"
    ):
        resume(sensor, "__fail__", failure)


def test_an_execution_timeout_is_skipped_with_soft_fail(api):
    sensor, failure = broken_trigger(
        api, "IN_PROGRESS", execution_timeout=timedelta(minutes=1), soft_fail=True
    )

    with pytest.raises(AirflowSkipException) as skipped:
        resume(sensor, "__fail__", failure)

    assert any(isinstance(error, AirflowTaskTimeout) for error in causes(skipped.value))


@pytest.fixture(params=["one", "many"])
def sensor(request, api):
    """Make a sensor for a run: for that alone, or for many of which it is the only one."""

    def sensor(script="IN_PROGRESS 10h, COMPLETED", **options):
        run_id = api[0].create_run(script)
        options = {"task_id": "wait", "deferrable": True, "poke_interval": 60, **options}
        if request.param == "one":
            return lambda: AnonWorkflowRunSensor(workflow_run_id=run_id, **options)
        return lambda: AnonWorkflowRunsSensor(workflow_run_ids=[run_id], **options)

    return sensor


def context_of(clock, started_at=None):
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    ti = kind(clock, None, start_date=started_at or clock.utcnow())
    return {"ti": ti, "task_instance": ti}


def deferred(resume):
    with pytest.raises(TaskDeferred) as deferral:
        resume()
    return deferral.value


@pytest.mark.parametrize("is_known", [True, False], ids=["beginning known", "beginning lost"])
def test_an_execution_timeout_ends_a_deferred_wait(sensor, api, is_known):
    clock = api[1]
    make = sensor(execution_timeout=timedelta(minutes=5))
    context = context_of(clock)

    deferral = deferred(lambda: make().execute(context))
    clock.sleep(deferral.timeout.total_seconds())

    assert clock.offset == pytest.approx(300, abs=2)
    with pytest.raises(AirflowTaskTimeout, match="longer than execution_timeout, 5 min"):
        make().resume_execution("__fail__", TRIGGER_TIMEOUT, context if is_known else context_of(clock))


def test_an_execution_timeout_counts_from_the_first_deferral_and_never_backwards(sensor, api):
    clock = api[1]
    make = sensor(
        "IN_PROGRESS 100s, AWAITING_USER_INPUT",
        execution_timeout=timedelta(minutes=5),
        on_awaiting_user_input_callback=lambda context: clock.sleep(slow),
    )
    context = context_of(clock)
    (event,) = asyncio.run(events_of(deferred(lambda: make().execute(context)).trigger))

    def left():
        resumption = {"event": json.loads(json.dumps(event.payload))}
        return deferred(lambda: make().resume_execution("execute_complete", resumption, context)).timeout

    slow, seen_at = 0, clock.offset
    assert left().total_seconds() == pytest.approx(300 - seen_at, abs=2)
    slow = 1000
    assert left() == timedelta(seconds=SETTLED_AFTER + 1)  # then it may be resumed


@pytest.mark.parametrize("is_known", [True, False], ids=["beginning known", "beginning lost"])
@pytest.mark.parametrize("silent_fail", [False, True])
def test_a_triggerer_that_was_away_past_the_deadline_is_a_timeout(sensor, api, is_known, silent_fail):
    clock = api[1]
    make = sensor(timeout=600, silent_fail=silent_fail)
    context = context_of(clock)
    deferral = deferred(lambda: make().execute(context))
    clock.sleep(deferral.timeout.total_seconds() + 5)

    with pytest.raises(AnonWaitTimeoutError, match="timeout is 10 min"):
        make().resume_execution("__fail__", TRIGGER_TIMEOUT, context if is_known else context_of(clock))


def test_a_deadline_that_is_over_is_not_forgotten_because_the_last_poll_failed(sensor, api):
    simulator, clock = api
    make = sensor(timeout=600, silent_fail=True)
    clock.sleep(800)
    simulator.add_faults("404 x9")

    with pytest.raises(AnonWaitTimeoutError, match=r"timeout is 10 min.*, and its last poll failed"):
        make().resume_execution("__fail__", TRIGGER_TIMEOUT, context_of(clock))


def test_an_execution_timeout_is_not_forgotten_either_because_the_last_poll_failed(sensor, api):
    simulator, clock = api
    make = sensor(execution_timeout=timedelta(minutes=5), silent_fail=True)
    simulator.add_faults("404 x9")

    with pytest.raises(AirflowTaskTimeout, match="longer than execution_timeout, 5 min"):
        make().resume_execution("__fail__", TRIGGER_TIMEOUT, context_of(clock))


def test_a_deadline_that_is_over_does_not_hide_a_good_end(sensor, api):
    make = sensor("COMPLETED", timeout=600)

    assert make().resume_execution("__fail__", TRIGGER_TIMEOUT, context_of(api[1]))


def test_the_poll_before_an_error_promises_no_patience(sensor, api, capsys, caplog):
    simulator, clock = api
    make = sensor(outage_tolerance=300)
    context = context_of(clock)
    deferral = deferred(lambda: make().execute(context))
    simulator.start_outage("503")
    (event,) = asyncio.run(events_of(deferral.trigger))
    capsys.readouterr()
    caplog.clear()

    with pytest.raises(AnonUnavailableError, match="Lost contact"):
        make().resume_execution("execute_complete", {"event": event.payload}, context)

    told = capsys.readouterr().out + caplog.text
    assert "No answer: 503 Service Unavailable" in told
    assert "giving up after" not in told


def test_a_question_is_called_back_for_though_a_broken_trigger_was_ignored(sensor, api):
    asked = []
    make = sensor(
        "AWAITING_USER_INPUT", silent_fail=True, on_awaiting_user_input_callback=lambda _: asked.append(1)
    )
    context = context_of(api[1])
    trigger = deferred(lambda: make().resume_execution("__fail__", BROKEN, context)).trigger
    (event,) = asyncio.run(events_of(trigger))

    deferred(lambda: make().resume_execution("execute_complete", {"event": event.payload}, context))

    assert asked == [1]


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_silent_fail_leaves_a_pause_after_an_id_that_is_none(api, mode):
    story = carry_out(
        lambda: AnonWorkflowRunSensor(
            task_id="wait", workflow_run_id="None", mode=mode, silent_fail=True, poke_interval=60, timeout=600
        ),
        api[1],
    )

    assert (story.state, type(story.error)) == ("failed", AirflowSensorTimeout)
    assert all(pause == pytest.approx(60, abs=1) for pause in api[1].slept)


class PickySensor(AnonWorkflowRunSensor):
    """A sensor of a user, who polls only when she likes to."""

    def poke(self, context):
        return self.hook.anon_conn_id != "anon_default"


@pytest.mark.parametrize(("poke_interval", "pause"), [(60, 60), (0, 1)])
def test_a_sensor_that_decides_for_itself_whether_to_poll_has_its_interval(api, poke_interval, pause):
    with pytest.raises(AirflowSensorTimeout):
        PickySensor(task_id="wait", workflow_run_id="any", poke_interval=poke_interval, timeout=300).execute(
            context_of(api[1])
        )

    assert set(api[1].slept) == {pause}


def test_never_fail_skips_whatever_the_trigger_brings(api):
    sensor = AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id=api[0].create_run("COMPLETED"), deferrable=True, never_fail=True
    )

    with pytest.raises(AirflowSkipException) as skipped:
        resume(sensor, "execute_complete", {"event": {"status": "success"}})

    assert any(isinstance(error, AnonProtocolError) for error in causes(skipped.value))


def test_a_wait_that_ends_in_silence_times_out_with_what_was_seen_last(api):
    run_id = api[0].create_run("IN_PROGRESS (post_invoice)")
    sensor = AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, deferrable=True, timeout=60)
    now = api[1].time()
    group = WaitGroup(WaitPolicy(now - 61, now - 1), [run_id], seen_at=now - 50)
    group.alone.status, group.alone.state_name = "IN_PROGRESS", "post_invoice"
    group.alone.failed("503", now)
    group.take(group.alone, PollResult(Outcome.TIMEOUT, now))
    api[0].start_outage("503")

    with pytest.raises(AnonWaitTimeoutError, match=r"no answer \(503 Service Unavailable\)") as timed_out:
        resume(sensor, "execute_complete", {"event": to_event(group)})

    assert timed_out.value.last_status == "IN_PROGRESS"
    assert timed_out.value.last_seen_at == now - 50


@pytest.mark.parametrize("name", ["outage_tolerance", "user_input_timeout"])
@pytest.mark.parametrize("value", [-1, "10", True, float("inf"), timedelta(seconds=-1)])
def test_a_parameter_that_makes_no_sense_is_named_when_the_dag_is_parsed(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a timedelta, or a number of seconds"):
        AnonWorkflowRunSensor(task_id="wait", workflow_run_id="x", **{name: value})
