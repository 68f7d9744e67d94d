"""
How the worker's client reads an answer: within its time, and as aiohttp does.

``http.client`` takes each read for itself, so a body that drips in has no end, and it guesses where aiohttp refuses.
"""

from __future__ import annotations

import errno
import http.client
import io
import re
import socket
import time
from typing import Any

import urllib3
from urllib3.util.response import assert_header_parsing

from airflow_anon.client.network import LONGEST_LINE, MOST_HEADERS, SHARE_OF_TIMEOUT

BLANK_LINES = (b"\r\n", b"\n")
STATUS_LINE = re.compile(
    rb"HTTP/(?P<version>0\.9|1\.[01]|2\.0) (?P<status>[1-9]\d\d)(?: (?P<reason>.*?))?\r?\n"
)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r\n")
LENGTH = re.compile(r"\s*\d{1,19}\s*", re.ASCII)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Clock:
    """How long the attempt under way may take, by the monotonic clock, and whether its connection was used before."""

    ends_at = float("inf")
    answers_by = float("inf")
    is_reused = False

    def begin(self, seconds: float) -> None:
        """Begin an attempt that may take so many seconds; a connection that is open has to answer sooner."""
        now = time.monotonic()
        self.ends_at, self.answers_by, self.is_reused = now + seconds, now + seconds * SHARE_OF_TIMEOUT, True

    def is_answered(self) -> None:
        """Let the answer take all the time that there is."""
        self.answers_by = self.ends_at

    def is_new(self) -> None:
        """Let a new connection take all the time that there is."""
        self.answers_by, self.is_reused = self.ends_at, False

    def left(self) -> float:
        """Return the seconds that are left; raise ``TimeoutError`` if there are none."""
        left = self.answers_by - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the request's time is over")
        return left


class _TimedReader(io.RawIOBase):
    """Reads a socket no longer than the clock allows, however slowly bytes drip in."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, clock: Clock) -> None:
        self.raw, self.sock, self.clock = raw, sock, clock
        self.is_at_end = self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_over:
            return 0
        self.sock.settimeout(self.clock.left())
        count: int | None = self.raw.readinto(buffer)
        self.is_at_end = count == 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """Takes no longer than its clock allows, and means what aiohttp means."""

    clock: Clock
    is_dropped = False

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.reader = _TimedReader(self.fp.detach(), sock, self.clock)
        self.fp = io.BufferedReader(self.reader)

    def _read_status(self) -> tuple[str, int, str]:
        line = BLANK_LINES[0]
        while line in BLANK_LINES:
            line = self.fp.readline(LONGEST_LINE)
        if not line or self.reader.is_at_end:
            raise http.client.RemoteDisconnected("no answer")
        if not (found := STATUS_LINE.fullmatch(line)) or found["status"] == b"101":
            raise http.client.BadStatusLine("no status line")
        # Some that do not speak HTTP/2 say that they do; what comes after their answer is anybody's guess.
        version = found["version"].decode().replace("2.0", "1.0")
        # http.client passes over 100 alone, aiohttp over all that come before an answer.
        status = int(found["status"]) if found["status"] >= b"200" else 100
        return f"HTTP/{version}", status, (found["reason"] or b"").decode("latin1")

    def begin(self) -> None:
        """Read the headers, and refuse those that aiohttp refuses: where the answer ends would be a guess."""
        super().begin()
        self.clock.is_answered()
        self._refuse_end()
        _check(self.msg)

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(LONGEST_LINE)
        self._refuse_end()
        if not (found := CHUNK_SIZE.fullmatch(line)):
            raise http.client.HTTPException("a chunk that is none")
        return int(found[1], 16)

    def _safe_read(self, amt: int) -> bytes:
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]
        if self.chunk_left == 0 and data != b"\r\n":
            raise http.client.HTTPException("a chunk without an end")
        return data

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MOST_HEADERS):
            line = self.fp.readline(LONGEST_LINE)
            self._refuse_end()
            if line in BLANK_LINES:
                return
            if b":" not in line:
                break
        raise http.client.HTTPException("trailers that are none")

    def _refuse_end(self) -> None:
        if self.reader.is_at_end:
            raise ConnectionResetError(errno.ECONNRESET, "cut off")

    def close(self) -> None:
        """Read no further."""
        self.is_dropped = True
        super().close()

    def _close_conn(self) -> None:
        self.reader.is_over = True
        rest = self.fp.peek()
        super()._close_conn()  # type: ignore[misc]
        if rest and not self.is_dropped and (self.will_close or not rest.startswith(b"HTTP/1.")):
            raise http.client.HTTPException("something after the answer")


def _check(headers: http.client.HTTPMessage) -> None:
    """Refuse headers that are none; urllib3 would go on, and put what it could not read into the log."""
    try:
        assert_header_parsing(headers)
    except urllib3.exceptions.HeaderParsingError:
        raise http.client.HTTPException("headers that are none") from None
    lengths = headers.get_all("Content-Length", [])
    coding = headers.get("Transfer-Encoding")
    if (
        len(lengths) + (coding is not None) > 1
        or "," in (coding or "")
        or not all(map(LENGTH.fullmatch, lengths))
    ):
        raise http.client.HTTPException("a length that is none")
    if not all(TOKEN.fullmatch(name) and "\0" not in value for name, value in headers.items()):
        raise http.client.HTTPException("a header that is none")
