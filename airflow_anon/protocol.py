"""
How a wait goes: the request for a run, what a reply means for the wait, patience, the next look.

SANS-IO: nothing here does I/O, sleeps, logs, reads a clock or knows Airflow. A *conversation* is a
generator that yields the *step* it wants done, is sent the *reply*, and returns its result; the
drivers in ``transport`` carry it out, with ``requests`` or with ``aiohttp``. Time comes in with each
reply, in seconds since the epoch.

The question *what does this answer mean for the wait?* is answered by :func:`interpret` and
:func:`judge`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar

from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonError,
    AnonNotFoundError,
    AnonProtocolError,
    AnonRejectedError,
    AnonUnavailableError,
)
from airflow_anon.memory import STILL_WAITING_EVERY, Memory, News, clipped, duration
from airflow_anon.runs import WorkflowRun, normalise_id
from airflow_anon.sanitize import REPLACEMENT, SameKeyTwiceError, fit, fit_text, read_json
from airflow_anon.settings import API_PATH

T = TypeVar("T")

TRANSIENT_STATUSES = frozenset({408, 425, 429})
REFUSED_STATUSES = frozenset({401, 403})
FIRST_LOOK_PATIENCE = 60.0
FIRST_LOOK_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
SHORTEST_PAUSE = 1.0
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 300.0
SPREAD = 0.05
SPREAD_OF_BACKOFF = 0.25
NEVER = float("inf")
MOST_NAMED = 5
# Kept among the unknown statuses that the log was told of; with its blanks it can be none of them.
UNFIT = "JSON that Airflow cannot carry"
NIL_ID = "00000000-0000-0000-0000-000000000000"


# Steps: what a conversation wants done.


@dataclass(frozen=True, slots=True)
class Request:
    """Ask the API (``GET``) for *path*; answered with a :class:`Response` or a :class:`NoResponse`."""

    path: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Sleep *seconds*, and a random part of *spread* more; answered with None."""

    seconds: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Renew:
    """Read the connection again; answered with whether anything in it has changed."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the log; answered with None."""

    news: tuple[News, ...]


# Replies: what comes back for a request. Each says when it was sent and when the answer was there.


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer of the API.

    :param headers: these ignore case where a transport made them.
    :param target: the URL that was asked for, and *conn_id* the connection.
    :param excerpt: the beginning of an error's body, fit to be shown. All else of an answer is not:
        it may repeat our secrets.
    :param is_remembered: whether it is what the API told somebody else, and was not asked again since.
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


Step = Request | Sleep | Renew | Tell
Reply = Response | NoResponse | bool | None
Conversation = Generator[Step, Reply, T]


# What an answer means.

Known = tuple[bytes, WorkflowRun]


class Meaning(Enum):
    """What one answer means for a wait."""

    RUN = "the run"
    DISTURBED = "no answer for now"
    MISSING = "no such run"
    REFUSED = "credential refused"
    REJECTED = "not to be asked again"


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One reply, understood: the run in it, *known* by its bytes, or in words the *trouble* that there is none.

    :param unfit: the run's fields that Airflow could not have carried as they came.
    """

    meaning: Meaning
    reply: Response | NoResponse
    known: Known | None = None
    trouble: str = ""
    unfit: Sequence[str] = ()

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
    def source(self) -> str:
        """The trouble and where it was met, for a message."""
        return f"{self.trouble} from {self.reply.target}"

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


def path_of(workflow_run_id: str) -> str:
    """Return the path of a run; the id is checked first."""
    return f"{API_PATH}/workflow-runs/{normalise_id(workflow_run_id)}"


def interpret(reply: Reply, workflow_run_id: str, known: Known | None = None) -> Answer:
    """
    Say what *reply* means for a wait on *workflow_run_id*.

    :param known: a run, which is not read again from the same bytes.
    """
    if isinstance(reply, NoResponse):
        return Answer(Meaning.DISTURBED, reply, trouble=reply.reason)
    if not isinstance(reply, Response):
        raise TypeError(f"a request was answered with {reply!r}")
    meaning = meaning_of(reply)
    if meaning is not Meaning.RUN:
        return Answer(meaning, reply, trouble=phrase(reply.status))
    if known is not None and known[0] == reply.body:
        return Answer(meaning, reply, known)
    try:
        run, unfit = read_run(reply.body, workflow_run_id)
    except AnonProtocolError as error:
        trouble = f"{phrase(reply.status)}, but no workflow run ({error}),"
        return Answer(Meaning.DISTURBED, reply, trouble=trouble)
    return Answer(meaning, reply, (reply.body, run), unfit=unfit)


def meaning_of(reply: Response | NoResponse) -> Meaning:
    """Say what a reply means, before its body is looked at."""
    if isinstance(reply, NoResponse):
        return Meaning.DISTURBED
    status = reply.status
    if status == HTTPStatus.OK:
        return Meaning.RUN
    if status in REFUSED_STATUSES:
        return Meaning.REFUSED
    if status == HTTPStatus.NOT_FOUND:
        return Meaning.MISSING
    if 300 <= status < 500 and status not in TRANSIENT_STATUSES:
        return Meaning.REJECTED
    return Meaning.DISTURBED


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
        run = WorkflowRun.from_payload(payload)
        fitted = fit(payload)
    except SameKeyTwiceError as error:
        raise AnonProtocolError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise AnonProtocolError("it is not JSON") from error
    if run.id.lower() != normalise_id(workflow_run_id).lower():
        raise AnonProtocolError(f"it describes another run, {run.id}")
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


# What a wait makes of it.


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What was asked of a wait; all times in seconds, ``started_at`` and ``deadline`` since the epoch.

    :param deadline: when the wait's time is over; infinite for none.
    """

    workflow_run_id: str
    started_at: float = 0.0
    deadline: float = NEVER
    poke_interval: float = 60.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    outage_tolerance: float = 600.0
    user_input_timeout: float | None = None

    def interval(self, now: float) -> float:
        """
        Return the pause between two good looks at *now*.

        With backoff each is as long as the whole wait so far and one interval more, which doubles
        them without having to count looks.
        """
        if not self.exponential_backoff:
            return self.poke_interval
        grown = max(now - self.started_at, 0.0) + self.poke_interval
        return min(grown, self.longest_interval)

    @property
    def timeout(self) -> float:
        """How long the wait may take; infinite for no limit."""
        return self.deadline - self.started_at

    @property
    def longest_interval(self) -> float:
        """The pause between two good looks that backoff does not go beyond."""
        if not self.exponential_backoff or not self.max_wait:
            return NEVER
        return max(self.max_wait, SHORTEST_PAUSE)


class Outcome(Enum):
    """What a wait knows after a look."""

    WAITING = "waiting"
    OVER = "over"
    TIMEOUT = "timeout"
    USER_INPUT_TIMEOUT = "user_input_timeout"


@dataclass(frozen=True, slots=True)
class Look:
    """
    What one look came to.

    :param run: the run as just seen; None if the look went unanswered.
    :param at: when, in seconds since the epoch.
    :param pause: how long to leave the run alone, if the wait goes on.
    :param asks_user: whether the run has begun to wait for a person since the look before.
    :param known: the run, together with the bytes that it was read from.
    """

    outcome: Outcome
    at: float
    run: WorkflowRun | None = None
    pause: Sleep = field(default=Sleep(0.0))
    asks_user: bool = False
    news: tuple[News, ...] = ()
    known: Known | None = field(default=None, repr=False)


def fetch_run(workflow_run_id: str) -> Conversation[WorkflowRun]:
    """
    Look once, whatever the run's status, riding out short disturbances.

    :raises AnonError: there is no such run, or no answer.
    """
    look = yield from take_look(Plan(workflow_run_id), Memory())
    if look.run is None:  # pragma: no cover  for the type checker
        raise AssertionError("a first look either sees the run or raises")
    return look.run


def wait_for_run(
    plan: Plan,
    memory: Memory,
    *,
    delay: float = 0.0,
    before: Look | None = None,
    stop_to_ask_user: bool = False,
) -> Conversation[Look]:
    """
    Look until the wait ends and return the last look.

    :param delay: seconds before the first look.
    :param before: a look that has been taken already.
    :param stop_to_ask_user: return also when the run has begun to wait for a person.
    :raises AnonError: the wait cannot go on.
    """
    if delay > 0:
        yield Sleep(delay)
    look = before or (yield from take_look(plan, memory))
    before = None  # a wait is mostly asleep: it keeps little meanwhile
    while True:
        if look.outcome is not Outcome.WAITING or (stop_to_ask_user and look.asks_user):
            return look
        known, pause = look.known, look.pause
        del look
        yield pause
        look = yield from take_look(plan, memory, known)


def take_look(
    plan: Plan, memory: Memory, known: Known | None = None, *, is_last: bool = False
) -> Conversation[Look]:
    """
    Take the next look of a wait, tell the log of it, and say what it came to.

    A first look asks again for a while before it gives up; every later one asks once.

    :param known: what the look before came to, if it is at hand.
    :param is_last: whether patience was spent elsewhere: the log is not told that there is any left.
    :raises AnonError: the wait cannot go on.
    """
    answer = yield from _ask(plan.workflow_run_id, known)
    if memory.seen_at is None:
        answer = yield from _insist(plan, answer)
    look = judge(plan, memory, answer)
    news = look.news
    if is_last and look.run is None:
        news = (News("warning", f"{_no_answer(answer)}."),)
    if news:
        yield Tell(news)
    return look


def _ask(workflow_run_id: str, known: Known | None = None) -> Conversation[Answer]:
    """
    Ask for a run; a credential that is refused may be an old one, from before it was rotated.

    With a new one it is asked again, which counts as sent when the first request was.
    """
    request = Request(path_of(workflow_run_id))
    answer = interpret((yield request), workflow_run_id, known)
    if answer.meaning is Meaning.REFUSED and (yield Renew()):
        sent_at = answer.reply.sent_at
        answer = interpret((yield request), workflow_run_id)
        answer = replace(answer, reply=replace(answer.reply, sent_at=sent_at))
    return answer


def _insist(plan: Plan, answer: Answer) -> Conversation[Answer]:
    asked_at = answer.reply.sent_at
    delays = iter(FIRST_LOOK_DELAYS)
    while answer.meaning in (Meaning.DISTURBED, Meaning.MISSING):
        limit = min(asked_at + _first_patience(plan, answer), plan.deadline)
        if answer.at >= limit:
            break
        yield Tell((News("warning", f"No run yet: {answer.source}; asking again for a while."),))
        delay = max(next(delays, FIRST_LOOK_DELAYS[-1]), answer.retry_after)
        yield _pause(delay, limit - answer.at, SPREAD_OF_BACKOFF)
        answer = yield from _ask(plan.workflow_run_id)
    return answer


def _first_patience(plan: Plan, answer: Answer) -> float:
    """Return how long a first look asks again; while the API is left alone, nobody learns whether it answers."""
    return max(FIRST_LOOK_PATIENCE, plan.outage_tolerance if answer.reply.is_remembered else 0.0)


def judge(plan: Plan, memory: Memory, answer: Answer) -> Look:
    """
    Say what *answer* means for the wait, and take it into *memory*.

    :raises AnonError: the wait cannot go on.
    """
    if answer.run is not None:
        return _judge_run(plan, memory, answer, answer.run)
    if answer.meaning in (Meaning.REJECTED, Meaning.MISSING) or (
        answer.meaning is Meaning.REFUSED and memory.seen_at is None
    ):
        raise rejection(plan.workflow_run_id, answer, memory)
    return _judge_trouble(plan, memory, answer)


def _judge_run(plan: Plan, memory: Memory, answer: Answer, run: WorkflowRun) -> Look:
    first = memory.seen_at is None
    news, asks_user = memory.saw(run, answer.at, _unchanged_for(run, answer))
    if answer.unfit and memory.warns_of(UNFIT):
        news.append(_unfit(answer.unfit))
    limit = limit_of(plan, memory.awaiting_since)
    if run.is_over:
        outcome = Outcome.OVER
    elif answer.at < limit:
        outcome = Outcome.WAITING
        news = [_beginning(plan, memory, run), *news] if first else news or _reminder(plan, memory, answer.at)
    else:
        outcome = Outcome.TIMEOUT if answer.at >= plan.deadline else Outcome.USER_INPUT_TIMEOUT
    if news:
        memory.told_at = answer.at
    pause = pause_after(plan, memory.awaiting_since, answer.at)
    return Look(outcome, answer.at, run, pause, asks_user, tuple(news), answer.known)


def _judge_trouble(plan: Plan, memory: Memory, answer: Answer) -> Look:
    memory.missed_look(answer.trouble, answer.at)
    if answer.at >= plan.deadline:
        return Look(Outcome.TIMEOUT, answer.at)
    patience_ends = _patience_ends(plan, memory)
    if answer.at >= patience_ends:
        raise lost_contact(plan, memory, answer)
    backoff = min(FIRST_BACKOFF * 2.0 ** min(memory.missed - 1, 16), LONGEST_BACKOFF)
    pause = _pause(
        max(plan.interval(answer.at), backoff, answer.retry_after),
        min(
            end
            for end in (plan.deadline, patience_ends, limit_of(plan, memory.awaiting_since))
            if end > answer.at
        )
        - answer.at,
        SPREAD_OF_BACKOFF,
    )
    news = _reminder(plan, memory, answer.at)
    if memory.missed == 1:
        left = duration(patience_ends - answer.at)
        news = [News("warning", f"{_no_answer(answer)}; giving up after {left} without contact.")]
    if news:
        memory.told_at = answer.at
    return Look(Outcome.WAITING, answer.at, pause=pause, news=tuple(news))


def pause_after(plan: Plan, awaiting_since: float | None, at: float) -> Sleep:
    """Return the pause after a look at *at* that was answered: no longer than the wait, or the person, has time."""
    left = limit_of(plan, awaiting_since) - at
    return _pause(plan.interval(at), min(left, plan.longest_interval), SPREAD)


def limit_of(plan: Plan, awaiting_since: float | None) -> float:
    """Return when the wait's time is over, or the person's if that is sooner."""
    if awaiting_since is None or plan.user_input_timeout is None:
        return plan.deadline
    return min(plan.deadline, awaiting_since + plan.user_input_timeout)


def _patience_ends(plan: Plan, memory: Memory) -> float:
    """Return when contact counts as lost; a run that was never seen has had its patience before."""
    if memory.seen_at is None:
        return memory.missed_since
    # A pause between two looks may be longer than the tolerance: one missed look is no outage yet.
    grace = min(plan.outage_tolerance, FIRST_LOOK_PATIENCE)
    return max(memory.seen_at + plan.outage_tolerance, memory.missed_since + grace)


def _unchanged_for(run: WorkflowRun, answer: Answer) -> float | None:
    """Return for how long the run has been as it is, by the API's clock alone: ours may be off."""
    api_time = answer.api_time if run.awaits_user_input else None
    return None if api_time is None else max(api_time - run.updated_at.timestamp(), 0.0)


def _pause(seconds: float, left: float, spread: float) -> Sleep:
    """Pause at least *seconds*, spread out, but not beyond what is *left*."""
    seconds = min(max(seconds, SHORTEST_PAUSE), max(left, 0.0))
    return Sleep(seconds, min(seconds * spread, max(left - seconds, 0.0)))


# What the log is told.


def _beginning(plan: Plan, memory: Memory, run: WorkflowRun) -> News:
    limit = "" if plan.deadline == NEVER else f", for at most {duration(plan.timeout)}"
    return News(
        "info",
        f"Waiting for workflow run {run.id} of workflow {run.workflow_id}{limit}, with a look every "
        f"{duration(plan.poke_interval)}. It is {memory.described()}.",
    )


def _unfit(fields: Sequence[str]) -> News:
    named = ", ".join(repr(clipped(name)) for name in fields[:MOST_NAMED])
    return News(
        "warning",
        f"The run's JSON has what Airflow cannot carry, in {named}: it is handed on with U+FFFD for such a character, "
        "and with text for such a number.",
    )


def _no_answer(answer: Answer) -> str:
    return f"No answer: {answer.source}. The run itself may be well"


def _reminder(plan: Plan, memory: Memory, at: float) -> list[News]:
    if at - memory.told_at < STILL_WAITING_EVERY:
        return []
    left = "" if plan.deadline == NEVER else f", {duration(plan.deadline - at)} left"
    silence = f" (no answer for {duration(at - memory.seen_at)})" if memory.missed and memory.seen_at else ""
    waited = duration(at - plan.started_at)
    return [News("info", f"Still waiting: {memory.described()}{silence}, {waited} so far{left}.")]


def ending(memory: Memory, run: WorkflowRun) -> News:
    """Tell how a run ended, how long that took, and where the time went."""
    spent = memory.where_the_time_went()
    waited = (
        f" Waited here for {duration(memory.waited())} with {memory.looks} looks: {spent}." if spent else ""
    )
    return News(
        "info",
        f"Workflow run {run.id} is {memory.described()}, {duration(run.seconds_run)} after its creation.{waited}",
    )


# What is said when a wait cannot go on.


def last_seen(memory: Memory) -> str:
    """Write what is known of the run from the last good look."""
    if memory.seen_at is None:
        return "the run has not been seen"
    if memory.status is None:
        return "its last status was not kept"
    import pendulum

    seen = pendulum.from_timestamp(memory.seen_at).to_iso8601_string()
    return f"it was last seen {memory.described()} at {seen}"


def facts_of(workflow_run_id: str, memory: Memory) -> dict[str, Any]:
    """Return what every error of a wait carries."""
    return {
        "workflow_run_id": workflow_run_id,
        "last_status": memory.status,
        "last_seen_at": memory.seen_at,
    }


def rejection(workflow_run_id: str, answer: Answer, memory: Memory) -> AnonError:
    """Make the error for an answer that asking again will not change."""
    kind: type[AnonError] = AnonRejectedError
    connection = f"connection {answer.reply.conn_id!r}"
    why = f"The API does not take this request: check 'host' of {connection}, and the id."
    if answer.meaning is Meaning.MISSING and memory.seen_at is not None:
        kind = AnonNotFoundError
        why = f"The run is gone, or hidden from this token: {last_seen(memory)}."
    elif answer.meaning is Meaning.MISSING:
        kind = AnonNotFoundError
        why = "No such run, or not visible to this token: check the id, and the account of the token."
    elif answer.meaning is Meaning.REFUSED:
        kind = AnonAuthenticationError
        why = f"The API refuses the credential: check 'password' (the token) and 'login' of {connection}."
    elif 300 <= (answer.status_code or 0) < 400:
        why = f"The API never redirects, and no redirect is followed: check 'host' of {connection}."
    said = f" The API says: {answer.excerpt}" if answer.excerpt else ""
    return kind(
        f"Workflow run {workflow_run_id}: {answer.source}. {why}{said}",
        status_code=answer.status_code,
        **facts_of(workflow_run_id, memory),
    )


def lost_contact(plan: Plan, memory: Memory, answer: Answer) -> AnonUnavailableError:
    """Make the error for an API that has been out of reach for too long."""
    if memory.seen_at is None:
        text = (
            f"No answer about workflow run {plan.workflow_run_id}: {answer.source}. The state of the run is unknown. "
            f"Check 'host' of connection {answer.reply.conn_id!r}, and whether the API is up."
        )
    else:
        text = (
            f"Lost contact with the API {duration(answer.at - memory.seen_at)} ago (outage_tolerance is "
            f"{duration(plan.outage_tolerance)}): {answer.source}. The state of workflow run "
            f"{plan.workflow_run_id} is unknown, which does not mean that it failed: {last_seen(memory)}."
        )
    return AnonUnavailableError(
        text, status_code=answer.status_code, **facts_of(plan.workflow_run_id, memory)
    )


# Whether a connection is any good.


def probe() -> Conversation[tuple[bool, str]]:
    """Ask for the nil id, which is no run: a 404 shows that host and token are good."""
    reply = yield Request(path_of(NIL_ID))
    answer = interpret(reply, NIL_ID)
    place = answer.reply.target.removesuffix(path_of(NIL_ID))
    if not isinstance(reply, Response):
        return False, f"No answer from {place}: {answer.trouble}."
    is_page = "html" in reply.headers.get("Content-Type", "").lower()
    if answer.meaning in (Meaning.MISSING, Meaning.RUN) and not is_page:
        return True, f"The API at {place} answers, and takes this connection."
    trouble = answer.trouble.rstrip(",") + " and a web page" * is_page
    return False, f"{place} answers {trouble}. {_advice(answer)}"


def _advice(answer: Answer) -> str:
    """Say what to do about an answer that is not the API's, or not a good one."""
    status = answer.status_code or 0
    if answer.meaning is Meaning.REFUSED:
        return "The token ('password') is missing or not accepted; for Basic, check 'login' too."
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return "The proxy wants a login and password: http://login:password@proxy.example:3128 in 'proxy'."
    if answer.meaning is Meaning.DISTURBED and status != HTTPStatus.OK:
        return "That may pass: try again later."
    if 300 <= status < 400:
        return "The API never redirects, and no redirect is followed: check 'host' and 'schema'."
    return "That is not the API: check 'host'."
