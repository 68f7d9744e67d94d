"""What a wait does on a worker that the table of outcomes does not show."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout
from carry_out import carry_out

from airflow_anon.exceptions import (
    AnonProtocolError,
    AnonUnavailableError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.handoff import Return
from airflow_anon.memory import Memory
from airflow_anon.protocol import Look, Outcome, Plan
from airflow_anon.sensors import AnonWorkflowRunSensor

GOOD = "slow 0s"


def forgetful(api, run_id, **options):
    """Carry a rescheduled sensor out where Airflow keeps nothing for it, as before 3.3."""
    options = {"poke_interval": 30, "timeout": 3600, **options}
    return carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, mode="reschedule", **options),
        api[1],
        keeps=False,
    )


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


def test_a_forgetful_sensor_stays_for_the_person_it_has_called(api):
    asked = []
    run_id = api[0].create_run("PENDING 40s, AWAITING_USER_INPUT 300s, IN_PROGRESS 100s, COMPLETED")

    story = forgetful(api, run_id, on_awaiting_user_input_callback=asked.append)

    assert story.state == "success", story.error
    assert len(asked) == 1
    assert 1 < story.starts < api[0].requests_for(run_id)


def test_a_forgetful_sensor_knows_when_a_person_takes_too_long(api):
    run_id = api[0].create_run("PENDING 40s, AWAITING_USER_INPUT until answered, COMPLETED")

    story = forgetful(api, run_id, user_input_timeout=300)

    assert (story.state, type(story.error)) == ("failed", AnonUserInputTimeoutError)


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


def test_a_broken_trigger_is_told_with_its_traceback_and_what_to_do(api, capsys, caplog):
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


@pytest.mark.parametrize("told", ["success", "skipped"])
def test_an_end_in_a_triggerer_that_is_none_is_judged_on_the_worker(api, told):
    sensor, _ = broken_trigger(api, "COMPLETED", end_from_trigger=True)

    assert resume(sensor, "execute_complete", {"event": told})["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("script", "error"), [("FAILED", AnonWorkflowRunFailedError), ("IN_PROGRESS", AnonUnavailableError)]
)
def test_an_end_in_a_triggerer_is_no_success_by_itself(api, script, error):
    sensor, _ = broken_trigger(api, script, end_from_trigger=True)

    with pytest.raises(error):
        resume(sensor, "execute_complete", {"event": "success"})


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
    memory = Memory(seen_at=now - 50, status="IN_PROGRESS", state_name="post_invoice", missed=1)
    returned = Return(Plan(run_id, now - 61, now - 1), memory, Look(Outcome.TIMEOUT, now))
    api[0].start_outage("503")

    with pytest.raises(AnonWaitTimeoutError, match="no answer: 503 Service Unavailable") as timed_out:
        resume(sensor, "execute_complete", {"event": returned.to_event()})

    assert timed_out.value.last_status == "IN_PROGRESS"
    assert timed_out.value.last_seen_at == now - 50


@pytest.mark.parametrize("name", ["outage_tolerance", "user_input_timeout"])
@pytest.mark.parametrize("value", [-1, "10", True, float("inf"), timedelta(seconds=-1)])
def test_a_parameter_that_makes_no_sense_is_named_when_the_dag_is_parsed(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a timedelta, or a number of seconds"):
        AnonWorkflowRunSensor(task_id="wait", workflow_run_id="x", **{name: value})
