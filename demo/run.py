"""
Show the provider at work: a simulated run, a real Airflow, and the example DAG between them.

Everything is on loopback and in the folder ``.demo/``. It ends with a summary, and with 0 if the DAG succeeded.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_airflow import TICK, LocalAirflow
from loopback import AirflowError

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
DAG_ID = "anon_wait_for_run"
SCRIPT = (
    f"{WorkflowRunStatus.PENDING} 2 polls, {WorkflowRunStatus.IN_PROGRESS} (post_invoice) 2 polls, "
    f"{WorkflowRunStatus.AWAITING_USER_INPUT} (approve) until answered, {WorkflowRunStatus.COMPLETED}"
)
THINKING_TIME = 5.0
LONGEST_RUN = 120.0
EVERY = 5.0
NEXT = """
Go on with
  make ui                                     Airflow's pages and the simulator's, side by side
  .venv/bin/python -m airflow_anon.simulator  the simulator alone, and what to export for an Airflow of your own
  make                                        all commands; README.md has a DAG to begin with"""
ENDED = ("success", "failed")
TOLD_LOGGERS = re.compile(r"airflow_anon|task\.stdout")
NO_NEWS = "Success criteria met. Exiting."
UUID = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

begun_at = time.monotonic()


def main() -> int:
    """Run the demo."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    try:
        with Simulator(token=secrets.token_hex(8)) as simulator:
            say("simulator", f"serves the Anon API at {simulator.url}")
            say(
                "airflow", "creates its database and starts (scheduler, DAG processor, API server, triggerer)"
            )
            connection = {"AIRFLOW_CONN_ANON_DEFAULT": simulator.connection()}
            examples = ROOT / "airflow_provider_anon" / "example_dags"
            with (
                telling("airflow", "is still starting") as begun,
                LocalAirflow(HOME, examples, **connection) as airflow,
            ):
                airflow.wait_for_dag(DAG_ID)
                begun.set()
                return Show(simulator, airflow).go_on()
    except AirflowError as error:
        say("demo", f"failed: {error}")
    except KeyboardInterrupt:
        say("demo", "interrupted; everything is stopped.")
    return 1


class Show:
    """One run of the DAG, and the telling of it."""

    def __init__(self, simulator: Simulator, airflow: LocalAirflow) -> None:
        self.simulator = simulator
        self.airflow = airflow
        self.run_id = ""
        self.dag_run_id = ""
        self.entered: list[tuple[WorkflowRunStatus, float]] = []
        self.states: dict[str, str] = {}
        self.read_up_to: dict[Path, int] = {}
        self.is_answered = False

    def go_on(self) -> int:
        """Start the DAG, tell what happens until it has ended, and sum up."""
        say("airflow", f"is up, and has read the example DAG {DAG_ID}")
        self.run_id = self.simulator.create_run(SCRIPT)
        say("simulator", f"run {self.run_id} is created")
        body = {"logical_date": None, "conf": {"workflow_run_id": self.run_id}}
        dag_run = self.airflow.ask(f"/dags/{DAG_ID}/dagRuns", body)
        if dag_run is None:
            raise AirflowError("Airflow did not start the DAG")
        self.dag_run_id = dag_run["dag_run_id"]
        say("airflow", f"DAG {DAG_ID} is triggered with the id of the run")
        state, tasks = self._follow()
        self._sum_up(state, tasks)
        return 0 if state == "success" else 1

    def _follow(self) -> tuple[str, list[dict[str, Any]]]:
        deadline = time.monotonic() + LONGEST_RUN
        path = f"/dags/{DAG_ID}/dagRuns/{self.dag_run_id}"
        state = ""
        while state not in ENDED:
            self.airflow.check()
            if time.monotonic() > deadline:
                raise AirflowError(
                    f"the DAG did not end in {LONGEST_RUN:.0f} s; its logs are in {HOME.name}/logs/"
                )
            time.sleep(TICK)
            state = (self.airflow.ask(path) or {}).get("state", "")
            tasks = (self.airflow.ask(f"{path}/taskInstances") or {}).get("task_instances", [])
            self._tell_run()
            self._tell_log()
            self._tell_tasks(tasks)
            self._answer_when_due()
        return state, sorted(tasks, key=lambda task: task["start_date"] or "")

    def _tell_run(self) -> None:
        for change in self.simulator.take_changes():
            if change.status is not None:
                self.entered.append((WorkflowRunStatus(change.status), change.at))
                say("simulator", f"the run is {change.status}")

    def _tell_tasks(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            name, state = task["task_id"], task["state"]
            if state in ("queued", "running", "deferred", *ENDED) and self.states.get(name) != state:
                self.states[name] = state
                say("airflow", f"task {name} is {state}")

    def _tell_log(self) -> None:
        for path in sorted((HOME / "logs").glob(f"dag_id={DAG_ID}/**/*.log*")):
            task = next(part for part in path.parts if part.startswith("task_id=")).removeprefix("task_id=")
            for line in self._new_lines(path):
                if TOLD_LOGGERS.search(str(line.get("logger"))) and line["event"] != NO_NEWS:
                    short = UUID.sub(r"\1...", str(line["event"]))
                    say(task, f"log: {short}")

    def _new_lines(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            file.seek(self.read_up_to.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read_up_to[path] = self.read_up_to.get(path, 0) + len(line)
                yield json.loads(line)

    def _answer_when_due(self) -> None:
        if self.is_answered or not self.entered:
            return
        status, at = self.entered[-1]
        if status is WorkflowRunStatus.AWAITING_USER_INPUT and time.time() - at > THINKING_TIME:
            self.is_answered = True
            say("demo", "answers the question, as a person would")
            url = f"{self.simulator.control_url}/runs/{self.run_id}/answer"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(urllib.request.Request(url, method="POST"), timeout=10).close()

    def _sum_up(self, state: str, tasks: list[dict[str, Any]]) -> None:
        print("\nWhat Airflow did")
        for task in tasks:
            print(f"  task {task['task_id']:<22} {task['state'] or 'not started':<9} {_took(task):6.1f} s")
        print("\nWhat the run went through meanwhile")
        ends = [at for _, at in self.entered[1:]]
        for (status, at), end in zip(self.entered, [*ends, None], strict=True):
            print(f"  {status:<27} " + ("the end" if end is None else f"{end - at:15.1f} s"))
        requests, connections = self.simulator.requests, self.simulator.connections
        print(
            f"\nThe API served {requests} requests over {connections} TCP connection{'s'[: connections != 1]}."
        )
        print(f"The DAG ended as: {state}. The demo took {time.monotonic() - begun_at:.0f} s.")
        print(NEXT)


@contextmanager
def telling(who: str, what: str) -> Iterator[threading.Event]:
    """Say something every few seconds until the event is set, or the block is left."""
    begun = threading.Event()

    def tell() -> None:
        while not begun.wait(EVERY):
            say(who, what)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield begun
    finally:
        begun.set()
        thread.join()


def _took(task: dict[str, Any]) -> float:
    if not task["start_date"] or not task["end_date"]:
        return 0.0
    start, end = (
        datetime.fromisoformat(task[key].replace("Z", "+00:00")) for key in ("start_date", "end_date")
    )
    return (end - start).total_seconds()


def say(who: str, what: str) -> None:
    """Print what happens, with the seconds since the beginning."""
    print(f"{time.monotonic() - begun_at:5.1f} s  {who:<13} {what}")


if __name__ == "__main__":
    sys.exit(main())
