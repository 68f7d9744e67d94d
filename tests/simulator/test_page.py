"""The page that the simulator serves, and who may steer from a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator
from airflow_anon.simulator.scripts import parse_script

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "airflow_anon" / "simulator" / "page.html").read_text(encoding="utf-8")


def answer_to(
    simulator: Simulator, method: str, path: str, headers: dict[str, str], body: str = ""
) -> requests.Response:
    url = f"http://127.0.0.1:{simulator.port}{path}"
    return requests.request(method, url, headers=headers, data=body, timeout=2)


def test_the_page_is_served_and_counts_as_no_request(simulator: Simulator) -> None:
    answer = requests.get(simulator.page_url, timeout=2)

    assert answer.text == PAGE
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert (simulator.requests, simulator.connections) == (0, 0)


def test_the_page_stands_at_the_root_whatever_the_base_path() -> None:
    with Simulator(base_path="/anon") as simulator:
        answer = requests.get(simulator.page_url, timeout=2)

    assert simulator.page_url == f"http://127.0.0.1:{simulator.port}/"
    assert answer.status_code == 200


def test_the_policy_lets_in_the_page_s_own_script_and_style_and_nothing_else(simulator: Simulator) -> None:
    policy = requests.get(simulator.page_url, timeout=2).headers["Content-Security-Policy"]
    rules = {name: rest for name, _, rest in (rule.partition(" ") for rule in policy.split("; "))}
    hashes = {
        tag: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag, text in re.findall(r"<(style|script)>(.*?)</\1>", PAGE, re.DOTALL)
    }

    assert rules == {
        "default-src": "'none'",
        "script-src": f"'sha256-{hashes['script']}'",
        "style-src": f"'sha256-{hashes['style']}'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_the_page_names_no_other_address_and_writes_no_markup() -> None:
    assert re.findall(r"https?://|//[a-z]", PAGE) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", PAGE) == []


def test_the_ready_examples_can_be_read_and_show_every_status() -> None:
    scripts = re.findall(r'<option value="([^"]+,[^"]+)">', PAGE)
    shown = {step.status for script in scripts for step in parse_script(script)}

    assert shown >= set(WorkflowRunStatus)


def test_every_status_has_a_colour() -> None:
    coloured = set(re.findall(r'\[data-status="(\w+)"\]', PAGE))

    assert coloured == {*WorkflowRunStatus, "MISSING"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/_control/runs", "{}"),
        ("POST", "/_control/outage", '{"seconds": 30}'),
        ("DELETE", "/_control/", ""),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Host": "elsewhere.example:{port}"},
        {"Host": "elsewhere.example:{port}", "Origin": "http://elsewhere.example:{port}"},
        {"Host": "127.0.0.1.elsewhere.example"},
    ],
)
def test_a_web_page_from_elsewhere_steers_nothing(
    simulator: Simulator, method: str, path: str, body: str, headers: dict[str, str]
) -> None:
    run_id = simulator.create_run("PENDING")
    sent = {name: value.format(port=simulator.port) for name, value in headers.items()}

    answer = answer_to(simulator, method, path, sent, body)

    assert answer.status_code == 403
    assert "from elsewhere" in answer.json()["message"]
    assert [run["id"] for run in overview(simulator)["runs"]] == [run_id]


@pytest.mark.parametrize("path", ["/", "/_control/overview", "/_control/stats"])
def test_a_name_that_is_made_to_point_here_reads_nothing(simulator: Simulator, path: str) -> None:
    assert answer_to(simulator, "GET", path, {"Host": "elsewhere.example"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "http://127.0.0.1:{port}"},
        {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
        {"Host": "LOCALHOST:9000", "Origin": "http://LOCALHOST:9000"},
    ],
)
def test_curl_and_the_page_itself_steer(simulator: Simulator, headers: dict[str, str]) -> None:
    sent = {name: value.format(port=simulator.port) for name, value in headers.items()}

    assert answer_to(simulator, "POST", "/_control/runs", sent, '{"script": "PENDING"}').status_code == 201


def overview(simulator: Simulator) -> dict[str, Any]:
    return requests.get(f"{simulator.control_url}/overview", timeout=2).json()
