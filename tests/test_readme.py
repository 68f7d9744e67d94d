"""The README tells the truth: its DAG loads, and its tables name what there is."""

from __future__ import annotations

import re
from inspect import Parameter, signature
from pathlib import Path

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.settings import EXTRAS

README = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")


def first_cells(heading):
    table = README.partition(heading)[2].partition("\n\n")[0]
    return [row.split("|")[1] for row in table.splitlines()[2:]]


def test_the_dag_loads():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names = {}

    exec(compile(code, "README.md", "exec"), names)

    assert names["wait"].task_id == "wait"
    assert names["wait"].dag.task_ids == ["wait", "report"]


def test_every_parameter_of_the_sensor_is_explained():
    parameters = {
        name
        for kind in AnonWorkflowRunSensor.__mro__[:2]
        for name, parameter in signature(kind.__init__.__wrapped__).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }

    assert set(re.findall(r"`(\w+)`", " ".join(first_cells("| parameter of the sensor")))) == parameters


def test_every_setting_of_extra_is_explained():
    cells = first_cells("in `extra`:\n\n| field")

    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(EXTRAS)


def test_every_status_has_a_row():
    cells = " ".join(first_cells("| the look says"))

    assert [status for status in WorkflowRunStatus if not re.search(rf"\b{status.value}\b", cells)] == []
