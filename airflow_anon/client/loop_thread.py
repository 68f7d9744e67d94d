"""
Runs a coroutine for a task, which signals may end at any moment.

``execution_timeout`` is a signal, and so is the end of a task: the handler raises in the main thread, wherever
that is just then. In an event loop that is mostly the loop's own machinery, where an error is lost, or leaves
the loop waiting for what never comes. So the loop has a thread of its own, which no handler interrupts, and the
main thread does nothing but wait for it. That works within another running loop, too.
"""

from __future__ import annotations

import asyncio
import math
import time
from _thread import start_new_thread
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# What cannot be cancelled, such as a name that is looked up, does not keep a task from its end.
LONGEST_END = 5.0
LONGEST_TURN = 0.5


def run_in_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Run a coroutine on a loop and in a thread of their own, in the caller's context, and return what it returns.

    Whatever is raised here meanwhile cancels the coroutine, and is raised once that has ended.
    """
    run = _Run(main)
    try:
        start_new_thread(run.start, ())
        run.wait()
    except BaseException:
        run.cancel()
        raise
    return run.result()


class _Run(Generic[T]):
    """
    A coroutine in its thread.

    Whoever waits may be interrupted between any two steps. So nothing is used there that would break by that,
    or lose the error: no lock that is to be given back, as in ``Thread.start`` and ``Thread.join``, and no last
    reference to what has weak ones, as threads, tasks and loops have.
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._context = copy_context()
        self._main = main
        self._right_to_begin = Lock()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._has_ended = self._is_cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._results: list[T] = []
        self._error: BaseException | None = None

    def start(self) -> None:  # pragma: no cover  no tool follows a bare thread
        """Begin; in any thread but the one that waits."""
        Thread(target=self._context.run, args=(self._run,), name="airflow_anon", daemon=True).start()

    def _run(self) -> None:
        if not self._right_to_begin.acquire(blocking=False):
            return
        try:
            self._results.append(asyncio.run(self._cancellable()))
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            self._error = error
        self._task = None
        self._has_ended = True
        self._ended.put(None)

    async def _cancellable(self) -> T:
        self._task = asyncio.current_task()
        if self._is_cancelled:
            raise asyncio.CancelledError
        return await self._main()

    def wait(self, seconds: float = math.inf) -> None:
        """
        Wait until it has ended, or so long.

        A signal that comes just before a thread begins to wait does not wake it: it is heeded at the next turn.
        """
        end = time.monotonic() + seconds
        while not self._has_ended and time.monotonic() < end:
            with suppress(Empty):
                self._ended.get(timeout=min(seconds, LONGEST_TURN))

    def cancel(self) -> None:
        """Let it end, and wait for that; or let it never begin."""
        self._is_cancelled = True
        if self._right_to_begin.acquire(blocking=False):
            return
        self._cancel_task(self._task)
        self.wait(LONGEST_END)

    @staticmethod
    def _cancel_task(task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            with suppress(RuntimeError):  # the loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def result(self) -> T:
        """Return what it returned, or raise what it raised."""
        if self._error is None:
            return self._results[0]
        try:
            raise self._error
        finally:
            self._error = None  # it knows of this frame, which is not to know of it
