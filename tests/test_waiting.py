"""All ways of waiting tell the same story: the table of the README, row by row, in every mode."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from carry_out import MODES, carry_out

from airflow_anon.core.answers import TABLE, AnswerKind, Verdict
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonConfigurationError,
    AnonInvalidIdError,
    AnonNotFoundError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonUnknownStatusError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.simulator.scripted_run import ScriptedRun

pytestmark = pytest.mark.unmeasured
# Airflow 3 logs through structlog to stdout, Airflow 2 through logging, which the harness listens to.
LOG_LINE = re.compile(r"^\S+Z \[\w+ *\] (.*?) +\[[\w.]*airflow_anon[\w.]*\]", re.MULTILINE)
GOOD = "slow 0s"
NO_ACTION = "COMPLETED_WITH_NO_ACTION_TAKEN"
UNDER_WAY = "PENDING 40s, IN_PROGRESS 100s"
BEGINNINGS = {"already over": "", "over later": f"{UNDER_WAY}, "}


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture(params=BEGINNINGS)
def before(request):
    return BEGINNINGS[request.param]


@pytest.fixture(params=["one", "many"])
def sensor(request):
    return request.param


@pytest.fixture
def wait(sensor, mode, clock, simulator, capsys):
    """Wait for a run; the sensor for many is given another beside it, which is over."""

    def wait(run_id, **options):
        options = {"task_id": "wait", "poke_interval": 30, "timeout": 3600, **MODES[mode], **options}
        if sensor == "one":
            story = carry_out(lambda: AnonWorkflowRunSensor(workflow_run_id=run_id, **options), clock)
        else:
            other = simulator.create_run("COMPLETED_WITH_NO_ACTION_TAKEN")
            story = carry_out(
                lambda: AnonWorkflowRunsSensor(workflow_run_ids=[run_id, other], **options), clock
            )
            if story.state == "success":
                story.xcom, other_run = story.xcom
                assert other_run == simulator.run(other)
        story.log += LOG_LINE.findall(capsys.readouterr().out)
        return story

    return wait


@pytest.mark.measured
@pytest.mark.parametrize(
    ("before", "status"), [("already over", "COMPLETED"), ("over later", NO_ACTION)], indirect=["before"]
)
def test_a_run_that_ended_well_passes_with_its_json(wait, simulator, before, status):
    run_id = simulator.create_run(f"{before}{status}")

    story = wait(f" {run_id}\n", skip_on_no_action=status == "COMPLETED")

    assert story.state == "success", story.error
    assert story.xcom == simulator.run(run_id)
    assert story.xcom["status"] == status


def test_a_run_without_action_is_skipped_if_so_wished(wait, simulator, before):
    run_id = simulator.create_run(f"{before}{NO_ACTION}")

    story = wait(run_id, skip_on_no_action=True)

    assert story.state == "skipped"
    assert "without taking any action" in str(story.error)


def test_a_failed_run_fails_the_task_without_retries(wait, simulator, before):
    run_id = simulator.create_run(f"{before}FAILED (post_invoice)")

    story = wait(run_id)

    run = simulator.run(run_id)
    assert (story.state, type(story.error)) == ("failed", AnonWorkflowRunFailedError)
    assert all(
        fact in str(story.error) for fact in (run_id, run["workflowId"], "post_invoice", run["jobRunId"])
    )
    assert "after its creation" in str(story.error)
    assert story.error.run.id == run_id
    assert story.xcom is None
    if not before:
        assert simulator.requests_for(run_id) == 1


def test_a_failed_run_is_skipped_with_soft_fail(wait, simulator, before):
    story = wait(simulator.create_run(f"{before}FAILED"), soft_fail=True)

    assert story.state == "skipped"


def test_a_run_may_wait_for_user_input_for_days(wait, simulator):
    run_id = simulator.create_run("AWAITING_USER_INPUT 72h, COMPLETED")

    story = wait(run_id, timeout=timedelta(days=4), poke_interval=6 * 3600)

    assert story.state == "success", story.error


def test_an_unknown_status_waits_with_one_warning_for_each_value(wait, mode, simulator):
    run_id = simulator.create_run(
        "UNKNOWN:QUEUED 100s, UNKNOWN:BLOCKED 100s, AWAITING_USER_INPUT 100s, UNKNOWN:QUEUED 100s, COMPLETED"
    )

    story = wait(run_id, on_awaiting_user_input_callback=lambda context: None)

    assert story.state == "success", story.error
    warned_of = [line.partition("status ")[2][:9] for line in story.log if "does not know" in line]
    if AIRFLOW_V_3_3_PLUS or mode != "reschedule":
        assert warned_of == ["'QUEUED',", "'BLOCKED'"]
    else:
        assert set(warned_of) == {"'QUEUED',", "'BLOCKED'"}


def test_an_unknown_end_never_passes(wait, simulator):
    story = wait(simulator.create_run(f"{UNDER_WAY}, ENDED:CANCELLED"), soft_fail=True)

    assert type(story.error) is AnonUnknownStatusError
    assert "CANCELLED" in str(story.error)


@pytest.mark.measured
def test_a_wait_times_out_after_a_last_poll(wait, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS (post_invoice) 24h, COMPLETED")

    story = wait(run_id, timeout=timedelta(minutes=10), poke_interval=400)

    assert (story.state, type(story.error)) == ("failed", AnonWaitTimeoutError)
    assert isinstance(story.error, AirflowSensorTimeout)
    assert all(
        fact in str(story.error) for fact in (run_id, "IN_PROGRESS", "post_invoice", "timeout is 10 min")
    )
    assert 599 <= clock.passed < 610
    assert simulator.requests_for(run_id) == 3


def test_the_time_that_a_first_poll_takes_counts(wait, mode, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS 24h, COMPLETED")
    simulator.add_faults("503 x5", run_id)

    story = wait(run_id, timeout=100)

    assert type(story.error) is AnonWaitTimeoutError
    if AIRFLOW_V_3_3_PLUS or mode != "reschedule":
        assert 99 <= clock.passed < 110  # and not 30 s more


def test_a_run_that_ends_just_before_the_time_is_over_passes(wait, simulator):
    story = wait(simulator.create_run("IN_PROGRESS 590s, COMPLETED"), timeout=600, poke_interval=400)

    assert story.state == "success", story.error


def test_a_timeout_is_skipped_with_soft_fail(wait, simulator):
    story = wait(simulator.create_run("PENDING"), timeout=100, soft_fail=True)

    assert (story.state, type(story.error)) == ("skipped", AirflowSkipException)


def airflow_keeps_the_link(mode):
    """Say whether Airflow does, at the end of a start on a worker, before we would."""
    starts_in_triggerer = AIRFLOW_V_3_3_PLUS and mode in {"from the trigger", "without a worker"}
    return AIRFLOW_V_3_0_PLUS and mode != "poke" and not starts_in_triggerer


@pytest.mark.parametrize("sensor", ["one"], indirect=True)
def test_the_link_is_kept_while_the_task_waits(wait, mode, simulator, clock, monkeypatch):
    template = "https://app.example/{workflow_id}/runs/{id}"
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection(run_url_template=template))
    run_id = simulator.create_run("PENDING 100s, COMPLETED")
    workflow_id = simulator.run(run_id)["workflowId"]
    began = clock.time()

    story = wait(run_id)

    assert story.state == "success", story.error
    assert {link.url for link in story.links} == {f"https://app.example/{workflow_id}/runs/{run_id}"}
    assert story.links[0].at - began < 30  # before a second poll
    assert len(story.links) == (1 if AIRFLOW_V_3_0_PLUS or mode != "reschedule" else story.starts)
    assert (story.links[0].where == "airflow") is airflow_keeps_the_link(mode)


def test_a_rescheduled_sensor_that_stays_on_its_worker_keeps_its_link_itself(simulator, clock):
    run_id = simulator.create_run("AWAITING_USER_INPUT 100s, COMPLETED")
    options = {"poke_interval": 30, "timeout": 3600, "user_input_timeout": 3600, "mode": "reschedule"}

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, **options), clock, keeps=False
    )

    assert (story.state, story.starts) == ("success", 1)
    assert [link.where for link in story.links] == ["worker"]


@pytest.mark.parametrize("fault", ["401", "503"])
@pytest.mark.parametrize("sensor", ["one"], indirect=True)
def test_the_link_is_kept_though_the_first_poll_sees_no_run(wait, simulator, fault):
    run_id = simulator.create_run("PENDING")
    simulator.add_faults(f"{fault} x99", run_id)

    story = wait(run_id)

    assert story.state == "up_for_retry"
    assert [link.url for link in story.links] == [f"{simulator.url}/api/v2/workflow-runs/{run_id}"]


@pytest.mark.measured
@pytest.mark.parametrize("sensor", ["one"], indirect=True)
def test_a_link_that_cannot_be_kept_is_logged_and_changes_nothing(wait, mode, simulator, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Airflow's database is away")

    monkeypatch.setattr("carry_out.Link", refuse)
    run_id = simulator.create_run("PENDING 100s, COMPLETED")

    story = wait(run_id)

    assert story.state == "success", story.error
    assert story.xcom == simulator.run(run_id)
    logged = [line for line in story.log if "The link to the run could not be kept" in line]
    if airflow_keeps_the_link(mode):
        assert logged == []
    else:
        assert len(logged) == (story.starts if mode == "reschedule" else 1)


AT_ONCE, AFTER_A_MINUTE, AFTER_THE_TOLERANCE = (0, 30), (59, 150), (298, 420)
LOST = "unknown, which does not mean that it failed"
# What is answered, before and after the run was seen: the error, when it comes, and what it says.
ENDS = {
    AnswerKind.UNAUTHORIZED: (
        ("401", AnonAuthenticationError, AT_ONCE, "'anon_default'", "'password'"),
        ("401", AnonUnavailableError, AFTER_THE_TOLERANCE, LOST),
    ),
    AnswerKind.NOT_FOUND: (
        ("404", AnonNotFoundError, AFTER_A_MINUTE, "No such run, or not visible to this token"),
        ("404", AnonNotFoundError, AT_ONCE, "gone, or hidden"),
    ),
    AnswerKind.TRANSIENT: (
        ("503", AnonUnavailableError, AFTER_A_MINUTE, "503 Service Unavailable"),
        ("429", AnonUnavailableError, AFTER_THE_TOLERANCE, LOST),
    ),
    AnswerKind.REJECTED: (
        ("400", AnonRejectedError, AT_ONCE, "400 Bad Request"),
        ("410", AnonRejectedError, AT_ONCE, "410 Gone"),
    ),
}


@pytest.mark.parametrize("was_seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("row", TABLE[1:], ids=lambda row: row.kind.name)
def test_each_answer_means_what_the_table_says(wait, mode, simulator, clock, row, was_seen):
    run_id = simulator.create_run("IN_PROGRESS 24h, COMPLETED")
    fault, kind, (earliest, latest), *facts = ENDS[row.kind][was_seen]
    simulator.add_faults(f"{GOOD}, " * was_seen + f"{fault} x300", run_id)

    story = wait(run_id, outage_tolerance=300, soft_fail=True)

    error = story.error
    assert (story.state, type(error)) == ("up_for_retry", kind)
    goes_on = (row.seen if was_seen else row.unseen) is Verdict.KEEP_POLLING
    assert goes_on is error.retryable is (kind is AnonUnavailableError)
    assert (error.workflow_run_id, error.status_code) == (run_id, int(fault))
    assert all(fact in str(error) for fact in (simulator.url, *facts))
    assert earliest <= clock.passed < latest + 30 * was_seen  # many runs keep whole seconds
    if latest == AT_ONCE[1]:
        assert simulator.requests_for(run_id) == 1 + was_seen + (was_seen and row.confirms)
    if AIRFLOW_V_3_3_PLUS or mode != "reschedule":
        assert error.last_status == ("IN_PROGRESS" if was_seen else None)


DISTURBANCES = (
    "408", "425", "429", "429 retry-after=7", "500", "502", "503", "504", "599", "204", "garbage", "empty", "html",
    "wrong-id", "reset", "cut", "huge", "huge-chunked", "502, 503", "500, reset, garbage",
)  # fmt: skip


def test_a_disturbance_in_the_middle_is_ridden_out(wait, simulator):
    run_id = simulator.create_run(f"IN_PROGRESS {2 * len(DISTURBANCES)} polls, COMPLETED")
    simulator.add_faults("".join(f"{GOOD}, {disturbance}, " for disturbance in DISTURBANCES) + GOOD, run_id)

    story = wait(run_id, timeout=24 * 3600)

    assert simulator._world.faults_left == 0
    assert story.state == "success", story.error
    assert story.xcom == simulator.run(run_id)


def test_a_disturbance_of_the_first_poll_is_ridden_out(wait, simulator):
    run_id = simulator.create_run("MISSING 3 polls, PENDING 100s, COMPLETED")
    simulator.add_faults("503, garbage, reset", run_id)

    story = wait(run_id)

    assert story.state == "success", story.error


def test_retry_after_is_obeyed_within_the_limits(wait, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS 1 polls, COMPLETED")
    simulator.add_faults(f"{GOOD}, 429 retry-after=77, 429 retry-after=999999", run_id)

    story = wait(run_id, poke_interval=5, timeout=250)

    assert story.state == "success", story.error
    assert [pause for pause in clock.slept if 77 <= pause < 120]
    assert 120 <= max(clock.slept) <= 251


def test_the_tolerance_counts_from_the_last_good_poll_and_not_attempts(wait, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS 24h, COMPLETED")
    simulator.add_faults(f"{GOOD}, " + f"503 x5, {GOOD}, " * 4 + "503 x100", run_id)

    story = wait(run_id, outage_tolerance=timedelta(minutes=5), timeout=36000)

    assert type(story.error) is AnonUnavailableError
    assert clock.offset > 4 * 150 + 299


def test_a_host_that_refuses_connections_shows_within_a_minute(wait, simulator, clock):
    simulator.start_outage("refused")

    story = wait("3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60")

    assert type(story.error) is AnonUnavailableError
    assert "connection refused" in str(story.error)
    assert clock.offset <= 75


@contextmanager
def after_each_sleep(clock, change):
    """Let the world change while the wait sleeps."""
    real_sleep = clock.sleep

    def sleep(seconds):
        real_sleep(seconds)
        change()

    # Not by the fixture, which is undone after the clock: that would leave the clock's own sleep behind.
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(clock, "sleep", sleep)
        patches.setattr("time.sleep", sleep)
        yield


@pytest.mark.measured
@pytest.mark.parametrize("away_for", [0, 150], ids=["at once", "after a while"])
def test_a_rotated_token_is_read_as_soon_as_the_connection_can_be(
    wait, simulator, monkeypatch, clock, away_for
):
    run_id = simulator.create_run("IN_PROGRESS 200s, COMPLETED")

    def rotate():
        simulator.token = "a-new-one"
        if clock.offset < away_for:
            monkeypatch.delenv("AIRFLOW_CONN_ANON_DEFAULT", raising=False)
        else:
            monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())

    with after_each_sleep(clock, rotate):
        story = wait(run_id)

    assert story.state == "success", story.error


@pytest.mark.measured
def test_a_connection_that_comes_to_make_no_sense_ends_the_wait(wait, simulator, monkeypatch, clock):
    run_id = simulator.create_run("IN_PROGRESS 200s, COMPLETED")

    def spoil():
        simulator.token = "a-new-one"
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection(timeout=0))

    with after_each_sleep(clock, spoil):
        story = wait(run_id)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonConfigurationError)
    assert "'anon_default': timeout" in str(story.error)


@pytest.mark.parametrize("run_id", ["none", None])
def test_an_id_that_is_none_fails_before_any_request(wait, simulator, run_id):
    story = wait(run_id, soft_fail=True)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonInvalidIdError)
    assert repr(run_id) in str(story.error)
    assert simulator.requests == 0


def test_a_setting_that_makes_no_sense_fails_before_any_request(wait, simulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection(timeout=0))

    story = wait(simulator.create_run("COMPLETED"), soft_fail=True)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonConfigurationError)
    assert "'anon_default': timeout" in str(story.error)
    assert simulator.requests == 0


def test_a_connection_that_does_not_exist_is_named(wait, simulator):
    story = wait(simulator.create_run("COMPLETED"), anon_conn_id="nowhere", soft_fail=True)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonConfigurationError)
    assert "'nowhere'" in str(story.error)


def test_the_callback_comes_once_each_time_the_run_asks_and_the_time_of_each_is_its_own(wait, simulator):
    asked = []
    run_id = simulator.create_run(
        "IN_PROGRESS 40s, AWAITING_USER_INPUT (approve) 200s, IN_PROGRESS 90s, AWAITING_USER_INPUT (sign) 200s, COMPLETED"
    )

    story = wait(
        run_id,
        user_input_timeout=300,
        on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]),
    )

    assert story.state == "success", story.error
    assert [run["currentStateName"] for run in asked] == ["approve", "sign"]


def test_a_callback_that_fails_does_not_end_the_wait(wait, simulator):
    asked = []

    def fail(context):
        asked.append(1)
        raise RuntimeError("no such channel")

    story = wait(
        simulator.create_run("AWAITING_USER_INPUT 100s, COMPLETED"),
        on_awaiting_user_input_callback=[fail, lambda context: asked.append(2)],
    )

    assert story.state == "success", story.error
    assert asked == [1, 2]
    assert any("on_awaiting_user_input_callback failed" in line for line in story.log)


@pytest.mark.parametrize("callback", [None, lambda context: None], ids=["alone", "with a callback"])
def test_user_input_may_not_take_for_ever(wait, simulator, clock, callback):
    run_id = simulator.create_run("IN_PROGRESS 100s, AWAITING_USER_INPUT (approve) until answered, COMPLETED")

    story = wait(run_id, user_input_timeout=timedelta(minutes=10), on_awaiting_user_input_callback=callback)

    assert (story.state, type(story.error)) == ("failed", AnonUserInputTimeoutError)
    assert "user_input_timeout is 10 min" in str(story.error)
    assert "approve" in str(story.error)
    assert 690 <= clock.passed < 740


def test_user_input_has_the_whole_time_though_the_api_says_that_it_asked_last_year(
    wait, mode, simulator, clock, monkeypatch
):
    if mode == "reschedule" and not AIRFLOW_V_3_3_PLUS:
        pytest.skip("this Airflow keeps nothing between two polls, so the API's word is all there is")
    payload = ScriptedRun.payload
    last_year = {"updatedAt": "2025-01-01T00:00:00Z"}
    monkeypatch.setattr(ScriptedRun, "payload", lambda self: payload(self) | last_year)
    run_id = simulator.create_run("IN_PROGRESS 100s, AWAITING_USER_INPUT until answered, COMPLETED")

    story = wait(run_id, user_input_timeout=600, on_awaiting_user_input_callback=lambda context: None)

    assert (story.state, type(story.error)) == ("failed", AnonUserInputTimeoutError)
    assert 660 <= clock.passed < 740


def test_the_pause_follows_exponential_backoff(wait, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS 3000s, COMPLETED")

    story = wait(run_id, poke_interval=10, exponential_backoff=True, max_wait=timedelta(minutes=10))

    assert story.state == "success", story.error
    # From a poll on, which the real clock has left behind by a little when a trigger begins to sleep.
    assert min(clock.slept) >= 9
    assert max(clock.slept) <= 600 * 1.05 + 1
    assert simulator.requests_for(run_id) < 15


def test_silent_fail_goes_on_after_an_error(wait, simulator):
    run_id = simulator.create_run("IN_PROGRESS 100s, COMPLETED")
    simulator.add_faults(f"{GOOD}, 410", run_id)

    story = wait(run_id, silent_fail=True)

    assert story.state == "success", story.error


def test_silent_fail_passes_over_no_failed_run(wait, simulator):
    story = wait(simulator.create_run("PENDING 40s, FAILED"), silent_fail=True)

    assert (story.state, type(story.error)) == ("failed", AnonWorkflowRunFailedError)


def test_never_fail_skips(wait, simulator):
    story = wait(simulator.create_run("PENDING 40s, FAILED"), never_fail=True)

    assert story.state == "skipped"


@pytest.mark.measured
@pytest.mark.parametrize("wrong", ["ended unknown", "gone", "no id"])
def test_never_fail_skips_though_silent_fail_ignored_what_went_wrong(wait, simulator, wrong):
    run_id = {
        "ended unknown": simulator.create_run("ENDED:CANCELLED"),
        "gone": "9a8b7c6d-5e4f-4031-9223-344556677889",
        "no id": "None",
    }[wrong]

    story = wait(run_id, never_fail=True, silent_fail=True, timeout=300)

    assert story.state == "skipped", story.error


def test_a_second_try_of_a_run_that_is_over_costs_one_request(wait, mode, simulator):
    run_id = simulator.create_run("COMPLETED")
    wait(run_id)

    story = wait(run_id)

    resumed = AIRFLOW_V_3_3_PLUS and mode == "from the trigger"
    assert (story.state, story.starts + story.triggers) == ("success", 2 if resumed else 1)
    assert simulator.requests_for(run_id) == 2


def test_changes_are_logged_and_not_polls(wait, simulator):
    run_id = simulator.create_run("PENDING 40s, IN_PROGRESS 2400s, COMPLETED")

    story = wait(run_id, poke_interval=60, timeout=36000)

    assert simulator.requests_for(run_id) > 38
    assert 1 <= sum("Still waiting" in line for line in story.log) <= 9
    assert len(story.log) <= 16
    beginning = re.compile(f"Waiting for (workflow run {run_id} of|2 workflow runs,)")
    assert sum(beginning.match(line) is not None for line in story.log) == 1


@pytest.mark.parametrize(
    ("script", "faults", "soft_fail"),
    [("IN_PROGRESS 24h, COMPLETED", "404 x999", False), ("ENDED:CANCELLED", "", True)],
)
def test_silent_fail_goes_on_until_the_time_is_over(wait, simulator, clock, script, faults, soft_fail):
    run_id = simulator.create_run(script)
    simulator.add_faults(f"{GOOD}, {faults}".rstrip(", "), run_id)

    story = wait(run_id, silent_fail=True, timeout=300, soft_fail=soft_fail)

    assert story.state == ("skipped" if soft_fail else "failed")
    assert isinstance(story.error, AirflowSkipException if soft_fail else AirflowSensorTimeout)
    assert 299 <= clock.passed < 400
    assert simulator.requests_for(run_id) < 30


def test_user_input_has_no_longer_than_that_though_the_interval_is_longer(wait, simulator, clock):
    run_id = simulator.create_run("IN_PROGRESS 900s, AWAITING_USER_INPUT 24h, COMPLETED")

    story = wait(
        run_id,
        poke_interval=1000,
        timeout=9000,
        user_input_timeout=300,
        on_awaiting_user_input_callback=lambda context: None,
    )

    assert type(story.error) is AnonUserInputTimeoutError
    assert 1150 <= clock.passed < 1300
