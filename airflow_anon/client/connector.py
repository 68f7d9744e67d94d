"""What aiohttp is told to do otherwise, and what would go wrong without it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import aiohttp

from airflow_anon.client.network import KEEP_ALIVE, SHARE_OF_TIMEOUT, SOCKET_OPTIONS, IdleLimit


class Attempt:
    """
    A request that is sent once, and the connection that it gets.

    :param is_fresh: whether it gets a new connection.
    """

    __slots__ = ("idle", "is_fresh", "protocol")

    def __init__(self, *, is_fresh: bool) -> None:
        self.is_fresh = is_fresh
        self.idle: float | None = None
        self.protocol: Any = None


ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class Connector(aiohttp.TCPConnector):
    """
    Gives each attempt a connection that is fit for it.

    :param timeout: seconds that a request may take in all.
    """

    def __init__(self, *, timeout: float, **options: Any) -> None:
        super().__init__(keepalive_timeout=KEEP_ALIVE, **options)
        self.idle_limit = IdleLimit()
        self.patience = timeout * SHARE_OF_TIMEOUT
        # One timer for all: those that were sent first are due first.
        self.unanswered: dict[Attempt, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Close what may be dead or out of step: aiohttp would use each connection that looks open."""
        attempt = ATTEMPT.get()
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol: Any = connection.protocol
            attempt.protocol = protocol
            used_at, now = getattr(protocol, "used_at", None), time.monotonic()
            if used_at is None:
                protocol.used_at = now
                self._keep_alive(connection.transport)
                return connection
            # With an answer to nothing in it, all answers to come would be those to the request before.
            if not (attempt.is_fresh or protocol.should_close) and self.idle_limit.allows(now - used_at):
                attempt.idle = now - used_at
                self.unanswered[attempt] = now + self.patience
                if self.timer is None:
                    self._plan(self.patience)
                return connection
            connection.close()

    def is_answered(self, attempt: Attempt) -> None:
        """Let the answer take all the time that there is."""
        self.unanswered.pop(attempt, None)

    def end(self, attempt: Attempt, *, is_kept: bool) -> None:
        """
        Hear how an attempt ended.

        What is not kept is closed, though it may be in the pool by now, or in use again: its next answer is no better.
        """
        self.is_answered(attempt)
        if is_kept:
            attempt.protocol.used_at = time.monotonic()
        elif attempt.protocol is not None:
            attempt.protocol.close()

    def _plan(self, seconds: float) -> None:
        self.timer = asyncio.get_running_loop().call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        """Cut off the connections that have not answered in time."""
        self.timer = None
        now = time.monotonic()
        for attempt, due_at in list(self.unanswered.items()):
            if due_at > now:
                self._plan(due_at - now)
                return
            del self.unanswered[attempt]
            with suppress(AttributeError):  # it may have been lost just now
                attempt.protocol.transport.abort()

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close all connections, and wait for none."""
        if self.timer is not None:
            self.timer.cancel()
        return super().close(*args, **kwargs)

    @staticmethod
    def _keep_alive(transport: Any) -> None:
        sock = transport.get_extra_info("socket")
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
