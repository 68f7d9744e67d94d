"""``python -m airflow_anon.simulator``."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import requests

from airflow_anon.simulator import Simulator
from airflow_anon.simulator.__main__ import DEMO, main
from airflow_anon.simulator.scripts import parse_faults, parse_script

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
COMMAND = [sys.executable, "-m", "airflow_anon.simulator", "--port", "0"]


def lines_until(process: subprocess.Popen[str], pattern: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if re.search(pattern, line):
            return
    pytest.fail(f"it never said {pattern}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_tells_and_ends_on_a_signal(number: signal.Signals) -> None:
    options = ["--token", "it's", "--run", "PENDING 10ms, COMPLETED", "--run-id", f"{RUN_ID}=FAILED"]
    with subprocess.Popen(COMMAND + options, stdout=subprocess.PIPE, text=True) as process:
        said = "".join(lines_until(process, "COMPLETED"))
        url = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert url is not None
        answer = requests.get(
            f"{url[0]}/api/v2/workflow-runs/{RUN_ID}", timeout=2, headers={"Authorization": "Bearer it's"}
        )
        process.send_signal(number)
        rest, _ = process.communicate(timeout=5)

    assert answer.json()["status"] == "FAILED"
    assert process.returncode == 0
    assert "Served 1 requests over 1 connections." in rest


def test_the_line_to_paste_is_a_connection(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--port", "0", "--token", "it's", "--serve-for", "0", "--faults", "503"])
    said = capsys.readouterr().out

    exported = next(line for line in said.splitlines() if line.startswith("export"))
    name, _, value = shlex.split(exported)[1].partition("=")
    assert name == "AIRFLOW_CONN_ANON_DEFAULT"
    assert json.loads(value)["password"] == "it's"
    assert json.loads(value)["conn_type"] == "anon"
    assert said.count("\nRun ") == 1
    assert re.search(r"in a browser: http://127\.0\.0\.1:\d+/$", said, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d  [0-9a-f-]{36}  PENDING$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--run", "PENDNG"], "did you mean PENDING?"),
        (["--run-id", "42=COMPLETED"], "not the id of a workflow run"),
        (["--faults", "boom"], "fault 1, 'boom'"),
    ],
)
def test_wrong_options_are_explained(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--port", "0", *options])

    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_port_that_is_taken_says_which_and_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with Simulator() as running, pytest.raises(SystemExit):
        main(["--port", str(running.port)])

    said = capsys.readouterr().err
    assert f"port {running.port}: Address already in use; choose another with --port" in said


def test_help_teaches_scripts_and_faults_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out

    script = re.search(r"^  (PENDING 2s.*)$", said, re.MULTILINE)
    faults = re.search(r"^  (503, .*)$", said, re.MULTILINE)
    assert script is not None
    assert faults is not None
    assert parse_script(script[1]) == parse_script(DEMO.replace(" (approve)", ""))
    assert len(parse_faults(faults[1])) == 7
    assert "curl -X POST $S/_control/runs/ID/answer" in said
