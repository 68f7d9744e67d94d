"""The client of a triggerer: carries a flow out with ``aiohttp``, over a pool of connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import aiohttp

from airflow_anon.client.connector import ATTEMPT, Attempt, Connector
from airflow_anon.client.network import (
    LONGEST_BODY,
    LONGEST_LINE,
    MOST_HEADERS,
    TOO_LONG,
    Troubles,
    decoded,
    excerpt_of,
    explain,
    is_good,
    proxy_for,
    proxy_headers,
    speaks_tls,
    ssl_context,
    surroundings,
    unread,
)
from airflow_anon.client.timer import coalesced_sleep
from airflow_anon.core.errors import AnonConfigurationError
from airflow_anon.core.flow import NoResponse, ReloadConnection, Reply, Request, Response, Sleep

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint
    from airflow_anon.core.flow import Flow, LogLine

T = TypeVar("T")

TROUBLES = Troubles(
    lost=(aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError),
    not_http=(aiohttp.ClientResponseError,),
    proxy=(aiohttp.ClientHttpProxyError,),
    # ssl's in name only; the real one is inside.
    hollow=(aiohttp.ClientSSLError,),
)


TROUBLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError)


class Sender(Protocol):
    """
    What a flow needs of an asynchronous client.

    :param place: where the connection is read, for a message.
    """

    place: str

    @property
    def endpoint(self) -> Endpoint | None:
        """What the connection said when it was last read."""

    async def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer."""

    async def reload(self) -> None:
        """Read the connection again."""


class AsyncClient:
    """Speaks to one endpoint with ``aiohttp``, over a pool of connections that it keeps alive."""

    endpoint: Endpoint
    connector: Connector
    session: aiohttp.ClientSession
    timeout: aiohttp.ClientTimeout
    options: dict[str, Any]
    surroundings: tuple[Any, ...]
    under_way: int = 0

    @classmethod
    async def open(cls, endpoint: Endpoint) -> AsyncClient:
        """Open a client on the running loop; files are read off the loop."""
        client = cls()
        try:
            await client._open(endpoint)
        except AnonConfigurationError as error:
            raise error.with_traceback(None) from error.__cause__
        return client

    async def _open(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        proxy = proxy_for(endpoint)
        # Headers of the session would go to the proxy too, the credential among them.
        self.options = {"headers": endpoint.headers, "allow_redirects": False}
        if proxy:
            self.options |= {"proxy": proxy, "proxy_headers": proxy_headers(endpoint)}
        context = await asyncio.to_thread(ssl_context, endpoint) if speaks_tls(endpoint, proxy) else True
        self.surroundings = await asyncio.to_thread(surroundings, endpoint)
        self.timeout = aiohttp.ClientTimeout(total=endpoint.timeout)
        self.connector = Connector(timeout=endpoint.timeout, limit=endpoint.max_connections, ssl=context)
        self.session = aiohttp.ClientSession(
            connector=self.connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
            auto_decompress=False,
            trust_env=False,
        )
        # It would send each lost request again, on connections old and new alike.
        self.session._retry_connection = False  # noqa: SLF001  there is no other way

    async def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        try:
            response, body = await self._get(request, url)
        except TROUBLE as error:
            reason = explain(error, TROUBLES, has_proxy="proxy" in self.options)
            return NoResponse(reason, sent_at, time.time(), url, self.endpoint.conn_id)
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url, self.endpoint.conn_id)
        excerpt = excerpt_of(self.endpoint, response.status, body)
        return Response(
            response.status, response.headers, body, sent_at, time.time(), url, self.endpoint.conn_id, excerpt
        )

    async def _get(self, request: Request, url: str) -> tuple[aiohttp.ClientResponse, bytes | None]:
        """Send a request, and once more over a new connection if one that was used before gave no answer."""
        ends_at = time.monotonic() + self.endpoint.timeout
        attempt = Attempt(is_fresh=request.fresh)
        try:
            return await self._try(request, url, attempt, self.timeout)
        except TROUBLE:
            left = ends_at - time.monotonic()
            if attempt.idle is None or left <= 0 or self.session.closed:
                raise
        again = Attempt(is_fresh=True)
        answer = await self._try(request, url, again, aiohttp.ClientTimeout(total=left))
        self.connector.idle_limit.lost(attempt.idle)
        return answer

    async def _try(
        self, request: Request, url: str, attempt: Attempt, timeout: aiohttp.ClientTimeout
    ) -> tuple[aiohttp.ClientResponse, bytes | None]:
        token, is_kept = ATTEMPT.set(attempt), False
        try:
            async with self.session.get(url, timeout=timeout, **self.options) as response:
                self.connector.is_answered(attempt)
                self._check(response)
                body = await self._body(response)
            if body is not None:
                body = decoded(body, response.headers)
            is_kept = body is not None and is_good(request, response.status, body)
        finally:
            ATTEMPT.reset(token)
            self.connector.end(attempt, is_kept=is_kept)
        return response, body

    @staticmethod
    def _check(response: aiohttp.ClientResponse) -> None:
        """Refuse what http.client refuses."""
        if (
            response.status < 200  # none asked for another protocol
            or len(response.raw_headers) > MOST_HEADERS
            or "," in response.headers.get("Transfer-Encoding", "")
        ):
            raise aiohttp.ClientResponseError(response.request_info, ())

    @staticmethod
    async def _body(response: aiohttp.ClientResponse) -> bytes | None:
        if (response.content_length or 0) > LONGEST_BODY:
            response.close()
            return None
        if response.content_length is not None:
            return await response.read()
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > LONGEST_BODY:
                response.close()
                return None
        return b"".join(chunks)

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()


async def adrive(
    client: Sender,
    flow: Flow[T],
    *,
    log_line: Callable[[LogLine], None],
    retry_unreadable_connection: bool = False,
) -> T:
    """
    Carry a flow out as :func:`~airflow_anon.client.requests_client.drive` does, without blocking the event loop.

    :param retry_unreadable_connection: whether a connection that cannot be read counts as an API that does not answer.
    """
    reply: Reply = None
    used: Endpoint | None = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = None
        if isinstance(step, Request):
            used = client.endpoint
            reply = await _asend(client, step, retry_unreadable_connection=retry_unreadable_connection)
            used = used or client.endpoint
        elif isinstance(step, Sleep):
            seconds = step.seconds + random.uniform(0.0, step.spread)  # noqa: S311  spreads load
            del step  # what is over is not kept through a sleep
            await coalesced_sleep(seconds)
        elif isinstance(step, ReloadConnection):
            await client.reload()
            reply = client.endpoint is not used
        else:
            for line in step.lines:
                log_line(line)


async def _asend(
    client: Sender, request: Request, *, retry_unreadable_connection: bool
) -> Response | NoResponse:
    try:
        return await client.send(request)
    except AnonConfigurationError as error:
        if not retry_unreadable_connection:
            raise
        return unread(error, client.place)
