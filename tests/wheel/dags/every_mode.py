"""A DAG as a user of the installed package writes it: a wait in each mode. It is checked by ``mypy --strict``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Context, task

from airflow_anon.exceptions import AnonError, AnonWorkflowRunFailedError
from airflow_anon.hooks import AnonHook
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.runs import WorkflowRun, WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor


def notify(context: Context) -> None:
    """Say that a person is waited for."""
    print(context["workflow_run"])  # type: ignore[typeddict-item]  # Airflow does not know this key


with DAG("every_mode", schedule=None):
    poke = AnonWorkflowRunSensor(
        task_id="poke",
        workflow_run_id="{{ dag_run.conf['poke'] }}",
        mode="poke",
        poke_interval=1,
        timeout=timedelta(minutes=5),
    )
    reschedule = AnonWorkflowRunSensor(
        task_id="reschedule",
        workflow_run_id="{{ dag_run.conf['reschedule'] }}",
        mode="reschedule",
        poke_interval=15,  # Airflow fails a task that is to start again before its last process has ended
        timeout=300,
    )
    deferred = AnonWorkflowRunSensor(
        task_id="deferred",
        workflow_run_id="{{ dag_run.conf['deferred'] }}",
        deferrable=True,
        poke_interval=15,  # likewise
        timeout=300,
        outage_tolerance=timedelta(minutes=2),
        on_awaiting_user_input_callback=[notify],
        user_input_timeout=60,
    )
    without_worker = AnonWorkflowRunSensor(
        task_id="without_worker",
        workflow_run_id="{{ dag_run.conf['without_worker'] }}",
        start_from_trigger=True,
        end_from_trigger=True,
        poke_interval=1,
        timeout=300,
    )
    fetch = AnonWorkflowRunOperator(task_id="fetch", workflow_run_id="{{ dag_run.conf['fetch'] }}")

    @task
    def hooks(run: dict[str, Any]) -> str:
        """Poll once more, by hand."""
        try:
            found: WorkflowRun = AnonHook().wait_for_workflow_run(run["id"], poke_interval=1, timeout=60)
        except (AnonError, AnonWorkflowRunFailedError) as error:
            return f"{error.workflow_run_id}"
        if found.status is WorkflowRunStatus.COMPLETED and found.completed_at is not None:
            return found.completed_at.isoformat()
        return str(found.status)

    hooks(fetch.output)
    [poke, reschedule, deferred, without_worker] >> fetch


def wrong() -> None:
    """Make mistakes that mypy has to notice: it complains of an ignored error that is none."""
    AnonWorkflowRunSensor(task_id="wrong", workflow_run_id=42)  # type: ignore[arg-type]
    AnonWorkflowRunSensor(task_id="wrong", workflow_run_id="", on_awaiting_user_input_callback=7)  # type: ignore[arg-type]
    _ = AnonHook().get_workflow_run("").statuss  # type: ignore[attr-defined]
