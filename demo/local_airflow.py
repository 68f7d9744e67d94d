"""A real Airflow for the demo and the UI: four processes, one SQLite file, loopback only; nothing of it stays running."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
from loopback import AirflowError, LoopbackAirflow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from typing_extensions import Self

PROCESSES = {
    "api-server": [],
    "dag-processor": [],
    "scheduler": ["--skip-serve-logs"],
    "triggerer": ["--skip-serve-logs"],
}
PATIENCE = 8.0
LONGEST_START = 180.0
TICK = 0.2


class LocalAirflow(LoopbackAirflow):
    """
    Airflow with its home in a folder, while the ``with`` block lasts.

    :param home: the folder.
    :param dags: the folder of the DAG files.
    :param processes: which of its processes to start.
    :param settings: further environment variables.
    """

    def __init__(
        self, home: Path, dags: Path, processes: Iterable[str] = tuple(PROCESSES), **settings: str
    ) -> None:
        own = {
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        }
        super().__init__(home, dags, **own | settings)
        self.processes = processes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Create the database and start the processes."""
        try:
            self._migrate()
            for name in self.processes:
                self._start(name, *PROCESSES.get(name, []))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.stop()

    def check(self) -> None:
        """
        Make sure that all processes live.

        :raises AirflowError: one has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise AirflowError(f"airflow {name} ended by itself:\n{self._tail(name)}")

    def wait_for_dag(self, dag_id: str) -> None:
        """
        Wait until Airflow is up and has read a DAG.

        :raises AirflowError: it has not in some minutes, or has ended.
        """
        deadline = time.monotonic() + LONGEST_START
        while self.ask(f"/dags/{dag_id}") is None:
            self.check()
            if time.monotonic() > deadline:
                raise AirflowError(
                    f"Airflow did not start in {LONGEST_START:.0f} s; its logs are in {self.home.name}/"
                )
            time.sleep(TICK)

    def stop(self) -> None:
        """End what was started, and what that has started in turn."""
        with _undisturbed():
            family: set[psutil.Process] = set()
            for process in self._processes.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    parent = psutil.Process(process.pid)
                    family |= {parent, *parent.children(recursive=True)}
            for process in self._processes.values():
                process.terminate()
            _, left = psutil.wait_procs(family, timeout=PATIENCE)
            for straggler in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    straggler.kill()
            psutil.wait_procs(left, timeout=PATIENCE)
            self._processes.clear()

    def _migrate(self) -> None:
        if self._start("db", "migrate").wait() != 0:
            raise AirflowError(f"airflow db migrate failed:\n{self._tail('db')}")
        del self._processes["db"]

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends the others in order.
        with (self.home / f"{command[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.home,
                start_new_session=True,
            )
        self._processes[command[0]] = process
        return process

    def _tail(self, name: str) -> str:
        lines = (self.home / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-15:])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing interrupt the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
