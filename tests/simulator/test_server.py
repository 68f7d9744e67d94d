"""The simulated API as clients see it, over real sockets."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from airflow_anon.runs import DECISIVE, FURTHER
from airflow_anon.simulator import Simulator

Poll = Callable[[str], requests.Response]
RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
OPENAPI = json.loads(
    (Path(__file__).parents[2] / "airflow_anon" / "simulator" / "openapi.json").read_text(encoding="utf-8")
)


def assert_conforms(response: requests.Response) -> None:
    answers = OPENAPI["paths"]["/api/v2/workflow-runs/{id}"]["get"]["responses"]
    schema = answers[str(response.status_code)]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(response.json())


@pytest.mark.parametrize(
    "script",
    [
        "PENDING",
        "IN_PROGRESS (post_invoice) 1s, COMPLETED",
        "AWAITING_USER_INPUT until answered, COMPLETED",
        "COMPLETED",
        "COMPLETED_WITH_NO_ACTION_TAKEN",
        "FAILED",
        "MISSING",
    ],
)
def test_answers_about_runs_conform_to_the_openapi_document(
    simulator: Simulator, polled: Poll, script: str
) -> None:
    response = polled(simulator.create_run(script))

    assert_conforms(response)


@pytest.mark.parametrize(("run_id", "status"), [(RUN_ID, 404), ("42", 400), ("%20" + RUN_ID, 400)])
def test_answers_about_no_run_conform_too(polled: Poll, run_id: str, status: int) -> None:
    response = polled(run_id)

    assert response.status_code == status
    assert_conforms(response)


def test_the_openapi_document_is_served_and_its_examples_are_right(simulator: Simulator) -> None:
    document = requests.get(f"{simulator.url}/openapi.json", timeout=2).json()

    assert document == OPENAPI
    for answer in OPENAPI["paths"]["/api/v2/workflow-runs/{id}"]["get"]["responses"].values():
        content = answer["content"]["application/json"]
        examples = content.get("examples", {"only": {"value": content.get("example")}})
        for example in examples.values():
            schema = {**content["schema"], "components": OPENAPI["components"]}
            jsonschema.Draft202012Validator(schema).validate(example["value"])


def test_the_openapi_document_has_the_fields_that_the_package_reads() -> None:
    schema = OPENAPI["components"]["schemas"]["WorkflowRun"]

    assert set(schema["required"]) == {name for name, *_ in (*DECISIVE, *FURTHER)}


def test_a_run_is_seen_on_its_way(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run("PENDING 2s, IN_PROGRESS until answered, COMPLETED")
    story = [polled(run_id).json()["status"]]
    simulator.advance(2)
    story.append(polled(run_id).json()["status"])
    simulator.answer(run_id)
    story.append(polled(run_id).json()["status"])

    assert story == ["PENDING", "IN_PROGRESS", "COMPLETED"]


def test_a_status_fault_is_answered_once_each(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults('503 x2, 429 retry-after=7, 418 body="tea", 204')

    answers = [polled(run_id) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [503, 503, 429, 418, 204, 200]
    assert answers[2].headers["Retry-After"] == "7"
    assert answers[3].text == "tea"


def test_a_request_that_is_turned_down_is_no_poll(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run("PENDING 1 poll, COMPLETED")
    simulator.add_faults("503, html")

    statuses = [polled(run_id).status_code, polled(run_id).status_code]

    assert statuses == [503, 200]
    assert polled(run_id).json()["status"] == "PENDING"


def test_slow_answers_late(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults("slow 50ms")

    answer = polled(run_id)

    assert answer.json()["status"] == "COMPLETED"
    assert answer.elapsed.total_seconds() >= 0.05


def test_hang_never_answers(simulator: Simulator) -> None:
    simulator.add_faults("hang")

    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{simulator.url}/api/v2/workflow-runs/{simulator.create_run()}", timeout=0.05)


@pytest.mark.parametrize("fault", ["drip 0.1ms", "drip-headers 0.1ms"])
def test_a_dripping_answer_is_whole_in_the_end(simulator: Simulator, polled: Poll, fault: str) -> None:
    run_id = simulator.create_run()
    simulator.add_faults(fault)

    assert polled(run_id).json()["id"] == run_id


def test_drip_sends_the_headers_at_once_and_the_body_byte_by_byte(simulator: Simulator) -> None:
    simulator.add_faults("drip 1h")

    received = receive(simulator, until=b"\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n")


def test_drip_headers_holds_the_headers_back_too(simulator: Simulator) -> None:
    simulator.add_faults("drip-headers 10ms")

    assert receive(simulator, until=b"HT")[:2] == b"HT"


def receive(simulator: Simulator, *, until: bytes) -> bytes:
    request = f"GET /api/v2/workflow-runs/{simulator.create_run()} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=2) as connection:
        connection.sendall(request.encode())
        while until not in received:
            received += connection.recv(4096)
    return received


def test_cut_closes_after_half_of_the_body(simulator: Simulator) -> None:
    simulator.add_faults("cut")
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=2)
    connection.request("GET", f"/api/v2/workflow-runs/{simulator.create_run()}")
    response = connection.getresponse()

    with pytest.raises(http.client.IncompleteRead) as caught:
        response.read()
    connection.close()

    assert abs(len(caught.value.partial) - (caught.value.expected or 0)) <= 1


def test_reset_breaks_the_connection(simulator: Simulator) -> None:
    simulator.add_faults("reset")
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=2)
    connection.request("GET", f"/api/v2/workflow-runs/{simulator.create_run()}")

    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    connection.close()


@pytest.mark.parametrize("fault", ["garbage", "html", "empty"])
def test_some_answers_are_no_json(simulator: Simulator, polled: Poll, fault: str) -> None:
    simulator.add_faults(fault)

    answer = polled(simulator.create_run())

    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()


def test_wrong_id_tells_of_another_run(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults("wrong-id x2")

    answer = polled(run_id)

    assert_conforms(answer)
    assert answer.json()["id"] != run_id
    assert polled(RUN_ID).status_code == 404


@pytest.mark.parametrize(
    ("fault", "header"), [("huge", "Content-Length"), ("huge-chunked", "Transfer-Encoding")]
)
def test_huge_is_a_right_answer_of_2_mib(simulator: Simulator, polled: Poll, fault: str, header: str) -> None:
    run_id = simulator.create_run()
    simulator.add_faults(fault)

    answer = polled(run_id)

    assert len(answer.content) == 2 * 1024 * 1024
    assert answer.json()["id"] == run_id
    assert header in answer.headers


def test_redirect_points_elsewhere_and_who_follows_is_counted(simulator: Simulator) -> None:
    simulator.add_faults("redirect")

    answer = requests.get(f"{simulator.url}/api/v2/workflow-runs/{simulator.create_run()}", timeout=2)

    assert answer.history[0].status_code == 302
    assert answer.url == f"{simulator.url}/elsewhere"
    assert simulator.requests == 2


BASIC = base64.b64encode(b"me:secret").decode()


@pytest.mark.parametrize(
    ("options", "header", "right", "wrong"),
    [
        ({}, "Authorization", "Bearer secret", "Bearer other"),
        ({}, "Authorization", "Bearer secret", "secret"),
        ({}, "Authorization", "Bearer secret", "Bearer sécret"),
        ({}, "Authorization", "Bearer secret", "Bearer s\udcffcret"),
        ({"credential_header": "X-Api-Key"}, "X-Api-Key", "secret", "s\udcffcret t"),
        ({"login": "me"}, "Authorization", f"Basic {BASIC}", "Bearer secret"),
        ({"credential_header": "X-Api-Key"}, "X-Api-Key", "secret", "other"),
        ({"credential_header": "X-Api-Key"}, "X-Api-Key", "Token secret", "Token other"),
    ],
)
def test_who_shows_no_or_a_wrong_credential_gets_401(
    options: dict[str, Any], header: str, right: str, wrong: str
) -> None:
    with Simulator(token="secret", **options) as simulator:
        url = f"{simulator.url}/api/v2/workflow-runs/{simulator.create_run()}"
        answers = [
            requests.get(url, timeout=2, headers=headers)
            for headers in ({header: right}, {header: wrong.encode(errors="surrogateescape")}, {})
        ]

    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert_conforms(answers[1])


def test_a_token_can_be_rotated(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.token = "new"

    assert simulator.token == "new"
    assert polled(run_id).status_code == 401


def test_requests_and_connections_are_counted(simulator: Simulator, polled: Poll) -> None:
    first, second = simulator.create_run(), simulator.create_run()
    before = time.monotonic()
    polled(first)
    polled(first)
    polled(second.upper())
    requests.get(f"{simulator.url}/api/v2/workflow-runs/{second}", timeout=2, headers={"X-Who": "me"})

    assert (simulator.requests, simulator.connections) == (4, 2)
    assert (simulator.requests_for(first), simulator.requests_for(second)) == (2, 2)
    assert before <= min(simulator.arrivals) <= max(simulator.arrivals) <= time.monotonic()
    assert len(simulator.arrivals) == 4
    assert simulator.last_headers["X-Who"] == "me"


def test_asking_the_simulator_itself_is_not_counted(simulator: Simulator) -> None:
    simulator.run(simulator.create_run())
    requests.get(f"{simulator.control_url}/runs", timeout=2)
    requests.get(f"{simulator.url}/openapi.json", timeout=2)

    assert (simulator.requests, simulator.connections) == (0, 0)


def test_dropped_connections_are_opened_anew(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    polled(run_id)
    simulator.drop_connections()

    assert polled(run_id).status_code == 200
    assert simulator.connections == 2


def test_in_an_outage_connections_are_refused_until_it_is_over(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    polled(run_id)
    port = simulator.port
    simulator.outage(30)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    simulator.advance(29)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)

    simulator.advance(1)

    assert polled(run_id).status_code == 200
    assert simulator.port == port


def test_an_outage_breaks_requests_under_way(simulator: Simulator) -> None:
    simulator.add_faults("hang")
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=2)
    connection.request("GET", f"/api/v2/workflow-runs/{simulator.create_run()}")
    while not simulator.requests:
        time.sleep(0.001)
    simulator.start_outage()

    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


def test_an_outage_by_the_real_clock_ends_by_itself() -> None:
    with Simulator() as simulator:
        simulator.outage(3600)
        simulator.outage(0.02)
        url = f"{simulator.url}/api/v2/workflow-runs/{RUN_ID}"
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                assert requests.get(url, timeout=2).status_code == 404
                break
            except requests.exceptions.ConnectionError:
                time.sleep(0.005)
        else:
            pytest.fail("it did not come back")


@pytest.mark.parametrize("kind", ["503", "429"])
def test_an_outage_can_turn_every_request_down(simulator: Simulator, polled: Poll, kind: str) -> None:
    run_id = simulator.create_run()
    simulator.start_outage(kind, retry_after="7")
    answers = [polled(run_id), polled(run_id)]
    simulator.stop_outage()

    assert [answer.status_code for answer in answers] == [int(kind), int(kind)]
    assert answers[0].headers["Retry-After"] == "7"
    assert polled(run_id).status_code == 200


@pytest.mark.parametrize("base_path", ["/anon", "anon/", "/anon/"])
def test_the_api_may_stand_under_a_base_path(base_path: str) -> None:
    with Simulator(base_path=base_path) as simulator:
        run_id = simulator.create_run()
        under = requests.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}", timeout=2)
        beside = requests.get(f"http://127.0.0.1:{simulator.port}/api/v2/workflow-runs/{run_id}", timeout=2)

    assert simulator.url.endswith("/anon")
    assert (under.status_code, beside.status_code) == (200, 404)
