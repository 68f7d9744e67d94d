"""What is tried in a real Airflow, each at a chosen scale."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environment import ROOT
from excuses import PACKAGE, bounded, excuses, told
from processes import cpu_seconds
from waits import DEFERRED, LATEST, OVER, End, Group, Tally, all_alike, judge, mapped, mixture, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Redis
    from postgres import Postgres
    from real_airflow import Airflow
    from waits import Database, Runs

STORED = ROOT / "tests" / "stored" / "1.0.0" / "triggers.json"
REWRITE = Path(__file__).with_name("rewrite_triggers.py")
DEFERRABLE = {"deferrable": True}
KINDS = ("zero_worker", "deferred", "http_sensor")
ZERO_WORKER = {"deferrable": True, "start_from_trigger": True, "end_from_trigger": True}


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    waits: int
    """of the first two scenarios"""
    window: float
    """seconds in which their runs end"""
    outage: float
    """seconds that the API is down"""
    measured: int
    """waits of each kind whose CPU is measured"""
    width: int
    """sensors in a DAG of these"""
    steady: float
    """seconds from the start of these waits to the end of their runs, in which all must have begun"""
    old: int
    """waits that outlive a release"""
    interval: float
    """seconds between two polls"""
    rounds: int = 1
    """how often the CPU is measured"""


CI = Scale(waits=40, window=30, outage=20, measured=20, width=10, steady=25, old=6, interval=5)
FULL = Scale(
    waits=500, window=180, outage=60, measured=200, width=20, steady=150, old=50, interval=10, rounds=3
)


@dataclass
class System:
    """
    The parts that a scenario works with.

    :param scale: how much of everything.
    :param servers: what Airflow needs besides PostgreSQL.
    :param facts: what else the result is to tell.
    :param bounds: how many tries may be excused, for each cause that this Airflow has a reason for.
    :param gave_up: what did not come about in time.
    """

    airflow: Airflow
    database: Database
    runs: Runs
    postgres: Postgres
    scale: Any
    chance: random.Random
    results: list[dict[str, Any]] = field(default_factory=list)
    servers: tuple[Redis, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)
    gave_up: list[str] = field(default_factory=list)

    def begin(self, *groups: Group) -> None:
        """Start the runs of groups, and then the waits for them."""
        self.prepare(*groups)
        for group in groups:
            self.runs.begin(group)
            self.trigger(group)

    def prepare(self, *groups: Group) -> None:
        """Make the DAGs of groups known to Airflow."""
        for group in groups:
            group.options = {"poke_interval": self.scale.interval, **group.options}
            group.write(self.airflow.dags)
        self.airflow.wait_for_dags([group.dag_id for group in groups])

    def trigger(self, group: Group) -> None:
        """Start the waits of a group whose DAG is known."""
        for waits in group.confs():
            run_id = self.airflow.trigger(group.dag_id, {"ids": [wait.id for wait in waits]})
            group.place(run_id, waits)

    def check(self) -> None:
        """Make sure that everything that was started lives."""
        for server in (self.postgres, *self.servers):
            server.process.check()
        self.airflow.check()

    def let_pass(self, seconds: float) -> None:
        """Wait, with an eye on everything that was started."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.5))

    def wait_until(self, what: str, holds: Callable[[], bool], patience: float = LATEST) -> None:
        """Wait until something holds; if it does not in time, go on, but nothing is good any more."""
        end = time.monotonic() + patience
        while not holds():
            self.check()
            if time.monotonic() > end:
                say(f"  gave up: {what}")
                self.gave_up.append(what)
                return
            time.sleep(0.5)

    def wait_for_deferral(self, groups: list[Group], share: float = 1.0) -> None:
        """Wait until a share of the waits is with the triggerer, or over."""

        def enough() -> bool:
            begun = sum(self.database.count(group, DEFERRED, *OVER) for group in groups)
            return begun >= share * sum(len(group.tasks) for group in groups)

        self.wait_until("waits are deferred", enough)

    def wait_for_takeover(self, groups: list[Group], since: float) -> None:
        """Wait until triggerers that were alive after *since* have taken on all waits that are not over."""

        def taken_on() -> bool:
            left = sum(self.database.count(group, DEFERRED) for group in groups)
            return self.database.running_triggers(since) >= left

        self.wait_until("the waits are taken on by a triggerer that lives", taken_on)

    def wait_for_end(self, groups: list[Group]) -> None:
        """Wait until all waits are over, and what they hand on is read."""

        def all_over() -> bool:
            return all(self.database.count(group, *OVER) >= len(group.tasks) for group in groups)

        def all_read() -> bool:
            return all(self.database.count_reads(group) >= len(group.reads) for group in groups)

        self.wait_until("waits are over", all_over)
        self.wait_until("what they hand on is read", all_read)

    def conclude(self, scenario: str, group: Group, **figures: Any) -> None:
        """Judge a group, tell and keep the result."""
        tally = self.judge(group)
        # The executor tells of an end a moment after the task has told of it.
        end = time.monotonic() + 10
        while (executed := self.airflow.executor_starts(group.dag_id)) != tally.worker_starts:
            if time.monotonic() > end:
                remark = f"{executed} by the executor's log, {tally.worker_starts} by the database"
                tally.add("miscounted_starts", abs(executed - tally.worker_starts), remark)
                break
            time.sleep(0.5)
        self.keep(scenario, tally, **figures)

    def judge(self, group: Group, **proofs: Any) -> Tally:
        """Judge a group, whose tries are excused by what the scheduler says of itself, and by *proofs*."""
        self.check()
        failed, mixed_up = self.airflow.failures(group.dag_id), self.database.mixed_up(group)
        tries = excuses(failed, mixed_up=mixed_up, **proofs)
        return judge(group, self.database.rows(group), self.runs, tries)

    def keep(self, scenario: str, tally: Tally, **figures: Any) -> None:
        """Tell and keep what became of waits."""
        self.results.append({"scenario": scenario, **asdict(tally), "good": tally.good, **figures})
        say(f"  {scenario}: {tally.waits} waits, {'all told right' if tally.good else 'WRONG'}")
        for remark in tally.remarks[:5]:
            say(f"  {remark}")

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return all(
            (
                bool(self.results),
                all(result["good"] for result in self.results),
                bounded(self.facts["excuses"]),
                not self.facts["gave_up"],
                not self.facts["our_frames"],
                self.facts.get("good", True),
            )
        )

    def sum_up(self) -> None:
        """Note what holds for all scenarios together."""
        self.facts["excuses"] = told(self.results, self.bounds)
        self.facts["gave_up"] = self.gave_up
        self.facts["our_frames"] = self.airflow.our_frames()


def random_ends(system: System) -> None:
    """Runs end at random moments while their waits begin, wait and end."""
    scale, chance = system.scale, system.chance
    few = max(4, scale.waits // 10)
    group = mapped("random_ends", mixture(scale.waits - few, chance), options=DEFERRABLE)
    # Each of these has an upstream task; what that costs a worker is not counted.
    other = one_by_one("from_upstream", mixture(few, chance), few, upstream=True, options=ZERO_WORKER)
    groups = [group, other]
    system.begin(*groups)
    for wait in group.waits[::20]:
        system.runs.finish(wait)
        wait.early = True
    system.wait_for_deferral(groups, share=0.5)
    rest = [wait for wait in group.waits + other.waits if wait.ended_at is None]
    system.runs.finish_over(rest, scale.window, chance).join()
    system.wait_for_end(groups)
    system.conclude("runs end at random moments", group)
    system.conclude("the same; zero workers, ids from upstream", other)


def crash_and_outage(system: System) -> None:
    """The triggerer is killed and started again, then the API goes away; runs end before, during and after."""
    scale, chance, runs = system.scale, system.chance, system.runs
    few = scale.waits // 5
    plain = mapped("crash", mixture(scale.waits - few, chance), options=DEFERRABLE)
    zero = one_by_one("crash_zero_worker", mixture(few, chance), scale.width, options=ZERO_WORKER)
    groups = [plain, zero]
    system.begin(*groups)
    system.wait_for_deferral(groups)
    waits = chance.sample(plain.waits + zero.waits, scale.waits)
    thirds = [waits[number::3] for number in range(3)]

    ends = runs.finish_over(thirds[0], scale.window, chance)
    time.sleep(scale.window / 3)
    say("  triggerer killed and started again")
    system.airflow.kill("triggerer")
    killed_at = time.time()
    system.airflow.start("triggerer")
    ends.join()
    system.wait_for_takeover(groups, killed_at)

    say(f"  API down for {scale.outage:.0f} s")
    runs.simulator.outage(scale.outage, "refused")
    runs.finish_over(thirds[1], scale.outage, chance).join()
    runs.finish_over(thirds[2], scale.window / 3, chance).join()
    system.wait_for_end(groups)
    system.conclude("triggerer killed, API down", plain)
    system.conclude("the same; zero workers", zero)


def zero_workers(system: System) -> None:
    """What a wait costs: ours without any worker, ours deferred, a peer deferred."""
    scale = system.scale
    groups = [
        (name, _make(name, f"{name}_{number}", scale)) for number in range(scale.rounds) for name in KINDS
    ]
    system.prepare(*(group for _, group in groups))
    idle = _idle_rate(system)
    for name, group in groups:
        _measure(system, name, group, idle)


def _make(name: str, dag_id: str, scale: Scale) -> Group:
    if name == "http_sensor":
        waits = all_alike(scale.measured, End.APPEARS)
        return one_by_one(dag_id, waits, scale.width, peer=True, is_read=False, options=DEFERRABLE)
    options = ZERO_WORKER if name == "zero_worker" else DEFERRABLE
    # What a next task costs is not the cost of a wait.
    return one_by_one(dag_id, all_alike(scale.measured), scale.width, is_read=False, options=options)


def _idle_rate(system: System) -> dict[str, float]:
    """Return the CPU that each component uses in a second without any wait."""
    system.airflow.check()
    before, start = _cpu(system), time.monotonic()
    time.sleep(system.scale.steady)
    return {name: used / (time.monotonic() - start) for name, used in _used(before, _cpu(system)).items()}


def _measure(system: System, name: str, group: Group, idle: dict[str, float]) -> None:
    system.runs.begin(group)
    requests = system.runs.simulator.requests
    before, start = _cpu(system), time.monotonic()
    system.trigger(group)
    system.wait_for_deferral([group])
    begun = time.monotonic() - start
    time.sleep(max(0.0, start + system.scale.steady - time.monotonic()))
    # They end together, but at any moment of the interval: polls that go in step see no end at once.
    system.runs.finish_over(group.waits, system.scale.interval, system.chance).join()
    system.wait_for_end([group])
    time.sleep(3)
    seconds, used = time.monotonic() - start, _used(before, _cpu(system))
    by_component = {part: used[part] - idle[part] * seconds for part in used}
    airflow = sum(cpu for part, cpu in by_component.items() if part != "postgres")
    system.conclude(
        f"CPU of a wait: {name}",
        group,
        kind=name,
        cpu_per_wait=airflow / len(group.waits),
        cpu_by_component={part: round(cpu / len(group.waits), 4) for part, cpu in by_component.items()},
        seconds=round(seconds, 1),
        all_begun_after=round(begun, 1),
        requests=system.runs.simulator.requests - requests,
    )


def _cpu(system: System) -> dict[str, float]:
    return system.airflow.cpu_seconds() | {"postgres": cpu_seconds([system.postgres.process.pid])}


def _used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def new_release(system: System) -> None:
    """A wait began with the triggers of the first release; the triggerer comes back with a newer build."""
    scale, chance = system.scale, system.chance
    plain = mapped("old_waits", mixture(scale.old, chance), options=DEFERRABLE)
    zero = one_by_one("old_waits_zero_worker", mixture(scale.old, chance), scale.width, options=ZERO_WORKER)
    groups = [plain, zero]
    system.begin(*groups)
    system.wait_for_deferral(groups)
    system.airflow.stop("triggerer")
    stopped_at = time.time()
    system.airflow.run_script(REWRITE, str(STORED))
    build = _newer_build(system.airflow.home / "newer")
    system.airflow.start("triggerer", PYTHONPATH=str(build))
    system.wait_for_takeover(groups, stopped_at)
    system.runs.finish_over(plain.waits + zero.waits, scale.interval, chance).join()
    system.wait_for_end(groups)
    system.conclude("began before a new release", plain)
    system.conclude("the same; zero workers", zero)


def _newer_build(folder: Path) -> Path:
    """Return a folder with a copy of the package that says it is newer."""
    copy_package(folder)
    init = folder / PACKAGE / "__init__.py"
    text = init.read_text(encoding="utf-8")
    old = next(line for line in text.splitlines() if line.startswith("__version__"))
    init.write_text(text.replace(old, '__version__ = "99.0.0"'), encoding="utf-8")
    return folder


def copy_package(folder: Path) -> Path:
    """Copy the package as it is now into *folder*: a long run is not to see what is changed meanwhile."""
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


SCENARIOS: dict[int, Callable[[System], None]] = {
    1: random_ends,
    2: crash_and_outage,
    3: zero_workers,
    4: new_release,
}


def say(text: str) -> None:
    """Tell what is going on."""
    print(text, flush=True)
