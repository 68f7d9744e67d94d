"""Counts attempts to connect to a port that nobody listens on, by what the kernel sees; root alone may."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

SO_ATTACH_FILTER = 26
LOAD_HALF, LOAD_BYTE, AND, EQUALS, RETURN = 0x28, 0x30, 0x54, 0x15, 0x06
# Where these are in a packet that begins with an IPv4 header without options.
DESTINATION_PORT, FLAGS = 22, 33
SYN, SYN_OR_ACK = 0x02, 0x12


class Knocks:
    """
    The attempts made during a ``with`` block.

    :param port: on loopback.
    """

    def __init__(self, port: int) -> None:
        self.count: int | None = None
        self._port = port
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to count, if that is allowed."""
        with contextlib.suppress(PermissionError):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
            self._pass_first_packets_only(self._socket)
            self._socket.settimeout(0.5)
            self.count = 0
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._listen, args=(self._socket,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        if self._thread is not None and self._socket is not None:
            self._ended.set()
            self._thread.join()
            self._socket.close()

    def _listen(self, packets: socket.socket) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                packets.recv(64)
                self.count = (self.count or 0) + 1

    def _pass_first_packets_only(self, packets: socket.socket) -> None:
        program = b"".join(
            struct.pack("HBBI", *step)
            for step in (
                (LOAD_HALF, 0, 0, DESTINATION_PORT),
                (EQUALS, 0, 4, self._port),
                (LOAD_BYTE, 0, 0, FLAGS),
                (AND, 0, 0, SYN_OR_ACK),
                (EQUALS, 0, 1, SYN),
                (RETURN, 0, 0, 0xFFFF),
                (RETURN, 0, 0, 0),
            )
        )
        steps = ctypes.create_string_buffer(program, len(program))
        option = struct.pack("HL", len(program) // 8, ctypes.addressof(steps))
        packets.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)
