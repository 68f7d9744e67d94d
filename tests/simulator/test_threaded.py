"""The simulator as an object."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import requests
import trustme

from airflow_anon import simulator as package
from airflow_anon.simulator import MovableClock, Simulator
from airflow_anon.simulator.answers import Credential
from airflow_anon.simulator.server import Server
from airflow_anon.simulator.world import World

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_gone_after_the_with_block_and_its_counts_stay() -> None:
    with Simulator() as simulator:
        run_id = simulator.create_run()
        requests.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}", timeout=2)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", simulator.port), timeout=2)
    assert not any(thread.name == "anon-simulator" for thread in threading.enumerate())
    assert (simulator.requests, simulator.requests_for(run_id)) == (1, 1)


def test_it_ends_at_once_while_an_answer_hangs() -> None:
    with Simulator() as simulator:
        simulator.add_faults("hang")
        connection = socket.create_connection(("127.0.0.1", simulator.port), timeout=2)
        request = f"GET /api/v2/workflow-runs/{simulator.create_run()} HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(request.encode())
        while not simulator.requests:
            pass
    connection.close()

    assert simulator.requests == 1


def test_it_ends_during_an_outage() -> None:
    with Simulator() as simulator:
        simulator.outage(3600)

    with Simulator(port=simulator.port) as successor:
        assert successor.port == simulator.port


def test_a_server_that_has_stopped_stays_so() -> None:
    async def stopped_port() -> int:
        server = Server(World(MovableClock()), Credential())
        await server.start()
        await server.stop()
        await server.follow_outage()
        return server.port

    port = asyncio.run(stopped_port())

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_what_never_started_can_be_stopped() -> None:
    Simulator().stop()


def test_a_run_may_be_created_before_it_starts() -> None:
    simulator = Simulator(clock=MovableClock())
    run_id = simulator.create_run("PENDING 1h, FAILED")
    simulator.advance(3600)

    with simulator:
        answer = requests.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}", timeout=2)

    assert answer.json()["status"] == "FAILED"


def test_runs_can_be_watched_and_ended() -> None:
    with Simulator(clock=MovableClock()) as simulator:
        first, second = simulator.create_run("PENDING"), simulator.create_run("MISSING")
        simulator.complete(first)
        simulator.fail(second)
        runs = simulator.run(first), simulator.run(second)
        changes = simulator.take_changes()

    assert [run and run["status"] for run in runs] == ["COMPLETED", "FAILED"]
    assert [change.status for change in changes] == ["PENDING", None, "COMPLETED", "FAILED"]


def test_a_mistake_is_raised_where_it_was_made(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        simulator.create_run("PENDNG")
    with pytest.raises(ValueError, match="not a kind of outage"):
        simulator.start_outage("504")
    with pytest.raises(LookupError, match="there is no run"):
        simulator.run("3c90c3cc-0d44-4b50-8888-8dd25736052a")


def test_a_port_that_is_taken_is_an_error(simulator: Simulator) -> None:
    with pytest.raises(OSError, match=r"[Aa]ddress"):
        Simulator(port=simulator.port).start()


def test_the_real_time_cannot_be_moved() -> None:
    with pytest.raises(TypeError, match="MovableClock"):
        Simulator().advance(1)


def test_before_it_starts_it_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = Simulator().url


def test_a_reset_ends_an_outage(simulator: Simulator) -> None:
    simulator.start_outage()
    simulator.reset()

    assert requests.get(f"{simulator.url}/openapi.json", timeout=2).status_code == 200


def test_the_connection_is_one_for_airflow() -> None:
    with Simulator(token="t", login="me", credential_header="X-Key", base_path="anon") as simulator:
        connection = json.loads(simulator.connection(timeout=1))

    assert connection == {
        "conn_type": "anon",
        "host": "http://127.0.0.1/anon",
        "port": simulator.port,
        "login": "me",
        "password": "t",
        "extra": {"timeout": 1, "credential_header": "X-Key"},
    }


def test_it_serves_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    with Simulator(ssl_context=context) as simulator:
        url = f"{simulator.url}/api/v2/workflow-runs/{simulator.create_run()}"
        answer = requests.get(url, timeout=2, verify=str(tmp_path / "ca.pem"))

    assert answer.status_code == 200
    assert simulator.url.startswith("https://")
    assert json.loads(simulator.connection())["host"] == "https://127.0.0.1"


def test_the_package_knows_only_what_it_exports() -> None:
    assert {name: getattr(package, name).__name__ for name in package.__all__} == {
        name: name for name in package.__all__
    }
    with pytest.raises(AttributeError, match="Simulater"):
        _ = package.Simulater


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "airflow_anon.simulator, airflow_anon.simulator.threaded, airflow_anon.simulator.server",
            {"airflow", "pendulum", "requests"},
        ),
        ("airflow_anon.simulator.pytest_plugin", {"airflow", "pendulum", "requests", "aiohttp"}),
    ],
)
def test_nothing_heavy_is_imported(modules: str, forbidden: set[str]) -> None:
    code = f"import sys, {modules}; sys.stdout.write(' '.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert not forbidden & set(loaded.split())
