"""DAGs in a real Airflow with stock settings, all at once, and what Airflow itself says has become of them."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from local_airflow import LocalAirflow
from loopback import AirflowError
from raw_api import UNAVAILABLE, RawApi

HERE = Path(__file__).parent
# What the demo sets for the sake of speed; a user has none of it.
NOT_STOCK = (
    "AIRFLOW__API__WORKERS",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION",
    "AIRFLOW__CORE__EXECUTOR",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME",
)
# What a user sets whose tasks return a WorkflowRun.
MAY_HAND_RUNS_ON = {"AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES": "airflow_anon.runs.*"}
LONGEST = 400.0
TICK = 2.0
MIXED_UP = re.compile(r".*finished with state \w+, but the task instance's state attribute is \w+")
TRACEBACK = "Traceback (most recent call last)"

# Airflow's own tracebacks, by their last line, and how many of them there may be.
KNOWN_TRACEBACKS = {
    # The DAG processor is ended while its children, two at most, begin to read a file.
    "EOFError: Request socket closed before length": 2,
}

Key = tuple[str, str, int]
MakeConf = Callable[[RawApi], dict[str, Any]]


class StockAirflow(LocalAirflow):
    """
    Airflow as it comes; only where it lives and listens is set.

    :param options: further words of a process's command, by its name.
    :param migrated: a home with a fresh database, so that none has to be made.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        options: dict[str, list[str]] | None = None,
        migrated: Path | None = None,
        **settings: str,
    ) -> None:
        super().__init__(home, dags, **_for_small_machine(home) | settings)
        for name in set(NOT_STOCK) - set(settings):
            del self._environment[name]
        self._options = options or {}
        self._migrated = migrated

    def _migrate(self) -> None:
        if self._migrated is None:
            super()._migrate()
        else:
            shutil.copy(self._migrated / "airflow.db", self.home)
            # Without it, each process would begin with settings, and a key for secrets, of its own making.
            stock = (self._migrated / "airflow.cfg").read_text(encoding="utf-8")
            moved = stock.replace(str(self._migrated), str(self.home))
            (self.home / "airflow.cfg").write_text(moved, encoding="utf-8")

    def _start(self, *command: str) -> Any:
        return super()._start(*command, *self._options.get(command[0], []))

    def tell_of_end(self) -> str:
        """Return which process has ended by itself, and the end of its log; nothing while all live."""
        try:
            self.check()
        except AirflowError as error:
            return str(error)
        return ""


def _for_small_machine(home: Path) -> dict[str, str]:
    """
    Return what two cores need that others may keep busy, so that Airflow itself does not fail on them.

    The 32 workers that start at once otherwise, and the five seconds that they and SQLite wait for an
    answer, are for a larger machine.
    """
    return {
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    }


@dataclass
class Outcome:
    """What has become of all tasks, by DAG, task and map index."""

    tasks: dict[Key, dict[str, Any]] = field(default_factory=dict)
    starts: dict[Key, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    logs: dict[Key, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    # As the database has them: what is in there as text was encoded twice.
    xcoms: dict[Key, Any] = field(default_factory=dict)
    links: dict[Key, str] = field(default_factory=dict)
    import_errors: list[str] = field(default_factory=list)
    ended: str = ""
    # Tracebacks in the logs of processes, and of what they do beside tasks; the known ones by their last line.
    tracebacks: list[str] = field(default_factory=list)
    # What the scheduler says of tasks of which it takes the end of one start for that of the next.
    mixed_up: list[str] = field(default_factory=list)
    conf: dict[str, Any] = field(default_factory=dict)

    def states(self, dag_id: str) -> dict[str, str]:
        """Return the states of a DAG's tasks; those of mapped ones in one word if they are the same."""
        found = defaultdict(set)
        for (dag, task_id, _), task in self.tasks.items():
            if dag == dag_id:
                found[task_id].add(str(task["state"]))
        return {task_id: "+".join(sorted(states)) for task_id, states in found.items()}

    def said(self, dag_id: str, task_id: str, map_index: int = -1) -> str:
        """Return the text of a task's log."""
        return "\n".join(str(line["event"]) for line in self.logs[dag_id, task_id, map_index])

    def errors(self, key: Key) -> list[str]:
        """Return the kinds of the errors that a task's log tells with a traceback."""
        return [
            str(line["error_detail"][-1]["exc_type"]) if line.get("error_detail") else str(line["event"])
            for line in self.logs[key]
            if line.get("error_detail") or TRACEBACK in json.dumps(line)
        ]


def body(status: str, further: str = "", *, state: str = '"post_invoice"', completed: bool = False) -> str:
    """Return the JSON of a run as text, with ``ID`` in place of its id."""
    completed_at = '"2026-11-28T10:00:00.000Z"' if completed else "null"
    return (
        f'{{"id": "ID", "workflowId": "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60", "status": "{status}", '
        f'"completedAt": {completed_at}, "createdAt": "2026-11-28T09:00:00.000Z", '
        f'"updatedAt": "2026-11-28T09:30:00.000Z", "createdByUserId": "5f0c3b52-6a0e-4c7b-9a55-2d6c1f3e8b10", '
        f'"jobRunId": null, "currentStateName": {state}{further}}}'
    )


# What Airflow's encoders raise on, or take for something of theirs, and what is to come through.
ODD_STATE, FIT_STATE = r'"done \ud83d\u0000"', r'"done \ufffd\ufffd"'
ODD = (
    r', "big": 36893488147419103232, "far": -1e400, "\udc00key\u0000": {"deep": [1e400, -36893488147419103232, '
    r'"\ude00\u0000", {"\ud83d": "\ud83d"}]}, "kept": [18446744073709551615, -9223372036854775808, '
    r'0.1, "\ud83d\ude00", true, null], "keys of Airflow": {"__type": "x", "__var": [], "__classname__": 1, "__id__": 1}'
)
FIT = (
    r', "big": "36893488147419103232", "far": "-1e400", "\ufffdkey\ufffd": {"deep": ["1e400", '
    r'"-36893488147419103232", "\ufffd\ufffd", {"\ufffd": "\ufffd"}]}, '
    r'"kept": [18446744073709551615, -9223372036854775808, 0.1, "\ud83d\ude00", true, null], "keys of Airflow": '
    r'{"\ufffd__type": "x", "\ufffd__var": [], "\ufffd__classname__": 1, "\ufffd__id__": 1}'
)
PLAIN = r', "kept": [9007199254740993, 0.1, "\u00e9\ud83d\ude00", {"deep": [null]}]'
UNDER_WAY, GOOD, BAD, NOTHING, ASKS = (
    "IN_PROGRESS",
    "COMPLETED",
    "FAILED",
    "COMPLETED_WITH_NO_ACTION_TAKEN",
    "AWAITING_USER_INPUT",
)
LITERAL_ID, HANDED_ON_ID = "6a1d2c3b-4e5f-4a60-8b71-92a3b4c5d6e7", "7b2e3d4c-5f60-4b71-9c82-a3b4c5d6e7f8"
LOST = "lost_without_worker"
MODES = ("poke", "reschedule", "deferred", "ends_in_triggerer", "without_worker")


def create_plain(api: RawApi) -> tuple[str, dict[str, Any]]:
    """Serve a run that is over at the second poll; return its id, and what is to come through."""
    end = body(GOOD, PLAIN, completed=True)
    run_id = api.create_run(body(UNDER_WAY, PLAIN), end)
    return run_id, json.loads(end.replace("ID", run_id))


def create_odd(api: RawApi) -> tuple[str, dict[str, Any]]:
    """Do the same with text and numbers that Airflow cannot carry."""
    end = body(GOOD, ODD, state=ODD_STATE, completed=True)
    run_id = api.create_run(body(UNDER_WAY, ODD, state=ODD_STATE), end)
    fit = body(GOOD, FIT, state=FIT_STATE, completed=True)
    return run_id, json.loads(fit.replace("ID", run_id))


def every_way(api: RawApi) -> dict[str, Any]:
    """Return the conf of ``every_way``: for one run an odd one, for two a plain one and an odd one."""
    made = {f"one_{mode}": create_odd(api) for mode in MODES}
    for name in [*(f"many_{mode}" for mode in MODES), "mapped_deferred", "mapped_without_worker"]:
        made |= {f"{name}_0": create_plain(api), f"{name}_1": create_odd(api)}
    made["one_operator"] = create_odd(api)
    # The operator takes one poll, and hands on whatever that says.
    api.poll(made["one_operator"][0])
    ids, runs = zip(*made.values(), strict=True)
    return {"ids": dict(zip(made, ids, strict=True)), "runs": dict(zip(made, runs, strict=True))}


def every_end(api: RawApi) -> dict[str, Any]:
    """Return the conf of ``every_end``."""
    under_way, asks, good = body(UNDER_WAY), body(ASKS, state='"approve"'), body(GOOD, completed=True)
    kinds = {
        "failed": (
            (under_way, body(BAD, completed=True)),
            ("poke", "deferred", "without_worker", "softly", "many"),
        ),
        "late": ((under_way,), ("poke", "reschedule", "deferred", "without_worker")),
        "nothing": ((under_way, body(NOTHING, completed=True)), ("poke", "without_worker")),
        "lost": ((under_way, UNAVAILABLE), ("without_worker",)),
        "asked": ((asks, asks, good), ("reschedule",)),
    }
    made = {f"{kind}_{how}": bodies for kind, (bodies, hows) in kinds.items() for how in hows}
    made["asked_deferred"] = under_way, asks, asks, good
    return {"ids": {name: api.create_run(*bodies) for name, bodies in made.items()}}


def required_param(api: RawApi) -> dict[str, Any]:
    """Return the conf of ``required_param``."""
    return {"run_id": create_odd(api)[0]}


def values(api: RawApi) -> dict[str, Any]:
    """Return the conf of ``values``; one of its ids is written in the DAG."""
    end = body(GOOD, PLAIN, completed=True)
    for run_id in (LITERAL_ID, HANDED_ON_ID):
        api.create_run(body(UNDER_WAY, PLAIN), end, run_id=run_id)
    return {"id": HANDED_ON_ID, "run": json.loads(end.replace("ID", HANDED_ON_ID))}


def one_run(api: RawApi) -> dict[str, Any]:
    """Return the conf of an example that waits for one run."""
    return {"workflow_run_id": create_plain(api)[0]}


def many_runs(api: RawApi) -> dict[str, Any]:
    """Return the conf of an example that waits for some."""
    return {"workflow_run_ids": [create_plain(api)[0], create_odd(api)[0]]}


def asking_run(api: RawApi) -> dict[str, Any]:
    """Return the conf of the example that asks a person."""
    bodies = body(UNDER_WAY), body(ASKS, state='"approve"'), body(GOOD, completed=True)
    return {"workflow_run_id": api.create_run(*bodies)}


OWN: dict[str, MakeConf | None] = {
    "every_way": every_way,
    "every_end": every_end,
    "required_param": required_param,
    "values": values,
}
EXAMPLE_DAGS: dict[str, MakeConf | None] = {
    "anon_asset_from_run": one_run,
    "anon_on_new_invoices": None,  # which the one before it starts
    "anon_branch_on_no_action": one_run,
    "anon_many_runs": many_runs,
    "anon_map_over_runs": many_runs,
    "anon_taskflow": one_run,
    "anon_wait_for_user_input": asking_run,
    "anon_wait_for_run": one_run,
    "anon_zero_worker": one_run,
}


def play(
    home: Path,
    dags: dict[str, MakeConf | None],
    *,
    migrated: Path | None = None,
    plugin: Path | None = None,
    options: dict[str, list[str]] | None = None,
    **settings: str,
) -> Outcome:
    """
    Run DAGs at once in an Airflow of their own, and return what has become of them.

    The examples are where the package has them: Airflow loads them if it is set to load its own.
    """
    folder = home / "dags"
    folder.mkdir()
    for dag_id in OWN:
        shutil.copy(HERE / "dags" / f"{dag_id}.py", folder)
    if plugin is not None:
        (home / "plugins").mkdir()
        shutil.copy(plugin, home / "plugins")
    with RawApi() as api:
        connection = {"AIRFLOW_CONN_ANON_DEFAULT": api.connection(), **MAY_HAND_RUNS_ON}
        with StockAirflow(home, folder, options, migrated, **connection, **settings) as airflow:
            return Play(api, airflow, dags).go_on()


class Play:
    """One run of each DAG."""

    def __init__(self, api: RawApi, airflow: StockAirflow, dags: dict[str, MakeConf | None]) -> None:
        self.api, self.airflow, self.dags = api, airflow, dags
        self.outcome = Outcome()
        self.runs: dict[str, str] = {}

    def go_on(self) -> Outcome:
        """Start, wait for all ends, and read what Airflow says."""
        for dag_id in self.dags:
            self.airflow.wait_for_dag(dag_id)
        for dag_id in self.dags:
            self.airflow.ask(f"/dags/{dag_id}", {"is_paused": False}, "PATCH")
        for dag_id, make_conf in self.dags.items():
            if make_conf is not None:
                self._trigger(dag_id, make_conf(self.api))
        self._wait()
        for dag_id in self.dags:
            self._read(dag_id)
        found = self.airflow.ask("/importErrors") or {}
        self.outcome.import_errors = [one["stack_trace"] for one in found["import_errors"]]
        self.outcome.ended = self.outcome.ended or self.airflow.tell_of_end()
        self.airflow.stop()
        read_logs(self.airflow.home, self.outcome)
        return self.outcome

    def _trigger(self, dag_id: str, conf: dict[str, Any]) -> None:
        self.outcome.conf[dag_id] = conf
        run = self.airflow.ask(f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        assert run, dag_id
        self.runs[dag_id] = run["dag_run_id"]

    def _wait(self) -> None:
        end = time.monotonic() + LONGEST
        while not self.outcome.ended and time.monotonic() < end:
            time.sleep(TICK)
            self.outcome.ended = self.airflow.tell_of_end()
            self._serve_again()
            left = self.airflow.ask("/dags/~/dagRuns?state=queued&state=running&limit=1")
            if left is not None and left["total_entries"] == 0:
                return

    def _serve_again(self) -> None:
        """Let the API answer again once the task that has lost contact is to be tried again."""
        path = f"/dags/every_end/dagRuns/{self.runs['every_end']}/taskInstances/{LOST}"
        task = self.airflow.ask(path)
        if task and (task["state"] == "up_for_retry" or task["try_number"] > 1):
            run_id = self.outcome.conf["every_end"]["ids"][LOST]
            self.api.go_on_with(run_id, body(GOOD, completed=True))

    def _read(self, dag_id: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{self.runs.get(dag_id, '~')}"
        tasks = self.airflow.ask(f"{path}/taskInstances?limit=500") or {"task_instances": []}
        for task in tasks["task_instances"]:
            key = dag_id, task["task_id"], task["map_index"]
            self.outcome.tasks[key] = task
            if dag_id == "every_way":
                self._read_results(path, key)
        starts = self.airflow.ask(f"/eventLogs?dag_id={dag_id}&event=running&limit=1000") or {}
        for start in starts["event_logs"]:
            index = -1 if start["map_index"] is None else start["map_index"]
            self.outcome.starts[dag_id, start["task_id"], index].append(datetime.fromisoformat(start["when"]))

    def _read_results(self, path: str, key: Key) -> None:
        _, task_id, map_index = key
        task = f"{path}/taskInstances/{task_id}"
        entry = self.airflow.ask(f"{task}/xcomEntries/return_value?deserialize=false&map_index={map_index}")
        links = self.airflow.ask(f"{task}/links?map_index={map_index}")
        self.outcome.xcoms[key] = entry and entry["value"]
        self.outcome.links[key] = str(links and links["extra_links"].get("Anon run"))


def read_logs(home: Path, outcome: Outcome) -> None:
    """Read the logs of all tasks, and look for trouble in all others."""
    outcome.mixed_up = MIXED_UP.findall((home / "scheduler.log").read_text(errors="replace"))
    for path in sorted(home.glob("*.log")) + sorted((home / "logs").rglob("*")):
        if path.is_file():
            key = _task_of(path)
            if key is None:
                text = path.read_text(errors="replace")
                outcome.tracebacks += [_shown(part) for part in text.split(TRACEBACK)[1:]]
            else:
                outcome.logs[key] += [json.loads(line) for line in path.read_text().splitlines()]


def _shown(rest: str) -> str:
    """Return the last line of a traceback if it is known and none of ours, and else all of it."""
    last = re.search(r"^\S.*$", rest.lstrip(":\n"), flags=re.MULTILINE)
    text = rest[: 3000 if last is None else rest.index(last[0]) + len(last[0])]
    return last[0] if last and last[0] in KNOWN_TRACEBACKS and "airflow_anon" not in text else text


def _task_of(path: Path) -> Key | None:
    facts = dict(part.split("=", 1) for part in path.parts if "=" in part)
    if "task_id" not in facts:
        return None
    return facts["dag_id"], facts["task_id"], int(facts.get("map_index", -1))
