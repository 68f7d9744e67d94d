"""A listening socket on loopback that can be taken away and brought back on the same port."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from aiohttp import web

HOST = "127.0.0.1"


class Listener:
    """
    Where the simulator can be reached.

    :param port: 0 for any that is free; it stays the same once opened.
    """

    def __init__(self, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self.port = port
        self._ssl_context = ssl_context
        self._socket: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    async def open(self, web_server: web.Server) -> None:
        """Accept connections."""
        bound = self._socket or self._bind()
        self._socket = None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(web_server, sock=bound, ssl=self._ssl_context)

    def shut(self, web_server: web.Server) -> None:
        """Refuse connections and break the living ones, but keep the port for later."""
        self.close(web_server)
        # Bound and not listening: connections are refused, and nobody else is given the port.
        self._socket = self._bind()

    def close(self, web_server: web.Server) -> None:
        """Give everything up."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._server:
            self._server.close()
            self._server = None
        self.drop_connections(web_server)

    @staticmethod
    def drop_connections(web_server: web.Server) -> None:
        """Break the living connections, as a server does with those that are idle for too long."""
        for transport in [handler.transport for handler in web_server.connections if handler.transport]:
            transport.abort()

    def _bind(self) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((HOST, self.port))
        except OSError:
            bound.close()
            raise
        self.port = bound.getsockname()[1]
        return bound
