"""A PostgreSQL of its own: a temporary folder, a free loopback port, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import debian
import psycopg2
from environment import SetupError
from loopback import LOOPBACK, free_port
from processes import Process, as_user

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

USER = "airflow"
# PostgreSQL refuses to run as root.
SYSTEM_USER = "postgres"
# The data is thrown away: nothing has to survive a crash of the machine.
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
NO_MAIN_CLUSTER = Path("/etc/postgresql-common/createcluster.d/no-main-cluster.conf")
PATIENCE = 60.0


class Postgres:
    """
    A server, while the ``with`` block lasts.

    :param folder: an empty folder for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._programs = find_programs()
        self._process: Process | None = None
        self._connection: psycopg2.extensions.connection | None = None

    @property
    def url(self) -> str:
        """What Airflow's ``sql_alchemy_conn`` is set to."""
        return f"postgresql+psycopg2://{USER}@{LOOPBACK}:{self.port}/{USER}"

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.select("SHOW server_version")[0][0]).partition(" ")[0]

    def __enter__(self) -> Self:
        """Create the data and start the server."""
        _hand_over(self.folder)
        data = self.folder / "data"
        self._run(
            "initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale"
        )
        try:
            self.start()
            self._create_database()
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

    def start(self) -> None:
        """Start the server on its data and its port, and wait until it answers."""
        settings = {
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
        } | SETTINGS
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]
        # SIGINT is its fast shutdown: it breaks the connections that are left.
        self._connection = None
        self._process = Process(
            "postgres", command, self.folder, {}, end_signal=signal.SIGINT, user=SYSTEM_USER
        )
        self._wait()

    def restart(self, pause: float) -> None:
        """Stop the server as an administrator does, and start it again after *pause* seconds."""
        self.process.stop()
        time.sleep(pause)
        self.start()

    def select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Carry out a query."""
        self._connection = self._connection or self.connect()
        with self._connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def connect(self, database: str = USER) -> psycopg2.extensions.connection:
        """Open a connection that commits each statement."""
        connection = psycopg2.connect(host=LOOPBACK, port=self.port, user=USER, dbname=database)
        connection.autocommit = True
        return connection

    @property
    def process(self) -> Process:
        """Its process."""
        assert self._process is not None
        return self._process

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                connection = self.connect("postgres")
            except psycopg2.OperationalError:
                self.process.check()
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                connection.close()
                return

    def _create_database(self) -> None:
        connection = self.connect("postgres")
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {USER}")
        connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*as_user(SYSTEM_USER), str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"{program} failed:\n{done.stdout}{done.stderr}")


def find_programs() -> Path:
    """
    Return the folder of PostgreSQL's programs; root installs them if they are missing.

    :raises SetupError: there are none.
    """
    if not (found := _programs()) and debian.can_install():
        _install()
        found = _programs()
    if not found:
        raise SetupError(
            "PostgreSQL's initdb was not found: install Debian's package postgresql (postgresql-15)."
        )
    return found


def _programs() -> Path | None:
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = [path.parent for path in installed] + ([Path(on_path).resolve().parent] if on_path else [])
    return found[-1] if found else None


def _install() -> None:
    before = NO_MAIN_CLUSTER.exists()
    NO_MAIN_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_MAIN_CLUSTER.write_text("create_main_cluster = false\n")
    try:
        debian.install("postgresql")
    finally:
        if not before:
            NO_MAIN_CLUSTER.unlink()


def _hand_over(folder: Path) -> None:
    if os.geteuid() == 0:
        user = pwd.getpwnam(SYSTEM_USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
