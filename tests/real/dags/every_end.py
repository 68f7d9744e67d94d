"""Every end but a good one, in each way of waiting that reaches it by a path of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Context

from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor

POKE: dict[str, Any] = {"mode": "poke"}
RESCHEDULE: dict[str, Any] = {"mode": "reschedule"}
DEFERRED: dict[str, Any] = {"deferrable": True}
WITHOUT_WORKER: dict[str, Any] = {"start_from_trigger": True, "end_from_trigger": True}
# What takes longest begins before all others, which would otherwise wait for it at the end.
LONG: dict[str, Any] = {"priority_weight": 10}
SHORT: dict[str, Any] = LONG | {"timeout": 20}


def ask(context: Context) -> None:
    """Tell that a person is asked."""
    print(f"asked in state {context['workflow_run']['currentStateName']}")


TASKS: dict[str, dict[str, Any]] = {
    "failed_poke": POKE,
    "failed_deferred": DEFERRED,
    "failed_without_worker": WITHOUT_WORKER,
    "failed_softly": WITHOUT_WORKER | {"soft_fail": True},
    "late_poke": POKE | SHORT,
    "late_reschedule": RESCHEDULE | SHORT,
    "late_deferred": DEFERRED | SHORT,
    "late_without_worker": WITHOUT_WORKER | SHORT,
    "nothing_poke": POKE | {"skip_on_no_action": True},
    "nothing_without_worker": WITHOUT_WORKER | {"skip_on_no_action": True},
    "lost_without_worker": WITHOUT_WORKER | LONG | {"outage_tolerance": 3},
    "asked_reschedule": RESCHEDULE | LONG | {"on_awaiting_user_input_callback": ask},
    "asked_deferred": DEFERRED | LONG | {"on_awaiting_user_input_callback": ask},
}

defaults = {"poke_interval": 1, "timeout": 300, "retries": 1, "retry_delay": timedelta(seconds=1)}
with DAG("every_end", schedule=None, default_args=defaults):
    for name, options in TASKS.items():
        run_id = f"{{{{ dag_run.conf['ids']['{name}'] }}}}"
        AnonWorkflowRunSensor(task_id=name, workflow_run_id=run_id, **options)
    AnonWorkflowRunsSensor(
        task_id="failed_many",
        workflow_run_ids=["{{ dag_run.conf['ids']['failed_many'] }}"],
        **WITHOUT_WORKER,
    )
