"""What the log and the errors of a wait say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_anon.core.answers import Answer, AnswerKind
from airflow_anon.core.errors import (
    AnonAuthenticationError,
    AnonError,
    AnonNotFoundError,
    AnonRejectedError,
    AnonUnavailableError,
)
from airflow_anon.core.flow import LogLine
from airflow_anon.core.policy import NEVER, WaitPolicy

if TYPE_CHECKING:
    from airflow_anon.core.state import WaitState
    from airflow_anon.runs import WorkflowRun

STILL_WAITING_EVERY = 300.0
STILL_NO_ANSWER_EVERY = 60.0
MOST_NAMED = 5
# What is remembered goes into Airflow's database: an API gone mad must not fill it.
LONGEST_TEXT = 120
# From how many seconds on a duration is written in a unit, and in which the rest is.
UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float | None) -> str:
    """Write a duration as a person would: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds is None:
        return "an unknown time"
    if seconds == float("inf"):
        return "an unlimited time"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    size, unit, small, small_unit = next(row for row in UNITS if seconds >= row[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit} {rest // small} {small_unit}" if rest // small else f"{whole} {unit}"


def clipped(text: str) -> str:
    """Cut a text that is far longer than a status or the name of a state should be."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def described(status: str | None, state_name: str | None) -> str:
    """Write a status together with the name of the state that the run is in."""
    if status is None:
        return "in a status that was not kept"
    return f"{clipped(status)} (state {clipped(state_name)!r})" if state_name else clipped(status)


def of_its_workflow(run: WorkflowRun) -> str:
    """Write which workflow a run is of, as far as that can be read."""
    return f" of workflow {run.workflow_id}" if run.workflow_id else ""


def beginning(policy: WaitPolicy, state: WaitState, run: WorkflowRun) -> LogLine:
    """Say what is waited for, and how."""
    limit = "" if policy.deadline == NEVER else f", for at most {duration(policy.timeout)}"
    return LogLine(
        "info",
        f"Waiting for workflow run {run.id}{of_its_workflow(run)}{limit}, with a poll every "
        f"{duration(policy.poke_interval)}. It is {state.described()}.",
    )


def unfit(fields: Sequence[str]) -> LogLine:
    """Warn of fields of a run that Airflow cannot carry as they came."""
    named = ", ".join(repr(clipped(name)) for name in fields[:MOST_NAMED])
    return LogLine(
        "warning",
        f"The run's JSON has what Airflow cannot carry, in {named}: it is handed on with U+FFFD for such a character, "
        "and with text for such a number.",
    )


def unreadable(fields: Mapping[str, Any]) -> LogLine:
    """Warn of fields of a run that are not as the API describes them."""
    named = ", ".join(f"{name!r} is {clipped(repr(value))}" for name, value in fields.items())
    return LogLine(
        "warning",
        f"The run's JSON has what cannot be read: {named}. The wait goes on without: its id and its status decide.",
    )


def asked(answer: Answer) -> str:
    """Say at the end of a message where it was met: the URL, which has the id."""
    return f"Asked: {answer.reply.target}"


def no_answer(answer: Answer) -> str:
    """Say that a poll was not answered, and why."""
    return f"No answer: {answer.trouble}. The run itself may be well"


def reminder(policy: WaitPolicy, state: WaitState, at: float) -> list[LogLine]:
    """Say that the wait goes on, if nothing was said for a while."""
    if at - state.last_logged_at < STILL_WAITING_EVERY:
        return []
    left = "" if policy.deadline == NEVER else f", {duration(policy.deadline - at)} left"
    waited = duration(at - policy.started_at)
    return [LogLine("info", f"Still waiting: {state.described()}, {waited} so far{left}.")]


def still_no_answer(state: WaitState, answer: Answer, patience_ends: float) -> list[LogLine]:
    """Say that trouble goes on, if nothing was said for a while."""
    if answer.at - state.last_logged_at < STILL_NO_ANSWER_EVERY:
        return []
    lasts, left = duration(answer.at - state.failing_since), duration(patience_ends - answer.at)
    polls = f"{state.consecutive_failures} polls"
    return [
        LogLine(
            "warning", f"Still no answer: {answer.trouble}, for {lasts} and {polls}; giving up in {left}."
        )
    ]


def ending(state: WaitState, run: WorkflowRun) -> LogLine:
    """Tell how a run ended, how long that took, and where the time went."""
    spent = state.where_the_time_went()
    waited = (
        f" Waited here for {duration(state.waited())} with {state.polls} polls: {spent}." if spent else ""
    )
    return LogLine(
        "info",
        f"Workflow run {run.id} is {state.described()}, {duration(run.seconds_run)} after its creation.{waited}",
    )


def last_seen(state: WaitState) -> str:
    """Write what is known of the run from the last good poll."""
    if state.seen_at is None:
        return "the run has not been seen"
    if state.status is None:
        return "its last status was not kept"
    import pendulum

    seen = pendulum.from_timestamp(state.polled_at or state.seen_at).to_iso8601_string()
    return f"it was last seen {state.described()} at {seen}"


def last_seen_since(state: WaitState) -> str:
    """Write the same, and what was met since."""
    since = f", and since then there was no answer ({state.last_failure})" if state.last_failure else ""
    return f"{last_seen(state)}{since}"


def facts_of(state: WaitState) -> dict[str, Any]:
    """Return what every error of a wait carries."""
    return {
        "workflow_run_id": state.workflow_run_id,
        "last_status": state.status,
        "last_seen_at": state.polled_at or state.seen_at,
    }


def rejection(state: WaitState, answer: Answer) -> AnonError:
    """Make the error for an answer that asking again will not change."""
    kind: type[AnonError] = AnonRejectedError
    connection = f"connection {answer.reply.conn_id!r}"
    why = f"The API does not take this request: check 'host' of {connection}, and the id."
    if answer.kind is AnswerKind.NOT_FOUND and state.seen_at is not None:
        kind = AnonNotFoundError
        why = f"The run is gone, or hidden from this token: {last_seen(state)}."
    elif answer.kind is AnswerKind.NOT_FOUND:
        kind = AnonNotFoundError
        why = "No such run, or not visible to this token: check the id, and the account of the token."
        if answer.is_web_page:
            why = f"A web page answers in the place of the API: check 'host' of {connection}."
    elif answer.kind is AnswerKind.UNAUTHORIZED:
        kind = AnonAuthenticationError
        why = f"The API refuses the credential: check 'password' (the token) and 'login' of {connection}."
    elif 300 <= (answer.status_code or 0) < 400:
        why = f"The API never redirects, and no redirect is followed: check 'host' of {connection}."
    said = f" The API says: {answer.excerpt}" if answer.excerpt else ""
    return kind(
        f"{answer.trouble}. {why}{said} {asked(answer)}",
        status_code=answer.status_code,
        **facts_of(state),
    )


def lost_contact(policy: WaitPolicy, state: WaitState, answer: Answer) -> AnonUnavailableError:
    """Make the error for an API that has been unreachable for too long."""
    if state.seen_at is None:
        text = (
            f"No answer: {answer.trouble}. The state of the run is unknown. Check 'host' of connection "
            f"{answer.reply.conn_id!r}, and whether the API is up. {asked(answer)}"
        )
    else:
        text = (
            f"Lost contact with the API {duration(answer.at - state.seen_at)} ago (outage_tolerance is "
            f"{duration(policy.outage_tolerance)}): {answer.trouble}. The state of the run is unknown, which does "
            f"not mean that it failed: {last_seen(state)}. {asked(answer)}"
        )
    return AnonUnavailableError(text, status_code=answer.status_code, **facts_of(state))
