"""What the simulated API says: the right answers and the wrong ones. No I/O."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow_anon.runs import UUID_PATTERN
from airflow_anon.simulator.scripts import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_anon.simulator.world import Outage, World

HUGE_BYTES = 2 * 1024 * 1024
JSON = {"Content-Type": "application/json"}
LOGIN_PAGE = b"<!doctype html><html><title>Sign in</title><form><input name=user></form></html>"
GARBAGE = b"\x1f\x8b\x00\xff{not json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class Credential:
    """
    What a client has to show.

    :param token: without one, everybody is let in.
    :param login: with one, Basic authentication is demanded in place of a bearer token.
    :param header: one other than ``Authorization`` holds the token, with or without a scheme before it.
    """

    token: str | None = None
    login: str | None = None
    header: str = "Authorization"

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers is let in."""
        if self.token is None:
            return True
        shown = headers.get(self.header, "")
        return any(hmac.compare_digest(_bytes(shown), _bytes(right)) for right in self._accepted(shown))

    def _accepted(self, shown: str) -> tuple[str, ...]:
        if self.login is not None:
            pair = f"{self.login}:{self.token}".encode()
            return (f"Basic {base64.b64encode(pair).decode()}",)
        if self.header.lower() == "authorization":
            return (f"Bearer {self.token}",)
        scheme = shown.partition(" ")[0]
        return (f"{self.token}", f"{scheme} {self.token}")


def _bytes(header: str) -> bytes:
    """Return a header as it was sent, what is no UTF-8 included."""
    return header.encode(errors="surrogateescape")


def in_json(status: int, content: Any) -> Answer:
    """Say *content* in JSON."""
    return Answer(status, JSON, json.dumps(content).encode())


def complaint(status: int, message: str) -> Answer:
    """Say what is wrong."""
    return in_json(status, {"message": message})


def about_run(world: World, credential: Credential, run_id: str, headers: Mapping[str, str]) -> Answer:
    """Answer as the API would with nothing going wrong. This counts as a poll of the run."""
    if not credential.admits(headers):
        return complaint(401, "The credential is missing or wrong.")
    if not UUID_PATTERN.fullmatch(run_id):
        return complaint(400, f"{run_id[:100]!r} is not the id of a workflow run.")
    payload = world.poll(run_id)
    return complaint(404, f"There is no workflow run {run_id}.") if payload is None else in_json(200, payload)


def about_outage(outage: Outage) -> Answer:
    """Turn a request down."""
    return _turned_down(Fault(FaultKind.STATUS, int(outage.kind), retry_after=outage.retry_after))


def spoilt(fault: Fault, right_answer: Callable[[], Answer]) -> Answer:
    """
    Say what *fault* makes of the right answer.

    The right answer is only asked for where something of it goes out, so that a run whose step
    lasts for some polls does not count requests that never see it.
    """
    if fault.kind in INSTEAD:
        return INSTEAD[fault.kind](fault)
    answer = right_answer()
    return ALTERED[fault.kind](answer) if fault.kind in ALTERED else answer


def _turned_down(fault: Fault) -> Answer:
    answer = complaint(fault.status, "This is a simulated fault.")
    if fault.body is not None:
        answer = Answer(fault.status, {"Content-Type": "text/plain; charset=utf-8"}, fault.body.encode())
    if fault.retry_after is not None:
        answer = replace(answer, headers={**answer.headers, "Retry-After": fault.retry_after})
    return answer


def _about_another_run(answer: Answer) -> Answer:
    if answer.status != HTTPStatus.OK:
        return answer
    return in_json(200, {**json.loads(answer.body), "id": str(uuid4())})


def _padded(answer: Answer) -> Answer:
    # Blanks leave the JSON as it is: only a limit on the size can refuse it.
    return replace(answer, body=answer.body.ljust(HUGE_BYTES))


INSTEAD: Mapping[FaultKind, Callable[[Fault], Answer]] = {
    FaultKind.STATUS: _turned_down,
    FaultKind.HANG: lambda _: Answer(200),
    FaultKind.RESET: lambda _: Answer(200),
    FaultKind.GARBAGE: lambda _: Answer(200, JSON, GARBAGE),
    FaultKind.HTML: lambda _: Answer(200, {"Content-Type": "text/html"}, LOGIN_PAGE),
    FaultKind.EMPTY: lambda _: Answer(200, JSON),
    FaultKind.REDIRECT: lambda _: Answer(302, {"Location": "/elsewhere"}),
}
ALTERED: Mapping[FaultKind, Callable[[Answer], Answer]] = {
    FaultKind.WRONG_ID: _about_another_run,
    FaultKind.HUGE: _padded,
    FaultKind.HUGE_CHUNKED: _padded,
}
