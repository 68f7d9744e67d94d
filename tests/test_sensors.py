"""What a DAG author relies on when writing and parsing a DAG."""

from __future__ import annotations

import json
import socket

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseHook, PokeReturnValue, task
from carry_out import carry_out

from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor

CLASSES = [AnonWorkflowRunSensor, AnonWorkflowRunOperator]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_template_field_is_an_attribute_that_keeps_what_it_was_given(kind):
    templates = {"workflow_run_id": "{{ params.id }}", "anon_conn_id": "{{ params.env }}_anon"}

    operator = kind(task_id="t", **templates)

    assert isinstance(kind.template_fields, tuple)
    assert {name: getattr(operator, name) for name in kind.template_fields} == templates


@pytest.mark.parametrize("kind", CLASSES)
def test_templates_are_rendered_before_use(kind):
    with DAG("d", schedule=None):
        operator = kind(task_id="t", workflow_run_id="{{ id }}", anon_conn_id="{{ env }}_anon")

    operator.render_template_fields({"id": "x", "env": "prod"})

    assert (operator.workflow_run_id, operator.anon_conn_id) == ("x", "prod_anon")


@pytest.mark.parametrize("kind", CLASSES)
def test_the_output_of_a_task_as_id_makes_that_task_an_upstream(kind):
    with DAG("d", schedule=None):

        @task
        def start():
            return "id"

        operator = kind(task_id="t", workflow_run_id=start())

    assert operator.upstream_task_ids == {"start"}


@pytest.mark.parametrize("kind", CLASSES)
def test_ids_can_be_mapped(kind):
    with DAG("d", schedule=None):
        mapped = kind.partial(task_id="t").expand(workflow_run_id=["a", "b"])

    assert mapped.operator_class is kind


@pytest.mark.parametrize("kind", CLASSES)
def test_parsing_does_no_io(kind, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("I/O while a DAG is parsed")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(BaseHook, "get_connection", refuse)

    with DAG("d", schedule=None) as dag:
        for number in range(200):
            kind(task_id=f"t{number}", workflow_run_id="nonsense", anon_conn_id="nowhere")

    assert len(dag.tasks) == 200


def test_not_deferrable_wins_over_the_default_of_the_deployment(api, monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    run_id = api[0].create_run("PENDING 40s, COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="t", workflow_run_id=run_id, deferrable=False), api[1]
    )

    assert (story.state, story.triggers) == ("success", 0)


def test_a_run_that_is_over_is_not_deferred(api):
    run_id = api[0].create_run("COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="t", workflow_run_id=run_id, deferrable=True), api[1]
    )

    assert (story.state, story.starts, story.triggers) == ("success", 1, 0)


def test_a_whole_wait_is_one_deferral_and_one_trigger(api):
    run_id = api[0].create_run("PENDING 500s, COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="t", workflow_run_id=run_id, deferrable=True, poke_interval=10),
        api[1],
    )

    assert (story.state, story.starts, story.triggers) == ("success", 2, 1)
    assert api[0].requests_for(run_id) > 40


def test_a_poking_wait_uses_one_connection_however_many_polls(api):
    run_id = api[0].create_run("PENDING 500s, COMPLETED")

    carry_out(lambda: AnonWorkflowRunSensor(task_id="t", workflow_run_id=run_id, poke_interval=10), api[1])

    assert api[0].requests_for(run_id) > 40
    assert api[0].connections == 1


def test_a_subclass_may_add_to_what_a_poll_returns(api):
    class Louder(AnonWorkflowRunSensor):
        def poke(self, context):
            value = super().poke(context)
            return PokeReturnValue(value.is_done, value.xcom_value and {"status": value.xcom_value["status"]})

    run_id = api[0].create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: Louder(task_id="t", workflow_run_id=run_id), api[1])

    assert story.xcom == {"status": "COMPLETED"}


@pytest.mark.parametrize("script", ["PENDING", "FAILED", "COMPLETED", "UNKNOWN:QUEUED", "ENDED:CANCELLED"])
def test_the_operator_returns_a_run_whatever_its_status(api, script):
    run_id = api[0].create_run(script)

    value = AnonWorkflowRunOperator(task_id="t", workflow_run_id=run_id).execute({})

    assert value == api[0].run(run_id)
    assert json.loads(json.dumps(value)) == value
    assert api[0].requests_for(run_id) == 1
