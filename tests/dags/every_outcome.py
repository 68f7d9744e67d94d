"""A DAG with one wait for each kind of end; the ids come with the DAG run's conf."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor

MODES = {"poke": {"mode": "poke"}, "reschedule": {"mode": "reschedule"}}


@task(trigger_rule="all_done")
def read(run):
    """Hand on what came through XCom."""
    return run


with DAG("every_outcome", schedule=None) as dag:
    for mode, options in MODES.items():
        for name, more in {
            "ok": {},
            "later": {},
            "bad": {"retries": 3},
            "soft": {"soft_fail": True},
            "no_action": {"skip_on_no_action": True},
        }.items():
            AnonWorkflowRunSensor(
                task_id=f"{mode}_{name}",
                workflow_run_id=f"{{{{ dag_run.conf['{name}'] }}}}",
                anon_conn_id="{{ dag_run.conf['conn'] }}",
                poke_interval=0.2,
                timeout=60,
                **options,
                **more,
            )
    fetched = AnonWorkflowRunOperator(task_id="fetch", workflow_run_id="{{ dag_run.conf['bad'] }}")
    read(fetched.output)
