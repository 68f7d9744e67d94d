"""The command line: serve the simulated API on loopback until stopped."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import threading
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEMO = (
    f"{WorkflowRunStatus.PENDING} 2s, {WorkflowRunStatus.IN_PROGRESS} (post_invoice) 5s, "
    f"{WorkflowRunStatus.AWAITING_USER_INPUT} (approve) until answered, {WorkflowRunStatus.COMPLETED}"
)
TICK = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT, SIGTERM or the end of ``--serve-for``."""
    parser = _parser()
    options = parser.parse_args(arguments)
    simulator = Simulator(token=options.token, login=options.login, port=options.port)
    try:
        run_ids = _prepare(simulator, options)
        simulator.start()
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(
            f"port {options.port}: {error.strerror}; choose another with --port, or 0 for any that is free"
        )
    with contextlib.ExitStack() as ending:
        ending.callback(simulator.stop)
        stopped = ending.enter_context(_stopped_by_signals())
        _introduce(simulator, run_ids)
        _tell_changes(simulator, stopped, options.serve_for)
    _say(f"Served {simulator.requests} requests over {simulator.connections} connections.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_anon.simulator",
        description="A local Anon API, so that a DAG is developed, shown and tested with no account.",
        epilog=Path(__file__).with_name("manual.txt").read_text(encoding="utf-8"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8099, help="0 for any that is free (%(default)s)")
    parser.add_argument("--token", help="demand this token (none: everybody is let in)")
    parser.add_argument("--login", help="demand Basic authentication with this login and the token")
    parser.add_argument("--run", action="append", default=[], metavar="SCRIPT", help="start a run")
    parser.add_argument(
        "--run-id", action="append", default=[], metavar="ID=SCRIPT", help="start a run with this id"
    )
    parser.add_argument("--faults", help="spoil the first requests")
    parser.add_argument("--serve-for", type=float, metavar="SECONDS", help="end by itself")
    return parser


def _prepare(simulator: Simulator, options: argparse.Namespace) -> list[str]:
    named = [text.partition("=") for text in options.run_id]
    run_ids = [simulator.create_run(script, run_id) for run_id, _, script in named]
    run_ids += [simulator.create_run(script) for script in options.run]
    if options.faults:
        simulator.add_faults(options.faults)
    return run_ids or [simulator.create_run(DEMO)]


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stopped = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _introduce(simulator: Simulator, run_ids: list[str]) -> None:
    _say(f"Serving the Anon API at {simulator.url}")
    _say(f"See and steer it in a browser: {simulator.page_url}")
    _say("For Airflow:\n")
    _say(f"export AIRFLOW_CONN_ANON_DEFAULT={shlex.quote(simulator.connection())}\n")
    for run_id in run_ids:
        _say(f"Run {run_id}")
    _say(f"\nAnswer a run that waits: curl -X POST {simulator.control_url}/runs/{run_ids[-1]}/answer\n")


def _tell_changes(simulator: Simulator, stopped: threading.Event, seconds: float | None) -> None:
    deadline = inf if seconds is None else time.monotonic() + seconds
    while True:
        for change in simulator.take_changes():
            at = time.strftime("%H:%M:%S", time.localtime(change.at))
            _say(f"{at}  {change.run_id}  {change.status or 'not visible yet'}")
        left = deadline - time.monotonic()
        if left <= 0 or stopped.wait(min(left, TICK)):
            return


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
