"""Many runs of one wait: what all of them come to."""

from dataclasses import replace

import pytest
from samples import NOW, payload

from airflow_anon.core.flow import LogLine, Sleep
from airflow_anon.core.group import MOST_WARNINGS, WaitGroup, counted, listed
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import AnonProtocolError
from airflow_anon.runs import WorkflowRun

IDS = [f"{number}0000000-0000-4000-8000-000000000000" for number in range(1, 4)]
ENDS = {"COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN", "FAILED"}


def group_of(*ids, fail_fast=True, **policy):
    return WaitGroup(WaitPolicy(started_at=NOW, **policy), ids or IDS, fail_fast=fail_fast)


def seen(workflow_run_id, status, pause=60.0):
    run = WorkflowRun.from_payload(payload(status, id=workflow_run_id))
    outcome = Outcome.OVER if status in ENDS else Outcome.WAITING
    return PollResult(outcome, NOW, run, Sleep(pause))


def taken(group, *statuses):
    group.due(NOW)
    states = list(group.members.values())
    return [
        group.take(state, seen(state.workflow_run_id, status))
        for state, status in zip(states, statuses, strict=True)
    ]


def test_a_run_that_is_named_twice_is_polled_once_and_handed_on_twice():
    group = group_of(IDS[0], IDS[1].upper(), IDS[0])

    taken(group, "COMPLETED", "COMPLETED")

    assert group.size == 2
    assert [run["id"] for run in group.payloads()] == [IDS[0], IDS[1], IDS[0]]


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        (("PENDING", "COMPLETED", "COMPLETED"), Outcome.WAITING),
        (("COMPLETED", "COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN"), Outcome.OVER),
        (("PENDING", "FAILED", "COMPLETED"), Outcome.OVER),
    ],
)
def test_the_wait_is_over_when_all_runs_are_or_one_ended_badly(statuses, outcome):
    group = group_of()

    taken(group, *statuses)

    assert group.result().outcome is outcome


def test_without_fail_fast_a_bad_end_leaves_the_others_waiting():
    group = group_of(fail_fast=False)

    assert taken(group, "FAILED", "PENDING", "COMPLETED") == [False, False, False]
    assert group.result().outcome is Outcome.WAITING


def test_with_fail_fast_it_is_the_bad_end_that_is_enough():
    assert taken(group_of(), "COMPLETED", "FAILED", "PENDING") == [False, True, False]


def test_a_pause_ends_with_the_first_run_that_is_due():
    group = group_of(poke_interval=60.0)
    group.due(NOW)
    states = list(group.members.values())
    for state, pause in zip(states, (50.0, 20.0, 40.0), strict=True):
        group.take(state, seen(state.workflow_run_id, "PENDING", pause))

    assert group.result().pause.seconds == 20
    assert group.due(NOW + 45) == states[1:]


def test_how_all_ended_is_judged_by_the_worst_end_and_then_by_work_that_was_done():
    for statuses, worst in (
        (("COMPLETED", "FAILED", "COMPLETED"), "FAILED"),
        (("COMPLETED_WITH_NO_ACTION_TAKEN", "COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN"), "COMPLETED"),
    ):
        group = group_of(fail_fast=False)
        taken(group, *statuses)

        assert str(group.result().run.status) == worst


def test_of_many_warnings_a_few_are_logged():
    group = group_of()
    lines = [LogLine("info", "a change"), *[LogLine("warning", "no answer")] * (MOST_WARNINGS + 3)]

    assert [len(group.pick(line)) for line in lines] == [0, *[1] * MOST_WARNINGS, 0, 0, 0]


def test_a_single_run_speaks_for_itself_and_is_polled_whenever_it_is_time():
    group = group_of(IDS[0])
    line = LogLine("info", "a change")
    group.take(group.alone, seen(IDS[0], "PENDING", pause=60.0))

    assert group.pick(line) == [line]
    assert group.sum_up(NOW + 9000) == []
    assert group.due(NOW + 1) == [group.alone]
    assert group.described() == f"workflow run {IDS[0]}"


def test_what_does_not_fit_into_the_room_for_json_is_not_kept_unless_it_ended_badly():
    group = group_of(fail_fast=False)
    group.room = 10.0
    for state, status in zip(group.members.values(), ("COMPLETED", "COMPLETED", "FAILED"), strict=True):
        polled = seen(state.workflow_run_id, status)
        group.take(state, replace(polled, known=(b"8 bytes.", polled.run)))

    assert [state.run is not None for state in group.members.values()] == [True, False, True]
    assert group.unread(NOW) == [group.member(IDS[1])]


def test_a_poll_that_nobody_heard_of_still_says_that_a_run_asks_for_user_input():
    group = group_of(IDS[0], IDS[1])
    asks = [WorkflowRun.from_payload(payload("AWAITING_USER_INPUT", id=run_id)) for run_id in IDS[:2]]
    for state, run in zip(group.members.values(), asks, strict=True):
        state.saw(run, NOW, None)
    group.take(group.member(IDS[0]), PollResult(Outcome.WAITING, NOW, asks[0], asks_for_input=True))

    assert group.asking == asks[:1]
    group.asked()
    group.take(group.member(IDS[1]), PollResult(Outcome.WAITING, NOW, asks[1]))
    assert group.asking == asks[1:]


def test_after_a_poll_in_place_of_the_triggerer_the_next_is_an_interval_later():
    group = group_of(poke_interval=60.0)
    for state in group.lacking(NOW + 500):
        group.take(state, replace(seen(state.workflow_run_id, "PENDING"), at=NOW + 501))

    assert group.result().pause.seconds == 59


def test_once_one_has_ended_the_wait_for_all_none_is_polled_again():
    group = group_of()
    taken(group, "PENDING", "FAILED", "PENDING")

    assert group.lacking(NOW) == []


def test_a_run_that_is_none_of_them_is_refused():
    with pytest.raises(AnonProtocolError, match="none of the runs"):
        group_of(IDS[0]).member(IDS[1])


@pytest.mark.parametrize(("number", "text"), [(1, "1 workflow run"), (2000, "2,000 workflow runs")])
def test_runs_are_counted_in_words(number, text):
    assert counted(number) == text


def test_of_thousands_a_few_are_named():
    assert listed(["a."] * 3) == "a. a. a."
    assert listed(["a."] * 1012).endswith("a. And 1,002 more.")
