from __future__ import annotations

import json
import math

import pytest
from airflows_encoders import carried
from any_json import anything
from hypothesis import example, given, strategies as st

from airflow_anon.core.sanitize import DEEPEST, LARGEST, SMALLEST, Unfit, fit, fit_text, read_json
from airflow_anon.runs import WorkflowRunStatus


def nested(levels, inside='"x"'):
    return b'{"deep": ' + b"[" * levels + inside.encode() + b"]" * levels + b"}"


@given(anything)
@example({"__classname__": "builtins.tuple", "__version__": 1, "__data__": [1]})
@example({"__type": "dict", "__var": {"a": 1}})
@example({"a\0": 1, "a\ufffd": 2})
def test_whatever_json_holds_is_made_fit_for_airflow(value):
    body = json.dumps(value).encode()

    fitted = fit(read_json(body))

    assert carried(fitted) == fitted
    assert fit(fitted) == fitted


@given(st.binary(max_size=300))
def test_bytes_are_json_that_is_made_fit_or_are_refused(body):
    try:
        value = read_json(body)
    except ValueError:
        return

    assert carried(fit(value)) == fit(value)


@given(st.binary(max_size=300), st.text(st.characters() | st.sampled_from("\0\ud83d")))
def test_any_text_is_made_fit(body, text):
    for unfit in (text, body.decode(errors="surrogateescape")):
        assert carried(fit_text(unfit)) == fit_text(unfit)


def test_what_is_fit_is_handed_on_as_it_is():
    value = {"a": "\U0001f600 \u2028", "b": [1, -2.5, None, True, LARGEST, SMALLEST], "c": {"d": {}}}

    assert fit(value) is value


def test_text_gets_a_replacement_character_and_numbers_become_their_text():
    body = b'{"name": "done \\ud83d", "n\\u0000": {"m": [1e400, -1E999, 36893488147419103232, NaN]}}'

    value = fit(read_json(body))

    assert value == {
        "name": "done \ufffd",
        "n\ufffd": {"m": ["1e400", "-1E999", "36893488147419103232", "NaN"]},
    }


def test_a_number_of_thousands_of_digits_becomes_its_text():
    assert fit(read_json(b"[" + b"9" * 5000 + b"]")) == ["9" * 5000]


def test_keys_that_become_the_same_are_kept_apart():
    assert fit({"a\0": 1, "a\ud800": 2, "b": 3}) == {"a\ufffd": 1, "a\ufffd\ufffd": 2, "b": 3}


def test_what_is_nested_too_deeply_becomes_text():
    value = fit(read_json(nested(DEEPEST + 3, "1e400")))["deep"]
    for _ in range(DEEPEST - 1):
        (value,) = value

    assert value == '[[[["1e400"]]]]'


def test_what_is_no_json_becomes_text():
    assert fit({("a", 1): {1, 2}, "b": (1, WorkflowRunStatus.FAILED)}) == {
        '["a", 1]': "{1, 2}",
        "b": [1, "FAILED"],
    }


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 2}', b'{"b": [{"a": 1, "\\u0061": 1}]}'])
def test_the_same_key_twice_is_refused(body):
    with pytest.raises(ValueError, match="twice"):
        read_json(body)


def test_a_number_that_cannot_be_carried_is_neither_text_nor_number_when_it_is_judged():
    assert isinstance(read_json(b"1e400"), Unfit)
    assert math.isclose(read_json(b"1e300"), 1e300)
