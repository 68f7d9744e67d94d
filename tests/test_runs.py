"""What a run is, what its statuses mean, and which JSON describes one."""

from __future__ import annotations

import json
import pickle

import pytest
from samples import COMPLETED_AT, CREATED_AT, JOB_RUN_ID, RUN_ID, USER_ID, WORKFLOW_ID, payload

from airflow_anon.runs import WorkflowRun, WorkflowRunStatus, is_queued

QUESTIONS = ("is_known", "is_over", "succeeded", "failed", "took_no_action", "awaits_user_input")


def run(status: str = "IN_PROGRESS", **fields):
    return WorkflowRun.from_payload(payload(status, **fields))


@pytest.mark.parametrize(
    ("status", "completed_at", "yes"),
    [
        ("PENDING", None, {"is_known"}),
        ("IN_PROGRESS", None, {"is_known"}),
        ("IN_PROGRESS", COMPLETED_AT, {"is_known"}),
        ("AWAITING_USER_INPUT", None, {"is_known", "awaits_user_input"}),
        ("COMPLETED", COMPLETED_AT, {"is_known", "is_over", "succeeded"}),
        ("COMPLETED", None, {"is_known", "is_over", "succeeded"}),
        (
            "COMPLETED_WITH_NO_ACTION_TAKEN",
            COMPLETED_AT,
            {"is_known", "is_over", "succeeded", "took_no_action"},
        ),
        ("FAILED", COMPLETED_AT, {"is_known", "is_over", "failed"}),
        ("FAILED", None, {"is_known", "is_over", "failed"}),
        ("CANCELLED", None, set()),
        ("CANCELLED", COMPLETED_AT, {"is_over"}),
        ("completed", COMPLETED_AT, {"is_over"}),
        ("SUCCESS", COMPLETED_AT, {"is_over"}),
        ("A", None, set()),  # before every known status by the alphabet, and after
        ("Z", None, set()),
    ],
)
def test_a_status_means_what_the_table_says(status, completed_at, yes):
    seen = run(status, completedAt=completed_at)

    assert {question for question in QUESTIONS if getattr(seen, question)} == yes


def test_every_status_of_the_api_is_known():
    assert {str(status) for status in WorkflowRunStatus} == {
        "PENDING",
        "IN_PROGRESS",
        "COMPLETED",
        "FAILED",
        "AWAITING_USER_INPUT",
        "COMPLETED_WITH_NO_ACTION_TAKEN",
    }


def test_a_status_reads_as_its_name():
    assert f"{WorkflowRunStatus.FAILED}" == "FAILED"
    assert json.dumps(WorkflowRunStatus.FAILED) == '"FAILED"'


def test_a_run_has_the_fields_of_its_json():
    seen = run("FAILED", currentStateName="post_invoice")

    assert seen.id == RUN_ID
    assert seen.workflow_id == WORKFLOW_ID
    assert seen.status is WorkflowRunStatus.FAILED
    assert seen.current_state_name == "post_invoice"
    assert seen.job_run_id == JOB_RUN_ID
    assert seen.created_by_user_id == USER_ID
    assert seen.created_at.isoformat() == "2023-11-14T22:00:00+00:00"
    assert seen.updated_at.isoformat() == "2023-11-14T22:10:00+00:00"
    assert seen.completed_at.isoformat() == "2023-11-14T22:11:00+00:00"


def test_the_json_of_a_run_comes_out_as_it_went_in():
    received = payload("COMPLETED", addedLater={"deep": [1, None, "ü"]})

    given = WorkflowRun.from_payload(received).to_payload()

    assert json.dumps(given) == json.dumps(received)
    assert given is not received


@pytest.mark.parametrize("name", ["completedAt", "jobRunId", "currentStateName"])
def test_a_field_that_may_be_null_is_none(name):
    seen = run(**{name: None})

    assert seen.to_payload()[name] is None


@pytest.mark.parametrize("name", ["id", "status"])
@pytest.mark.parametrize("value", [None, "", " ", 7, True, [], {}, "no such value\n"])
def test_an_id_or_a_status_that_makes_no_sense_is_no_run(name, value):
    with pytest.raises(ValueError, match=name):
        WorkflowRun.from_payload({**payload(), name: value})


@pytest.mark.parametrize("name", ["id", "status"])
def test_without_an_id_or_a_status_it_is_no_run(name):
    body = payload()
    del body[name]

    with pytest.raises(ValueError, match=name):
        WorkflowRun.from_payload(body)


FURTHER = {
    "workflowId": "workflow_id",
    "currentStateName": "current_state_name",
    "jobRunId": "job_run_id",
    "createdByUserId": "created_by_user_id",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "completedAt": "completed_at",
}


@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("value", [7, True, [], {}])
def test_another_field_that_cannot_be_read_is_none(name, value):
    seen = run("FAILED", **{name: value})

    assert getattr(seen, FURTHER[name]) is None
    assert seen.unreadable == {name: value}
    assert seen.failed
    assert seen.to_payload()[name] == value


@pytest.mark.parametrize("name", FURTHER)
def test_another_field_that_is_null_or_missing_is_none_and_nothing_to_read(name):
    body = payload("COMPLETED")
    del body[name]

    for seen in (run("COMPLETED", **{name: None}), WorkflowRun.from_payload(body)):
        assert getattr(seen, FURTHER[name]) is None
        assert seen.unreadable == {}
        assert seen.succeeded


@pytest.mark.parametrize("name", ["workflowId", "jobRunId", "createdByUserId"])
@pytest.mark.parametrize("text", ["job-17", "wf_1", "7", "x" * 120])
def test_an_id_of_another_kind_is_kept_as_it_is(name, text):
    seen = run(**{name: text})

    assert getattr(seen, FURTHER[name]) == text
    assert seen.unreadable == {}


@pytest.mark.parametrize("name", ["workflowId", "jobRunId", "createdByUserId"])
@pytest.mark.parametrize("text", ["", " ", "two words", "a\nb", "x" * 121, "\u00e9", "\x00"])
def test_what_cannot_be_shown_is_no_id(name, text):
    seen = run(**{name: text})

    assert getattr(seen, FURTHER[name]) is None
    assert seen.unreadable == {name: text}


@pytest.mark.parametrize(
    ("completed_at", "is_over"), [(None, False), ("yesterday", True), (7, True), ("", True)]
)
def test_an_unknown_status_is_over_if_its_completed_at_is_not_null(completed_at, is_over):
    assert run("CANCELLED", completedAt=completed_at).is_over is is_over


@pytest.mark.parametrize("body", [None, [], "COMPLETED", 7, True, b"{}"])
def test_json_that_is_no_object_is_no_run(body):
    with pytest.raises(ValueError, match=type(body).__name__):
        WorkflowRun.from_payload(body)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2023-11-07T05:31Z", "2023-11-07T05:31:00+00:00"),
        ("2023-11-07T05:31:56Z", "2023-11-07T05:31:56+00:00"),
        ("2023-11-07T05:31:56.5Z", "2023-11-07T05:31:56.500000+00:00"),
        ("2023-11-07T05:31:56.123456789Z", "2023-11-07T05:31:56.123456+00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00+00:00"),
        ("2023-11-07T05:31:56+00:00", "2023-11-07T05:31:56+00:00"),
        ("2023-11-07T05:31:56.5+01:30", "2023-11-07T04:01:56.500000+00:00"),
        ("2023-11-07T05:31:56-0500", "2023-11-07T10:31:56+00:00"),
    ],
)
def test_every_form_of_the_api_s_timestamps_is_read(text, read):
    seen = run(createdAt=text)

    assert seen.created_at.isoformat() == read
    assert pickle.loads(pickle.dumps(seen)) == seen


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-07",
        "2023-11-07 05:31:56Z",
        "2023-11-07T05:31:56",
        "2023-11-07T24:00:00Z",
        "2023-13-07T05:31:56Z",
        "2023-11-07T05:31:56Z\n",
        "٢٠٢٣-11-07T05:31:56Z",
        "2023-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "yesterday",
    ],
)
@pytest.mark.parametrize("name", ["createdAt", "updatedAt", "completedAt"])
def test_what_is_no_time_cannot_be_read(name, text):
    seen = run(**{name: text})

    assert getattr(seen, FURTHER[name]) is None
    assert seen.unreadable == {name: text}


@pytest.mark.parametrize("missing", ["createdAt", "updatedAt"])
def test_how_long_a_run_took_is_not_known_without_its_times(missing):
    seen = run(**{missing: None})

    assert (seen.seconds_run, seen.seconds_queued) == (None, None)


@pytest.mark.parametrize(("completed_at", "seconds"), [("2023-11-14T22:01:30.5Z", 90.5), (None, 600.0)])
def test_a_run_has_run_until_its_end_or_else_until_its_last_change(completed_at, seconds):
    seen = run(createdAt=CREATED_AT, completedAt=completed_at)

    assert seen.seconds_run == seconds


def test_a_run_can_be_compared_kept_in_a_set_and_pickled():
    seen = run("COMPLETED")

    assert pickle.loads(pickle.dumps(seen)) == seen
    assert len({seen, run("COMPLETED"), run("FAILED")}) == 2
    assert seen != run("COMPLETED", addedLater=1)


def test_a_run_shows_its_fields_once():
    shown = repr(run("PENDING"))

    assert shown.count(RUN_ID) == 1
    assert "workflowId" not in shown


@pytest.mark.parametrize("status", [*WorkflowRunStatus, "NEVER_HEARD_OF", "AN_EARLIER_ONE", None])
def test_only_a_run_whose_work_has_not_begun_is_queued(status):
    assert is_queued(status) is (status == "PENDING")
    # What was kept of a run is a text of its own, and not the constant.
    assert is_queued(status and str(status.encode(), "utf-8")) is (status == "PENDING")


@pytest.mark.parametrize("status", [*WorkflowRunStatus, "NEVER_HEARD_OF", "AN_EARLIER_ONE"])
def test_how_long_a_run_was_queued_shows_only_while_it_is_at_work(status):
    seen = WorkflowRun.from_payload(payload(status))

    assert seen.seconds_queued == (600.0 if status == "IN_PROGRESS" else None)
