"""The control API, as curl would use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_anon.simulator.control import NEWEST

if TYPE_CHECKING:
    from airflow_anon.simulator import Simulator

Poll = Callable[[str], requests.Response]
RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
WAITING = "AWAITING_USER_INPUT until answered, COMPLETED_WITH_NO_ACTION_TAKEN"


def post(simulator: Simulator, path: str, wish: Any = None) -> requests.Response:
    return requests.post(f"{simulator.control_url}/{path}", json=wish, timeout=2)


def test_a_run_is_created(simulator: Simulator, polled: Poll) -> None:
    wish = {"script": "PENDING 1 poll, FAILED", "id": RUN_ID, "workflow_id": RUN_ID}

    created = post(simulator, "runs", wish)

    assert created.status_code == 201
    assert created.json()["id"] == RUN_ID
    assert created.json()["run"]["workflowId"] == RUN_ID
    assert requests.get(created.json()["url"], timeout=2).json()["status"] == "PENDING"
    assert polled(RUN_ID).json()["status"] == "FAILED"


def test_a_run_is_created_from_nothing(simulator: Simulator) -> None:
    assert post(simulator, "runs").json()["run"]["status"] == "COMPLETED"


def test_runs_are_listed_without_polling_them(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run("PENDING 2 polls, COMPLETED")
    polled(run_id)

    listed = [requests.get(f"{simulator.control_url}/runs", timeout=2).json()["runs"] for _ in range(3)]

    assert [(run["id"], run["polls"], run["run"]["status"]) for run in listed[-1]] == [(run_id, 1, "PENDING")]


@pytest.mark.parametrize(
    ("move", "status"),
    [("answer", "COMPLETED_WITH_NO_ACTION_TAKEN"), ("complete", "COMPLETED"), ("fail", "FAILED")],
)
def test_a_run_is_moved(simulator: Simulator, polled: Poll, move: str, status: str) -> None:
    run_id = simulator.create_run(WAITING)

    moved = post(simulator, f"runs/{run_id}/{move}")

    assert moved.json()["run"]["status"] == status
    assert polled(run_id).json()["status"] == status


def test_faults_are_added_for_one_run_or_for_any(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    post(simulator, "faults", {"faults": "500"})

    added = post(simulator, "faults", {"faults": "502 x1", "run": run_id})

    assert added.json() == {"faults_left": 2}
    assert [polled(run_id).status_code for _ in range(3)] == [502, 500, 200]


def test_an_outage_is_announced_before_it_begins(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()

    answer = post(simulator, "outage", {"seconds": 30})
    eventually(lambda: is_refused(simulator))
    simulator.advance(30)

    assert answer.status_code == 202
    assert polled(run_id).status_code == 200


def is_refused(simulator: Simulator) -> bool:
    try:
        requests.get(f"{simulator.control_url}/stats", timeout=2)
    except requests.exceptions.ConnectionError:
        return True
    return False


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_outage_may_be_one_of_answers(simulator: Simulator, polled: Poll) -> None:
    post(simulator, "outage", {"seconds": 30, "kind": "429", "retry_after": 7})

    answer = polled(RUN_ID)

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_stats_tell_what_was_counted(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults("503, 503")
    polled(run_id)

    stats = requests.get(f"{simulator.control_url}/stats", timeout=2).json()

    assert (stats["requests"], stats["connections"], stats["faults_left"]) == (1, 1, 1)
    assert stats["requests_by_run"] == {run_id: 1}
    assert len(stats["arrivals"]) == 1
    assert stats["last_headers"]["Host"] == f"127.0.0.1:{simulator.port}"


def overview(simulator: Simulator) -> dict[str, Any]:
    return requests.get(f"{simulator.control_url}/overview", timeout=2).json()


def test_the_overview_tells_what_a_run_went_through(simulator: Simulator, polled: Poll) -> None:
    script = "MISSING 1 poll, PENDING 2s, AWAITING_USER_INPUT (approve) until answered, COMPLETED"
    run_id = simulator.create_run(script, workflow_id=RUN_ID)
    polled(run_id)
    polled(run_id)
    simulator.advance(5)
    polled(run_id)
    simulator.fail(run_id)
    simulator.advance(1)

    shown = overview(simulator)
    (run,) = shown["runs"]

    assert (run["id"], run["workflow_id"], run["script"]) == (run_id, RUN_ID, script)
    assert (run["polls"], run["waits_for_answer"]) == (3, False)
    assert shown["now"] == 1_700_000_006.25
    assert run["history"] == [
        {"status": None, "state": None, "since": 1_700_000_000.25, "polls": 1, "ended": False},
        {"status": "PENDING", "state": None, "since": 1_700_000_000.25, "polls": 1, "ended": False},
        {
            "status": "AWAITING_USER_INPUT",
            "state": "approve",
            "since": 1_700_000_002.25,
            "polls": 1,
            "ended": False,
        },
        {"status": "FAILED", "state": "approve", "since": 1_700_000_005.25, "polls": 0, "ended": True},
    ]


def test_a_listed_run_tells_whether_it_can_be_answered(simulator: Simulator) -> None:
    run_id = simulator.create_run(WAITING)

    assert overview(simulator)["runs"][0]["waits_for_answer"] is True
    assert post(simulator, f"runs/{run_id}/answer").json()["waits_for_answer"] is False


def test_the_overview_has_the_newest_runs_and_says_how_many_are_older(simulator: Simulator) -> None:
    run_ids = [simulator.create_run() for _ in range(NEWEST + 2)]

    shown = overview(simulator)

    assert [run["id"] for run in shown["runs"]] == run_ids[:1:-1]
    assert shown["older_runs"] == 2


def test_the_overview_tells_what_goes_wrong(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults("503 x2, slow 1ms, hang")
    for _ in range(3):
        polled(run_id)
    post(simulator, "outage", {"seconds": 30, "kind": "429"})
    simulator.advance(10)

    shown = overview(simulator)

    assert shown["outage"] == {"kind": "429", "seconds_left": 20}
    assert shown["faults_left"] == 1
    assert shown["spoilt"] == [
        {"at": 1_700_000_000.25, "run_id": run_id, "fault": fault} for fault in ("503", "503", "slow")
    ]
    assert (shown["requests"], shown["connections"]) == (3, 1)


def test_the_overview_of_a_quiet_simulator(simulator: Simulator) -> None:
    assert overview(simulator) == {
        "now": 1_700_000_000.25,
        "runs": [],
        "older_runs": 0,
        "outage": None,
        "faults_left": 0,
        "spoilt": [],
        "requests": 0,
        "connections": 0,
    }


def test_an_outage_with_no_end_has_no_seconds_left(simulator: Simulator) -> None:
    simulator.start_outage("503")

    assert overview(simulator)["outage"] == {"kind": "503", "seconds_left": None}


def test_an_outage_is_ended(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.outage(30, "503")

    ended = requests.delete(f"{simulator.control_url}/outage", timeout=2)

    assert (ended.status_code, ended.json()) == (200, {})
    assert polled(run_id).status_code == 200


def test_a_reset_forgets_runs_and_counts(simulator: Simulator, polled: Poll) -> None:
    run_id = simulator.create_run()
    simulator.add_faults("slow 1ms")
    polled(run_id)

    requests.delete(f"{simulator.control_url}/", timeout=2)

    assert simulator.requests == 0
    assert overview(simulator)["spoilt"] == []
    assert polled(run_id).status_code == 404


@pytest.mark.parametrize(
    ("path", "wish", "status", "message"),
    [
        ("runs", {"script": "PENDNG"}, 400, "did you mean PENDING?"),
        ("runs", {"scripts": "PENDING"}, 400, "'scripts' is not known here; right are script, id"),
        ("runs", {"script": 5}, 400, "script: 5 is of the wrong kind"),
        ("runs", ["PENDING"], 400, "a JSON object is expected"),
        ("runs", {"id": "42"}, 400, "not the id of a workflow run"),
        (f"runs/{RUN_ID}/answer", None, 404, f"there is no run {RUN_ID}"),
        ("faults", {"faults": "boom"}, 400, "fault 1, 'boom'"),
        ("outage", {"kind": "503"}, 400, "seconds: how long"),
        ("outage", {"seconds": 1, "kind": "504"}, 400, "not a kind of outage"),
    ],
)
def test_a_wrong_wish_is_explained(
    simulator: Simulator, path: str, wish: Any, status: int, message: str
) -> None:
    answer = post(simulator, path, wish)

    assert answer.status_code == status
    assert message in answer.json()["message"]


def test_what_is_no_json_is_explained(simulator: Simulator) -> None:
    answer = requests.post(f"{simulator.control_url}/runs", data="{", timeout=2)

    assert answer.status_code == 400
