"""
All I/O: carries conversations out, with ``requests`` or with ``aiohttp``.

Both clients are built from the same ``Endpoint`` and cannot be told apart on the wire. Neither
follows redirects, reads ``.netrc``, keeps cookies or believes a body of more than 1 MiB, and both
hold one request to one total timeout.
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
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection
from urllib3.util.response import assert_header_parsing

from airflow_anon.alarm import asleep
from airflow_anon.exceptions import AnonConfigurationError
from airflow_anon.protocol import NoResponse, Renew, Reply, Request, Response, Sleep, Step
from airflow_anon.settings import OUR_HEADERS, proxy_url

if TYPE_CHECKING:
    from airflow_anon.memory import News
    from airflow_anon.protocol import Conversation
    from airflow_anon.settings import Endpoint

T = TypeVar("T")

LONGEST_BODY = 1024 * 1024
# Proxies and load balancers mostly close an idle connection after 60 s or more, so with the usual
# intervals of a wait it is used again; aiohttp's own 15 s would open a new one for each look.
KEEP_ALIVE = 310.0
# What http.client reads; aiohttp would give up at 8190 bytes.
LONGEST_LINE = 65536
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
        is_folder = bundle is not None and Path(bundle).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle, capath=bundle if is_folder else None
        )
        if bundle is None:
            context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    except OSError as error:
        _refuse(endpoint, source, error)
    context.set_alpn_protocols(["http/1.1"])  # as urllib3 does to every context
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
    proxy: str | None = requests.utils.select_proxy(
        url, requests.utils.get_environ_proxies(url, no_proxy=None)
    )
    if not proxy:
        return None
    try:
        return proxy_url(proxy)
    except ValueError as error:
        text = (
            f"Connection {endpoint.conn_id!r}: the proxy that the environment names {error}. "
            "Set 'proxy' in the connection's extra, or NO_PROXY for the host."
        )
        raise AnonConfigurationError(text, conn_id=endpoint.conn_id, field="proxy") from None


def proxy_headers(endpoint: Endpoint) -> dict[str, str]:
    """Return what a proxy is told; never the endpoint's credential, which is not for it to see."""
    names = {name.lower() for name in OUR_HEADERS}
    return {name: value for name, value in endpoint.headers.items() if name.lower() in names}


def _speaks_tls(endpoint: Endpoint, proxy: str | None) -> bool:
    return any(url.startswith("https:") for url in (endpoint.base_url, proxy or ""))


def _excerpt(endpoint: Endpoint, status: int, body: bytes) -> str:
    return "" if status == http.client.OK else endpoint.excerpt(body)


def explain(error: BaseException, *, has_proxy: bool = False) -> str:
    """
    Say in a few words what kind of trouble an exception is, by its class and its codes.

    Its own text is not used: it may hold addresses with credentials, and differs between libraries.

    :param has_proxy: whether a proxy was to be reached, and not the API itself.
    """
    seen: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            parts = (item.__cause__, item.__context__, *item.args)
            queue += [
                *parts,
                *(getattr(item, name, None) for name in ("reason", "os_error", "certificate_error")),
            ]
    for kind, words in TROUBLES:
        for item in seen:
            # aiohttp's TLS errors are ssl's in name only; the real one is inside.
            if isinstance(item, kind) and not isinstance(item, aiohttp.ClientSSLError):
                text: str | None = words(item) if callable(words) else words
                if text:
                    return f"proxy not reached ({text})" if has_proxy and kind in NOT_REACHED else text
    return type(error).__name__


def _tls_error(error: Any) -> str:
    if error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS"
    return f"TLS failed: {error.reason or type(error).__name__}"


def _os_error(error: Any) -> str | None:
    return os.strerror(error.errno) if error.errno else None


TROUBLES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Any], ...] = (
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), "connection lost"),
    (ssl.SSLCertVerificationError, lambda error: f"TLS certificate not accepted: {error.verify_message}"),
    (ssl.SSLError, _tls_error),
    (socket.gaierror, "host name not found"),
    (ConnectionRefusedError, "connection refused"),
    ((TimeoutError, asyncio.TimeoutError), "timed out"),
    (aiohttp.ClientHttpProxyError, "the proxy did not connect"),
    (
        (
            ConnectionAbortedError,
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
        (http.client.HTTPException, aiohttp.ClientResponseError, urllib3.exceptions.InvalidHeader),
        "the answer is not HTTP",
    ),
    (OSError, _os_error),
    (requests.exceptions.ProxyError, "the proxy did not connect"),
)
NOT_REACHED = (socket.gaierror, ConnectionRefusedError, OSError)
TOO_LONG = f"an answer of more than {LONGEST_BODY} bytes"


# requests


class _Clock:
    """When the request under way has to be over, by the monotonic clock, and whether it was sent."""

    ends_at = float("inf")
    is_sent = False

    def left(self) -> float:
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the request's time is over")
        return left


class _TimedReader(io.RawIOBase):
    """Reads a socket no longer than the clock allows, however slowly bytes drip in."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, clock: _Clock) -> None:
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


class _Adapter(requests.adapters.HTTPAdapter):
    """Lends requests our TLS settings and our clock."""

    def __init__(self, endpoint: Endpoint, proxy: str | None, clock: _Clock) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.ssl_context = ssl_context(endpoint) if _speaks_tls(endpoint, proxy) else None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self.ssl_context)
        self._time(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"ssl_context": self.ssl_context, "proxy_ssl_context": self.ssl_context}
        manager = super().proxy_manager_for(*args, **kwargs)
        self._time(manager)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Tell a proxy what aiohttp tells it, a login without a password and the reverse included."""
        headers = proxy_headers(self.endpoint)
        parts = urlsplit(proxy)
        if parts.username is not None or parts.password is not None:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode('latin1')).decode()}"
        return headers

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        # What requests would add here, its own CA bundle among it, is settled in the context.
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave the TLS settings to the context."""

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
                clock.is_sent = True
                self.reader = _TimedReader(self.fp.detach(), sock, clock)
                self.fp = io.BufferedReader(self.reader)

            def _read_status(self) -> tuple[str, int, str]:
                # http.client passes over 100 alone, aiohttp over all that come before an answer.
                version, status, reason = super()._read_status()  # type: ignore[misc]
                return version, 100 if 102 <= status < 200 else status, reason

            def begin(self) -> None:
                super().begin()
                if self.reader.is_at_end:
                    raise ConnectionResetError(errno.ECONNRESET, "cut off within the headers")
                _check(self.msg)

        def timed(pool: type[Any]) -> type[Any]:
            class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
                response_class = TimedResponse

                def _new_conn(self) -> socket.socket:
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


class Listener(Protocol):
    """Who hears of every answer to a request that was sent, and of its absence."""

    def heard(self, reply: Response | NoResponse) -> None:
        """Hear of an answer."""

    def pass_on(self) -> None:
        """Pass on what was heard: there may be no more of it."""


class Client:
    """
    Speaks to one endpoint with ``requests``, over one connection that it keeps alive.

    :param listener: hears of every answer.
    """

    def __init__(self, endpoint: Endpoint, listener: Listener | None = None) -> None:
        self.clock = _Clock()
        self.listener = listener
        self._open(endpoint)

    def _open(self, endpoint: Endpoint) -> None:
        try:
            self._open_session(endpoint)
        except AnonConfigurationError as error:
            raise error.with_traceback(None) from error.__cause__  # the variables may hold a proxy's password

    def _open_session(self, endpoint: Endpoint) -> None:
        proxy = proxy_for(endpoint)
        session = requests.Session()
        session.trust_env = False
        # Even for a redirect that is not followed, requests would read its body and its Location.
        session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]  # noqa: ARG005
        session.mount(f"{urlsplit(endpoint.base_url).scheme}://", _Adapter(endpoint, proxy, self.clock))
        # All or nothing: a credential must not go out without the proxy and the TLS settings that belong to it.
        self.endpoint, self.session = endpoint, session
        self.proxies = {"http": proxy, "https": proxy} if proxy else {}

    def renew(self, endpoint: Endpoint) -> bool:
        """
        Go on with another endpoint; say whether it is another.

        :raises AnonConfigurationError: it makes no sense, and the client is as it was.
        """
        if endpoint == self.endpoint:
            return False
        before = self.session
        self._open(endpoint)
        before.close()
        return True

    def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        reply = self._ask(request)
        if self.listener is not None:
            self.listener.heard(reply)
        return reply

    def _ask(self, request: Request) -> Response | NoResponse:
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        self.clock.ends_at = time.monotonic() + self.endpoint.timeout
        try:
            status, headers, body = self._get(url)
        except (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            reason = explain(error, has_proxy=bool(self.proxies))
            return NoResponse(reason, sent_at, time.time(), url, self.endpoint.conn_id)
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url, self.endpoint.conn_id)
        excerpt = _excerpt(self.endpoint, status, body)
        return Response(status, headers, body, sent_at, time.time(), url, self.endpoint.conn_id, excerpt)

    def _get(self, url: str) -> tuple[int, Any, bytes | None]:
        prepared = requests.Request("GET", url, headers=dict(self.endpoint.headers)).prepare()
        try:
            response = self._send(prepared)
        except requests.ConnectionError as error:
            # Asked once more, as aiohttp does: mostly it was an idle connection that the server closed.
            if not self.clock.is_sent or explain(error) != "connection lost":
                raise
            response = self._send(prepared)
        with response:
            return response.status_code, response.headers, self._body(response)

    def _send(self, prepared: requests.PreparedRequest) -> requests.Response:
        left = self.clock.left()
        self.clock.is_sent = False
        return self.session.send(
            prepared, stream=True, allow_redirects=False, timeout=(left, left), proxies=self.proxies
        )

    @staticmethod
    def _body(response: requests.Response) -> bytes | None:
        if (response.raw.length_remaining or 0) > LONGEST_BODY:
            return None
        body = b""
        # The last read, which finds nothing, is the one that notices a body cut short.
        while chunk := response.raw.read(LONGEST_BODY + 1 - len(body), decode_content=False):
            body += chunk
        return body if len(body) <= LONGEST_BODY else None

    def close(self) -> None:
        """Close the connection."""
        self.session.close()
        if self.listener is not None:
            self.listener.pass_on()


def converse(
    send: Callable[[Request], Response | NoResponse],
    conversation: Conversation[T],
    *,
    tell: Callable[[News], None],
    renew: Callable[[], bool],
) -> T:
    """
    Carry a conversation out and return its result.

    :param send: sends a request and waits for the answer.
    :param tell: takes each line for the log.
    :param renew: reads the connection again and says whether anything in it has changed.
    """
    reply: Reply = None
    while True:
        try:
            step = conversation.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = _carry_out(send, step, tell, renew)


def _carry_out(
    send: Callable[[Request], Response | NoResponse],
    step: Step,
    tell: Callable[[News], None],
    renew: Callable[[], bool],
) -> Reply:
    if isinstance(step, Request):
        return send(step)
    if isinstance(step, Renew):
        return renew()
    if isinstance(step, Sleep):
        time.sleep(step.seconds + random.uniform(0.0, step.spread))  # noqa: S311  spreads load
    else:
        for news in step.news:
            tell(news)
    return None


def unread(error: AnonConfigurationError, where: str) -> NoResponse:
    """
    Return what a connection that cannot be read there comes to: no answer.

    :raises AnonConfigurationError: it was read, and makes no sense.
    """
    if not error.is_unread:
        raise error
    now = time.time()
    return NoResponse(str(error).rstrip("."), now, now, where, error.conn_id)


# aiohttp


class Sender(Protocol):
    """What a conversation needs of an asynchronous client."""

    @property
    def endpoint(self) -> Endpoint | None:
        """What the connection said when it was last read."""

    async def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer."""

    async def renew(self) -> None:
        """Read the connection again."""


class AsyncClient:
    """Speaks to one endpoint with ``aiohttp``, over a pool of connections that it keeps alive."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    options: dict[str, Any]

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
        context = await asyncio.to_thread(ssl_context, endpoint) if _speaks_tls(endpoint, proxy) else True
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=endpoint.max_connections, ssl=context, keepalive_timeout=KEEP_ALIVE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        try:
            async with self.session.get(url, **self.options) as response:
                body = await self._body(response)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            reason = explain(error, has_proxy="proxy" in self.options)
            return NoResponse(reason, sent_at, time.time(), url, self.endpoint.conn_id)
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url, self.endpoint.conn_id)
        excerpt = _excerpt(self.endpoint, response.status, body)
        return Response(
            response.status, response.headers, body, sent_at, time.time(), url, self.endpoint.conn_id, excerpt
        )

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


async def aconverse(
    client: Sender,
    conversation: Conversation[T],
    *,
    tell: Callable[[News], None],
    patient: str | None = None,
) -> T:
    """
    Carry a conversation out as :func:`converse` does, without blocking the event loop.

    :param patient: where the connection is read, if one that cannot be read counts as an API that does not answer.
    """
    reply: Reply = None
    used: Endpoint | None = None
    while True:
        try:
            step = conversation.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = None
        if isinstance(step, Request):
            used = client.endpoint
            reply = await _asend(client, step, patient=patient)
            used = used or client.endpoint
        elif isinstance(step, Sleep):
            seconds = step.seconds + random.uniform(0.0, step.spread)  # noqa: S311  spreads load
            del step  # what is over is not kept through a sleep
            await asleep(seconds)
        elif isinstance(step, Renew):
            await client.renew()
            reply = client.endpoint is not used
        else:
            for news in step.news:
                tell(news)


async def _asend(client: Sender, request: Request, *, patient: str | None) -> Response | NoResponse:
    try:
        return await client.send(request)
    except AnonConfigurationError as error:
        if patient is None:
            raise
        return unread(error, patient)
