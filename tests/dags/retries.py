"""Waits with the ready-made retry policy: each task ends for another reason."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_anon.retries import anon_retry_policy
from airflow_anon.sensors import AnonWorkflowRunSensor

with DAG(
    "retries",
    schedule=None,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(hours=1),
        "retry_policy": anon_retry_policy(timedelta(seconds=1)),
    },
):
    for name in ("lost", "refused", "bad"):
        wait = AnonWorkflowRunSensor(task_id=name, workflow_run_id=f"{{{{ dag_run.conf.{name} }}}}")
