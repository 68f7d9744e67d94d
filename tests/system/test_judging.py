"""What the system tests go by can tell right from wrong."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_anon.simulator import Simulator

sys.path.insert(0, str(Path(__file__).parent))

from excuses import bounded, excuses, failures, told
from processes import Process, ProcessEndedError
from real_airflow import Airflow
from scenarios import System
from waits import WRONGS, Database, End, Row, Runs, Wait, judge, many_together, mapped, one_by_one
from windows import Meter, densest

ID = "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
OTHER_ID = "a81b2c3d-0e4f-4d5a-9b6c-7d8e9f001122"
WELL, BADLY = (End.WELL, "success"), (End.BADLY, "failed")
TASK = ("run", "wait_0", -1)
TRY = (*TASK, 1)
TOO_EARLY, TOO_LATE = -5, 700


@pytest.fixture
def runs():
    with Simulator() as simulator:
        yield Runs(simulator)


def begun(runs, end, **facts):
    group = one_by_one("dag", [Wait(ID, *end)], 1, **{"is_read": False, **facts})
    runs.begin(group)
    group.place("run", group.waits)
    return group


def ended(runs, end, **facts):
    group = begun(runs, end, **facts)
    over(runs, group)
    return group


def over(runs, group):
    for wait in group.waits:
        runs.finish(wait)
        requests.get(f"{runs.simulator.url}/api/v2/workflow-runs/{wait.id}", timeout=5)


def row(state, *, xcom=None, try_number=1, pid=None, starts=0, at=0.0):
    return Row(state, try_number, pid, time.time() + at, xcom, starts)


def wrong(tally):
    return {name for name in WRONGS if getattr(tally, name)}


@pytest.mark.parametrize(
    ("end", "state", "named"),
    [
        (WELL, "running", {"lost"}),
        (WELL, "deferred", {"lost"}),
        (BADLY, "success", {"false_green"}),
        (WELL, "failed", {"false_red"}),
        (WELL, "upstream_failed", {"other_state"}),
        (WELL, "success", {"wrong_xcom"}),
        (BADLY, "failed", set()),
    ],
)
def test_a_wrong_end_is_named(runs, end, state, named):
    assert wrong(judge(ended(runs, end), {TASK: row(state)}, runs)) == named


def test_a_task_that_is_not_there_is_lost(runs):
    assert wrong(judge(begun(runs, WELL), {}, runs)) == {"lost"}


@pytest.mark.parametrize(
    ("at", "named"), [(0, set()), (-0.1, {"too_early"}), (TOO_EARLY, {"too_early"}), (TOO_LATE, {"too_late"})]
)
def test_a_right_end_is_right_at_its_time(runs, at, named):
    group = ended(runs, WELL)

    assert wrong(judge(group, {TASK: row("success", xcom=runs.simulator.run(ID), at=at)}, runs)) == named


def test_an_end_that_nobody_has_seen_is_too_early(runs):
    group = begun(runs, WELL)
    runs.finish(group.waits[0])

    assert wrong(judge(group, {TASK: row("success", xcom=runs.simulator.run(ID))}, runs)) == {"too_early"}


def rows_of(group, value, task="wait_0"):
    """Return what is made of the one row that PostgreSQL's driver hands over."""
    found = ("run", task, -1, "success", 1, None, time.time(), value)
    return Database(lambda query, _: [found] if "FROM task_instance" in query else []).rows(group)


needs_airflow_3 = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the judge reads as Airflow 3.3 does")


@needs_airflow_3
@pytest.mark.parametrize(("encoded", "named"), [(lambda run: run, set()), (json.dumps, {"wrong_xcom"})])
def test_an_xcom_that_is_encoded_twice_is_wrong(runs, encoded, named):
    group = ended(runs, WELL)

    assert wrong(judge(group, rows_of(group, encoded(runs.simulator.run(ID))), runs)) == named


@needs_airflow_3
@pytest.mark.parametrize(("encoded", "named"), [(lambda run: run, set()), (json.dumps, {"wrong_read"})])
def test_a_next_task_that_gets_text_has_read_wrongly(runs, encoded, named):
    group = ended(runs, WELL, is_read=True)
    run = runs.simulator.run(ID)
    rows = rows_of(group, run) | rows_of(group, [encoded(run)], task="read")

    assert wrong(judge(group, rows, runs)) == named


@pytest.mark.parametrize("state", ["failed", "upstream_failed", None])
def test_a_next_task_that_does_not_pass_has_read_wrongly(runs, state):
    group = ended(runs, WELL, is_read=True)
    run = runs.simulator.run(ID)
    reader = {("run", "read", -1): row(state, xcom=[run])} if state else {}

    assert wrong(judge(group, {TASK: row("success", xcom=run)} | reader, runs)) == {"wrong_read"}


def test_the_task_after_mapped_ones_reads_what_those_hand_on_that_pass(runs):
    group = mapped("dag", [Wait(ID, *BADLY), Wait(OTHER_ID, *WELL)])
    runs.begin(group)
    group.place("run", [])
    over(runs, group)
    run = runs.simulator.run(OTHER_ID)
    rows = {("run", "wait", 0): row("failed"), ("run", "wait", 1): row("success", xcom=run)}
    readers = {("run", "read_wait_or_skip", -1): row("success", xcom=[])}

    def read(*values):
        return wrong(
            judge(group, rows | readers | {("run", "read_wait", -1): row("success", xcom=list(values))}, runs)
        )

    assert (read(run), read(None, run), read()) == (set(), {"wrong_read"}, {"wrong_read"})


def test_a_try_is_excused_once_by_its_number_and_counted_by_its_cause(runs):
    group = ended(runs, BADLY)

    def tally(try_number, **excused):
        return judge(group, {TASK: row("failed", try_number=try_number)}, runs, excused)

    assert wrong(tally(2)) == {"retried"}
    assert (tally(2, worker_killed={TRY}).retried, tally(2, worker_killed={TRY}).worker_killed) == (0, 1)
    assert (tally(3, worker_killed={TRY}).retried, tally(3, worker_killed={TRY}).worker_killed) == (1, 1)


def test_a_next_task_is_not_tried_again_for_nothing_either(runs):
    group = ended(runs, BADLY, is_read=True)
    rows = {TASK: row("failed"), ("run", "read", -1): row("success", xcom=[None], try_number=2)}

    assert wrong(judge(group, rows, runs)) == {"retried"}


@pytest.mark.parametrize(
    ("end", "seen", "needless"),
    [
        (WELL, {"pid": 7}, 1),
        (WELL, {"starts": 2}, 2),
        (BADLY, {"pid": 7, "starts": 1}, 0),
        (BADLY, {"starts": 2}, 1),
    ],
)
def test_a_worker_is_one_too_many_for_a_wait_that_needs_none(runs, end, seen, needless):
    group = ended(runs, end, options={"end_from_trigger": True})
    xcom = runs.simulator.run(ID) if end is WELL else None

    assert judge(group, {TASK: row(end[1], xcom=xcom, **seen)}, runs).needless_starts == needless


def test_one_bad_run_of_many_fails_their_task(runs):
    group = many_together("dag", [Wait(ID, *WELL), Wait(OTHER_ID, *BADLY)], 2)
    runs.begin(group)
    group.place("run", group.waits)
    over(runs, group)

    tally = judge(group, {TASK: row("success")}, runs)

    assert (len(group.tasks), tally.false_green) == (1, 2)


def test_the_densest_stretch_is_found():
    assert densest([0.0, 1.0, 1.2, 1.9, 2.1, 9.0], 1.0) == 3
    assert densest([], 1.0) == 0


@pytest.mark.parametrize(("requests", "good"), [(1, True), (2, False)])
def test_a_wait_that_asks_twice_in_an_interval_makes_a_storm(runs, requests, good):
    group = begun(runs, WELL)
    meter = Meter(runs, [group], interval=60)
    for _ in range(requests):
        runs.simulator._world.counters.record(ID, {}, time.monotonic())

    meter.end("now")

    assert [window.good for window in meter.windows] == [good]


def test_a_window_in_which_nobody_waits_proves_nothing(runs):
    group = ended(runs, WELL)
    meter = Meter(runs, [group], interval=60)

    meter.end("now")

    assert [window.good for window in meter.windows] == [False]


AIRFLOWS = ["airflow/sdk/execution_time/task_runner.py", "airflow/sdk/bases/xcom.py"]
OURS = [*AIRFLOWS, "/site-packages/airflow_anon/sensors.py"]
NOT_TAKEN = {"exc_type": "AirflowRuntimeError", "exc_value": "API_SERVER_ERROR: {'status_code': 500}"}
AT = 1795860191.0


@pytest.fixture
def failed(tmp_path):
    """Return what is known of one try that raised these errors, from its log."""

    def read(*errors):
        told = {"event": "Task failed with exception", "timestamp": "2026-11-28T10:03:11.000000Z"}
        told |= {
            "run_id": "run",
            "task_id": "wait_0",
            "map_index": -1,
            "try_number": 1,
            "error_detail": errors,
        }
        lines = [told | {"event": "Pushing xcom"}, told]
        log = tmp_path / "run_id=run" / "task_id=wait_0" / "attempt=1.log"
        log.parent.mkdir(parents=True)
        log.write_text("\n".join(json.dumps(line, separators=(",", ":")) for line in lines))
        return list(failures(tmp_path))

    return read


def raised(error, *files):
    return error | {"frames": [{"filename": name} for name in files]}


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ([raised(NOT_TAKEN, *AIRFLOWS)], {TRY}),
        # Ours, wherever it is named.
        ([raised(NOT_TAKEN, *OURS)], set()),
        ([raised(NOT_TAKEN, *AIRFLOWS), raised(NOT_TAKEN, *OURS)], set()),
        ([raised(NOT_TAKEN, *AIRFLOWS) | {"exceptions": [[raised({}, *OURS)]]}], set()),
        ([raised(NOT_TAKEN, *AIRFLOWS) | {"exc_notes": ["airflow_anon"]}], set()),
        # What Airflow cannot encode of an XCom of ours is raised in Airflow's own code.
        ([raised({"exc_type": "TypeError", "exc_value": "cannot serialize"}, *AIRFLOWS)], set()),
        ([raised({"exc_type": "TaskDeferralError", "exc_value": "Trigger failure"}, *AIRFLOWS)], set()),
        # Nothing is proven by what is not there.
        ([raised(NOT_TAKEN)], set()),
        ([], set()),
    ],
)
def test_only_what_airflows_api_did_not_do_for_airflows_own_code_is_excused(failed, errors, cause):
    assert excuses(failed(*errors), away=(AT, AT))["database_away"] == cause


@pytest.mark.parametrize(
    ("away", "cause"), [((AT - 1, AT + 1), {TRY}), ((AT - 9, AT - 1), set()), ((0, 0), set())]
)
def test_the_database_excuses_nothing_while_it_is_there(failed, away, cause):
    assert excuses(failed(raised(NOT_TAKEN, *AIRFLOWS)), away=away)["database_away"] == cause


def test_no_cause_excuses_a_try_in_which_our_code_raised(failed):
    ours = failed(raised({"exc_type": "ValueError", "exc_value": ""}, *OURS))

    assert excuses([], mixed_up={TRY}, killed={TRY})["mixed_up"] == {TRY}
    assert not any(excuses(ours, mixed_up={TRY}, killed={TRY}, away=(AT, AT)).values())


def process(folder, script):
    return Process("triggerer", [sys.executable, "-c", script], folder, {})


def result(**counts):
    return {"tasks": 100, "good": True, "worker_killed": 0, "database_away": 0, "mixed_up": 0} | counts


@pytest.mark.parametrize(
    ("counts", "bounds", "good"),
    [
        ({}, {}, True),
        ({"mixed_up": 1}, {}, True),
        ({"mixed_up": 2}, {}, False),
        ({"worker_killed": 1}, {}, False),
        ({"worker_killed": 8}, {"worker_killed": 8}, True),
        ({"worker_killed": 9}, {"worker_killed": 8}, False),
        ({"database_away": 1}, {"worker_killed": 8}, False),
    ],
)
def test_too_many_excuses_are_none(tmp_path, counts, bounds, good):
    system = System(
        Airflow(tmp_path, "", {}), Database(lambda *_: []), None, None, None, None, [result(**counts)]
    )
    system.bounds = bounds

    system.sum_up()

    assert (system.good, bounded(told(system.results, bounds))) == (good, good)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("trigger airflow_anon.triggers.AnonWorkflowRunTrigger starts", True),
        (f'  File "{OURS[-1]}", line 7', False),
    ],
)
def test_a_triggerer_tells_of_no_error_in_our_code(tmp_path, line, good):
    (tmp_path / "triggerer.log").write_text(f"{line}\n")
    airflow = Airflow(tmp_path, "", {"triggerer": []})
    system = System(airflow, Database(lambda *_: []), None, None, None, None, [result()])

    system.sum_up()

    assert system.good is good


def test_what_does_not_come_about_in_time_is_not_good(tmp_path):
    postgres = SimpleNamespace(process=process(tmp_path, "import time; time.sleep(60)"))
    system = System(
        Airflow(tmp_path, "", {}), Database(lambda *_: []), None, postgres, None, None, [result()]
    )

    try:
        system.wait_until("pigs fly", lambda: False, patience=0)
        system.sum_up()

        assert not system.good
    finally:
        postgres.process.stop()


@pytest.mark.parametrize(
    ("text", "is_supervised", "restarts"),
    [("", True, ["triggerer"]), ("", False, None), (OURS[-1], True, None)],
    ids=["while the database is away", "at any other time", "with an error of ours"],
)
def test_a_component_ends_by_itself_only_while_the_database_is_away(
    tmp_path, monkeypatch, text, is_supervised, restarts
):
    airflow = Airflow(tmp_path, "", {"triggerer": []})
    monkeypatch.setattr(
        airflow, "_started", lambda name, command: process(tmp_path, "import time; time.sleep(60)")
    )
    airflow._processes["triggerer"] = dead = process(tmp_path, f"print({text!r})")
    dead.wait()

    try:
        with airflow.supervised() if is_supervised else nullcontext():
            airflow.check()
    except ProcessEndedError:
        assert restarts is None
    else:
        assert airflow.restarts == restarts
    finally:
        airflow.__exit__(None, None, None)


def test_a_component_that_does_not_end_when_asked_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("processes.PATIENCE", 0.5)
    airflow = Airflow(tmp_path, "", {})
    stubborn = process(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
    )
    airflow._processes["triggerer"] = stubborn
    while "1" not in stubborn.last_lines():
        time.sleep(0.05)

    with pytest.raises(ProcessEndedError, match="did not end when asked to"):
        airflow.stop("triggerer")
