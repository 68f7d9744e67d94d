"""How many requests there are at a time, in a second, and in a turn of the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import deque

FIRST_WIDTH = 10
LONGEST_IN_QUEUE = 1.0
STARTS_PER_TURN = 8


class RequestLimiter:
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

    async def acquire(self) -> None:
        """Wait for one's turn; who has acquired has to release."""
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
                self.release()
            raise

    def release(self) -> None:
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
