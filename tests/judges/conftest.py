"""What judges need: each test is collected where its programs are, and ``nox -s judges`` brings them all."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from judges.programs import find

from airflow_anon.hooks import AnonHook
from airflow_anon.runs import WorkflowRun

NEEDS = {"test_mock.py": ["prism"], "test_gateway.py": ["nginx", "tinyproxy"]}
LONGEST_START = 30.0
POLLS: dict[str, Callable[[str], WorkflowRun]] = {
    "requests": lambda run_id: AnonHook().get_workflow_run(run_id),
    "aiohttp": lambda run_id: asyncio.run(AnonHook().aget_workflow_run(run_id)),
}

collect_ignore = [name for name, programs in NEEDS.items() if not all(map(find, programs))]
if find_spec("schemathesis") is None:
    collect_ignore.append("test_openapi.py")

Serve = Callable[[Sequence[str], int], None]


@contextmanager
def serving(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Let a program serve on a port of loopback."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=log.parent)
    try:
        ends_at = time.monotonic() + LONGEST_START
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > ends_at:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(LONGEST_START)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a program that serves on a port of loopback, until the module is done."""
    with ExitStack() as stack:
        yield lambda command, port: stack.enter_context(
            serving(command, port, tmp_path_factory.mktemp("log") / "log.txt")
        )


@pytest.fixture(params=POLLS)
def polled(request: pytest.FixtureRequest) -> Callable[[str], WorkflowRun]:
    return POLLS[request.param]
