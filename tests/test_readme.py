"""The README tells the truth: its tables name what there is."""

from __future__ import annotations

import re
from inspect import Parameter, signature
from pathlib import Path

from airflow_anon.client.endpoint import EXTRAS
from airflow_anon.core.answers import TABLE, as_markdown
from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.sensors import AnonWorkflowRunSensor

ROOT = Path(__file__).parent.parent
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")


def first_cells(heading):
    table = README.partition(heading)[2].partition("\n\n")[0]
    return [row.split("|")[1] for row in table.splitlines()[2:]]


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
    cells = " ".join(first_cells("| the poll says"))

    assert [status for status in WorkflowRunStatus if not re.search(rf"\b{status.value}\b", cells)] == []


def test_every_kind_of_answer_has_a_row():
    cells = " ".join(first_cells("| the poll says"))

    assert [
        row.when
        for row in TABLE[1:]
        for word in row.when.split(", ")
        if word.removeprefix("any ") not in cells
    ] == []


def test_the_documentation_shows_the_table_that_every_mode_goes_by():
    assert as_markdown() in ROOT.joinpath("docs", "waiting.md").read_text(encoding="utf-8")
