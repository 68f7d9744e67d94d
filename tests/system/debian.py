"""Debian's packages that the system tests need, installed without starting a service of theirs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = 101


def can_install() -> bool:
    """Whether this is a Debian, and root runs this."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install a package; whoever needs its programs finds out whether they are there."""
    print(f"Installing Debian's package {package}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_off():
        for command in (
            ["update", "-q"],
            ["install", "-o", "DPkg::Lock::Timeout=300", "-q", "-y", "--no-install-recommends", package],
        ):
            subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    if POLICY.exists():
        yield
        return
    POLICY.write_text(f"#!/bin/sh\nexit {FORBIDDEN}\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
