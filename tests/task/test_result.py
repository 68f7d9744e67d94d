"""How a wait ends for a task: with the run's JSON, or with an error that says what happened."""

import pytest
from samples import NOW, RUN_ID, payload

from airflow_anon.core.group import WaitGroup
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import (
    AnonUnknownStatusError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.runs import WorkflowRun
from airflow_anon.task.result import result_of

ENDED_AT = "2023-11-14T22:11:00Z"


def run(status, **fields):
    return WorkflowRun.from_payload(payload(status, **fields))


def ended(run):
    """Return the group of a run whose end was seen."""
    group = WaitGroup(WaitPolicy(), [RUN_ID])
    group.take(group.alone, PollResult(Outcome.OVER, NOW, run))
    return group


@pytest.mark.parametrize("status", ["COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN"])
def test_a_good_end_is_the_runs_json(status):
    assert result_of(ended(run(status, addedLater=[1]))) == [payload(status, addedLater=[1])]


def test_a_run_that_failed_says_where_and_after_how_long():
    failed = run("FAILED", currentStateName="post_invoice")

    with pytest.raises(AnonWorkflowRunFailedError) as raised:
        result_of(ended(failed))

    assert raised.value.run is failed
    assert (raised.value.workflow_run_id, raised.value.last_status) == (RUN_ID, "FAILED")
    assert "is FAILED (state 'post_invoice')" in str(raised.value)
    assert "It ended 11 min after its creation." in str(raised.value)


def test_a_run_that_failed_says_no_more_than_can_be_read():
    failed = run("FAILED", workflowId=7, createdAt="soon")

    with pytest.raises(AnonWorkflowRunFailedError) as raised:
        result_of(ended(failed))

    assert "None" not in str(raised.value)
    assert f"Workflow run {RUN_ID} is FAILED" in str(raised.value)


def test_an_end_in_a_status_that_nobody_knows_is_no_failure_and_no_success():
    with pytest.raises(AnonUnknownStatusError, match="ended in CANCELLED, which this version"):
        result_of(ended(run("CANCELLED", completedAt=ENDED_AT)))


@pytest.mark.parametrize(
    ("outcome", "awaiting_since", "kind", "words"),
    [
        (Outcome.TIMEOUT, None, AnonWaitTimeoutError, "was not over after 10 min (timeout is 10 min)"),
        (
            Outcome.USER_INPUT_TIMEOUT,
            NOW + 480,
            AnonUserInputTimeoutError,
            "has waited for user input for 2 min (user_input_timeout is 2 min)",
        ),
    ],
)
def test_a_limit_that_is_over_is_named_with_what_was_seen_last(outcome, awaiting_since, kind, words):
    policy = WaitPolicy(started_at=NOW, deadline=NOW + 600, user_input_timeout=120.0)
    group = WaitGroup(policy, [RUN_ID], seen_at=NOW + 590)
    group.alone.status, group.alone.awaiting_since = "IN_PROGRESS", awaiting_since
    group.take(group.alone, PollResult(outcome, NOW + 600))

    with pytest.raises(kind) as raised:
        result_of(group)

    assert type(raised.value) is kind
    assert words in str(raised.value)
    assert "last seen IN_PROGRESS" in str(raised.value)
    assert (raised.value.last_status, raised.value.last_seen_at) == ("IN_PROGRESS", NOW + 590)
