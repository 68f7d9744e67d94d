"""Schemathesis makes up requests, sound and unsound, and holds the simulator to its OpenAPI document."""

from __future__ import annotations

import base64
import json
from copy import deepcopy

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core.failures import FailureGroup

from airflow_anon.simulator import Simulator
from airflow_anon.simulator.server import OPENAPI

DOCUMENT = json.loads(OPENAPI.read_text(encoding="utf-8"))
PATH = "/api/v2/workflow-runs/{id}"
RUN_ID = DOCUMENT["paths"][PATH]["get"]["parameters"][0]["example"]
STATUSES = DOCUMENT["components"]["schemas"]["WorkflowRun"]["properties"]["status"]["enum"]
TOKEN = "let-me-in"
EXAMINED = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def demanding(scheme):
    """Return the document of a simulator that lets nobody in without a credential."""
    document = deepcopy(DOCUMENT)
    document["security"] = [{scheme: []}]
    return document


OPEN = schemathesis.openapi.from_dict(DOCUMENT)
BEARER = schemathesis.openapi.from_dict(demanding("bearer"))
BASIC = schemathesis.openapi.from_dict(demanding("basic"))


@pytest.fixture(scope="module")
def api():
    with Simulator() as simulator:
        simulator.create_run(run_id=RUN_ID)
        yield simulator


@pytest.fixture(scope="module")
def bearer():
    with Simulator(token=TOKEN) as simulator:
        simulator.create_run(run_id=RUN_ID)
        yield simulator


@pytest.fixture(scope="module")
def basic():
    with Simulator(token=TOKEN, login="me") as simulator:
        simulator.create_run(run_id=RUN_ID)
        yield simulator


@OPEN.parametrize()
@EXAMINED
def test_whatever_is_asked_the_answer_is_in_the_document(case, api):
    case.call_and_validate(base_url=api.url)


@BEARER.parametrize()
@EXAMINED
def test_a_token_is_demanded(case, bearer):
    case.call_and_validate(base_url=bearer.url, headers={"Authorization": f"Bearer {TOKEN}"})


@BASIC.parametrize()
@EXAMINED
def test_a_login_is_demanded(case, basic):
    shown = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    case.call_and_validate(base_url=basic.url, headers={"Authorization": f"Basic {shown}"})


def judged(api, run_id):
    case = OPEN[PATH]["GET"].Case(path_parameters={"id": run_id})
    return case.call_and_validate(base_url=api.url)


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_of_each_status_is_as_described(api, status):
    answer = judged(api, api.create_run(status))

    assert answer.json()["status"] == status


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        ("503", "Undocumented status code"),
        ("418", "Undocumented status code"),
        ("html", "Undocumented Content-Type"),
        ("empty", "JSON deserialization error"),
        ("garbage", "Content deserialization error"),
    ],
)
def test_the_judge_notices_an_answer_that_is_not_in_the_document(api, fault, noticed):
    run_id = api.create_run()
    api.add_faults(fault, run_id)

    with pytest.raises(FailureGroup) as caught:
        judged(api, run_id)

    assert noticed in {error.title for error in caught.value.exceptions}


@pytest.mark.parametrize("script", ["UNKNOWN:QUEUED", "ENDED:CANCELLED"])
def test_the_judge_notices_a_status_that_is_not_in_the_document(api, script):
    with pytest.raises(FailureGroup) as caught:
        judged(api, api.create_run(script))

    assert {error.title for error in caught.value.exceptions} == {"Response violates schema"}
