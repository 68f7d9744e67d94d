"""One DAG of waits, as the JSON file beside it says; the system tests copy this file into Airflow's DAG folder."""

import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

SPEC = json.loads(Path(__file__).with_suffix(".json").read_text())
TEMPLATE = "{{{{ dag_run.conf['ids'][{}] }}}}"

if SPEC["peer"]:
    from airflow.providers.http.sensors.http import HttpSensor
else:
    from airflow_anon.sensors import AnonWorkflowRunSensor

with DAG(
    SPEC["dag_id"],
    schedule=None,
    max_active_runs=100,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1), **SPEC["options"]},
):
    for task_id, ids in SPEC["mapped"].items():
        AnonWorkflowRunSensor.partial(task_id=task_id, **SPEC["task_options"].get(task_id, {})).expand(workflow_run_id=ids)
    for number in range(SPEC["width"]):
        if SPEC["peer"]:
            endpoint = "api/v2/workflow-runs/" + TEMPLATE.format(number)
            HttpSensor(task_id=f"wait_{number}", endpoint=endpoint)
        else:
            AnonWorkflowRunSensor(task_id=f"wait_{number}", workflow_run_id=TEMPLATE.format(number))
