"""
How a wait goes: one poll, patience, the next poll.

No I/O, no sleep, no log, no clock, no Airflow: see ``flow``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from airflow_anon.core.answers import ROWS, Answer, CachedRun, Verdict, interpret
from airflow_anon.core.flow import Flow, Log, LogLine, ReloadConnection, Request, Sleep
from airflow_anon.core.ids import path_of
from airflow_anon.core.messages import (
    STILL_NO_ANSWER_EVERY,
    asked,
    beginning,
    duration,
    lost_contact,
    no_answer,
    rejection,
    reminder,
    still_no_answer,
    unfit,
    unreadable,
)
from airflow_anon.core.policy import NEVER, WaitPolicy, limit_of, pause_after, spread_pause
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.runs import WorkflowRun

FIRST_POLL_PATIENCE = 60.0
FIRST_POLL_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
SPREAD_OF_BACKOFF = 0.25
# Kept among the unknown statuses that the log was told of; with its blanks it can be none of them.
UNFIT = "JSON that Airflow cannot carry"
UNREADABLE = "JSON that cannot be read"


@dataclass(frozen=True, slots=True)
class PollResult:
    """
    What one poll came to.

    :param run: the run as just seen; None if the poll went unanswered.
    :param at: when, in seconds since the epoch.
    :param pause: how long to leave the run alone, if the wait goes on.
    :param asks_for_input: whether the run has begun to wait for user input since the poll before.
    :param known: the run, together with the bytes that it was read from.
    """

    outcome: Outcome
    at: float
    run: WorkflowRun | None = None
    pause: Sleep = field(default=Sleep(0.0))
    asks_for_input: bool = False
    lines: tuple[LogLine, ...] = ()
    known: CachedRun | None = field(default=None, repr=False)


def fetch_run(workflow_run_id: str) -> Flow[WorkflowRun]:
    """
    Poll once, whatever the run's status, riding out short disturbances.

    :raises AnonError: there is no such run, or no answer.
    """
    policy, state = WaitPolicy(outage_tolerance=FIRST_POLL_PATIENCE), WaitState(workflow_run_id)
    polled = judge(
        policy, state, (yield from _insist(policy, state, (yield from _ask(workflow_run_id, None, state))))
    )
    if polled.run is None:  # pragma: no cover  for the type checker
        raise AssertionError("a first poll either sees the run or raises")
    if warnings := tuple(line for line in polled.lines if line.level == "warning"):
        yield Log(warnings)  # not that it waits for the run, since it does not
    return polled.run


def wait_for_run(
    policy: WaitPolicy,
    state: WaitState,
    *,
    delay: float = 0.0,
    before: PollResult | None = None,
    stop_for_input: bool = False,
) -> Flow[PollResult]:
    """
    Poll until the wait ends and return the last poll.

    :param delay: seconds before the first poll.
    :param before: a poll that has been taken already.
    :param stop_for_input: return also when the run has begun to wait for user input.
    :raises AnonError: the wait cannot go on.
    """
    if delay > 0:
        yield Sleep(delay)
    polled = before or (yield from poll(policy, state))
    before = None  # a wait is mostly asleep: it keeps little meanwhile
    while True:
        if polled.outcome is not Outcome.WAITING or (stop_for_input and polled.asks_for_input):
            return polled
        known, pause = polled.known, polled.pause
        del polled
        yield pause
        polled = yield from poll(policy, state, known)


def poll(
    policy: WaitPolicy, state: WaitState, known: CachedRun | None = None, *, is_last: bool = False
) -> Flow[PollResult]:
    """
    Poll once, log what there is to say, and return what it came to.

    A first poll asks again for a while before it gives up; every later one asks once.

    :param known: what the poll before came to, if it is at hand.
    :param is_last: whether patience was spent elsewhere: the log is not told that there is any left.
    :raises AnonError: the wait cannot go on.
    """
    answer = yield from _ask(state.workflow_run_id, known, state)
    if state.seen_at is None:
        answer = yield from _insist(policy, state, answer)
    if answer.reply.is_remembered and answer.at >= _gives_up_at(policy, state):
        answer = yield from _ask(state.workflow_run_id, own=True)  # what others were told ends no wait
    polled = judge(policy, state, answer)
    lines = polled.lines
    if is_last and polled.run is None:
        lines = (LogLine("warning", f"{no_answer(answer)}. {asked(answer)}"),)
    if lines:
        yield Log(lines)
    return polled


def _ask(
    workflow_run_id: str,
    known: CachedRun | None = None,
    state: WaitState | None = None,
    *,
    own: bool = False,
) -> Flow[Answer]:
    """
    Ask for a run, and once more where the answer may be the fault of something else.

    What the connection says may be old: a token that was rotated, a host that has moved, a certificate that was renewed.
    A rejection, or an answer about another run, may be that of a connection that is out of step. The second request
    counts as sent when the first was.

    :param state: of a poll that has just begun.
    :param own: whether to ask though the API asked another wait to leave it alone.
    """
    request = Request(path_of(workflow_run_id), workflow_run_id, own=own)
    answer = interpret((yield request), workflow_run_id, known)
    sent_at = answer.reply.sent_at
    reloads = ROWS[answer.kind].reloads and not answer.reply.is_remembered
    if reloads and (yield ReloadConnection()):
        answer = interpret((yield request), workflow_run_id)
    elif state is not None and _is_doubtful(answer, state):
        answer = interpret((yield replace(request, fresh=True)), workflow_run_id, known)
    else:
        return answer
    return replace(answer, reply=replace(answer.reply, sent_at=sent_at))


def _is_doubtful(answer: Answer, state: WaitState) -> bool:
    if answer.is_misplaced:
        return not state.consecutive_failures
    return state.seen_at is not None and ROWS[answer.kind].confirms


def _insist(policy: WaitPolicy, state: WaitState, answer: Answer) -> Flow[Answer]:
    asked_at, logged_at = answer.reply.sent_at, NEVER
    delays = iter(FIRST_POLL_DELAYS)
    while ROWS[answer.kind].insists:
        limit = min(asked_at + _first_poll_patience(policy, answer), policy.deadline)
        if answer.at >= limit:
            break
        if abs(answer.at - logged_at) >= STILL_NO_ANSWER_EVERY:
            logged_at = answer.at
            left = duration(limit - answer.at)
            yield Log(
                (
                    LogLine(
                        "warning", f"No run yet: {answer.trouble}. Asking again for {left}. {asked(answer)}"
                    ),
                )
            )
        delay = max(next(delays, FIRST_POLL_DELAYS[-1]), answer.retry_after)
        yield spread_pause(delay, limit - answer.at, SPREAD_OF_BACKOFF)
        answer = yield from _ask(state.workflow_run_id)
    return answer


def _first_poll_patience(policy: WaitPolicy, answer: Answer) -> float:
    """Return how long a first poll asks again; while the API is to be left alone, nobody learns whether it answers."""
    asks_for_longer = answer.reply.is_remembered or answer.retry_after > FIRST_POLL_PATIENCE
    return max(FIRST_POLL_PATIENCE, policy.outage_tolerance) if asks_for_longer else FIRST_POLL_PATIENCE


def judge(policy: WaitPolicy, state: WaitState, answer: Answer) -> PollResult:
    """
    Say what *answer* means for the wait, and take it into *state*.

    :raises AnonError: the wait cannot go on.
    """
    if answer.run is not None:
        return _judge_run(policy, state, answer, answer.run)
    row = ROWS[answer.kind]
    if (row.unseen if state.seen_at is None else row.seen) is Verdict.FAIL:
        raise rejection(state, answer)
    return _judge_trouble(policy, state, answer)


def _judge_run(policy: WaitPolicy, state: WaitState, answer: Answer, run: WorkflowRun) -> PollResult:
    first = state.seen_at is None
    lines, asks_for_input = state.saw(run, answer.at, _unchanged_for(run, answer))
    if answer.unfit and state.warns_of(UNFIT):
        lines.append(unfit(answer.unfit))
    if answer.unreadable and state.warns_of(UNREADABLE):
        lines.append(unreadable(answer.unreadable))
    limit = limit_of(policy, state.awaiting_since)
    if run.is_over:
        outcome = Outcome.OVER
    elif answer.at < limit:
        outcome = Outcome.WAITING
        lines = (
            [beginning(policy, state, run), *lines] if first else lines or reminder(policy, state, answer.at)
        )
    else:
        outcome = Outcome.TIMEOUT if answer.at >= policy.deadline else Outcome.USER_INPUT_TIMEOUT
    if lines:
        state.last_logged_at = answer.at
    pause = pause_after(policy, state.awaiting_since, answer.at)
    return PollResult(outcome, answer.at, run, pause, asks_for_input, tuple(lines), answer.known)


def _judge_trouble(policy: WaitPolicy, state: WaitState, answer: Answer) -> PollResult:
    if answer.reply.is_remembered and answer.at < _gives_up_at(policy, state):
        return PollResult(Outcome.WAITING, answer.at, pause=_pause_in_trouble(policy, state, answer, 0.0))
    state.failed(answer.trouble, answer.at)
    if answer.at >= policy.deadline:
        return PollResult(Outcome.TIMEOUT, answer.at)
    patience_ends = _patience_ends(policy, state)
    if answer.at >= patience_ends:
        raise lost_contact(policy, state, answer)
    backoff = min(FIRST_BACKOFF * 2.0 ** min(state.consecutive_failures - 1, 16), LONGEST_BACKOFF)
    pause = _pause_in_trouble(policy, state, answer, backoff)
    lines = still_no_answer(state, answer, patience_ends)
    if state.consecutive_failures == 1:
        left = duration(patience_ends - answer.at)
        lines = [
            LogLine(
                "warning", f"{no_answer(answer)}; giving up after {left} without contact. {asked(answer)}"
            )
        ]
    if lines:
        state.last_logged_at = answer.at
    return PollResult(Outcome.WAITING, answer.at, pause=pause, lines=tuple(lines))


def _pause_in_trouble(policy: WaitPolicy, state: WaitState, answer: Answer, backoff: float) -> Sleep:
    """Pause as long as it takes, but not beyond the next limit."""
    limits = (policy.deadline, _patience_ends(policy, state), limit_of(policy, state.awaiting_since))
    seconds = max(policy.interval(answer.at), backoff, answer.retry_after)
    left = min(limit for limit in limits if limit > answer.at) - answer.at
    return spread_pause(seconds, left, SPREAD_OF_BACKOFF)


def _gives_up_at(policy: WaitPolicy, state: WaitState) -> float:
    """Return when a wait ends if it has no answer by then; a first poll has been patient before."""
    return min(policy.deadline, _patience_ends(policy, state))


def _patience_ends(policy: WaitPolicy, state: WaitState) -> float:
    """Return when contact counts as lost; a run that was never seen has had its patience before."""
    if state.seen_at is None:
        return state.failing_since
    # A pause between two polls may be longer than the tolerance: one missed poll is no outage yet.
    grace = min(policy.outage_tolerance, FIRST_POLL_PATIENCE)
    return max(state.seen_at + policy.outage_tolerance, state.failing_since + grace)


def _unchanged_for(run: WorkflowRun, answer: Answer) -> float | None:
    """Return for how long the run has been as it is, by the API's clock alone: ours may be off."""
    api_time = answer.api_time if run.awaits_user_input else None
    if api_time is None or run.updated_at is None:
        return None
    return max(api_time - run.updated_at.timestamp(), 0.0)
