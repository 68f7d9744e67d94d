"""
Sleeping for thousands of waits on one event loop.

They wake on a grid, so that one turn of the loop serves several, and never very many. One timer
serves all that are due together: a timer for each wait would leave behind, at each poll, objects
that Python in time stops everything to collect.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, MutableMapping
from weakref import WeakKeyDictionary

WAKE_UP_EVERY = 0.1
WAKE_UPS_PER_TURN = 50


class Timer:
    """Wakes the sleepers of one event loop, with one timer for all that are due together."""

    def __init__(self) -> None:
        self.due: dict[int, list[asyncio.Future[None]]] = {}

    def set(self, loop: asyncio.AbstractEventLoop, seconds: float) -> asyncio.Future[None]:
        """Return what is done *seconds* from now, and up to the next tenth of a second."""
        tick = math.ceil((loop.time() + seconds) / WAKE_UP_EVERY)
        sleepers = self.due.get(tick)
        if sleepers is None:
            sleepers = self.due[tick] = []
            loop.call_at(tick * WAKE_UP_EVERY, self._ring, loop, tick)
        sleeper = loop.create_future()
        sleepers.append(sleeper)
        return sleeper

    def _ring(self, loop: asyncio.AbstractEventLoop, tick: int) -> None:
        sleepers = self.due[tick]
        for sleeper in sleepers[-WAKE_UPS_PER_TURN:]:
            if not sleeper.done():
                sleeper.set_result(None)
        del sleepers[-WAKE_UPS_PER_TURN:]
        if sleepers:
            loop.call_soon(self._ring, loop, tick)
        else:
            del self.due[tick]


TIMERS: MutableMapping[asyncio.AbstractEventLoop, Timer] = WeakKeyDictionary()


def coalesced_sleep(seconds: float) -> Awaitable[None]:
    """Sleep *seconds*, and up to the next tenth of a second."""
    loop = asyncio.get_running_loop()
    timer = TIMERS.get(loop)
    if timer is None:
        timer = TIMERS[loop] = Timer()
    return timer.set(loop, seconds)
