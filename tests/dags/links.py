"""DAGs of one wait, or one poll, each; the id comes with the DAG run's conf."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor

MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferred": {"deferrable": True},
    "no_xcom": {"do_xcom_push": False},
}
RUN = "{{ dag_run.conf['run'] }}"

DAGS = {}
for name, options in MODES.items():
    with DAG(f"link_{name}", schedule=None) as DAGS[name]:
        AnonWorkflowRunSensor(task_id="wait", workflow_run_id=RUN, poke_interval=0.2, timeout=60, **options)

with DAG("link_fetch", schedule=None) as DAGS["fetch"]:
    AnonWorkflowRunOperator(task_id="wait", workflow_run_id=RUN)


@task
def ids(dag_run=None):
    """Return the ids to wait for."""
    return dag_run.conf["runs"]


with DAG("link_mapped", schedule=None) as DAGS["mapped"]:
    AnonWorkflowRunSensor.partial(task_id="wait", poke_interval=0.2, timeout=60, deferrable=True).expand(
        workflow_run_id=ids()
    )

globals().update(DAGS)
