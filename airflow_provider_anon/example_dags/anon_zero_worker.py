"""
Wait for a run without any worker: the wait starts in the triggerer, and ends there if the run ended well.

It takes Airflow 3.3. On an older one the sensor starts and ends on a worker, and its log says so. A
run that failed always ends on a worker, so that retries and callbacks are the usual ones.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunSensor


@dag(
    schedule=None,
    # With a default: Airflow starts no task without a worker if its DAG has a Param that may be missing.
    params={"workflow_run_id": Param("", type="string", description="The run to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_zero_worker() -> None:

    @task
    def start_run(workflow_run_id: str) -> str:
        """Return the id of a run; in a DAG of yours this is the task that starts it."""
        return workflow_run_id

    AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id=start_run("{{ params.workflow_run_id }}"),
        start_from_trigger=True,
        end_from_trigger=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
        timeout=timedelta(days=2),
    )


anon_zero_worker()
