"""
Counts the waits that fail because their run ended within a second of their deferral.

``python tests/real/race.py --waits 200`` runs so many deferred and as many rescheduled waits, some at a
time, in a real Airflow while other processes keep all cores busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "system"), str(HERE.parents[1] / "demo")]

from raw_api import RawApi  # noqa: E402
from scenario import GOOD, MIXED_UP, UNDER_WAY, StockAirflow, body  # noqa: E402
from variants import VARIANTS, database  # noqa: E402

HEARD = re.compile(
    r"(?P<at>\S+)Z \[info +\] Received executor event with state success for task instance "
    r"TaskInstanceKey\(dag_id='race', task_id='(?P<task>\w+)', run_id='(?P<run>[^']+)'"
)
PAUSED = re.compile(r'"timestamp":"(?P<at>[^"]+)Z","level":"info","event":"(Pausing|Rescheduling) task')
WAYS = ("deferred", "rescheduled")


def main() -> None:
    """Run the waits, and print what became of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waits", type=int, default=200, help="how many of each kind")
    parser.add_argument(
        "--together", type=int, default=4, help="how many of each kind are under way at a time"
    )
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="processes that keep cores busy")
    parser.add_argument("--postgres", action="store_true", help="not SQLite, which lets one write at a time")
    parser.add_argument("--minutes", type=float, default=60, help="when to begin no more")
    options = parser.parse_args()
    variant = VARIANTS["postgres" if options.postgres else "core"]
    with tempfile.TemporaryDirectory() as folder, busy(options.busy), database(variant) as settings:
        print(json.dumps(race(Path(folder), options, settings), indent=1))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep cores busy."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def spin() -> None:
    """Compute for as long as whoever started it lives."""
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(10**6))


def race(home: Path, options: argparse.Namespace, settings: dict[str, str]) -> dict[str, object]:
    """Return how many waits there were, what became of them, and what the scheduler says."""
    began = time.monotonic()
    settings |= {"AIRFLOW__CORE__PARALLELISM": "32"}  # who may start is to start at once
    with (
        RawApi() as api,
        StockAirflow(home, HERE / "dags", AIRFLOW_CONN_ANON_DEFAULT=api.connection(), **settings) as airflow,
    ):
        airflow.wait_for_dag("race")
        airflow.ask("/dags/race", {"is_paused": False}, "PATCH")
        begun = 0
        while begun < options.waits and time.monotonic() - began < options.minutes * 60:
            if under_way(airflow) < options.together:
                ids = {way: api.create_run(body(UNDER_WAY), body(GOOD, completed=True)) for way in WAYS}
                run = airflow.ask("/dags/race/dagRuns", {"logical_date": None, "conf": {"ids": ids}})
                begun += run is not None
            airflow.check()
            time.sleep(0.3)
        while under_way(airflow):
            airflow.check()
            time.sleep(1)
        states = Counter(states_of(airflow))
    mixed_up = MIXED_UP.findall((home / "scheduler.log").read_text(errors="replace"))
    lags = sorted(lags_of(home))
    return {
        "waits of each kind": begun,
        "states": {f"{way} {state}": count for (way, state), count in sorted(states.items())},
        "mixed up, by the scheduler's log": len(mixed_up),
        "seconds from the pause until the scheduler has heard of the start's end": {
            "median": lags[len(lags) // 2],
            "longest": lags[-1],
        },
        "seconds": round(time.monotonic() - began),
        "load": os.getloadavg(),
    }


def under_way(airflow: StockAirflow) -> int:
    """Return how many DAG runs have not ended."""
    found = airflow.ask("/dags/race/dagRuns?state=running&state=queued&limit=1") or {"total_entries": 1}
    return int(found["total_entries"])


def states_of(airflow: StockAirflow) -> Iterator[tuple[str, str]]:
    """Return the way and the state of each wait."""
    for offset in range(0, 100_000, 100):
        page = airflow.ask(f"/dags/race/dagRuns/~/taskInstances?limit=100&offset={offset}")
        if page is None or not page["task_instances"]:
            return
        yield from ((one["task_id"], str(one["state"])) for one in page["task_instances"])


def lags_of(home: Path) -> Iterator[float]:
    """Return how long after a wait's first pause the scheduler has heard that its first start is over."""
    heard: dict[tuple[str, str], datetime] = {}
    for found in HEARD.finditer((home / "scheduler.log").read_text(errors="replace")):
        heard.setdefault((found["run"], found["task"]), datetime.fromisoformat(found["at"]))
    for path in home.glob("logs/dag_id=race/run_id=*/task_id=*/attempt=1.log"):
        run_id, task_id = (part.partition("=")[2] for part in path.parts[-3:-1])
        if (run_id, task_id) in heard and (pause := PAUSED.search(path.read_text())):
            paused_at = datetime.fromisoformat(pause["at"])
            yield round((heard[run_id, task_id] - paused_at).total_seconds(), 1)


if __name__ == "__main__":
    main()
