"""Errors carry data, and it survives the way from one process to another."""

from __future__ import annotations

import pickle

import pytest

from airflow_anon import exceptions
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
def test_of_all_errors_only_lost_contact_is_worth_a_retry_by_itself(kind):
    error = kind("a message")

    assert error.retryable is (kind is AnonUnavailableError)


def test_what_one_error_says_of_a_retry_does_not_change_the_others():
    AnonRejectedError("one", retryable=True)

    assert AnonRejectedError("another").retryable is False


def test_an_invalid_id_is_a_value_error_too():
    assert issubclass(AnonInvalidIdError, ValueError)


def test_a_name_that_is_no_error_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="AnonNonsense"):
        exceptions.AnonNonsense  # noqa: B018
