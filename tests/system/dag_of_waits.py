"""One DAG of waits, as the JSON file beside it says; the system tests copy this file into Airflow's DAG folder."""

import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

SPEC = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

# A worker reads this file for each task, so it imports what its own waits need and nothing else.
if SPEC["peer"]:
    from airflow.providers.http.sensors.http import HttpSensor
else:
    from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor


@task
def begin(number):
    """Stand for a task that starts a run and hands its id on."""
    return get_current_context()["dag_run"].conf["ids"][number]


@task(trigger_rule="all_done")
def read(handed_on):
    """Stand for a task that uses what the waits hand on; what it gets is what it returns."""
    return list(handed_on)


def run_id_for(number):
    """Return where the id of a run comes from: an upstream task, or the conf of the DAG run."""
    if SPEC["upstream"]:
        return begin.override(task_id=f"begin_{number}")(number)
    return f"{{{{ dag_run.conf['ids'][{number}] }}}}"


with DAG(
    SPEC["dag_id"],
    schedule=None,
    max_active_runs=100,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1), **SPEC["options"]},
):
    for task_id, ids in SPEC["mapped"].items():
        options = SPEC["task_options"].get(task_id, {})
        mapped = AnonWorkflowRunSensor.partial(task_id=task_id, **options).expand(workflow_run_id=ids)
        if SPEC["is_read"]:
            read.override(task_id=f"read_{task_id}")(mapped.output)
    waits = []
    for place in range(SPEC["width"]):
        if SPEC["peer"]:
            wait = HttpSensor(task_id=f"wait_{place}", endpoint=f"api/v2/workflow-runs/{run_id_for(place)}")
        elif (together := SPEC["together"]) > 1:
            ids = f"{{{{ dag_run.conf['ids'][{place * together}:{(place + 1) * together}] }}}}"
            wait = AnonWorkflowRunsSensor(task_id=f"wait_{place}", workflow_run_ids=ids)
        else:
            wait = AnonWorkflowRunSensor(task_id=f"wait_{place}", workflow_run_id=run_id_for(place))
        waits.append(wait)
    if SPEC["is_read"] and waits:
        read([wait.output for wait in waits])
