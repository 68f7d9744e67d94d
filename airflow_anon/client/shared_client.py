"""
One asynchronous client for each connection and event loop, shared by every wait there.

What one wait learns holds for all: a ``Retry-After`` or an outage makes all of them pause, and one
request finds out whether it is over. Requests go in order, few in each turn of the loop, and the
same request is not sent twice at a time. The connection is read once, and the client is closed
when its last wait releases it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_anon.client.aiohttp_client import AsyncClient
from airflow_anon.client.breaker import CircuitBreaker
from airflow_anon.client.limiter import RequestLimiter
from airflow_anon.client.network import RELOAD_AT_MOST_EVERY, surroundings
from airflow_anon.core.errors import AnonConfigurationError
from airflow_anon.core.flow import NoResponse, Request, Response

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint
    from airflow_anon.client.network import Listener


class SharedClient:
    """
    The client of one connection on one event loop. :meth:`acquire` it, and :meth:`release` it.

    :param key: what its waits have in common.
    :param read: reads the connection.
    :param listener: hears of every answer.
    :param place: where the connection is read, for a message.
    """

    def __init__(
        self,
        key: Hashable,
        read: Callable[[], Awaitable[Endpoint]],
        listener: Listener | None = None,
        place: str = "the triggerer",
    ) -> None:
        self.place = place
        self._key = key
        self._read = read
        self._listener = listener
        self._waits = 0
        self._client: AsyncClient | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reloaded_at = -math.inf
        self._under_way: dict[Request, asyncio.Future[Response | NoResponse | None] | None] = {}
        self._breaker = CircuitBreaker()
        self._limiter = RequestLimiter()

    @classmethod
    def acquire(
        cls,
        key: Hashable,
        read: Callable[[], Awaitable[Endpoint]],
        listener: Listener | None = None,
        place: str = "the triggerer",
    ) -> SharedClient:
        """Take part in the client of *key* on the running loop; who comes first brings the listener."""
        clients = CLIENTS.setdefault(asyncio.get_running_loop(), {})
        client = clients.get(key)
        if client is None:
            client = clients[key] = cls(key, read, listener, place)
        client._waits += 1
        return client

    async def release(self) -> None:
        """Take part no longer; the last one closes the connections."""
        self._waits -= 1
        if not self._waits:
            del CLIENTS[asyncio.get_running_loop()][self._key]
            await asyncio.shield(self._close())

    @property
    def endpoint(self) -> Endpoint | None:
        """What the connection said when it was last read."""
        return None if self._client is None else self._client.endpoint

    async def send(self, request: Request) -> Response | NoResponse:
        """
        Send a request in its turn and wait for the answer.

        :raises AnonConfigurationError: the connection cannot be read, or makes no sense.
        """
        while request in self._under_way:
            reply = await self._follow(request)
            if reply is not None:
                return reply
        self._under_way[request] = reply = None
        try:
            if self._client is None:
                await self._open()
            while reply is None:
                reply = await self._ask(request)
        finally:
            follower = self._under_way.pop(request)
            if follower is not None and not follower.done():
                follower.set_result(reply)
        return reply

    async def reload(self) -> None:
        """
        Read the connection again, unless that was done just now; one that cannot be read stays as it was.

        :raises AnonConfigurationError: the connection makes no sense now.
        """
        now = time.monotonic()
        if self._reading is None and now - self._reloaded_at < RELOAD_AT_MOST_EVERY:
            return
        self._reloaded_at = now
        try:
            await self._open()
        except AnonConfigurationError as error:
            if not error.is_unread:
                raise

    async def _follow(self, request: Request) -> Response | NoResponse | None:
        future = self._under_way[request]
        if future is None:
            future = self._under_way[request] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def _ask(self, request: Request) -> Response | NoResponse | None:
        """Ask the API when it may be asked; None if trouble came up meanwhile."""
        breaker, probe = self._breaker, None
        target = self._opened.endpoint.url(request.path)
        while probe is None and not request.own and breaker.holds(target):
            if (reply := breaker.again(target)) is not None:
                return reply
            if breaker.probe is None:
                probe = breaker.probe = asyncio.get_running_loop().create_future()
            else:
                await asyncio.shield(breaker.probe)
        try:
            await self._limiter.acquire()
            try:
                is_held = breaker.holds(target) and not request.own
                if is_held and (probe is None or breaker.is_paused):
                    return None
                return await self._send(request, breaker)
            finally:
                self._limiter.release()
        finally:
            if probe is not None:
                breaker.probe = None
                probe.set_result(None)

    async def _send(self, request: Request, breaker: CircuitBreaker) -> Response | NoResponse:
        client = self._opened
        client.under_way += 1
        try:
            reply = await client.send(request)
        finally:
            client.under_way -= 1
            if client is not self._client and not client.under_way:
                await client.close()  # the connection was read anew meanwhile
        breaker.heed(reply)
        if self._listener is not None:
            self._listener.observe(reply)
        return reply

    @property
    def _opened(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("the client is used before it is open, or after its last wait left")
        return self._client

    async def _open(self) -> None:
        # A task of its own: the wait that comes first may be cancelled while the others go on.
        if self._reading is None:
            self._reading = asyncio.create_task(self._open_once())
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._reading)

    async def _open_once(self) -> None:
        try:
            endpoint = await self._read()
            before = self._client
            if before is not None and before.endpoint == endpoint:
                await self._replace(before)
            else:
                await self._use(await AsyncClient.open(endpoint))
        finally:
            self._reading = None

    async def _replace(self, client: AsyncClient) -> None:
        """Open a client anew if a file, or the environment's proxy, has changed under it."""
        try:
            if await asyncio.to_thread(surroundings, client.endpoint) != client.surroundings:
                await self._use(await AsyncClient.open(replace(client.endpoint)))
        except AnonConfigurationError:
            return  # a file that is just being written

    async def _use(self, client: AsyncClient) -> None:
        """Go on with another client; requests that are under way are not cut off."""
        before, self._client = self._client, client
        self._limiter.fit(client.endpoint.max_connections, client.endpoint.max_requests_per_second)
        self._breaker = CircuitBreaker()
        if before is not None and not before.under_way:
            await before.close()

    async def _close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        if self._client is not None:
            await self._client.close()
        if self._listener is not None:
            self._listener.flush()


CLIENTS: MutableMapping[asyncio.AbstractEventLoop, dict[Hashable, SharedClient]] = WeakKeyDictionary()
