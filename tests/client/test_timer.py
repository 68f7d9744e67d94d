"""Sleepers wake in time, together, and few in each turn of the event loop."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from airflow_anon.client.timer import TIMERS, WAKE_UP_EVERY, WAKE_UPS_PER_TURN, coalesced_sleep


async def woken_at(seconds: float) -> float:
    await coalesced_sleep(seconds)
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
def test_a_sleeper_sleeps_as_long_as_it_wished_and_hardly_longer(seconds):
    async def sleep():
        return asyncio.get_running_loop().time(), await woken_at(seconds)

    began, woke = asyncio.run(sleep())

    assert seconds <= woke - began < seconds + WAKE_UP_EVERY + 0.5


def test_those_that_are_due_together_share_a_timer():
    async def sleep():
        await coalesced_sleep(0)  # to the beginning of a tenth of a second
        sleepers = [asyncio.create_task(woken_at(0.02 + number / 10_000)) for number in range(300)]
        await asyncio.sleep(0)
        timers = len(asyncio.get_running_loop()._scheduled)
        await asyncio.gather(*sleepers)
        return timers

    assert asyncio.run(sleep()) <= 2  # a slow machine begins the next tenth of a second


def test_few_wake_in_each_turn_of_the_loop():
    turns: list[int] = []

    async def sleep(state):
        await coalesced_sleep(0.01)
        state["woken"] += 1

    async def count():
        state = {"woken": 0}
        sleepers = [asyncio.create_task(sleep(state)) for _ in range(5 * WAKE_UPS_PER_TURN)]
        while state["woken"] < len(sleepers):
            before = state["woken"]
            await asyncio.sleep(0)
            turns.append(state["woken"] - before)

    asyncio.run(count())

    assert sum(turns) == 5 * WAKE_UPS_PER_TURN
    assert max(turns) <= WAKE_UPS_PER_TURN


def test_a_sleeper_that_is_cancelled_wakes_nobody_else():
    async def sleep():
        sleepers = [asyncio.create_task(woken_at(0.05)) for _ in range(3)]
        await asyncio.sleep(0)
        sleepers[1].cancel()
        return await asyncio.gather(*sleepers, return_exceptions=True)

    first, cancelled, last = asyncio.run(sleep())

    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(first, float)
    assert isinstance(last, float)


def test_what_is_over_is_forgotten():
    async def sleep():
        await asyncio.gather(*(coalesced_sleep(0.01) for _ in range(3)))
        return TIMERS[asyncio.get_running_loop()].due

    assert asyncio.run(sleep()) == {}


def test_a_loop_that_is_closed_is_forgotten():
    async def slept():
        await coalesced_sleep(0.01)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(slept())
    gc.collect()

    assert loop() is None
