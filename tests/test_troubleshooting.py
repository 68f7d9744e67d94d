"""The page about troubleshooting tells the truth: each message that it explains is one that people see."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from carry_out import anon_api, carry_out, events_of

from airflow_anon.exceptions import AnonError, AnonUnavailableError
from airflow_anon.hooks import AnonHook
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.triggers import AnonWorkflowRunTrigger

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
MESSAGES = [
    heading.replace("\\", "")
    for heading in re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
]
# What a run goes through, what goes wrong, and what else the sensor is given.
SCENES = [
    {"connection": {"password": "***"}},
    {"connection": {"host": "two words"}},
    {"connection": {"extra": {"time_out": 3}}},
    {"connection": {"password": "wrong"}},
    {"run_id": "None"},
    {"run_id": "3c90c3cc-0d44-4b50-8888-8dd25736052a"},
    {"faults": "redirect"},
    {"faults": "503 x99"},
    {"faults": "slow 0s, 404"},
    {"faults": "slow 0s, html"},
    {"faults": "slow 0s, 503 x999"},
    {"faults": "slow 0s, 503", "keeps": False, "mode": "reschedule"},
    {"script": "UNKNOWN:QUEUED 2m, ENDED:CANCELLED"},
    {"script": "IN_PROGRESS (half an emoji: \ud83d) 2m, COMPLETED"},
    {"script": "FAILED (post_invoice)"},
    {"timeout": 600},
    {"faults": "slow 0s, 404 x99", "timeout": 600, "silent_fail": True, "deferrable": True},
    {
        "script": "AWAITING_USER_INPUT until answered, COMPLETED",
        "user_input_timeout": 600,
        "on_awaiting_user_input_callback": lambda context: context["no such thing"],
    },
    {"script": "PENDING 1m, COMPLETED", "start_from_trigger": True, "on_execute_callback": print},
    {"script": "PENDING 1m, COMPLETED", "end_from_trigger": True, "on_success_callback": print},
]


@pytest.fixture
def reported(monkeypatch, capsys, caplog):
    """Return all that the scenes reported, in logs and in errors."""
    errors = []
    with anon_api(monkeypatch) as (simulator, clock), caplog.at_level(logging.INFO):
        for scene in SCENES:
            errors.append(play(simulator, clock, monkeypatch, **scene))
            simulator.reset()
        errors.append(lose_the_trigger(simulator.create_run("PENDING")))
        lose_the_xcom(simulator.create_run("COMPLETED"))
        break_the_trigger()
    AnonWorkflowRunTrigger(workflow_run_id="any", of_a_later_version=1)
    errors += [poll_with_no_connection(), poll_over_plain_http(monkeypatch)]
    return "\n".join([*errors, caplog.text, capsys.readouterr().out])


def play(
    simulator,
    clock,
    monkeypatch,
    *,
    script="PENDING 9h, COMPLETED",
    faults="",
    run_id=None,
    connection=None,
    keeps=True,
    **options,
):
    fields = {**json.loads(simulator.connection()), **(connection or {})}
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(fields))
    run_id = run_id or simulator.create_run(script)
    if faults:
        simulator.add_faults(faults, run_id)
    story = carry_out(
        lambda: AnonWorkflowRunSensor(
            task_id="wait", workflow_run_id=run_id, **{"timeout": 3600, "poke_interval": 30, **options}
        ),
        clock,
        keeps=keeps,
    )
    return "\n".join([str(story.error), *story.log])


def lose_the_trigger(run_id):
    class Instance:
        start_date = None

    sensor = AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, deferrable=True)
    with pytest.raises(AnonUnavailableError) as lost:
        sensor.resume_execution("__fail__", {"error": "Trigger failure"}, {"ti": Instance()})
    return str(lost.value)


def lose_the_xcom(run_id):
    trigger = AnonWorkflowRunTrigger(workflow_run_id=run_id, end_from_trigger=True)
    trigger.task_instance = SimpleNamespace(task_id="wait")  # so that nobody knows where to put the XCom
    asyncio.run(events_of(trigger))


def break_the_trigger():
    asyncio.run(events_of(AnonWorkflowRunTrigger(workflow_run_id="any", timeout="soon")))


def poll_with_no_connection():
    with pytest.raises(AnonError) as missing:
        AnonHook("nowhere").get_workflow_run("3c90c3cc-0d44-4b50-8888-8dd25736052a")
    return str(missing.value)


def poll_over_plain_http(monkeypatch):
    fields = {"conn_type": "anon", "host": "http://anon.example", "password": "let-me-in"}
    monkeypatch.setenv("AIRFLOW_CONN_ANON_PLAIN", json.dumps(fields))
    return "\n".join(AnonHook("anon_plain").endpoint().cautions)


def test_every_message_that_is_explained_is_one_that_people_see(reported):
    assert [message for message in MESSAGES if not re.search(pattern_of(message), reported)] == []


def pattern_of(message):
    return ".+?".join(map(re.escape, message.split("…")))


def test_there_is_something_to_explain():
    assert len(MESSAGES) > len(SCENES)
