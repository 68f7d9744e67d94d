"""A real Airflow with all its components, on one machine or as if on several; loopback only."""

from __future__ import annotations

import base64
import re
import secrets
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from excuses import PACKAGE, Failure, failures
from loopback import AirflowError, LoopbackAirflow
from processes import Process, ProcessEndedError, cpu_seconds, family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

# A component's name, which is its log's, and the command that starts it.
LOCAL = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
TRIGGERERS = ("triggerer-1", "triggerer-2")
WORKERS = ("worker-1", "worker-2")
PATIENCE = 300.0
# Each component may end by itself so often while the database is away: again, if it is still away then.
RESTARTS_AT_MOST = 3
OUR_FRAME = re.compile(rf"{PACKAGE}/[\w/]+\.py")


def distributed(slots: int) -> dict[str, list[str]]:
    """Return the components of an Airflow with Celery: two triggerers, and two workers of so many tasks each."""
    shared = {name: command for name, command in LOCAL.items() if name != "triggerer"}
    triggerers = dict.fromkeys(TRIGGERERS, LOCAL["triggerer"])
    worker = ["celery", "worker", "--skip-serve-logs", "--concurrency", str(slots), "--celery-hostname"]
    return shared | triggerers | {name: [*worker, f"{name}@localhost"] for name in WORKERS}


def celery(broker: str, database: str) -> dict[str, str]:
    """Return what an Airflow with Celery is set to besides."""
    return {
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        # Several machines would share it: connections and triggers are encrypted in the database.
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "64",
        # All share one machine, which may be slow to answer.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        # A worker that was killed is found dead, and what it had not begun is handed out again, sooner than usual.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
        # A scheduler that was started again looks for such tasks among its own alone, until it adopts the others.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    }


class Airflow(LoopbackAirflow):
    """
    Airflow, while the ``with`` block lasts.

    :param home: an empty folder; ``dags`` in it is made here.
    :param database: the URL of its database.
    :param components: what it consists of.
    :param settings: further environment variables.
    """

    def __init__(
        self,
        home: Path,
        database: str,
        components: dict[str, list[str]],
        **settings: str,
    ) -> None:
        self.dags = home / "dags"
        own = {
            "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT": "1000",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
            "AIRFLOW__CORE__PARALLELISM": "8",
            # A new file is found soon, and read once: what that costs is not the cost of a wait.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            # A triggerer that was killed is found dead sooner than after the usual half minute.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        }
        super().__init__(home, self.dags, **own | settings)
        self.components = components
        self.restarts: list[str] = []
        self._is_supervised = False
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        """Create the tables and start all processes."""
        self.dags.mkdir(exist_ok=True)
        try:
            self.run("db", "migrate")
            for name in self.components:
                self.start(name)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.ask_to_end()
        for process in self._processes.values():
            process.stop()
        self._processes.clear()

    def run(self, *command: str) -> None:
        """Run a command of Airflow's to its end."""
        name = "-".join(command)
        process = self._processes[name] = self._started(name, [*command])
        if process.wait():
            process.check()
        del self._processes[name]

    def run_script(self, path: Path, *arguments: str) -> None:
        """Run a Python script with this Airflow's settings to its end."""
        process = Process(path.stem, [sys.executable, str(path), *arguments], self.home, self._environment)
        self._processes[path.stem] = process
        if process.wait():
            process.check()
        del self._processes[path.stem]

    def start(self, name: str, **settings: str) -> None:
        """Start a component."""
        self._processes[name] = self._started(name, self.components[name], **settings)

    def stop(self, name: str) -> None:
        """
        Ask a component to end, and wait for that.

        :raises ProcessEndedError: it had to be killed.
        """
        process = self._processes.pop(name)
        if not process.stop():
            raise ProcessEndedError(f"{name} did not end when asked to:\n{process.last_lines()}")

    def kill(self, name: str) -> None:
        """End a component as a crash does."""
        self._processes.pop(name).kill()

    def members(self, name: str) -> dict[int, float]:
        """Return the processes of a component."""
        return family(self._processes[name].pid)

    def freeze(self, name: str) -> dict[int, float]:
        """Stop a component where it is, and return its processes."""
        return self._processes[name].freeze()

    def thaw(self, name: str) -> None:
        """Let a component go on that was stopped where it was."""
        self._processes[name].thaw()

    def check(self) -> None:
        """
        Make sure that every component lives.

        :raises ProcessEndedError: one has ended, or has too often while it may.
        """
        for name, process in list(self._processes.items()):
            if not process.lives and self._may_start_again(name, process):
                print(f"  {name} ended by itself and is started again", flush=True)
                self.restarts.append(name)
                process.kill()
                self.start(name)
            else:
                process.check()

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Start a component again that ends by itself during the block, as a platform does."""
        self._is_supervised = True
        yield
        self.check()
        self._is_supervised = False

    def _may_start_again(self, name: str, process: Process) -> bool:
        is_ours = OUR_FRAME.search(process.last_lines())
        return self._is_supervised and not is_ours and self.restarts.count(name) < RESTARTS_AT_MOST

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU that each component has used, with all that it has started."""
        return {name: cpu_seconds([process.pid]) for name, process in self._processes.items()}

    def executor_starts(self, dag_id: str) -> int:
        """Return how many waits of a DAG the executor has carried out, by the scheduler's log."""
        event = f"Received executor event with state success for task instance TaskInstanceKey(dag_id='{dag_id}', "
        return (self.home / "scheduler.log").read_text(errors="replace").count(f"{event}task_id='wait")

    def failures(self, dag_id: str) -> list[Failure]:
        """Return the tries of a DAG's tasks that raised, by the tasks' logs."""
        return list(failures(self.home / "logs" / f"dag_id={dag_id}"))

    def our_frames(self) -> list[str]:
        """Return lines in which a triggerer tells of an error in our code: it is to hear of none."""
        logs = [self.home / f"{name}.log" for name in self.components if name.startswith("triggerer")]
        return [
            line
            for log in logs
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if OUR_FRAME.search(line)
        ]

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a DAG that Airflow knows, and return the run's id."""
        answer = self.ask(f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        if answer is None:
            raise AirflowError(f"Airflow does not start {dag_id}")
        return str(answer["dag_run_id"])

    def put_connection(self, conn_id: str, fields: dict[str, Any]) -> None:
        """
        Write a connection into Airflow's database.

        :raises AirflowError: Airflow does not answer.
        """
        body = {"connection_id": conn_id, **fields}
        end = time.monotonic() + PATIENCE
        while self.ask(f"/connections/{conn_id}", body, "PATCH") is None:
            if self.ask("/connections", body) is not None:
                return
            self.check()
            if time.monotonic() > end:
                raise AirflowError(f"Airflow does not take connection {conn_id}")
            time.sleep(1)

    def wait_for_dags(self, dag_ids: list[str]) -> None:
        """
        Wait until Airflow knows these DAGs.

        :raises AirflowError: it cannot import a DAG.
        """
        end = time.monotonic() + PATIENCE
        while any(self.ask(f"/dags/{dag_id}") is None for dag_id in dag_ids):
            self.check()
            errors = (self.ask("/importErrors") or {}).get("import_errors", [])
            if errors or time.monotonic() > end:
                raise AirflowError(f"Airflow does not know its DAGs: {errors}")
            time.sleep(1)

    def _started(self, name: str, command: list[str], **settings: str) -> Process:
        full = [sys.executable, "-m", "airflow", *command]
        return Process(name, full, self.home, self._environment | settings)
