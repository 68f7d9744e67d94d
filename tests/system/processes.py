"""Processes that are ended by whoever started them, and what CPU they and theirs have used."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path

PATIENCE = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


class ProcessEndedError(Exception):
    """A process that should live has ended; the text has the end of its log."""


class Process:
    """
    A process in a session of its own, which Ctrl-C does not reach; its output goes to a log.

    It ends with the one that started it, even if that is killed. Linux binds this to the thread that
    starts it, so only the main thread may. Its log also has when it was ended from here, and how: an
    end without such a line came from elsewhere.

    :param name: what it is, and the name of its log.
    :param folder: where it starts and where its log is appended to.
    :param end_signal: what asks it to end.
    :param user: whom it runs as, if the one that starts it is root.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        *,
        end_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{name} would end with the thread that starts it")
        self.name = name
        self._end_signal = end_signal
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # The signal is set last: a change of user takes it back.
                [*as_user(user), "setpriv", "--pdeathsig", end_signal.name.removeprefix("SIG"), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self._asked = False
        self.pid = self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """
        Make sure that it lives.

        :raises ProcessEndedError: it has ended.
        """
        if not self.lives:
            raise ProcessEndedError(
                f"{self.name} ended by itself, with {self._process.returncode}:\n{self.last_lines()}"
            )

    def last_lines(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait()

    def ask_to_end(self) -> None:
        """Ask it to end, once, and do not wait for that."""
        if self.lives and not self._asked:
            self._asked = True
            self._note(f"is asked to end ({self._end_signal.name})")
            self._process.send_signal(self._end_signal)

    def stop(self) -> bool:
        """End it, and what it has started: asked first, killed when that takes too long. Tell whether it did as asked."""
        left = family(self.pid)
        self.ask_to_end()
        if self.lives:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        has_ended = not self.lives
        self._kill(left)
        return has_ended

    def freeze(self) -> dict[int, float]:
        """Stop it, and what it has started, where they are, and return these processes as ``family`` does."""
        frozen: dict[int, float] = {}
        # One that is not stopped yet may start another.
        while new := {pid: at for pid, at in family(self.pid).items() if pid not in frozen}:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            frozen |= new
        return frozen

    def thaw(self) -> None:
        """Let it go on, and what it has started."""
        for pid in family(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, and what it has started, as a crash does."""
        if self.lives:
            self._note("is killed")
        self._kill(family(self.pid))

    def _note(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} [system test] {self.name} {what}\n")

    def _kill(self, members: dict[int, float]) -> None:
        for pid, started in members.items():
            if _started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        end = time.monotonic() + PATIENCE
        while any(_started(pid) == started for pid, started in members.items()) and time.monotonic() < end:
            time.sleep(0.05)


def as_user(user: str | None) -> list[str]:
    """Return the words before a command that is not to run as root."""
    if user is None or os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]


def family(pid: int) -> dict[int, float]:
    """
    Return a process and its descendants, each with the time that it started.

    What was begun in its session counts too, even if the process itself has ended.
    """
    stats = _all_stats()
    children = defaultdict(list)
    for child, fields in stats.items():
        children[int(fields[1])].append(child)
    queue = [pid, *(member for member, fields in stats.items() if int(fields[3]) == pid)]
    found: dict[int, float] = {}
    while queue:
        member = queue.pop()
        if member in stats and member not in found:
            found[member] = float(stats[member][19])
            queue += children[member]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU that processes and their descendants have used, those that have ended included."""
    stats = _all_stats()
    members = {member for pid in pids for member in family(pid)}
    # utime, stime, and the same of the children that have been waited for.
    return sum(sum(map(int, stats[pid][11:15])) for pid in members if pid in stats) / TICKS


def _all_stats() -> dict[int, list[str]]:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {pid: fields for pid in pids if (fields := _stat(pid))}


def _started(pid: int) -> float | None:
    fields = _stat(pid)
    # One that has ended but is not waited for yet (Z) counts as ended.
    return float(fields[19]) if fields and fields[0] != "Z" else None


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` from the third on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
