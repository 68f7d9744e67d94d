"""The sensor for many runs: what it does beyond the table of outcomes, which test_waiting walks with it."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import socket
from collections import UserList
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, BaseHook, TaskDeferred, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from carry_out import (
    MODES,
    TaskInstance,
    TaskInstance3,
    cancelled,
    carried_out,
    carry_out,
    events_of,
    until,
    waits_here,
)

from airflow_anon.client.aiohttp_client import AsyncClient
from airflow_anon.core import group_codec
from airflow_anon.core.codec import TriggerArgs
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.exceptions import (
    AnonInvalidIdError,
    AnonNotFoundError,
    AnonProtocolError,
    AnonUnavailableError,
    AnonUnknownStatusError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.runs import WorkflowRun
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.task import result
from airflow_anon.triggers import AnonWorkflowRunsTrigger

pytestmark = [
    pytest.mark.usefixtures("cheap_collections"),
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]
ID = "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
ONE_ID = r"[0-9a-f]{8}-[0-9a-f-]{27}"
OTHER_ID = "9a8b7c6d-5e4f-4031-9223-344556677889"


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def wait_as(clock):
    def wait_as(mode, ids, **options):
        options = {"task_id": "wait", "poke_interval": 30, "timeout": 3600, **MODES[mode], **options}
        return carry_out(lambda: AnonWorkflowRunsSensor(workflow_run_ids=ids, **options), clock)

    return wait_as


@pytest.fixture
def wait(wait_as, mode):
    return lambda ids, **options: wait_as(mode, ids, **options)


@contextmanager
def naps():
    """Let time be what it is, and keep what sleeps have begun."""
    begun = []

    async def coalesced_sleep(seconds):
        begun.append(seconds)
        await asyncio.sleep(seconds)

    with mock.patch("airflow_anon.client.aiohttp_client.coalesced_sleep", coalesced_sleep):
        yield begun


def created(simulator, *scripts):
    return [simulator.create_run(script) for script in scripts]


# What passes


def test_the_runs_are_handed_on_in_the_order_of_the_ids(wait, simulator):
    ids = created(simulator, "PENDING 200s, COMPLETED", "COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN")

    story = wait(ids)

    assert story.state == "success", story.error
    assert story.xcom == [simulator.run(run_id) for run_id in ids]


def test_an_id_that_is_given_twice_is_polled_once_and_handed_on_twice(wait_as, simulator):
    first, second = created(simulator, "COMPLETED", "COMPLETED")

    story = wait_as("poke", [first, second, f" {first.upper()} "])

    assert [run["id"] for run in story.xcom] == [first, second, first]
    assert (simulator.requests_for(first), simulator.requests) == (1, 2)


def test_no_ids_pass_at_once_without_a_request(wait, simulator, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_ANON_DEFAULT")

    story = wait([], skip_on_no_action=True)

    assert (story.state, story.xcom) == ("success", []), story.error
    assert simulator.requests == 0


def test_it_is_skipped_only_if_no_run_took_action(wait, simulator):
    idle = created(simulator, "COMPLETED_WITH_NO_ACTION_TAKEN", "PENDING 50s, COMPLETED_WITH_NO_ACTION_TAKEN")
    busy = created(simulator, "COMPLETED")

    assert wait(idle, skip_on_no_action=True).state == "skipped"
    assert wait([*idle, *busy], skip_on_no_action=True).state == "success"


@pytest.mark.unmeasured
def test_hundreds_of_runs_with_ends_of_all_kinds(wait, simulator):
    chance = random.Random(1)
    ends = ["COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN", "FAILED"]
    scripts = [f"PENDING {chance.randint(0, 200)}s, {chance.choice(ends)}" for _ in range(300)]
    ids = created(simulator, *scripts)

    story = wait(ids, fail_fast=False)

    failed = [run_id for run_id, script in zip(ids, scripts, strict=True) if script.endswith("FAILED")]
    assert type(story.error) is AnonWorkflowRunFailedError
    assert [run.id for run in story.error.runs] == failed
    assert f"{len(failed)} of 300 workflow runs did not end well" in str(story.error)
    assert f"And {len(failed) - 10} more." in str(story.error)
    assert len(str(story.error)) < 4000


# What fails


def test_the_first_failure_ends_the_wait(wait, simulator, clock):
    ids = created(simulator, "PENDING 3000s, COMPLETED", "PENDING 100s, FAILED (post_invoice)", "COMPLETED")

    story = wait(ids)

    assert (story.state, type(story.error)) == ("failed", AnonWorkflowRunFailedError)
    assert [run.id for run in story.error.runs] == [ids[1]]
    assert story.error.run.id == story.error.workflow_run_id == ids[1]
    assert "1 of 3 workflow runs did not end well" in str(story.error)
    assert "post_invoice" in str(story.error)
    assert "as fail_fast asks" in str(story.error)
    assert 100 <= clock.passed < 160


def test_without_fail_fast_all_failures_are_named_at_the_end(wait, simulator, clock):
    ids = created(simulator, "PENDING 600s, COMPLETED", "PENDING 100s, FAILED (a)", "FAILED (b)", "COMPLETED")

    story = wait(ids, fail_fast=False)

    assert (story.state, type(story.error)) == ("failed", AnonWorkflowRunFailedError)
    assert [run.id for run in story.error.runs] == ids[1:3]
    assert all(fact in str(story.error) for fact in ("2 of 4", ids[1], ids[2], "'a'", "'b'"))
    assert 600 <= clock.passed < 680


def test_a_failure_is_skipped_with_soft_fail_but_an_unknown_end_is_not(wait, simulator):
    ids = created(simulator, "FAILED", "PENDING 50s, ENDED:CANCELLED")

    assert wait(ids[:1], soft_fail=True).state == "skipped"
    story = wait(ids, fail_fast=False, soft_fail=True)
    assert type(story.error) is AnonUnknownStatusError
    assert all(fact in str(story.error) for fact in (ids[0], ids[1], "CANCELLED"))
    assert (story.error.workflow_run_id, story.error.last_status) == (ids[1], "CANCELLED")


def test_a_timeout_says_how_many_are_not_over_and_names_them(wait, simulator, clock):
    ids = created(
        simulator, "COMPLETED", "IN_PROGRESS (sign) 24h, COMPLETED", "FAILED", "PENDING 24h, COMPLETED"
    )

    story = wait(ids, fail_fast=False, timeout=600)

    assert (story.state, type(story.error)) == ("failed", AnonWaitTimeoutError)
    assert "2 of 4 workflow runs not over after 10 min" in str(story.error)
    assert all(fact in str(story.error) for fact in (ids[1], ids[3], "sign", "PENDING", ids[2], "FAILED"))
    assert ids[0] not in str(story.error)
    assert (story.error.workflow_run_id, story.error.last_status) == (ids[1], "IN_PROGRESS")
    assert 599 <= clock.passed < 610


def test_a_run_that_is_gone_ends_the_wait_for_all_and_is_named(wait, simulator):
    ids = created(simulator, "PENDING 24h, COMPLETED", "PENDING 24h, COMPLETED")
    simulator.add_faults("slow 0s, 404, 404", ids[1])

    story = wait(ids, fail_fast=False)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonNotFoundError)
    assert story.error.workflow_run_id == ids[1]


def test_trouble_with_one_run_alone_is_waited_out_like_any(wait, simulator):
    ids = created(simulator, "PENDING 300s, COMPLETED", "PENDING 300s, COMPLETED", "PENDING 90s, COMPLETED")
    simulator.add_faults("slow 0s, 503, 429 retry-after=77, garbage", ids[1])

    story = wait(ids)

    assert story.state == "success", story.error


def test_contact_lost_with_one_run_alone_is_named(wait, simulator):
    ids = created(simulator, "PENDING 24h, COMPLETED", "PENDING 24h, COMPLETED")
    simulator.add_faults("slow 0s, 503 x200", ids[1])

    story = wait(ids, outage_tolerance=300)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonUnavailableError)
    assert story.error.workflow_run_id == ids[1]


# People


def test_each_run_that_asks_a_person_is_called_back_for_once(wait, simulator):
    asked = []
    ids = created(
        simulator,
        "AWAITING_USER_INPUT (a) 100s, IN_PROGRESS 90s, AWAITING_USER_INPUT (b) 100s, COMPLETED",
        "PENDING 600s, COMPLETED",
        "PENDING 50s, AWAITING_USER_INPUT (c) 400s, COMPLETED",
        "PENDING 50s, AWAITING_USER_INPUT (d) 400s, COMPLETED",
    )

    story = wait(ids, on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]))

    assert story.state == "success", story.error
    assert sorted((run["id"], run["currentStateName"]) for run in asked) == sorted(
        [(ids[0], "a"), (ids[0], "b"), (ids[2], "c"), (ids[3], "d")]
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize("other", ["gone", "ended unknown"])
def test_a_person_is_asked_once_though_another_run_is_in_error(wait, simulator, other):
    asked = []
    (run_id,) = created(simulator, "AWAITING_USER_INPUT 24h, COMPLETED")
    other_id = OTHER_ID if other == "gone" else created(simulator, "ENDED:CANCELLED")[0]

    story = wait(
        [run_id, other_id],
        silent_fail=True,
        timeout=1000,
        on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]["id"]),
    )

    assert story.state == "failed"
    assert asked == [run_id]


def test_a_person_who_is_asked_while_the_trigger_gives_up_is_asked_once(wait_as, simulator):
    asked = []
    ids = created(simulator, "IN_PROGRESS 400s, AWAITING_USER_INPUT", "IN_PROGRESS")
    simulator.add_faults("slow 0s, 503 x200", ids[1])

    story = wait_as(
        "deferred",
        ids,
        silent_fail=True,
        timeout=2000,
        outage_tolerance=300,
        poke_interval=500,
        on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]["id"]),
    )

    assert story.state == "failed"
    assert asked == ids[:1]


@pytest.mark.parametrize("keeps", [True, False], ids=["with a store", "without"])
@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferred"], indirect=True)
def test_it_is_called_back_for_a_run_though_another_errs_in_each_round(simulator, clock, mode, keeps):
    asked = []
    (run_id,) = created(simulator, "AWAITING_USER_INPUT until answered, COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunsSensor(
            task_id="wait",
            workflow_run_ids=[run_id, OTHER_ID],
            silent_fail=True,
            timeout=1000,
            on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]["id"]),
            **MODES[mode],
        ),
        clock,
        keeps=keeps,
    )

    assert (story.state, asked) == ("failed", [run_id])


def test_it_is_called_back_on_a_worker_though_another_run_errs_there(simulator, clock):
    asked = []
    ids = created(simulator, "IN_PROGRESS 100s, AWAITING_USER_INPUT until answered, COMPLETED", "PENDING")

    def sensor():
        return sensor_for(ids, silent_fail=True, on_awaiting_user_input_callback=lambda _: asked.append(1))

    deferral = deferral_of(sensor(), clock)
    (event,) = carried_out(events_of(taken_on(deferral)))
    simulator.add_faults("410", ids[1])
    with pytest.raises(TaskDeferred) as deferred:
        resume(sensor(), clock, json.loads(json.dumps(event.payload)), **deferral.kwargs)

    assert event.payload["asks_for_input"] == ids[:1]
    assert asked == [1]
    assert deferred.value.trigger.seen_as[0][1] == "AWAITING_USER_INPUT"


@pytest.mark.parametrize("callback", [None, lambda context: None], ids=["alone", "with a callback"])
def test_a_person_who_takes_too_long_ends_the_wait_for_all(wait, simulator, clock, callback):
    ids = created(
        simulator,
        "PENDING 24h, COMPLETED",
        "AWAITING_USER_INPUT (early) 500s, COMPLETED",
        "IN_PROGRESS 100s, AWAITING_USER_INPUT (approve) until answered, COMPLETED",
    )

    story = wait(ids, fail_fast=False, user_input_timeout=600, on_awaiting_user_input_callback=callback)

    assert (story.state, type(story.error)) == ("failed", AnonUserInputTimeoutError)
    assert ids[2] in str(story.error)
    assert "user_input_timeout is 10 min" in str(story.error)
    assert 690 <= clock.passed < 740


def test_a_person_has_no_longer_than_that_however_long_the_interval(wait, simulator, clock):
    ids = created(simulator, "PENDING 24h, COMPLETED", "AWAITING_USER_INPUT until answered, COMPLETED")

    story = wait(
        ids, user_input_timeout=100, poke_interval=900, on_awaiting_user_input_callback=lambda context: None
    )

    assert type(story.error) is AnonUserInputTimeoutError
    assert clock.offset < 130


# The ids


@pytest.mark.parametrize(
    "write",
    [
        list,
        tuple,
        json.dumps,
        str,
        lambda ids: f"\n {json.dumps(ids)} ",
        lambda ids: str(tuple(ids)),
        UserList,
    ],
    ids=["list", "tuple", "JSON", "as Jinja writes it", "blanks", "tuple as text", "sequence"],
)
def test_ids_may_be_a_list_or_the_text_of_one(wait_as, simulator, write):
    ids = created(simulator, "COMPLETED", "COMPLETED")

    story = wait_as("poke", write(ids))

    assert [run["id"] for run in story.xcom or []] == ids, story.error


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (ID, "write it in brackets, or use AnonWorkflowRunSensor"),
        (f"'{ID}'", "Give it a list"),
        (f"{ID}, {OTHER_ID}", "Give it a list"),
        (None, "Give it a list"),
        ("None", "Give it a list"),
        ("", "Give it a list"),
        ("[" * 100_000, "Give it a list"),
        (7, "Give it a list"),
        (b"[]", "Give it a list"),
        ({"a": 1}, "Give it a list"),
        ({ID}, "Give it a list"),
        ("{{ unrendered }}", "Give it a list"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_list_is_refused_with_advice(wait, simulator, value, advice):
    story = wait(value, soft_fail=True)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonInvalidIdError)
    assert str(story.error).startswith("workflow_run_ids must be a list of ids, not ")
    assert advice in str(story.error)
    assert len(str(story.error)) < 500
    assert simulator.requests == 0


@pytest.mark.parametrize("bad", ["", "3f0c7a52", None, 7, [ID]])
def test_an_id_that_is_none_fails_before_any_request_and_says_which(wait, simulator, bad):
    story = wait([*created(simulator, "COMPLETED", "FAILED"), bad])

    assert type(story.error) is AnonInvalidIdError
    assert f"workflow_run_ids[2] {bad!r} is not the id" in str(story.error)
    assert simulator.requests == 0


def test_the_output_of_a_task_as_ids_makes_that_task_an_upstream():
    with DAG("d", schedule=None):

        @task
        def start():
            return []

        sensor = AnonWorkflowRunsSensor(task_id="t", workflow_run_ids=start())

    assert sensor.upstream_task_ids == {"start"}


def test_lists_of_ids_can_be_mapped():
    with DAG("d", schedule=None):
        mapped = AnonWorkflowRunsSensor.partial(task_id="t", fail_fast=False).expand(
            workflow_run_ids=[[ID], [OTHER_ID]]
        )

    assert mapped.operator_class is AnonWorkflowRunsSensor


def test_parsing_does_no_io(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("I/O while a DAG is parsed")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(BaseHook, "get_connection", refuse)

    for number in range(100):
        AnonWorkflowRunsSensor(task_id=f"t{number}", workflow_run_ids=7, anon_conn_id="nowhere")


def test_templates_within_a_list_are_rendered():
    with DAG("d", schedule=None):
        sensor = AnonWorkflowRunsSensor(
            task_id="t", workflow_run_ids=["{{ a }}", "{{ b }}"], anon_conn_id="{{ env }}_anon"
        )

    sensor.render_template_fields({"a": "x", "b": "y", "env": "prod"})

    assert (sensor.workflow_run_ids, sensor.anon_conn_id) == (["x", "y"], "prod_anon")


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later can start a task in the triggerer")
@pytest.mark.parametrize(
    ("ids", "starts"),
    [
        ([ID, OTHER_ID], True),
        ((ID,), True),
        ([], True),
        (["{{ params.id }}", ID], True),
        ("{{ params.ids }}", True),
        (["{{ ti.xcom_pull(task_ids='x') }}"], False),
        ([7], False),
        ("{{ ti.xcom_pull(task_ids='x') }}", False),
    ],
)
def test_it_starts_in_the_triggerer_where_that_can_render_the_ids(ids, starts):
    sensor = AnonWorkflowRunsSensor(task_id="t", workflow_run_ids=ids, start_from_trigger=True)

    assert sensor.start_from_trigger is starts
    if starts:
        stored = sensor.start_trigger_args.trigger_kwargs["workflow_run_ids"]
        assert stored == (ids if isinstance(ids, str) else list(ids))


# What it costs


def test_runs_that_were_over_are_not_asked_for_again_until_the_end(wait_as, simulator):
    ids = created(simulator, "COMPLETED", "PENDING 3000s, COMPLETED")

    story = wait_as("deferred", ids)

    assert story.state == "success", story.error
    assert (story.starts, story.triggers) == (2, 1)
    assert simulator.requests_for(ids[0]) == 2
    assert simulator.requests_for(ids[1]) > 90


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="a rescheduled sensor remembers on Airflow 3.3 and later")
def test_a_rescheduled_sensor_asks_only_for_what_is_not_over(wait_as, simulator):
    ids = created(simulator, "COMPLETED", "PENDING 600s, COMPLETED")

    story = wait_as("reschedule", ids)

    assert story.state == "success", story.error
    assert simulator.requests_for(ids[0]) == 2
    assert 19 <= simulator.requests_for(ids[1]) <= 22


def test_a_rescheduled_sensor_that_remembers_nothing_polls_all(simulator, clock):
    ids = created(simulator, "COMPLETED", "PENDING 300s, COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunsSensor(
            task_id="wait", workflow_run_ids=ids, mode="reschedule", poke_interval=60, timeout=3600
        ),
        clock,
        keeps=False,
    )

    assert story.state == "success", story.error
    assert simulator.requests_for(ids[0]) == story.starts


def test_in_silence_at_the_end_the_wait_goes_on(wait_as, simulator):
    ids = created(simulator, "COMPLETED", "PENDING 100s, COMPLETED")
    simulator.add_faults("slow 0s, 503 x2", ids[0])

    for mode in ("deferred", "reschedule"):
        story = wait_as(mode, ids)

        assert story.state == "success", story.error
        assert [run["id"] for run in story.xcom] == ids


def test_no_pause_is_shorter_than_a_second(wait, simulator):
    ids = created(simulator, "IN_PROGRESS 20s, COMPLETED")

    story = wait(ids, poke_interval=0)

    assert story.state == "success", story.error
    assert simulator.requests <= 24


def test_a_round_of_slow_answers_is_followed_by_a_pause_too(wait_as, simulator, clock, monkeypatch):
    ids = created(simulator, "IN_PROGRESS 60s, COMPLETED", "IN_PROGRESS 60s, COMPLETED")
    ask = AsyncClient.send

    async def ask_slowly(self, request):
        reply = await ask(self, request)
        clock.offset += 2.0
        simulator.advance(2.0)
        return replace(reply, at=clock.time())

    monkeypatch.setattr(AsyncClient, "send", ask_slowly)

    story = wait_as("poke", ids, poke_interval=1)

    assert story.state == "success", story.error
    assert min(clock.slept) >= 1


# What the API says to one


@pytest.fixture
def asked_at(clock, monkeypatch):
    """The times at which the API itself is asked."""
    times = []
    ask = AsyncClient.send

    async def noted(self, request):
        times.append(clock.offset)
        return await ask(self, request)

    monkeypatch.setattr(AsyncClient, "send", noted)
    return times


@pytest.mark.parametrize("fault", ["429 retry-after=120", "503 retry-after=120", "429 retry-after=120 x3"])
def test_a_long_retry_after_on_the_first_round_is_waited_for_by_all(wait, simulator, asked_at, fault):
    ids = created(simulator, *["IN_PROGRESS 500s, COMPLETED"] * 3)
    simulator.add_faults(fault)

    story = wait(ids)

    assert story.state == "success", story.error
    assert not [at for at in asked_at if 0 < at < 120]


@pytest.mark.parametrize("kind", ["429", "503"])
def test_an_api_that_goes_on_asking_for_long_pauses_shows_and_is_left_alone(wait, simulator, clock, kind):
    ids = created(simulator, *["IN_PROGRESS 500s, COMPLETED"] * 3)
    simulator.start_outage(kind, "120")

    story = wait(ids)

    assert (story.state, type(story.error)) == ("up_for_retry", AnonUnavailableError)
    assert clock.offset <= 150
    assert simulator.requests <= 3 * len(ids)


@pytest.mark.unmeasured
def test_hundreds_of_runs_share_a_handful_of_connections(wait_as, simulator):
    ids = created(simulator, *["PENDING 200s, COMPLETED"] * 100)

    story = wait_as("without a worker", ids, end_from_trigger=False)

    assert story.state == "success", story.error
    assert simulator.requests >= 800
    assert simulator.connections <= 40


@pytest.mark.unmeasured
def test_the_log_is_told_a_summary_and_not_of_each_run(wait, mode, simulator, capsys):
    ids = created(
        simulator, *["PENDING 40s, IN_PROGRESS 2000s, COMPLETED"] * 20, "UNKNOWN:QUEUED 90s, COMPLETED"
    )

    story = wait(ids, poke_interval=50)

    # Airflow 3 logs to stdout, Airflow 2 where the harness listens, too.
    log, out = "\n".join(story.log), capsys.readouterr().out
    forgets = mode == "reschedule" and not AIRFLOW_V_3_3_PLUS

    def count(text):
        return max(log.count(text), out.count(text))

    assert count("Waiting for 21 workflow runs, for at most 1 h, with a poll every 50 s.") == 1
    assert count("21 of 21 workflow runs over: 21 COMPLETED.") == 1
    assert count("Still waiting: 1 of 21 over, 20 IN_PROGRESS; ") >= 1
    assert 5 <= count("Still waiting") <= 7
    assert 1 <= count("'QUEUED'") <= (3 if forgets else 1)


@pytest.mark.unmeasured
def test_an_outage_is_not_told_for_each_run(wait, simulator, clock, monkeypatch, capsys):
    ids = created(simulator, *["PENDING 600s, COMPLETED"] * 30)
    real_sleep = clock.sleep

    def sleep(seconds):
        if not clock.slept:
            simulator.outage(100, "503")
        real_sleep(seconds)

    with monkeypatch.context() as patches:
        patches.setattr(clock, "sleep", sleep)
        patches.setattr("time.sleep", sleep)
        story = wait(ids)

    told = [*story.log, *capsys.readouterr().out.splitlines()]
    told = {line.partition("No answer: ")[2] for line in told if "No answer: 503" in line}
    assert story.state == "success", story.error
    assert 1 <= len({re.search(ONE_ID, line)[0] for line in told}) <= 5


# In the triggerer


def trigger_for(ids, **arguments):
    return AnonWorkflowRunsTrigger(**{"workflow_run_ids": ids, "poke_interval": 30.0, **arguments})


@pytest.mark.parametrize(
    ("scripts", "faults", "outcome"),
    [
        (["COMPLETED", "PENDING 100s, COMPLETED"], None, "over"),
        (["FAILED", "PENDING 24h, COMPLETED"], None, "over"),
        (["COMPLETED", "PENDING 24h, COMPLETED"], "410", "error"),
        (["COMPLETED", "AWAITING_USER_INPUT 24h, COMPLETED"], None, "waiting"),
        (["PENDING 24h, COMPLETED", "PENDING 24h, COMPLETED"], None, "timeout"),
    ],
)
def test_every_end_is_one_event_and_leaves_nothing(simulator, scripts, faults, outcome):
    ids = created(simulator, *scripts)
    if faults:
        simulator.add_faults(faults, ids[1])

    events = carried_out(events_of(trigger_for(ids, timeout=600.0, asks_for_input=True)))

    assert [event.payload["outcome"] for event in events] == [outcome]
    assert json.loads(json.dumps(events[0].payload)) == events[0].payload


def test_arguments_and_event_of_thousands_of_runs_are_small(simulator):
    ids = [f"{number:08x}-9d1e-4b6b-8a70-1c2d3e4f5a60" for number in range(5000)]
    group = WaitGroup(WaitPolicy("", deadline=1.75e9), ids, fail_fast=True, seen_at=1.7e9)
    for number, member in enumerate(group.members.values()):
        member.state.status = ["IN_PROGRESS", "PENDING"][number % 7 == 0]
        member.state.state_name = f"a_state_{number % 5}"
        if number % 100 == 0:
            member.state.awaiting_since = 1.7e9 + number

    event = group_codec.GroupEventPayload.of(group).to_event(group)
    kept = group_codec.to_json(group)
    arguments = group_codec.to_kwargs(group, all_ids=False)

    assert len(json.dumps(event)) < 4096
    assert len(json.dumps(kept)) < 40_000
    assert len(json.dumps(arguments)) < 5000 * 40 + 40_000


def test_the_event_of_thousands_of_runs_is_small_whatever_ends_them(simulator):
    ids = created(
        simulator, *["COMPLETED"] * 400, "FAILED (post)", *["AWAITING_USER_INPUT 24h, COMPLETED"] * 20
    )

    for options in ({}, {"fail_fast": False, "timeout": 100.0}, {"fail_fast": False, "asks_for_input": True}):
        (event,) = carried_out(events_of(trigger_for(ids, **options)))

        assert len(json.dumps(event.payload)) < 4096


@pytest.mark.parametrize("moment", ["connecting", "asking", "sleeping"])
def test_a_wait_that_is_cancelled_goes_on_elsewhere(simulator, lookups, moment):
    ids = created(simulator, *["PENDING 100s, COMPLETED"] * 20)
    if moment == "asking":
        simulator.add_faults("slow 2s")
    path, kwargs = trigger_for(ids).serialize()

    async def begin():
        with naps() as begun:
            is_there = {
                "connecting": lambda: lookups,
                "asking": lambda: simulator.requests,
                "sleeping": lambda: len(begun) == len(ids),
            }[moment]
            task = asyncio.create_task(events_of(trigger_for(ids)))
            await until(is_there)
            await cancelled(task)

    carried_out(begin())
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))

    (event,) = carried_out(events_of(again))

    assert (event.payload["outcome"], event.payload["runs"], event.payload["over"]) == ("over", 20, 20)


def test_a_run_that_is_over_is_not_kept_while_others_wait(simulator):
    ids = created(simulator, *["COMPLETED"] * 5, "PENDING")

    async def kept_meanwhile():
        task = asyncio.create_task(events_of(trigger_for(ids)))
        await until(lambda: begun and waits_here() == 1)
        kept = {item.id for item in gc.get_objects() if type(item) is WorkflowRun} & set(ids)
        await cancelled(task)
        return kept

    gc.collect()
    with naps() as begun:
        kept = carried_out(kept_meanwhile())

    assert kept == {ids[-1]}


def test_arguments_of_a_later_version_are_passed_over(simulator):
    ids = created(simulator, "COMPLETED")

    (event,) = carried_out(events_of(trigger_for(ids, colour="blue")))

    assert event.payload["outcome"] == "over"


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later can end a task in the triggerer")
@pytest.mark.parametrize("count", [3, 300])
def test_all_are_handed_on_without_a_worker_however_many_they_are(wait_as, simulator, count):
    ids = created(simulator, *["COMPLETED"] * count)

    story = wait_as("without a worker", ids)

    assert [run["id"] for run in story.xcom] == ids
    assert story.starts == 0


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later can end a task in the triggerer")
def test_a_deferred_wait_that_ends_in_the_triggerer_hands_all_on(wait_as, simulator):
    ids = created(simulator, "COMPLETED", "PENDING 100s, COMPLETED")

    story = wait_as("deferred", [ids[1], ids[0], ids[1]], end_from_trigger=True)

    assert [run["id"] for run in story.xcom] == [ids[1], ids[0], ids[1]]
    assert (story.starts, story.triggers) == (1, 1)


# Resumed on a worker


def context_of(clock):
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    instance = kind(clock, None, start_date=clock.utcnow())
    return {"ti": instance, "task_instance": instance}


def sensor_for(ids, **options):
    return AnonWorkflowRunsSensor(
        task_id="wait", **{"workflow_run_ids": ids, "deferrable": True, "timeout": 600, **options}
    )


def deferral_of(sensor, clock):
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context_of(clock))
    return deferred.value


def resume(sensor, clock, event, **kept):
    return sensor.resume_execution("execute_complete", {"event": event, **kept}, context_of(clock))


@pytest.mark.parametrize(
    "event",
    [None, {}, "over", {"outcome": "success"}, {"outcome": "over", "started_at": None, "deadline": None}],
)
def test_an_event_that_is_none_passes_nothing(simulator, clock, event):
    with pytest.raises(AnonProtocolError, match="not understood"):
        resume(sensor_for(created(simulator, "COMPLETED")), clock, event)


def event_of(simulator, clock, ids, **arguments):
    (event,) = carried_out(events_of(trigger_for(ids, started_at=clock.time(), timeout=600.0, **arguments)))
    return json.loads(json.dumps(event.payload))


def test_an_event_that_says_all_is_well_is_not_trusted(simulator, clock):
    event = event_of(simulator, clock, created(simulator, "COMPLETED"))
    ids = created(simulator, "COMPLETED", "FAILED")

    with pytest.raises(AnonWorkflowRunFailedError):
        resume(sensor_for(ids), clock, event)
    with pytest.raises(TaskDeferred):
        resume(sensor_for(created(simulator, "PENDING")), clock, event)


def test_an_event_about_other_runs_is_refused(simulator, clock):
    event = event_of(simulator, clock, created(simulator, "FAILED"))

    with pytest.raises(AnonProtocolError, match="none of the runs"):
        resume(sensor_for(created(simulator, "COMPLETED")), clock, event)


def test_what_was_kept_of_other_runs_is_passed_over(simulator, clock):
    kept = deferral_of(sensor_for(created(simulator, "COMPLETED", "PENDING")), clock).kwargs
    ids = created(simulator, "COMPLETED")
    event = event_of(simulator, clock, ids)

    assert resume(sensor_for(ids), clock, event, **kept) == [simulator.run(ids[0])]


def taken_on(deferral):
    path, kwargs = deferral.trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))


ASKS_TWICE = "AWAITING_USER_INPUT 10m, IN_PROGRESS 5h, AWAITING_USER_INPUT until answered, COMPLETED"
LONG = {"timeout": 86400, "user_input_timeout": 4 * 3600}


@pytest.mark.parametrize("script", [ASKS_TWICE, "AWAITING_USER_INPUT 24h, COMPLETED"])
def test_two_questions_of_which_no_worker_saw_the_first_answered_count_as_one(simulator, clock, script):
    asked = []
    ids = created(simulator, script, "PENDING 24h, COMPLETED")
    options = {**LONG, "user_input_timeout": 9 * 3600, "on_awaiting_user_input_callback": asked.append}
    kept = deferral_of(sensor_for(ids, **options), clock).kwargs
    clock.sleep(5.5 * 3600)
    error = AnonUnavailableError("Lost contact.", workflow_run_id=ids[1])
    event = group_codec.GroupEventPayload(
        WaitPolicy("", clock.time(), clock.time() + 86400), error=error
    ).to_event()

    with pytest.raises(TaskDeferred):
        resume(sensor_for(ids, **options), clock, event, **kept)

    assert len(asked) == 1


def test_when_each_run_was_really_seen_goes_along_to_the_triggerer_and_to_the_next_poll():
    policy = WaitPolicy("", started_at=100.0)
    group = WaitGroup(policy, [ID, OTHER_ID], fail_fast=True)
    for member, seen_at in zip(group.members.values(), (500.7, 800.2), strict=True):
        member.state.status, member.state.seen_at, member.state.polled_at = "IN_PROGRESS", seen_at, seen_at
    arguments = TriggerArgs("a", policy, next_poll_at=900.0).to_kwargs_of_policy()
    kwargs = json.loads(json.dumps({**arguments, **group_codec.to_kwargs(group, all_ids=False)}))

    in_triggerer = group_codec.from_kwargs(policy, kwargs, 5000.0)
    on_worker = group_codec.recall(
        WaitGroup(policy, [ID, OTHER_ID], fail_fast=True), group_codec.to_json(group)
    )

    for there in (in_triggerer, on_worker):
        assert [member.state.polled_at for member in there.members.values()] == [500, 800]


def test_an_unknown_status_that_the_triggerer_warned_of_before_an_error_is_not_warned_of_again(
    simulator, clock, caplog, capsys
):
    ids = created(simulator, "UNKNOWN:QUEUED 24h, COMPLETED", "PENDING 24h, COMPLETED")
    group = WaitGroup(WaitPolicy("", clock.time(), clock.time() + 600), ids, fail_fast=True)
    group.warned_of.append("QUEUED")
    error = AnonUnavailableError("Lost contact.", workflow_run_id=ids[1])
    event = group_codec.GroupEventPayload(group.policy, error=error).to_event(group)

    with pytest.raises(TaskDeferred) as deferred:
        resume(sensor_for(ids), clock, event)

    assert "does not know" not in caplog.text + capsys.readouterr().out
    assert deferred.value.trigger.warned_of == ["QUEUED"]


@pytest.fixture
def over_in_time(simulator, clock):
    """Have runs end in time, and a worker poll them when that is over; return their ids, and the worker's part."""

    def over_in_time(*scripts, **options):
        ids = created(simulator, *scripts)
        deferral = deferral_of(sensor_for(ids, **options), clock)
        (event,) = carried_out(events_of(taken_on(deferral)))
        assert event.payload["outcome"] == "over"
        clock.sleep(700)
        event = json.loads(json.dumps(event.payload))
        return ids, lambda: resume(sensor_for(ids, **options), clock, event, **deferral.kwargs)

    return over_in_time


OVER = ["COMPLETED", "PENDING 100s, COMPLETED"]


@pytest.mark.parametrize("disturbed", [0, 1], ids=["over on the worker", "over in the triggerer"])
def test_a_disturbance_when_a_worker_polls_late_is_no_timeout(over_in_time, simulator, disturbed):
    ids, poll_late = over_in_time(*OVER)
    simulator.add_faults("503 x2", ids[disturbed])

    assert poll_late() == [simulator.run(run_id) for run_id in ids]


def test_a_disturbance_when_a_worker_polls_late_hides_no_failure(over_in_time, simulator):
    ids, poll_late = over_in_time("PENDING 24h, COMPLETED", "PENDING 100s, FAILED")
    simulator.add_faults("503 x2", ids[1])

    with pytest.raises(AnonWorkflowRunFailedError, match="as fail_fast asks"):
        poll_late()


@pytest.mark.parametrize(
    "scripts", [OVER, ["PENDING 24h, COMPLETED", "PENDING 100s, FAILED"]], ids=["all over", "one failed"]
)
def test_silence_when_a_worker_polls_late_is_lost_contact(over_in_time, simulator, clock, scripts):
    _, poll_late = over_in_time(*scripts)
    simulator.start_outage("503")
    before = clock.offset

    with pytest.raises(AnonUnavailableError) as lost:
        poll_late()

    assert lost.value.retryable
    assert 55 <= clock.passed - before <= 75


def test_a_run_that_was_called_over_and_is_not_times_out(simulator, clock):
    ids = created(simulator, "PENDING 24h, COMPLETED")
    event = event_of(simulator, clock, created(simulator, "COMPLETED"))
    clock.sleep(700)

    with pytest.raises(TaskDeferred) as deferred:
        resume(sensor_for(ids), clock, event)
    (event,) = carried_out(events_of(taken_on(deferred.value)))

    assert event.payload["outcome"] == "timeout"
    with pytest.raises(AnonWaitTimeoutError):
        resume(sensor_for(ids), clock, json.loads(json.dumps(event.payload)))


def test_lost_contact_in_the_triggerer_alone_is_no_lost_contact(simulator, clock):
    ids = created(simulator, "PENDING 24h, COMPLETED", "PENDING 24h, COMPLETED")
    sensor = sensor_for(ids)
    kept = deferral_of(sensor, clock).kwargs
    error = AnonUnavailableError("Lost contact.", workflow_run_id=ids[1])
    event = group_codec.GroupEventPayload(
        WaitPolicy("", clock.time(), clock.time() + 600), error=error
    ).to_event()

    with pytest.raises(TaskDeferred):
        resume(sensor_for(ids), clock, event, **kept)
    simulator.add_faults("503", ids[1])
    with pytest.raises(AnonUnavailableError, match="Lost contact"):
        resume(sensor_for(ids), clock, event, **kept)


def test_an_error_about_no_run_holds_while_any_is_silent(simulator, clock):
    ids = created(simulator, "PENDING 24h, COMPLETED", "PENDING 24h, COMPLETED")
    event = group_codec.GroupEventPayload(
        WaitPolicy("", clock.time(), clock.time() + 600), error=AnonUnavailableError("Lost contact.")
    ).to_event()
    simulator.add_faults("503", ids[1])

    with pytest.raises(AnonUnavailableError, match="Lost contact"):
        resume(sensor_for(ids), clock, event)


def resume_failed(sensor, clock, after=0.0):
    context = context_of(clock)
    clock.sleep(after)
    return sensor.resume_execution("__fail__", {"error": "Trigger failure", "traceback": None}, context)


def test_runs_that_ended_while_their_trigger_was_lost_pass(simulator, clock):
    ids = created(simulator, "COMPLETED", "COMPLETED")

    assert resume_failed(sensor_for(ids), clock) == [simulator.run(run_id) for run_id in ids]


def test_a_trigger_that_broke_down_is_told_with_what_is_not_over(simulator, clock):
    ids = created(simulator, "COMPLETED", "IN_PROGRESS (sign)")

    with pytest.raises(AnonUnavailableError, match="2 workflow runs broke off in the triggerer") as broken:
        resume_failed(sensor_for(ids), clock)

    assert ids[0] not in str(broken.value)
    assert ids[1] in str(broken.value)
    assert (broken.value.workflow_run_id, broken.value.last_status) == (ids[1], "IN_PROGRESS")


def test_a_wait_whose_trigger_did_not_run_in_time_has_timed_out(simulator, clock):
    with pytest.raises(result.AnonWaitTimeoutError, match="timeout is 10 min"):
        resume_failed(sensor_for(created(simulator, "PENDING", "COMPLETED")), clock, after=700)


def test_never_fail_skips(simulator, clock):
    with pytest.raises(AirflowSkipException):
        resume_failed(sensor_for(created(simulator, "PENDING"), never_fail=True), clock)


def test_silent_fail_goes_on_although_nothing_is_known(simulator, clock):
    with pytest.raises(TaskDeferred) as deferred:
        resume(sensor_for(created(simulator, "PENDING"), silent_fail=True), clock, {})

    assert deferred.value.trigger.serialize()[1]["seen_at"] is None


# Kept for ever


STORED = sorted((Path(__file__).parents[1] / "stored").iterdir())
STORED_AT = 1_750_000_000.0
STORED_IDS = [
    "3c90c3cc-0d44-4b50-8888-8dd25736052a",
    "4b1f0f6e-52a7-4f0e-9d52-0f6f6a1d7c11",
    "5d2e8c9a-7b31-4c62-a1e4-9a8b7c6d5e4f",
]


def stored(name):
    return [
        pytest.param(case, id=f"{release.name} {key}")
        for release in STORED
        if (release / f"{name}.json").exists()
        for key, case in json.loads((release / f"{name}.json").read_text(encoding="utf-8")).items()
    ]


@pytest.fixture
def stored_time(clock):
    real_time, began = clock.real_time, clock.real_time()
    clock.real_time = lambda: STORED_AT + 30 + real_time() - began


@pytest.mark.usefixtures("stored_time")
@pytest.mark.parametrize("case", stored("triggers_of_many"))
def test_a_wait_that_an_earlier_release_began_ends_as_it_should(simulator, clock, case):
    asked = []
    simulator.create_run("COMPLETED", STORED_IDS[0])
    simulator.create_run("AWAITING_USER_INPUT (approve) 100s, COMPLETED", STORED_IDS[1])
    simulator.create_run("IN_PROGRESS 100s, AWAITING_USER_INPUT 900s, COMPLETED", STORED_IDS[2])
    module, _, name = case["trigger"].rpartition(".")
    kwargs, kept, result = case["arguments"], case["kept"], None

    for _ in range(4):
        trigger = getattr(import_module(module), name)(**kwargs)
        (event,) = carried_out(events_of(trigger))
        if getattr(event, "xcoms", None):
            result = event.xcoms["return_value"]
            break
        sensor = sensor_for(
            STORED_IDS,
            timeout=604800,
            on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]["id"]),
        )
        try:
            result = resume(sensor, clock, json.loads(json.dumps(event.payload)), **kept)
            break
        except TaskDeferred as deferred:
            kwargs, kept = deferred.trigger.serialize()[1], deferred.kwargs

    assert result == [simulator.run(run_id) for run_id in STORED_IDS]
    assert asked == case["asks"]
    assert kwargs.keys() >= case["arguments"].keys()


@pytest.mark.usefixtures("stored_time")
@pytest.mark.parametrize("case", stored("events_of_many"))
def test_an_event_that_an_earlier_release_fired_is_understood(simulator, clock, case):
    for run_id, script in zip(STORED_IDS, case["scripts"], strict=True):
        simulator.create_run(script, run_id)
    sensor = sensor_for(STORED_IDS, timeout=604800, user_input_timeout=60)

    if case["then"] == "passes":
        result = resume(sensor, clock, case["event"], **case["kept"])
        assert result == [simulator.run(run_id) for run_id in STORED_IDS]
        return

    with pytest.raises(BaseException) as caught:
        resume(sensor, clock, case["event"], **case["kept"])
    assert type(caught.value).__name__ == case["then"]


def test_what_an_earlier_release_stored_is_still_known():
    group = WaitGroup(WaitPolicy(""), STORED_IDS, fail_fast=True)
    event = group_codec.GroupEventPayload(WaitPolicy("")).to_event()
    _, arguments = trigger_for(STORED_IDS).serialize()

    for (case,) in (parameters.values for parameters in stored("events_of_many")):
        assert case["event"].keys() <= event.keys()
    for (case,) in (parameters.values for parameters in stored("triggers_of_many")):
        assert case["arguments"].keys() <= arguments.keys()
        assert case["kept"].get("kept", {}).keys() <= group_codec.to_json(group).keys()


def test_one_run_is_no_other_class_than_before():
    assert not issubclass(AnonWorkflowRunsSensor, AnonWorkflowRunSensor)
    assert AnonWorkflowRunsSensor.template_fields == ("workflow_run_ids", "anon_conn_id")
