"""The Airflows that scenarios take place in, each with a database, a simulator and whatever else it needs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import real_airflow
from broker import Redis
from loopback import LOOPBACK
from postgres import Postgres
from real_airflow import Airflow
from scenarios import System, copy_package
from waits import Database, Runs

from airflow_anon.simulator import Simulator

TOKEN = "let-me-in"


@contextmanager
def local(folder: Path, scale: Any, chance: random.Random) -> Iterator[System]:
    """One of each component; connections are in the environment."""
    homes = _homes(folder, "postgres", "airflow")
    with Postgres(homes["postgres"]) as postgres, Simulator(token=TOKEN) as simulator:
        settings = {
            "PYTHONPATH": str(copy_package(folder / "package")),
            "AIRFLOW_CONN_ANON_DEFAULT": simulator.connection(),
            "AIRFLOW_CONN_HTTP_DEFAULT": _http_connection(simulator.port),
        }
        with Airflow(homes["airflow"], postgres.url, real_airflow.LOCAL, **settings) as airflow:
            yield System(airflow, Database(postgres.select), Runs(simulator), postgres, scale, chance)


@contextmanager
def distributed(folder: Path, scale: Any, chance: random.Random) -> Iterator[System]:
    """Two triggerers and two Celery workers; what ends by itself is started again."""
    homes = _homes(folder, "postgres", "redis", "airflow")
    with (
        Postgres(homes["postgres"]) as postgres,
        Redis(homes["redis"]) as redis,
        Simulator(token=TOKEN) as simulator,
    ):
        settings = real_airflow.celery(redis.url, postgres.url)
        settings["PYTHONPATH"] = str(copy_package(folder / "package"))
        components = real_airflow.distributed(scale.slots)
        with Airflow(homes["airflow"], postgres.url, components, **settings) as airflow:
            system = System(airflow, Database(postgres.select), Runs(simulator), postgres, scale, chance)
            system.servers = (redis,)
            # Only what a worker has begun can be lost with it, or fail to hand in what it did.
            system.bounds = {
                "worker_killed": scale.slots,
                "database_away": len(real_airflow.WORKERS) * scale.slots,
            }
            system.facts = {
                "versions": _versions() | {"PostgreSQL": postgres.version, "Redis": redis.version}
            }
            yield system


def _versions() -> dict[str, str]:
    names = {
        "Airflow": "apache-airflow",
        "the Celery provider": "apache-airflow-providers-celery",
        "Celery": "celery",
        "this package": "airflow-provider-anon",
    }
    return {name: version(package) for name, package in names.items()} | {"Python": python_version()}


def _homes(folder: Path, *names: str) -> dict[str, Path]:
    # PostgreSQL runs as a user of its own, and has to get through.
    folder.chmod(0o711)
    homes = {name: folder / name for name in names}
    for home in homes.values():
        home.mkdir()
    return homes


def _http_connection(port: int) -> str:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return json.dumps(
        {"conn_type": "http", "schema": "http", "host": LOOPBACK, "port": port, "extra": headers}
    )
