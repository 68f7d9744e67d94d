"""A Redis of its own, Celery's broker: a temporary folder, a free loopback port, gone at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import debian
from environment import SetupError
from loopback import LOOPBACK, free_port
from processes import Process

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

PROGRAM = "redis-server"
PATIENCE = 30.0


class Redis:
    """
    A server, while the ``with`` block lasts.

    :param folder: an empty folder for its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._program = find_program()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """What Celery's ``broker_url`` is set to."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def version(self) -> str:
        """Its version."""
        told = subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout
        return told.partition("v=")[2].partition(" ")[0]

    @property
    def process(self) -> Process:
        """Its process."""
        assert self._process is not None
        return self._process

    def __enter__(self) -> Self:
        """Start the server and wait until it answers."""
        settings = {"bind": LOOPBACK, "port": str(self.port), "save": "", "appendonly": "no"}
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = Process("redis", [self._program, *options], self.folder, {})
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.stop()

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(5) == b"+PONG":
                        return
            except OSError:
                self.process.check()
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)


def find_program() -> str:
    """
    Return Redis's server; root installs it if it is missing.

    :raises SetupError: there is none.
    """
    if not (found := shutil.which(PROGRAM)) and debian.can_install():
        debian.install(PROGRAM)
        found = shutil.which(PROGRAM)
    if not found:
        raise SetupError(f"{PROGRAM} was not found: install Debian's package {PROGRAM}.")
    return found
