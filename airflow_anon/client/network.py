"""What both clients have in common: TLS settings, the proxy, limits, and trouble in words."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import requests.exceptions
import requests.utils
import urllib3.exceptions

from airflow_anon.client.endpoint import OUR_HEADERS, proxy_url
from airflow_anon.core.errors import AnonConfigurationError
from airflow_anon.core.flow import NoResponse, Request, Response

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint

LONGEST_BODY = 1024 * 1024
# How often the connection is read again while contact is lost.
RELOAD_AT_MOST_EVERY = 30.0
# Proxies and load balancers mostly close an idle connection after 60 s or more, so with the usual
# intervals of a wait it is used again; aiohttp's own 15 s would open a new one for each poll.
KEEP_ALIVE = 310.0
# A connection that was used before may be dead without a sign; the rest of the time is for a new one.
SHARE_OF_TIMEOUT = 0.5
SHORTEST_IDLE_LIMIT = 0.5
IDLE_LIMIT_HOLDS = 600.0
# Gateways forget a connection that is idle for a minute or more, and tell nobody.
SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # What the others call idle is called so on macOS.
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", 0)), 45),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
# What http.client reads; aiohttp would give up at 8190 bytes.
LONGEST_LINE = 65536
MOST_HEADERS = 99
# How zlib is told what to expect; deflate comes with zlib's header, as it should, or without.
WINDOWS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ssl_context(endpoint: Endpoint) -> ssl.SSLContext:
    """
    Build the TLS settings of an endpoint; this reads files.

    :raises AnonConfigurationError: a CA bundle or a client certificate cannot be read.
    """
    context = _trusting(endpoint)
    if not endpoint.verify_strict:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
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


def _trusting(endpoint: Endpoint) -> ssl.SSLContext:
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
    return context


def surroundings(endpoint: Endpoint) -> tuple[Any, ...]:
    """Return what a client is built from besides its endpoint, to be compared: the proxy, and the state of files."""
    names = [endpoint.verify, endpoint.client_cert, endpoint.client_key, *map(os.environ.get, CA_VARIABLES)]
    return proxy_for(endpoint), *(_state_of(name) for name in names if isinstance(name, str))


def _state_of(name: str) -> tuple[int, ...]:
    try:
        state = Path(name).stat()
    except OSError:
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino


def _refuse(endpoint: Endpoint, field: str, error: OSError) -> None:
    text = f"Connection {endpoint.conn_id!r}: {field} cannot be used ({explain(error, Troubles())})."
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
            f"Connection {endpoint.conn_id!r}: the environment's proxy {error}. "
            "Set 'proxy' in the connection's extra, or NO_PROXY for the host."
        )
        raise AnonConfigurationError(text, conn_id=endpoint.conn_id, field="proxy") from None


def proxy_headers(endpoint: Endpoint) -> dict[str, str]:
    """Return what a proxy is told; never the endpoint's credential, which is not for it to see."""
    names = {name.lower() for name in OUR_HEADERS}
    return {name: value for name, value in endpoint.headers.items() if name.lower() in names}


def speaks_tls(endpoint: Endpoint, proxy: str | None) -> bool:
    """Say whether the API, or the proxy on the way to it, is spoken to in TLS."""
    return any(url.startswith("https:") for url in (endpoint.base_url, proxy or ""))


def excerpt_of(endpoint: Endpoint, status: int, body: bytes) -> str:
    """Return the beginning of an error's body, fit to be shown."""
    return "" if status == http.client.OK else endpoint.excerpt(body)


def decoded(body: bytes, headers: Mapping[str, str]) -> bytes | None:
    """
    Unpack a body that came packed although that was not asked for; what cannot be unpacked stays as it is.

    :return: None if there is too much in it.
    """
    if not (codings := headers.get("Content-Encoding")):
        return body
    coding = codings.partition(",")[0].strip().lower()
    for window in WINDOWS.get(coding, ()):
        stream = zlib.decompressobj(window)
        try:
            unpacked = stream.decompress(body, LONGEST_BODY + 1)
        except zlib.error:
            continue
        if len(unpacked) > LONGEST_BODY:
            return None
        if stream.eof and not stream.unused_data:
            return unpacked
    return body


def is_good(request: Request, status: int, body: bytes) -> bool:
    """Say whether an answer names what was asked for, or is a plain *not now*; any other may be its connection's fault."""
    if status == http.client.TOO_MANY_REQUESTS:
        return True
    return 200 <= status < 300 and request.about.lower().encode() in body.lower()


class IdleLimit:
    """
    How long a connection may have been idle and still be used: not quite as long as one that was lost.

    Something on the way may forget connections. Without a limit, each request would be lost first.
    """

    def __init__(self) -> None:
        self.seconds = KEEP_ALIVE
        self.ends_at = 0.0

    def allows(self, idle: float) -> bool:
        """Say whether a connection that was idle for so many seconds may be used."""
        return idle < self.seconds or (idle < KEEP_ALIVE and time.monotonic() >= self.ends_at)

    def lost(self, idle: float) -> None:
        """Learn that a connection was lost that had been idle for so many seconds."""
        self.seconds = max(idle * 0.9, SHORTEST_IDLE_LIMIT)
        self.ends_at = time.monotonic() + IDLE_LIMIT_HOLDS


Kinds = tuple[type[BaseException], ...]


class Troubles:
    """
    What kinds of trouble there are, the most telling first, each with its words.

    :param lost: an HTTP library's own errors for a connection that was lost; *not_http* and *proxy* alike.
    :param hollow: its errors that only hold the one that tells.
    """

    def __init__(
        self, *, lost: Kinds = (), not_http: Kinds = (), proxy: Kinds = (), hollow: Kinds = ()
    ) -> None:
        self.hollow = hollow
        self.rows: tuple[tuple[Kinds, Any], ...] = (
            ((ssl.SSLEOFError, ssl.SSLZeroReturnError), "connection lost"),
            ((ssl.SSLCertVerificationError,), _certificate_error),
            ((ssl.SSLError,), _tls_error),
            *((kinds, words) for kinds, words in NOT_REACHED.items() if words),
            ((TimeoutError, asyncio.TimeoutError), "timed out"),
            (proxy, "the proxy did not connect"),
            ((*LOST, *lost), "connection lost"),
            ((*NOT_HTTP, *not_http), "the answer is not HTTP"),
            ((OSError,), _os_error),
            ((requests.exceptions.ProxyError,), "the proxy did not connect"),
        )


def explain(error: BaseException, troubles: Troubles, *, has_proxy: bool = False) -> str:
    """
    Say in a few words what kind of trouble an exception is, by its class and its codes.

    Its own text is not used: it may hold addresses with credentials, and differs between libraries.

    :param has_proxy: whether a proxy was to be reached, and not the API itself.
    """
    seen = [item for item in _chain(error) if not isinstance(item, troubles.hollow)]
    for kinds, words in troubles.rows:
        for item in seen:
            if isinstance(item, kinds):
                text: str | None = words(item) if callable(words) else words
                if text:
                    return f"proxy not reached ({text})" if has_proxy and kinds in NOT_REACHED else text
    return type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all that it holds or came from."""
    seen: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            inner = (getattr(item, name, None) for name in ("reason", "os_error", "certificate_error"))
            queue += [item.__cause__, item.__context__, *item.args, *inner]
    return seen


def _certificate_error(error: Any) -> str:
    hint = " (verify_strict: false takes it)" if "key identifier" in error.verify_message.lower() else ""
    return f"TLS certificate not accepted: {error.verify_message}{hint}"


def _tls_error(error: Any) -> str:
    if error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS: write http:// in host if that is meant"
    return f"TLS failed: {error.reason or type(error).__name__}"


def _os_error(error: Any) -> str | None:
    return os.strerror(error.errno) if error.errno else None


LOST = (
    ConnectionAbortedError,
    ConnectionResetError,
    BrokenPipeError,
    http.client.RemoteDisconnected,
    http.client.IncompleteRead,
    urllib3.exceptions.IncompleteRead,
)
NOT_HTTP = (http.client.HTTPException, urllib3.exceptions.InvalidHeader)
# That the other end was not reached; an OSError has words of its own.
NOT_REACHED: dict[Kinds, str] = {
    (socket.gaierror,): "host name not found",
    (ConnectionRefusedError,): "connection refused",
    (OSError,): "",
}
TOO_LONG = f"an answer of more than {LONGEST_BODY} bytes"


class Listener(Protocol):
    """Who hears of every answer to a request that was sent, and of its absence."""

    def observe(self, reply: Response | NoResponse) -> None:
        """Hear of an answer."""

    def flush(self) -> None:
        """Pass on what was heard: there may be no more of it."""


def unread(error: AnonConfigurationError, where: str) -> NoResponse:
    """
    Return what a connection that cannot be read there comes to: no answer.

    :raises AnonConfigurationError: it was read, and makes no sense.
    """
    if not error.is_unread:
        raise error
    now = time.time()
    return NoResponse(str(error).rstrip("."), now, now, where, error.conn_id)
