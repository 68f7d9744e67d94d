"""Every decision of a wait: what an answer means, when to poll again, and when to give up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace

import pytest
from samples import (
    COMPLETED_AT,
    NOW,
    RUN_ID,
    TARGET,
    WORKFLOW_ID,
    http_date,
    made,
    no_response,
    payload,
    play,
    response,
)

from airflow_anon.core.answers import (
    LONGEST_RETRY_AFTER,
    AnswerKind,
    interpret,
    phrase,
    read_run,
    retry_after,
    when,
)
from airflow_anon.core.flow import ReloadConnection, Request, Sleep
from airflow_anon.core.messages import ending, last_seen
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import fetch_run, judge, poll, wait_for_run
from airflow_anon.core.probe import NIL_ID, probe
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonError,
    AnonNotFoundError,
    AnonProtocolError,
    AnonRejectedError,
    AnonUnavailableError,
)
from airflow_anon.runs import WorkflowRun

OTHER_ID = "99999999-8888-4777-a666-555555555555"
UPDATED = 1_699_999_800.0  # 2023-11-14T22:10:00Z, the updatedAt of core.payload()
DEEP = b"[" * 100_000
DISTURBANCES = {
    "no answer": no_response(),
    "408": response(408),
    "425": response(425),
    "429": response(429),
    "500": response(500),
    "502": response(502),
    "503": response(503),
    "504": response(504),
    "529, which has no name": response(529),
    "200, empty": response(200, b""),
    "200, a web page": response(200, b"<html></html>"),
    "200, no UTF-8": response(200, b'"\xff"'),
    "200, NaN": response(200, json.dumps(payload(status=float("nan"))).encode()),
    "200, nested without end": response(200, DEEP),
    "200, null": response(200, b"null"),
    "200, a list": response(200, json.dumps([payload()]).encode()),
    "200, no status": response(200, {**payload(), "status": None}),
    "204": response(204),
    "101": response(101),
}
disturbances = pytest.mark.parametrize("disturbance", DISTURBANCES.values(), ids=DISTURBANCES.keys())
REJECTIONS = [300, 301, 302, 304, 307, 308, 400, 402, 405, 406, 407, 409, 410, 418, 422, 451, 499]


def policy(**options) -> WaitPolicy:
    return WaitPolicy(started_at=NOW, **options)


def seen(status: str = "IN_PROGRESS", at: float = NOW, **fields) -> WaitState:
    """Return what a wait remembers whose last good poll was *at*."""
    state = WaitState(RUN_ID, last_logged_at=at)
    state.saw(WorkflowRun.from_payload(payload(status, **fields)), at, 0.0)
    return state


def date_in(form: str, seconds: float) -> str:
    return time.strftime(form, time.gmtime(seconds))


def texts(played) -> list[str]:
    return [line.text for line in played.logged]


# The table of outcomes, row by row.


@pytest.mark.parametrize("state", [WaitState(RUN_ID), seen("PENDING")], ids=["first poll", "later poll"])
@pytest.mark.parametrize(
    ("run", "outcome", "succeeded"),
    [
        (payload("COMPLETED"), Outcome.OVER, True),
        (payload("COMPLETED_WITH_NO_ACTION_TAKEN"), Outcome.OVER, True),
        (payload("FAILED"), Outcome.OVER, False),
        (payload("PENDING"), Outcome.WAITING, False),
        (payload("IN_PROGRESS"), Outcome.WAITING, False),
        (payload("AWAITING_USER_INPUT"), Outcome.WAITING, False),
        (payload("CANCELLED"), Outcome.WAITING, False),
        (payload("CANCELLED", completedAt="2023-11-14T22:11:00Z"), Outcome.OVER, False),
    ],
    ids=lambda value: (
        f"{value['status']}, completedAt {value['completedAt']}" if isinstance(value, dict) else None
    ),
)
def test_a_run_that_is_seen_means_what_the_table_says(run, outcome, succeeded, state):
    played = play(poll(policy(), deepcopy(state)), run)

    assert played.result.outcome is outcome
    assert played.result.run.succeeded is succeeded
    assert played.result.run.to_payload() == run
    assert played.count(Request) == 1


@disturbances
def test_a_disturbance_after_a_good_poll_only_makes_the_wait_longer(disturbance):
    played = play(poll(policy(), seen(at=NOW - 60)), disturbance)

    assert played.result.outcome is Outcome.WAITING
    assert played.result.run is None
    assert played.result.pause.seconds > 0
    assert played.count(Request) == 1


@disturbances
def test_a_disturbance_at_the_first_poll_is_ridden_out(disturbance):
    played = play(wait_for_run(policy(), WaitState(RUN_ID)), disturbance, disturbance, payload("COMPLETED"))

    assert played.result.run.succeeded
    assert played.sleeps == [1.0, 2.0]


@disturbances
def test_contact_is_lost_when_a_disturbance_outlasts_the_tolerance(disturbance):
    played = play(wait_for_run(policy(outage_tolerance=300), seen(at=NOW - 60)), disturbance)

    assert isinstance(played.error, AnonUnavailableError)
    assert played.now == NOW - 60 + 300


@pytest.mark.parametrize("status", REJECTIONS)
@pytest.mark.parametrize(
    ("state", "requests"), [(WaitState(RUN_ID), 1), (seen(), 2)], ids=["first poll", "later poll"]
)
def test_a_rejection_ends_the_wait_at_once_and_names_status_and_target(status, state, requests):
    played = play(wait_for_run(policy(), deepcopy(state)), status)

    assert type(played.error) is AnonRejectedError
    assert str(status) in str(played.error)
    assert TARGET in str(played.error)
    assert "anon_test" in str(played.error)
    assert (played.error.status_code, played.error.retryable) == (status, False)
    assert played.error.workflow_run_id == RUN_ID
    assert (played.count(Request), played.sleeps) == (requests, [])


@pytest.mark.parametrize("status", [404, *REJECTIONS])
def test_a_rejection_of_a_run_that_was_seen_is_confirmed_over_a_new_connection(status):
    state = seen(at=NOW - 60)
    played = play(poll(policy(), state), status, payload("IN_PROGRESS"))

    assert played.result.run.status == "IN_PROGRESS"
    assert [step.fresh for step in played.steps if isinstance(step, Request)] == [False, True]
    assert (state.polls, state.consecutive_failures) == (2, 0)


def test_a_rejection_that_nobody_confirms_counts_as_one_poll_without_an_answer():
    state = seen(at=NOW - 60)
    played = play(poll(policy(), state), 404, no_response())

    assert played.result.outcome is Outcome.WAITING
    assert (state.polls, state.consecutive_failures) == (2, 1)


@pytest.mark.parametrize("state", [WaitState(RUN_ID), seen(at=NOW - 60)], ids=["first poll", "later poll"])
def test_an_answer_about_another_run_is_asked_again_at_once_over_a_new_connection(state):
    played = play(
        wait_for_run(policy(), deepcopy(state)),
        response(200, payload("FAILED", id=OTHER_ID)),
        payload("COMPLETED"),
    )

    assert played.result.run.succeeded
    assert [step.fresh for step in played.steps if isinstance(step, Request)] == [False, True]
    assert played.sleeps == []


@pytest.mark.parametrize(("state", "lost_after"), [(WaitState(RUN_ID), 60), (seen(at=NOW), 300)])
def test_an_api_that_answers_about_another_run_is_no_answer_and_asked_twice_but_once(state, lost_after):
    played = play(
        wait_for_run(policy(outage_tolerance=300), deepcopy(state)),
        response(200, payload("COMPLETED", id=OTHER_ID)),
    )

    assert isinstance(played.error, AnonUnavailableError)
    assert played.now == NOW + lost_after
    assert sum(step.fresh for step in played.steps if isinstance(step, Request)) == 1


@pytest.mark.parametrize(
    ("status", "is_redirect"), [(300, True), (302, True), (399, True), (400, False), (422, False)]
)
def test_a_redirect_is_explained_and_never_followed(status, is_redirect):
    played = play(
        wait_for_run(policy(), WaitState(RUN_ID)),
        response(status, headers={"Location": "https://elsewhere.example/"}),
    )

    assert ("no redirect is followed" in str(played.error)) is is_redirect
    assert played.count(Request) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_at_the_first_poll_fails_at_once(status):
    played = play(wait_for_run(policy(), WaitState(RUN_ID)), status)

    assert type(played.error) is AnonAuthenticationError
    assert "'anon_test'" in str(played.error)
    assert "'password'" in str(played.error)
    assert (played.error.status_code, played.error.retryable) == (status, False)
    assert (played.count(Request), played.count(ReloadConnection), played.sleeps) == (1, 1, [])


@pytest.mark.parametrize("before", [[], [503], [404, 404]], ids=["at once", "after 503", "after 404"])
def test_a_first_poll_that_an_old_token_is_refused_is_taken_with_the_new(before):
    played = play(
        wait_for_run(policy(), WaitState(RUN_ID)),
        *before,
        401,
        payload("COMPLETED"),
        changed=[*[False] * before.count(503), True],
    )

    assert played.result.run.succeeded
    assert len(played.sleeps) == len(before)


def test_a_first_poll_with_a_new_token_has_its_patience():
    played = play(poll(policy(), WaitState(RUN_ID)), 401, 503, payload(), changed=[True])

    assert played.result.run is not None
    assert played.sleeps == [1]


def test_a_refused_credential_that_follows_a_disturbance_of_the_first_poll_fails_at_once():
    played = play(wait_for_run(policy(), WaitState(RUN_ID)), 503, 401)

    assert type(played.error) is AnonAuthenticationError
    assert played.count(Request) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_rotated_token_is_read_and_used_without_a_pause(status):
    played = play(poll(policy(), seen()), status, payload("COMPLETED"), changed=[True])

    assert played.result.run.succeeded
    assert [type(step).__name__ for step in played.steps] == ["Request", "ReloadConnection", "Request", "Log"]


@pytest.mark.parametrize("status", [401, 403])
def test_with_an_unchanged_connection_a_refused_credential_is_not_sent_again_at_once(status):
    played = play(poll(policy(), seen()), status, payload("COMPLETED"), changed=[False])

    assert played.result.outcome is Outcome.WAITING
    assert (played.count(Request), played.count(ReloadConnection)) == (1, 1)


@pytest.mark.parametrize("changed", [[True] * 1000, []], ids=["changed", "unchanged"])
def test_a_credential_that_stays_refused_after_a_good_poll_is_lost_contact(changed):
    played = play(wait_for_run(policy(), seen()), 401, changed=changed)

    assert type(played.error) is AnonUnavailableError
    assert (played.error.status_code, played.error.retryable) == (401, True)
    assert played.now == NOW + 600


def test_a_new_token_that_meets_a_disturbance_goes_on_waiting():
    played = play(poll(policy(), seen()), 401, 503, changed=[True])

    assert played.result.outcome is Outcome.WAITING
    assert "503" in texts(played)[0]


def test_a_run_that_is_not_visible_yet_is_asked_for_again():
    played = play(
        wait_for_run(policy(), WaitState(RUN_ID)), 404, 404, 404, payload("PENDING"), payload("COMPLETED")
    )

    assert played.result.run.succeeded


def test_a_run_that_stays_invisible_is_no_such_run_after_a_minute():
    played = play(wait_for_run(policy(), WaitState(RUN_ID)), 404)

    assert type(played.error) is AnonNotFoundError
    assert "No such run, or not visible to this token" in str(played.error)
    assert (played.error.status_code, played.error.retryable, played.error.last_status) == (404, False, None)
    assert played.now == NOW + 60


def test_a_run_that_disappears_fails_at_once_and_says_when_it_was_seen():
    played = play(wait_for_run(policy(), seen("PENDING")), 404)

    assert type(played.error) is AnonNotFoundError
    assert "gone, or hidden" in str(played.error)
    assert "PENDING at 2023-11-14T22:13:20" in str(played.error)
    assert played.error.last_status == "PENDING"
    assert (played.count(Request), played.sleeps) == (2, [])


def test_a_web_page_in_the_place_of_the_api_blames_the_host_and_not_the_token():
    page = response(404, b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})

    error = play(fetch_run(RUN_ID), page).error

    assert "A web page answers in the place of the API: check 'host' of connection 'anon_test'." in str(error)


# The request and the id.


def test_the_request_asks_for_the_run_of_the_policy():
    played = play(poll(policy(), WaitState(RUN_ID)), payload())

    assert played.steps[0] == Request(f"/api/v2/workflow-runs/{RUN_ID}", about=RUN_ID)


@pytest.mark.parametrize(("asked", "answered"), [(RUN_ID.upper(), RUN_ID), (RUN_ID, RUN_ID.upper())])
def test_an_id_is_the_same_in_upper_and_lower_case(asked, answered):
    played = play(fetch_run(asked), payload("PENDING", id=answered))

    assert played.result.id == answered
    assert played.count(Request) == 1


@pytest.mark.parametrize("levels", [60, 500, 870, 930, 990, 1000, 20_000])
def test_a_body_that_is_nested_too_deeply_is_no_run(levels):
    body = json.dumps(payload("COMPLETED", deep=0)).replace(
        '"deep": 0', '"deep": ' + "[" * levels + "]" * levels
    )

    answer = interpret(response(200, body.encode()), RUN_ID)

    assert answer.kind is (AnswerKind.RUN if answer.run else AnswerKind.TRANSIENT)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "36893488147419103232"])
def test_a_number_that_airflow_cannot_carry_is_handed_on_as_its_text(number):
    body = json.dumps(payload("COMPLETED", addedLater=0)).replace(
        '"addedLater": 0', f'"addedLater": {number}'
    )

    run, unfit = read_run(body.encode(), RUN_ID)

    assert run.to_payload() == payload("COMPLETED", addedLater=number)
    assert unfit == ["addedLater"]


def test_text_that_airflow_cannot_carry_is_handed_on_with_one_warning():
    strange = payload("IN_PROGRESS", currentStateName="done \ud83d")
    polls = (strange, strange, strange | {"status": "COMPLETED", "completedAt": COMPLETED_AT})

    played = play(wait_for_run(policy(), WaitState(RUN_ID)), *polls)

    assert played.result.run.current_state_name == "done \ufffd"
    warnings = [line.text for line in played.logged if line.level == "warning"]
    assert len(warnings) == 1
    assert "'currentStateName'" in warnings[0]


@pytest.mark.parametrize("status", ["COMPLETED\0", "COMPLETED\ud83d"])
def test_a_status_is_judged_as_it_came(status):
    run, _ = read_run(json.dumps(payload(status)).encode(), RUN_ID)

    assert not run.is_known
    assert not run.succeeded
    assert run.status == status[:-1] + "\ufffd"


@pytest.mark.parametrize("field", ["id", "status"])
def test_a_field_whose_number_becomes_text_is_still_no_text(field):
    body = json.dumps(payload("COMPLETED") | {field: 7}).replace("7,", "1e400,").encode()

    with pytest.raises(AnonProtocolError, match=f"its field '{field}'"):
        read_run(body, RUN_ID)


UNREADABLE = {
    "createdAt": "yesterday",
    "updatedAt": 7,
    "createdByUserId": ["x" * 1000],
    "jobRunId": {"id": 1},
    "workflowId": "two words",
}


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_what_decides_nothing_ends_no_wait_and_is_warned_of_once(status):
    played = play(
        wait_for_run(policy(), WaitState(RUN_ID)),
        payload("PENDING", **UNREADABLE),
        payload("IN_PROGRESS", **UNREADABLE),
        payload(status, **UNREADABLE),
    )

    (warning,) = [line.text for line in played.logged if line.level == "warning"]
    assert played.result.run.to_payload() == payload(status, **UNREADABLE)
    assert played.result.run.succeeded is (status == "COMPLETED")
    for name, value in UNREADABLE.items():
        assert f"{name!r} is {repr(value)[:100]}" in warning
    assert len(warning) < 1000
    assert "None" not in "".join(texts(played))


@pytest.mark.parametrize(
    "fields",
    [
        {"createdAt": "2026-03-01T10:00:00+00:00"},
        {"createdByUserId": None},
        {"jobRunId": "job-17"},
        {"workflowId": "wf_1"},
    ],
)
def test_what_can_be_read_is_not_warned_of(fields):
    played = play(
        wait_for_run(policy(), WaitState(RUN_ID)), payload("PENDING"), payload("COMPLETED", **fields)
    )

    assert played.result.run.succeeded
    assert [line for line in played.logged if line.level == "warning"] == []


def test_a_run_without_times_waits_for_user_input_from_when_that_was_seen():
    played = play(
        wait_for_run(policy(user_input_timeout=100), seen("IN_PROGRESS")),
        response(
            200, payload("AWAITING_USER_INPUT", updatedAt=None), headers={"Date": http_date(NOW + 10_000)}
        ),
    )

    assert played.result.outcome is Outcome.USER_INPUT_TIMEOUT
    assert played.now == NOW + 100


def test_how_long_a_run_took_may_be_unknown():
    run = WorkflowRun.from_payload(payload("COMPLETED", createdAt=None))

    assert "an unknown time after its creation" in ending(seen(), run).text


def test_the_same_key_twice_is_no_run():
    body = json.dumps(payload("FAILED")).replace("{", '{"status": "COMPLETED", ', 1)

    with pytest.raises(AnonProtocolError, match="same key twice"):
        read_run(body.encode(), RUN_ID)


def test_a_good_poll_has_its_time():
    assert play(poll(policy(), WaitState(RUN_ID)), payload("PENDING")).result.at == NOW


# The first poll.


def test_a_fetch_returns_the_run_whatever_its_status():
    played = play(fetch_run(RUN_ID), payload("PENDING"))

    assert str(played.result.status) == "PENDING"
    assert played.sleeps == []


def test_a_fetch_gives_up_after_a_minute_and_says_what_to_check():
    played = play(fetch_run(RUN_ID), no_response("host name not found"))

    assert type(played.error) is AnonUnavailableError
    assert "host name not found" in str(played.error)
    assert "'host' of connection 'anon_test'" in str(played.error)
    assert "state of the run is unknown" in str(played.error)
    assert (played.error.retryable, played.error.last_seen_at) == (True, None)
    assert played.now == NOW + 60


def test_the_first_poll_backs_off_and_ends_on_the_minute():
    played = play(fetch_run(RUN_ID), 503)

    assert played.sleeps == [1, 2, 4, 8, 15, 15, 15]
    assert played.polls_at[-1] == NOW + 60


def test_the_patience_of_the_first_poll_is_counted_from_the_first_request():
    played = play(fetch_run(RUN_ID), no_response("timed out", took=30.0))

    assert played.polls_at == [NOW, NOW + 31]


def test_a_token_renewed_on_the_way_does_not_lengthen_the_patience_of_the_first_poll():
    silence = no_response("timed out", took=12.0)

    played = play(fetch_run(RUN_ID), response(401, took=11.0), silence, changed=[True])

    assert [at - NOW for at in played.polls_at] == [0, 11, 24, 38, 54]


def test_each_attempt_of_the_first_poll_obeys_retry_after():
    played = play(fetch_run(RUN_ID), response(429, headers={"Retry-After": "7"}), payload())

    assert played.sleeps == [7]


def test_a_fetch_takes_a_minute_at_most_however_long_it_is_asked_to_wait():
    played = play(fetch_run(RUN_ID), response(429, headers={"Retry-After": "3600"}))

    assert played.sleeps == [60]
    assert type(played.error) is AnonUnavailableError


def test_a_wait_obeys_a_long_retry_after_at_its_first_poll():
    played = play(poll(policy(), WaitState(RUN_ID)), response(429, headers={"Retry-After": "75"}), payload())

    assert played.sleeps == [75]
    assert played.result.run is not None


def test_a_wait_obeys_retry_after_up_to_the_tolerance_and_no_longer_than_it_is_asked_to():
    asked_to_wait = response(429, headers={"Retry-After": "250"})

    on_and_on = play(poll(policy(outage_tolerance=600), WaitState(RUN_ID)), asked_to_wait)
    once = play(poll(policy(outage_tolerance=600), WaitState(RUN_ID)), asked_to_wait, 503)

    assert on_and_on.sleeps == [250, 250, 100]
    assert once.sleeps == [250]


def remembered(seconds):
    """Return what the API told somebody else, who was to ask again in so many seconds."""
    return replace(response(429, headers={"Retry-After": str(seconds)}), is_remembered=True)


def test_an_answer_to_somebody_else_does_not_end_the_patience_of_the_first_poll():
    played = play(poll(policy(), WaitState(RUN_ID)), remembered(120), remembered(30), payload())

    assert played.result.run is not None
    assert played.sleeps == [120, 30]


def test_once_the_api_itself_has_answered_the_patience_of_the_first_poll_is_over():
    played = play(poll(policy(), WaitState(RUN_ID)), remembered(120), 503)

    assert type(played.error) is AnonUnavailableError
    assert played.sleeps == [120]


def test_answers_to_somebody_else_end_the_first_poll_with_the_tolerance():
    played = play(poll(policy(outage_tolerance=300), WaitState(RUN_ID)), remembered(120))

    assert type(played.error) is AnonUnavailableError
    assert played.sleeps == [120, 120, 60]


def test_the_deadline_shortens_the_patience_of_the_first_poll():
    played = play(wait_for_run(policy(deadline=NOW + 10), WaitState(RUN_ID)), 503)

    assert played.result.outcome is Outcome.TIMEOUT
    assert played.result.run is None
    assert played.now == NOW + 10


def test_the_first_poll_after_a_deadline_is_still_taken():
    played = play(wait_for_run(policy(deadline=NOW - 10), WaitState(RUN_ID)), payload("COMPLETED"))

    assert played.result.outcome is Outcome.OVER


def test_the_log_says_what_the_first_poll_ran_into():
    played = play(fetch_run(RUN_ID), 503, payload())

    assert played.logged[0].level == "warning"
    assert [line.text for line in played.logged] == [
        f"No run yet: 503 Service Unavailable. Asking again for 1 min. Asked: {TARGET}"
    ]


def test_the_log_does_not_say_that_a_fetch_waits_but_warns_of_an_unknown_status():
    assert play(fetch_run(RUN_ID), payload()).logged == []
    assert [line.level for line in play(fetch_run(RUN_ID), payload("PAUSED")).logged] == ["warning"]


@pytest.mark.parametrize("state", [WaitState(RUN_ID), seen(at=NOW - 60)], ids=["first poll", "later poll"])
def test_with_a_connection_that_has_changed_an_unanswered_poll_is_taken_again_at_once(state):
    played = play(poll(policy(), deepcopy(state)), no_response(), payload(), changed=[True])

    assert played.result.run is not None
    assert (played.count(Request), played.sleeps) == (2, [])


def test_what_the_api_asked_of_another_wait_is_obeyed_and_is_no_missed_poll():
    state = seen(at=NOW - 60)

    played = play(wait_for_run(policy(outage_tolerance=10), state), remembered(20), payload("COMPLETED"))

    assert played.result.run.succeeded
    assert state.polls == 2  # with the one before
    assert played.logged[0].text.startswith("Workflow run")


@pytest.mark.parametrize(
    "limit", [{"outage_tolerance": 300}, {"deadline": NOW + 240}], ids=["tolerance", "deadline"]
)
def test_before_a_wait_ends_it_asks_for_itself_though_another_was_asked_to_leave_the_api_alone(limit):
    state = seen(at=NOW - 60)

    lost = play(wait_for_run(policy(**limit), deepcopy(state)), *[remembered(120)] * 3, 503)
    found = play(wait_for_run(policy(**limit), state), *[remembered(120)] * 3, payload("COMPLETED"))

    assert lost.error is not None or lost.result.outcome is Outcome.TIMEOUT
    assert found.result.run.succeeded
    assert [step.own for step in found.steps if isinstance(step, Request)] == [False] * 3 + [True]


# The pauses between polls.


@pytest.mark.parametrize(
    ("poke_interval", "pause"), [(60.0, 60.0), (1.0, 1.0), (0.2, 1.0), (0.0, 1.0), (86400.0, 86400.0)]
)
def test_the_pause_is_the_interval_and_at_least_a_second(poke_interval, pause):
    played = play(poll(policy(poke_interval=poke_interval), WaitState(RUN_ID)), payload())

    assert played.result.pause == Sleep(pause, pause * 0.05)


def test_the_interval_grows_with_backoff_and_never_leaves_its_bounds():
    waiting = policy(poke_interval=10, exponential_backoff=True, max_wait=100, deadline=NOW + 1000)

    played = play(wait_for_run(waiting, WaitState(RUN_ID)), payload())

    assert played.sleeps[:5] == [10, 20, 40, 80, 100]
    assert played.sleeps == sorted(played.sleeps[:-1]) + played.sleeps[-1:]
    assert played.now == NOW + 1000


@pytest.mark.parametrize("waited", [0, 5, 35, 95, 10_000])
def test_not_even_its_spread_takes_a_pause_beyond_max_wait(waited):
    waiting = policy(poke_interval=10, exponential_backoff=True, max_wait=100)

    pause = play(poll(waiting, seen()), payload(), at=NOW + waited).result.pause

    assert 10 <= pause.seconds <= pause.seconds + pause.spread <= 100


GROWING = {"exponential_backoff": True}


@pytest.mark.parametrize(
    ("options", "waited", "seconds"),
    [
        (GROWING, 10_000, 10_060),
        (GROWING, -10_000, 60),  # the clock was set back
        (GROWING | {"max_wait": 0.0}, 10_000, 10_060),  # which is none, as it is to Airflow
        (GROWING | {"max_wait": 0.1}, 0, 1),
        ({"max_wait": 5.0}, 600, 60),  # it has no meaning without backoff
        ({"max_wait": None}, 600, 60),
    ],
)
def test_backoff_grows_with_the_wait_as_far_as_max_wait_lets_it(options, waited, seconds):
    pause = play(poll(policy(**options), seen()), payload(), at=NOW + waited).result.pause

    assert pause.seconds == seconds
    assert seconds <= pause.seconds + pause.spread <= max(options.get("max_wait") or 1e9, seconds * 1.05)


def test_backoff_after_disturbances_doubles_up_to_a_minute():
    played = play(wait_for_run(policy(poke_interval=1, outage_tolerance=900), seen()), 503)

    assert played.sleeps[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert max(played.sleeps) == 60


def test_backoff_does_not_go_below_the_interval():
    played = play(
        wait_for_run(policy(poke_interval=20), seen()),
        503,
        503,
        503,
        503,
        503,
        503,
        503,
        payload("COMPLETED"),
    )

    assert played.sleeps == [20, 20, 20, 20, 20, 32, 60]


def test_a_good_poll_ends_the_backoff():
    played = play(
        wait_for_run(policy(poke_interval=1), seen()), 503, 503, 503, payload(), 503, payload("COMPLETED")
    )

    assert played.sleeps == [1, 2, 4, 1, 1]


def test_pauses_of_a_disturbance_are_spread_wider_than_those_of_a_good_poll():
    calm = play(poll(policy(), seen()), payload()).result.pause
    disturbed = play(poll(policy(), seen()), 503).result.pause

    assert (calm.spread, disturbed.spread) == (3.0, 15.0)


# Retry-After.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("299", 299),
        ("301", 300),
        ("999999", 300),
        ("9" * 10_000, 300),
        ("-5", 0),
        ("+5", 0),
        ("1.5", 0),
        ("1e3", 0),
        ("inf", 0),
        ("NaN", 0),
        ("7, 9", 0),
        ("٧", 0),
        ("²", 0),
        ("", 0),
        ("soon", 0),
        ("12:00:00", 0),
        ("Sun, 99 Nov 2023 08:49:37 GMT", 0),
        ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", 0),
    ],
    ids=lambda value: str(value)[:30],
)
def test_retry_after_is_read_as_seconds_or_not_at_all(value, seconds):
    assert retry_after(value, NOW) == seconds


DATE_FORMS = {
    "of today": "%a, %d %b %Y %H:%M:%S GMT",
    "of RFC 850": "%A, %d-%b-%y %H:%M:%S GMT",
    "of C": "%a %b %e %H:%M:%S %Y",
}
date_forms = pytest.mark.parametrize("form", DATE_FORMS.values(), ids=DATE_FORMS.keys())


@date_forms
def test_a_date_is_read_in_each_of_its_three_forms(form):
    assert when(date_in(form, NOW)) == NOW


@date_forms
@pytest.mark.parametrize(("ahead", "seconds"), [(7, 7), (-3600, 0), (0, 0), (86_400, 300)])
def test_retry_after_is_read_as_a_date(form, ahead, seconds):
    assert retry_after(date_in(form, NOW + ahead), NOW) == seconds


@pytest.mark.parametrize(
    "date",
    [None, "", "soon", "12:00:00", "Sun, 30 Feb 2023 08:49:37 GMT", "06-Nov-94:94\t- 99999999999999999999"],
)
def test_a_date_that_is_none_is_no_date(date):
    assert when(date) is None


SOON = http_date(NOW + 90)


@pytest.mark.parametrize(
    ("status", "headers", "poke_interval", "seconds"),
    [
        *((status, {"Retry-After": "70"}, 1, 70) for status in (429, 503, 500, 408)),
        (429, {"Retry-After": "7"}, 60, 60),
        (429, {"Retry-After": "999999"}, 60, LONGEST_RETRY_AFTER),
        # A date counts by the server's own clock, where it shows one.
        (503, {"Retry-After": SOON}, 1, 90),
        (503, {"Retry-After": SOON, "Date": "yesterday"}, 1, 90),
        (503, {"Retry-After": SOON, "Date": http_date(NOW)}, 1, 90),
        (503, {"Retry-After": http_date(NOW - 7110), "Date": http_date(NOW - 7200)}, 1, 90),
        (503, {"Retry-After": http_date(NOW + 7290), "Date": http_date(NOW + 7200)}, 1, 90),
    ],
)
def test_a_pause_is_as_long_as_the_api_asks_and_as_the_interval(status, headers, poke_interval, seconds):
    played = play(poll(policy(poke_interval=poke_interval), seen()), response(status, headers=headers))

    assert played.result.pause.seconds == seconds


# The deadline.


def test_a_wait_that_is_to_begin_later_sleeps_before_its_first_poll():
    played = play(wait_for_run(policy(), seen(), delay=17.5), payload("COMPLETED"))

    assert played.polls_at == [NOW + 17.5]


def test_one_last_poll_is_taken_at_the_deadline():
    played = play(wait_for_run(policy(deadline=NOW + 150), WaitState(RUN_ID)), payload())

    assert played.polls_at == [NOW, NOW + 60, NOW + 120, NOW + 150]
    assert played.result.outcome is Outcome.TIMEOUT
    assert str(played.result.run.status) == "IN_PROGRESS"


def test_a_run_that_is_over_at_the_last_poll_has_made_it():
    played = play(wait_for_run(policy(deadline=NOW + 60), WaitState(RUN_ID)), payload(), payload("COMPLETED"))

    assert played.result.outcome is Outcome.OVER


@disturbances
def test_a_last_poll_that_goes_unanswered_is_a_timeout_all_the_same(disturbance):
    state = seen("PENDING")

    played = play(wait_for_run(policy(deadline=NOW + 60), state), disturbance, at=NOW + 60)

    assert played.result.outcome is Outcome.TIMEOUT
    assert played.result.run is None
    assert (state.status, state.seen_at) == ("PENDING", NOW)
    assert state.last_failure


@pytest.mark.parametrize(
    "answer", [payload(), 503, response(429, headers={"Retry-After": "250"})], ids=["run", "503", "429"]
)
@pytest.mark.parametrize("left", [0.25, 30.0, 59.0])
def test_a_poll_is_never_planned_beyond_the_deadline(answer, left):
    pause = play(poll(policy(deadline=NOW + left), seen()), answer).result.pause

    assert pause == Sleep(left, min(pause.spread, left - pause.seconds))


def test_a_deadline_and_the_limit_for_user_input_that_fall_together_are_the_deadline():
    waiting = policy(deadline=NOW + 60, user_input_timeout=60)

    played = play(wait_for_run(waiting, WaitState(RUN_ID)), payload("AWAITING_USER_INPUT"))

    assert played.result.outcome is Outcome.TIMEOUT


# Outages.


@pytest.mark.parametrize("took", [0.0, 5.0, 29.0])
def test_an_outage_is_counted_by_time_and_not_by_attempts(took):
    waiting = policy(poke_interval=1, outage_tolerance=600)

    played = play(wait_for_run(waiting, seen()), no_response("timed out", took=took))

    assert type(played.error) is AnonUnavailableError
    assert NOW + 600 <= played.now <= NOW + 600 + took


def test_each_good_poll_begins_the_tolerance_anew():
    hour = [500, 500, 500, 500, payload()] * 60

    played = play(wait_for_run(policy(), seen()), *hour, payload("COMPLETED"))

    assert played.result.run.succeeded
    assert played.now > NOW + 3600


@pytest.mark.parametrize(
    ("options", "outcome"), [({}, Outcome.WAITING), ({"deadline": NOW}, Outcome.TIMEOUT)]
)
def test_a_poll_without_an_answer_has_its_time_too(options, outcome):
    polled = play(poll(policy(**options), seen(at=NOW - 60)), 503).result

    assert (polled.outcome, polled.at) == (outcome, NOW)


def test_after_a_missed_poll_the_pause_grows_as_after_any_other():
    growing = policy(exponential_backoff=True, outage_tolerance=float("inf"))
    later = NOW + 500

    consecutive_failures = play(poll(growing, seen(at=later - 60)), 503, at=later).result
    good = play(poll(growing, seen(at=later - 60)), payload(), at=later).result

    assert consecutive_failures.pause.seconds == good.pause.seconds > growing.poke_interval


@pytest.mark.parametrize("outage_tolerance", [90, 600])
def test_a_poll_is_never_planned_beyond_the_end_of_an_outage(outage_tolerance):
    waiting = policy(outage_tolerance=outage_tolerance)

    pause = play(
        poll(waiting, seen(at=NOW - outage_tolerance + 70)),
        response(429, headers={"Retry-After": "200"}),
    ).result.pause

    assert pause == Sleep(70, 0)


@pytest.mark.parametrize("coalesced_sleep", [600, 3600, 86_400])
def test_one_missed_poll_after_a_long_pause_is_no_outage_yet(coalesced_sleep):
    waiting = policy(poke_interval=3600, outage_tolerance=600)

    played = play(wait_for_run(waiting, seen(at=NOW - coalesced_sleep)), 503, payload("COMPLETED"))

    assert played.result.run.succeeded
    assert played.sleeps == [60]


def test_an_outage_after_a_long_pause_is_lost_contact_within_a_minute():
    played = play(wait_for_run(policy(poke_interval=3600, outage_tolerance=600), seen(at=NOW - 3600)), 503)

    assert type(played.error) is AnonUnavailableError
    assert played.now == NOW + 60


def test_with_a_tolerance_of_nothing_the_first_missed_poll_is_lost_contact():
    played = play(wait_for_run(policy(outage_tolerance=0), seen()), 503, at=NOW + 10)

    assert type(played.error) is AnonUnavailableError
    assert played.now == NOW + 10


def test_with_an_unlimited_tolerance_the_deadline_alone_ends_an_outage():
    waiting = policy(outage_tolerance=float("inf"), deadline=NOW + 86_400)

    played = play(wait_for_run(waiting, seen()), 503)

    assert played.result.outcome is Outcome.TIMEOUT
    assert played.now == NOW + 86_400


def test_lost_contact_says_that_the_state_is_unknown_and_what_was_seen_last():
    state = seen("IN_PROGRESS", currentStateName="post_invoice")

    error = play(wait_for_run(policy(), state), no_response("connection refused")).error

    assert "unknown, which does not mean that it failed" in str(error)
    assert "IN_PROGRESS (state 'post_invoice') at 2023-11-14T22:13:20" in str(error)
    assert "connection refused" in str(error)
    assert "Lost contact with the API 10 min ago (outage_tolerance is 10 min)" in str(error)
    assert TARGET in str(error)
    assert (error.workflow_run_id, error.status_code, error.retryable) == (RUN_ID, None, True)
    assert (error.last_status, error.last_seen_at) == ("IN_PROGRESS", NOW)


# User input.


def test_a_question_is_reported_once_and_again_when_the_run_asks_anew():
    answers = [
        payload("PENDING"),
        payload("AWAITING_USER_INPUT", currentStateName="a"),
        payload("AWAITING_USER_INPUT", currentStateName="a"),
        payload("AWAITING_USER_INPUT", currentStateName="b"),
        payload("IN_PROGRESS"),
        payload("AWAITING_USER_INPUT", currentStateName="b"),
    ]
    state = WaitState(RUN_ID)

    asked = [
        play(poll(policy(), state), answer, at=NOW + n).result.asks_for_input
        for n, answer in enumerate(answers)
    ]

    assert asked == [False, True, False, True, False, True]


def test_a_wait_stops_to_ask_for_user_input_only_if_it_is_to():
    story = [
        payload("PENDING"),
        payload("AWAITING_USER_INPUT"),
        payload("AWAITING_USER_INPUT"),
        payload("COMPLETED"),
    ]

    stopped = play(wait_for_run(policy(), WaitState(RUN_ID), stop_for_input=True), *story)
    unstopped = play(wait_for_run(policy(), WaitState(RUN_ID)), *story)

    assert (stopped.result.outcome, stopped.result.asks_for_input) == (Outcome.WAITING, True)
    assert unstopped.result.outcome is Outcome.OVER


def test_a_wait_that_stopped_to_ask_goes_on_without_asking_again():
    state = WaitState(RUN_ID)
    play(wait_for_run(policy(), state, stop_for_input=True), payload("AWAITING_USER_INPUT"))

    played = play(
        wait_for_run(policy(), state, stop_for_input=True),
        payload("AWAITING_USER_INPUT"),
        payload("COMPLETED"),
        at=NOW + 60,
    )

    assert played.result.outcome is Outcome.OVER


def test_a_run_may_wait_for_user_input_for_days():
    def answered_after_three_days(now):
        return payload("AWAITING_USER_INPUT" if now < NOW + 3 * 86_400 else "COMPLETED")

    played = play(wait_for_run(policy(), WaitState(RUN_ID)), answered_after_three_days)

    assert played.result.run.succeeded


def test_user_input_that_takes_too_long_ends_the_wait_on_time():
    waiting = policy(user_input_timeout=100, deadline=NOW + 3600)

    played = play(
        wait_for_run(waiting, WaitState(RUN_ID)), payload("PENDING"), payload("AWAITING_USER_INPUT")
    )

    assert played.result.outcome is Outcome.USER_INPUT_TIMEOUT
    assert played.polls_at == [NOW, NOW + 60, NOW + 120, NOW + 160]


def test_only_the_time_spent_waiting_for_user_input_counts():
    waiting = policy(user_input_timeout=100)
    story = [payload("PENDING")] * 5 + [payload("AWAITING_USER_INPUT"), payload("IN_PROGRESS")] * 5

    played = play(wait_for_run(waiting, WaitState(RUN_ID)), *story, payload("COMPLETED"))

    assert played.result.run.succeeded


@pytest.mark.parametrize("skew", [-7200, 0, 7200])
def test_how_long_user_input_has_been_waited_for_is_measured_by_the_api_s_clock(skew):
    waiting = policy(user_input_timeout=100)
    asked_40_s_ago = response(200, payload("AWAITING_USER_INPUT"), headers={"Date": http_date(UPDATED + 40)})
    state = WaitState(RUN_ID)

    played = play(poll(waiting, state), asked_40_s_ago, at=NOW + skew)

    assert state.awaiting_since == NOW + skew - 40
    assert played.result.pause.seconds == 60


@pytest.mark.parametrize(
    "date", [None, "soon", http_date(UPDATED - 3600)], ids=["none", "garbage", "before the change"]
)
def test_without_a_sensible_api_clock_the_wait_for_user_input_begins_when_it_is_seen(date):
    headers = {"Date": date} if date else {}
    state = WaitState(RUN_ID)

    play(poll(policy(), state), response(200, payload("AWAITING_USER_INPUT"), headers=headers))

    assert state.awaiting_since == NOW


def test_user_input_that_was_asked_for_too_long_ago_is_over_time_at_the_first_poll():
    asked_an_hour_ago = response(
        200, payload("AWAITING_USER_INPUT"), headers={"Date": http_date(UPDATED + 3600)}
    )

    played = play(wait_for_run(policy(user_input_timeout=600), WaitState(RUN_ID)), asked_an_hour_ago)

    assert played.result.outcome is Outcome.USER_INPUT_TIMEOUT
    assert played.now == NOW


@pytest.mark.parametrize(
    "date", [UPDATED + 365 * 86_400, UPDATED + 3600], ids=["a wrong date", "an old change"]
)
def test_user_input_has_the_whole_time_whatever_the_api_says_of_the_time_before_our_last_poll(date):
    asked = response(200, payload("AWAITING_USER_INPUT"), headers={"Date": http_date(date)})
    waiting = policy(user_input_timeout=600)

    played = play(wait_for_run(waiting, WaitState(RUN_ID)), payload("IN_PROGRESS"), asked)

    assert played.result.outcome is Outcome.USER_INPUT_TIMEOUT
    assert played.now == NOW + 600


@pytest.mark.parametrize("answer", [payload("AWAITING_USER_INPUT"), 503], ids=["run", "503"])
def test_a_poll_is_never_planned_beyond_the_limit_for_user_input(answer):
    waiting = policy(user_input_timeout=100, poke_interval=3600, outage_tolerance=86_400)

    pause = play(poll(waiting, seen("AWAITING_USER_INPUT")), answer, at=NOW + 90).result.pause

    assert pause == Sleep(10, 0)


def test_an_outage_does_not_end_a_wait_for_user_input_that_may_have_come():
    waiting = policy(user_input_timeout=100)

    played = play(wait_for_run(waiting, seen("AWAITING_USER_INPUT")), 503, 503, 503, payload("COMPLETED"))

    assert played.result.run.succeeded
    assert played.polls_at == [NOW, NOW + 60, NOW + 100, NOW + 160]


# Statuses that this version does not know.


def test_an_unknown_status_is_waited_out_with_one_warning_for_each():
    story = ["QUEUED", "QUEUED", "BLOCKED", "QUEUED", "BLOCKED"]

    played = play(wait_for_run(policy(), WaitState(RUN_ID)), *map(payload, story), payload("COMPLETED"))

    warnings = [line.text for line in played.logged if line.level == "warning"]
    assert played.result.run.succeeded
    assert len(warnings) == 2
    assert "'QUEUED'" in warnings[0]
    assert "'BLOCKED'" in warnings[1]


def test_an_unknown_status_is_waited_for_no_longer_than_the_deadline():
    state = WaitState(RUN_ID)

    played = play(wait_for_run(policy(deadline=NOW + 600), state), payload("QUEUED"))

    assert played.result.outcome is Outcome.TIMEOUT
    assert state.status == "QUEUED"


# The log.


def test_a_wait_is_logged_once_at_its_beginning():
    played = play(wait_for_run(policy(deadline=NOW + 200), WaitState(RUN_ID)), payload("PENDING"))

    line = (
        f"Waiting for workflow run {RUN_ID} of workflow {WORKFLOW_ID}, for at most 3 min 20 s, "
        "with a poll every 1 min. It is PENDING."
    )
    assert [(line.level, line.text) for line in played.logged] == [("info", line)]


def test_a_wait_without_a_deadline_names_none():
    played = play(poll(policy(), WaitState(RUN_ID)), payload("PENDING"))

    assert "at most" not in texts(played)[0]


def test_each_change_is_one_line():
    story = ["PENDING", "PENDING", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED"]

    played = play(wait_for_run(policy(), WaitState(RUN_ID)), *map(payload, story))

    lines = texts(played)
    assert len(lines) == 3
    assert lines[1].endswith("PENDING -> IN_PROGRESS")
    assert lines[2].endswith("IN_PROGRESS -> COMPLETED")


def test_the_end_says_how_long_it_took_and_where_the_time_went():
    state = WaitState(RUN_ID)
    played = play(
        wait_for_run(policy(), state), *map(payload, ["PENDING", "PENDING", "IN_PROGRESS", "COMPLETED"])
    )

    line = ending(state, played.result.run)

    assert line.level == "info"
    assert line.text == (
        f"Workflow run {RUN_ID} is COMPLETED, 11 min after its creation. "
        "Waited here for 3 min with 4 polls: PENDING 2 min, IN_PROGRESS 1 min."
    )


def test_a_run_that_is_over_at_the_first_poll_is_not_said_to_have_been_waited_for():
    state = WaitState(RUN_ID)
    played = play(wait_for_run(policy(), state), payload("FAILED", currentStateName="post_invoice"))

    line = ending(state, played.result.run)

    assert line.text == f"Workflow run {RUN_ID} is FAILED (state 'post_invoice'), 11 min after its creation."


@pytest.mark.parametrize("status", ["IN_PROGRESS", "AWAITING_USER_INPUT", "QUEUED"])
@pytest.mark.parametrize(("poke_interval", "most"), [(1.0, 6), (5.0, 19)])
def test_a_thousand_polls_of_one_status_are_a_handful_of_lines(status, poke_interval, most):
    waiting = policy(poke_interval=poke_interval, deadline=NOW + 1000 * poke_interval)

    played = play(wait_for_run(waiting, WaitState(RUN_ID)), payload(status))

    assert played.count(Request) == 1001
    assert 1 < len(played.logged) <= most


def test_a_reminder_says_what_is_waited_for_and_how_long_is_left():
    waiting = policy(deadline=NOW + 1000)

    played = play(
        poll(waiting, seen("IN_PROGRESS", currentStateName="post")),
        payload(currentStateName="post"),
        at=NOW + 300,
    )

    assert texts(played) == ["Still waiting: IN_PROGRESS (state 'post'), 5 min so far, 11 min 40 s left."]


@pytest.mark.parametrize("since", [299.0, 300.0])
def test_a_reminder_comes_five_minutes_after_the_last_line_and_not_before(since):
    played = play(poll(policy(), seen()), payload(), at=NOW + since)

    assert (played.logged != []) is (since >= 300)


def test_an_outage_is_logged_when_it_begins_then_once_a_minute_and_when_it_ends():
    waiting = policy(outage_tolerance=600)

    played = play(wait_for_run(waiting, seen()), *[503] * 6, payload(), payload("COMPLETED"), at=NOW + 60)

    began, *reminders, ended, _ = played.logged
    lines = texts(played)
    assert {began.level, *(line.level for line in reminders)} == {"warning"}
    assert lines[0] == (
        "No answer: 503 Service Unavailable. The run itself may be well; giving up after 9 min without contact. "
        f"Asked: {TARGET}"
    )
    assert lines[1] == "Still no answer: 503 Service Unavailable, for 1 min and 2 polls; giving up in 8 min."
    assert len(reminders) == 5
    assert ended.text == "Contact again after 7 min, in which 6 polls had no answer."


# Small questions.


def test_a_last_poll_without_an_answer_promises_no_other():
    played = play(poll(policy(), seen(), is_last=True), 503)

    assert [line.text for line in played.logged] == [
        f"No answer: 503 Service Unavailable. The run itself may be well. Asked: {TARGET}"
    ]


def test_of_a_run_that_was_never_seen_nothing_is_made_up():
    assert last_seen(WaitState(RUN_ID)) == "the run has not been seen"
    assert last_seen(WaitState(RUN_ID, seen_at=NOW)) == "its last status was not kept"


@pytest.mark.parametrize(
    ("status", "text"), [(503, "503 Service Unavailable"), (404, "404 Not Found"), (299, "299"), (999, "999")]
)
def test_a_status_is_written_as_http_writes_it(status, text):
    assert phrase(status) == text


@pytest.mark.parametrize("reply", [None, True, False])
def test_a_driver_that_answers_a_request_with_nothing_is_a_bug_and_no_disturbance(reply):
    with pytest.raises(TypeError):
        interpret(reply, RUN_ID)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (payload(), AnswerKind.RUN),
        (503, AnswerKind.TRANSIENT),
        (404, AnswerKind.NOT_FOUND),
        (401, AnswerKind.UNAUTHORIZED),
        (302, AnswerKind.REJECTED),
        (response(200, payload(id=OTHER_ID)), AnswerKind.TRANSIENT),
    ],
    ids=["run", "503", "404", "401", "302", "another run"],
)
def test_judging_an_answer_agrees_with_what_it_means(answer, kind):
    understood = interpret(made(answer), RUN_ID)
    state = WaitState(RUN_ID)

    assert understood.kind is kind
    if kind is AnswerKind.RUN:
        assert judge(policy(), state, understood).run == understood.run
    else:
        with pytest.raises(AnonError):
            judge(policy(), state, understood)


def test_an_answer_about_another_run_is_named_as_such():
    understood = interpret(response(200, payload("COMPLETED", id=OTHER_ID)), RUN_ID)

    assert understood.run is None
    assert f"another run, {OTHER_ID}" in understood.trouble


# The probe.

PAGE = {"Content-Type": "text/HTML; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "is_good", "words"),
    [
        (404, True, "The API at {} answers, and takes this connection."),
        (payload("COMPLETED", id=NIL_ID), True, "The API at {} answers, and takes this connection."),
        (
            401,
            False,
            "{} answers 401 Unauthorized. The token ('password') is missing or not accepted; for Basic, check 'login' too.",
        ),
        (
            403,
            False,
            "{} answers 403 Forbidden. The token ('password') is missing or not accepted; for Basic, check 'login' too.",
        ),
        (
            302,
            False,
            "{} answers 302 Found. The API never redirects, and no redirect is followed: check 'host' and 'schema'.",
        ),
        (400, False, "{} answers 400 Bad Request. That is not the API: check 'host'."),
        (
            407,
            False,
            (
                "{} answers 407 Proxy Authentication Required. The proxy wants a login and password: "
                "http://login:password@proxy.example:3128 in 'proxy'."
            ),
        ),
        (429, False, "{} answers 429 Too Many Requests. That may pass: try again later."),
        (503, False, "{} answers 503 Service Unavailable. That may pass: try again later."),
        (no_response("host name not found"), False, "No answer from {}: host name not found."),
        (
            response(200, b"<html>"),
            False,
            "{} answers 200 OK, but no workflow run (it is not JSON). That is not the API: check 'host'.",
        ),
        (
            response(404, b"<html>", headers=PAGE),
            False,
            "{} answers 404 Not Found and a web page. That is not the API: check 'host'.",
        ),
        (
            response(502, b"<html>", headers=PAGE),
            False,
            "{} answers 502 Bad Gateway and a web page. That may pass: try again later.",
        ),
    ],
    ids=[
        *("404", "run", "401", "403", "302", "400", "407", "429", "503", "no answer"),
        *("200 page", "404 page", "502 page"),
    ],
)
def test_a_probe_tells_what_the_answer_says_of_the_connection(answer, is_good, words):
    path = f"/api/v2/workflow-runs/{NIL_ID}"

    played = play(probe(), answer)

    assert played.result == (is_good, words.format(TARGET))
    assert played.steps == [Request(path)]


# What the core does without.


def test_importing_the_core_brings_in_neither_airflow_nor_an_http_library():
    modules = ("core.codec", "core.probe", "client.endpoint", "runs")
    imports = "; ".join(f"import airflow_anon.{name}" for name in modules)

    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert not {"airflow", "requests", "aiohttp"} & set(run.stdout.split())
