"""
Polls of a sensor in poke mode: ``on_worker.py SPEC`` prints what one costs, or the first in a fresh process.

Each poll is a call of the sensor's own ``poke``, as Airflow's loop makes it between two sleeps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from contenders import CONN_ID, CONTENDERS, HEADERS, Target, run_id
from worker import CountingNowhere, Server

TASK = {"task_id": "wait", "poke_interval": 60.0, "mode": "poke"}
Poke = Callable[[], Any]


def floor(target: Target) -> Poke:
    """Poll with a bare ``requests.Session``."""
    import requests

    session = requests.Session()
    url = f"{target.url}/api/v2/workflow-runs/{run_id(0)}"
    return lambda: session.get(url, headers=HEADERS, timeout=30).json()["status"] == "COMPLETED"


def imports_only(target: Target) -> Poke:
    """Poll nothing: what importing ``requests`` costs."""
    import requests

    return lambda: requests


def anon(target: Target) -> Poke:
    """Poll with our sensor."""
    from airflow_anon.sensors import AnonWorkflowRunSensor

    sensor = AnonWorkflowRunSensor(workflow_run_id=run_id(0), anon_conn_id=CONN_ID, deferrable=False, **TASK)
    context: Any = {"ti": SimpleNamespace(try_number=1, task=sensor), "task": sensor}
    return lambda: sensor.poke(context)


def dbt(target: Target, **settings: Any) -> Poke:
    """Poll with dbt Cloud's sensor; its https is rewritten where the table is about http."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor

    CONTENDERS["dbt"].prepare(target, 60.0)
    with_tls = DbtCloudHook.get_conn

    def without_tls(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = with_tls(self, *args, **kwargs)
        self.base_url = f"{target.url}/"
        return session

    DbtCloudHook.get_conn = without_tls
    sensor = DbtCloudJobRunSensor(
        dbt_cloud_conn_id=CONN_ID, run_id=1, account_id=1, deferrable=False, **TASK, **settings
    )
    return lambda: sensor.poke({})


def http(target: Target) -> Poke:
    """Poll with HttpSensor."""
    from airflow.providers.http.sensors.http import HttpSensor

    sensor = HttpSensor(http_conn_id=CONN_ID, endpoint="http/0", deferrable=False, **TASK)
    return lambda: sensor.poke({})


def airbyte(target: Target) -> Poke:
    """Poll with Airbyte's sensor."""
    from airflow.providers.airbyte.sensors.airbyte import AirbyteJobSensor

    sensor = AirbyteJobSensor(airbyte_conn_id=CONN_ID, airbyte_job_id=1, deferrable=False, **TASK)
    return lambda: sensor.poke({})


def fivetran(target: Target) -> Poke:
    """Poll with Fivetran's sensor."""
    from fivetran_provider_async.hooks import FivetranHook
    from fivetran_provider_async.sensors import FivetranSensor

    FivetranHook.api_protocol, FivetranHook.api_host = target.scheme, f"127.0.0.1:{target.port}"
    sensor = FivetranSensor(fivetran_conn_id=CONN_ID, connector_id="c0", deferrable=False, **TASK)
    sensor._completed_after_time_rendered = sensor.hook._parse_timestamp("2024-05-06T07:30:00Z")  # noqa: SLF001
    return lambda: sensor.poke({})


SENSORS = {
    "floor: requests": floor,
    "floor: import requests": imports_only,
    "anon": anon,
    "dbt": dbt,
    "http": http,
    "airbyte": airbyte,
    "fivetran": fivetran,
}


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Poll often enough to know what one poll costs."""
    server = Server(spec["ports"]["control"])
    server.tell("reset")
    target = Target(spec["scheme"], spec["ports"][spec["scheme"]])
    CONTENDERS.get(spec["contender"], CONTENDERS["anon"]).set_connection(target)
    from airflow.sdk.log import configure_logging

    configure_logging(output=CountingNowhere(), colored_console_log=False)
    poke = SENSORS[spec["contender"]](target)
    for _ in range(3):
        if getattr(poke(), "is_done", False):
            raise RuntimeError("the run is not over")
    opened = server.tell("recount")["opened"]
    cpu = time.process_time()
    for _ in range(spec["number"]):
        poke()
    cpu = time.process_time() - cpu
    stats = server.tell("stats")
    return {
        "ms_per_poll": cpu * 1000 / spec["number"],
        "polls": stats["polls"],
        "opened": stats["opened"] + opened,
        "opened_per_poll": stats["opened"] / spec["number"],
    }


def measure_first(spec: dict[str, Any]) -> dict[str, Any]:
    """Poll once, where only that is loaded which every task of Airflow loads."""
    import airflow.sdk.execution_time.task_runner  # noqa: F401

    target = Target(spec["scheme"], spec["ports"][spec["scheme"]])
    CONTENDERS.get(spec["contender"], CONTENDERS["anon"]).set_connection(target)
    before, cpu = len(sys.modules), time.process_time()
    SENSORS[spec["contender"]](target)()
    return {"ms": (time.process_time() - cpu) * 1000, "modules": len(sys.modules) - before}


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    asked = json.loads(sys.argv[1])
    found = measure_first(asked) if asked["measure"] == "first" else measure(asked)
    sys.stdout.write(json.dumps(found) + "\n")
