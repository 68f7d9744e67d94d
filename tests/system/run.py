"""
Waits in a real Airflow 3.3.2 with PostgreSQL: are all told right, and what do they cost?

``python tests/system/run.py`` takes some six minutes; ``--full`` is the whole size. With
``--distributed`` Airflow has Celery, two workers and two triggerers, and they fare badly. Everything
that is started listens on loopback only, lives in a temporary folder and is ended here.
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

sys.path.append(str(environment.ROOT / "demo"))  # where the settings and the REST API of every Airflow are


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
    parser.add_argument("--distributed", action="store_true", help="the Airflow of several machines")
    parser.add_argument(
        "--full", action="store_true", help="500 waits (1,000 if distributed), not a few dozen"
    )
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="only these scenarios, by number")
    parser.add_argument("--waits", type=int, help="waits of scenarios 1 and 2, or of the distributed one")
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
    from scenarios import say

    stage, scale, scenarios = _chosen(options)
    start, good, system = time.monotonic(), False, None
    folder = Path(tempfile.mkdtemp(prefix="airflow-anon-system-"))
    say(f"Seed {options.seed}; logs in {folder}")
    try:
        with _signals_as_exceptions(), stage(folder, scale, random.Random(options.seed)) as system:
            say(f"Airflow runs after {time.monotonic() - start:.0f} s")
            for number in options.only or scenarios:
                say(f"{number}. {scenarios[number].__doc__}")
                begun = time.monotonic()
                scenarios[number](system)
                say(f"   {time.monotonic() - begun:.0f} s")
        system.sum_up()
        good = system.good
    finally:
        if system is not None:
            facts = {"seed": options.seed, "seconds": round(time.monotonic() - start), **system.facts}
            write(options.result, system.results, **facts)
        _clean(folder, keep=options.keep or not good)
    say(summary(system.results, system.facts))
    return 0 if good else 1


def _chosen(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return where the scenarios take place, at which scale, and which there are."""
    from dataclasses import fields, replace

    import distributed
    import scenarios
    import stages

    kind = distributed if options.distributed else scenarios
    scale = kind.FULL if options.full else kind.CI
    known = {field.name for field in fields(scale)}
    asked = {name: value for name, value in vars(options).items() if name in known and value}
    return (
        stages.distributed if options.distributed else stages.local,
        replace(scale, **asked),
        kind.SCENARIOS,
    )


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def leave(number: int, _: object) -> None:
        print(f"Ended from outside, by {signal.Signals(number).name}", file=sys.stderr, flush=True)
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
