"""
What importing one module costs a process that has loaded what a DAG file loads of ``airflow.sdk``.

``imports.py MODULE`` prints milliseconds of CPU and the number of modules; each in a new process.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task


def measure(module: str) -> dict[str, float]:
    """Import *module* and measure that."""
    before = set(sys.modules)
    cpu = time.process_time()
    importlib.import_module(module)
    cpu = time.process_time() - cpu
    added = set(sys.modules) - before
    return {
        "ms": cpu * 1000,
        "modules": len(added),
        "with_requests": "requests" in added,
        "with_aiohttp": "aiohttp" in added,
    }


if __name__ == "__main__":
    LOADED = (DAG, BaseOperator, BaseSensorOperator, task)  # they are loaded when they are asked for
    sys.stdout.write(json.dumps(measure(sys.argv[1])) + "\n")
