"""What an earlier release has left in Airflow's database is still understood: triggers, events and XComs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from carry_out import TaskInstance, TaskInstance3, carried_out, events_of

import airflow_anon
from airflow_anon.core.codec import to_event
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.runs import WorkflowRun
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.triggers import ARGUMENTS

RELEASES = sorted((Path(__file__).parent / "stored").iterdir())
STORED_AT = 1_750_000_000.0
IDS = [
    "3c90c3cc-0d44-4b50-8888-8dd25736052a",
    "4b1f0f6e-52a7-4f0e-9d52-0f6f6a1d7c11",
    "5d2e8c9a-7b31-4c62-a1e4-9a8b7c6d5e4f",
]


def stored(name):
    return [
        pytest.param(key, case, id=f"{release.name} {key}")
        for release in RELEASES
        for key, case in json.loads((release / f"{name}.json").read_text(encoding="utf-8")).items()
    ]


def cases(name):
    return [parameters.values[1] for parameters in stored(name)]


@pytest.fixture
def worker(api):
    """Let it be shortly after the release has stored it; return a function that resumes the sensor."""
    _, clock = api
    real_time, began = clock.real_time, clock.real_time()
    clock.real_time = lambda: STORED_AT + 30 + real_time() - began

    def resume(key, event, **options):
        options = {"task_id": "wait", "deferrable": True, "timeout": 604800, **options}
        if key.startswith("one"):
            sensor = AnonWorkflowRunSensor(workflow_run_id=IDS[0], **options)
        else:
            sensor = AnonWorkflowRunsSensor(workflow_run_ids=IDS, **options)
        kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
        context = {"ti": kind(clock, None, start_date=clock.utcnow())}
        return sensor.resume_execution("execute_complete", {"event": json.loads(json.dumps(event))}, context)

    return resume


@pytest.mark.parametrize(("key", "case"), stored("triggers"))
def test_a_wait_that_an_earlier_release_began_ends_as_it_should(worker, api, key, case):
    simulator, _ = api
    asked = []
    only = key.startswith("one")
    simulator.create_run(f"{'AWAITING_USER_INPUT (approve) 100s, ' * only}COMPLETED", IDS[0])
    simulator.create_run("AWAITING_USER_INPUT (approve) 100s, COMPLETED", IDS[1])
    simulator.create_run("IN_PROGRESS 100s, AWAITING_USER_INPUT 900s, COMPLETED", IDS[2])
    arguments, result = case["arguments"], None
    module, _, name = case["trigger"].rpartition(".")
    kind = getattr(import_module(module), name)

    for _ in range(4):
        (event,) = carried_out(events_of(kind(**arguments)))
        try:
            result = worker(
                key,
                event.payload,
                on_awaiting_user_input_callback=lambda context: asked.append(context["workflow_run"]["id"]),
            )
            break
        except TaskDeferred as deferred:
            arguments = deferred.trigger.serialize()[1]

    runs = [simulator.run(run_id) for run_id in IDS]
    assert result == (runs[0] if only else runs)
    assert arguments.keys() >= case["arguments"].keys()
    if not only:
        assert asked == case["asks"]


@pytest.mark.parametrize(("key", "case"), stored("events"))
def test_an_event_that_an_earlier_release_fired_is_understood(worker, api, key, case):
    simulator, _ = api
    for run_id, script in zip(IDS, case["scripts"], strict=False):
        simulator.create_run(script, run_id)

    if case["then"] == "passes":
        result = worker(key, case["event"], user_input_timeout=60)
        assert [run["id"] for run in (result if isinstance(result, list) else [result])] == IDS[
            : len(case["scripts"])
        ]
        return
    with pytest.raises(BaseException) as caught:
        worker(key, case["event"], user_input_timeout=60)
    assert type(caught.value).__name__ == case["then"]


@pytest.mark.parametrize(("key", "case"), stored("xcom"))
def test_an_xcom_that_an_earlier_release_left_is_a_run(key, case):
    assert WorkflowRun.from_payload(case).to_payload() == case


def test_this_release_has_stored_what_it_leaves():
    assert airflow_anon.__version__.rpartition(".")[0] in {
        release.name.rpartition(".")[0] for release in RELEASES
    }


def test_all_that_a_trigger_can_hold_is_stored_and_known():
    assert any(case["arguments"].keys() == set(ARGUMENTS) for case in cases("triggers"))
    assert all(case["arguments"].keys() <= set(ARGUMENTS) for case in cases("triggers"))


def test_all_that_an_event_holds_is_known():
    event = to_event(WaitGroup(WaitPolicy(), IDS))

    for case in cases("events"):
        assert case["event"].keys() <= event.keys()
        assert case["event"]["state"].keys() <= event["state"].keys()
