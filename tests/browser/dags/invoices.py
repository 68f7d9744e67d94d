"""A DAG that waits in every mode, for a run each; the ids come with the DAG run's conf."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor

MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule", "poke_interval": 300},
    "deferred": {"deferrable": True},
    "without_worker": {"start_from_trigger": True, "end_from_trigger": True},
    "failed": {"deferrable": True},
}


@task
def start_runs(dag_run=None):
    """Return the ids to map over."""
    return dag_run.conf["mapped"]


with DAG("invoices", schedule=None):
    for name, options in MODES.items():
        AnonWorkflowRunSensor(
            task_id=name,
            workflow_run_id=f"{{{{ dag_run.conf['{name}'] }}}}",
            **{"poke_interval": 1, "timeout": 3600, **options},
        )
    AnonWorkflowRunOperator(task_id="poll", workflow_run_id="{{ dag_run.conf['poll'] }}")
    AnonWorkflowRunSensor.partial(task_id="mapped", deferrable=True, poke_interval=1, timeout=3600).expand(
        workflow_run_id=start_runs()
    )
