"""
Run the benchmarks: ``python benchmarks/run.py [--quick] [--only NAME ...]``.

It makes an environment of its own beside this file, with the versions pinned in
``constraints.txt``, and writes ``RESULTS.md``, ``results.json`` and ``costs.png``. Nothing but the
loopback is contacted while it measures.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PINS = HERE / "constraints.txt"
PYTHON = VENV / "bin" / "python"


def main() -> int:
    """Make the environment if need be, then measure inside it."""
    arguments = parser().parse_args()
    if arguments.here:
        return measure(arguments)
    make_environment()
    return subprocess.run([PYTHON, __file__, "--here", *sys.argv[1:]], check=False).returncode


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    made.add_argument("--quick", action="store_true", help="a glance in under two minutes; writes no results")
    made.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="one measure; may be repeated"
    )
    made.add_argument("--runs", type=int, default=5, help="runs of each measure (default: 5)")
    made.add_argument("--list", action="store_true", help="name the measures and stop")
    made.add_argument("--report", action="store_true", help="only write the results again, from results.json")
    made.add_argument("--here", action="store_true", help="measure in this very environment")
    return made


def measure(arguments: argparse.Namespace) -> int:
    """Measure what is asked for, and write it down."""
    import measures
    import report

    if arguments.list:
        print("\n".join(f"{name:12} {measure.title}" for name, measure in measures.MEASURES.items()))
        return 0
    results = HERE / "results.json"
    if not arguments.report:
        taken = measures.run(arguments.only, runs=arguments.runs, quick=arguments.quick)
        if arguments.quick:
            print(report.text(dict(taken)))
            return 0
        for name, result in taken:
            measures.keep(results, {name: result})
    report.write(measures.kept(results), HERE)
    return 0


def make_environment() -> None:
    """Install the pinned versions and this package, once for each change of the pins."""
    stamp = VENV / "stamp"
    wanted = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return
    print("Making the benchmarks' environment ...", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "venv", *([] if _uv() is None else ["--without-pip"]), VENV], check=True
    )
    install = [PYTHON, "-m", "pip", "install", "--quiet"]
    if uv := _uv():
        install = [uv, "pip", "install", "--quiet", "--python", PYTHON]
    subprocess.run([*install, "--requirement", PINS], check=True)
    subprocess.run([*install, "--no-deps", "--editable", HERE.parent], check=True)
    stamp.write_text(wanted, encoding="ascii")


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else None)


if __name__ == "__main__":
    sys.exit(main())
