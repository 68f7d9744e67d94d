"""
A loopback server that says exactly what it is told to, byte for byte, and keeps what it was sent.

What it answers is an *act*: bytes to send, or something that is given the connection. It serves as
an HTTP server, a TLS server and a proxy alike.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
PATIENCE = 5.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire, and the number of the connection it came over."""

    raw: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.raw.split(b"\r\n")[0].decode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.raw.decode().split("\r\n")[1:-2]
        return sorted((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Flow:
    """One connection of a client, as an act sees it."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock, self.server = sock, server

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait(self, seconds: float = PATIENCE) -> None:
        """Wait until the server stops, or *seconds*."""
        self.server.stopping.wait(seconds)

    def sent_until_refused(self, data: bytes, times: int) -> int:
        """Send *data* again and again, and say how often the client took it."""
        for count in range(times):
            try:
                self.sock.settimeout(0.3)
                self.sock.sendall(data)
            except OSError:
                return count
        return times


Act = bytes | Callable[[Flow], bool | None]


class Server:
    """
    Listens on loopback while the ``with`` block lasts.

    :param acts: one for each request; the last is repeated.
    :param tls: speak TLS with it.
    """

    def __init__(
        self, *acts: Act, tls: ssl.SSLContext | None = None, on_accept: Act | None = None, host: str = HOST
    ) -> None:
        self.acts = list(acts) or [answer()]
        self.on_accept = on_accept
        self.tls = tls
        self.host = host
        self.asked: list[Asked] = []
        self.hellos: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._living: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind((self.host, 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in list(self._threads):
            thread.join(PATIENCE)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def drop_connections(self) -> None:
        """Close the living connections, as a server does with those that are idle for too long."""
        with self._lock:
            living, self._living = self._living, []
        for sock in living:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            # The thread that serves it is the one that closes it.

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            with self._lock:
                self.connections += 1
                number = self.connections
                self._living.append(sock)
            self._run(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with suppress(OSError):
                if self.on_accept is not None and not self._act(self.on_accept, sock):
                    return
                if self.tls:
                    self.hellos.append(_peek_hello(sock))
                    sock = self._wrapped(sock)
                while request := _read_request(sock):
                    with self._lock:
                        self.asked.append(Asked(request, number))
                        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                    if not self._act(act, sock):
                        return
        finally:
            sock.close()

    def _wrapped(self, sock: socket.socket) -> socket.socket:
        wrapped = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            if sock in self._living:
                self._living.remove(sock)
            self._living.append(wrapped)
        try:
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped

    def _act(self, act: Act, sock: socket.socket) -> bool:
        """Carry an act out, and say whether the connection goes on."""
        if isinstance(act, bytes):
            sock.sendall(act)
            return True
        return bool(act(Flow(sock, self)))


# Acts


def answer(
    status: str = "200 OK", body: bytes | object = b"{}", *headers: str, length: int | None = None
) -> bytes:
    """An answer as it should be."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def never(connection: Flow) -> None:
    """No answer, ever."""
    connection.wait()


def reset(connection: Flow) -> None:
    """The connection is torn down."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def then_close(data: bytes = b"") -> Act:
    """Some bytes, and the end of the connection."""

    def act(connection: Flow) -> None:
        connection.send(data)

    return act


def dripping(at_once: bytes, drops: bytes, pause: float = 0.05) -> Act:
    """Some bytes at once, and then one after the other."""

    def act(connection: Flow) -> None:
        connection.send(at_once)
        for drop in drops:
            if connection.server.stopping.wait(pause):
                return
            connection.send(bytes([drop]))

    return act


def tunnel_to(port: int) -> Act:
    """What a proxy does for CONNECT, wherever the client wanted to go."""

    def act(connection: Flow) -> None:
        with socket.create_connection((HOST, port), PATIENCE) as there:
            connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _pump(connection.sock, there)

    return act


def _pump(here: socket.socket, there: socket.socket) -> None:
    while True:
        # What TLS has decrypted already is not seen by select.
        pending = [here] if isinstance(here, ssl.SSLSocket) and here.pending() else []
        readable = pending or select.select([here, there], [], [], PATIENCE)[0]
        if not readable:
            return
        for source in readable:
            data = source.recv(65536)
            if not data:
                return
            (there if source is here else here).sendall(data)


def _read_request(sock: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return b""
        request += byte
    return request


# The first message of TLS


def _peek_hello(sock: socket.socket) -> bytes:
    record = sock.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    length = int.from_bytes(record[3:5], "big")
    return sock.recv(5 + length, socket.MSG_PEEK | socket.MSG_WAITALL)[5:]


def described_hello(hello: bytes) -> dict[str, object]:
    """Take a ClientHello apart, without what is random in it."""
    rest = hello[4:]
    version, rest = rest[:2], rest[34:]
    _, rest = _vector(rest, 1)
    ciphers, rest = _vector(rest, 2)
    compressions, rest = _vector(rest, 1)
    extensions, _ = _vector(rest, 2)
    return {
        "version": version,
        "ciphers": ciphers,
        "compressions": compressions,
        "extensions": dict(_extensions(extensions)),
    }


KEY_SHARE, PADDING = 51, 21


def _extensions(data: bytes) -> Iterable[tuple[int, bytes | None]]:
    while data:
        kind = int.from_bytes(data[:2], "big")
        value, data = _vector(data[2:], 2)
        if kind != PADDING:
            yield kind, None if kind == KEY_SHARE else value


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:width], "big")
    return data[width : width + length], data[width + length :]
