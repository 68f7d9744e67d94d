"""Keeps the system tests, which take minutes, out of a usual run of the suite."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path, config):
    """Collect this folder only if it is asked for."""
    asked_for = any(
        HERE in (path := Path(word.partition("::")[0]).resolve(), *path.parents) for word in config.args
    )
    return None if asked_for or os.environ.get("AIRFLOW_ANON_SYSTEM") == "1" else True
