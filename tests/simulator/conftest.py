"""What the tests of the simulator share: one that runs, and a client for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from airflow_anon.simulator import MovableClock, Simulator

Poll = Callable[[str], requests.Response]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=MovableClock(start=1_700_000_000.25)) as running:
        yield running


@pytest.fixture
def polled(simulator: Simulator) -> Iterator[Poll]:
    with requests.Session() as session:
        session.trust_env = False
        yield lambda run_id: session.get(
            f"{simulator.url}/api/v2/workflow-runs/{run_id}", timeout=2, allow_redirects=False
        )
