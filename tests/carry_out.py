"""
Carries a task out to its end as Airflow does: every start on a worker has a new task object, and
what is deferred, fired or kept goes through Airflow's encoders. Time is simulated: a sleep moves the clocks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import import_module
from itertools import count
from typing import Any
from unittest import mock

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    TaskDeferred,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from airflows_encoders import carried

from airflow_anon.client.shared_client import CLIENTS
from airflow_anon.links import plain_xcom
from airflow_anon.simulator import MovableClock, Simulator

if AIRFLOW_V_3_3_PLUS:
    from airflow.sdk.exceptions import AirflowRescheduleException
else:
    from airflow.exceptions import AirflowRescheduleException

LONGEST = 10_000
# Turns of the loop after which nobody is about to begin, to end or to be cancelled.
CALM = 5
MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferred": {"deferrable": True},
    "from the trigger": {"start_from_trigger": True},
    "without a worker": {"start_from_trigger": True, "end_from_trigger": True},
}


def waits_here() -> int:
    """Return how many waits are under way on this loop."""
    return sum(client._waits for client in CLIENTS[asyncio.get_running_loop()].values())


@dataclass(order=True)
class Sleeper:
    """Who sleeps until when; those that are due together wake in the order in which they fell asleep."""

    due_at: float
    number: int
    turn: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class MovingTime:
    """A clock for everything that waits: sleeping moves it, and the simulator's with it."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.offset = 0.0
        self.slept: list[float] = []
        self.sleepers: list[Sleeper] = []
        self.numbers = count()
        self.real_time, self.real_monotonic = time.time, time.monotonic
        self.began = self.real_monotonic()

    @property
    def passed(self) -> float:
        """Seconds since its beginning, on a slow machine the real ones too."""
        return self.monotonic() - self.began

    def time(self) -> float:
        return self.real_time() + self.offset

    def monotonic(self) -> float:
        return self.real_monotonic() + self.offset

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.offset += seconds
        self.simulator.advance(seconds)
        if len(self.slept) > LONGEST:
            raise AssertionError("the task waits for ever")

    async def coalesced_sleep(self, seconds: float) -> None:
        """Sleep beside others: once all who wait on this loop are asleep, the first to wake moves the clocks."""
        # As long as was asked for, whatever real time passes meanwhile: the machine may be busy.
        me = Sleeper(self.offset + seconds, next(self.numbers))
        insort(self.sleepers, me)
        try:
            await self._turn_of(me)
        finally:
            self.sleepers.remove(me)
            if self.sleepers:
                self.sleepers[0].turn.set()
        if me.due_at > self.offset:
            self.sleep(me.due_at - self.offset)

    async def asleep_alone(self, seconds: float) -> None:
        """Sleep while nobody else is there."""
        self.sleep(seconds)

    async def _turn_of(self, me: Sleeper) -> None:
        # Only the first watches: hundreds that do leave no time for the simulator, which is to answer them.
        calm = 0
        while me.due_at > self.offset and calm < CALM:
            if self.sleepers[0] is me:
                await asyncio.sleep(0)
                calm = calm + 1 if len(self.sleepers) == waits_here() else 0
            else:
                calm = 0
                me.turn.clear()
                await me.turn.wait()

    def utcnow(self) -> datetime:
        return datetime.fromtimestamp(self.time(), tz=timezone.utc)


@contextmanager
def moving_time(simulator: Simulator) -> Iterator[MovingTime]:
    """Let time move only by sleeping."""
    clock = MovingTime(simulator)
    with (
        mock.patch("time.time", clock.time),
        mock.patch("time.monotonic", clock.monotonic),
        mock.patch("time.sleep", clock.sleep),
        mock.patch("airflow_anon.client.aiohttp_client.coalesced_sleep", clock.coalesced_sleep),
        mock.patch("airflow_anon.triggers.coalesced_sleep", clock.asleep_alone),
    ):
        yield clock


@dataclass(frozen=True)
class Link:
    """What a task has kept for Airflow's pages, where, and when."""

    url: str
    where: str
    at: float


@dataclass
class Story:
    """What became of a task."""

    state: str = ""
    xcom: Any = None
    error: BaseException | None = None
    starts: int = 0
    triggers: int = 0
    events: list[Any] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass
class TaskInstance:
    """As much of Airflow's task instance as a sensor may use."""

    clock: MovingTime
    task: Any
    first_start: datetime | None = None
    rescheduled_try: int = 1
    start_date: datetime | None = None
    try_number: int = 1
    max_tries: int = 0
    dag_id: str = "dag"
    task_id: str = "wait"
    run_id: str = "manual"
    map_index: int = -1


class TaskInstance3(TaskInstance):
    """The same, on Airflow 3."""

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_start


class Store:
    """The task state store of Airflow 3.3."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = carried(value)


def carry_out(
    make_task: Callable[[], Any],
    clock: MovingTime,
    *,
    keeps: bool = AIRFLOW_V_3_3_PLUS,
    context: dict[str, Any] | None = None,
    begun_before: float = 0.0,
) -> Story:
    """
    Run a task to its end and tell what became of it.

    :param keeps: whether Airflow keeps something for the task between two starts on a worker.
    :param begun_before: seconds ago that a triggerer had begun the wait, which has died since.
    """
    story = Story()
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    ti = kind(clock, None, start_date=clock.utcnow())
    context = {"ti": ti, "task_instance": ti, **(context or {})}
    if keeps:
        context["task_state_store"] = Store()

    def resume(task: Any) -> Any:
        return task.execute(context)

    with _log_lines(story), _kept_links(story):
        _run(make_task, clock, story, ti, context, resume, begun_before)
    return story


def _run(
    make_task: Callable[[], Any],
    clock: MovingTime,
    story: Story,
    ti: TaskInstance,
    context: dict[str, Any],
    resume: Callable[[Any], Any],
    begun_before: float,
) -> None:
    resume = _start_without_worker(make_task(), clock, story, context, begun_before) or resume
    while not story.state:
        task = ti.task = context["task"] = make_task()
        story.starts += 1
        try:
            with reschedule_dates(clock, ti):
                story.xcom = carried(_start(resume, task, story, ti))
            story.state = "success"
        except TaskDeferred as deferred:
            limit = clock.utcnow() + deferred.timeout
            next_kwargs = {
                **carried(deferred.kwargs or {}),
                **_run_trigger(*deferred.trigger.serialize(), limit, story, _task_instance=ti),
            }
            resume = _resumption(deferred.method_name, next_kwargs, context)
        except AirflowRescheduleException as rescheduled:
            ti.first_start = ti.first_start or clock.utcnow()
            clock.sleep(max((rescheduled.reschedule_date - clock.utcnow()).total_seconds(), 0.0))
        except AirflowSkipException as error:
            story.state, story.error = "skipped", error
        except (AirflowFailException, AirflowSensorTimeout) as error:
            story.state, story.error = "failed", error
        except Exception as error:  # noqa: BLE001
            story.state, story.error = "up_for_retry", error


def _start(resume: Callable[[Any], Any], task: Any, story: Story, ti: TaskInstance) -> Any:
    """Start a task on a worker; at the end Airflow 3 keeps the task's links, however that came about."""
    try:
        return resume(task)
    finally:
        for link in task.operator_extra_links if AIRFLOW_V_3_0_PLUS else ():
            url = link.get_link(operator=task, ti_key=ti)
            if url and url not in {kept.url for kept in story.links}:
                with suppress(Exception):  # Airflow goes on without it
                    story.links.append(Link(url, "airflow", time.time()))


def _start_without_worker(
    task: Any, clock: MovingTime, story: Story, context: dict[str, Any], begun_before: float
) -> Callable[[Any], Any] | None:
    if not getattr(task, "start_from_trigger", False):
        return None
    args = task.start_trigger_args
    limit = clock.utcnow() + args.timeout - timedelta(seconds=begun_before)
    next_kwargs = _run_trigger(
        args.trigger_cls, args.trigger_kwargs, limit, story, timeout_after=limit, _task_instance=context["ti"]
    )
    return _resumption(args.next_method, next_kwargs, context)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _log_lines(story: Story) -> Iterator[None]:
    handler = _Lines(story.log)
    loggers = [
        logging.getLogger(name)
        for name in ("airflow.task.hooks.airflow_anon", "airflow.task.operators.airflow_anon", "airflow_anon")
    ]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def _kept_links(story: Story) -> Iterator[None]:
    """Keep links in the story, in place of Airflow's database."""

    def keep(where: str, xcom: dict[str, Any]) -> None:
        assert (xcom["dag_id"], xcom["task_id"], xcom["run_id"], xcom["map_index"]) == (
            "dag",
            "wait",
            "manual",
            -1,
        )
        story.links.append(Link(xcom["value"], where, time.time()))

    def read(**_: Any) -> str | None:
        return story.links[-1].url if story.links else None

    async def akeep(key: str, value: Any, **place: Any) -> None:
        if key == "return_value":
            story.xcom = carried(value)
        else:
            keep("triggerer", {"key": key, "value": value, **place})

    with (
        mock.patch.object(plain_xcom(), "get_value", read, create=True),
        mock.patch.object(plain_xcom(), "set", lambda **xcom: keep("worker", xcom)),
        mock.patch.object(plain_xcom(), "aset", akeep, create=True),
    ):
        yield


@contextmanager
def reschedule_dates(clock: MovingTime, ti: TaskInstance) -> Iterator[None]:
    """Make the first reschedule date and Airflow's clock agree with ours."""
    module = import_module(BaseSensorOperator.__module__)
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(module.timezone, "utcnow", clock.utcnow))
        if not AIRFLOW_V_3_0_PLUS:

            def first_start(*, try_number: int, **_: Any) -> datetime | None:
                return ti.first_start if try_number <= ti.rescheduled_try else None

            patches.enter_context(mock.patch.object(module, "_orig_start_date", first_start))
        yield


def _run_trigger(
    path: str, kwargs: dict[str, Any], limit: datetime, story: Story, **attributes: Any
) -> dict[str, Any]:
    story.triggers += 1
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**carried(kwargs))
    vars(trigger).update(attributes)
    events = asyncio.run(events_of(trigger))
    assert len(events) == 1, events
    assert time.time() <= limit.timestamp(), "Airflow would have ended the trigger"
    event = events[0]
    story.events.append(event.payload)
    end = getattr(event, "task_instance_state", None)
    if end is not None:
        story.state = str(end.value)
        assert event.xcoms is None, "Airflow would encode it twice"
        story.error = (
            "ended by the trigger, run without taking any action" if story.state == "skipped" else None
        )
        return {}
    return {"event": carried(event.payload)}


async def events_of(trigger: Any) -> list[Any]:
    """Return all that a trigger fires."""
    return [event async for event in trigger.run()]


def carried_out(main: Awaitable[Any]) -> Any:
    """Run *main*, and see that nothing of it is left."""

    async def checked() -> Any:
        result = await main
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not CLIENTS.get(asyncio.get_running_loop())
        return result

    result = asyncio.run(checked())
    gc.collect()
    return result


async def until(condition: Callable[[], Any]) -> None:
    """Let the others on this loop go on until it is so."""
    while not condition():
        await asyncio.sleep(0.001)


async def longest_block(work: Awaitable[Any]) -> float:
    """
    Return for how long the loop did nothing but compute, at most, while *work* was done.

    Counted is the loop's own time: other threads and programs may have the processor meanwhile.
    """
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            worst = max(worst, time.thread_time() - before)

    heart = asyncio.create_task(beat())
    await work
    await cancelled(heart)
    return worst


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task, which does not hold that up."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _resumption(method: str, kwargs: dict[str, Any], context: Any) -> Callable[[Any], Any]:
    return lambda task: task.resume_execution(method, kwargs, context)


@contextmanager
def anon_api(monkeypatch: Any, **options: Any) -> Iterator[tuple[Simulator, MovingTime]]:
    """Serve an API that ``anon_default`` leads to, by a time that only sleeping moves."""
    with Simulator(token="let-me-in", clock=MovableClock(), **options) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        with moving_time(simulator) as clock:
            yield simulator, clock
