"""Whatever a run's JSON holds, in every mode: the wait passes, and Airflow's own encoders carry what it hands on."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from airflows_encoders import carried
from any_json import anything, texts
from carry_out import MODES, carry_out, moving_time
from hypothesis import HealthCheck, example, given, settings, strategies as st

from airflow_anon.client.endpoint import Endpoint
from airflow_anon.core.sanitize import fit, read_json
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.simulator import MovableClock, Simulator

pytestmark = pytest.mark.unmeasured
SCRIPT = "PENDING 20s, IN_PROGRESS 40s, COMPLETED"
WORST = {
    "a\0\udfff": [1e400, 2**65, "\ud83d", {"__classname__": "x", "__id__": 1}],
    "__type": "t",
    "__var": 1,
}


def is_one_of_the_apis(name):
    return name in {
        "id",
        "status",
        "workflowId",
        "createdAt",
        "updatedAt",
        "completedAt",
        "createdByUserId",
        "jobRunId",
    }


def as_received(shown):
    return fit(read_json(json.dumps(shown).encode()))


@pytest.mark.parametrize("mode", MODES)
@given(state=texts | st.none(), further=st.dictionaries(texts, anything, max_size=3))
@example(state="done \ud83d\0", further=WORST)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_whatever_a_run_holds_it_passes_and_is_handed_on_in_every_mode(mode, state, further, monkeypatch):
    with (
        Simulator(token="let-me-in", clock=MovableClock()) as simulator,
        monkeypatch.context() as patches,
        moving_time(simulator) as clock,
    ):
        patches.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        run_id = simulator.create_run(SCRIPT)
        polled = simulator._world.poll

        def shown(run_id):
            own = {name: value for name, value in further.items() if not is_one_of_the_apis(name)}
            return {**polled(run_id), **own, "currentStateName": state}

        options = {"task_id": "wait", "poke_interval": 30, "timeout": 3600, **MODES[mode]}
        with mock.patch.object(simulator._world, "poll", shown):
            one = carry_out(lambda: AnonWorkflowRunSensor(workflow_run_id=run_id, **options), clock)
            many = carry_out(lambda: AnonWorkflowRunsSensor(workflow_run_ids=[run_id], **options), clock)
            once = carry_out(lambda: AnonWorkflowRunOperator(task_id="once", workflow_run_id=run_id), clock)
            due = as_received(shown(run_id))

    assert (one.state, many.state, once.state) == ("success", "success", "success")
    assert one.xcom == once.xcom == due
    assert many.xcom == [due]


@given(body=st.binary(max_size=400) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_an_error_says_its_excerpt_is_carried(body):
    endpoint = Endpoint.from_connection("anon", password="let-me-in")

    excerpt = endpoint.excerpt(body)

    assert carried(excerpt) == excerpt
