"""
Makes sure that a fresh Airflow, with nothing set, shows our examples among its own and logs no trouble.

``python stock_airflow.py`` is started outside the source tree, in an environment that has Airflow and the
package and nothing else. Its home is the folder ``stock`` in the current one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import airflow_provider_anon

BUNDLE = "airflow-provider-anon-example-dags"
TROUBLE = re.compile(r"Traceback|Could not load provider module")


def main() -> None:
    """Let Airflow find the examples of all providers and read ours, and look at what it made of them."""
    (examples,) = airflow_provider_anon.__path__
    files = {path.name for path in Path(examples, "example_dags").glob("*.py")}
    for command in (["db", "migrate"], ["dags", "reserialize", "--bundle-name", BUNDLE]):
        airflow(*command)
    shown = listed("list")
    errors = listed("list-import-errors")
    assert not errors, errors
    assert {Path(dag["fileloc"]).name for dag in shown} == files, shown
    print(f"A fresh Airflow shows {', '.join(sorted(dag['dag_id'] for dag in shown))}.")


def listed(what: str) -> list[dict[str, Any]]:
    """Return what Airflow lists, among whatever else it says; without rows it prints no list."""
    lines = airflow("dags", what, "--output", "json").splitlines()
    rows: list[dict[str, Any]] = json.loads(next((line for line in lines if line.startswith("[")), "[]"))
    return rows


def airflow(*command: str) -> str:
    """Run a command of Airflow as it is set up by itself, and return what it printed."""
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith("AIRFLOW")}
    env = {**ours, "AIRFLOW_HOME": str(Path("stock").resolve()), "SCARF_ANALYTICS": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *command], env=env, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not TROUBLE.search(said), said
    return done.stdout


if __name__ == "__main__":
    main()
