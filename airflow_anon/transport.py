"""
All I/O: carries conversations out, with ``requests`` or with ``aiohttp``.

Both clients are built from the same ``Endpoint`` and cannot be told apart on the wire. Neither
follows redirects, reads ``.netrc``, keeps cookies or believes a body of more than 1 MiB, and both
hold one request to one total timeout. This module knows nothing of Anon.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import io
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection

from airflow_anon.exceptions import AnonConfigurationError
from airflow_anon.protocol import NoResponse, Renew, Reply, Request, Response, Sleep, Tell

if TYPE_CHECKING:
    from airflow_anon.memory import News
    from airflow_anon.protocol import Conversation
    from airflow_anon.settings import Endpoint

T = TypeVar("T")

LONGEST_BODY = 1024 * 1024
# Proxies and load balancers mostly close an idle connection after 60 s or more, so with the usual
# intervals of a wait it is used again; aiohttp's own 15 s would open a new one for each look.
KEEP_ALIVE = 310.0
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


# What both clients have in common.


def ssl_context(endpoint: Endpoint) -> ssl.SSLContext:
    """
    Build the TLS settings of an endpoint; this reads files.

    :raises AnonConfigurationError: a CA bundle or a client certificate cannot be read.
    """
    bundle = endpoint.verify if isinstance(endpoint.verify, str) else None
    source = "verify"
    if endpoint.verify is True:
        source = next((name for name in CA_VARIABLES if os.environ.get(name)), "verify")
        bundle = os.environ.get(source)
    try:
        is_folder = bundle is not None and os.path.isdir(bundle)
        context = ssl.create_default_context(**{"capath" if is_folder else "cafile": bundle})
        if bundle is None:
            context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    except OSError as error:
        _refuse(endpoint, source, error)
    if endpoint.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.client_cert:
        try:
            context.load_cert_chain(endpoint.client_cert, endpoint.client_key, password=lambda: b"")
        except OSError as error:
            _refuse(endpoint, "client_cert", error)
    return context


def _refuse(endpoint: Endpoint, field: str, error: OSError) -> None:
    text = f"Connection {endpoint.conn_id!r}: {field} cannot be used ({explain(error)})."
    raise AnonConfigurationError(text, conn_id=endpoint.conn_id, field=field) from error


def proxy_for(endpoint: Endpoint) -> str | None:
    """
    Choose the proxy for an endpoint: its own, or the one that the environment names for its host.

    :raises AnonConfigurationError: the environment names a kind of proxy that is not supported.
    """
    if endpoint.proxy:
        return endpoint.proxy
    url = endpoint.base_url
    proxy: str | None = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url, no_proxy=None))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in {"http", "https"}:
        text = (
            f"Connection {endpoint.conn_id!r}: the environment names a proxy that is neither http:// nor "
            "https://. Set 'proxy' in the connection's extra, or NO_PROXY for the host."
        )
        raise AnonConfigurationError(text, conn_id=endpoint.conn_id, field="proxy")
    return proxy


def explain(error: BaseException) -> str:
    """
    Say in a few words what kind of trouble an exception is, by its class and its codes.

    Its own text is not used: it may hold addresses with credentials, and differs between libraries.
    """
    seen: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            parts = (item.__cause__, item.__context__, *item.args)
            queue += [*parts, *(getattr(item, name, None) for name in ("reason", "os_error", "certificate_error"))]
    for kind, words in TROUBLES:
        for item in seen:
            if isinstance(item, kind):
                return words(item) if callable(words) else words
    return type(error).__name__


def _os_error(error: Any) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


TROUBLES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Any], ...] = (
    (ssl.SSLCertVerificationError, lambda error: f"TLS certificate not accepted: {error.verify_message}"),
    (ssl.SSLError, lambda error: f"TLS failed: {error.reason or type(error).__name__}"),
    (socket.gaierror, "host name not found"),
    (ConnectionRefusedError, "connection refused"),
    (
        (TimeoutError, asyncio.TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError),
        "timed out",
    ),
    (
        (aiohttp.ClientHttpProxyError, requests.exceptions.ProxyError),
        "the proxy did not connect",
    ),
    (
        (
            ConnectionResetError,
            BrokenPipeError,
            http.client.RemoteDisconnected,
            http.client.IncompleteRead,
            aiohttp.ServerDisconnectedError,
            aiohttp.ClientPayloadError,
            urllib3.exceptions.IncompleteRead,
        ),
        "connection lost",
    ),
    (
        (http.client.HTTPException, aiohttp.ClientResponseError, urllib3.exceptions.HTTPError),
        "the answer is not HTTP",
    ),
    (OSError, _os_error),
)
TOO_LONG = f"an answer of more than {LONGEST_BODY} bytes"


# requests


class _Clock:
    """When the request under way has to be over, by the monotonic clock."""

    ends_at = float("inf")

    def left(self) -> float:
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the request's time is over")
        return left


class _TimedReader(io.RawIOBase):
    """Reads a socket no longer than the clock allows, however slowly bytes drip in."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, clock: _Clock) -> None:
        self.raw, self.sock, self.clock = raw, sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(self.clock.left())
        return self.raw.readinto(buffer)  # type: ignore[attr-defined, no-any-return]

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Lends requests our TLS settings and our clock."""

    def __init__(self, endpoint: Endpoint, clock: _Clock) -> None:
        self.clock = clock
        self.ssl_context = ssl_context(endpoint) if endpoint.base_url.startswith("https:") else None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self.ssl_context)
        self._time(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs, ssl_context=self.ssl_context)
        self._time(manager)
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        # What requests would add here, its own CA bundle among it, is settled in the context.
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave the TLS settings to the context."""

    def _time(self, manager: Any) -> None:
        clock = self.clock

        class TimedResponse(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
                super().__init__(sock, *args, **kwargs)
                self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, clock))

        def timed(pool: type[Any]) -> type[Any]:
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": TimedResponse})
            return type(pool.__name__, (pool,), {"ConnectionCls": connection})

        manager.pool_classes_by_scheme = {
            "http": timed(urllib3.HTTPConnectionPool),
            "https": timed(urllib3.HTTPSConnectionPool),
        }


class Client:
    """Speaks to one endpoint with ``requests``, over one connection that it keeps alive."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.clock = _Clock()
        self._open(endpoint)

    def _open(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount(f"{urlsplit(endpoint.base_url).scheme}://", _Adapter(endpoint, self.clock))
        proxy = proxy_for(endpoint)
        self.proxies = {"http": proxy, "https": proxy} if proxy else {}
        self.is_warm = False

    def renew(self, endpoint: Endpoint) -> bool:
        """Go on with another endpoint; say whether it is another."""
        if endpoint == self.endpoint:
            return False
        self.close()
        self._open(endpoint)
        return True

    def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        self.clock.ends_at = time.monotonic() + self.endpoint.timeout
        try:
            status, headers, body = self._get(url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, http.client.HTTPException) as error:
            self.is_warm = False
            return NoResponse(explain(error), sent_at, time.time(), url)
        self.is_warm = True
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url)
        return Response(status, headers, body, sent_at, time.time(), url)

    def _get(self, url: str) -> tuple[int, Any, bytes | None]:
        prepared = requests.Request("GET", url, headers=dict(self.endpoint.headers)).prepare()
        try:
            response = self._send(prepared)
        except requests.ConnectionError as error:
            # An idle connection that the server has closed meanwhile: a new one is opened, once.
            if not self.is_warm or explain(error) != "connection lost":
                raise
            response = self._send(prepared)
        with response:
            return response.status_code, response.headers, self._body(response)

    def _send(self, prepared: requests.PreparedRequest) -> requests.Response:
        left = self.clock.left()
        return self.session.send(
            prepared, stream=True, allow_redirects=False, timeout=(left, left), proxies=self.proxies
        )

    @staticmethod
    def _body(response: requests.Response) -> bytes | None:
        if (response.raw.length_remaining or 0) > LONGEST_BODY:
            return None
        body = response.raw.read(LONGEST_BODY + 1, decode_content=False)
        return body if len(body) <= LONGEST_BODY else None

    def close(self) -> None:
        """Close the connection."""
        self.session.close()


def converse(
    client: Client,
    conversation: Conversation[T],
    *,
    tell: Callable[[News], None],
    renew: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """
    Carry a conversation out and return its result.

    :param tell: takes each line for the log.
    :param renew: reads the connection again and says whether anything in it has changed.
    """
    reply: Reply = None
    while True:
        try:
            step = conversation.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = None
        if isinstance(step, Request):
            reply = client.send(step)
        elif isinstance(step, Sleep):
            sleep(step.seconds + random.uniform(0.0, step.spread))  # noqa: S311  spreads load, hides nothing
        elif isinstance(step, Renew):
            reply = renew()
        elif isinstance(step, Tell):
            for news in step.news:
                tell(news)


# aiohttp


class AsyncClient:
    """Speaks to one endpoint with ``aiohttp``, over a pool of connections that it keeps alive."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    proxy: str | None

    @classmethod
    async def open(cls, endpoint: Endpoint) -> AsyncClient:
        """Open a client on the running loop; files are read off the loop."""
        client = cls()
        await client._open(endpoint)
        return client

    async def _open(self, endpoint: Endpoint) -> None:
        context = await asyncio.to_thread(ssl_context, endpoint) if endpoint.base_url.startswith("https:") else True
        self.endpoint = endpoint
        self.proxy = proxy_for(endpoint)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=endpoint.max_connections, ssl=context, keepalive_timeout=KEEP_ALIVE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=endpoint.headers,
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            auto_decompress=False,
            trust_env=False,
        )

    async def renew(self, endpoint: Endpoint) -> bool:
        """Go on with another endpoint; say whether it is another."""
        if endpoint == self.endpoint:
            return False
        await self.close()
        await self._open(endpoint)
        return True

    async def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        try:
            async with self.session.get(url, allow_redirects=False, proxy=self.proxy) as response:
                body = await self._body(response)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            return NoResponse(explain(error), sent_at, time.time(), url)
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url)
        return Response(response.status, response.headers, body, sent_at, time.time(), url)

    @staticmethod
    async def _body(response: aiohttp.ClientResponse) -> bytes | None:
        if (response.content_length or 0) > LONGEST_BODY:
            response.close()
            return None
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


async def aconverse(
    client: AsyncClient,
    conversation: Conversation[T],
    *,
    tell: Callable[[News], None],
    renew: Callable[[], Awaitable[bool]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Carry a conversation out as :func:`converse` does, without blocking the event loop."""
    reply: Reply = None
    while True:
        try:
            step = conversation.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = None
        if isinstance(step, Request):
            reply = await client.send(step)
        elif isinstance(step, Sleep):
            await sleep(step.seconds + random.uniform(0.0, step.spread))  # noqa: S311
        elif isinstance(step, Renew):
            reply = await renew()
        elif isinstance(step, Tell):
            for news in step.news:
                tell(news)
