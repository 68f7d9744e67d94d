"""A DAG that waits for many runs in one task, in several ways; the ids come from tasks before."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_anon.sensors import AnonWorkflowRunsSensor

MODES = {"poke": {"mode": "poke"}, "reschedule": {"mode": "reschedule"}, "deferred": {"deferrable": True}}


@task
def start(ids):
    """Hand the ids on, as a task that starts runs would."""
    return ids


@task
def start_one(number, dag_run=None):
    """Hand one id on, as a mapped task that starts a run would."""
    return dag_run.conf["good"][number]


@task
def count(runs):
    """Count what came through XCom."""
    return len(runs)


with DAG("many_outcomes", schedule=None, render_template_as_native_obj=False) as dag:
    listed = start("{{ dag_run.conf['good'] | tojson }}")
    mapped = start_one.expand(number=[0, 1, 2])
    for mode, options in MODES.items():
        common = {"poke_interval": 0.2, "timeout": 300, **options}
        good = AnonWorkflowRunsSensor(task_id=f"{mode}_good", workflow_run_ids=listed, **common)
        count.override(task_id=f"{mode}_count")(good.output)
        AnonWorkflowRunsSensor(
            task_id=f"{mode}_bad", workflow_run_ids="{{ dag_run.conf['mixed'] }}", retries=3, **common
        )
        AnonWorkflowRunsSensor(
            task_id=f"{mode}_soft", workflow_run_ids="{{ dag_run.conf['mixed'] }}", soft_fail=True, **common
        )
    common = {"poke_interval": 0.2, "timeout": 300}
    AnonWorkflowRunsSensor(task_id="mapped", workflow_run_ids=mapped, **common)
    AnonWorkflowRunsSensor(task_id="jinja", workflow_run_ids="{{ dag_run.conf['good'] }}", **common)
    AnonWorkflowRunsSensor(task_id="none", workflow_run_ids=[], **common)
