"""The fixture ``anon_simulator`` for everybody's DAG tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_anon.simulator import Simulator


CREDENTIAL = "simulated"


@pytest.fixture
def anon_simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """
    Serve a local Anon API that ``anon_default`` points to.

    Its clock stands still until ``anon_simulator.advance(seconds)``.
    """
    from airflow_anon.simulator import MovableClock, Simulator

    with Simulator(token=CREDENTIAL, clock=MovableClock()) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        yield simulator
