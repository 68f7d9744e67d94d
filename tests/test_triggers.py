"""The wait in the triggerer: one event, nothing left behind, and resumed as it should be."""

from __future__ import annotations

import asyncio
import json
import time
from importlib import import_module
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, TaskDeferred
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from airflow.triggers.base import TriggerEvent
from airflows_encoders import carried
from carry_out import TaskInstance, TaskInstance3, cancelled, carried_out, events_of, longest_block, until
from samples import RUN_ID

from airflow_anon import hooks
from airflow_anon.client import limiter
from airflow_anon.client.network import RELOAD_AT_MOST_EVERY
from airflow_anon.client.shared_client import CLIENTS
from airflow_anon.core import policy, polling
from airflow_anon.exceptions import AnonConfigurationError, AnonUnavailableError
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.simulator import Simulator
from airflow_anon.task import result
from airflow_anon.triggers import AnonWorkflowRunTrigger

pytestmark = [
    pytest.mark.usefixtures("cheap_collections"),
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def simulator(monkeypatch):
    monkeypatch.setattr(policy, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(polling, "FIRST_POLL_DELAYS", (0.01,))
    with Simulator(token="let-me-in") as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        yield simulator


SEEN_PENDING = [["0", "PENDING", None, None]]


def trigger_for(run_id, **arguments):
    return AnonWorkflowRunTrigger(**{"workflow_run_id": run_id, "poke_interval": 0.02, **arguments})


def outcome_of(event):
    return json.loads(json.dumps(event.payload))["outcome"]


# The wait


def test_a_wait_fires_one_event_and_only_at_its_end(simulator):
    run_id = simulator.create_run(
        "PENDING 2 polls, IN_PROGRESS 2 polls, AWAITING_USER_INPUT 1 polls, IN_PROGRESS 1 polls, COMPLETED"
    )

    events = carried_out(events_of(trigger_for(run_id)))

    assert [type(event) for event in events] == [TriggerEvent]
    assert outcome_of(events[0]) == "over"
    assert events[0].payload["runs"] == [simulator.run(run_id)]
    assert simulator.requests == 7


@pytest.mark.parametrize(
    ("script", "faults", "outcome"),
    [
        ("FAILED", None, "over"),
        ("ENDED:CANCELLED", None, "over"),
        ("COMPLETED", "410", "error"),
        ("COMPLETED", "401", "error"),
        ("COMPLETED", "503, reset, garbage", "over"),
    ],
)
def test_every_end_is_one_event_and_leaves_nothing(simulator, script, faults, outcome):
    run_id = simulator.create_run(script)
    if faults:
        simulator.add_faults(faults)

    events = carried_out(events_of(trigger_for(run_id)))

    assert [outcome_of(event) for event in events] == [outcome]


def test_an_event_that_is_never_followed_leaves_nothing(simulator):
    async def first_event():
        events = trigger_for(simulator.create_run("COMPLETED")).run()
        event = await anext(events)
        await events.aclose()
        return event

    assert outcome_of(carried_out(first_event())) == "over"


def test_a_wait_that_is_never_begun_leaves_nothing():
    async def never_begun():
        await trigger_for(RUN_ID).run().aclose()

    carried_out(never_begun())


def test_many_waits_look_the_connection_up_once(simulator, lookups, monkeypatch):
    # On a busy machine they stand in line for longer, which is no slow API that needs more connections.
    monkeypatch.setattr(limiter, "LONGEST_IN_QUEUE", 1000)
    run_ids = [simulator.create_run("PENDING 2 polls, COMPLETED") for _ in range(200)]

    async def main():
        return await asyncio.gather(*(events_of(trigger_for(run_id)) for run_id in run_ids))

    events = carried_out(main())

    assert {outcome_of(event) for (event,) in events} == {"over"}
    assert lookups == ["anon_default"]
    assert simulator.requests == 600
    assert simulator.connections <= 20


@pytest.mark.unmeasured
def test_a_thousand_waits_that_begin_at_once_do_not_block_the_loop(simulator):
    run_ids = [simulator.create_run("COMPLETED") for _ in range(1000)]

    async def main():
        await events_of(trigger_for(run_ids[0]))
        return await longest_block(asyncio.gather(*(events_of(trigger_for(run_id)) for run_id in run_ids)))

    assert carried_out(main()) < 0.5


def test_what_a_connection_says_is_read_without_blocking_the_loop(simulator, monkeypatch):
    real = hooks.get_async_connection

    def refuse(*_):
        raise AssertionError("this masks secrets, which blocks the loop")

    async def get_async_connection(conn_id, **options):
        connection = await real(conn_id, **options)
        monkeypatch.setattr(type(connection), "extra_dejson", property(refuse))
        monkeypatch.setattr(type(connection), "get_uri", refuse)
        return connection

    monkeypatch.setattr(hooks, "get_async_connection", get_async_connection)

    events = carried_out(events_of(trigger_for(simulator.create_run("COMPLETED"))))

    assert [outcome_of(event) for event in events] == ["over"]


# Moving house


@pytest.mark.parametrize("moment", ["connecting", "asking", "sleeping"])
def test_a_wait_that_is_cancelled_goes_on_elsewhere_and_only_ever_asks(simulator, lookups, moment, capfd):
    run_id = simulator.create_run("IN_PROGRESS 2 polls, COMPLETED")
    if moment == "asking":
        simulator.add_faults("slow 2s")
    path, kwargs = trigger_for(run_id, poke_interval=60.0 if moment == "sleeping" else 0.02).serialize()
    is_there = {
        "connecting": lambda: lookups,
        "asking": lambda: simulator.requests,
        "sleeping": lambda: simulator.requests,
    }[moment]

    async def begin():
        task = asyncio.create_task(events_of(AnonWorkflowRunTrigger(**kwargs)))
        await until(is_there)
        await asyncio.sleep(0.02)
        await cancelled(task)

    carried_out(begin())
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**{**json.loads(json.dumps(kwargs)), "poke_interval": 0.02})
    events = carried_out(events_of(again))

    assert [outcome_of(event) for event in events] == ["over"]
    assert simulator.requests <= 4
    assert not [line for line in capfd.readouterr().out.splitlines() if "[" not in line]


def test_a_cancelled_wait_harms_no_other(simulator):
    run_ids = [simulator.create_run("PENDING 3 polls, COMPLETED") for _ in range(30)]

    async def main():
        tasks = [asyncio.create_task(events_of(trigger_for(run_id))) for run_id in run_ids]
        for task in tasks[::2]:
            await asyncio.sleep(0.003)
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = carried_out(main())

    assert [outcome_of(result[0]) for result in results[1::2]] == ["over"] * 15


def test_what_an_old_triggerer_was_to_do_long_ago_is_done_at_once(api):
    simulator, clock = api
    run_id = simulator.create_run("COMPLETED")
    now = time.time()
    trigger = trigger_for(
        run_id, started_at=now - 9000, next_poll_at=now - 5000, seen_at=now - 5060, seen_as=SEEN_PENDING
    )

    events = carried_out(events_of(trigger))

    assert outcome_of(events[0]) == "over"
    assert clock.slept == []


def test_the_time_in_which_nobody_polled_is_no_outage(api):
    simulator, _ = api
    run_id = simulator.create_run("IN_PROGRESS 100s, COMPLETED")
    simulator.add_faults("503 x2", run_id)
    now = time.time()
    trigger = trigger_for(
        run_id,
        poke_interval=60.0,
        started_at=now - 9000,
        next_poll_at=now - 5000,
        seen_at=now - 5060,
        seen_as=SEEN_PENDING,
    )

    events = carried_out(events_of(trigger))

    assert outcome_of(events[0]) == "over"


ASKS_TWICE = "AWAITING_USER_INPUT 10m, IN_PROGRESS 5h, AWAITING_USER_INPUT 1h, COMPLETED"
ASKS_ON = "AWAITING_USER_INPUT 24h, COMPLETED"


@pytest.fixture(params=["one", "many"])
def wait_on(request, api):
    """Defer a wait for a run, and take it on later; return the event, and the worker's part."""
    simulator, clock = api

    def wait_on(script, later, **options):
        run_id = simulator.create_run(script)
        options = {
            "task_id": "wait",
            "deferrable": True,
            "timeout": 86400,
            "user_input_timeout": 4 * 3600,
            **options,
        }

        def sensor():
            if request.param == "one":
                return AnonWorkflowRunSensor(workflow_run_id=run_id, **options)
            return AnonWorkflowRunsSensor(workflow_run_ids=[run_id], **options)

        with pytest.raises(TaskDeferred) as deferred:
            sensor().execute(context_of(clock))
        path, kwargs = deferred.value.trigger.serialize()
        module, _, name = path.rpartition(".")
        clock.sleep(later)
        (event,) = carried_out(
            events_of(getattr(import_module(module), name)(**json.loads(json.dumps(kwargs))))
        )
        given = {"event": json.loads(json.dumps(event.payload))}
        return event, lambda: sensor().resume_execution("execute_complete", given, context_of(clock))

    return wait_on


@pytest.mark.parametrize("script", [ASKS_TWICE, ASKS_ON], ids=["another", "the same"])
def test_two_questions_of_which_nobody_saw_the_first_answered_count_as_one(wait_on, script):
    event, _ = wait_on(script, 5.5 * 3600)

    assert outcome_of(event) == "user_input_timeout"


@pytest.mark.parametrize("script", [ASKS_TWICE, ASKS_ON], ids=["another", "the same"])
def test_there_is_one_call_for_two_questions_of_which_nobody_saw_the_first_answered(wait_on, script):
    called = []

    event, resume = wait_on(
        script,
        5.5 * 3600,
        on_awaiting_user_input_callback=called.append,
        user_input_timeout=9 * 3600,
        timeout=9 * 3600,
    )
    if outcome_of(event) == "waiting":
        with pytest.raises(TaskDeferred):
            resume()

    assert len(called) == 1


@pytest.mark.parametrize("asks_for_input", [True, False])
def test_a_question_goes_along_only_if_somebody_is_to_know_of_it(api, asks_for_input):
    simulator, _ = api
    run_id = simulator.create_run("IN_PROGRESS 100s, AWAITING_USER_INPUT 24h, COMPLETED")
    trigger = trigger_for(run_id, poke_interval=60.0, timeout=600.0, asks_for_input=asks_for_input)

    (event,) = carried_out(events_of(trigger))

    assert outcome_of(event) == ("waiting" if asks_for_input else "timeout")
    assert ("asks_for_input" in event.payload["state"]["runs"][0][1]) is asks_for_input


def test_a_wait_polls_when_its_next_poll_is_due(api):
    simulator, clock = api
    now = time.time()

    carried_out(
        events_of(
            trigger_for(simulator.create_run("COMPLETED"), started_at=now, next_poll_at=now + 33, seen_at=now)
        )
    )

    assert clock.slept[0] == pytest.approx(33, abs=1)


def test_arguments_of_a_later_version_are_ignored_with_a_warning(simulator, caplog, capsys):
    trigger = trigger_for(simulator.create_run("COMPLETED"), colour="blue", size=7)

    told = caplog.text + capsys.readouterr().out
    assert "['colour', 'size']" in told
    assert "colour" not in trigger.serialize()[1]
    assert [outcome_of(event) for event in carried_out(events_of(trigger))] == ["over"]


def test_a_trigger_is_asked_to_tidy_up_in_vain(simulator):
    trigger = trigger_for(simulator.create_run("COMPLETED"))

    async def tidy_up():
        for name in ("cleanup", "on_kill"):
            if hasattr(trigger, name):
                await getattr(trigger, name)()

    carried_out(tidy_up())

    assert simulator.requests == 0
    assert RUN_ID not in repr(trigger) or simulator.token not in repr(trigger)


# What the triggerer cannot do


def test_a_connection_that_is_missing_in_the_triggerer_may_appear(simulator, monkeypatch):
    run_id = simulator.create_run("COMPLETED")
    monkeypatch.delenv("AIRFLOW_CONN_ANON_DEFAULT")

    async def main():
        waiting = asyncio.create_task(events_of(trigger_for(run_id)))
        await asyncio.sleep(0.05)
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        return await waiting

    assert [outcome_of(event) for event in carried_out(main())] == ["over"]


def test_a_connection_that_stays_missing_is_reported_as_the_triggerers_trouble(api, monkeypatch):
    _, clock = api
    monkeypatch.delenv("AIRFLOW_CONN_ANON_DEFAULT")
    now = time.time()
    trigger = trigger_for(RUN_ID, poke_interval=30.0, started_at=now, seen_at=now, outage_tolerance=300.0)

    (event,) = carried_out(events_of(trigger))

    error = event.payload["error"]
    assert error["kind"] == AnonUnavailableError.__name__
    assert "'anon_default'" in error["message"]
    assert "the triggerer" in error["message"]
    assert "unknown" in error["message"]
    assert error["retryable"] is True
    assert 290 <= clock.passed <= 400


def test_a_wait_that_begins_after_the_token_was_rotated_reads_the_connection_again(simulator, monkeypatch):
    old, new = simulator.create_run("IN_PROGRESS"), simulator.create_run("COMPLETED")

    async def main():
        before = asyncio.create_task(events_of(trigger_for(old, poke_interval=3600.0)))
        await until(lambda: simulator.requests_for(old))
        (client,) = CLIENTS[asyncio.get_running_loop()].values()
        client._reloaded_at -= RELOAD_AT_MOST_EVERY
        simulator.token = "rotated"
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        (event,) = await events_of(trigger_for(new))
        await cancelled(before)
        return event

    assert outcome_of(carried_out(main())) == "over"


def test_a_setting_that_makes_no_sense_ends_the_wait_at_once(api, monkeypatch):
    simulator, clock = api
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection(timeout=0))

    (event,) = carried_out(events_of(trigger_for(RUN_ID)))

    assert event.payload["error"]["kind"] == AnonConfigurationError.__name__
    assert event.payload["error"]["field"] == "timeout"
    assert (simulator.requests, clock.slept) == (0, [])


def test_a_fault_of_our_own_ends_its_own_wait_alone_and_is_reported_on_the_worker(api):
    simulator, clock = api

    def break_down(*_, **__):
        raise ZeroDivisionError("half of an emoji: \ud83d")

    run_id = simulator.create_run("COMPLETED")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("airflow_anon.core.polling.judge", break_down)
        (event,) = carried_out(events_of(trigger_for(run_id)))

    sensor = AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, deferrable=True)
    event = carried(event.payload)
    xcom = sensor.resume_execution("execute_complete", {"event": event}, context_of(clock))

    assert event["broke_off"] == "ZeroDivisionError"
    assert "half of an emoji: \ufffd" in event["traceback"][-1]
    assert xcom == simulator.run(run_id)


def taken_on(api, **options):
    trigger = trigger_for(api[0].create_run("COMPLETED"), **options)
    trigger.task_instance = SimpleNamespace(
        dag_id="dag", task_id="wait", run_id="manual", map_index=-1, try_number=1
    )
    return trigger


@pytest.mark.parametrize("ago", [0.0, 4.0, 30.0, -3600.0])
def test_an_event_is_held_back_until_the_scheduler_has_heard_of_the_deferral(api, ago):
    clock = api[1]
    trigger = taken_on(api, deferred_at=clock.time() - ago)
    before = clock.offset

    carried_out(events_of(trigger))

    assert clock.offset - before == pytest.approx(min(max(10 - ago, 0), 10), abs=1)


def test_an_event_of_a_wait_without_a_worker_is_not_held_back(api):
    clock = api[1]
    before = clock.offset

    carried_out(events_of(taken_on(api)))

    assert clock.offset == before


def test_an_id_that_cannot_be_encoded_ends_its_own_wait_alone():
    (event,) = carried_out(events_of(trigger_for("{{ params.id }} \ud83d")))

    assert carried(event.payload)["error"]["kind"] == "AnonInvalidIdError"


# After a trigger that broke off


def context_of(clock, started=0.0, **attributes):
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    instance = kind(clock, None, start_date=clock.utcnow())
    clock.sleep(started)
    return {"ti": instance, "task_instance": instance}


def resume_failed(context, run_id, error="Trigger timeout", **options):
    sensor = AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id=run_id, deferrable=True, timeout=600, **options
    )
    return sensor.resume_execution("__fail__", {"error": error, "traceback": None}, context)


@pytest.mark.parametrize("error", ["Trigger timeout", "Trigger failure"])
def test_a_run_that_ended_while_its_trigger_was_lost_passes(api, error):
    simulator, clock = api
    run_id = simulator.create_run("COMPLETED")

    assert resume_failed(context_of(clock, 700), run_id, error) == simulator.run(run_id)
    assert simulator.requests == 1


def test_a_run_that_failed_while_its_trigger_was_lost_fails(api):
    simulator, clock = api

    with pytest.raises(result.AnonWorkflowRunFailedError):
        resume_failed(context_of(clock, 700), simulator.create_run("FAILED"))


def test_a_wait_whose_trigger_did_not_run_in_time_has_timed_out(api):
    simulator, clock = api

    with pytest.raises(result.AnonWaitTimeoutError, match="timeout is 10 min"):
        resume_failed(context_of(clock, 700), simulator.create_run("PENDING"))


def test_a_wait_whose_trigger_did_not_run_in_time_is_skipped_with_soft_fail(api):
    simulator, clock = api
    sensor = AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id=simulator.create_run("PENDING"),
        timeout=600,
        soft_fail=True,
    )
    context = context_of(clock, 700)

    with pytest.raises(AirflowSkipException):
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, context)


@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_trigger_that_broke_down_is_an_error_that_nothing_hides(api, soft_fail):
    simulator, clock = api

    with pytest.raises(AnonUnavailableError, match="broke off in the triggerer") as caught:
        resume_failed(
            context_of(clock, 60), simulator.create_run("PENDING"), "Trigger failure", soft_fail=soft_fail
        )

    assert caught.value.retryable
    assert caught.value.last_status == "PENDING"


def test_a_trigger_that_broke_down_during_an_outage_is_logged_without_delay(api):
    simulator, clock = api
    simulator.start_outage("503")
    context = context_of(clock, 60)
    before = clock.offset

    with pytest.raises(AnonUnavailableError):
        resume_failed(context, RUN_ID, "Trigger failure")

    assert clock.offset - before < 1
