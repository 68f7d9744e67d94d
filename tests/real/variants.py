"""The Airflows that the judge is run in: each differs from a stock one in one thing that users have."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
# How often a wait is on a worker.
STARTS = {
    "poke": 1,
    "reschedule": 2,
    "deferred": 2,
    "ends_in_triggerer": 1,
    "without_worker": 0,
    "mapped_without_worker": 1,
}
ENDS_ON_WORKER = "The task ends on a worker, not in the triggerer: "
STARTS_ON_WORKER = "The sensor starts on a worker, not in the triggerer: "


@dataclass(frozen=True)
class Variant:
    """
    An Airflow.

    :param settings: what is set.
    :param options: further words of a process's command, by its name.
    :param plugin: what is in its folder of plugins.
    :param with_examples: run our example DAGs too, and show Airflow's own.
    :param starts: how often waits are on a worker there, where that differs.
    :param says: what the log of a wait has to tell, by its way of waiting.
    """

    settings: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    plugin: Path | None = None
    with_examples: bool = False
    on_postgres: bool = False
    starts: dict[str, int] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)


LISTENED = {
    "starts": {"ends_in_triggerer": 2, "without_worker": 1, "mapped_without_worker": 2},
    "says": {
        "ends_in_triggerer": ENDS_ON_WORKER,
        "without_worker": ENDS_ON_WORKER,
        "mapped_without_worker": ENDS_ON_WORKER,
    },
}
VARIANTS = {
    "core": Variant(),
    # Among Airflow's examples is a plugin that listens.
    "examples": Variant({"AIRFLOW__CORE__LOAD_EXAMPLES": "True"}, with_examples=True, **LISTENED),
    "listener": Variant(plugin=HERE / "plugins" / "listener.py", **LISTENED),
    # Not to the console: what it tells of a task that fails has a traceback.
    "openlineage": Variant(
        {
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": "lineage.json", "append": True}
            )
        },
        **LISTENED,
    ),
    "queues": Variant(
        {"AIRFLOW__TRIGGERER__QUEUES_ENABLED": "True"},
        {"triggerer": ["--queues", "default"]},
        starts={"without_worker": 1},
        says={"without_worker": STARTS_ON_WORKER},
    ),
    "postgres": Variant(on_postgres=True),
}


def chosen() -> list[str]:
    """Return the variants that are asked for; the core alone in a usual run of the suite."""
    return os.environ.get("AIRFLOW_ANON_REAL", "core").split()


@contextmanager
def database(variant: Variant) -> Iterator[dict[str, str]]:
    """Run the variant's database, and return what Airflow is set to for it."""
    if not variant.on_postgres:
        yield {}
        return
    from postgres import Postgres

    # Its user may not look into the folders of a test.
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder)) as postgres:
        yield {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
