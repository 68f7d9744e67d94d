"""Waits of a real Airflow for runs of the simulator, and what has become of them in Airflow's database."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from excuses import Try

    from airflow_anon.simulator import Simulator

TEMPLATE = Path(__file__).with_name("dag_of_waits.py")
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
DEFERRED = "deferred"
TASKS = """
    SELECT ti.run_id, ti.task_id, ti.map_index, ti.state, ti.try_number, ti.pid,
           extract(epoch FROM ti.end_date)::float, xcom.value
    FROM task_instance ti
    LEFT JOIN xcom ON xcom.dag_id = ti.dag_id AND xcom.run_id = ti.run_id AND xcom.task_id = ti.task_id
        AND xcom.map_index = ti.map_index AND xcom.key = 'return_value'
    WHERE ti.dag_id = %s AND (ti.task_id LIKE 'wait%%' OR ti.task_id LIKE 'read%%')
"""
COUNT = """
    SELECT count(*) FROM task_instance
    WHERE dag_id = %s AND task_id LIKE %s AND state = ANY(%s) AND map_index >= %s
"""
TAKEN_ON = """
    SELECT count(*) FROM trigger WHERE triggerer_id IN (
        SELECT id FROM job WHERE job_type = 'TriggererJob' AND end_date IS NULL
            AND latest_heartbeat > to_timestamp(%s)
    )
"""
STARTS = """
    SELECT run_id, task_id, coalesce(map_index, -1), count(*) FROM log
    WHERE dag_id = %s AND event = 'running' GROUP BY 1, 2, 3
"""
# When a machine is busy, the scheduler may hear of a start's end only after the next start is queued,
# takes it for the end of that one, and fails the try; it notes that.
MIXED_UP = """
    SELECT run_id, task_id, coalesce(map_index, -1), try_number FROM log
    WHERE dag_id = %s AND event = 'state mismatch'
        AND extra LIKE '%%finished with state success, but the task instance''s state attribute is queued%%'
"""
# Seconds after its run's end in which a task must be over: most of a big test's end at once, on one machine.
LATEST = 600.0


class End(Enum):
    """How a run ends: the script it follows until it is ended."""

    WELL = "PENDING 1s, IN_PROGRESS"
    NO_ACTION = "AWAITING_USER_INPUT until answered, COMPLETED_WITH_NO_ACTION_TAKEN"
    BADLY = "PENDING 1s, IN_PROGRESS (work)"
    # For a sensor that takes 404 as "not yet", and any other answer as the end.
    APPEARS = "MISSING 1h, COMPLETED"


@dataclass
class Wait:
    """
    One task and the run that it waits for.

    :param end: how the run is to end.
    :param state: how the task is to end.
    :param task: where it is in Airflow: DAG run, task and map index.
    :param early: the run may end before the task has begun, so the task ends as late as it begins.
    """

    id: str
    end: End
    state: str
    task: tuple[str, str, int] = ("", "", -1)
    ended_at: float | None = None
    early: bool = False

    @property
    def ends_well(self) -> bool:
        """Whether the run does not fail."""
        return self.end is not End.BADLY


@dataclass(frozen=True)
class Row:
    """A task in Airflow's database."""

    state: str | None
    try_number: int
    pid: int | None
    end_date: float | None
    xcom: Any
    starts: int


@dataclass
class Group:
    """
    A DAG and all waits of its runs.

    :param options: what all its sensors are given.
    :param width: how many sensors there are for each run of the DAG, if they are not mapped.
    :param together: how many runs each sensor waits for.
    :param upstream: their ids come from upstream tasks, not from the DAG run.
    :param is_read: a next task reads what they hand on, one for each run of the DAG or mapped task.
    :param reads: which waits that is of, by the reading task.
    """

    dag_id: str
    options: dict[str, Any] = field(default_factory=dict)
    waits: list[Wait] = field(default_factory=list)
    peer: bool = False
    upstream: bool = False
    width: int = 0
    together: int = 1
    mapped: dict[str, list[Wait]] = field(default_factory=dict)
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_read: bool = True
    reads: dict[tuple[str, str, int], list[list[Wait]]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Put the DAG into Airflow's DAG folder; its facts first, so that it is never read without them."""
        spec = {
            "dag_id": self.dag_id,
            "options": self.options,
            "peer": self.peer,
            "upstream": self.upstream,
            "is_read": self.is_read,
            "width": self.width,
            "together": self.together,
            "mapped": {task_id: [wait.id for wait in waits] for task_id, waits in self.mapped.items()},
            "task_options": self.task_options,
        }
        (folder / f"{self.dag_id}.json").write_text(json.dumps(spec), encoding="utf-8")
        shutil.copy(TEMPLATE, folder / f"{self.dag_id}.py")

    def confs(self) -> list[list[Wait]]:
        """Return the waits of each run of the DAG that is to be triggered."""
        if not self.width:
            return [[]]
        return chunks(self.waits, self.width * self.together)

    @property
    def tasks(self) -> list[list[Wait]]:
        """The waits of each task."""
        return chunks(self.waits, self.together)

    @property
    def zero_worker(self) -> bool:
        """Whether those that end well are to use no worker."""
        return bool(self.options.get("end_from_trigger"))

    def place(self, run_id: str, waits: list[Wait]) -> None:
        """Note where in Airflow the waits of one run of the DAG are."""
        for number, wait in enumerate(waits):
            wait.task = (run_id, f"wait_{number // self.together}", -1)
        for task_id, mapped in self.mapped.items():
            for number, wait in enumerate(mapped):
                wait.task = (run_id, task_id, number)
        if self.is_read:
            readers = {f"read_{task_id}": chunks(mapped, 1) for task_id, mapped in self.mapped.items()}
            self.reads |= {
                (run_id, reader, -1): read
                for reader, read in (readers or {"read": chunks(waits, self.together)}).items()
            }


def one_by_one(dag_id: str, waits: list[Wait], width: int, **facts: Any) -> Group:
    """Return waits whose ids are templates: a DAG of at most *width* sensors, run as often as it takes."""
    fitting = max(number for number in range(1, width + 1) if len(waits) % number == 0)
    return Group(dag_id, waits=waits, width=fitting, **facts)


def many_together(dag_id: str, waits: list[Wait], together: int, **facts: Any) -> Group:
    """Return waits of which each task has *together*; it fails if one of its runs does."""
    group = Group(dag_id, waits=waits, width=len(waits) // together, together=together, **facts)
    for task in group.tasks:
        state = "success" if all(wait.ends_well for wait in task) else "failed"
        for wait in task:
            wait.state = state
    return group


def mapped(dag_id: str, waits: list[Wait], **facts: Any) -> Group:
    """Return mapped waits, of which a fifth skips its task if its run did nothing."""
    some, rest = waits[: len(waits) // 5], waits[len(waits) // 5 :]
    for wait in some:
        wait.state = "skipped" if wait.end is End.NO_ACTION else wait.state
    tasks = {"wait_or_skip": some, "wait": rest}
    return Group(
        dag_id, waits=waits, mapped=tasks, task_options={"wait_or_skip": {"skip_on_no_action": True}}, **facts
    )


def chunks(waits: list[Wait], size: int) -> list[list[Wait]]:
    """Cut waits into lists of *size*."""
    return [waits[first : first + size] for first in range(0, len(waits), size)]


def all_alike(count: int, end: End = End.WELL) -> list[Wait]:
    """Return waits whose runs all end in one way, and a good one."""
    return [Wait(str(uuid4()), end, "success") for _ in range(count)]


def mixture(count: int, chance: random.Random) -> list[Wait]:
    """Return waits of which most end well, a fifth did nothing, a fifth fails."""
    ends = chance.choices((End.WELL, End.NO_ACTION, End.BADLY), (6, 2, 2), k=count)
    return [Wait(str(uuid4()), end, "failed" if end is End.BADLY else "success") for end in ends]


class Runs:
    """The runs that are waited for."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.seen_at: dict[str, float] = {}
        self._note_ends()

    def _note_ends(self) -> None:
        """Note when each run's end was first seen by whoever waits for it."""
        poll = self.simulator._world.poll

        def noting(run_id: str) -> dict[str, Any] | None:
            shown = poll(run_id)
            if shown is not None and shown["completedAt"]:
                self.seen_at.setdefault(run_id, time.time())
            return shown

        self.simulator._world.poll = noting

    def begin(self, group: Group) -> None:
        """Start the runs of a group."""
        for wait in group.waits:
            self.simulator.create_run(wait.end.value, wait.id)

    def requests(self) -> Counter[str]:
        """Return how many requests there were for each run so far."""
        world = self.simulator._world
        return self.simulator._call(lambda: Counter(world.counters.requests_by_run))

    def finish(self, wait: Wait) -> None:
        """End a run as it is meant to end."""
        act = {End.NO_ACTION: self.simulator.answer, End.BADLY: self.simulator.fail}
        # Before it: nothing that saw the end can have been earlier.
        wait.ended_at = time.time()
        act.get(wait.end, self.simulator.complete)(wait.id)

    def finish_over(self, waits: list[Wait], seconds: float, chance: random.Random) -> threading.Thread:
        """End runs at random moments of the next *seconds*."""
        moments = sorted(time.monotonic() + chance.uniform(0, seconds) for _ in waits)

        def work() -> None:
            for wait, moment in zip(waits, moments, strict=True):
                time.sleep(max(0.0, moment - time.monotonic()))
                self.finish(wait)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread


class Database:
    """
    What Airflow's own database says of a group.

    :param select: carries out a query.
    """

    def __init__(self, select: Callable[..., list[tuple[Any, ...]]]) -> None:
        self._select = select

    def rows(self, group: Group) -> dict[tuple[str, str, int], Row]:
        """Return the tasks of a group."""
        starts = {tuple(key): count for *key, count in self._select(STARTS, group.dag_id)}
        return {
            (run_id, task_id, map_index): Row(
                state, try_number, pid, end_date, _as_read(xcom), starts.get((run_id, task_id, map_index), 0)
            )
            for run_id, task_id, map_index, state, try_number, pid, end_date, xcom in self._select(
                TASKS, group.dag_id
            )
        }

    def count(self, group: Group, *states: str) -> int:
        """Return how many waiting tasks of a group are in one of these states."""
        lowest = 0 if group.mapped else -1
        return int(self._select(COUNT, group.dag_id, "wait%", list(states), lowest)[0][0])

    def count_reads(self, group: Group) -> int:
        """Return how many tasks that read what a group hands on are over."""
        return int(self._select(COUNT, group.dag_id, "read%", list(OVER), -1)[0][0])

    def mixed_up(self, group: Group) -> set[Try]:
        """Return the tries that the scheduler has failed by mistake, as it says itself."""
        return {
            (run_id, task_id, index, number)
            for run_id, task_id, index, number in self._select(MIXED_UP, group.dag_id)
        }

    def running_triggers(self, since: float) -> int:
        """Return how many triggers are with triggerers that were alive after *since*."""
        return int(self._select(TAKEN_ON, since)[0][0])


@dataclass
class Tally:
    """
    What became of the waits of a group.

    :param reads: next tasks, which read what the waits hand on.
    :param wrong_read: waits whose next task did not read what they should have handed on.
    :param retried: tries that nothing excuses; those excused are counted by cause.
    """

    waits: int
    tasks: int
    reads: int = 0
    lost: int = 0
    false_green: int = 0
    false_red: int = 0
    other_state: int = 0
    wrong_xcom: int = 0
    wrong_read: int = 0
    too_early: int = 0
    too_late: int = 0
    retried: int = 0
    worker_killed: int = 0
    database_away: int = 0
    mixed_up: int = 0
    worker_starts: int = 0
    needless_starts: int = 0
    miscounted_starts: int = 0
    delay_median: float | None = None
    delay_mean: float | None = None
    delay_longest: float | None = None
    lag_mean: float | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, name) for name in WRONGS)

    def add(self, name: str, count: int, remark: str | None = None) -> None:
        """Count something, and say what, if it is worth a remark."""
        setattr(self, name, getattr(self, name) + count)
        self.remarks += [f"{name}: {remark}"] if remark else []


WRONGS = (
    *("lost", "false_green", "false_red", "other_state", "wrong_xcom", "wrong_read", "too_early", "too_late"),
    *("retried", "needless_starts", "miscounted_starts"),
)


def judge(
    group: Group,
    rows: dict[tuple[str, str, int], Row],
    runs: Runs,
    excused: Mapping[str, Collection[Try]] | None = None,
) -> Tally:
    """
    Compare what became of the waits of a group with what should have become of them.

    A *delay* is from a run's end to its task's; a *lag* only from the poll that saw the end.

    :param excused: by cause, the tries that prove nothing.
    """
    tally = Tally(len(group.waits), len(group.tasks), len(group.reads))
    for waits in group.tasks:
        row = rows.get(waits[0].task)
        if verdict := _verdict(group, waits, row, runs):
            tally.add(verdict, len(waits), f"{waits} {row}")
        if row is not None:
            _count_starts(tally, group, waits, row)
    for reader, read in group.reads.items():
        _judge_read(tally, group, read, rows.get(reader), runs)
    for task in [*(waits[0].task for waits in group.tasks), *group.reads]:
        if task in rows:
            _count_tries(tally, task, rows[task], excused or {})
    _time_ends(tally, group, rows, runs)
    return tally


def _time_ends(tally: Tally, group: Group, rows: dict[tuple[str, str, int], Row], runs: Runs) -> None:
    delays, lags = [], []
    for waits in group.tasks:
        row, ended_at, seen_at = rows.get(waits[0].task), _ended_at(waits), _seen_at(waits, runs)
        if row and row.end_date and ended_at and seen_at and not waits[0].early:
            delays.append(row.end_date - ended_at)
            lags.append(row.end_date - seen_at)
    if delays:
        tally.delay_median, tally.delay_mean, tally.delay_longest = median(delays), mean(delays), max(delays)
        tally.lag_mean = mean(lags)


def _count_tries(
    tally: Tally, task: tuple[str, str, int], row: Row, excused: Mapping[str, Collection[Try]]
) -> None:
    """Count each try but the last, under what excuses it."""
    for number in range(1, row.try_number):
        cause = next((cause for cause, tries in excused.items() if (*task, number) in tries), None)
        tally.add(cause or "retried", 1, None if cause else f"try {number} of {task} {row}")


def _count_starts(tally: Tally, group: Group, waits: list[Wait], row: Row) -> None:
    tally.worker_starts += row.starts
    if group.zero_worker:
        # What ends badly resumes on a worker, once; and Airflow notes the process of a worker when it
        # begins, and never forgets it.
        needed = 0 if all(wait.ends_well for wait in waits) else row.try_number
        tally.needless_starts += max(row.starts - needed, int(row.pid is not None and not needed))


def _judge_read(tally: Tally, group: Group, read: list[list[Wait]], row: Row | None, runs: Runs) -> None:
    """Compare what the next task has read with what it should have read."""
    expected = [_handed_on(group, waits, runs) for waits in read]
    if group.mapped:
        # A task that hands nothing on is none of those that a mapped one's values come from.
        expected = [value for value in expected if value is not None]
    if row is None or row.state != "success" or row.xcom != expected:
        tally.add("wrong_read", sum(map(len, read)), f"{row} instead of {expected}")


def _handed_on(group: Group, waits: list[Wait], runs: Runs) -> Any:
    """Return what a task is to hand on: the JSON of its run or runs, nothing if it does not pass."""
    if waits[0].state != "success":
        return None
    payloads = [runs.simulator.run(wait.id) for wait in waits]
    return payloads if group.together > 1 else payloads[0]


def _ended_at(waits: list[Wait]) -> float | None:
    ends = [wait.ended_at for wait in waits if wait.ended_at is not None]
    return max(ends) if len(ends) == len(waits) else None


def _seen_at(waits: list[Wait], runs: Runs) -> float | None:
    """Return when the last end of a task's runs was seen; nothing if one was never seen."""
    seen = [runs.seen_at[wait.id] for wait in waits if wait.id in runs.seen_at]
    return max(seen) if len(seen) == len(waits) else None


def _verdict(group: Group, waits: list[Wait], row: Row | None, runs: Runs) -> str | None:
    state = waits[0].state
    if row is None or row.state not in OVER:
        return "lost"
    if row.state != state:
        return {"success": "false_green", "failed": "false_red"}.get(row.state or "", "other_state")
    if untimely := _untimely(waits, row, runs):
        return untimely
    # What a peer hands on is not ours to judge.
    return "wrong_xcom" if not group.peer and row.xcom != _handed_on(group, waits, runs) else None


def _untimely(waits: list[Wait], row: Row, runs: Runs) -> str | None:
    """Say whether a task ended before the end of its runs was seen, or long after it."""
    ended_at, seen_at = _ended_at(waits), _seen_at(waits, runs)
    if row.end_date is None or ended_at is None or seen_at is None or row.end_date < seen_at:
        return "too_early"
    return "too_late" if row.end_date > ended_at + LATEST else None


def _as_read(value: Any) -> Any:
    """
    Return an XCom as the next task gets it.

    The driver has decoded the table's JSON, as Airflow's own query does. The rest is Airflow's own, which
    leaves text as it is: what was encoded twice reaches the next task as text.
    """
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.comms import XComResult

    return BaseXCom.deserialize_value(XComResult(key=BaseXCom.XCOM_RETURN_KEY, value=value))
