"""Opens a worker's connections within the time of a request: the name's look-up, which knows no limit, too."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from airflow_anon.client.response import Clock


def connect(host: str, port: int, options: Iterable[Any], clock: Clock) -> socket.socket:
    """
    Look a name up, once, and open a connection to one of its addresses.

    :raises OSError: there is none, or none could be reached in time.
    """
    addresses = _look_up(host, port, clock.left())
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            # An address that stays silent must not use up the time of the others.
            sock.settimeout(clock.left() / (len(addresses) - number))
            sock.connect(address)
            sock.settimeout(clock.left())
        except OSError as error:
            sock.close()
            if number == len(addresses) - 1:
                raise error.with_traceback(None) from None
        else:
            return sock
    raise socket.gaierror(socket.EAI_NONAME, "no address")


def _look_up(host: str, port: int, seconds: float) -> list[Any]:
    found: SimpleQueue[Any] = SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  raised where it is waited for
            found.put(error)

    Thread(target=look_up, daemon=True).start()
    try:
        addresses = found.get(timeout=seconds)
    except Empty:
        raise TimeoutError(errno.ETIMEDOUT, "the name was not looked up in time") from None
    if isinstance(addresses, Exception):
        raise addresses
    return list(addresses)
