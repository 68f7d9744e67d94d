"""
Wait for a run that stops to ask a person: tell somebody when it does, and give the person two days.

The callback is called once each time the run begins to wait for somebody, in every mode. Any
callable will do, and any Airflow notifier, such as a mail's or Slack's, or a list of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag

from airflow_anon.sensors import AnonWorkflowRunSensor


def tell_somebody(context: Mapping[str, Any]) -> None:
    """Take the task's context, in which the run's JSON is ``workflow_run``."""
    run = context["workflow_run"]
    print(f"Workflow run {run['id']} waits for an answer: {run['currentStateName']}")


@dag(
    schedule=None,
    params={"workflow_run_id": Param(type="string", format="uuid", description="The run to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_wait_for_user_input() -> None:
    AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id="{{ params.workflow_run_id }}",
        deferrable=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
        timeout=timedelta(days=7),
        on_awaiting_user_input_callback=tell_somebody,
        user_input_timeout=timedelta(days=2),
    )


anon_wait_for_user_input()
