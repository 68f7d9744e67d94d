"""The judge's eyes: what it makes of the logs."""

from __future__ import annotations

import json

import pytest
from scenario import Outcome, read_logs

KNOWN = "EOFError: Request socket closed before length"
OURS = 'Traceback (most recent call last):\n  File "/x/airflow_anon/triggers.py", line 1, in run\n    f()\n'
AIRFLOWS = 'Traceback (most recent call last):\n  File "/x/airflow/jobs.py", line 1, in run\n    f()\n'


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "scheduler.log").touch()
    return tmp_path


def outcome_of(logs):
    outcome = Outcome()
    read_logs(logs, outcome)
    return outcome


def test_a_known_traceback_is_shown_by_its_last_line(logs):
    (logs / "dag-processor.log").write_text(f"a line\n{AIRFLOWS}{KNOWN}\nmore\n")

    assert outcome_of(logs).tracebacks == [KNOWN]


@pytest.mark.parametrize(
    ("frames", "last"), [(OURS, KNOWN), (AIRFLOWS, "ValueError: no"), (f"{AIRFLOWS}  cut off", "")]
)
def test_any_other_traceback_is_shown_whole(logs, frames, last):
    (logs / "triggerer.log").write_text(f"a line\n{frames}{last}\n")

    (shown,) = outcome_of(logs).tracebacks
    assert "in run" in shown
    assert last in shown


def test_a_traceback_in_a_task_log_is_an_error_of_the_task_however_it_is_logged(logs):
    folder = logs / "logs" / "dag_id=d" / "run_id=r" / "task_id=t" / "map_index=2"
    folder.mkdir(parents=True)
    lines = [
        {"event": "all is well"},
        {"event": "failed", "error_detail": [{"exc_type": "ValueError"}]},
        {"event": f"broke off:\n{OURS}"},
        {"event": "in a field", "exception": OURS},
    ]
    (folder / "attempt=1.log").write_text("\n".join(json.dumps(line) for line in lines))

    errors = outcome_of(logs).errors(("d", "t", 2))

    assert errors == ["ValueError", f"broke off:\n{OURS}", "in a field"]


def test_a_start_that_is_taken_for_another_is_found(logs):
    line = "<TaskInstance: d.t [queued]> finished with state success, but the task instance's state attribute is queued"
    (logs / "scheduler.log").write_text(f"a line\n[error] {line}. Learn more\n")

    assert outcome_of(logs).mixed_up == [f"[error] {line}"]
