"""The simulated API as an aiohttp application: its one endpoint, served until it is stopped."""

from __future__ import annotations

import asyncio
import time
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from aiohttp import web

from airflow_anon.simulator.answers import Credential, about_outage, about_run, spoilt
from airflow_anon.simulator.control import control_routes
from airflow_anon.simulator.delivery import deliver, whole
from airflow_anon.simulator.gate import gate, is_for_people
from airflow_anon.simulator.listener import HOST, Listener
from airflow_anon.simulator.page import page
from airflow_anon.simulator.world import OutageKind, World

if TYPE_CHECKING:
    import ssl

    from aiohttp.typedefs import Handler

    from airflow_anon.simulator.answers import Answer

OPENAPI = Path(__file__).with_name("openapi.json")
OPENAPI_PATH = "/openapi.json"
IDLE_SECONDS = 3600
BRIEFLY = 0.01


class Server:
    """
    The API of a world, on a loopback socket. Lives in one event loop.

    :param base_path: what stands before ``/api/v2``, such as ``/anon``.
    """

    def __init__(
        self,
        world: World,
        credential: Credential,
        *,
        base_path: str = "",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.world = world
        self.credential = credential
        self.base_path = "/" + base_path.strip("/") if base_path.strip("/") else ""
        self._listener = Listener(port, ssl_context)
        self._scheme = "https" if ssl_context else "http"
        self._seen: WeakSet[asyncio.Transport] = WeakSet()
        self._moving = asyncio.Lock()
        self._return: asyncio.TimerHandle | None = None
        self._coming_back: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=1,
        )

    @property
    def port(self) -> int:
        """The port, once it has started."""
        return self._listener.port

    @property
    def root_url(self) -> str:
        """Where the page and the control API stand."""
        return f"{self._scheme}://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """What a client takes for the API's base."""
        return f"{self.root_url}{self.base_path}"

    async def start(self) -> None:
        """Listen, unless the world begins with an outage."""
        await self._runner.setup()
        await self._listener.open(self._web_server)
        await self.follow_outage()

    async def stop(self) -> None:
        """Close every socket."""
        async with self._moving:
            self._is_stopped = True
            if self._return:
                self._return.cancel()
            self._listener.close(self._web_server)
        await self._runner.cleanup()

    async def follow_outage(self) -> None:
        """Make the socket listen, or not, as the world's outage demands now and after its end."""
        async with self._moving:
            if self._is_stopped:
                return
            outage = self.world.outage
            is_wanted = outage is None or outage.kind is not OutageKind.REFUSED
            if is_wanted and not self._listener.is_open:
                await self._listener.open(self._web_server)
            elif not is_wanted and self._listener.is_open:
                self._listener.shut(self._web_server)
            self._follow_its_end()

    def drop_connections(self) -> None:
        """Break the living connections."""
        self._listener.drop_connections(self._web_server)

    def _follow_its_end(self) -> None:
        if self._return:
            self._return.cancel()
        if isfinite(left := self.world.outage_left) and left > 0:
            # The clock may be one that tests move, so the end is looked for again until it has come.
            loop = asyncio.get_running_loop()
            self._return = loop.call_later(max(left, BRIEFLY), self._come_back)

    def _come_back(self) -> None:
        self._coming_back = asyncio.create_task(self.follow_outage())

    @property
    def _web_server(self) -> web.Server:
        return cast("web.Server", self._runner.server)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[gate, self._counting])
        application.router.add_get(
            f"{self.base_path}/api/v2/workflow-runs/{{id}}", self._get_run, allow_head=False
        )
        application.router.add_get(OPENAPI_PATH, self._get_openapi)
        application.router.add_get("/", page)
        application.router.add_routes(control_routes(self))
        return application

    @web.middleware
    async def _counting(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_for_people(request.path) and request.path != OPENAPI_PATH:
            counters = self.world.counters
            counters.record(request.match_info.get("id"), dict(request.headers), time.monotonic())
            if request.transport is not None and request.transport not in self._seen:
                self._seen.add(request.transport)
                counters.connections += 1
        return await handler(request)

    async def _get_run(self, request: web.Request) -> web.StreamResponse:
        run_id = request.match_info["id"]
        if outage := self.world.outage:
            return whole(about_outage(outage))

        def right_answer() -> Answer:
            return about_run(self.world, self.credential, run_id, request.headers)

        fault = self.world.take_fault(run_id)
        if fault is None:
            return whole(right_answer())
        return await deliver(request, spoilt(fault, right_answer), fault)

    async def _get_openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=OPENAPI.read_bytes(), content_type="application/json")
