"""
One measurement, in a process of its own: ``worker.py SPEC`` prints what was measured as JSON.

The process has loaded what a triggerer has loaded, whoever is measured, so that the garbage
collector has the same heap to walk, and writes its log as a triggerer does, to nowhere. The
triggerer's own cost for each wait (a greenlet portal, a span, its database) is left out for all.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import http.client
import io
import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Contender, Target

BEAT = 0.004


class CountingNowhere(io.RawIOBase):
    """Where the log goes: lines are counted and dropped."""

    lines = 0

    def writable(self) -> bool:
        """It takes everything."""
        return True

    def write(self, data: Any) -> int:
        """Count the lines in *data*."""
        self.lines += bytes(data).count(b"\n")
        return len(data)


class Server:
    """The harness' end of the server's control port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def tell(self, command: str) -> dict[str, Any]:
        """Give a command; return what had been counted before it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", f"/{command}")
        stats: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return stats


class Calls:
    """Counts the look-ups of connections and the secrets handed to the masker."""

    def __init__(self) -> None:
        self.count = {"lookups": 0, "masks": 0}
        from airflow.sdk.execution_time import context

        for name, kind in (
            ("_get_connection", "lookups"),
            ("_async_get_connection", "lookups"),
            ("mask_secret", "masks"),
            ("amask_secret", "masks"),
        ):
            setattr(context, name, self._counted(getattr(context, name), kind))

    def _counted(self, function: Any, kind: str) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count[kind] += 1
            return function(*args, **kwargs)

        return counted


class Bench:
    """
    A triggerer in small: many waits of one contender on one event loop.

    :param spec: what is asked for, see ``measures``.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.number: int = spec.get("number", 0)
        self.interval: float = spec.get("interval", 5.0)
        self.server = Server(spec["ports"]["control"])
        self.target = Target(spec["scheme"], spec["ports"][spec["scheme"]])
        self.contender: Contender = CONTENDERS[spec["contender"]]
        self.contender.set_connection(self.target)
        self.nowhere = CountingNowhere()
        _load_what_a_triggerer_loads(self.nowhere)
        self.calls = Calls()
        self.make = self.contender.prepare(self.target, self.interval)
        self.tasks: list[asyncio.Task[None]] = []
        self.events: list[Any] = []
        self.errors: list[str] = []

    def measure(self) -> dict[str, Any]:
        """Measure what is asked for."""
        self.server.tell("reset")
        if self.spec.get("delay"):
            self.server.tell(f"delay?seconds={self.spec['delay']}")
        return asyncio.run(getattr(self, self.spec["measure"])())

    async def wait(self, number: int) -> None:
        """Run one wait to its event, as a triggerer does."""
        try:
            async for event in self.make(number).run():
                self.events.append(getattr(event, "payload", event))
        except Exception as error:  # noqa: BLE001  a peer's failure is a result, too
            self.errors.append(f"{type(error).__name__}: {error}"[:300])

    def start(self, first: int, number: int) -> None:
        """Start waits at once."""
        for i in range(first, first + number):
            self.tasks.append(asyncio.create_task(self.wait(i)))

    async def start_spread(self, first: int, number: int, seconds: float) -> None:
        """Start waits, spread evenly over so many seconds."""
        began = time.monotonic()
        for i in range(number):
            pause = began + seconds * i / number - time.monotonic()
            if pause > 0 or not i % 100:
                await asyncio.sleep(max(pause, 0))
            self.start(first + i, 1)

    async def warm(self) -> None:
        """Let one wait take its first poll, so that all is imported and connected."""
        self.start(0, 1)
        if self.contender.polls:
            await self.polled(1)

    async def polled(self, number: int, seconds: float = 60.0) -> None:
        """Wait until so many different runs have been polled."""
        until = time.monotonic() + seconds
        while self.server.tell("stats")["waits"] < number:
            if time.monotonic() > until or self.errors:
                raise RuntimeError(f"{self.server.tell('stats')} {self.errors[:3]} {self.events[:3]}")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Cancel all waits."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def facts(self, polls: int) -> dict[str, Any]:
        """Return what every measurement tells besides."""
        return {
            "polls": polls,
            "events": len(self.events),
            "errors": self.errors[:3],
            "sample": str(self.events[:1])[:300] if self.events else "",
        }

    # Measures

    async def cpu(self) -> dict[str, Any]:
        """CPU of the polls of *number* waits that poll each *interval*, over *rounds* of it."""
        await self.warm()
        if self.spec.get("together"):
            self.start(1, self.number - 1)
            await asyncio.sleep(self.interval * 1.5)
        else:
            await self.start_spread(1, self.number - 1, self.interval)
            await asyncio.sleep(self.interval * 0.2)
        gc.collect()
        before = self.server.tell("recount")
        lines, cpu, wall = self.nowhere.lines, time.process_time(), time.monotonic()
        calls = dict(self.calls.count)
        with _profiled(self.spec.get("profile")):
            await asyncio.sleep(self.interval * self.spec.get("rounds", 1))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        after = self.server.tell("stats")
        lines = self.nowhere.lines - lines
        await self.stop()
        polls = after["polls"]
        return {
            **self.facts(polls),
            "cpu": cpu,
            "wall": wall,
            "ms_per_poll": cpu * 1000 / max(polls, 1),
            "share": cpu / wall,
            "opened_before": before["opened"],
            "opened": after["opened"],
            "most_open": max(before["most_open"], after["most_open"]),
            "lines_per_poll": lines / max(polls, 1),
            **calls,
        }

    async def memory(self) -> dict[str, Any]:
        """Resident memory of one more wait that has taken its first poll."""
        await self.warm()
        await asyncio.sleep(0.5)
        gc.collect()
        before = _resident()
        for i in range(1, self.number):
            self.start(i, 1)
            await asyncio.sleep(0)
        await self.polled(self.number, 120)
        await asyncio.sleep(1.0)
        gc.collect()
        after = _resident()
        stats = self.server.tell("stats")
        await self.stop()
        return {
            **self.facts(stats["polls"]),
            "kib_per_wait": (after - before) / 1024 / (self.number - 1),
            "open": stats["open"],
            "most_open": stats["most_open"],
        }

    async def block(self) -> dict[str, Any]:
        """Longest time for which the loop did not come round."""
        await self.warm()
        gc.collect()
        together = self.spec.get("together")
        if not together:
            await self.start_spread(1, self.number - 1, self.interval)
        collections = gc.get_stats()[2]["collections"]
        heart = asyncio.create_task(_beat(time.monotonic() + self.spec["seconds"]))
        await asyncio.sleep(0.1)
        if together:
            self.start(1, self.number - 1)
        beats = await heart
        collections = gc.get_stats()[2]["collections"] - collections
        stats = self.server.tell("stats")
        await self.stop()
        late = sorted((lateness for lateness, _ in beats), reverse=True)
        busy = sorted((min(pair) for pair in beats), reverse=True)
        return {
            **self.facts(stats["polls"]),
            "longest_ms": late[0] * 1000,
            "longest_busy_ms": busy[0] * 1000,
            "tenth_ms": late[min(9, len(late) - 1)] * 1000,
            "full_collections": collections,
            "beats": len(beats),
        }

    async def faulty(self) -> dict[str, Any]:
        """Requests that a wait makes while the API answers with one kind of error."""
        self.start(0, self.number)
        await self.polled(self.number)
        await asyncio.sleep(self.interval * 0.5)
        self.server.tell(f"fault?{self.spec['fault']}")
        await asyncio.sleep(self.spec["seconds"])
        stats = self.server.tell("stats")
        alive = sum(not task.done() for task in self.tasks)
        await self.stop()
        intervals = self.spec["seconds"] / self.interval
        return {
            **self.facts(stats["polls"]),
            "per_interval": stats["polls"] / self.number / intervals,
            "most_per_interval": stats["most_polls"] / intervals,
            "per_second": stats["polls"] / self.spec["seconds"],
            "shortest_gap": stats["shortest_gap"],
            "alive": alive,
        }

    async def storm(self) -> dict[str, Any]:
        """Requests through some seconds of 429, and whether all waits end well after them."""
        await self.warm()
        await self.start_spread(1, self.number - 1, self.interval)
        await asyncio.sleep(self.interval * 0.5)
        seconds = self.spec["seconds"]
        self.server.tell(f"fault?kind=429&retry_after={self.spec['retry_after']}&seconds={seconds}")
        await asyncio.sleep(seconds)
        stats = self.server.tell("recount")
        self.server.tell("over")
        _, late = await asyncio.wait(self.tasks, timeout=seconds + 6 * self.interval)
        recovery = self.server.tell("stats")
        await self.stop()
        ended_well = sum(
            "COMPLETED" in str(event) or "uccess" in str(event) or event is True for event in self.events
        )
        return {
            **self.facts(stats["polls"]),
            "per_wait": stats["polls"] / self.number,
            "ended_well": ended_well,
            "left": len(late),
            "polls_after": recovery["polls"],
        }

    async def many(self) -> dict[str, Any]:
        """CPU share and memory of very many waits, started together."""
        await self.warm()
        await asyncio.sleep(0.5)
        gc.collect()
        before = _resident()
        for first in range(1, self.number, 100):
            self.start(first, min(100, self.number - first))
            await asyncio.sleep(0)
        await asyncio.sleep(self.interval)
        first_round = self.server.tell("recount")
        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.sleep(self.interval * self.spec.get("rounds", 1))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        stats = self.server.tell("stats")
        memory = _resident() - before
        await self.stop()
        return {
            **self.facts(stats["polls"]),
            "share": cpu / wall,
            "mb": memory / 1e6,
            "first_round": first_round["polls"],
            "waits_seen": stats["waits"],
            "polls_per_wait": stats["polls"] / self.number,
            "ms_per_poll": cpu * 1000 / max(stats["polls"], 1),
            "most_open": stats["most_open"],
            "opened": stats["opened"],
        }


async def _beat(until: float) -> list[tuple[float, float]]:
    beats = []
    while (now := time.monotonic()) < until:
        due, busy = now + BEAT, time.thread_time()
        await asyncio.sleep(BEAT)
        beats.append((time.monotonic() - due, time.thread_time() - busy))
    return beats


@contextmanager
def _profiled(path: str | None) -> Iterator[None]:
    if not path:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    yield
    profile.disable()
    profile.dump_stats(path)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _load_what_a_triggerer_loads(nowhere: CountingNowhere) -> None:
    from airflow.sdk.log import configure_logging

    configure_logging(output=nowhere, colored_console_log=False)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    sys.stdout.write(json.dumps(Bench(json.loads(sys.argv[1])).measure()) + "\n")
