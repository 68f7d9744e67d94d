"""Values that travel from task to task: a run that a task returns, and ids that are UUIDs."""

from __future__ import annotations

from uuid import UUID

from airflow.sdk import DAG, get_current_context, task

from airflow_anon.hooks import AnonHook
from airflow_anon.runs import WorkflowRun, WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor

DEFAULTS = {"poke_interval": 1, "timeout": 300}
WITHOUT_WORKER = {"start_from_trigger": True, "end_from_trigger": True}


@task
def make_id() -> UUID:
    """Return the id as a UUID."""
    return UUID(get_current_context()["dag_run"].conf["id"])


@task
def poll(workflow_run_id: UUID) -> WorkflowRun:
    """Return the run as an object."""
    return AnonHook().get_workflow_run(workflow_run_id)


@task
def use_run(run: WorkflowRun) -> None:
    """Take the object."""
    assert isinstance(run, WorkflowRun), run
    assert run == WorkflowRun.from_payload(get_current_context()["dag_run"].conf["run"])
    assert run.status is WorkflowRunStatus.COMPLETED
    print(f"received a run that is {run.status}")


with DAG("values", schedule=None, default_args=DEFAULTS):
    literal = AnonWorkflowRunSensor(
        task_id="literal", workflow_run_id=UUID("6a1d2c3b-4e5f-4a60-8b71-92a3b4c5d6e7"), **WITHOUT_WORKER
    )
    made = make_id()
    handed_on = AnonWorkflowRunSensor(task_id="handed_on", workflow_run_id=made, mode="poke")
    handed_on >> (polled := poll(made))
    use_run(polled)
