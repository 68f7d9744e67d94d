"""
What may lie between a client and an API: a relay on loopback that does to each request what it is told.

It gives the bytes of each connection on, both ways. Before a request it asks its *fate* what is to become of it, and
counts it.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fate(Enum):
    """What becomes of a request and its answer."""

    PASS = "both are given on"
    SWALLOW = "this request, and all that comes after it on its connection, is forgotten without a sign"
    RESET = "the connection is torn down in place of an answer"
    CLOSE = "the connection is closed in place of an answer"
    CUT = "the connection is closed in the middle of the answer"
    STALL = "the answer stops in its middle"
    DRIP = "the answer comes a byte at a time"
    DELAY = "the answer comes after a moment"
    TWICE = "the answer comes two times"


# What is given on in place of an answer: parts, a moment apart.
Change = Callable[[bytes], Iterable[bytes]]


class Relay:
    """
    Relays to a port while the ``with`` block lasts.

    :param fate: what becomes of a request, by the number of its connection and its own number on that; both from 1.
    """

    def __init__(self, port: int, fate: Callable[[int, int], Fate | Change] = lambda *_: Fate.PASS) -> None:
        self.target = port
        self.fate = fate
        self.requests: list[tuple[int, int]] = []
        self.connections = 0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(5)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._run(self._relay, here, self.connections)

    def _relay(self, here: socket.socket, connection: int) -> None:
        with here, socket.create_connection((HOST, self.target)) as there, suppress(OSError):
            here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fate: Fate | Change = Fate.PASS
            number = 0
            while not self._stopping.is_set():
                for source in select.select([here, there], [], [], 0.05)[0]:
                    if not (data := source.recv(65536)):
                        return
                    if source is here and fate is not Fate.SWALLOW:
                        number += 1
                        self.requests.append((connection, number))
                        fate = self.fate(connection, number)
                    give_on = self._ask if source is here else self._answer
                    if not give_on(here if source is there else there, data, fate):
                        if fate is Fate.RESET:
                            here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                        return

    @staticmethod
    def _ask(there: socket.socket, data: bytes, fate: Fate | Change) -> bool:
        """Give a request on, and say whether the connection goes on."""
        if fate not in {Fate.RESET, Fate.CLOSE, Fate.SWALLOW}:
            there.sendall(data)
        return fate not in {Fate.RESET, Fate.CLOSE}

    def _answer(self, here: socket.socket, data: bytes, fate: Fate | Change) -> bool:
        """Give an answer on, and say whether the connection goes on."""
        middle = len(data) // 2
        if fate in {Fate.CUT, Fate.STALL}:
            here.sendall(data[:middle])
            return fate is Fate.STALL
        if fate is Fate.DRIP:
            return self._give_parts(here, (data[at : at + 1] for at in range(len(data))))
        if not isinstance(fate, Fate):
            return self._give_parts(here, fate(data))
        if fate is Fate.DELAY:
            self._stopping.wait(0.05)
        here.sendall(data * (2 if fate is Fate.TWICE else 1))
        return True

    def _give_parts(self, here: socket.socket, parts: Iterable[bytes]) -> bool:
        """Give an answer on in parts, and say whether the connection goes on."""
        for part in parts:
            if self._stopping.wait(0.05):
                return False
            here.sendall(part)
        return True
