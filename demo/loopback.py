"""What listens on loopback: a free port for it, and the settings and the REST API of every Airflow that does."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"
PATIENCE = 60.0
# It takes Airflow a while to listen on its port: below 32768 nobody's connection is given it meanwhile.
PORTS = range(20_000, 32_000)


class AirflowError(Exception):
    """Airflow does not do as it should; the text says why."""


class LoopbackAirflow:
    """
    An Airflow's settings, and its REST API. Which processes it has, and how they end, is for others to say.

    :param home: its home.
    :param dags: the folder of the DAG files.
    :param settings: further environment variables.
    """

    def __init__(self, home: Path, dags: Path, **settings: str) -> None:
        self.home = home
        self.url = f"http://{LOOPBACK}:{free_port()}"
        self._environment = _environment(home, dags, self.url) | settings
        self._headers = {"Content-Type": "application/json"}

    def ask(
        self, path: str, body: dict[str, Any] | None = None, method: str | None = None
    ) -> dict[str, Any] | None:
        """
        Call Airflow's REST API; nothing comes back while it is not up, or does not know the thing asked for.

        :raises AirflowError: it refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            if "Authorization" not in self._headers:
                token = _call(f"{self.url}/auth/token", self._headers)["access_token"]
                self._headers["Authorization"] = f"Bearer {token}"
            return _call(f"{self.url}/api/v2{path}", self._headers, data, method)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")[:500]
            if error.code in (404, 503):
                return None
            raise AirflowError(f"Airflow answered {error.code} to {path}: {text}") from error
        except OSError:
            return None


def free_port() -> int:
    """Return a port that nobody listens on, and that the system gives to nobody who asks for just any."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def _environment(home: Path, dags: Path, url: str) -> dict[str, str]:
    """Return what an Airflow goes by; settings of another one that lives in the same shell are left out."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("AIRFLOW", "_AIRFLOW"))
    }
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
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "SCARF_ANALYTICS": "false",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
    }
    return inherited | settings


def _call(
    url: str, headers: dict[str, str], data: bytes | None = None, method: str | None = None
) -> dict[str, Any]:
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE) as response:
        answer: dict[str, Any] = json.load(response)
        return answer
