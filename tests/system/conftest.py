"""Keeps the system test, which takes minutes, out of a usual run of the suite."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path, config):
    """Collect what starts an Airflow only if it is asked for."""
    asked_for = any(
        HERE in (path := Path(word.partition("::")[0]).resolve(), *path.parents) for word in config.args
    )
    is_quick = collection_path.name != "test_system.py"
    return None if is_quick or asked_for or os.environ.get("AIRFLOW_ANON_SYSTEM") == "1" else True
