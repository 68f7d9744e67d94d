"""
Who waits rightly through a network's faults: ``python benchmarks/networks.py [--runs N] [--only NAME ...]``.

Between each contender and the server lies the relay of the tests. A run is over after some seconds, and
well; printed is a table of who ended right, who wrong, and who hung. Only the loopback is contacted.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "networks"))

from contenders import CONN_ID, CONTENDERS, HOST, Target, run_id
from relay import Change, Fate, Relay

INTERVAL, TIMEOUT = 0.5, 2
OVER_AFTER, LIMIT = 5.0, 20.0
BUSY = b"HTTP/1.1 503 Busy\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
# What users can set: how long a request may take, and how long is waited before one is sent again.
EXTRAS = {name: {"timeout": TIMEOUT} for name in ("anon", "http", "airbyte")}
DBT = {"hook_params": {"timeout_seconds": TIMEOUT}}
SETTINGS: dict[str, dict[str, Any]] = {"dbt": DBT, "databricks": {"retry_delay": INTERVAL}}
IN_TRIGGERER = ("anon", "databricks", "dbt", "http", "fivetran", "airbyte")
ON_WORKER = ("anon", "dbt", "http", "fivetran", "airbyte")
WAITS = [(name, "triggerer") for name in IN_TRIGGERER] + [(name, "worker") for name in ON_WORKER]


@dataclass(frozen=True)
class Fault:
    """
    What the network does.

    :param meets: which requests, by the number of the connection, their own on that, and their own of all.
    :param fate: what becomes of them, made of an answer that nobody asked for.
    """

    title: str
    meets: Callable[[int, int, int], bool]
    fate: Callable[[bytes], Fate | Change]


def busy(answer: bytes) -> Iterable[bytes]:
    """Answer 503."""
    return [BUSY]


def zipped(answer: bytes) -> Iterable[bytes]:
    """Compress the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    body = gzip.compress(body)
    lines += [b"Content-Encoding: gzip", b"Content-Length: %d" % len(body)]
    return [b"\r\n".join([*lines, b"", body])]


def _used(connection: int, number: int, total: int) -> bool:
    return number > 1


def _third(connection: int, number: int, total: int) -> bool:
    return total == 3


FAULTS = (
    Fault("no fault", lambda *_: False, lambda _: Fate.PASS),
    Fault("swallowed", _used, lambda _: Fate.SWALLOW),
    Fault("503 on old", lambda connection, number, _: connection == 1 and number > 2, lambda _: busy),
    Fault("reset", _used, lambda _: Fate.RESET),
    Fault("unasked", lambda _, number, __: number == 2, lambda stray: lambda answer: [answer, stray]),
    Fault("cut", _third, lambda _: Fate.CUT),
    Fault("one 503", _third, lambda _: busy),
    Fault("no answer", _third, lambda _: Fate.SWALLOW),
    Fault("gzip", lambda *_: True, lambda _: zipped),
)


def main() -> int:
    """Make the environment if need be, then measure inside it."""
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    made.add_argument("--runs", type=int, default=3, help="runs of each wait (default: 3)")
    made.add_argument("--only", action="append", metavar="NAME", help="one contender; may be repeated")
    made.add_argument("--told", action="store_true", help="print also what each wait ended with")
    made.add_argument("--here", action="store_true", help="measure in this very environment")
    arguments = made.parse_args()
    if arguments.here:
        measure(arguments)
        return 0
    import run

    run.make_environment()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("AIRFLOW_", "PYTHON"))
    }
    with tempfile.TemporaryDirectory(prefix="networks-") as folder:
        environment = {**kept, "AIRFLOW_HOME": folder, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        command = [str(run.PYTHON), __file__, "--here", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode


def measure(arguments: argparse.Namespace) -> None:
    """Let each contender wait through each fault, and print the table."""
    import measures
    from airflow.sdk.log import configure_logging
    from worker import CountingNowhere

    configure_logging(output=CountingNowhere(), colored_console_log=False)
    print(", ".join(f"{name} {version}" for name, version in measures.versions().items()))
    print(f"\n| contender | {' | '.join(fault.title for fault in FAULTS)} |\n|{'---|' * (len(FAULTS) + 1)}")
    for name, place in WAITS:
        if arguments.only and name not in arguments.only:
            continue
        factory(name, place, Target("http", 1))  # imports all that the waits need
        verdicts: list[Counter[str]] = [Counter() for _ in FAULTS]
        for _ in range(arguments.runs):
            for count, (verdict, told) in zip(verdicts, take_turn(name, place), strict=True):
                count[verdict] += 1
                if arguments.told:
                    print("   ", verdict, told, flush=True)
        print(f"| {name}, {place} | {' | '.join(map(cell, verdicts))} |", flush=True)


def cell(verdicts: Counter[str]) -> str:
    """Write the verdict of all runs, or how many had which."""
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return ", ".join(f"{verdict} {number}x" for verdict, number in verdicts.items())


def take_turn(name: str, place: str) -> list[tuple[str, str]]:
    """Wait through all faults side by side, each in a process of its own; return what came of them."""
    fork = multiprocessing.get_context("fork")
    waits = []
    for fault in FAULTS:
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=wait_through, args=(fault, name, place, there))
        process.start()
        there.close()  # so that a process that breaks off is heard of
        waits.append((process, here))
    found = []
    for process, here in waits:
        found.append(here.recv())
        process.kill()
        process.join()
    return found


def wait_through(fault: Fault, name: str, place: str, there: Pipe) -> None:
    """Wait once, and send the verdict."""
    import server

    world, met, total = server.World(), 0, 0
    key = run_id(7) if name == "anon" else "7"
    fate = fault.fate(server.packed(*getattr(server, name)(key, is_over=True), length=server.BODY_LENGTH))

    def decide(connection: int, number: int) -> Fate | Change:
        nonlocal met, total
        total += 1
        if total == 1:
            threading.Timer(OVER_AFTER, setattr, (world, "is_over", True)).start()
            threading.Timer(OVER_AFTER + LIMIT, there.send, [("**hangs**", fault.title)]).start()
        hit = fault.meets(connection, number, total)
        met += hit
        return fate if hit else Fate.PASS

    with Relay(served(world), decide) as relay:
        wait = factory(name, place, Target("http", relay.port))
        begun = time.monotonic()
        try:
            payload = wait()
        except Exception as error:  # noqa: BLE001  a failure is a result, too
            payload = {"status": "error", "message": repr(error)}
        verdict = judge(payload, over=world.is_over, met=bool(met) or fault is FAULTS[0])
        seconds = time.monotonic() - begun
        there.send((verdict, f"{fault.title}: {seconds:.1f} s, {met} of {total} met, {payload}"[:400]))


def served(world: Any) -> int:
    """Serve in a thread; return the port."""
    from server import Connection

    loop = asyncio.new_event_loop()
    listener = loop.run_until_complete(loop.create_server(lambda: Connection(world), HOST, 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    port: int = listener.sockets[0].getsockname()[1]
    return port


def factory(name: str, place: str, target: Target) -> Callable[[], Any]:
    """Make a wait: a function that returns the payload of its trigger's event, or True if its sensor passes."""
    fields = CONTENDERS[name].connect(target)
    fields["extra"] = {**fields.get("extra", {}), **EXTRAS.get(name, {})}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(fields)
    if place == "triggerer":
        made = CONTENDERS[name].prepare(target, INTERVAL)(0)
        if name in SETTINGS:
            made = type(made)(**{**made.serialize()[1], **SETTINGS[name]})
        return lambda: asyncio.run(first_event(made))
    from on_worker import SENSORS

    poke = SENSORS[name](target, **SETTINGS.get(name, {}))

    def pokes() -> bool:
        while True:
            polled = poke()
            if getattr(polled, "is_done", polled):
                return True
            time.sleep(INTERVAL)

    return pokes


async def first_event(trigger: Any) -> Any:
    """Run a trigger to its event, as a triggerer does."""
    async for event in trigger.run():
        return event.payload
    raise RuntimeError("The trigger ended without an event")


def judge(payload: Any, *, over: bool, met: bool) -> str:
    """Say whether a wait ended as it should: well, and not before its run."""
    if not is_good(payload):
        return "**error**"
    if not over:
        return "**too early**"
    return "right" if met else "not met"


def is_good(payload: Any) -> bool:
    """Say whether the task passes that is given this."""
    if payload is True:
        return True
    if "runs" in payload:
        return payload.get("error") is None and [run["status"] for run in payload["runs"]] == ["COMPLETED"]
    if "run_state" in payload:
        return bool(json.loads(payload["run_state"])["result_state"] == "SUCCESS")
    return bool(payload.get("status") == "success")


if __name__ == "__main__":
    sys.exit(main())
