"""Waits of all kinds in an Airflow of several machines, while one thing after the other goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from knocks import Knocks
from loopback import LOOPBACK
from real_airflow import TRIGGERERS, WORKERS
from scenarios import DEFERRABLE, ZERO_WORKER, say
from waits import DEFERRED, OVER, End, many_together, mapped, mixture, one_by_one
from windows import MOST_PER_WAIT_WITH_OLD_TOKEN, Meter

if TYPE_CHECKING:
    import random

    from excuses import Try
    from scenarios import System
    from waits import Group, Wait

CONNECTION = "anon_default"
RUNNING, RESCHEDULED = "running", "up_for_reschedule"
# What is left over are waits that start and end in the triggerer.
SHARES = {"poke": 0.02, "rescheduled": 0.05, "deferred": 0.2, "mapped": 0.2, "many": 0.2}
# Airflow tries a task again whose worker was killed.
RETRIES = {"retries": 3}


@dataclass(frozen=True)
class Storm:
    """How much of everything."""

    waits: int
    slots: int
    """tasks that each worker carries out at a time"""
    width: int
    """sensors in a DAG of these"""
    together: int
    """runs that one task waits for, where it waits for many"""
    interval: float
    """seconds between two polls"""
    slow_interval: float
    """the same for sensors in reschedule mode, which start on a worker for each poll"""
    database_away: float
    """seconds that the database is away"""
    outage: float
    """seconds that the API is down, and that it answers 429"""
    retry_after: int
    """seconds that it asks for then"""
    token_late: float
    """seconds from the rotation of the token to that of the connection"""
    renewal: float = 40
    """seconds in which all waits have read the connection again: each triggerer does so at most every 30"""

    @property
    def calm(self) -> float:
        """Seconds that are counted for themselves; the triggerers pause for up to 15 s at a time."""
        return max(3 * self.interval, 20.0)


CI = Storm(
    waits=80,
    slots=8,
    width=10,
    together=4,
    interval=5,
    slow_interval=20,
    database_away=3,
    outage=20,
    retry_after=8,
    token_late=5,
)
FULL = Storm(
    waits=1000,
    slots=16,
    width=20,
    together=20,
    interval=10,
    slow_interval=180,
    database_away=10,
    outage=60,
    retry_after=20,
    token_late=20,
)


def groups_of(scale: Storm, chance: random.Random) -> list[Group]:
    """Return waits of every kind."""
    sizes = {name: max(4, round(scale.waits * share)) for name, share in SHARES.items()}
    sizes["many"] -= sizes["many"] % scale.together
    slow = {"mode": "reschedule", "poke_interval": scale.slow_interval}

    def some(name: str) -> list[Wait]:
        return mixture(sizes[name], chance)

    rest = mixture(scale.waits - sum(sizes.values()), chance)
    return [
        one_by_one("poke", some("poke"), scale.width, options=RETRIES | {"deferrable": False}),
        one_by_one("rescheduled", some("rescheduled"), scale.width, options=RETRIES | slow),
        one_by_one("deferred", some("deferred"), scale.width, options=RETRIES | DEFERRABLE),
        mapped("mapped", some("mapped"), options=RETRIES | DEFERRABLE),
        many_together(
            "many",
            _few_bad(some("many")),
            scale.together,
            options=RETRIES | DEFERRABLE | {"fail_fast": False},
        ),
        one_by_one("from_trigger", rest, scale.width, options=RETRIES | ZERO_WORKER),
    ]


@dataclass
class Weather:
    """
    What goes wrong, and what is noted of it.

    :param parts: the waits whose runs end during each fault, and after the last.
    :param away: from when to when the database was away, or not all had found it again.
    :param killed: tries that were on the worker when it was killed.
    """

    system: System
    groups: list[Group]
    parts: Iterator[list[Wait]]
    meter: Meter
    away: tuple[float, float] = (0.0, 0.0)
    killed: set[Try] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    @property
    def scale(self) -> Storm:
        """How much of everything."""
        return self.system.scale

    def note(self, fault: str) -> None:
        """Tell and keep what is done."""
        say(f"  {fault}")
        self.faults.append(fault)

    @contextmanager
    def runs_end(self, seconds: float) -> Iterator[None]:
        """Let runs end during the block, which lasts *seconds* at least."""
        start = time.monotonic()
        ends: threading.Thread = self.system.runs.finish_over(next(self.parts), seconds, self.system.chance)
        yield
        self.system.let_pass(start + seconds - time.monotonic())
        ends.join()


def storm(system: System) -> None:
    """One triggerer and one worker are killed, the database restarts, the API is away, then busy, the token changes."""
    scale, simulator = system.scale, system.runs.simulator
    _put_token(system)
    groups = groups_of(scale, system.chance)
    start = time.monotonic()
    system.begin(*groups)
    _wait_for_start(system, groups)
    system.facts["all_begun_after"] = round(time.monotonic() - start)
    say(f"  all wait after {system.facts['all_begun_after']} s")

    meter = Meter(system.runs, groups, scale.interval)
    weather = Weather(system, groups, iter(_parts(groups, len(FAULTS) + 1, system.chance)), meter)
    system.let_pass(scale.calm)
    meter.end("before")
    for fault in FAULTS:
        fault(weather)
    with weather.runs_end(scale.interval):
        say("  the last runs end")
    system.wait_for_end(groups)

    for group in groups:
        system.keep(group.dag_id, system.judge(group, killed=weather.killed, away=weather.away))
    system.facts |= {
        "day": datetime.now(timezone.utc).date(),
        "scale": asdict(scale),
        "tasks": {group.dag_id: len(group.tasks) for group in groups},
        "faults": weather.faults,
        "windows": [window.as_json() for window in meter.windows],
        "requests": simulator.requests,
        "restarts": system.airflow.restarts,
        "seconds_of_storm": round(time.monotonic() - start),
        "good": all(window.good for window in meter.windows),
    }


def triggerer_killed(weather: Weather) -> None:
    """Kill a triggerer; the other one takes its waits on; start it again."""
    system, victim = weather.system, TRIGGERERS[0]
    system.airflow.kill(victim)
    killed_at = time.time()
    weather.note(f"{victim} killed (SIGKILL)")
    with weather.runs_end(weather.scale.interval):
        system.wait_for_takeover(weather.groups, killed_at)
    say(f"  the other has taken its waits on after {time.time() - killed_at:.0f} s")
    system.airflow.start(victim)
    weather.meter.end("triggerer killed")


def worker_killed(weather: Weather) -> None:
    """Kill the worker that has more to do, in the middle of that, and start it again."""
    system = weather.system
    victim = max(WORKERS, key=lambda name: len(_running(weather, system.airflow.members(name))))
    system.wait_until("a worker is in the middle of its tasks", lambda: _is_frozen(weather, victim))
    running = _running(weather, system.airflow.members(victim))
    weather.killed |= running
    system.airflow.kill(victim)
    weather.note(f"{victim} killed (SIGKILL) with {len(running)} tasks")
    with weather.runs_end(weather.scale.interval):
        pass
    system.airflow.start(victim)
    weather.meter.end("worker killed")


def database_restarted(weather: Weather) -> None:
    """Stop the database for a moment; the triggerers end with it, and take their waits on when they are back."""
    system = weather.system
    weather.note(f"database restarted, {weather.scale.database_away:.0f} s away")
    began = time.time()
    with system.airflow.supervised():
        with weather.runs_end(weather.scale.database_away + weather.scale.calm):
            system.postgres.restart(weather.scale.database_away)
            system.wait_for_takeover(weather.groups, time.time())
        system.let_pass(weather.scale.interval)
    weather.away = began, time.time()
    weather.meter.end("database restarted")


def api_down(weather: Weather) -> None:
    """Close the API's socket for a while."""
    scale, simulator = weather.scale, weather.system.runs.simulator
    weather.note(f"API down for {scale.outage:.0f} s")
    with Knocks(simulator.port) as knocks, weather.runs_end(scale.outage):
        simulator.start_outage("refused")
    weather.meter.end_away("API down", knocks.count)
    simulator.stop_outage()
    weather.system.let_pass(scale.calm)
    weather.meter.end("after the API was down")


def api_busy(weather: Weather) -> None:
    """Let the API answer 429 for a while."""
    scale, simulator = weather.scale, weather.system.runs.simulator
    weather.note(f"API answers 429 for {scale.outage:.0f} s, with Retry-After: {scale.retry_after}")
    with weather.runs_end(scale.outage):
        simulator.start_outage("429", str(scale.retry_after))
    weather.meter.end_turned_down("API answers 429")
    simulator.stop_outage()
    weather.system.let_pass(scale.calm)
    weather.meter.end("after 429")


def token_rotated(weather: Weather) -> None:
    """Change the API's token, and a little later Airflow's connection."""
    system, scale = weather.system, weather.scale
    weather.note(f"token rotated, the connection {scale.token_late:.0f} s later")
    system.runs.simulator.token = "the-second"
    with weather.runs_end(scale.token_late + scale.renewal):
        system.let_pass(scale.token_late)
        _put_token(system)
    weather.meter.end("token rotated", bound=MOST_PER_WAIT_WITH_OLD_TOKEN)


FAULTS: tuple[Callable[[Weather], None], ...] = (
    triggerer_killed,
    worker_killed,
    database_restarted,
    api_down,
    api_busy,
    token_rotated,
)
SCENARIOS = {1: storm}


def _put_token(system: System) -> None:
    simulator = system.runs.simulator
    fields = {"conn_type": "anon", "host": f"http://{LOOPBACK}", "port": simulator.port}
    system.airflow.put_connection(CONNECTION, fields | {"password": simulator.token})


def _wait_for_start(system: System, groups: list[Group]) -> None:
    """Wait until every task waits in its own way."""
    states = (DEFERRED, RUNNING, RESCHEDULED, *OVER)

    def all_begun() -> bool:
        begun = sum(system.database.count(group, *states) for group in groups)
        polled = system.runs.requests()
        return begun == sum(len(group.tasks) for group in groups) and all(
            polled[wait.id] for group in groups for wait in group.waits
        )

    system.wait_until("all waits begin", all_begun, patience=1800)


def _parts(groups: list[Group], count: int, chance: random.Random) -> list[list[Wait]]:
    """
    Say which runs end when: those of one task together.

    Four in ten, and all of poke mode, which is to be on a worker when that is killed, outlast all faults.
    """
    parts: list[list[Wait]] = [[] for _ in range(count)]
    for group in groups:
        for waits in group.tasks:
            outlasts = group.dag_id == "poke" or chance.random() < 0.4
            parts[-1 if outlasts else chance.randrange(count - 1)] += waits
    return parts


def _few_bad(waits: list[Wait]) -> list[Wait]:
    """Let most of those that are waited for together end well: one bad run fails its task."""
    for wait in waits[len(waits) // 4 :]:
        if not wait.ends_well:
            wait.end, wait.state = End.WELL, "success"
    return waits


def _is_frozen(weather: Weather, victim: str) -> bool:
    """
    Stop a worker where it is, unless it has a try that has ended and Airflow has not heard of that.

    Such a try would be tried again for the worker's end, though it was over, and well or badly by our doing.
    """
    airflow = weather.system.airflow
    airflow.freeze(victim)
    # What it has told Airflow is in the database by then.
    weather.system.let_pass(1)
    carried_out = _running(weather, [pid for name in WORKERS for pid in airflow.members(name)])
    raised = {failure.attempt for group in weather.groups for failure in airflow.failures(group.dag_id)}
    if _running(weather) == carried_out - raised:
        return True
    airflow.thaw(victim)
    return False


def _running(weather: Weather, pids: Collection[int] | None = None) -> set[Try]:
    """Return the tries that these processes carry out; without any, all that Airflow takes for running."""
    rows = [item for group in weather.groups for item in weather.system.database.rows(group).items()]
    running = [(key, row) for key, row in rows if row.state == RUNNING]
    return {(*key, row.try_number) for key, row in running if pids is None or row.pid in pids}
