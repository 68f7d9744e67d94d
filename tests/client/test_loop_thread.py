"""What signals do to a coroutine that runs for a task: whatever the moment, the task ends with what they raise."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_anon.client import loop_thread
from airflow_anon.client.loop_thread import run_in_thread
from airflow_anon.client.shared_client import CLIENTS
from airflow_anon.core.polling import fetch_run
from airflow_anon.hooks import AnonHook
from airflow_anon.simulator import Simulator

TESTS = Path(__file__).parents[1]
TIMERS = 100


@pytest.mark.timeout(300)  # two hundred alarms are a minute's work where others are busy too
def test_hundreds_of_alarms_in_the_midst_of_a_round_all_end_it_and_leave_nothing(tmp_path):
    with Simulator(token="let-me-in") as simulator:
        ids = [simulator.create_run("IN_PROGRESS 24h, COMPLETED") for _ in range(5)]
        done = subprocess.run(
            [sys.executable, TESTS / "interrupted.py", str(TIMERS), "7", *ids],
            env={
                **os.environ,
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW_CONN_ANON_DEFAULT": simulator.connection(),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{TIMERS} {TIMERS} 1 0"
    assert simulator.requests > 2 * TIMERS


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupt():
    """Raise in the main thread, as the handlers of Airflow do."""

    def handle(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handle)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_it_returns_what_the_coroutine_returns_in_the_callers_context():
    number = ContextVar("number")
    number.set(3)

    async def add():
        return number.get() + 4

    async def within_a_loop():
        return run_in_thread(add)

    assert (run_in_thread(add), asyncio.run(within_a_loop())) == (7, 7)


def test_it_raises_what_the_coroutine_raises():
    async def fail():
        raise AirflowTaskTimeout("late")

    with pytest.raises(AirflowTaskTimeout, match="late"):
        run_in_thread(fail)


def test_a_signal_ends_the_coroutine_before_its_error_is_raised(interrupt):
    story = []

    async def wait():
        interrupt()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            story.append("ended")

    with pytest.raises(Interrupted):
        run_in_thread(wait)

    assert story == ["ended"]


def test_what_cannot_be_cancelled_holds_the_end_up_for_a_while_only(interrupt, monkeypatch):
    monkeypatch.setattr(loop_thread, "LONGEST_END", 0.1)
    release = threading.Event()

    async def wait():
        interrupt()
        await asyncio.to_thread(release.wait)

    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            run_in_thread(wait)
        assert time.monotonic() - began < 10
    finally:
        release.set()  # or the process never ends


async def never_begun():
    raise AssertionError("it has begun")


def test_what_is_interrupted_before_its_thread_has_begun_never_begins():
    run = loop_thread._Run(never_begun)
    run.cancel()

    run._run()

    assert run._error is None


def test_what_is_interrupted_before_its_loop_has_begun_ends_with_it(monkeypatch):
    monkeypatch.setattr(loop_thread, "LONGEST_END", 0.0)
    run = loop_thread._Run(never_begun)
    begin = run._cancellable

    async def interrupted():
        run.cancel()
        await begin()

    run._cancellable = interrupted
    run._run()

    assert type(run._error) is asyncio.CancelledError


def test_what_is_interrupted_when_it_has_just_ended_holds_nothing_up():
    async def end():
        return 3

    run = loop_thread._Run(end)
    run._run()

    run.cancel()

    assert run.result() == 3


def test_a_task_reads_its_connection_in_a_thread_that_no_cancellation_stops_half_way(simulator):
    """Otherwise the answer would still be on its way to a task that asks Airflow for something else."""
    run_id = simulator.create_run("IN_PROGRESS 24h, COMPLETED")
    story = []

    class Hook(AnonHook):
        @classmethod
        def get_connection(cls, conn_id):
            story.append(threading.current_thread().name)
            time.sleep(0.2)
            story.append("read")
            return super().get_connection(conn_id)

        @classmethod
        async def aget_connection(cls, conn_id):
            raise AssertionError("not so")

    async def cut_off():
        hook = Hook()
        polling = asyncio.ensure_future(
            hook.adrive_each(
                {1: fetch_run(run_id)},
                lambda *_: True,
                until=math.inf,
                log_line=hook.log_line,
                on_worker=True,
            )
        )
        await asyncio.sleep(0.05)
        polling.cancel()
        await asyncio.wait([polling])
        return polling.cancelled(), dict(CLIENTS[asyncio.get_running_loop()])

    is_cancelled, clients = run_in_thread(cut_off)

    assert (is_cancelled, clients, story[1]) == (True, {}, "read")
    assert story[0] not in ("MainThread", "airflow_anon")
