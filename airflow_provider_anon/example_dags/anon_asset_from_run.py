"""
Schedule a DAG from the end of a run: the sensor that waits for the run updates an asset.

The second DAG starts each time the first one has seen a run complete, and not when it failed.
"""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.providers.common.compat.sdk import Asset, Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunSensor

INVOICES = Asset("anon_invoices")


@dag(
    schedule=None,
    params={"workflow_run_id": Param(type="string", format="uuid", description="The run to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_asset_from_run() -> None:
    AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id="{{ params.workflow_run_id }}",
        deferrable=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
        outlets=[INVOICES],
    )


@dag(
    schedule=[INVOICES],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    doc_md=__doc__,
    tags=["anon"],
)
def anon_on_new_invoices() -> None:

    @task
    def read_invoices() -> None:
        """Use what the run has made."""
        print("There are new invoices.")

    read_invoices()


anon_asset_from_run()
anon_on_new_invoices()
