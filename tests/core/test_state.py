"""What a wait remembers between two polls, and what it tells the log."""

from __future__ import annotations

import pytest
from samples import NOW, RUN_ID, payload

from airflow_anon.core.messages import described, duration
from airflow_anon.core.state import WaitState
from airflow_anon.runs import WorkflowRun


def run(status: str, state: str | None = None, **fields) -> WorkflowRun:
    return WorkflowRun.from_payload(payload(status, currentStateName=state, **fields))


def texts(lines) -> list[str]:
    return [line.text for line in lines]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (4.25, "4.2 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200.9, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (273_600, "3 d 4 h"),
        (86_400 * 1000, "1000 d"),
        (float("inf"), "an unlimited time"),
    ],
)
def test_a_duration_reads_as_people_write_it(seconds, text):
    assert duration(seconds) == text


def test_a_status_is_logged_with_the_state_if_there_is_one():
    assert described("IN_PROGRESS", "post_invoice") == "IN_PROGRESS (state 'post_invoice')"
    assert described("IN_PROGRESS", None) == "IN_PROGRESS"
    assert described("IN_PROGRESS", "") == "IN_PROGRESS"


def test_a_poll_that_shows_nothing_new_is_not_logged():
    state = WaitState(RUN_ID)
    state.saw(run("IN_PROGRESS", "fetch"), NOW, 0.0)

    lines, entered = state.saw(run("IN_PROGRESS", "fetch"), NOW + 10, 0.0)

    assert (lines, entered) == ([], False)


def test_a_change_is_logged_once_with_both_sides():
    state = WaitState(RUN_ID)
    state.saw(run("PENDING"), NOW, 0.0)

    lines, _ = state.saw(run("IN_PROGRESS", "fetch"), NOW + 10, 0.0)

    assert texts(lines) == [f"Workflow run {RUN_ID}: PENDING -> IN_PROGRESS (state 'fetch')"]


def test_a_change_of_the_state_alone_is_logged_too():
    state = WaitState(RUN_ID)
    state.saw(run("IN_PROGRESS", "fetch"), NOW, 0.0)

    lines, _ = state.saw(run("IN_PROGRESS", "post"), NOW + 10, 0.0)

    assert texts(lines) == [
        f"Workflow run {RUN_ID}: IN_PROGRESS (state 'fetch') -> IN_PROGRESS (state 'post')"
    ]


def test_contact_after_an_outage_is_logged_with_how_long_it_was():
    state = WaitState(RUN_ID)
    state.saw(run("PENDING"), NOW, 0.0)
    state.failed("503", NOW + 10)
    state.failed("504", NOW + 20)

    lines, _ = state.saw(run("PENDING"), NOW + 30, 0.0)

    assert texts(lines) == ["Contact again after 30 s, in which 2 polls had no answer."]
    assert (state.consecutive_failures, state.last_failure) == (0, "")


def test_missed_polls_are_counted_and_the_first_is_dated():
    state = WaitState(RUN_ID)
    state.saw(run("PENDING"), NOW, 0.0)

    state.failed("503", NOW + 10)
    state.failed("504", NOW + 20)

    assert (state.consecutive_failures, state.failing_since, state.last_failure) == (2, NOW + 10, "504")
    assert (state.status, state.seen_at) == ("PENDING", NOW)


def test_each_unknown_status_is_warned_of_once():
    state = WaitState(RUN_ID)

    lines = []
    for number, status in enumerate(["PAUSED", "PAUSED", "PENDING", "PAUSED", "QUEUED", "PAUSED"]):
        lines += state.saw(run(status), NOW + number, 0.0)[0]

    warnings = [line.text for line in lines if line.level == "warning"]
    assert [("PAUSED" in text, "QUEUED" in text) for text in warnings] == [(True, False), (False, True)]
    assert all("has not ended, so the wait goes on" in text for text in warnings)


def test_an_unknown_status_that_has_ended_is_warned_of_as_such():
    lines, _ = WaitState(RUN_ID).saw(run("CANCELLED", completedAt="2023-11-14T22:11:00Z"), NOW, 0.0)

    assert [line.level for line in lines] == ["warning"]
    assert "By its completedAt it has ended." in lines[0].text


@pytest.mark.parametrize(
    ("story", "entries"),
    [
        (["AWAITING_USER_INPUT/a"], 1),
        (["AWAITING_USER_INPUT/a"] * 3, 1),
        (["PENDING/", "AWAITING_USER_INPUT/a", "AWAITING_USER_INPUT/a"], 1),
        (["AWAITING_USER_INPUT/a", "IN_PROGRESS/b", "AWAITING_USER_INPUT/a"], 2),
        (["AWAITING_USER_INPUT/a", "AWAITING_USER_INPUT/b", "AWAITING_USER_INPUT/b"], 2),
        (["AWAITING_USER_INPUT/a", "consecutive_failures", "AWAITING_USER_INPUT/a"], 1),
        (["PENDING/", "IN_PROGRESS/"], 0),
    ],
)
def test_each_question_is_reported_once(story, entries):
    state = WaitState(RUN_ID)

    calls = []
    for number, scene in enumerate(story):
        status, _, state_name = scene.partition("/")
        if status == "consecutive_failures":
            state.failed("503", NOW + number)
        else:
            calls.append(state.saw(run(status, state_name or None), NOW + number, 0.0)[1])

    assert calls.count(True) == entries


def test_the_wait_for_user_input_began_when_the_run_last_changed():
    state = WaitState(RUN_ID)

    state.saw(run("AWAITING_USER_INPUT"), NOW, 120.0)
    state.saw(run("AWAITING_USER_INPUT"), NOW + 60, 180.0)

    assert state.awaiting_since == NOW - 120


HOURS = 3600.0
A_YEAR = 365 * 24 * HOURS


@pytest.mark.parametrize(
    ("before", "after"),
    [("IN_PROGRESS/", "AWAITING_USER_INPUT/"), ("AWAITING_USER_INPUT/a", "AWAITING_USER_INPUT/b")],
    ids=["at work", "another question"],
)
def test_the_wait_for_user_input_never_began_before_the_last_good_poll_that_saw_something_else(before, after):
    state = WaitState(RUN_ID)
    for number, scene in enumerate([before, before, "consecutive_failures", after]):
        status, _, state_name = scene.partition("/")
        if scene == "consecutive_failures":
            state.failed("503", NOW + 10 * number)
        else:
            state.saw(run(status, state_name or None), NOW + 10 * number, A_YEAR)

    assert state.awaiting_since == NOW + 10


def test_the_wait_for_user_input_began_when_the_api_says_it_did_after_the_last_good_poll():
    state = WaitState(RUN_ID)
    state.saw(run("IN_PROGRESS"), NOW, None)

    state.saw(run("AWAITING_USER_INPUT"), NOW + HOURS, 600.0)

    assert state.awaiting_since == NOW + HOURS - 600


def test_what_only_counts_as_a_poll_says_nothing_of_when_the_wait_for_user_input_began():
    state = WaitState(RUN_ID, seen_at=NOW, status="IN_PROGRESS", polled_at=NOW - 5 * HOURS)

    state.saw(run("AWAITING_USER_INPUT"), NOW + 1, 4 * HOURS)

    assert state.awaiting_since == NOW + 1 - 4 * HOURS


def asked_before(hours, **fields):
    asked_at = NOW - hours * HOURS
    return WaitState(RUN_ID, seen_at=NOW, status="AWAITING_USER_INPUT", awaiting_since=asked_at, **fields)


def test_an_api_that_touches_a_run_while_it_is_watched_asks_nothing_anew():
    state = asked_before(hours=5)

    _, entered = state.saw(run("AWAITING_USER_INPUT"), NOW, 0.0)

    assert (entered, state.awaiting_since) == (False, NOW - 5 * HOURS)


def test_the_wait_for_user_input_is_over_when_the_run_goes_on():
    state = WaitState(RUN_ID)
    state.saw(run("AWAITING_USER_INPUT"), NOW, 0.0)

    state.saw(run("IN_PROGRESS"), NOW + 1, 0.0)

    assert state.awaiting_since is None


def test_the_time_is_counted_for_the_status_it_was_spent_in():
    state = WaitState(RUN_ID)
    state.saw(run("PENDING"), NOW, 0.0)
    state.saw(run("IN_PROGRESS"), NOW + 2, 0.0)
    state.failed("503", NOW + 5)

    state.saw(run("COMPLETED"), NOW + 9.5, 0.0)

    assert state.where_the_time_went() == "PENDING 2 s, IN_PROGRESS 7.5 s"
    assert state.waited() == 9.5
    assert state.polls == 4


def test_what_is_remembered_of_an_api_gone_mad_stays_small():
    state = WaitState(RUN_ID)

    warnings = []
    for number in range(1000):
        seen = run(f"STATUS_{number}_" + "x" * 10_000, "y" * 10_000)
        warnings += [line for line in state.saw(seen, NOW + number, 0.0)[0] if line.level == "warning"]

    assert len(str(state)) < 10_000
    assert all(len(line.text) < 1000 for line in warnings)
    assert state.waited() == 999


@pytest.mark.parametrize("length", [120, 121, 10_000])
def test_a_status_that_is_too_long_to_keep_is_still_the_same_at_the_next_poll(length):
    state = WaitState(RUN_ID)
    seen = run("X" * length, "y" * length)
    state.saw(seen, NOW, 0.0)

    lines, _ = state.saw(seen, NOW + 1, 0.0)

    assert lines == []
