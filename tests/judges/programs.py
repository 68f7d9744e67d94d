"""
Gets the programs that judge: Prism from npm, nginx and tinyproxy from Debian.

They are laid into the folder ``.judges/`` and the machine is left as it is; no service is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".judges"
PLACES = [
    FOLDER / "node_modules" / ".bin",
    *(FOLDER / "debian" / "usr" / name for name in ("bin", "sbin")),
    *map(Path, os.get_exec_path()),
    Path("/usr/sbin"),
]
# By program: the package of Debian that has it.
DEBIAN = {"nginx": "nginx", "tinyproxy": "tinyproxy-bin"}
NPM = (
    "npm",
    "install",
    "--no-package-lock",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
)
APT_INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")


def find(program: str) -> str | None:
    """Return the path of a program, if it is here."""
    return shutil.which(program, path=os.pathsep.join(map(str, PLACES)))


def main() -> None:
    """Get what is not here yet."""
    FOLDER.mkdir(exist_ok=True)
    missing = [package for program, package in DEBIAN.items() if find(program) is None]
    if missing:
        _get_from_debian(missing)
    wanted, got = HERE / "package.json", FOLDER / "package.json"
    if not got.exists() or got.read_bytes() != wanted.read_bytes() or find("prism") is None:
        _get_from_npm(wanted, got)


def _get_from_debian(packages: list[str]) -> None:
    if shutil.which("apt-get") is None:
        sys.exit(
            f"Install {' and '.join(packages)}, and try again: this is no Debian, where they could be fetched."
        )
    command = ["apt-get", "download", "-qq", *packages]
    if subprocess.run(command, cwd=FOLDER, check=False).returncode != 0:
        if os.geteuid() != 0:
            sys.exit("apt-get could not download: run 'apt-get update' as root, and try again.")
        _run("apt-get", "update", "-qq")
        _run(*command)
    for package in packages:
        for archive in FOLDER.glob(f"{package}_*.deb"):
            _run("dpkg", "-x", archive.name, "debian")


def _get_from_npm(wanted: Path, got: Path) -> None:
    if shutil.which("npm") is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            sys.exit("Install Node.js 18 or later with npm, and try again.")
        _run("apt-get", "update", "-qq")
        _run(*APT_INSTALL, "nodejs", "npm")
    shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
    shutil.copy(wanted, FOLDER)
    try:
        _run(*NPM)
    except BaseException:
        got.unlink()
        raise


def _run(*command: str) -> None:
    if code := subprocess.run(command, cwd=FOLDER, check=False).returncode:
        sys.exit(f"{' '.join(command)} ended with {code}.")


if __name__ == "__main__":
    main()
