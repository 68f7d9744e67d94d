"""Prism makes an API of the OpenAPI document by itself, and the package's hook and sensor use it."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout
from carry_out import MODES, carry_out, moving_time
from judges.programs import find
from loopback import free_port

from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonNotFoundError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.simulator.server import OPENAPI

GET = json.loads(OPENAPI.read_text(encoding="utf-8"))["paths"]["/api/v2/workflow-runs/{id}"]["get"]
RUN_ID = GET["parameters"][0]["example"]
EXAMPLES = {
    name: example["value"]
    for name, example in GET["responses"]["200"]["content"]["application/json"]["examples"].items()
}


@pytest.fixture(scope="module")
def port(serve):
    number = free_port()
    serve([find("prism"), "mock", "-h", "127.0.0.1", "-p", str(number), str(OPENAPI)], number)
    return number


@pytest.fixture
def prefer(port, monkeypatch):
    """Let the mock answer with one example, or one status."""

    def prefer(which):
        connection = {
            "conn_type": "anon",
            "host": "http://127.0.0.1",
            "port": port,
            "password": "token",
            "extra": {"headers": {"Prefer": which}},
        }
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    return prefer


@pytest.fixture
def clock():
    class Timeless:
        def advance(self, seconds):
            """Leave the mock alone, which knows no time."""

    with moving_time(Timeless()) as clock:
        yield clock


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_hook_reads_every_example(polled, prefer, name):
    prefer(f"example={name}")

    run = polled(RUN_ID)

    assert run.to_payload() == EXAMPLES[name]
    assert run.is_known


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, AnonRejectedError), (401, AnonAuthenticationError), (404, AnonNotFoundError)],
)
def test_the_hook_tells_what_else_the_document_has(polled, prefer, clock, status, error):
    prefer(f"code={status}")

    with pytest.raises(error) as caught:
        polled(RUN_ID)

    assert caught.value.status_code == status


def test_the_example_is_not_taken_for_another_run(polled, prefer, clock):
    prefer("example=completed")

    with pytest.raises(AnonUnavailableError, match=RUN_ID):
        polled("11111111-2222-4333-8444-555555555555")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "state", "error"),
    [
        ("completed", "success", None),
        ("no_action", "success", None),
        ("failed", "failed", AnonWorkflowRunFailedError),
        ("pending", "failed", AirflowSensorTimeout),
        ("running", "failed", AirflowSensorTimeout),
        ("awaiting", "failed", AirflowSensorTimeout),
    ],
)
def test_the_sensor_ends_as_each_example_says(prefer, clock, mode, name, state, error):
    prefer(f"example={name}")

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=RUN_ID, timeout=300, **MODES[mode]),
        clock,
    )

    assert story.state == state
    assert story.xcom == (EXAMPLES[name] if error is None else None)
    assert error is None or isinstance(story.error, error)
