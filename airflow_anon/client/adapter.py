"""What requests and urllib3 are told to do otherwise, and what would go wrong without each of it."""

from __future__ import annotations

import errno
import http.client
import io
import socket
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests.adapters
import urllib3
import urllib3.connection
from urllib3.util.response import assert_header_parsing

from airflow_anon.client.network import (
    SHARE_OF_TIMEOUT,
    SOCKET_OPTIONS,
    proxy_headers,
    speaks_tls,
    ssl_context,
)

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint


OPTIONS = [*urllib3.connection.HTTPConnection.default_socket_options, *SOCKET_OPTIONS]


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
        self.is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(self.clock.left())
        count: int | None = self.raw.readinto(buffer)
        self.is_at_end = count == 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class Adapter(requests.adapters.HTTPAdapter):
    """Lends requests our TLS settings and our clock."""

    def __init__(self, endpoint: Endpoint, proxy: str | None, clock: Clock) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.ssl_context = ssl_context(endpoint) if speaks_tls(endpoint, proxy) else None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use our TLS context and keep-alive: otherwise requests would trust its own CA bundle alone."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self.ssl_context, socket_options=OPTIONS)
        self._time(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Use our TLS context for the proxy and through it: otherwise a company's own CA would be refused there."""
        kwargs |= {
            "ssl_context": self.ssl_context,
            "proxy_ssl_context": self.ssl_context,
            "socket_options": OPTIONS,
        }
        manager = super().proxy_manager_for(*args, **kwargs)
        self._time(manager)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Tell a proxy what aiohttp tells it: requests would drop a login without a password, and the reverse."""
        headers = proxy_headers(self.endpoint)
        parts = urlsplit(proxy)
        if parts.username is not None or parts.password is not None:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode('latin1')).decode()}"
        return headers

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """Leave out the TLS settings that requests adds: they would go before those of our context."""
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave the TLS settings to our context: requests would put its own CA bundle in their place."""

    def close(self) -> None:
        """Close the connections now; urllib3 would leave that to the collector of garbage."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  urllib3's container cannot be iterated over
                manager.pools[key].close()
        super().close()

    def _time(self, manager: Any) -> None:
        clock = self.clock

        class TimedResponse(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
                super().__init__(sock, *args, **kwargs)
                self.reader = _TimedReader(self.fp.detach(), sock, clock)
                self.fp = io.BufferedReader(self.reader)

            def _read_status(self) -> tuple[str, int, str]:
                # http.client passes over 100 alone, aiohttp over all that come before an answer.
                version, status, reason = super()._read_status()  # type: ignore[misc]
                return version, 100 if 102 <= status < 200 else status, reason

            def begin(self) -> None:
                super().begin()
                clock.is_answered()
                if self.reader.is_at_end:
                    raise ConnectionResetError(errno.ECONNRESET, "cut off within the headers")
                _check(self.msg)

        def timed(pool: type[Any]) -> type[Any]:
            class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
                response_class = TimedResponse

                def _new_conn(self) -> socket.socket:
                    clock.is_new()
                    # An address that stays silent must not use up the time of the others.
                    addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
                    self.timeout = clock.left() / len(addresses)
                    sock: socket.socket = super()._new_conn()
                    sock.settimeout(clock.left())
                    return sock

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        manager.pool_classes_by_scheme = {
            "http": timed(urllib3.HTTPConnectionPool),
            "https": timed(urllib3.HTTPSConnectionPool),
        }


def _check(headers: http.client.HTTPMessage) -> None:
    """Refuse headers that are none; urllib3 would go on, and put what it could not read into the log."""
    try:
        assert_header_parsing(headers)
    except urllib3.exceptions.HeaderParsingError:
        raise http.client.HTTPException("headers that are none") from None
