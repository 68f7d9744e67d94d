"""The link from a task to its run, as Airflow's pages get it: from a serialised DAG and the database."""

from __future__ import annotations

import json
import runpy
import time
from importlib import import_module
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS
from airflow.utils.session import create_session
from samples import RUN_ID

import airflow_anon.client.aiohttp_client
import airflow_anon.core.policy
import airflow_anon.core.polling
from airflow_anon.client.endpoint import Endpoint
from airflow_anon.links import AnonWorkflowRunLink, plain_xcom, run_url
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.simulator import Simulator

NAME = "Anon run"
TEMPLATE = "https://app.example/workflows/{workflow_id}?run={id}"
WORKFLOW_ID = "7d0c9a35-7f0a-4d07-9d6c-2f1b3c4d5e6f"


@pytest.fixture
def simulator(monkeypatch, hurried_airflow):
    with Simulator(token="let-me-in") as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        monkeypatch.setattr(airflow_anon.core.policy, "SHORTEST_PAUSE", 0.2)
        yield simulator


def serialised(dag):
    module = import_module("airflow.serialization.serialized_objects")
    codec = getattr(module, "DagSerialization", None) or module.SerializedDAG
    return codec.from_dict(codec.to_dict(dag))


def links_of(dag, ti):
    """Answer as ``GET .../taskInstances/{task_id}/links`` does."""
    task = serialised(dag).get_task(ti.task_id)
    return {name: task.get_extra_links(ti, name) or None for name in task.extra_links}


def waits_of(dag):
    """Return the task instances of the DAG's newest run that wait or poll."""
    model = import_module("airflow.models.taskinstance").TaskInstance
    with create_session() as session:
        query = session.query(model).filter(model.dag_id == dag.dag_id, model.task_id == "wait")
        found = query.order_by(model.map_index).all()
        session.expunge_all()
    newest = max((ti.run_id for ti in found), default=None)
    return [ti for ti in found if ti.run_id == newest]


@pytest.fixture
def dags(database):
    return runpy.run_path(str(database / "links.py"))["DAGS"]


def run(dag, **conf):
    dag.test(run_conf=conf)
    return waits_of(dag)


@pytest.fixture
def while_waiting(monkeypatch):
    """Watch what the pages show of a DAG's wait: each time it sleeps, and where."""

    def watch(dag):
        shown = []
        real_sleep, real_asleep = time.sleep, airflow_anon.client.aiohttp_client.coalesced_sleep

        def sleep(seconds):
            for ti in waits_of(dag):
                place = "between two polls" if ti.state == "up_for_reschedule" else "on a worker"
                shown.append((place, links_of(dag, ti)[NAME]))
            real_sleep(seconds)

        async def coalesced_sleep(seconds):
            shown.extend(("in the triggerer", links_of(dag, ti)[NAME]) for ti in waits_of(dag))
            await real_asleep(seconds)

        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(airflow_anon.client.aiohttp_client, "coalesced_sleep", coalesced_sleep)
        return shown

    return watch


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("mode", "where"),
    [
        ("poke", "on a worker"),
        pytest.param(
            "reschedule",
            "between two polls",
            marks=pytest.mark.skipif(
                AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_1_PLUS,
                reason="dag.test() of Airflow 3.0 gives a rescheduled sensor a text for a date",
            ),
        ),
        ("deferred", "in the triggerer"),
        ("no_xcom", "on a worker"),
    ],
)
def test_the_link_is_there_while_a_task_waits_and_when_it_is_over(
    dags, simulator, monkeypatch, while_waiting, mode, where
):
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection(run_url_template=TEMPLATE))
    run_id = simulator.create_run("PENDING 3 polls, COMPLETED")
    shown = while_waiting(dags[mode])

    (ti,) = run(dags[mode], run=run_id)

    workflow_id = simulator.run(run_id)["workflowId"]
    url = f"https://app.example/workflows/{workflow_id}?run={run_id}"
    assert str(ti.state) == "success"
    assert links_of(dags[mode], ti) == {NAME: url}
    assert (where, url) in shown


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", ["deferred", "fetch"])
def test_the_link_is_there_when_the_first_poll_fails_the_task(dags, simulator, name):
    run_id = simulator.create_run("COMPLETED")
    simulator.add_faults("401", run_id)

    (ti,) = run(dags[name], run=run_id)

    assert str(ti.state) == "failed"
    assert links_of(dags[name], ti) == {NAME: f"{simulator.url}/api/v2/workflow-runs/{run_id}"}


@pytest.mark.unmeasured
def test_the_link_leads_to_a_run_that_failed(dags, simulator):
    run_id = simulator.create_run("PENDING 2 polls, FAILED")

    (ti,) = run(dags["deferred"], run=run_id)

    assert str(ti.state) == "failed"
    assert links_of(dags["deferred"], ti) == {NAME: f"{simulator.url}/api/v2/workflow-runs/{run_id}"}


@pytest.mark.unmeasured
def test_there_is_no_link_without_an_id(dags, simulator):
    (ti,) = run(dags["poke"], run="no id")

    assert str(ti.state) == "failed"
    assert links_of(dags["poke"], ti) == {NAME: None}


@pytest.mark.unmeasured
def test_each_index_of_a_mapped_task_leads_to_its_own_run(dags, simulator):
    run_ids = [
        simulator.create_run(script) for script in ("COMPLETED", "PENDING 2 polls, COMPLETED", "FAILED")
    ]

    found = run(dags["mapped"], runs=run_ids)

    assert [(ti.map_index, links_of(dags["mapped"], ti)) for ti in found] == [
        (index, {NAME: f"{simulator.url}/api/v2/workflow-runs/{run_id}"})
        for index, run_id in enumerate(run_ids)
    ]


# The address


def endpoint(template=None, **fields):
    extra = json.dumps({"run_url_template": template} if template else {})
    return Endpoint.from_connection("blue", extra=extra, **fields)


@pytest.mark.parametrize(
    ("template", "url"),
    [
        (None, f"https://worker.anon.com/api/v2/workflow-runs/{RUN_ID}"),
        ("https://app.example/{id}", f"https://app.example/{RUN_ID}"),
        (
            "https://app.example/{workflow_id}/{id}#{id}",
            f"https://app.example/{WORKFLOW_ID}/{RUN_ID}#{RUN_ID}",
        ),
        ("https://app.example/{{id}}", "https://app.example/{id}"),
        ("https://app.example/", "https://app.example/"),
    ],
)
def test_an_address_is_filled_in(template, url):
    assert run_url(endpoint(template), RUN_ID, WORKFLOW_ID) == url


def test_what_is_filled_in_cannot_lead_elsewhere():
    hostile = "../?x=1&y#z@evil.example/ \\\n\u00e4"

    url = run_url(endpoint("https://app.example/{workflow_id}/{id}"), RUN_ID, hostile)

    assert url == f"https://app.example/..%2F%3Fx%3D1%26y%23z%40evil.example%2F%20%5C%0A%C3%A4/{RUN_ID}"


def test_an_address_that_needs_the_workflow_waits_for_it():
    assert run_url(endpoint("https://app.example/{workflow_id}"), RUN_ID, None) is None
    assert run_url(endpoint("https://app.example/{id}"), RUN_ID, None) == f"https://app.example/{RUN_ID}"


def test_no_credential_is_in_an_address():
    where = endpoint(login="jo", password="s3cret-token", host="https://anon.example:8443/base")

    assert run_url(where, RUN_ID, None) == f"https://anon.example:8443/base/api/v2/workflow-runs/{RUN_ID}"


# What Airflow asks for


@pytest.mark.parametrize(
    "kept", ["javascript:alert(1)", "JAVASCRIPT:alert(1)", "data:text/html,x", "", None, 7, ["https://x"]]
)
def test_only_a_web_address_is_a_link(kept, monkeypatch):
    monkeypatch.setattr(plain_xcom(), "get_value", lambda **_: kept)

    assert AnonWorkflowRunLink().get_link(SimpleNamespace(), ti_key=None) == ""


def test_a_link_that_cannot_be_read_is_logged_and_raises_nothing(monkeypatch, caplog):
    def refuse(**_):
        raise RuntimeError("Airflow's database is away")

    monkeypatch.setattr(plain_xcom(), "get_value", refuse)

    assert AnonWorkflowRunLink().get_link(SimpleNamespace(), ti_key=None) == ""
    assert "The link to the run could not be read" in caplog.text


def test_a_task_that_knows_its_link_asks_nobody(monkeypatch):
    monkeypatch.setattr(plain_xcom(), "get_value", None)

    link = AnonWorkflowRunLink().get_link(SimpleNamespace(run_url="https://x.example"), ti_key=None)

    assert link == "https://x.example"


def test_an_xcom_backend_of_its_own_gets_no_links(monkeypatch):
    class Backend(plain_xcom()):
        """Keeps XComs elsewhere."""

    monkeypatch.setattr("airflow.providers.common.compat.sdk.XCom", Backend, raising=False)

    assert plain_xcom() is not Backend


@pytest.mark.parametrize("kind", [AnonWorkflowRunSensor, AnonWorkflowRunOperator])
def test_sensor_and_operator_have_the_link(kind):
    assert kind.operator_extra_links == (AnonWorkflowRunLink(),)
    assert AnonWorkflowRunLink.name == NAME
    assert AnonWorkflowRunLink.xcom_key == "_link_AnonWorkflowRunLink"
