"""What aiohttp is told to do otherwise, and what would go wrong without it."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp

from airflow_anon.client.network import KEEP_ALIVE, SHARE_OF_TIMEOUT, SOCKET_OPTIONS, IdleLimit


class Attempt:
    """
    A request that is sent once, and the connection that it gets.

    :param seconds: how long it may take in all.
    :param is_fresh: whether it gets a new connection.
    """

    __slots__ = ("idle", "is_fresh", "protocol", "seconds", "timer")

    def __init__(self, seconds: float, *, is_fresh: bool) -> None:
        self.seconds = seconds
        self.is_fresh = is_fresh
        self.idle: float | None = None
        self.protocol: Any = None
        self.timer: asyncio.TimerHandle | None = None

    def is_answered(self) -> None:
        """Let the answer take all the time that there is."""
        if self.timer is not None:
            self.timer.cancel()


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class Connector(aiohttp.TCPConnector):
    """Gives each attempt a connection that is fit for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(keepalive_timeout=KEEP_ALIVE, **options)
        self.idle_limit = IdleLimit()
        self.used_at: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Close what may be dead or out of step: aiohttp would use each connection that looks open."""
        attempt = ATTEMPT.get()
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol: Any = connection.protocol
            attempt.protocol = protocol
            used_at = self.used_at.get(protocol)
            if used_at is None:
                self._keep_alive(connection.transport)
                return connection
            idle = time.monotonic() - used_at
            # With an answer to nothing in it, all answers to come would be those to the request before.
            if not (attempt.is_fresh or protocol.should_close) and self.idle_limit.allows(idle):
                attempt.idle = idle
                attempt.timer = asyncio.get_running_loop().call_later(
                    attempt.seconds * SHARE_OF_TIMEOUT, protocol.transport.abort
                )
                return connection
            connection.close()

    def end(self, attempt: Attempt, *, is_kept: bool) -> None:
        """
        Hear how an attempt ended.

        What is not kept is closed, though it may be in the pool by now, or in use again: its next answer is no better.
        """
        attempt.is_answered()
        if is_kept:
            self.used_at[attempt.protocol] = time.monotonic()
        elif attempt.protocol is not None:
            attempt.protocol.close()

    @staticmethod
    def _keep_alive(transport: Any) -> None:
        sock = transport.get_extra_info("socket")
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
