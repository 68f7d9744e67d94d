"""Whatever the API, the network or a connection come up with, a wait keeps its promises."""

from __future__ import annotations

import json
import math
import traceback
from itertools import cycle

import pytest
from hypothesis import assume, example, given, strategies as st
from samples import NOW, RUN_ID, http_date, no_response, payload, play, response

from airflow_anon.client.endpoint import EXTRAS, Endpoint
from airflow_anon.core.answers import LONGEST_RETRY_AFTER, retry_after, when
from airflow_anon.core.flow import ReloadConnection, Request, Sleep
from airflow_anon.core.policy import SHORTEST_PAUSE, SPREAD, WaitPolicy
from airflow_anon.core.polling import (
    FIRST_POLL_PATIENCE,
    LONGEST_BACKOFF,
    SPREAD_OF_BACKOFF,
    fetch_run,
    wait_for_run,
)
from airflow_anon.core.probe import probe
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.exceptions import AnonConfigurationError, AnonError
from airflow_anon.runs import WorkflowRun

pytestmark = pytest.mark.unmeasured
SECRET = "s3cr3t-t0k3n"
SUCCESSES = ("COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN")
UNDER_WAY = ("PENDING", "IN_PROGRESS", "AWAITING_USER_INPUT", "QUEUED")
LONGEST_REQUEST = 40.0

# What comes back.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
statuses_of_runs = st.sampled_from([*SUCCESSES, *UNDER_WAY, "FAILED", "CANCELLED", "completed"]) | st.text(
    max_size=10
)
timestamps = st.none() | st.sampled_from(
    [
        "2023-11-14T22:11:00Z",
        "2023-11-14T22:11Z",
        "2023-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999999Z",
    ]
)
real_runs = st.builds(
    payload,
    st.sampled_from([*SUCCESSES, *UNDER_WAY, *UNDER_WAY, "FAILED"]),
    currentStateName=st.none() | st.sampled_from(["a", "b"]),
)
mutated_runs = st.builds(
    lambda run, changes: {**run, **changes},
    real_runs,
    st.fixed_dictionaries(
        {},
        optional={
            "status": statuses_of_runs | json_values,
            "completedAt": timestamps | json_values,
            "updatedAt": timestamps | json_values,
            "createdAt": timestamps,
            "id": st.sampled_from([RUN_ID.upper(), "00000000-0000-0000-0000-000000000000"]) | json_values,
            "jobRunId": json_values,
            "currentStateName": json_values,
            "more": json_values,
        },
    ),
)
bodies = st.one_of(
    real_runs,
    mutated_runs.map(lambda run: json.dumps(run).encode()),
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"", b"null", b"<html></html>", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b"\xff\xfe"]
    ),
)
dates = st.one_of(
    st.floats(NOW - 1e6, NOW + 1e6).map(http_date),
    st.sampled_from(
        [
            "",
            "12:00:00",
            "Sun, 06 Nov 1994 08:49:37 EST",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 9999",
            "Mon, 01 Jan 0001 00:00:00 +2359",
            "Sun, 06 Nov 1994 08:49:37 -99999999999999999999",
            "Sun, 06 Nov 99999999999 08:49:37 GMT",
        ]
    ),
    st.text(max_size=40),
)
delays = st.one_of(
    st.integers(-10, 400).map(str),
    dates,
    st.sampled_from(["inf", "-inf", "nan", "1e9", "9" * 400, "0x10", "1_000", "٧", "²", " 7 ", "7, 9"]),
)
headers = st.fixed_dictionaries({}, optional={"Retry-After": delays, "Date": dates})
statuses = st.sampled_from([200, 200, 200, 401, 404, 429, 503]) | st.integers(100, 599)
durations = st.sampled_from([0.0, 0.0, 0.1, 30.0]) | st.floats(0.0, LONGEST_REQUEST)
replies = st.one_of(
    st.builds(response, st.just(200), real_runs, took=durations, headers=headers),
    st.builds(response, statuses, bodies, took=durations, headers=headers),
    st.builds(no_response, st.sampled_from(["timed out", "connection refused"]), took=durations),
)
stories = st.lists(replies, min_size=1, max_size=12)

# What is asked of a wait.

intervals = st.sampled_from([0.0, 0.5, 5.0, 60.0, 3600.0]) | st.floats(0.0, 1e5)
tolerances = st.sampled_from([0.0, 60.0, 600.0, math.inf]) | st.floats(0.0, 1e4)
times_left = st.floats(-10.0, 400.0)


people = st.none() | st.floats(0.0, 500.0)


def policies(user_input_timeouts=people):
    return st.builds(
        lambda left, **options: WaitPolicy(started_at=NOW, deadline=NOW + left, **options),
        times_left,
        poke_interval=intervals,
        exponential_backoff=st.booleans(),
        max_wait=st.none() | intervals,
        outage_tolerance=tolerances,
        user_input_timeout=user_input_timeouts,
    )


states = st.builds(
    lambda seen_before, ago: (
        WaitState(RUN_ID, seen_at=NOW - ago, status="PENDING") if seen_before else WaitState(RUN_ID)
    ),
    st.booleans(),
    st.floats(0.0, 1e4),
)
reloads = st.lists(st.booleans(), min_size=1, max_size=4)
spreads = st.floats(0.0, 1.0)


def waited(policy, state, story, changed, spread=0.0):
    """Carry a wait out against an API that tells the same story again and again."""
    answers = cycle(story)
    return play(wait_for_run(policy, state), lambda _: next(answers), changed=cycle(changed), spread=spread)


@given(policies(), states, stories, reloads, spreads)
def test_a_wait_with_a_deadline_ends_on_time_with_a_poll_or_an_error_of_ours(
    policy, state, story, changed, spread
):
    played = waited(policy, state, story, changed, spread)

    assert (played.error is None) is (played.outcome is not None)
    assert played.now <= max(policy.deadline, NOW) + 2 * LONGEST_REQUEST + 1e-3


@given(policies(), states, stories, reloads, spreads)
def test_every_pause_is_finite_and_within_its_bounds(policy, state, story, changed, spread):
    played = waited(policy, state, story, changed, spread)

    now = NOW
    for step in (step for step in played.steps if isinstance(step, Sleep)):
        longest = max(
            (policy.interval(played.now) + 1) * (1 + SPREAD_OF_BACKOFF),
            LONGEST_BACKOFF * (1 + SPREAD_OF_BACKOFF),
            LONGEST_RETRY_AFTER * (1 + SPREAD_OF_BACKOFF),
        )
        now += step.seconds
        assert math.isfinite(step.seconds)
        assert math.isfinite(step.spread)
        assert step.seconds >= 0
        assert 0 <= step.spread <= step.seconds * max(SPREAD, SPREAD_OF_BACKOFF)
        assert step.seconds + step.spread <= longest
        assert now + step.spread <= max(policy.deadline, NOW) + 1e-3


@given(policies(user_input_timeouts=st.none()), states, stories, reloads)
def test_the_number_of_requests_is_bounded_by_the_time_that_passes(policy, state, story, changed):
    played = waited(policy, state, story, changed)

    most_polls = 2 * (played.now - NOW) / SHORTEST_PAUSE + 4
    assert played.count(Request) <= 2 * most_polls
    assert played.count(ReloadConnection) <= most_polls


@given(policies(), states, stories, reloads)
def test_a_wait_is_over_only_with_a_run_that_is_over(policy, state, story, changed):
    played = waited(policy, state, story, changed)

    assume(played.error is None)
    assert played.result.outcome is not Outcome.WAITING
    assert (played.result.outcome is Outcome.OVER) is bool(played.result.run and played.result.run.is_over)


@given(mutated_runs | json_values)
@example(payload("COMPLETED"))
@example(payload("CANCELLED", completedAt="2023-11-14T22:11:00Z"))
def test_nothing_but_a_status_of_success_is_a_success(body):
    try:
        run = WorkflowRun.from_payload(body)
    except ValueError:
        return

    assert run.succeeded is (body["status"] in SUCCESSES)
    assert not (run.succeeded and not run.is_over)
    assert run.to_payload() == body


@given(stories, reloads)
@example([response(401, took=11.0), *[no_response()] * 3], [True])
def test_a_fetch_ends_within_its_patience_with_a_run_or_an_error_of_ours(story, changed):
    answers = cycle(story)

    played = play(fetch_run(RUN_ID), lambda _: next(answers), changed=cycle(changed))

    assert isinstance(played.error, AnonError) or isinstance(played.outcome, WorkflowRun)
    assert played.slept_until <= NOW + FIRST_POLL_PATIENCE + 1e-3
    # A last request whose token is refused is sent once more with the one that took its place.
    assert played.now <= played.slept_until + 2 * LONGEST_REQUEST + 1e-3
    assert played.count(ReloadConnection) <= played.count(Request)


@given(replies)
def test_a_probe_always_has_an_answer(reply):
    good, text = play(probe(), reply).result

    assert isinstance(good, bool)
    assert text


@given(delays, st.floats(-1e12, 1e12))
def test_retry_after_is_within_its_cap_whatever_it_says(value, now):
    assert 0 <= retry_after(value, now) <= LONGEST_RETRY_AFTER


@given(dates)
def test_a_date_is_a_number_or_nothing(date):
    moment = when(date)

    assert moment is None or math.isfinite(moment)


# Connections.

spellings = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "https://",
        "://",
        "//",
        "/",
        ":",
        "@",
        "[",
        "]",
        "***",
        "{",
        "}",
        "%",
        "?",
        "#",
        "\t",
        "\0",
        "℀",
        "ä",
        "\ud800",
        "443",
        "{id}",
    ]
)
secrets = st.builds(lambda before, after: f"{before}{SECRET}{after}", spellings, spellings)
texts = st.none() | spellings | secrets | st.lists(spellings | st.just(SECRET), max_size=5).map("".join)
hosts = texts | st.builds(
    lambda scheme, text: f"{scheme}{text}", st.sampled_from(["https://", "http://", "HTTP://"]), texts
)
values = st.one_of(
    json_values,
    texts,
    st.integers(),
    st.floats(),
    st.builds(lambda a, b: f"http://{a}:{b}@proxy.example:3128", spellings, secrets),
    st.builds(lambda text: f"https://app.example/{text}/{{id}}", texts),
    st.dictionaries(
        st.sampled_from(["X-Api-Key", "Authorization", "host", ""]), secrets | json_values, max_size=2
    ),
)
names = st.sampled_from([*EXTRAS, *(f"extra__anon__{name}" for name in EXTRAS), "time_out"])
extras = st.one_of(
    st.dictionaries(names, values, max_size=3).map(json.dumps), texts, json_values.map(json.dumps)
)


@given(hosts, texts, st.none() | st.integers(-1, 70_000), texts, texts, extras)
def test_a_connection_is_an_endpoint_or_refused_without_showing_a_secret(
    host, schema, port, login, password, extra
):
    try:
        endpoint = Endpoint.from_connection(
            "blue", host=host, schema=schema, port=port, login=login, password=password, extra=extra
        )
    except AnonConfigurationError as error:
        refusal = error
    else:
        refusal = None

    if refusal is not None:
        assert SECRET not in "".join(traceback.format_exception(refusal)) + repr(vars(refusal))
        return
    assert endpoint.base_url.startswith(("https://", "http://"))
    assert not endpoint.base_url.endswith("/")
    assert 0 < endpoint.timeout <= 1e6
    assert len({name.lower() for name in endpoint.headers}) == len(endpoint.headers)
    assert all(
        text.isascii() and text.isprintable() for text in "".join(endpoint.headers.values()).split("\t")
    )


@given(st.dictionaries(names, values, max_size=2), st.sampled_from([None, "jo"]))
def test_an_endpoint_shows_neither_its_password_nor_its_headers_nor_its_proxy(extra, login):
    hidden = {name: extra[name] for name in extra if name.endswith(("headers", "proxy"))}

    try:
        endpoint = Endpoint.from_connection("blue", login=login, password=SECRET, extra=json.dumps(hidden))
    except AnonConfigurationError:
        return

    assert SECRET not in repr(endpoint)
    assert endpoint.headers.get("Authorization", "-") not in repr(endpoint)
