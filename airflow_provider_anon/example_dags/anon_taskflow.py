"""
Use the hook in a task of your own: poll a run once, or wait for it right there.

Waiting like this keeps a worker busy, which is fine for seconds. For longer waits there is the
sensor, see ``anon_wait_for_run.py``.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_anon.hooks import AnonHook


@dag(
    schedule=None,
    params={"workflow_run_id": Param(type="string", format="uuid", description="The run to wait for.")},
    doc_md=__doc__,
    tags=["anon"],
)
def anon_taskflow() -> None:

    @task
    def poll(workflow_run_id: str) -> dict[str, Any]:
        """Poll the run once, whatever its status, and hand its JSON on."""
        with AnonHook("anon_default") as hook:
            run = hook.get_workflow_run(workflow_run_id)
        print(f"It is {run.status}, in state {run.current_state_name}, since {run.updated_at}.")
        return run.to_payload()

    @task
    def wait(workflow_run_id: str) -> float | None:
        """Block until the run is over; one that failed raises, and fails this task."""
        with AnonHook("anon_default") as hook:
            run = hook.wait_for_workflow_run(workflow_run_id, poke_interval=2, timeout=600)
        return run.seconds_run

    poll("{{ params.workflow_run_id }}") >> wait("{{ params.workflow_run_id }}")


anon_taskflow()
