"""What the system tests go by can tell right from wrong."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from airflow_anon.simulator import Simulator

sys.path.insert(0, str(Path(__file__).parent))

from real_airflow import MIXED_UP, Airflow
from waits import WRONGS, End, Row, Runs, Wait, judge, many_together, one_by_one
from windows import Meter, densest

ID = "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
OTHER_ID = "a81b2c3d-0e4f-4d5a-9b6c-7d8e9f001122"
WELL, BADLY = (End.WELL, "success"), (End.BADLY, "failed")


@pytest.fixture
def runs():
    with Simulator() as simulator:
        yield Runs(simulator)


def begun(runs, end, **facts):
    group = one_by_one("dag", [Wait(ID, *end)], 1, **facts)
    runs.begin(group)
    group.place("run", group.waits)
    return group


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
    group = begun(runs, end)
    runs.finish(group.waits[0])

    assert wrong(judge(group, {group.waits[0].task: row(state)}, runs)) == named


def test_a_task_that_is_not_there_is_lost(runs):
    assert wrong(judge(begun(runs, WELL), {}, runs)) == {"lost"}


def test_a_right_end_is_right(runs):
    group = begun(runs, WELL)
    runs.finish(group.waits[0])
    rows = {group.waits[0].task: row("success", xcom=runs.simulator.run(ID))}

    assert wrong(judge(group, rows, runs)) == set()


def test_an_end_before_that_of_the_run_is_too_early(runs):
    group = begun(runs, WELL)
    runs.finish(group.waits[0])
    rows = {group.waits[0].task: row("success", xcom=runs.simulator.run(ID), at=-5)}

    assert wrong(judge(group, rows, runs)) == {"too_early"}


def test_a_second_try_is_excused_where_its_worker_was_killed(runs):
    group = begun(runs, BADLY)
    runs.finish(group.waits[0])
    task = group.waits[0].task
    rows = {task: row("failed", try_number=2)}

    assert wrong(judge(group, rows, runs)) == {"retried"}
    assert wrong(judge(group, rows, runs, excused={task})) == set()


def test_a_worker_is_one_too_many_for_a_wait_that_needs_none(runs):
    group = begun(runs, WELL, options={"end_from_trigger": True})
    runs.finish(group.waits[0])
    rows = {group.waits[0].task: row("success", xcom=runs.simulator.run(ID), pid=7)}

    assert wrong(judge(group, rows, runs)) == {"needless_starts"}


def test_one_bad_run_of_many_fails_their_task(runs):
    group = many_together("dag", [Wait(ID, *WELL), Wait(OTHER_ID, *BADLY)], 2)
    runs.begin(group)
    group.place("run", group.waits)
    for wait in group.waits:
        runs.finish(wait)

    tally = judge(group, {group.waits[0].task: row("success")}, runs)

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


def test_a_try_that_airflow_has_mixed_up_is_told_by_its_scheduler():
    told = (
        "Executor LocalExecutor(parallelism=8) reported that the task instance <TaskInstance: dag.wait_6 "
        "manual__2026-11-25T09:55:25.264638+00:00 map_index=0 [queued] ti_id=01a2> finished with state success, but "
        "the task instance's state attribute is queued."
    )

    assert MIXED_UP.search(told).groupdict() == {
        "dag": "dag",
        "task": "wait_6",
        "run": "manual__2026-11-25T09:55:25.264638+00:00",
        "index": "0",
    }
    assert MIXED_UP.search(told.replace("queued", "running")) is None


@pytest.mark.parametrize(
    ("where", "by_itself"),
    [
        (["airflow/sdk/execution_time/task_runner.py", "airflow/sdk/bases/xcom.py"], {("run", "wait", 7)}),
        (["airflow/sdk/execution_time/task_runner.py", "airflow_anon/sensors.py"], set()),
    ],
)
def test_only_a_failure_in_airflows_own_code_is_its_own(tmp_path, where, by_itself):
    error = {"exc_type": "AirflowRuntimeError", "frames": [{"filename": name} for name in where]}
    told = {"event": "Task failed with exception", "run_id": "run", "task_id": "wait", "map_index": 7}
    lines = [told | {"event": "Pushing xcom"}, told | {"error_detail": [error]}]
    log = tmp_path / "logs" / "dag_id=dag" / "task_id=wait" / "attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(json.dumps(line, separators=(",", ":")) for line in lines))

    assert Airflow(tmp_path, "", {}).failed_by_itself("dag") == by_itself
