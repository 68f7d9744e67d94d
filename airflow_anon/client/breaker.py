"""Keeps requests back while the API asks for that, or is unreachable."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_anon.core.answers import Answer, AnswerKind, kind_of
from airflow_anon.core.flow import NoResponse, Response

if TYPE_CHECKING:
    import asyncio

FAILURES_OF_AN_OUTAGE = 3
LONGEST_QUIET = 15.0


class CircuitBreaker:
    """
    Keeps the requests of all waits back while the API asks to be left alone, or is away.

    What goes wrong with one run alone keeps nobody back: it takes several to make an outage, and
    each of them counts once until there is a good answer.
    """

    def __init__(self) -> None:
        self.trouble: Response | NoResponse | None = None
        self.until = 0.0
        self.pauses = 0
        self.failed: set[str] = set()
        self.probe: asyncio.Future[None] | None = None

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be asked now."""
        return time.monotonic() < self.until

    def holds(self, target: str) -> bool:
        """Say whether *target* is kept back; once a pause is over, who has failed before asks for itself."""
        return self.trouble is not None and (self.is_paused or target not in self.failed)

    def heed(self, reply: Response | NoResponse) -> None:
        """Learn from an answer."""
        answer = Answer(kind_of(reply), reply)
        if answer.kind is AnswerKind.TRANSIENT:
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or self._makes_an_outage(answer):
                self._pause(answer)
        elif not self.is_paused:  # what comes in the middle of a pause was asked for before it
            self.trouble, self.pauses = None, 0
            self.failed.clear()

    def _makes_an_outage(self, answer: Answer) -> bool:
        if self.is_paused or answer.reply.target in self.failed:
            return False
        self.failed.add(answer.reply.target)
        return answer.retry_after > 0 or len(self.failed) >= FAILURES_OF_AN_OUTAGE

    def _pause(self, answer: Answer) -> None:
        if not self.is_paused:
            self.pauses = min(self.pauses + 1, 10)
        pause = answer.retry_after or min(2.0**self.pauses, LONGEST_QUIET)
        self.trouble, self.until = answer.reply, max(self.until, time.monotonic() + pause)

    def again(self, target: str) -> Response | NoResponse | None:
        """Return the answer that stands until the pause is over, as if *target* had been asked."""
        left = self.until - time.monotonic()
        if self.trouble is None or left <= 0:
            return None
        now = time.time()
        reply = replace(self.trouble, sent_at=now, at=now, target=target, is_remembered=True)
        if isinstance(reply, Response):
            reply = replace(reply, headers={"Retry-After": str(math.ceil(left))})
        return reply
