"""
Waits in a real Airflow 3.3.2 with PostgreSQL: are all told right, and what do they cost?

``python tests/system/run.py`` takes some six minutes; ``--full`` is the whole size. Everything that
is started listens on loopback only, lives in a temporary folder and is ended here.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scenarios import System


def main() -> int:
    """Run the scenarios and return 0 if no wait was told wrong."""
    options = _options()
    try:
        environment.enter(options.python.absolute() if options.python else None)
        return _run(options)
    except environment.SetupError as error:
        print(error, file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try waits in a real Airflow.")
    parser.add_argument("--full", action="store_true", help="500 waits instead of a few dozen")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="only these scenarios, by number")
    parser.add_argument("--waits", type=int, help="waits of scenarios 1 and 2")
    parser.add_argument("--measured", type=int, help="waits of each kind in scenario 3")
    parser.add_argument("--rounds", type=int, help="how often scenario 3 measures")
    parser.add_argument("--python", type=Path, help="the Python of an environment with everything in it")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random moments")
    parser.add_argument(
        "--result", type=Path, default=Path("system-result.json"), help="the JSON file to write"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs even if all is well")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    from report import summary, write
    from scenarios import SCENARIOS, say

    start, good = time.monotonic(), False
    folder = Path(tempfile.mkdtemp(prefix="airflow-anon-system-"))
    results: list[dict[str, Any]] = []
    say(f"Seed {options.seed}; logs in {folder}")
    try:
        with _signals_as_exceptions(), _system(options, folder, results) as system:
            say(f"Airflow runs after {time.monotonic() - start:.0f} s")
            for number in options.only or SCENARIOS:
                scenario = SCENARIOS[number]
                say(f"{number}. {scenario.__doc__}")
                begun = time.monotonic()
                scenario(system)
                say(f"   {time.monotonic() - begun:.0f} s")
        good = all(result["good"] for result in results)
    finally:
        write(options.result, results, seed=options.seed, seconds=round(time.monotonic() - start))
        _clean(folder, keep=options.keep or not good)
    say(summary(results))
    return 0 if good else 1


@contextlib.contextmanager
def _system(options: argparse.Namespace, folder: Path, results: list[dict[str, Any]]) -> Iterator[System]:
    from postgres import Postgres
    from real_airflow import Airflow
    from scenarios import System, copy_package
    from waits import Database, Runs

    from airflow_anon.simulator import Simulator

    folder.chmod(0o711)
    homes = [folder / name for name in ("postgres", "airflow")]
    for home in homes:
        home.mkdir()
    with Postgres(homes[0]) as postgres, Simulator(token="let-me-in") as simulator:
        copy_package(folder / "package")
        settings = {
            "PYTHONPATH": str(folder / "package"),
            "AIRFLOW_CONN_ANON_DEFAULT": simulator.connection(),
            "AIRFLOW_CONN_HTTP_DEFAULT": _http_connection(simulator.port),
        }
        with Airflow(homes[1], postgres.url, **settings) as airflow:
            database = Database(postgres.connect())
            chance = random.Random(options.seed)
            yield System(airflow, database, Runs(simulator), postgres, _scale(options), chance, results)


def _scale(options: argparse.Namespace) -> Any:
    from dataclasses import replace

    from scenarios import CI, FULL

    chosen = {name: getattr(options, name) for name in ("waits", "measured", "rounds")}
    return replace(FULL if options.full else CI, **{name: value for name, value in chosen.items() if value})


def _http_connection(port: int) -> str:
    import json

    headers = {"Authorization": "Bearer let-me-in"}
    return json.dumps(
        {"conn_type": "http", "schema": "http", "host": "127.0.0.1", "port": port, "extra": headers}
    )


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    yield


def _clean(folder: Path, *, keep: bool) -> None:
    import shutil

    shutil.rmtree(folder / "postgres" / "data", ignore_errors=True)
    if keep:
        print(f"Logs are kept in {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
