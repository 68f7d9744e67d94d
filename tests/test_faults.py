"""Whatever goes wrong, in every mode: a whole task is carried out against faults that nobody has picked."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from aiohttp import web_response
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS
from carry_out import MODES, carry_out, moving_time
from hypothesis import event, given, note, settings, strategies as st

from airflow_anon.client import shared_client
from airflow_anon.core.answers import LONGEST_RETRY_AFTER
from airflow_anon.core.codec import SETTLED_AFTER
from airflow_anon.core.polling import FIRST_POLL_PATIENCE, LONGEST_BACKOFF, SPREAD_OF_BACKOFF
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonNotFoundError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonUnknownStatusError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.simulator import MovableClock, Simulator

pytestmark = pytest.mark.unmeasured
ALL_MODES = MODES | {"reschedule, nothing kept": MODES["reschedule"]}
WELL = {"COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN"}
GOOD = "slow 0s"
A_MOMENT = 3.0
HOUR = 3600.0


# What is drawn


def http_dates(seconds):
    """Write a time in the three forms that HTTP has for it."""
    moment = time.gmtime(seconds)
    return [
        formatdate(seconds, usegmt=True),
        time.strftime("%A, %d-%b-%y %H:%M:%S GMT", moment),
        time.asctime(moment),
    ]


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


dates = st.builds(
    lambda away, form: http_dates(time.time() + away)[form],
    st.sampled_from([-20 * 365 * 24 * HOUR, -HOUR, 0.0, 90.0, HOUR, 40 * 365 * 24 * HOUR]),
    st.integers(0, 2),
)
retry_afters = (
    st.sampled_from(
        [
            "0", "1", "7", "120", "86400", "9" * 400, "-1", "+5", "1.5", "1e9", "inf", "-inf", "nan", "soon", "7, 9",
            "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Wed, 25 Nov 2026 04:00:00 +9999",
            "Wed, 31 Feb 2026 04:00:00 GMT", "\u0661\u0662",
        ]
    )
    | dates
)  # fmt: skip
turned_down = st.builds(
    lambda status, after: f"{status} retry-after={quoted(after)}",
    st.sampled_from([429, 429, 503, 503, 500, 200, 401, 301]),
    retry_afters,
)
faults = st.one_of(
    st.sampled_from([GOOD, GOOD, GOOD, "401", "429", "503"]),
    st.sampled_from([GOOD, "500", "502", "503 x4", "408", "425", "garbage", "html", "empty", "wrong-id"]),
    st.sampled_from([GOOD, "reset", "cut", "huge", "huge-chunked", "slow 10ms", "drip 0.01ms"]),
    st.sampled_from([GOOD, "404", "403", "503 x12", "401 x30"]),
    turned_down,
)
final_faults = st.sampled_from(["400", "410", "422", "300", "304", "308", "redirect", "404"])
many_faults = st.builds(
    lambda some, final: [*some, *final],
    st.lists(faults, max_size=12),
    st.just([]) | st.just([]) | st.just([]) | final_faults.map(lambda fault: [fault]),
)
lasting = st.sampled_from(["1 polls", "3 polls", "17s", "44s", "333s", "2h"])
steps = st.builds(
    lambda status, lasts: f"{status} {lasts}",
    st.sampled_from(
        ["PENDING", "IN_PROGRESS", "IN_PROGRESS (post)", "AWAITING_USER_INPUT", "UNKNOWN:QUEUED"]
    ),
    lasting,
)
ends = st.sampled_from(
    [
        "COMPLETED", "COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN", "FAILED", "FAILED", "ENDED:CANCELLED",
        "IN_PROGRESS", "AWAITING_USER_INPUT until answered, COMPLETED",
    ]
)  # fmt: skip
scripts = st.builds(
    lambda first, middle, end: ", ".join([*first, *middle, end]),
    st.sampled_from([[], [], [], ["MISSING 2 polls"], ["MISSING 30s"], ["MISSING 90s"]]),
    st.lists(steps, max_size=3),
    ends,
)


def not_too_many_polls(drawn):
    return drawn | {"timeout": min(drawn["timeout"], max(45, 40 * drawn["poke_interval"]))}


options = st.fixed_dictionaries(
    {
        "poke_interval": st.sampled_from([0.1, 5, 30, 61, 400]),
        "timeout": st.sampled_from([0, 1, 45, 600, 3600]),
        "outage_tolerance": st.sampled_from([0, 20, 300, 600]),
        "exponential_backoff": st.booleans(),
        "max_wait": st.sampled_from([None, 0, 50, timedelta(minutes=5)]),
        "user_input_timeout": st.sampled_from([None, None, 0, 100, 1000]),
        "soft_fail": st.booleans(),
        "skip_on_no_action": st.booleans(),
    }
).map(not_too_many_polls)
skews = st.sampled_from([0.0, 0.0, -5 * HOUR, 5 * HOUR, 0.7])


@dataclass
class Case:
    script: str
    faults: list[str]
    options: dict[str, object]
    skew: float = 0.0
    outage: tuple[int, str] | None = None
    patience: float = 2.0


cases = st.builds(
    Case,
    scripts,
    many_faults,
    options,
    skews,
    st.none()
    | st.none()
    | st.tuples(st.sampled_from([10, 200, 5000]), st.sampled_from(["refused", "503", "429"])),
)


# How it is carried out


def dated_by(clock):
    return lambda: formatdate(clock.now(), usegmt=True)


def halfway(least, most):
    return (least + most) / 2


@contextmanager
def an_api(case):
    """Serve an API whose clock is not ours; its answers are dated by it."""
    clock = MovableClock(time.time() + case.skew)
    with (
        Simulator(token="let-me-in", clock=clock) as simulator,
        mock.patch.object(web_response, "rfc822_formatted_time", dated_by(clock)),
        mock.patch.dict(os.environ, AIRFLOW_CONN_ANON_DEFAULT=simulator.connection(timeout=case.patience)),
        mock.patch.object(random, "uniform", halfway),
    ):
        yield simulator


def is_kept(mode):
    return AIRFLOW_V_3_3_PLUS and mode != "reschedule, nothing kept"


def carried_through(case, mode):
    """Carry a case out in one mode, and a second time as a retry; return all that is to be judged."""
    with an_api(case) as simulator, moving_time(simulator) as clock:
        run_id = simulator.create_run(case.script)
        if case.faults:
            simulator.add_faults(", ".join(case.faults), run_id)
        if case.outage:
            simulator.outage(*case.outage)

        def wait():
            return carry_out(
                lambda: AnonWorkflowRunSensor(
                    task_id="wait", workflow_run_id=run_id, **ALL_MODES[mode], **case.options
                ),
                clock,
                keeps=is_kept(mode),
            )

        left_before = what_is_open()
        story = wait()
        facts = SimpleNamespace(
            story=story,
            run=simulator.run(run_id),
            slept=list(clock.slept),
            took=clock.offset,
            requests=simulator.requests_for(run_id),
        )
        facts.second = wait()
        facts.run_after_second = simulator.run(run_id)
        facts.left_open = what_stays_open(left_before)
    return facts


def what_is_open():
    # Sockets of the simulator itself are among them, but it closes its end when a client does.
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def what_stays_open(before):
    for _ in range(400):
        if all(now <= then for now, then in zip(what_is_open(), before, strict=True)):
            return []
        threading.Event().wait(0.005)
    return [(before, what_is_open())]


@contextmanager
def nothing_left_open():
    """Collect what was given up: whatever was not closed complains."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert not [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert not any(shared_client.CLIENTS.values())


@pytest.fixture(scope="module", autouse=True)
def _settled_airflow(cheap_collections):
    """Let Airflow open what it keeps open."""
    carried_through(Case("IN_PROGRESS 10s, COMPLETED", [], {"poke_interval": 5}), "deferred")


# What holds


def check(case, mode, facts):
    check_end(case, facts.story, facts.run)
    check_end(case, facts.second, facts.run_after_second)
    assert not facts.left_open
    check_pauses(case, facts, keeps="reschedule" not in mode or is_kept(mode), mode=mode)
    assert facts.requests <= most_requests(case, facts), facts.requests
    assert len(facts.story.events) == facts.story.triggers


def check_end(case, story, run):
    """Whatever became of the task, the run is the reason or the error names another."""
    status, error = run and run["status"], story.error
    if story.state == "success":
        assert status in WELL
        assert story.xcom == run
        return
    assert story.xcom is None
    if story.state == "skipped":
        took_no_action = status == "COMPLETED_WITH_NO_ACTION_TAKEN" and case.options["skip_on_no_action"]
        assert took_no_action or (case.options["soft_fail"] and is_final(reason_of(error), status))
    elif story.state == "failed":
        assert not case.options["soft_fail"]
        assert is_final(error, status)
    else:
        assert story.state == "up_for_retry"
        assert type(error) in {
            AnonAuthenticationError,
            AnonNotFoundError,
            AnonRejectedError,
            AnonUnavailableError,
            AnonUnknownStatusError,
        }, repr(error)
        assert (type(error) is AnonUnknownStatusError) <= (status == "CANCELLED")
        assert error.workflow_run_id


def reason_of(skip):
    """Return what a skip was made of; Airflow makes skips of skips, and its loop names no cause."""
    while isinstance(skip, AirflowSkipException) and (skip.__cause__ or skip.__context__):
        skip = skip.__cause__ or skip.__context__
    return skip


def is_final(error, status):
    if isinstance(error, AnonWorkflowRunFailedError):
        return status == "FAILED"
    return isinstance(error, AnonWaitTimeoutError | AirflowSensorTimeout)


def longest_interval(case, facts):
    interval, max_wait = case.options["poke_interval"], case.options["max_wait"]
    if not case.options["exponential_backoff"]:
        return interval
    if isinstance(max_wait, timedelta):
        max_wait = max_wait.total_seconds()
    return max_wait or facts.took + interval


def check_pauses(case, facts, *, keeps, mode):
    """No pause is longer than what was asked for, and no wait longer than its time."""
    # Where nothing is kept, what came before the first reschedule is not known any more.
    timeout = case.options["timeout"] * (1 if keeps else 2)
    most = max(longest_interval(case, facts), LONGEST_RETRY_AFTER, LONGEST_BACKOFF) * (1 + SPREAD_OF_BACKOFF)
    assert all(0 <= pause <= most + 1 for pause in facts.slept), facts.slept
    held_back = SETTLED_AFTER if mode == "deferred" else 0.0  # the event is, not the judgement
    assert facts.took <= timeout + A_MOMENT + held_back, (facts.took, facts.slept)


def most_requests(case, facts):
    """Count a poll for each interval, the insistence of a first poll, and the asking twice of what breaks off."""
    shortest = max(min(case.options["poke_interval"], longest_interval(case, facts)), 1.0)
    polls = facts.took / (shortest * 0.99) + 1
    insisting = FIRST_POLL_PATIENCE / 15 + 5
    return 2 * (polls + insisting + facts.story.starts)


def in_mode(mode, case):
    with nothing_left_open():
        facts = carried_through(case, mode)
    check(case, mode, facts)
    return facts


# Each case is a whole task in each mode, and its retry.
@pytest.mark.timeout(0)
@settings(max_examples=settings().max_examples // 3)
@given(case=cases)
def test_a_wait_keeps_its_promises_and_the_modes_agree(case):
    ends = {}
    for mode in ALL_MODES:
        note(mode)
        story = in_mode(mode, case).story
        ends[mode] = end_of(story)
        event(story.state)
        event(type(story.error).__name__)

    state, kind, _ = ends["poke"]
    skipped_at_timeout = state == "skipped" and case.options["soft_fail"] and "FAILED" not in case.script
    if skipped_at_timeout or kind in ("timeout", "AnonUnavailableError"):
        # A worker polls for itself before it believes a trigger that has seen nothing, and may see more.
        assert ends["poke"] == ends["reschedule"], ends
    else:
        assert len(set(ends.values())) == 1, ends


def end_of(story):
    # Of what is over within the same moment Airflow's own loop may be the first to say so.
    is_timeout = isinstance(story.error, AirflowSensorTimeout)
    kind = "timeout" if is_timeout else "" if story.state == "skipped" else type(story.error).__name__
    return story.state, kind, (story.xcom or {}).get("status")


SLOW = ["hang", "drip 0.2s", "drip-headers 0.2s", "slow 5s"]


@pytest.mark.parametrize("mode", ALL_MODES)
def test_an_answer_that_does_not_come_is_given_up(mode):
    """These take as long as they take, so there is one of each: all in a first poll, and again in later ones."""
    drawn = {"poke_interval": 61, "timeout": 1200, "soft_fail": False, "skip_on_no_action": False}
    drawn |= {"exponential_backoff": False, "max_wait": None}

    facts = in_mode(mode, Case("IN_PROGRESS 300s, COMPLETED", [*SLOW, GOOD, *SLOW], drawn, patience=0.2))

    assert facts.story.state == "success", facts.story.error
