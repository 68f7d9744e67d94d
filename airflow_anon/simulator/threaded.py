"""The simulator as an object: it serves from a thread of its own and may be used from any other."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator.answers import Credential
from airflow_anon.simulator.clock import Clock, MovableClock
from airflow_anon.simulator.listener import HOST
from airflow_anon.simulator.server import Server
from airflow_anon.simulator.world import OutageKind, World

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from airflow_anon.simulator.scripted_run import Change

T = TypeVar("T")
LONGEST_START = 30


class Simulator:
    """
    A local Anon API, served on loopback while the ``with`` block lasts.

    :param token: what clients must show; without one, everybody is let in.
    :param login: with one, *login* and *token* are demanded as Basic authentication.
    :param credential_header: the header that holds the token.
    :param base_path: what stands before ``/api/v2``, such as ``/anon``.
    :param port: 0 for any that is free.
    :param clock: what runs and outages go by; a :class:`MovableClock` in tests.
    :param ssl_context: serve HTTPS with it.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        login: str | None = None,
        credential_header: str = "Authorization",
        base_path: str = "",
        port: int = 0,
        clock: Clock | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self._world = World(self.clock)
        self._credential = Credential(token, login, credential_header)
        self._server_options: dict[str, Any] = {
            "base_path": base_path,
            "port": port,
            "ssl_context": ssl_context,
        }
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to serve."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        self.stop()

    def start(self) -> None:
        """
        Begin to serve.

        :raises OSError: the port is taken.
        """
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="anon-simulator", daemon=True
        )
        self._thread.start()
        started.result(timeout=LONGEST_START)

    def stop(self) -> None:
        """Close every socket and end the thread; what was counted stays."""
        if self._loop and self._stopping:
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread:
            self._thread.join()

    @property
    def url(self) -> str:
        """The API's base, such as ``http://127.0.0.1:8099``."""
        return self._running.url

    @property
    def page_url(self) -> str:
        """Where a person sees the runs and steers them."""
        return f"{self._running.root_url}/"

    @property
    def control_url(self) -> str:
        """The base of the control API."""
        return f"{self._running.root_url}/_control"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._running.port

    def connection(self, **extra: Any) -> str:
        """
        Return the connection in JSON, for ``AIRFLOW_CONN_ANON_DEFAULT``.

        :param extra: fields for the connection's ``extra``, such as ``timeout=1``.
        """
        if self._credential.header != "Authorization":
            extra.setdefault("credential_header", self._credential.header)
        scheme = self.url.partition(":")[0]
        fields = {
            "conn_type": "anon",
            "host": f"{scheme}://{HOST}{self._running.base_path}",
            "port": self.port,
            "login": self._credential.login,
            "password": self._credential.token,
            "extra": extra,
        }
        return json.dumps({name: value for name, value in fields.items() if value})

    @property
    def token(self) -> str | None:
        """What clients must show; setting it is what a rotated token looks like to them."""
        return self._credential.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._credential.token = token

    def create_run(
        self,
        script: str = WorkflowRunStatus.COMPLETED.value,
        run_id: str | None = None,
        workflow_id: str | None = None,
    ) -> str:
        """
        Start a run that follows *script* and return its id.

        :raises ValueError: the script or an id makes no sense, or there is such a run already.
        """
        return self._call(lambda: self._world.create_run(script, run_id, workflow_id))

    def answer(self, run_id: str) -> None:
        """Answer a run that waits for user input: it goes on to its next step."""
        self._call(lambda: self._world.answer(run_id))

    def complete(self, run_id: str) -> None:
        """End a run well, now."""
        self._call(lambda: self._world.end(run_id, WorkflowRunStatus.COMPLETED))

    def fail(self, run_id: str) -> None:
        """End a run badly, now."""
        self._call(lambda: self._world.end(run_id, WorkflowRunStatus.FAILED))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's JSON as it is now, or nothing while it is not visible; this is no poll of it."""
        return self._call(lambda: self._world.find(run_id).payload())

    def add_faults(self, faults: str, run_id: str | None = None) -> None:
        """
        Spoil the next requests, one each, for one run or for any.

        :raises ValueError: a fault makes no sense.
        """
        self._call(lambda: self._world.add_faults(faults, run_id))

    def outage(self, seconds: float, kind: str = "refused", retry_after: str | None = None) -> None:
        """
        Be away for *seconds* by the clock.

        :param kind: ``refused`` (no socket listens), ``503`` or ``429``.
        :param retry_after: the header of that name, for the last two.
        """
        outage_kind = OutageKind.parse(kind)
        self._call(lambda: self._world.start_outage(outage_kind, seconds, retry_after))
        self._follow_outage()

    def start_outage(self, kind: str = "refused", retry_after: str | None = None) -> None:
        """Be away until :meth:`stop_outage`; parameters as for :meth:`outage`."""
        self.outage(inf, kind, retry_after)

    def stop_outage(self) -> None:
        """Be back, on the same port."""
        self._call(self._world.stop_outage)
        self._follow_outage()

    def drop_connections(self) -> None:
        """Break the kept-alive connections, as a server does with those that are idle for too long."""
        self._call(self._running.drop_connections)
        # The sockets are closed by the loop's next round; whoever calls may rely on it.
        self._call(lambda: None)

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* pass at once.

        :raises TypeError: the clock is the real one.
        """
        if not isinstance(self.clock, MovableClock):
            raise TypeError("this simulator goes by the real time; give it clock=MovableClock()")
        clock = self.clock
        self._call(lambda: clock.advance(seconds))
        self._follow_outage()

    def take_changes(self) -> list[Change]:
        """Return what has happened to the runs since this was last asked, in order."""
        return self._call(self._world.take_changes)

    def reset(self) -> None:
        """Forget runs, faults, outages and counts."""
        self._call(self._world.reset)
        self._follow_outage()

    @property
    def requests(self) -> int:
        """How many requests were made; the control API is not counted."""
        return self._call(lambda: self._world.counters.requests)

    def requests_for(self, run_id: str) -> int:
        """Return how many requests were made for one run."""
        return self._call(lambda: self._world.counters.requests_by_run[run_id.lower()])

    @property
    def connections(self) -> int:
        """How many TCP connections those requests came over."""
        return self._call(lambda: self._world.counters.connections)

    @property
    def arrivals(self) -> list[float]:
        """When the last requests arrived, by ``time.monotonic()``; at most 10,000 are kept."""
        return self._call(lambda: list(self._world.counters.arrivals))

    @property
    def last_headers(self) -> dict[str, str]:
        """The headers of the last request, in the case that they were sent in."""
        return self._call(lambda: dict(self._world.counters.last_headers))

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("the simulator has not been started: use it in a with statement")
        return self._server

    def _call(self, act: Callable[[], T]) -> T:
        # The world belongs to the loop's thread while there is one, and so needs no lock.
        if self._loop is None:
            return act()

        async def in_loop() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result()

    def _follow_outage(self) -> None:
        if self._loop and self._server:
            asyncio.run_coroutine_threadsafe(self._server.follow_outage(), self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        self._stopping = asyncio.Event()
        server = Server(self._world, self._credential, **self._server_options)
        try:
            await server.start()
        except Exception as error:  # noqa: BLE001 - it belongs to the thread that waits in start()
            await server.stop()
            started.set_exception(error)
            return
        self._server, self._loop = server, asyncio.get_running_loop()
        started.set_result(None)
        await self._stopping.wait()
        await server.stop()
        self._loop = None
