"""
One asynchronous client for each connection and event loop, shared by every wait there.

What one wait learns holds for all: a ``Retry-After`` or an outage makes all of them pause, and one
request finds out whether it is over. Requests go in order, few in each turn of the loop, and the
same request is not sent twice at a time. The connection is read once, and the client is closed
when its last wait leaves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, MutableMapping
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_anon.exceptions import AnonConfigurationError
from airflow_anon.protocol import Answer, Meaning, NoResponse, Request, Response, meaning_of
from airflow_anon.transport import AsyncClient

if TYPE_CHECKING:
    from airflow_anon.settings import Endpoint
    from airflow_anon.transport import Listener

FIRST_WIDTH = 10
LONGEST_IN_QUEUE = 1.0
STARTS_PER_TURN = 8
FAILURES_OF_AN_OUTAGE = 3
LONGEST_QUIET = 15.0
RENEW_AT_MOST_EVERY = 30.0


class Gate:
    """
    Lets requests go in order, so many at a time, so many a second, and few in a turn of the loop.

    It opens wider, up to *widest*, only while requests stand in line for longer than a second, and
    narrows again when none does, so that a handful of connections carries what a handful can.
    """

    def __init__(self) -> None:
        self.widest = self.width = FIRST_WIDTH
        self.gap = self.next_at = 0.0
        self.widened_at = -math.inf
        self.under_way = 0
        self.started = 0
        self.line: deque[tuple[asyncio.Future[None], float]] = deque()
        self.turn: asyncio.Handle | None = None
        self.timer: asyncio.TimerHandle | None = None

    def fit(self, widest: int, per_second: float | None) -> None:
        """Take on the limits of an endpoint."""
        self.widest = widest
        self.width = min(max(self.width, FIRST_WIDTH), widest)
        self.gap = 1 / per_second if per_second else 0.0

    async def enter(self) -> None:
        """Wait for one's turn; who has entered has to leave."""
        loop = asyncio.get_running_loop()
        if not self.line and self._is_open(loop.time()):
            self._start(loop)
            return
        waiter = loop.create_future()
        self.line.append((waiter, loop.time()))
        self._plan_turn(loop)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Make room for the next."""
        self.under_way -= 1
        if self.line:
            self._plan_turn(asyncio.get_running_loop())
        elif self.width > FIRST_WIDTH:
            self.width -= 1

    def _is_open(self, now: float) -> bool:
        return self.under_way < self.width and self.started < STARTS_PER_TURN and now >= self.next_at

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.under_way += 1
        self.started += 1
        self.next_at = max(self.next_at, loop.time()) + self.gap if self.gap else 0.0
        self._plan_turn(loop)

    def _plan_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.turn is None:
            self.turn = loop.call_soon(self._take_turn, loop)

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.turn, self.timer, self.started = None, None, 0
        now = loop.time()
        while self.line:
            waiter, since = self.line[0]
            if waiter.done():
                self.line.popleft()
                continue
            if now - since > LONGEST_IN_QUEUE:
                self._widen(now)
            if not self._is_open(now):
                break
            self.line.popleft()
            self._start(loop)
            waiter.set_result(None)
        if self.line and self.turn is None:
            pause = max(self.next_at - now, 0.0) or LONGEST_IN_QUEUE / self.width
            self.timer = loop.call_later(pause, self._take_turn, loop)

    def _widen(self, now: float) -> None:
        # Step by step, not at once: more connections do not help where it is not the API that is slow.
        if (
            self.under_way >= self.width < self.widest
            and now - self.widened_at > LONGEST_IN_QUEUE / self.width
        ):
            self.width += 1
            self.widened_at = now


class Quiet:
    """
    Keeps the requests of all waits back while the API asks to be left alone, or is away.

    What goes wrong with one run alone keeps nobody back: it takes several to make an outage, and
    each of them counts once until there is a good answer.
    """

    def __init__(self) -> None:
        self.trouble: Response | NoResponse | None = None
        self.until = 0.0
        self.pauses = 0
        self.failed: set[str] = set()
        self.probe: asyncio.Future[None] | None = None

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be asked now."""
        return time.monotonic() < self.until

    def holds(self, target: str) -> bool:
        """Say whether *target* is kept back; once a pause is over, who has failed before asks for itself."""
        return self.trouble is not None and (self.is_paused or target not in self.failed)

    def heed(self, reply: Response | NoResponse) -> None:
        """Learn from an answer."""
        answer = Answer(meaning_of(reply), reply)
        if answer.meaning is Meaning.DISTURBED:
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or self._makes_an_outage(answer):
                self._pause(answer)
        elif not self.is_paused:  # what comes in the middle of a pause was asked for before it
            self.trouble, self.pauses = None, 0
            self.failed.clear()

    def _makes_an_outage(self, answer: Answer) -> bool:
        if self.is_paused or answer.reply.target in self.failed:
            return False
        self.failed.add(answer.reply.target)
        return answer.retry_after > 0 or len(self.failed) >= FAILURES_OF_AN_OUTAGE

    def _pause(self, answer: Answer) -> None:
        if not self.is_paused:
            self.pauses = min(self.pauses + 1, 10)
        pause = answer.retry_after or min(2.0**self.pauses, LONGEST_QUIET)
        self.trouble, self.until = answer.reply, max(self.until, time.monotonic() + pause)

    def again(self, target: str) -> Response | NoResponse | None:
        """Return the answer that stands until the pause is over, as if *target* had been asked."""
        left = self.until - time.monotonic()
        if self.trouble is None or left <= 0:
            return None
        now = time.time()
        reply = replace(self.trouble, sent_at=now, at=now, target=target, is_remembered=True)
        if isinstance(reply, Response):
            reply = replace(reply, headers={"Retry-After": str(math.ceil(left))})
        return reply


class SharedClient:
    """
    The client of one connection on one event loop. :meth:`join` it, and :meth:`leave` it.

    :param key: what its waits have in common.
    :param read: reads the connection.
    :param listener: hears of every answer.
    """

    def __init__(
        self, key: Hashable, read: Callable[[], Awaitable[Endpoint]], listener: Listener | None = None
    ) -> None:
        self._key = key
        self._read = read
        self._listener = listener
        self._waits = 0
        self._client: AsyncClient | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = -math.inf
        self._under_way: dict[str, asyncio.Future[Response | NoResponse | None] | None] = {}
        self._quiet = Quiet()
        self._gate = Gate()

    @classmethod
    def join(
        cls, key: Hashable, read: Callable[[], Awaitable[Endpoint]], listener: Listener | None = None
    ) -> SharedClient:
        """Join the client of *key* on the running loop; who comes first brings the listener."""
        clients = CLIENTS.setdefault(asyncio.get_running_loop(), {})
        client = clients.get(key)
        if client is None:
            client = clients[key] = cls(key, read, listener)
        client._waits += 1
        return client

    async def leave(self) -> None:
        """Leave; the last one closes the connections."""
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
        while request.path in self._under_way:
            reply = await self._follow(request.path)
            if reply is not None:
                return reply
        self._under_way[request.path] = reply = None
        try:
            if self._client is None:
                await self._open()
            while reply is None:
                reply = await self._ask(request)
        finally:
            follower = self._under_way.pop(request.path)
            if follower is not None and not follower.done():
                follower.set_result(reply)
        return reply

    async def renew(self) -> None:
        """
        Read the connection again, unless that was done just now; one that cannot be read stays as it was.

        :raises AnonConfigurationError: the connection makes no sense now.
        """
        if self._reading is None and time.monotonic() - self._read_at < RENEW_AT_MOST_EVERY:
            return
        try:
            await self._open()
        except AnonConfigurationError as error:
            if not error.is_unread:
                raise

    async def _follow(self, path: str) -> Response | NoResponse | None:
        future = self._under_way[path]
        if future is None:
            future = self._under_way[path] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def _ask(self, request: Request) -> Response | NoResponse | None:
        """Ask the API when it may be asked; None if trouble came up meanwhile."""
        quiet, probe = self._quiet, None
        target = self._opened.endpoint.url(request.path)
        while probe is None and quiet.holds(target):
            if (reply := quiet.again(target)) is not None:
                return reply
            if quiet.probe is None:
                probe = quiet.probe = asyncio.get_running_loop().create_future()
            else:
                await asyncio.shield(quiet.probe)
        try:
            await self._gate.enter()
            try:
                if quiet.holds(target) and (probe is None or quiet.is_paused):
                    return None
                return await self._send(request, quiet)
            finally:
                self._gate.leave()
        finally:
            if probe is not None:
                quiet.probe = None
                probe.set_result(None)

    async def _send(self, request: Request, quiet: Quiet) -> Response | NoResponse:
        client = self._opened
        reply = await client.send(request)
        if isinstance(reply, NoResponse) and client is not self._client:
            # The connection was read anew meanwhile, and that cut it off.
            reply = await self._opened.send(request)
        quiet.heed(reply)
        if self._listener is not None:
            self._listener.heard(reply)
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
            self._read_at = time.monotonic()
            endpoint = await self._read()
            before = self._client
            if before is None or before.endpoint != endpoint:
                self._client = await AsyncClient.open(endpoint)
                self._gate.fit(endpoint.max_connections, endpoint.max_requests_per_second)
                self._quiet = Quiet()
                if before is not None:
                    await before.close()
        finally:
            self._reading = None

    async def _close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        if self._client is not None:
            await self._client.close()
        if self._listener is not None:
            self._listener.pass_on()


CLIENTS: MutableMapping[asyncio.AbstractEventLoop, dict[Hashable, SharedClient]] = WeakKeyDictionary()
