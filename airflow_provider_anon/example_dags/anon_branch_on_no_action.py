"""
Go one way after a run that did its work, and another after a run that found nothing to do.

Trigger this DAG with the id of a run. Both ways of doing it are shown: with a branch, and with a
sensor that skips itself, which skips what comes after it as well.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.sensors import AnonWorkflowRunSensor


@dag(
    schedule=None,
    params={"workflow_run_id": Param(type="string", format="uuid", description="The run to wait for.")},
    default_args={"poke_interval": 2},  # for the demo; the usual 60 suits most runs
    doc_md=__doc__,
    tags=["anon"],
)
def anon_branch_on_no_action() -> None:
    wait = AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id="{{ params.workflow_run_id }}", deferrable=True
    )

    @task.branch
    def choose(run: dict[str, Any]) -> str:
        """Return the id of the task to go on with: the XCom of the sensor is the run's JSON."""
        return "tell_nobody" if run["status"] == "COMPLETED_WITH_NO_ACTION_TAKEN" else "publish"

    @task
    def publish() -> None:
        """Publish what the run has made."""
        print("There is something new.")

    @task
    def tell_nobody() -> None:
        """Do what is to be done when nothing is new."""
        print("Nothing is new.")

    choose(wait.output) >> [publish(), tell_nobody()]

    wait_or_skip = AnonWorkflowRunSensor(
        task_id="wait_or_skip",
        workflow_run_id="{{ params.workflow_run_id }}",
        skip_on_no_action=True,
        deferrable=True,
    )

    wait_or_skip >> publish.override(task_id="publish_unless_skipped")()


anon_branch_on_no_action()
