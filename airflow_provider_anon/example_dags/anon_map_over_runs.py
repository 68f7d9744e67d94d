"""
Wait for each of a list of runs in a task of its own, and go on when all have completed.

Each mapped task has its own state, retries and log, and its own place in the UI. For hundreds of
runs one task for all of them costs far less: see ``anon_many_runs.py``.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunSensor


@dag(
    schedule=None,
    params={"workflow_run_ids": Param([], type="array", description="The runs to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_map_over_runs() -> None:

    @task
    def list_runs(params: dict[str, Any] | None = None) -> list[str]:
        """Return the ids; in a DAG of yours this is the task that starts the runs."""
        return [] if params is None else params["workflow_run_ids"]

    wait = AnonWorkflowRunSensor.partial(
        task_id="wait",
        deferrable=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
    ).expand(workflow_run_id=list_runs())

    @task
    def sum_up(runs: Any) -> list[str]:
        """Take the JSON of all runs, in the order of their ids: Airflow hands on a list that it reads lazily."""
        return [run["status"] for run in runs]

    sum_up(wait.output)


anon_map_over_runs()
