"""What an answer means for a wait: the table, and how an answer is read. Asked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from typing import Any

from airflow_anon.core.errors import AnonProtocolError
from airflow_anon.core.flow import NoResponse, Reply, Response
from airflow_anon.core.sanitize import REPLACEMENT, SameKeyTwiceError, fit, fit_text, read_json
from airflow_anon.runs import WorkflowRun

LONGEST_RETRY_AFTER = 300.0

CachedRun = tuple[bytes, WorkflowRun]


class AnotherRunError(AnonProtocolError):
    """An answer is about another run: its connection may be out of step."""


class AnswerKind(Enum):
    """The kinds of answers."""

    RUN = "the run"
    TRANSIENT = "no answer for now"
    NOT_FOUND = "no such run"
    UNAUTHORIZED = "credential refused"
    REJECTED = "not to be asked again"


class Verdict(Enum):
    """What an answer means for a wait."""

    JUDGE_RUN = "its status decides"
    KEEP_POLLING = "waits, until `outage_tolerance` is over"
    FAIL = "fails"


@dataclass(frozen=True, slots=True)
class Row:
    """
    What one kind of answer means for a wait.

    :param when: the answers of this kind, in words.
    :param statuses: their HTTP statuses.
    :param unseen: what it means before the run was ever seen, *seen*: and after.
    :param insists: whether the first poll asks again, for a minute, before that holds.
    :param reloads: whether the connection is read again, and the run asked for once more, before that holds.
    :param confirms: whether, once the run was seen, it is asked for once more, over a new connection, before that holds.
    """

    kind: AnswerKind
    when: str
    statuses: Collection[int]
    unseen: Verdict
    seen: Verdict
    insists: bool = False
    reloads: bool = False
    confirms: bool = False


TABLE = (
    Row(AnswerKind.RUN, "200 with the run", {200}, unseen=Verdict.JUDGE_RUN, seen=Verdict.JUDGE_RUN),
    Row(
        AnswerKind.UNAUTHORIZED,
        "401, 403",
        {401, 403},
        unseen=Verdict.FAIL,
        seen=Verdict.KEEP_POLLING,
        reloads=True,
    ),
    Row(
        AnswerKind.NOT_FOUND,
        "404",
        {404},
        unseen=Verdict.FAIL,
        seen=Verdict.FAIL,
        insists=True,
        confirms=True,
    ),
    Row(
        AnswerKind.TRANSIENT,
        "no answer, 408, 425, 429, 5xx, 200 that is no run, any other 2xx",
        {408, 425, 429, *range(500, 600)},
        unseen=Verdict.KEEP_POLLING,
        seen=Verdict.KEEP_POLLING,
        insists=True,
        reloads=True,
    ),
    Row(
        AnswerKind.REJECTED,
        "any other 4xx, 3xx",
        range(300, 500),
        unseen=Verdict.FAIL,
        seen=Verdict.FAIL,
        confirms=True,
    ),
)
ROWS = {row.kind: row for row in TABLE}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One reply, understood: the run in it, *known* by its bytes, or in words the *trouble* that there is none.

    :param unfit: the run's fields that Airflow could not have carried as they came.
    :param unreadable: its fields that could not be read, with their values.
    :param is_misplaced: whether it is about another run.
    """

    kind: AnswerKind
    reply: Response | NoResponse
    known: CachedRun | None = None
    trouble: str = ""
    unfit: Sequence[str] = ()
    unreadable: Mapping[str, Any] = field(default_factory=dict)
    is_misplaced: bool = False

    @property
    def run(self) -> WorkflowRun | None:
        """The run, where there is one."""
        return self.known[1] if self.known else None

    @property
    def at(self) -> float:
        """When it was there."""
        return self.reply.at

    @property
    def status_code(self) -> int | None:
        """The HTTP status, where there was one."""
        return self.reply.status if isinstance(self.reply, Response) else None

    @property
    def excerpt(self) -> str:
        """What the API says to an error, as far as it is fit to be shown."""
        return self.reply.excerpt if isinstance(self.reply, Response) else ""

    @property
    def is_web_page(self) -> bool:
        """Whether it is for a browser, as the API's never is."""
        return (
            isinstance(self.reply, Response) and "html" in self.reply.headers.get("Content-Type", "").lower()
        )

    @property
    def api_time(self) -> float | None:
        """The API's own clock at that time (``Date``)."""
        return when(self.reply.headers.get("Date")) if isinstance(self.reply, Response) else None

    @property
    def retry_after(self) -> float:
        """Seconds for which the API asked to be left alone, capped; 0 if it did not."""
        if not isinstance(self.reply, Response) or not (value := self.reply.headers.get("Retry-After")):
            return 0.0
        now = self.api_time
        return retry_after(value, self.at if now is None else now)


def interpret(reply: Reply, workflow_run_id: str, known: CachedRun | None = None) -> Answer:
    """
    Say what *reply* means for a wait on *workflow_run_id*.

    :param known: a run, which is not read again from the same bytes.
    """
    if isinstance(reply, NoResponse):
        return Answer(AnswerKind.TRANSIENT, reply, trouble=reply.reason)
    if not isinstance(reply, Response):
        raise TypeError(f"a request was answered with {reply!r}")
    kind = kind_of(reply)
    if kind is not AnswerKind.RUN:
        return Answer(kind, reply, trouble=phrase(reply.status))
    if known is not None and known[0] == reply.body:
        return Answer(kind, reply, known)
    try:
        run, unfit = read_run(reply.body, workflow_run_id)
    except AnonProtocolError as error:
        trouble = f"{phrase(reply.status)}, but no workflow run ({error})"
        is_misplaced = isinstance(error, AnotherRunError)
        return Answer(AnswerKind.TRANSIENT, reply, trouble=trouble, is_misplaced=is_misplaced)
    return Answer(kind, reply, (reply.body, run), unfit=unfit, unreadable=run.unreadable)


def kind_of(reply: Response | NoResponse) -> AnswerKind:
    """Say what a reply means, before its body is read."""
    if isinstance(reply, NoResponse):
        return AnswerKind.TRANSIENT
    return next((row.kind for row in TABLE if reply.status in row.statuses), AnswerKind.TRANSIENT)


def as_markdown() -> str:
    """Write the table for the documentation."""
    lines = ["| the answer | before the run was ever seen | after |", "|---|---|---|"]
    for row in TABLE:
        first = "".join(
            (
                "the connection is read again; " * row.reloads,
                "asked again for a minute; " * row.insists,
                "then " * (row.insists or row.reloads),
            )
        )
        # With patience spent, no answer is lost contact.
        unseen = "*lost contact*" if row.insists and row.unseen is Verdict.KEEP_POLLING else row.unseen.value
        later = "the connection is read again; then " * row.reloads
        later += "asked again over a new connection; then " * row.confirms
        lines.append(f"| {row.when} | {first}{unseen} | {later}{row.seen.value} |")
    return "\n".join(lines)


def phrase(status: int) -> str:
    """Write a status as HTTP does, such as ``503 Service Unavailable``."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def read_run(body: bytes, workflow_run_id: str) -> tuple[WorkflowRun, list[str]]:
    """
    Read the run that was asked for from a body.

    :return: the run, whose JSON Airflow can carry, and the names of the fields that it could not have carried
        as they came.
    :raises AnonProtocolError: the body is no JSON, no run, or another run.
    """
    try:
        payload = read_json(body)
        fitted = fit(payload)
    except SameKeyTwiceError as error:
        raise AnonProtocolError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise AnonProtocolError("it is not JSON") from error
    try:
        run = WorkflowRun.from_payload(payload)
    except ValueError as error:
        raise AnonProtocolError(str(error)) from error
    if run.id.lower() != workflow_run_id.lower():
        raise AnotherRunError(f"it describes another run, {run.id}")
    if fitted is payload:
        return run, []
    # What the run is was judged as it came. Replacing text never makes a status that is known.
    return WorkflowRun.from_payload(fitted), [
        fit_text(name) for name, value in payload.items() if fitted.get(name, REPLACEMENT) is not value
    ]


def when(date: str | None) -> float | None:
    """Read an HTTP date in any of its three forms; None if there is none or it is none."""
    try:
        moment = parsedate_to_datetime(date) if date else None
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() if moment else None


def retry_after(value: str, now: float) -> float:
    """Read ``Retry-After``, seconds or date, as seconds from *now*: 0 if unreadable, capped."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        date = when(text)
        seconds = 0.0 if date is None else date - now
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
