"""Drives the system tests from pytest: ``AIRFLOW_ANON_SYSTEM=1 pytest``, or ``pytest tests/system``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", [[], ["--distributed"]], ids=["local", "distributed"])
def test_every_wait_in_a_real_airflow_is_judged_right(tmp_path, stage):
    words = stage + os.environ.get("AIRFLOW_ANON_SYSTEM_OPTIONS", "").split()
    command = [sys.executable, str(SCRIPT), "--result", str(tmp_path / "result.json"), *words]
    # Output of its own: what it says is worth reading while it runs.
    done = subprocess.run(command, check=False)

    assert done.returncode == 0
