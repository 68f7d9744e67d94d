"""What arrives at a StatsD server of whole waits: each is counted once, whatever ways it goes."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout, Stats
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS
from carry_out import MODES, carry_out
from samples import NOW, no_response, payload, response
from statsd_server import start_stats, statsd

from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import AnonError, AnonUnavailableError
from airflow_anon.hooks import AnonHook
from airflow_anon.runs import WorkflowRun, WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.task import metrics
from airflow_anon.task.metrics import PollCounter, WaitMetrics, poll_counter
from airflow_anon.triggers import AnonWorkflowRunTrigger

DOCS = Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text(encoding="utf-8")
UNDER_WAY = "PENDING 40s, IN_PROGRESS 100s"
GOOD = "slow 0s"
INTERVAL = 30


@pytest.fixture
def server():
    with pytest.MonkeyPatch.context() as patch, statsd(patch, statsd_on="True") as server:
        yield server


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def wait(mode, clock):
    def wait(run_id, **options):
        options = {"poke_interval": INTERVAL, "timeout": 3600, **MODES[mode], **options}
        return carry_out(
            lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, **options), clock
        )

    return wait


def counted(outcome, polls, **others):
    return {"anon.wait.started": 1, f"anon.wait.ended.{outcome}": 1, "anon.polls": polls, **others}


def forgets(mode):
    return mode == "reschedule" and not AIRFLOW_V_3_3_PLUS


@pytest.mark.parametrize("before", ["", f"{UNDER_WAY}, "], ids=["already over", "over later"])
@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("COMPLETED", "completed"),
        ("COMPLETED_WITH_NO_ACTION_TAKEN", "completed_with_no_action_taken"),
        ("FAILED", "failed"),
        ("ENDED:CANCELLED", "unknown_status"),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"soft_fail": True, "skip_on_no_action": True}], ids=["hard", "soft"]
)
def test_a_wait_is_counted_once_by_how_its_run_ended(wait, simulator, server, before, end, outcome, options):
    run_id = simulator.create_run(f"{before}{end}")

    wait(run_id, **options)

    assert server.counters == counted(outcome, simulator.requests_for(run_id))


def test_a_wait_tells_what_it_took(wait, mode, simulator, server):
    run_id = simulator.create_run("PENDING 200s, IN_PROGRESS 400s, COMPLETED")

    wait(run_id)

    timings = server.timings
    assert timings.pop("anon.wait.duration") == [pytest.approx(600, abs=1.2 * INTERVAL)]
    if not forgets(mode):
        assert timings.pop("anon.run.queued_duration") == [pytest.approx(200, abs=1)]
    assert timings == {}


def test_the_queue_time_of_a_run_that_was_not_seen_queued_is_not_counted(wait, simulator, server):
    run_id = simulator.create_run(
        "PENDING 1 polls, AWAITING_USER_INPUT 1 polls, IN_PROGRESS 1 polls, COMPLETED"
    )

    wait(run_id)

    assert "anon.run.queued_duration" not in server.timings


def test_the_time_of_all_user_input_is_counted_together(wait, mode, simulator, server):
    asked = []
    run_id = simulator.create_run(
        "IN_PROGRESS 100s, AWAITING_USER_INPUT 300s, IN_PROGRESS 100s, AWAITING_USER_INPUT 600s, COMPLETED"
    )

    story = wait(run_id, on_awaiting_user_input_callback=asked.append)

    assert story.state == "success", story.error
    assert len(asked) == 2
    assert server.counters == counted("completed", simulator.requests_for(run_id))
    if not forgets(mode):
        assert server.timings["anon.wait.user_input_duration"] == [pytest.approx(900, abs=3 * INTERVAL)]
    assert server.timings["anon.wait.duration"] == [pytest.approx(1100, abs=3 * INTERVAL)]


def test_a_timeout_is_counted_as_one(wait, simulator, server):
    run_id = simulator.create_run("IN_PROGRESS")

    wait(run_id, timeout=600)

    assert server.counters == counted("timeout", simulator.requests_for(run_id))
    assert server.timings["anon.wait.duration"] == [pytest.approx(600, abs=1)]


def test_user_input_that_takes_too_long_is_counted_as_such(wait, simulator, server):
    run_id = simulator.create_run("AWAITING_USER_INPUT until answered, COMPLETED")

    wait(run_id, user_input_timeout=300, soft_fail=True)

    assert server.counters == counted("user_input_timeout", simulator.requests_for(run_id))


def test_lost_contact_is_counted_with_every_poll_that_failed(wait, simulator, server):
    run_id = simulator.create_run("IN_PROGRESS")
    simulator.add_faults(f"{GOOD}, 503 x200", run_id)

    wait(run_id, outage_tolerance=300)

    assert server.counters == counted("lost_contact", simulator.requests_for(run_id))


@pytest.mark.parametrize("options", [{}, {"never_fail": True}], ids=["plain", "never_fail"])
def test_a_refused_credential_is_an_error(wait, simulator, server, options):
    run_id = simulator.create_run("COMPLETED")
    simulator.add_faults("401 x5", run_id)

    wait(run_id, **options)

    assert server.counters == counted("error", simulator.requests_for(run_id))


def test_polls_that_the_api_turned_away_are_counted_apart(wait, simulator, server):
    run_id = simulator.create_run("IN_PROGRESS 1 polls, COMPLETED")
    simulator.add_faults(f"{GOOD}, 429, 503, 503 retry-after=20, {GOOD}", run_id)

    story = wait(run_id)

    assert story.state == "success", story.error
    assert server.counters == counted(
        "completed", simulator.requests_for(run_id), **{"anon.polls_throttled": 2}
    )


def test_an_id_that_is_none_starts_no_wait(mode, clock, server):
    if "start_from_trigger" in MODES[mode]:
        pytest.skip("the triggerer learns of it during the wait")
    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id="7", **MODES[mode]), clock
    )

    assert story.state == "up_for_retry"
    assert server.counters == {}


def test_an_error_that_silent_fail_passes_over_ends_no_wait(simulator, clock, server):
    run_id = simulator.create_run("COMPLETED")
    simulator.add_faults("401 x3", run_id)

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, silent_fail=True), clock
    )

    assert story.state == "success", story.error
    assert server.counters == counted("completed", 4)


def test_a_subclass_that_polls_for_itself_is_no_wait_of_ours(clock, server):
    class Sensor(AnonWorkflowRunSensor):
        def poke(self, context):
            return True

    story = carry_out(lambda: Sensor(task_id="wait", workflow_run_id="an id of its own"), clock)

    assert story.state == "success"
    assert server.counters == {}


# What a triggerer does


async def first_event(trigger):
    return await trigger.run().__anext__()


async def broken_off(trigger, clock, seconds):
    """Let a triggerer die *seconds* after it started a trigger."""
    ends_at = clock.time() + seconds
    task = asyncio.create_task(first_event(trigger))
    while clock.time() < ends_at:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_triggerer_that_dies_counts_neither_start_nor_end_again(simulator, clock, server):
    run_id = simulator.create_run("PENDING 200s, IN_PROGRESS 400s, COMPLETED")

    def taken_on():
        trigger = AnonWorkflowRunTrigger(
            workflow_run_id=run_id,
            poke_interval=INTERVAL,
            end_from_trigger=AIRFLOW_V_3_3_PLUS,
            do_xcom_push=False,
        )
        trigger.task_instance = SimpleNamespace(task_id="wait")
        return trigger

    asyncio.run(broken_off(taken_on(), clock, 100))
    before = server.counters
    asyncio.run(first_event(taken_on()))

    assert before.keys() == {"anon.polls"}
    ended = {"anon.wait.ended.completed": 1} if AIRFLOW_V_3_3_PLUS else {}
    counters = dict(server.counters)
    polls = counters.pop("anon.polls")
    assert simulator.requests_for(run_id) - polls in (0, 1)  # one may have been under way at the time
    assert counters == {"anon.wait.started": 1, **ended}


def test_a_trigger_of_a_wait_that_a_worker_started_counts_no_start(simulator, clock, server):
    run_id = simulator.create_run("COMPLETED")

    asyncio.run(first_event(AnonWorkflowRunTrigger(workflow_run_id=run_id, started_at=clock.time())))

    assert server.counters == {"anon.polls": 1}


@pytest.mark.parametrize(("next_poll_in", "told"), [(INTERVAL, True), (-600, False)])
def test_a_trigger_that_missed_polls_does_not_guess_the_queue_time(
    simulator, clock, server, next_poll_in, told
):
    run_id = simulator.create_run("PENDING 10s, IN_PROGRESS 900s, COMPLETED")
    now = clock.time()
    trigger = AnonWorkflowRunTrigger(
        workflow_run_id=run_id,
        started_at=now - 700,
        seen_at=now - 700,
        seen_as=[["0", "PENDING", None, None, now - 700]],
        next_poll_at=now + next_poll_in,
        poke_interval=INTERVAL,
    )
    if not told:
        clock.sleep(20)

    payload = asyncio.run(first_event(trigger)).payload

    assert ("queued_seconds" in payload["state"]["runs"][0][1]) == told


def test_a_broken_trigger_is_lost_contact(simulator, clock, server):
    run_id = simulator.create_run("IN_PROGRESS")
    sensor = AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, deferrable=True)

    class Instance:
        map_index, start_date = -1, clock.utcnow() - timedelta(minutes=2)

    with pytest.raises(AnonUnavailableError):
        sensor.resume_execution("__fail__", {"error": "Trigger failure"}, {"ti": Instance()})

    assert server.counters == {"anon.wait.ended.lost_contact": 1, "anon.polls": 1}
    assert server.timings["anon.wait.duration"] == [pytest.approx(120, abs=1)]


def test_an_event_that_is_not_understood_ends_the_wait_all_the_same(simulator, server):
    sensor = AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id=simulator.create_run("COMPLETED"), deferrable=True
    )

    with pytest.raises(AnonError):
        sensor.resume_execution("execute_complete", {"event": {"status": "success"}}, {})

    assert server.counters == {"anon.wait.ended.error": 1}
    assert server.timings == {}


# Hooks


@pytest.fixture(params=["blocking", "asyncio"])
def wait_with_hook(request, clock):
    if request.param == "blocking":
        return lambda run_id, **options: AnonHook().wait_for_workflow_run(run_id, **options)
    return lambda run_id, **options: asyncio.run(AnonHook().await_workflow_run(run_id, **options))


def test_the_wait_of_a_hook_is_counted_as_a_sensors(wait_with_hook, simulator, server):
    run_id = simulator.create_run(f"{UNDER_WAY}, COMPLETED")

    wait_with_hook(run_id, poke_interval=INTERVAL)

    assert server.counters == counted("completed", simulator.requests_for(run_id))
    assert server.timings["anon.wait.duration"] == [pytest.approx(140, abs=1.2 * INTERVAL)]
    assert server.timings["anon.run.queued_duration"] == [pytest.approx(40, abs=1)]


def test_a_wait_of_a_hook_that_fails_says_why(wait_with_hook, simulator, server):
    run_id = simulator.create_run("IN_PROGRESS")
    simulator.add_faults(f"{GOOD}, 503 x200", run_id)

    with pytest.raises(AnonUnavailableError):
        wait_with_hook(run_id, poke_interval=INTERVAL)

    assert server.counters == counted("lost_contact", simulator.requests_for(run_id))


def test_polls_without_a_wait_are_counted_too(simulator, clock, server):
    run_ids = [simulator.create_run("IN_PROGRESS") for _ in range(3)]

    async def poll_all():
        hook = AnonHook()
        await asyncio.gather(*map(hook.aget_workflow_run, run_ids))

    with AnonHook() as hook:
        for run_id in run_ids:
            hook.get_workflow_run(run_id)
    by_then = server.counters
    asyncio.run(poll_all())

    assert by_then == {"anon.polls": 3}
    assert server.counters == {"anon.polls": 6}


# What is not seen by whole waits


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (AirflowTaskTimeout("execution_timeout"), "execution_timeout"),
        (KeyboardInterrupt(), "interrupted"),
        (asyncio.CancelledError(), "interrupted"),
        (RuntimeError("a bug"), "error"),
        (AirflowSkipException("by a subclass"), "error"),
    ],
)
def test_what_cuts_a_wait_short_has_a_name(server, error, outcome):
    with (
        pytest.raises(type(error)),
        WaitMetrics("anon_default", WaitGroup(WaitPolicy(started_at=NOW))).to_its_end(),
    ):
        raise error

    assert server.counters == {f"anon.wait.ended.{outcome}": 1}


def test_thousands_of_polls_are_counted_in_few_packets(server):
    counter = PollCounter("anon_default")

    for _ in range(5000):
        counter.observe(response(200, payload()))
        counter.observe(no_response())
    counter.flush()

    assert server.counters == {"anon.polls": 10_000}
    assert server.packets <= 3


def test_a_page_that_is_missing_is_not_throttled(server):
    counter = PollCounter("anon_default")

    counter.observe(response(404, headers={"Retry-After": "5"}))

    assert server.counters == {"anon.polls": 1}


def test_the_connection_is_the_one_tag(monkeypatch, simulator, clock):
    with (
        pytest.MonkeyPatch.context() as patch,
        statsd(patch, statsd_on="True", statsd_influxdb_enabled="True") as server,
    ):
        AnonHook().wait_for_workflow_run(simulator.create_run("COMPLETED"))

        assert {name.partition(",")[2] for name in server.counters} == {"anon_conn_id=anon_default"}


def test_nothing_is_counted_while_metrics_are_off(wait, simulator, monkeypatch):
    monkeypatch.setattr(Stats, "incr", None)
    monkeypatch.setattr(Stats, "timing", None)
    run_id = simulator.create_run(f"{UNDER_WAY}, COMPLETED")
    start_stats()

    story = wait(run_id)

    assert story.state == "success", story.error
    assert poll_counter("anon_default") is None


@pytest.mark.parametrize("switch", metrics.SWITCHES)
def test_any_of_airflows_switches_turns_them_on(monkeypatch, switch):
    monkeypatch.setenv(f"AIRFLOW__METRICS__{switch.upper()}", "True")
    metrics.are_on.cache_clear()
    try:
        assert isinstance(poll_counter("anon_default"), PollCounter)
    finally:
        metrics.are_on.cache_clear()


# Documentation


def documented():
    return set(re.findall(r"^\| `([\w.<>]+)`", DOCS, re.MULTILINE))


def test_every_name_is_documented():
    names = {
        value for value in vars(metrics).values() if isinstance(value, str) and value.startswith("anon.")
    }
    names = names - {metrics.ENDED} | {f"{metrics.ENDED}.<outcome>"}

    assert {name for name in documented() if name.startswith("anon.")} == names


def test_every_outcome_is_documented():
    statuses = {
        metrics.outcome_of(
            None, PollResult(Outcome.OVER, NOW, WorkflowRun.from_payload(payload(status.value)))
        )
        for status in WorkflowRunStatus
        if WorkflowRun.from_payload(payload(status.value)).is_over
    }
    limits = {outcome.value for outcome in Outcome} - {Outcome.WAITING.value, Outcome.OVER.value}
    names = statuses | limits | {name for _, name in metrics.OUTCOMES} | {"unknown_status", "interrupted"}

    assert {name for name in documented() if "." not in name} == names
