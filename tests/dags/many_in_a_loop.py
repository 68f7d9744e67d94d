"""A DAG that waits for many runs on a worker."""

from airflow.providers.common.compat.sdk import DAG

from airflow_anon.sensors import AnonWorkflowRunsSensor

with DAG("many_in_a_loop", schedule=None, render_template_as_native_obj=True) as dag:
    wait = AnonWorkflowRunsSensor(
        task_id="wait", workflow_run_ids="{{ dag_run.conf.ids }}", poke_interval=0.2, timeout=60
    )
