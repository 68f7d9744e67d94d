"""Errors carry data, and it survives the way from one process to another."""

from __future__ import annotations

import json
import pickle

import pytest

from airflow_anon import exceptions
from airflow_anon.core.errors import error_from_payload
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonConfigurationError,
    AnonError,
    AnonInvalidIdError,
    AnonNotFoundError,
    AnonProtocolError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonUnknownStatusError,
    AnonUnreadableConnectionError,
)

KINDS = [
    AnonAuthenticationError,
    AnonConfigurationError,
    AnonError,
    AnonInvalidIdError,
    AnonNotFoundError,
    AnonProtocolError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonUnknownStatusError,
    AnonUnreadableConnectionError,
]
FACTS = {"workflow_run_id": "an id", "status_code": 503, "last_status": "PENDING", "last_seen_at": 12.5}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_carries_its_data_through_pickle(kind):
    error = kind("a message", retryable=True, **FACTS)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert str(copy) == "a message"
    assert copy.retryable is True
    assert {name: getattr(copy, name) for name in FACTS} == FACTS


def test_a_configuration_error_carries_connection_and_field_through_pickle():
    error = AnonConfigurationError("a message", conn_id="blue", field="timeout")

    copy = pickle.loads(pickle.dumps(error))

    assert (copy.conn_id, copy.field) == ("blue", "timeout")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retryable", [True, False])
def test_an_error_carries_its_data_through_json(kind, retryable):
    error = kind("a message", retryable=retryable, **FACTS)

    copy = error_from_payload(json.loads(json.dumps(error.to_payload())))

    assert (type(copy), str(copy), vars(copy)) == (kind, "a message", vars(error))


def test_connection_and_field_go_through_json_too():
    error = AnonConfigurationError("a message", conn_id="blue", field="timeout")

    copy = error_from_payload(json.loads(json.dumps(error.to_payload())))

    assert (copy.conn_id, copy.field, copy.retryable) == ("blue", "timeout", False)


@pytest.mark.parametrize("kind", ["AnonErrorOfALaterVersion", "Any", "AIRFLOW_ERRORS", "", None])
def test_an_error_of_a_later_version_is_an_error_all_the_same(kind):
    error = error_from_payload({"kind": kind, "message": "a message", "status_code": 503, "added_later": 1})

    assert (type(error), str(error), error.status_code) == (AnonError, "a message", 503)
    assert (error.retryable, hasattr(error, "added_later")) == (False, False)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_may_pass_is_worth_a_retry_by_itself(kind):
    error = kind("a message")

    assert error.retryable is (kind in {AnonUnavailableError, AnonUnreadableConnectionError})


def test_what_one_error_says_of_a_retry_does_not_change_the_others():
    AnonRejectedError("one", retryable=True)

    assert AnonRejectedError("another").retryable is False


def test_an_invalid_id_is_a_value_error_too():
    assert issubclass(AnonInvalidIdError, ValueError)


@pytest.mark.parametrize(
    "name", ["AnonWorkflowRunFailedError", "AnonWaitTimeoutError", "AnonUserInputTimeoutError"]
)
def test_an_error_that_is_airflows_is_called_by_the_name_it_is_imported_by(name):
    kind = getattr(exceptions, name)

    assert f"{kind.__module__}.{kind.__qualname__}" == f"airflow_anon.exceptions.{name}"
    assert type(pickle.loads(pickle.dumps(kind("a message")))) is kind
