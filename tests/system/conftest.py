"""Keeps the system test, which takes minutes, out of a usual run of the suite."""

from __future__ import annotations

import os
from pathlib import Path

from asked import is_named

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path, config):
    """Collect what starts an Airflow only if it is asked for."""
    is_quick = collection_path.name != "test_system.py"
    asked_for = is_named(HERE, config) or os.environ.get("AIRFLOW_ANON_SYSTEM") == "1"
    return None if is_quick or asked_for else True
