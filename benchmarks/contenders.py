"""
Who is measured: our trigger, the peers' own triggers, and two floors that only poll and sleep.

Each contender has a connection, given to Airflow through its environment, and a factory that makes
the wait number *i*: something whose ``run()`` yields one event when the run is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

CONN_ID = "bench"
TOKEN = "a-token-of-a-usual-length-0123456789"
HOST = "127.0.0.1"
MOST_CONNECTIONS = 100
TOGETHER = 2000
HEADERS = {"User-Agent": "floor/1.0", "Accept": "application/json", "Authorization": f"Bearer {TOKEN}"}
A_WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class Target:
    """Where the server listens, and with which scheme it is spoken to."""

    scheme: str
    port: int

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"{self.scheme}://{HOST}:{self.port}"


@dataclass(frozen=True)
class Contender:
    """
    One row of the tables.

    :param distribution: the package, whose version is reported.
    :param connect: makes the fields of the Airflow connection.
    :param prepare: makes the factory of waits; imports what it needs.
    """

    name: str
    distribution: str
    connect: Callable[[Target], dict[str, Any]]
    prepare: Callable[[Target, float], Callable[[int], Any]]
    note: str = ""
    polls: bool = True

    def set_connection(self, target: Target) -> None:
        """Give the connection to Airflow, through the environment."""
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(self.connect(target))


def run_id(i: int) -> str:
    """Return the id of workflow run number *i*."""
    return f"{i:08x}-0000-4000-8000-{i:012x}"


# Ours


def _connect_anon(target: Target) -> dict[str, Any]:
    return {"conn_type": "anon", "host": target.url, "password": TOKEN}


def _anon(target: Target, interval: float) -> Callable[[int], Any]:
    from airflow_anon.triggers import AnonWorkflowRunTrigger

    return lambda i: AnonWorkflowRunTrigger(
        workflow_run_id=run_id(i), anon_conn_id=CONN_ID, poke_interval=interval
    )


def _anon_together(target: Target, interval: float) -> Callable[[int], Any]:
    """Make one trigger for all runs but the first, which warms up, in the place of one for each."""
    from airflow_anon.triggers import AnonWorkflowRunTrigger

    class Nothing:
        async def run(self) -> AsyncIterator[Any]:
            return
            yield

    def make(i: int) -> Any:
        if i > 1:
            return Nothing()
        ids = [run_id(0)] if i == 0 else [run_id(number) for number in range(1, TOGETHER)]
        return AnonWorkflowRunTrigger(workflow_run_ids=ids, anon_conn_id=CONN_ID, poke_interval=interval)

    return make


# Peers


def _connect_dbt(target: Target) -> dict[str, Any]:
    return {"conn_type": "dbt_cloud", "host": f"{HOST}:{target.port}", "login": "1", "password": TOKEN}


def _dbt(target: Target, interval: float) -> Callable[[int], Any]:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    if target.scheme == "http":
        with_tls = DbtCloudHook.get_request_url_params

        def without_tls(*args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
            url, params = with_tls(*args, **kwargs)
            return url.replace("https:", "http:"), params

        DbtCloudHook.get_request_url_params = staticmethod(without_tls)
    return lambda i: DbtCloudRunJobTrigger(
        conn_id=CONN_ID, run_id=i + 1, account_id=1, end_time=time.time() + A_WEEK, poll_interval=interval
    )


def _connect_databricks(target: Target) -> dict[str, Any]:
    return {
        "conn_type": "databricks",
        "host": HOST,
        "schema": target.scheme,
        "port": target.port,
        "password": TOKEN,
    }


def _databricks(target: Target, interval: float) -> Callable[[int], Any]:
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    return lambda i: DatabricksExecutionTrigger(
        run_id=i + 1, databricks_conn_id=CONN_ID, polling_period_seconds=interval
    )


def _connect_http(target: Target) -> dict[str, Any]:
    return {"conn_type": "http", "host": target.url, "extra": {"Authorization": f"Bearer {TOKEN}"}}


def _http(target: Target, interval: float) -> Callable[[int], Any]:
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return lambda i: HttpSensorTrigger(http_conn_id=CONN_ID, endpoint=f"http/{i}", poke_interval=interval)


def _connect_airbyte(target: Target) -> dict[str, Any]:
    return {"conn_type": "airbyte", "host": target.url}


def _airbyte(target: Target, interval: float) -> Callable[[int], Any]:
    from airflow.providers.airbyte.triggers.airbyte import AirbyteSyncTrigger

    return lambda i: AirbyteSyncTrigger(
        job_id=i + 1, conn_id=CONN_ID, end_time=time.time() + A_WEEK, poll_interval=interval
    )


def _connect_fivetran(target: Target) -> dict[str, Any]:
    return {"conn_type": "fivetran", "login": "key", "password": TOKEN}


def _fivetran(target: Target, interval: float) -> Callable[[int], Any]:
    import pendulum
    from fivetran_provider_async.hooks import FivetranHookAsync
    from fivetran_provider_async.triggers import FivetranTrigger

    FivetranHookAsync.api_protocol = target.scheme
    FivetranHookAsync.api_host = f"{HOST}:{target.port}"
    before = pendulum.datetime(2024, 5, 6, 7, 30)
    return lambda i: FivetranTrigger(
        task_id="t",
        connector_id=f"c{i}",
        fivetran_conn_id=CONN_ID,
        poke_interval=interval,
        previous_completed_at=before,
    )


# Floors


class SharedSession:
    """A poll with a bare ``aiohttp`` session that all waits share, then a sleep."""

    session: Any = None

    def __init__(self, target: Target, interval: float, number: int) -> None:
        self.target, self.interval = target, interval
        self.url = f"{target.url}/api/v2/workflow-runs/{run_id(number)}"

    async def run(self) -> AsyncIterator[Any]:
        """Wait."""
        if SharedSession.session is None:
            SharedSession.session = self._open()
        while True:
            async with SharedSession.session.get(self.url, headers=HEADERS) as response:
                run = json.loads(await response.read())
            if run["status"] == "COMPLETED":
                yield run
                return
            await asyncio.sleep(self.interval)

    def _open(self) -> Any:
        import aiohttp

        context = ssl.create_default_context() if self.target.scheme == "https" else True
        connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=310, ssl=context)
        return aiohttp.ClientSession(connector=connector)


class Streams:
    """A poll over raw asyncio streams, kept alive in a list that all waits share, then a sleep."""

    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []  # noqa: RUF012  shared on purpose
    places: Any = None
    context: Any = None

    def __init__(self, target: Target, interval: float, number: int) -> None:
        self.target, self.interval = target, interval
        headers = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        path = f"/api/v2/workflow-runs/{run_id(number)}"
        self.request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{target.port}\r\n{headers}\r\n".encode()

    async def run(self) -> AsyncIterator[Any]:
        """Wait."""
        if Streams.places is None:
            Streams.places = asyncio.Semaphore(MOST_CONNECTIONS)
            Streams.context = ssl.create_default_context() if self.target.scheme == "https" else None
        while True:
            async with Streams.places:
                run = json.loads(await self._poll())
            if run["status"] == "COMPLETED":
                yield run
                return
            await asyncio.sleep(self.interval)

    async def _poll(self) -> bytes:
        connection = self.idle.pop() if self.idle else await self._connect()
        reader, writer = connection
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        self.idle.append(connection)
        return body

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self.target.port, ssl=Streams.context)


def _floor(kind: type[Any]) -> Callable[[Target, float], Callable[[int], Any]]:
    return lambda target, interval: lambda i: kind(target, interval, i)


def _idle(target: Target, interval: float) -> Callable[[int], Any]:
    class Idle:
        async def run(self) -> AsyncIterator[Any]:
            await asyncio.sleep(A_WEEK)
            yield None

    return lambda i: Idle()


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("anon", "airflow-provider-anon", _connect_anon, _anon),
        Contender(
            "anon, one task",
            "airflow-provider-anon",
            _connect_anon,
            _anon_together,
            "One `AnonWorkflowRunTrigger` for all runs.",
        ),
        Contender(
            "floor: aiohttp",
            "aiohttp",
            _connect_anon,
            _floor(SharedSession),
            "One session for all waits, which only poll and sleep.",
        ),
        Contender(
            "floor: streams",
            "",
            _connect_anon,
            _floor(Streams),
            "The same over bare sockets of asyncio: what polls cost without an HTTP client.",
        ),
        Contender(
            "floor: nothing",
            "",
            _connect_anon,
            _idle,
            "No polls at all: the machine's own noise.",
            polls=False,
        ),
        Contender(
            "databricks",
            "apache-airflow-providers-databricks",
            _connect_databricks,
            _databricks,
            "One session, so one connection and one TLS context, for each wait. It writes one line for each poll.",
        ),
        Contender(
            "dbt",
            "apache-airflow-providers-dbt-cloud",
            _connect_dbt,
            _dbt,
            "Always speaks https; for the http tables its URL is rewritten, at next to no cost.",
        ),
        Contender(
            "http",
            "apache-airflow-providers-http",
            _connect_http,
            _http,
            "Waits for anything but a 404, so it never reads a body: less work than the others do.",
        ),
        Contender(
            "fivetran",
            "airflow-provider-fivetran-async",
            _connect_fivetran,
            _fivetran,
            "Host and scheme are class attributes, set by the benchmark.",
        ),
        Contender(
            "airbyte",
            "apache-airflow-providers-airbyte",
            _connect_airbyte,
            _airbyte,
            "Polls synchronously, on the event loop; without credentials here, so without its token requests.",
        ),
    )
}
OURS, OURS_TOGETHER, FLOOR = "anon", "anon, one task", "floor: aiohttp"
FLOORS = ("floor: aiohttp", "floor: streams")
PEERS = ("databricks", "dbt", "http", "fivetran", "airbyte")
WAITERS = (OURS, *FLOORS, *PEERS)
