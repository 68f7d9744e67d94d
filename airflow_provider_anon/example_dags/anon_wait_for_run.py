"""
Wait for an Anon workflow run, and use what it returns.

Trigger this DAG with the id of a run. It needs a connection ``anon_default`` of the type ``anon``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunSensor


@dag(
    schedule=None,
    params={"workflow_run_id": Param(type="string", format="uuid", description="The run to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_wait_for_run() -> None:
    wait_for_run = AnonWorkflowRunSensor(
        task_id="wait_for_run",
        workflow_run_id="{{ params.workflow_run_id }}",
        deferrable=True,  # wait in the triggerer: no worker is busy meanwhile
        poke_interval=2,  # seconds, to have something to watch; the usual 60 suits most runs
        timeout=timedelta(hours=1),
    )

    @task
    def use_the_run(run: dict[str, Any]) -> None:
        """Do something with the finished run: its JSON comes through XCom, as the API sent it."""
        print(f"Workflow run {run['id']} ended as {run['status']} at {run['completedAt']}.")

    use_the_run(wait_for_run.output)


anon_wait_for_run()
