"""
Wait for many runs in one task: one trigger, one XCom with the JSON of all, in the order of their ids.

The first run that fails ends the wait; with ``fail_fast=False`` all are waited for first. For a task
of its own for each run see ``anon_map_over_runs.py``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunsSensor


@dag(
    schedule=None,
    params={"workflow_run_ids": Param([], type="array", description="The runs to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_many_runs() -> None:

    @task
    def start_runs(params: dict[str, Any] | None = None) -> list[str]:
        """Return the ids; in a DAG of yours this is the task that starts the runs."""
        return [] if params is None else params["workflow_run_ids"]

    wait = AnonWorkflowRunsSensor(
        task_id="wait",
        workflow_run_ids=start_runs(),
        deferrable=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
        timeout=timedelta(days=2),
    )

    @task
    def sum_up(runs: list[dict[str, Any]]) -> list[str]:
        """Take the JSON of all runs, in the order of their ids."""
        return [run["status"] for run in runs]

    sum_up(wait.output)


anon_many_runs()
