import pytest
from samples import RUN_ID

from airflow_anon.core.ids import normalise_id
from airflow_anon.exceptions import AnonInvalidIdError


@pytest.mark.parametrize(
    "text",
    [
        RUN_ID,
        RUN_ID.upper(),
        "00000000-0000-0000-0000-000000000000",
        "3c90c3cc-0d44-8b50-b888-8dd25736052a",
    ],
)
@pytest.mark.parametrize("before", ["", " ", "\n"])
@pytest.mark.parametrize("after", ["", "  ", "\r\n"])
def test_blanks_around_an_id_are_trimmed_and_its_letters_left_alone(text, before, after):
    assert normalise_id(before + text + after) == text


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        "None",
        "{{ ti.xcom_pull(task_ids='start') }}",
        "3c90c3cc-0d44-9b50-8888-8dd25736052a",
        "3c90c3cc-0d44-4b50-7888-8dd25736052a",
        "3c90c3cc0d444b5088888dd25736052a",
        "{3c90c3cc-0d44-4b50-8888-8dd25736052a}",
        "3c90c3cc-0d44-4b50-8888-8dd25736052a/..",
        "3c90c3cc-0d44-4b50-8888-8dd25736052٣",
        None,
        7,
        b"3c90c3cc-0d44-4b50-8888-8dd25736052a",
    ],
    ids=repr,
)
def test_an_id_that_the_api_would_not_take_is_refused_and_shown(value):
    with pytest.raises(AnonInvalidIdError) as refused:
        normalise_id(value)

    assert f"workflow_run_id {value!r} is not the id" in str(refused.value)
    assert RUN_ID in str(refused.value)


@pytest.mark.parametrize(("length", "whole"), [(198, True), (199, False), (10_000, False)])
def test_a_very_long_value_is_not_shown_whole(length, whole):
    with pytest.raises(AnonInvalidIdError) as refused:
        normalise_id("x" * length)

    assert (repr("x" * length) in str(refused.value)) == whole
    assert (f" {repr('x' * length)[:200]}... is not the id" in str(refused.value)) != whole
    assert len(str(refused.value)) < 400
