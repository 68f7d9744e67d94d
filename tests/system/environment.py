"""The environment that the system tests run in: Airflow for PostgreSQL and Celery, with this package and one peer."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = "3.3.2"
PYTHONS = ((3, 10), (3, 13))
PLACE = ROOT / ".nox" / "system-airflow"


class SetupError(Exception):
    """The system tests cannot begin; the text says why."""


def enter(python: Path | None) -> None:
    """
    Go on with the Python of the environment: *python*, or one that is made here if it does not exist.

    :raises SetupError: no environment can be made.
    """
    chosen = python or make()
    if Path(sys.prefix) != chosen.parent.parent:
        os.execv(chosen, [str(chosen), *sys.argv])


def make(place: Path = PLACE) -> Path:
    """Make the environment unless it is there, and return its Python."""
    python = place / "bin" / "python"
    done = place / "done"
    if not done.exists() or done.read_text() != _fingerprint():
        if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
            raise SetupError("Python 3.10 to 3.13 is needed; start this script with one of these.")
        print(f"Installing Airflow {AIRFLOW} into {place.relative_to(ROOT)}", flush=True)
        _install(place, python)
        done.write_text(_fingerprint())
    return python


def _install(place: Path, python: Path) -> None:
    uv = _uv()
    what = ["-c", str(_pins()), "-e", str(ROOT), "--group", f"{ROOT / 'pyproject.toml'}:system"]
    shutil.rmtree(place, ignore_errors=True)
    if uv and _succeeds([uv, "venv", "-q", "--seed", "--python", sys.executable, str(place)]):
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
        if _succeeds([uv, "pip", "install", "-q", "--python", str(python), *what]):
            return
        # Where uv finds no way to the package index, pip may: it has settings of its own.
    elif not _succeeds([sys.executable, "-m", "venv", "--clear", str(place)]):
        raise SetupError("No environment can be made: this Python has no venv.")
    pip = [str(python), "-m", "pip", "install", "-qq"]
    if not (_succeeds([*pip, "--upgrade", "pip"]) and _succeeds([*pip, *what])):
        raise SetupError(f"Airflow {AIRFLOW} cannot be installed.")


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _pins() -> Path:
    version = "{}.{}".format(*sys.version_info[:2])
    return ROOT / "constraints" / f"airflow-{AIRFLOW}-py{version}.txt"


def _fingerprint() -> str:
    texts = [path.read_text() for path in (_pins(), ROOT / "pyproject.toml")]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False).returncode == 0
