"""The languages of scripts and faults."""

from __future__ import annotations

import pytest

from airflow_anon.simulator.scripts import Fault, FaultKind, Step, parse_faults, parse_script


def test_a_script_is_read_step_by_step() -> None:
    steps = parse_script(
        "MISSING 3 polls, PENDING 500ms, IN_PROGRESS (post, then wait) 1.5s, "
        "AWAITING_USER_INPUT until answered, FAILED"
    )

    assert steps == (
        Step(None, polls=3),
        Step("PENDING", seconds=0.5),
        Step("IN_PROGRESS", state="post, then wait", seconds=1.5),
        Step("AWAITING_USER_INPUT", until_answered=True),
        Step("FAILED", ended=True),
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("2s", 2), ("2 s", 2), ("3m", 180), ("1h", 3600), ("0s", 0)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_script(f"PENDING {text}, COMPLETED")[0].seconds == seconds


def test_one_poll_may_be_written_in_the_singular() -> None:
    assert parse_script("PENDING 1 poll, COMPLETED")[0].polls == 1


@pytest.mark.parametrize(
    ("script", "step"),
    [
        ("COMPLETED", Step("COMPLETED", ended=True)),
        ("COMPLETED_WITH_NO_ACTION_TAKEN", Step("COMPLETED_WITH_NO_ACTION_TAKEN", ended=True)),
        ("PENDING", Step("PENDING")),
        ("MISSING", Step(None)),
        ("UNKNOWN:QUEUED", Step("QUEUED")),
        ("ENDED:CANCELLED", Step("CANCELLED", ended=True)),
    ],
)
def test_the_last_step_holds_for_ever(script: str, step: Step) -> None:
    assert parse_script(script) == (step,)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", r"step 1 .*''.*a step is a status"),
        ("PENDING 2s,", r"step 2 .*''"),
        ("PENDNG 2s, COMPLETED", r"step 1 .*'PENDNG 2s'.*did you mean PENDING\?"),
        ("PENDING 2s, completed", r"step 2 .*did you mean COMPLETED\?"),
        ("XYZ", r"no status; right are .*PENDING.*UNKNOWN:NAME"),
        ("UNKNOWN:COMPLETED", r"COMPLETED is a known status"),
        ("UNKNOWN:", r"no status"),
        ("PENDING, COMPLETED", r"step 1 .*must say how long it lasts"),
        ("PENDING 2, COMPLETED", r"'2' is not a duration; use '500ms'"),
        ("PENDING 0 polls, COMPLETED", r"'0 polls' is not a duration"),
        ("PENDING until asked, COMPLETED", r"'until asked' is not a duration"),
        ("PENDING 2s", r"the last step holds for ever"),
        ("COMPLETED 2s, PENDING", r"has ended stays as it is"),
        ("PENDING 2s, MISSING", r"only the first step can be MISSING"),
        ("PENDING (a) (b) 2s, COMPLETED", r"a step is a status"),
    ],
)
def test_a_wrong_script_names_the_step_and_what_is_right(script: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_script(script)


def test_faults_are_read_one_for_each_request() -> None:
    faults = parse_faults(
        '503 x2, 429 retry-after="Wed, 25 Nov 2026 04:00:00 GMT", 502 body="a, \\"b\\"" retry-after=7, '
        "slow 2s, drip 0.5s x2, drip-headers 500ms, hang"
    )

    assert faults == (
        Fault(FaultKind.STATUS, status=503),
        Fault(FaultKind.STATUS, status=503),
        Fault(FaultKind.STATUS, status=429, retry_after="Wed, 25 Nov 2026 04:00:00 GMT"),
        Fault(FaultKind.STATUS, status=502, retry_after="7", body='a, "b"'),
        Fault(FaultKind.SLOW, seconds=2),
        Fault(FaultKind.DRIP, seconds=0.5),
        Fault(FaultKind.DRIP, seconds=0.5),
        Fault(FaultKind.DRIP_HEADERS, seconds=0.5),
        Fault(FaultKind.HANG),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"fault 1, ''.*HTTP status from 200 to 599"),
        ("503, slwo 2s", r"fault 2, 'slwo 2s'.*slow"),
        ("99", r"HTTP status"),
        ("600", r"HTTP status"),
        ("status", r"HTTP status"),
        ("503 after=7", r"'after=7'.*retry-after=7"),
        ('503 body="open', r"body"),
        ("slow", r"'' is not a duration"),
        ("slow down", r"'down' is not a duration"),
        ("hang 2s", r"'2s': hang takes nothing"),
    ],
)
def test_a_wrong_fault_is_named_with_what_is_right(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_faults(text)
