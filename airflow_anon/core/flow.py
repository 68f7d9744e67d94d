"""
What a flow is: a generator that says what it wants done, and is sent the reply.

A *flow* yields the *step* it wants done, is sent the *reply*, and returns its result. The clients carry
flows out, with ``requests`` or with ``aiohttp``. Time comes in with each reply, in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class LogLine(NamedTuple):
    """One line for the log; *level* is ``info`` or ``warning``."""

    level: str
    text: str


# Steps: what a flow wants done.


@dataclass(frozen=True, slots=True)
class Request:
    """
    Ask the API (``GET``) for *path*; answered with a :class:`Response` or a :class:`NoResponse`.

    :param about: what a good answer names. The connection of any other is closed: it may be to blame.
    :param fresh: whether it goes over a new connection.
    :param own: whether it is sent though the API asked another wait to leave it alone.
    """

    path: str
    about: str = ""
    fresh: bool = False
    own: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Sleep *seconds*, and a random part of *spread* more; answered with None."""

    seconds: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class ReloadConnection:
    """Read the connection again; answered with whether anything in it has changed."""


@dataclass(frozen=True, slots=True)
class Log:
    """Write lines to the log; answered with None."""

    lines: tuple[LogLine, ...]


# Replies: what comes back for a request. Each says when it was sent and when the answer was there.


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer of the API.

    :param headers: these ignore case where a client made them.
    :param target: the URL that was asked for, and *conn_id* the connection.
    :param excerpt: the beginning of an error's body, fit to be shown. All else of an answer is not:
        it may repeat our secrets.
    :param is_remembered: whether it is what the API answered to another wait, and was not asked again since.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: float
    at: float
    target: str
    conn_id: str = ""
    excerpt: str = ""
    is_remembered: bool = False


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No usable answer, for *reason*: a class of trouble in words, without any secret."""

    reason: str
    sent_at: float
    at: float
    target: str
    conn_id: str = ""
    is_remembered: bool = False


Step = Request | Sleep | ReloadConnection | Log
Reply = Response | NoResponse | bool | None
Flow = Generator[Step, Reply, T]
