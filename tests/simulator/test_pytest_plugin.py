"""The fixture that comes with the package."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import requests

from airflow_anon.simulator import pytest_plugin

if TYPE_CHECKING:
    from airflow_anon.simulator import Simulator

# Found by its entry point where the package is installed, by this line where it is not.
anon_simulator = pytest_plugin.anon_simulator


def test_the_fixture_is_where_anon_default_points_to(anon_simulator: Simulator) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_ANON_DEFAULT"])
    run_id = anon_simulator.create_run("PENDING 1h, COMPLETED")
    anon_simulator.advance(3600)

    answer = requests.get(
        f"{connection['host']}:{connection['port']}/api/v2/workflow-runs/{run_id}",
        headers={"Authorization": f"Bearer {connection['password']}"},
        timeout=2,
    )

    assert answer.json()["status"] == "COMPLETED"
