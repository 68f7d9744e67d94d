"""The client of a worker: carries a flow out with ``requests``, over one connection that it keeps alive."""

from __future__ import annotations

import http.client
import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from airflow_anon.client.adapter import Adapter
from airflow_anon.client.network import (
    LONGEST_BODY,
    RELOAD_AT_MOST_EVERY,
    TOO_LONG,
    IdleLimit,
    Troubles,
    decoded,
    excerpt_of,
    explain,
    is_good,
    proxy_for,
    surroundings,
)
from airflow_anon.client.response import Clock
from airflow_anon.core.errors import AnonConfigurationError
from airflow_anon.core.flow import NoResponse, ReloadConnection, Reply, Request, Response, Sleep, Step

if TYPE_CHECKING:
    from airflow_anon.client.endpoint import Endpoint
    from airflow_anon.client.network import Listener
    from airflow_anon.core.flow import Flow, LogLine

T = TypeVar("T")

TROUBLES = Troubles()
TROUBLE = (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException, ValueError)


class Client:
    """
    Speaks to one endpoint with ``requests``, over one connection that it keeps alive.

    :param listener: hears of every answer.
    """

    def __init__(self, endpoint: Endpoint, listener: Listener | None = None) -> None:
        self.clock = Clock()
        self.listener = listener
        self.idle_limit = IdleLimit()
        self.used_at = 0.0
        self.reloaded_at = -math.inf
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
        session.mount(f"{urlsplit(endpoint.base_url).scheme}://", Adapter(endpoint, proxy, self.clock))
        # All or nothing: a credential must not go out without the proxy and the TLS settings that belong to it.
        self.endpoint, self.session, self.surroundings = endpoint, session, surroundings(endpoint)
        self.proxies = {"http": proxy, "https": proxy} if proxy else {}

    def reload(self, read: Callable[[], Endpoint]) -> bool:
        """
        Go on with what the connection says now, unless it was read again just now; say whether anything has changed.

        :raises AnonConfigurationError: it makes no sense, and the client is as it was.
        """
        now = time.monotonic()
        if now - self.reloaded_at < RELOAD_AT_MOST_EVERY:
            return False
        self.reloaded_at, is_same = now, False
        try:
            endpoint = read()
            is_same = endpoint == self.endpoint
            if is_same and surroundings(endpoint) == self.surroundings:
                return False
            before = self.session
            self._open(endpoint)
        except AnonConfigurationError as error:
            if error.is_unread or is_same:  # a file that is just being written
                return False
            raise
        before.close()
        return True

    def send(self, request: Request) -> Response | NoResponse:
        """Send a request and wait for the answer; trouble comes back as a :class:`NoResponse`."""
        reply = self._ask(request)
        if self.listener is not None:
            self.listener.observe(reply)
        return reply

    def _ask(self, request: Request) -> Response | NoResponse:
        url = self.endpoint.url(request.path)
        sent_at = time.time()
        try:
            response, body = self._get(request, url)
        except TROUBLE as error:
            reason = explain(error, TROUBLES, has_proxy=bool(self.proxies))
            return NoResponse(reason, sent_at, time.time(), url, self.endpoint.conn_id)
        if body is None:
            return NoResponse(TOO_LONG, sent_at, time.time(), url, self.endpoint.conn_id)
        excerpt = excerpt_of(self.endpoint, response.status_code, body)
        return Response(
            response.status_code,
            response.headers,
            body,
            sent_at,
            time.time(),
            url,
            self.endpoint.conn_id,
            excerpt,
        )

    def _get(self, request: Request, url: str) -> tuple[requests.Response, bytes | None]:
        """Send a request, and once more over a new connection if one that was used before gave no answer."""
        prepared = requests.Request("GET", url, headers=dict(self.endpoint.headers)).prepare()
        ends_at = time.monotonic() + self.endpoint.timeout
        idle = time.monotonic() - self.used_at
        if request.fresh or not self.idle_limit.allows(idle):
            self.session.close()
        try:
            return self._try(request, prepared, self.endpoint.timeout)
        except TROUBLE:
            left = ends_at - time.monotonic()
            if not self.clock.is_reused or left <= 0:
                raise
        answer = self._try(request, prepared, left)
        self.idle_limit.lost(idle)
        return answer

    def _try(
        self, request: Request, prepared: requests.PreparedRequest, seconds: float
    ) -> tuple[requests.Response, bytes | None]:
        self.clock.begin(seconds)
        with self.session.send(
            prepared, stream=True, allow_redirects=False, timeout=(seconds, seconds), proxies=self.proxies
        ) as response:
            body = self._body(response)
        if body is not None:
            body = decoded(body, response.headers)
        if body is None or not is_good(request, response.status_code, body):
            self.session.close()
        self.used_at = time.monotonic()
        return response, body

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
            self.listener.flush()


def drive(
    send: Callable[[Request], Response | NoResponse],
    flow: Flow[T],
    *,
    log_line: Callable[[LogLine], None],
    reload: Callable[[], bool],
) -> T:
    """
    Carry a flow out and return its result.

    :param send: sends a request and waits for the answer.
    :param log_line: takes each line for the log.
    :param reload: reads the connection again and says whether anything in it has changed.
    """
    reply: Reply = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = _carry_out(send, step, log_line, reload)


def _carry_out(
    send: Callable[[Request], Response | NoResponse],
    step: Step,
    log_line: Callable[[LogLine], None],
    reload: Callable[[], bool],
) -> Reply:
    if isinstance(step, Request):
        return send(step)
    if isinstance(step, ReloadConnection):
        return reload()
    if isinstance(step, Sleep):
        time.sleep(step.seconds + random.uniform(0.0, step.spread))  # noqa: S311  spreads load
    else:
        for line in step.lines:
            log_line(line)
    return None
