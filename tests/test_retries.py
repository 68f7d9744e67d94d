"""The ready-made retry policy says what the exceptions say; where Airflow has none, it says what to use."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_anon import exceptions
from airflow_anon.core.errors import error_from_payload
from airflow_anon.exceptions import (
    AnonError,
    AnonNotFoundError,
    AnonUnavailableError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.retries import anon_retry_policy

DOCS = Path(__file__).parent.parent.joinpath("docs", "retries.md").read_text(encoding="utf-8")
KINDS = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, AnonError)]
only_with_policies = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow has no retry policies")


@pytest.mark.skipif(AIRFLOW_V_3_3_PLUS, reason="Airflow has retry policies")
def test_where_airflow_has_no_policies_it_says_what_to_use():
    with pytest.raises(RuntimeError, match=r"needs Airflow 3\.3 .* Set retries and retry_delay"):
        anon_retry_policy()


@only_with_policies
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_retried_if_it_says_that_this_may_help(kind):
    error = error_from_payload(kind("a message").to_payload())

    decision = anon_retry_policy(timedelta(seconds=77)).evaluate(error, 1, 3)

    assert decision.action.value == ("retry" if kind.retryable else "fail")
    assert decision.retry_delay == (timedelta(seconds=77) if kind.retryable else None)


@only_with_policies
@pytest.mark.parametrize("error", [ValueError("of the task's own"), KeyboardInterrupt()])
def test_errors_of_others_are_left_to_airflow(error):
    decision = anon_retry_policy().evaluate(error, 1, 3)

    assert decision.action.value == "default"


@only_with_policies
def test_a_pause_of_five_minutes_is_usual():
    decision = anon_retry_policy().evaluate(AnonUnavailableError("a message"), 1, 3)

    assert decision.retry_delay == timedelta(minutes=5)


@only_with_policies
def test_the_policy_can_be_kept_with_the_dag():
    policy = anon_retry_policy()

    copy = type(policy).deserialize(policy.serialize())

    assert copy.evaluate(AnonUnavailableError("a message"), 1, 3) == policy.evaluate(
        AnonUnavailableError("a message"), 1, 3
    )


def test_what_airflow_never_retries_needs_no_policy():
    assert issubclass(AnonWorkflowRunFailedError, AirflowFailException)
    assert issubclass(AnonWaitTimeoutError, AirflowSensorTimeout)


@only_with_policies
def test_the_documentation_can_be_run():
    snippets = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names = {}

    for snippet in snippets:
        exec(compile(snippet, "retries.md", "exec"), names)

    assert len(snippets) == 2
    assert names["policy"].evaluate(AnonNotFoundError("a message"), 1, 3).action.value == "retry"


def test_every_error_that_ends_a_task_is_documented():
    rows = {"AnonWorkflowRunFailedError", "AnonWaitTimeoutError", "AnonUserInputTimeoutError"}
    rows |= {kind.__name__ for kind in KINDS if kind.retryable}

    assert rows <= set(re.findall(r"`(Anon\w+Error)`", DOCS))
