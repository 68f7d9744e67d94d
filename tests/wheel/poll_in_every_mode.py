"""
Runs a DAG with a wait in each mode, from the installed package, in a real Airflow.

``python poll_in_every_mode.py DAGS`` is started outside the source tree, in an environment that has Airflow
and the package and nothing else. Its home is the current folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from local_airflow import LocalAirflow
from loopback import AirflowError

import airflow_anon
from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator

MODES = ("poke", "reschedule", "deferred", "without_worker")
TASKS = (*MODES, "fetch", "hooks")
SCRIPT = f"{WorkflowRunStatus.IN_PROGRESS} 1 poll, {WorkflowRunStatus.COMPLETED}"
PATIENCE = 240.0


def main(dags: Path) -> None:
    """Run the DAG, and check what became of each task."""
    where = Path(airflow_anon.__file__)
    assert where.is_relative_to(sys.prefix), f"{where} is not the installed package"
    home = Path.cwd()
    with Simulator(token="let-me-in") as simulator:
        connection = simulator.connection()
        with LocalAirflow(home, dags, AIRFLOW_CONN_ANON_DEFAULT=connection) as airflow:
            airflow.wait_for_dag("every_mode")
            runs = {mode: simulator.create_run(SCRIPT) for mode in MODES}
            body = {"logical_date": None, "conf": {**runs, "fetch": simulator.create_run()}}
            dag_run = airflow.ask("/dags/every_mode/dagRuns", body)
            assert dag_run, "the DAG run was not made"
            path = f"/dags/every_mode/dagRuns/{dag_run['dag_run_id']}"
            wait_for_end(airflow, path)
            instances = tasks(airflow, path)
            states = {name: instances[name]["state"] for name in TASKS}
            assert states == dict.fromkeys(TASKS, "success"), states
            assert not instances["without_worker"]["pid"], "a worker was used"
            for mode in MODES:
                check(airflow, simulator, path, mode, runs[mode])
    print(
        f"{airflow_anon.__version__}: a poll in each of {', '.join(MODES)}, by the operator and by the hook."
    )


def wait_for_end(airflow: LocalAirflow, path: str) -> None:
    """Wait until the DAG run has ended."""
    ends_at = time.monotonic() + PATIENCE
    while (dag_run := airflow.ask(path)) is None or dag_run["state"] not in ("success", "failed"):
        airflow.check()
        if time.monotonic() > ends_at:
            states = {name: one["state"] for name, one in tasks(airflow, path).items()}
            raise AirflowError(f"the DAG run did not end: {states}")
        time.sleep(0.2)


def tasks(airflow: LocalAirflow, path: str) -> dict[str, dict[str, Any]]:
    """Return what Airflow says of each task."""
    answer = airflow.ask(f"{path}/taskInstances")
    assert answer, "Airflow does not answer"
    return {one["task_id"]: one for one in answer["task_instances"]}


def check(airflow: LocalAirflow, simulator: Simulator, path: str, mode: str, run_id: str) -> None:
    """Make sure that a wait polled until its run was over, and handed the run on."""
    assert simulator.requests_for(run_id) >= 2, f"{mode} polled {simulator.requests_for(run_id)} times"
    xcom = airflow.ask(f"{path}/taskInstances/{mode}/xcomEntries/return_value?deserialize=true")
    assert xcom, f"{mode} handed nothing on"
    assert xcom["value"] == simulator.run(run_id), f"{mode} handed on {xcom['value']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
