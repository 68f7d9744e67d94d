"""A Param that has no default, and a sensor that would start in the triggerer."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_anon.sensors import AnonWorkflowRunSensor


@task
def use_run(run: dict[str, Any], expected_id: str) -> None:
    """Take the XCom."""
    assert run["id"] == expected_id, run


with DAG("required_param", schedule=None, params={"run_id": Param(type="string")}):
    wait = AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id="{{ params.run_id }}",
        start_from_trigger=True,
        end_from_trigger=True,
        poke_interval=1,
        timeout=300,
    )
    use_run(wait.output, "{{ params.run_id }}")
