"""Whole DAGs, run by Airflow itself against its metadata database: the example DAGs, and every end."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator

import airflow_anon.protocol
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.simulator import Simulator

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def database():
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    folder.mkdir(exist_ok=True)
    for source in (HERE / "dags", HERE.parent / "example_dags"):
        for file in source.glob("*.py"):
            shutil.copy(file, folder)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return folder


@pytest.fixture
def api(monkeypatch):
    with Simulator(token="let-me-in") as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        monkeypatch.setattr(airflow_anon.protocol, "SHORTEST_PAUSE", 0.2)
        yield simulator


def run_dag(folder, name, conf):
    names = runpy.run_path(str(folder / f"{name}.py"))
    dag = next(
        value.dag
        for value in names.values()
        if isinstance(value, BaseSensorOperator | AnonWorkflowRunOperator)
    )
    dag_run = dag.test(run_conf=conf)
    return dag_run, {ti.task_id: ti for ti in dag_run.get_task_instances()}


@pytest.mark.timeout(300)
def test_every_end_is_what_airflow_records(database, api):
    conf = {
        "ok": api.create_run("COMPLETED"),
        "later": api.create_run("PENDING 1 looks, IN_PROGRESS 1 looks, COMPLETED"),
        "bad": api.create_run("FAILED (post_invoice)"),
        "soft": api.create_run("FAILED"),
        "no_action": api.create_run("COMPLETED_WITH_NO_ACTION_TAKEN"),
        "conn": "anon_default",
    }

    _, tasks = run_dag(database, "every_outcome", conf)

    states = {task_id: str(ti.state) for task_id, ti in tasks.items()}
    for mode in ("poke", "reschedule"):
        assert states[f"{mode}_ok"] == states[f"{mode}_later"] == "success"
        assert states[f"{mode}_bad"] == "failed"
        assert states[f"{mode}_soft"] == states[f"{mode}_no_action"] == "skipped"
        assert tasks[f"{mode}_ok"].xcom_pull(task_ids=f"{mode}_ok") == api.run(conf["ok"])
    assert states["fetch"] == states["read"] == "success"
    assert tasks["read"].xcom_pull(task_ids="read") == api.run(conf["bad"])


@pytest.mark.timeout(300)
def test_many_runs_are_waited_for_in_one_task(database, api):
    good = [api.create_run(f"PENDING {looks} looks, COMPLETED") for looks in (1, 2, 3)]
    mixed = [*good, api.create_run("PENDING 2 looks, FAILED (post_invoice)")]

    _, tasks = run_dag(database, "many_outcomes", {"good": good, "mixed": mixed})

    states = {task_id: str(ti.state) for task_id, ti in tasks.items()}
    for mode in ("poke", "reschedule", "deferred"):
        ends = {"good": "success", "jinja": "success", "mapped": "success", "none": "success"}
        ends |= {"count": "success", "bad": "failed", "soft": "skipped"}
        assert {name: states[f"{mode}_{name}"] for name in ends} == ends
        for name in ("good", "jinja", "mapped"):
            task_id = f"{mode}_{name}"
            assert tasks[task_id].xcom_pull(task_ids=task_id) == [api.run(run_id) for run_id in good]
        assert tasks[f"{mode}_none"].xcom_pull(task_ids=f"{mode}_none") == []
        assert tasks[f"{mode}_count"].xcom_pull(task_ids=f"{mode}_count") == 3


def test_the_example_waits_for_a_run_and_hands_its_json_on(database, api):
    run_id = api.create_run("PENDING 1 looks, COMPLETED")

    dag_run, tasks = run_dag(database, "anon_wait_for_run", {"workflow_run_id": run_id})

    assert str(dag_run.state) == "success"
    assert {str(ti.state) for ti in tasks.values()} == {"success"}
