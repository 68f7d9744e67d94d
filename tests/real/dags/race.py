"""A deferred and a rescheduled wait whose run is over at the second poll, as soon as that may be."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_anon.sensors import AnonWorkflowRunSensor

with DAG("race", schedule=None):
    for name, options in {"deferred": {"deferrable": True}, "rescheduled": {"mode": "reschedule"}}.items():
        AnonWorkflowRunSensor(
            task_id=name,
            workflow_run_id=f"{{{{ dag_run.conf['ids']['{name}'] }}}}",
            poke_interval=0.1,
            timeout=600,
            **options,
        )
