"""Values that travel from task to task: an id may be a UUID, and a run is the same run where it arrives."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from uuid import UUID

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS
from carry_out import MODES, carry_out, events_of
from samples import RUN_ID, payload

from airflow_anon.core.ids import normalise_id, read_ids
from airflow_anon.exceptions import AnonInvalidIdError
from airflow_anon.hooks import AnonHook
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.runs import WorkflowRun, WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.task.zero_worker import template_for_triggerer
from airflow_anon.triggers import AnonWorkflowRunTrigger

try:
    from airflow.sdk import serde
except ImportError:  # before Airflow 3.2
    from airflow.serialization import serde

QUESTIONS = ("is_known", "is_over", "succeeded", "failed", "took_no_action", "awaits_user_input")
THROUGH_AIRFLOW = {
    "xcom": lambda run: serde.deserialize(json.loads(json.dumps(serde.serialize(run)))),
    "a list in an xcom": lambda run: serde.deserialize(json.loads(json.dumps(serde.serialize([run]))))[0],
}
THROUGH_PYTHON = {"pickle": lambda run: pickle.loads(pickle.dumps(run)), "deepcopy": copy.deepcopy}


@pytest.fixture
def allowed(monkeypatch):
    """Airflow with the class in ``[core] allowed_deserialization_classes``, and what it knows of that in memory."""
    monkeypatch.setenv("AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES", "airflow_anon.runs.*")
    caches = [value for value in vars(serde).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def travelled(run, way):
    return (THROUGH_AIRFLOW | THROUGH_PYTHON)[way](run)


def answers(run):
    return {question: getattr(run, question) for question in QUESTIONS}


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("way", [*THROUGH_AIRFLOW, *THROUGH_PYTHON])
@pytest.mark.parametrize("status", [*WorkflowRunStatus, "NEVER_HEARD_OF"])
def test_a_run_is_the_same_where_it_arrives(status, way):
    sent = WorkflowRun.from_payload(payload(status))

    received = travelled(sent, way)

    assert received == sent
    assert answers(received) == answers(sent)
    assert type(received.status) is type(sent.status)
    assert received.seconds_queued == sent.seconds_queued


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("way", THROUGH_AIRFLOW)
@pytest.mark.parametrize(
    "value",
    [
        "done \ud83d",
        "a\x00b",
        2**65,
        {"__classname__": "os.system", "__version__": 1},
        {"__type": "set"},
        {"": [{}]},
    ],
    ids=repr,
)
def test_what_airflow_reads_as_its_own_or_cannot_carry_arrives_as_it_was_sent(value, way):
    sent = WorkflowRun.from_payload(payload("COMPLETED", addedLater=value))

    assert travelled(sent, way).to_payload() == sent.to_payload()


def test_airflow_refuses_a_run_whose_class_nobody_allowed_but_takes_its_json():
    run = WorkflowRun.from_payload(payload("FAILED"))

    with pytest.raises(ImportError, match="allowed_deserialization_classes"):
        THROUGH_AIRFLOW["xcom"](run)
    assert THROUGH_AIRFLOW["xcom"](run.to_payload()) == run.to_payload()


def test_a_run_from_a_later_version_is_refused():
    data = WorkflowRun.from_payload(payload()).serialize()

    with pytest.raises(TypeError, match="version 2"):
        WorkflowRun.deserialize(data, 2)


@pytest.mark.parametrize("status", list(WorkflowRunStatus))
def test_a_status_that_is_its_bare_text_means_the_same(status):
    seen = WorkflowRun.from_payload(payload(status))
    bare = copy.copy(seen)
    object.__setattr__(bare, "status", str(status.encode(), "utf-8"))

    assert answers(bare) == answers(seen)
    assert bare.seconds_queued == seen.seconds_queued


# Ids


def test_a_uuid_is_an_id():
    assert normalise_id(UUID(RUN_ID)) == RUN_ID


def test_a_uuid_of_a_kind_that_the_api_does_not_know_is_refused_and_shown():
    with pytest.raises(
        AnonInvalidIdError, match=r"workflow_run_id UUID\('3c90c3cc-0d44-9b50-.*'\) is not the id"
    ):
        normalise_id(UUID("3c90c3cc-0d44-9b50-8888-8dd25736052a"))


@pytest.mark.parametrize("make", [list, tuple, str])
def test_a_list_of_uuids_is_a_list_of_ids_also_as_the_text_that_a_template_makes_of_it(make):
    assert read_ids(make([UUID(RUN_ID), RUN_ID.upper()])) == [RUN_ID, RUN_ID.upper()]


@pytest.mark.parametrize("text", ["UUID", "[UUID()]", "[UUID('x', int=5)]", "UUID('x')", "[UUID('x')]"])
def test_what_only_looks_like_a_list_of_uuids_is_refused(text):
    with pytest.raises(AnonInvalidIdError):
        read_ids(text)


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_for_a_uuid_passes_in_every_mode(api, mode):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 2 polls, COMPLETED")
    options = {"task_id": "wait", "poke_interval": 30, **MODES[mode]}

    one = carry_out(lambda: AnonWorkflowRunSensor(workflow_run_id=UUID(run_id), **options), clock)
    many = carry_out(lambda: AnonWorkflowRunsSensor(workflow_run_ids=[UUID(run_id)], **options), clock)

    assert (one.state, one.xcom) == ("success", simulator.run(run_id))
    assert (many.state, many.xcom) == ("success", [simulator.run(run_id)])


def test_the_operator_and_the_hook_take_a_uuid(api):
    simulator, clock = api
    run_id = simulator.create_run("COMPLETED")
    hook = AnonHook()

    story = carry_out(lambda: AnonWorkflowRunOperator(task_id="wait", workflow_run_id=UUID(run_id)), clock)
    runs = [
        hook.get_workflow_run(UUID(run_id)),
        hook.wait_for_workflow_run(UUID(run_id)),
        asyncio.run(hook.aget_workflow_run(UUID(run_id))),
        asyncio.run(hook.await_workflow_run(UUID(run_id))),
    ]

    assert story.xcom == simulator.run(run_id)
    assert [run.id for run in runs] == [run_id] * 4


def test_what_an_error_says_of_a_uuid_is_its_text(api):
    simulator, _ = api
    run_id = simulator.create_run("FAILED")

    with pytest.raises(Exception, match=run_id) as raised:
        AnonHook().wait_for_workflow_run(UUID(run_id))

    assert raised.value.workflow_run_id == run_id


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("workflow_run_id", UUID(RUN_ID), RUN_ID),
        ("workflow_run_ids", [UUID(RUN_ID), RUN_ID], [RUN_ID, RUN_ID]),
        ("workflow_run_ids", "{{ ids }}", "{{ ids }}"),
    ],
    ids=["one", "many", "a template"],
)
def test_a_trigger_keeps_the_text_of_a_uuid(name, given, kept):
    _, arguments = AnonWorkflowRunTrigger(**{name: given}).serialize()

    assert arguments[name] == kept
    assert json.dumps(arguments)


def test_a_trigger_takes_a_uuid_that_airflow_has_put_in_the_place_of_a_template(api):
    simulator, _ = api
    run_id = simulator.create_run("COMPLETED")
    trigger = AnonWorkflowRunTrigger(workflow_run_id="{{ ti.xcom_pull(task_ids='up', map_indexes=-1) }}")
    trigger.workflow_run_id = UUID(run_id)

    (event,) = asyncio.run(events_of(trigger))

    assert event.payload["runs"][0]["id"] == run_id
    assert json.dumps(event.payload)


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later can start a task in the triggerer")
def test_a_uuid_in_the_dag_file_starts_in_the_triggerer_as_its_text():
    one = AnonWorkflowRunSensor(task_id="one", workflow_run_id=UUID(RUN_ID), start_from_trigger=True)
    many = AnonWorkflowRunsSensor(task_id="many", workflow_run_ids=[UUID(RUN_ID)], start_from_trigger=True)

    assert one.start_trigger_args.trigger_kwargs["workflow_run_id"] == RUN_ID
    assert many.start_trigger_args.trigger_kwargs["workflow_run_ids"] == [RUN_ID]


def test_a_template_for_the_triggerer_may_be_a_uuid():
    assert template_for_triggerer(UUID(RUN_ID)) == RUN_ID
    assert template_for_triggerer([UUID(RUN_ID), "{{ ds }}"]) == [RUN_ID, "{{ ds }}"]
