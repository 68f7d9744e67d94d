"""A real Airflow for the demo and the UI: four processes, one SQLite file, loopback only; nothing of it stays running."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

LOOPBACK = "127.0.0.1"
PROCESSES = {
    "api-server": [],
    "dag-processor": [],
    "scheduler": ["--skip-serve-logs"],
    "triggerer": ["--skip-serve-logs"],
}
PATIENCE = 8.0
LONGEST_START = 180.0
TICK = 0.2


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class LocalAirflow:
    """
    Airflow with its home in a folder, while the ``with`` block lasts.

    :param home: the folder.
    :param dags: the folder of the DAG files.
    :param settings: further environment variables.
    """

    def __init__(self, home: Path, dags: Path, **settings: str) -> None:
        self.home = home
        self.url = f"http://{LOOPBACK}:{_free_port()}"
        self._environment = _environment(home, dags, self.url) | settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._headers = {"Content-Type": "application/json"}

    def __enter__(self) -> Self:
        """Create the database and start the processes."""
        try:
            self._migrate()
            for name, options in PROCESSES.items():
                self._start(name, *options)
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

        :raises DemoError: one has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise DemoError(f"airflow {name} ended by itself:\n{self._tail(name)}")

    def wait_for_dag(self, dag_id: str) -> None:
        """
        Wait until Airflow is up and has read a DAG.

        :raises DemoError: it has not in some minutes, or has ended.
        """
        deadline = time.monotonic() + LONGEST_START
        while self.ask(f"/dags/{dag_id}") is None:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"Airflow did not start in {LONGEST_START:.0f} s; its logs are in {self.home.name}/"
                )
            time.sleep(TICK)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Call Airflow's REST API; nothing comes back while it is not up, or does not know the thing asked for."""
        data = None if body is None else json.dumps(body).encode()
        try:
            if "Authorization" not in self._headers:
                token = _call(f"{self.url}/auth/token", self._headers)["access_token"]
                self._headers["Authorization"] = f"Bearer {token}"
            return _call(f"{self.url}/api/v2{path}", self._headers, data)
        except urllib.error.HTTPError as error:
            if error.code in (404, 503):
                return None
            raise DemoError(
                f"Airflow answered {error.code} to {path}: {error.read().decode()[:500]}"
            ) from error
        except OSError:
            return None

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
            raise DemoError(f"airflow db migrate failed:\n{self._tail('db')}")
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


def _environment(home: Path, dags: Path, url: str) -> dict[str, str]:
    """Return what this Airflow goes by; settings of another one that lives in the same shell are left out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": url.rpartition(":")[2],
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "SCARF_ANALYTICS": "false",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
    }
    return inherited | settings


def _call(url: str, headers: dict[str, str], data: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
