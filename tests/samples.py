"""What the tests of the core share: the JSON of a run, replies, and a clock that moves without waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

from airflow_anon.core.flow import (
    Flow,
    Log,
    LogLine,
    NoResponse,
    ReloadConnection,
    Reply,
    Request,
    Response,
    Sleep,
    Step,
)
from airflow_anon.exceptions import AnonError

RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
WORKFLOW_ID = "11111111-2222-4333-8444-555555555555"
JOB_RUN_ID = "66666666-7777-4888-9999-aaaaaaaaaaaa"
USER_ID = "bbbbbbbb-cccc-4ddd-8eee-ffffffffffff"
TARGET = f"https://worker.anon.com/api/v2/workflow-runs/{RUN_ID}"
CREATED_AT, UPDATED_AT, COMPLETED_AT = "2023-11-14T22:00:00Z", "2023-11-14T22:10:00Z", "2023-11-14T22:11:00Z"
NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z, by our clock
MOST_STEPS = 100_000

Answer = int | Mapping[str, Any] | Response | NoResponse


def payload(status: str = "IN_PROGRESS", **fields: Any) -> dict[str, Any]:
    """Return the JSON of a run; a run that is known to end has its ``completedAt``."""
    is_over = status in {"COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN", "FAILED"}
    return {
        "id": RUN_ID,
        "workflowId": WORKFLOW_ID,
        "status": status,
        "completedAt": COMPLETED_AT if is_over else None,
        "createdAt": CREATED_AT,
        "updatedAt": UPDATED_AT,
        "createdByUserId": USER_ID,
        "jobRunId": JOB_RUN_ID,
        "currentStateName": None,
        **fields,
    }


def response(
    status: int = 200,
    body: Mapping[str, Any] | bytes = b"",
    *,
    took: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer that was there *took* seconds after the request was sent at :data:`NOW`."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, headers or {}, text, NOW, NOW + took, TARGET, "anon_test")


def no_response(reason: str = "connection refused", *, took: float = 0.0) -> NoResponse:
    """Return what a client makes of *reason*, *took* seconds after the request."""
    return NoResponse(reason, NOW, NOW + took, TARGET, "anon_test")


def http_date(seconds: float) -> str:
    """Write a time as a server does in its headers."""
    return formatdate(seconds, usegmt=True)


@dataclass
class Played:
    """A flow that was carried out: the *steps* it wanted done, what it came to, and when."""

    steps: list[Step] = field(default_factory=list)
    polls_at: list[float] = field(default_factory=list)
    now: float = NOW
    slept_until: float = NOW
    error: AnonError | None = None
    outcome: Any = None

    @property
    def result(self) -> Any:
        """What the flow returned, or the error that it raised."""
        if self.error is not None:
            raise self.error
        return self.outcome

    @property
    def sleeps(self) -> list[float]:
        """The pauses, without their spread."""
        return [step.seconds for step in self.steps if isinstance(step, Sleep)]

    @property
    def logged(self) -> list[LogLine]:
        """The lines for the log."""
        return [line for step in self.steps if isinstance(step, Log) for line in step.lines]

    def count(self, kind: type[Step]) -> int:
        """Count the steps of one kind."""
        return sum(isinstance(step, kind) for step in self.steps)


def play(
    flow: Flow[Any],
    *answers: Answer | Callable[[float], Answer],
    at: float = NOW,
    changed: Iterable[bool] = (),
    spread: float = 0.0,
) -> Played:
    """
    Carry *flow* out from the time *at* on: a sleep only moves the clock.

    :param answers: one for each request: a status, the JSON of a run, a reply, or a function that makes
        one of these of the time. The last is given again for as long as requests come.
    :param changed: whether the connection has changed, for each time it is read again; else it has not.
    :param spread: the part of each pause's spread that is slept.
    """
    played = Played(now=at, slept_until=at)
    replies = _stamped(answers, played)
    changes = iter(changed)
    reply: Reply = None
    while len(played.steps) < MOST_STEPS:
        try:
            step = flow.send(reply)
        except StopIteration as end:
            played.outcome = end.value
            return played
        except AnonError as error:
            played.error = error
            return played
        played.steps.append(step)
        reply = None
        if isinstance(step, Request):
            played.polls_at.append(played.now)
            reply = next(replies)
        elif isinstance(step, Sleep):
            played.now += step.seconds + spread * step.spread
            played.slept_until = played.now
        elif isinstance(step, ReloadConnection):
            reply = next(changes, False)
    raise AssertionError("the flow does not end")


def _stamped(
    answers: tuple[Answer | Callable[[float], Answer], ...], played: Played
) -> Iterator[Response | NoResponse]:
    number = 0
    while True:
        given = answers[min(number, len(answers) - 1)]
        number += 1
        reply = made(given(played.now) if callable(given) else given)
        sent_at, played.now = played.now, played.now + (reply.at - reply.sent_at)
        yield replace(reply, sent_at=sent_at, at=played.now)


def made(answer: Answer) -> Response | NoResponse:
    """Make a reply of a status or of the JSON of a run."""
    if isinstance(answer, int):
        return response(answer)
    if isinstance(answer, Mapping):
        return response(200, answer)
    return answer
