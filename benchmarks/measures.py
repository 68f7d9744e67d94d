"""
What is measured, of whom, and how often: contenders take turns, each run in a new process.

``MEASURES`` holds everything; a *spec* is what a worker process is told.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, FLOOR, FLOORS, OURS, OURS_TOGETHER, PEERS, TOGETHER, WAITERS

HERE = Path(__file__).resolve().parent
NOISE = "floor: nothing"
POKERS = ("floor: requests", OURS, "dbt", "http", "fivetran", "airbyte")
MODULES = {
    OURS: "airflow_anon.sensors",
    "anon operators": "airflow_anon.operators",
    "airbyte": "airflow.providers.airbyte.sensors.airbyte",
    "http": "airflow.providers.http.sensors.http",
    "dbt": "airflow.providers.dbt.cloud.sensors.dbt",
    "fivetran": "fivetran_provider_async.sensors",
    "databricks": "airflow.providers.databricks.operators.databricks",
}
FAULTS = ("401", "403", "404", "429", "500", "503", "garbage", "other", "cut")
Results = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """
    One table of the results.

    :param spec: what the worker is told; *contenders* take turns at it.
    :param script: the worker.
    :param runs: a bound on the number of runs, for what takes long.
    :param quick: what ``--quick`` changes in *spec*; None leaves the measure out of it.
    """

    title: str
    spec: dict[str, Any]
    contenders: tuple[str, ...] = WAITERS
    script: str = "worker.py"
    runs: int = 99
    quick: dict[str, Any] | None = None
    quick_contenders: tuple[str, ...] = (OURS, FLOOR, "databricks")
    timeout: float = field(default=600.0)


def _polls(scheme: str, **more: Any) -> dict[str, Any]:
    return {"measure": "cpu", "scheme": scheme, "number": 1000, "interval": 5.0, "rounds": 1, **more}


def _connections() -> dict[str, Measure]:
    rounds = {1.0: (100, 10), 5.0: (1000, 1), 20.0: (1000, 1), 60.0: (1000, 1)}
    found = {}
    for interval, (number, count) in rounds.items():
        spec = _polls("http", number=number, interval=interval, rounds=count, together=True, delay=0.005)
        title = f"Connections opened in 1,000 polls every {interval:g} s, answers after 5 ms"
        found[f"conns-{interval:g}"] = Measure(
            title, spec, (OURS, FLOOR, "databricks"), runs=3 if interval < 20 else 1
        )
    spec = _polls("http", number=5000, interval=10.0, rounds=1, together=True, delay=0.05)
    found["conns-many"] = Measure(
        "Connections for 5,000 waits every 10 s, answers after 50 ms",
        spec,
        (OURS, FLOOR),
        runs=1,
    )
    return found


MEASURES: dict[str, Measure] = {
    "polls-http": Measure(
        "CPU of polls, 1,000 waits every 5 s that began together, http",
        _polls("http", together=True),
        quick={"number": 500, "interval": 3.0, "rounds": 1},
    ),
    "polls-https": Measure(
        "CPU of polls, 1,000 waits every 5 s that began together, https",
        _polls("https", together=True),
        (OURS, *FLOORS, *PEERS[:2]),
        quick={"number": 500, "interval": 3.0, "rounds": 1},
    ),
    "apart-http": Measure(
        "CPU of polls, 1,000 waits every 5 s spread evenly, http",
        _polls("http"),
        (OURS, FLOOR, *PEERS[:2]),
        quick={"number": 300, "interval": 3.0, "rounds": 1},
    ),
    "apart-https": Measure(
        "CPU of polls, 1,000 waits every 5 s spread evenly, https",
        _polls("https"),
        (OURS, FLOOR, *PEERS[:2]),
    ),
    **_connections(),
    "memory-http": Measure(
        "Memory of one more wait at 1,000, http",
        {"measure": "memory", "scheme": "http", "number": 1000, "interval": 60.0},
        (OURS, FLOOR, *PEERS[:3]),
        quick={"number": 1000},
    ),
    "memory-https": Measure(
        "Memory of one more wait at 1,000, https",
        {"measure": "memory", "scheme": "https", "number": 1000, "interval": 60.0},
        (OURS, FLOOR, *PEERS[:2]),
    ),
    "block-once": Measure(
        "Longest block of the loop, 1,000 waits due at once",
        {
            "measure": "block",
            "scheme": "http",
            "number": 1000,
            "interval": 5.0,
            "together": True,
            "seconds": 12.0,
        },
        (OURS, FLOOR, NOISE, *PEERS[:3]),
        quick={"seconds": 5.0},
        quick_contenders=(OURS, FLOOR, NOISE, "databricks"),
    ),
    "block-many": Measure(
        "Longest block of the loop, 5,000 waits every 10 s",
        {"measure": "block", "scheme": "http", "number": 5000, "interval": 10.0, "seconds": 20.0},
        (OURS, FLOOR, PEERS[0]),
    ),
    **{
        f"error-{fault}": Measure(
            f"Requests of one wait in each interval of 1 s, while the API answers {fault}",
            {
                "measure": "faulty",
                "scheme": "http",
                "number": 10,
                "interval": 1.0,
                "seconds": 6.0,
                "fault": f"kind={fault}",
            },
            (OURS, *PEERS[:3]),
            runs=1,
        )
        for fault in FAULTS
    },
    "storm": Measure(
        "1,000 waits every 5 s through 60 s of 429 with Retry-After: 10",
        {
            "measure": "storm",
            "scheme": "http",
            "number": 1000,
            "interval": 5.0,
            "seconds": 60,
            "retry_after": 10,
        },
        (OURS, "databricks", "dbt"),
        runs=1,
    ),
    "imports": Measure(
        "Importing what a DAG file imports, over airflow.sdk",
        {"measure": "imports"},
        tuple(MODULES),
        script="imports.py",
        quick={},
        quick_contenders=(OURS, "airbyte"),
    ),
    "first": Measure(
        "The first poll in a fresh process on a worker, imports included",
        {"measure": "first", "scheme": "http"},
        ("floor: import requests", *POKERS),
        script="on_worker.py",
        quick={},
        quick_contenders=("floor: import requests", OURS, "http"),
    ),
    "poke-http": Measure(
        "One poll on a worker, http",
        {"measure": "poke", "scheme": "http", "number": 500},
        POKERS,
        script="on_worker.py",
        quick={"number": 200},
        quick_contenders=("floor: requests", OURS, "http"),
    ),
    "poke-https": Measure(
        "One poll on a worker, https",
        {"measure": "poke", "scheme": "https", "number": 200},
        POKERS,
        script="on_worker.py",
    ),
    "many": Measure(
        "10,000 waits every 60 s in one process",
        {"measure": "many", "scheme": "http", "number": 10_000, "interval": 60.0, "rounds": 1},
        (OURS, FLOOR),
        runs=1,
    ),
    "together": Measure(
        f"{TOGETHER:,} runs every 10 s: a trigger for each, as of mapped tasks, or one task for all",
        {"measure": "many", "scheme": "http", "number": TOGETHER, "interval": 10.0, "rounds": 1},
        (OURS, OURS_TOGETHER),
        runs=5,
    ),
    **{
        f"cost-{number}": Measure(
            f"Cost of {number:,} waits every 10 s (the plot)",
            {"measure": "many", "scheme": "http", "number": number, "interval": 10.0, "rounds": 1},
            (OURS, FLOOR, *PEERS[:3]),
            runs=1,
        )
        for number in (100, 300, 1000, 3000, 6000)
    },
}


def run(only: list[str], *, runs: int, quick: bool) -> Iterator[tuple[str, Results]]:
    """Measure, and yield the name of each measure with what came out."""
    unknown = [name for name in only if not any(known.startswith(name) for known in MEASURES)]
    if unknown:
        raise SystemExit(f"No measure begins with {', '.join(unknown)}; --list names them.")
    names = [
        name
        for name, measure in MEASURES.items()
        if (not only or any(name.startswith(wish) for wish in only))
        and (only or not quick or measure.quick is not None)
    ]
    with _server() as (ports, environment):
        for name in names:
            yield name, _take(MEASURES[name], ports, environment, runs=1 if quick else runs, quick=quick)


def _take(
    measure: Measure, ports: dict[str, int], environment: dict[str, str], *, runs: int, quick: bool
) -> Results:
    contenders = measure.quick_contenders if quick else measure.contenders
    spec = {**measure.spec, **((measure.quick or {}) if quick else {})}
    taken: dict[str, list[Any]] = {contender: [] for contender in contenders}
    count = min(runs, measure.runs)
    for turn in range(count):
        # Each turn begins with another, so that none always runs right after the same one.
        shift = turn % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            print(f"{measure.title}: run {turn + 1} of {count}, {contender}", flush=True)
            told = {**spec, "contender": contender, "ports": ports}
            taken[contender].append(_work(measure, told, environment))
    return {"title": measure.title, "spec": spec, "taken": taken, "versions": versions()}


def _work(measure: Measure, spec: dict[str, Any], environment: dict[str, str]) -> Any:
    argument = MODULES[spec["contender"]] if measure.script == "imports.py" else json.dumps(spec)
    command = [sys.executable, str(HERE / measure.script), argument]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=measure.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {measure.timeout:g} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _server() -> Iterator[tuple[dict[str, int], dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        own = Path(folder) / "own.pem"
        process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield ports, _environment(Path(folder), own)
        finally:
            process.terminate()
            process.communicate()


def _environment(folder: Path, own: Path) -> dict[str, str]:
    import certifi

    # As large as a real one: reading it is a part of what a TLS context costs.
    bundle = folder / "bundle.pem"
    bundle.write_text(
        Path(certifi.where()).read_text(encoding="utf-8") + own.read_text(encoding="ascii"), encoding="utf-8"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("AIRFLOW_", "PYTHON"))
    }
    certificates = {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}
    return {**kept, **certificates, "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


def versions() -> dict[str, str]:
    """Return the versions of all that takes part."""
    distributions = {contender.distribution for contender in CONTENDERS.values()} - {""}
    found = {"Python": platform.python_version()}
    for name in sorted(distributions | {"apache-airflow", "aiohttp", "requests", "httpx"}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def keep(path: Path, found: Results) -> None:
    """Put new results over the old ones."""
    path.write_text(json.dumps({**kept(path), **found}, indent=1), encoding="utf-8")


def kept(path: Path) -> Results:
    """Return the results so far."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: result for name, result in found.items() if name in MEASURES and "taken" in result}
