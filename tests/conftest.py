"""Every test runs against a throw-away Airflow home, and nothing but loopback can be reached."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carry_out import MovingTime

    from airflow_anon.simulator import Simulator

HERE = Path(__file__).parent
# A whole Airflow, whose waits leave the other worker time for all the rest.
REAL = "tests/real/"
# What runs DAGs has one database where one worker has it all.
AIRFLOW = "airflow"
WITH_AIRFLOW = (
    "tests/test_dags.py",
    "tests/test_docs.py",
    "tests/test_links.py",
    "tests/test_secrets.py::test_the_api_server_shows_no_secret_of_a_task_but_its_link",
    "tests/test_troubleshooting.py",
)
# So many usual tests does one that takes long count for.
LONG = 100
CLOCKS = time.time, time.monotonic, time.sleep
HOME = Path(tempfile.mkdtemp(prefix="airflow-anon-tests-"))

os.environ["AIRFLOW_HOME"] = str(HOME)
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(HOME / "dags")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK"] = "1"
os.environ["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] = "False"
for name in (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)

# What coverage tells the workers of pytest is not for the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# A usual run draws the same cases each time; `nox -s fuzz` draws many and new ones.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
settings.register_profile("fuzz", settings.get_profile("fixed"), derandomize=False, max_examples=2000)
settings.load_profile("fixed")

real_connect = socket.socket.connect


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    if settings().derandomize:
        # Otherwise constants of our modules are drawn, too: of those that happen to be loaded by then.
        providers._get_local_constants = lambda: providers._local_constants


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


class Scheduling(LoadScopeScheduling):
    """Gives a worker a file, or all that has to do with a whole Airflow, to do in one go."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(REAL):
            return REAL
        return AIRFLOW if nodeid.startswith(WITH_AIRFLOW) else nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Begin with what takes longest, which leaves no worker alone with it at the end.

    One file comes between the two that need a migrated database, so that neither waits for the other's.
    """
    size = Counter()
    for item in items:
        size[item.path] += LONG if takes_long(item) else 1
    others = {item.path for item in items if not item.nodeid.startswith((REAL, *WITH_AIRFLOW))}
    largest = max(others, key=size.__getitem__, default=None)

    def rank(item: pytest.Item) -> tuple[int, int]:
        if item.nodeid.startswith(REAL):
            return 0, 0
        is_second = item.path == largest
        return (1 if is_second else 2 if item.nodeid.startswith(WITH_AIRFLOW) else 3), -size[item.path]

    items.sort(key=rank)


def takes_long(item: pytest.Item) -> bool:
    """Say whether a test is as many in one, or says itself that it takes its time."""
    return any(item.get_closest_marker(name) for name in ("hypothesis", "timeout"))


IMPORTED_WHEN_NEEDED = ("airflow_anon.triggers", "airflow_anon.task.waits", "airflow_anon.client.loop_thread")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let coverage, which halves the speed, look away where it would see nothing that other tests do not show."""
    is_unmeasured = item.get_closest_marker("unmeasured") and not item.get_closest_marker("measured")
    coverage = Coverage.current() if is_unmeasured else None
    if coverage is not None:
        for name in IMPORTED_WHEN_NEEDED:
            import_module(name)  # which is to be seen even so
        coverage.stop()
    try:
        return (yield)
    finally:
        if coverage is not None:
            coverage.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Let no test leave a clock behind by which all that follow would go."""
    yield
    assert (time.time, time.monotonic, time.sleep) == CLOCKS


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def _connect_to_loopback_only(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
        raise AssertionError(f"a test reached out to {address}")
    real_connect(self, address)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback_only)


@pytest.fixture(scope="module")
def cheap_collections() -> Iterator[None]:
    """Let Airflow's many objects out of the collections that look for what was left open."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory, worker_id) -> Path:
    """The home of an Airflow with a fresh database, to be copied; the workers make one for all."""
    folder = tmp_path_factory.getbasetemp()
    home = (folder if worker_id == "master" else folder.parent) / "migrated"
    home.mkdir(exist_ok=True)
    made = home / "airflow.db"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = home / "making.db"
            address = f"sqlite:///{making}"
            stock = {name: value for name, value in os.environ.items() if "AIRFLOW" not in name}
            run_airflow(
                "db",
                "migrate",
                env=stock | {"AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address},
            )
            making.rename(made)
    return home


def run_airflow(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command of Airflow's, and see it pass."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *command], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def database(migrated):
    """Airflow's own, and the folder with the DAGs."""
    from airflow.configuration import conf

    shutil.copy(migrated / "airflow.db", conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///"))
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    folder.mkdir(exist_ok=True)
    for source in (HERE / "dags", HERE.parent / "airflow_provider_anon" / "example_dags"):
        for file in source.glob("*.py"):
            shutil.copy(file, folder)
    run_airflow("dags", "reserialize")
    return folder


@pytest.fixture
def hurried_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the pause in which a real scheduler hears of a start's end; where there is none, it says nothing."""
    for module in ("task.waits", "triggers"):
        monkeypatch.setattr(f"airflow_anon.{module}.SETTLED_AFTER", 0.2)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Simulator, MovingTime]]:
    """An API that ``anon_default`` leads to, and the clock that only sleeping moves."""
    from carry_out import anon_api

    with anon_api(monkeypatch) as (simulator, clock):
        yield simulator, clock


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The connections that are looked up in the triggerer, each with some latency."""
    from airflow_anon import hooks

    looked_up = []
    real = hooks.get_async_connection

    async def get_async_connection(conn_id: str, **options: Any) -> Any:
        looked_up.append(conn_id)
        await asyncio.sleep(0.03)
        return await real(conn_id, **options)

    monkeypatch.setattr(hooks, "get_async_connection", get_async_connection)
    return looked_up


@pytest.fixture
def simulator(api: tuple[Simulator, MovingTime]) -> Simulator:
    return api[0]


@pytest.fixture
def clock(api: tuple[Simulator, MovingTime]) -> MovingTime:
    return api[1]
