"""What requests and urllib3 are told to do otherwise, and what would go wrong without each of it."""

from __future__ import annotations

import socket
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests.adapters
import urllib3
import urllib3.connection

from airflow_anon.client.lookup import connect
from airflow_anon.client.network import (
    SOCKET_OPTIONS,
    proxy_headers,
    speaks_tls,
    ssl_context,
)
from airflow_anon.client.response import Clock, TimedResponse

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint


OPTIONS = [*urllib3.connection.HTTPConnection.default_socket_options, *SOCKET_OPTIONS]


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

        timed_response = type("Response", (TimedResponse,), {"clock": clock})

        def timed(pool: type[Any]) -> type[Any]:
            class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
                response_class = timed_response

                def _new_conn(self) -> socket.socket:
                    # urllib3 would look the name up for as long as that takes.
                    clock.is_new()
                    return connect(self._dns_host, self.port, self.socket_options or (), clock)

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        manager.pool_classes_by_scheme = {
            "http": timed(urllib3.HTTPConnectionPool),
            "https": timed(urllib3.HTTPSConnectionPool),
        }
