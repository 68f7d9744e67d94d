"""Every way of waiting, for one run and for many, and next tasks that use the XComs as a user's do."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task

from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor

MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferred": {"deferrable": True},
    "ends_in_triggerer": {"end_from_trigger": True},
    "without_worker": {"start_from_trigger": True, "end_from_trigger": True},
}


def id_of(name: str) -> str:
    """Return the template of a run's id."""
    return f"{{{{ dag_run.conf['ids']['{name}'] }}}}"


def is_right(name: str, run: Any) -> bool:
    """Say whether an XCom is the run that was served, as it should come through."""
    conf = get_current_context()["dag_run"].conf
    return isinstance(run, dict) and run["id"] == conf["ids"][name] and run == conf["runs"][name]


@task
def use_runs(runs: dict[str, Any]) -> None:
    """Take the XCom of sensors for one run."""
    wrong = {name: run for name, run in runs.items() if not is_right(name, run)}
    assert not wrong, wrong


@task
def use_lists(lists: dict[str, Any]) -> None:
    """Take the XCom of sensors for many runs, or of mapped tasks: a plain run and an odd one."""
    wrong = {}
    for name, runs in lists.items():
        found = list(runs)
        rights = [is_right(f"{name}_{number}", run) for number, run in enumerate(found)]
        if rights != [True, True]:
            wrong[name] = found
    assert not wrong, wrong


with DAG("every_way", schedule=None, default_args={"poke_interval": 1, "timeout": 300}):
    ones, lists = {}, {}
    for mode, options in MODES.items():
        name = f"one_{mode}"
        ones[name] = AnonWorkflowRunSensor(task_id=name, workflow_run_id=id_of(name), **options).output
        name = f"many_{mode}"
        many = AnonWorkflowRunsSensor(
            task_id=name, workflow_run_ids=[id_of(f"{name}_0"), id_of(f"{name}_1")], **options
        )
        lists[name] = many.output
    for mode in ("deferred", "without_worker"):
        name = f"mapped_{mode}"
        mapped = AnonWorkflowRunSensor.partial(task_id=name, **MODES[mode]).expand(
            workflow_run_id=[id_of(f"{name}_0"), id_of(f"{name}_1")]
        )
        lists[name] = mapped.output
    name = "one_operator"
    ones[name] = AnonWorkflowRunOperator(task_id=name, workflow_run_id=id_of(name)).output
    use_runs(ones)
    use_lists(lists)
