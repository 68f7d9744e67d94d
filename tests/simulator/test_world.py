"""Runs on their way through their scripts, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_anon.runs import WorkflowRun, WorkflowRunStatus
from airflow_anon.simulator.clock import MovableClock
from airflow_anon.simulator.scripted_run import KEPT_STAYS
from airflow_anon.simulator.world import KEPT, KEPT_SPOILT, OutageKind, World

RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock(start=1_700_000_000.25)


@pytest.fixture
def world(clock: MovableClock) -> World:
    return World(clock)


def seen(world: World, run_id: str) -> dict[str, Any]:
    payload = world.poll(run_id)
    assert payload is not None
    return payload


def test_a_run_goes_by_the_clock(world: World, clock: MovableClock) -> None:
    run_id = world.create_run("PENDING 2s, IN_PROGRESS 5s, COMPLETED")

    story = []
    for seconds in (0, 1.75, 0.25, 4.75, 0.25, 100):
        clock.advance(seconds)
        story.append(seen(world, run_id)["status"])

    assert story == ["PENDING", "PENDING", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED", "COMPLETED"]


def test_the_times_of_a_run_are_those_of_its_script(world: World, clock: MovableClock) -> None:
    run_id = world.create_run("PENDING 2s, COMPLETED")
    pending = seen(world, run_id)
    clock.advance(60)
    completed = seen(world, run_id)

    assert (pending["createdAt"], pending["updatedAt"], pending["completedAt"]) == (
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:20.250Z",
        None,
    )
    assert (completed["createdAt"], completed["updatedAt"], completed["completedAt"]) == (
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:22.250Z",
        "2023-11-14T22:13:22.250Z",
    )


def test_a_step_may_last_for_some_polls(world: World) -> None:
    run_id = world.create_run("MISSING 1 poll, PENDING 2 polls, COMPLETED")

    polls = [world.poll(run_id) for _ in range(5)]

    assert polls[0] is None
    assert [polled["status"] for polled in polls[1:] if polled] == [
        "PENDING",
        "PENDING",
        "COMPLETED",
        "COMPLETED",
    ]


def test_a_run_waits_until_it_is_answered(world: World, clock: MovableClock) -> None:
    run_id = world.create_run("AWAITING_USER_INPUT (approve) until answered, IN_PROGRESS 2s, COMPLETED")
    clock.advance(3600)
    waiting = seen(world, run_id)
    world.answer(run_id)
    answered = seen(world, run_id)

    assert (waiting["status"], waiting["currentStateName"]) == ("AWAITING_USER_INPUT", "approve")
    assert answered["status"] == "IN_PROGRESS"
    with pytest.raises(ValueError, match="waits for no answer"):
        world.answer(run_id)


@pytest.mark.parametrize("status", [WorkflowRunStatus.COMPLETED, WorkflowRunStatus.FAILED])
def test_a_run_can_be_ended_by_hand(world: World, status: WorkflowRunStatus) -> None:
    run_id = world.create_run("IN_PROGRESS (post_invoice) 1h, COMPLETED")
    world.end(run_id, status)
    ended = seen(world, run_id)

    assert (ended["status"], ended["currentStateName"]) == (status, "post_invoice")
    assert ended["completedAt"] is not None
    with pytest.raises(ValueError, match="has ended already"):
        world.end(run_id, status)


@pytest.mark.parametrize(
    ("script", "is_over"), [("UNKNOWN:QUEUED", False), ("ENDED:CANCELLED", True), ("FAILED", True)]
)
def test_what_is_shown_is_a_run_to_the_package(world: World, script: str, *, is_over: bool) -> None:
    run = WorkflowRun.from_payload(seen(world, world.create_run(script)))

    assert run.is_over is is_over
    assert len(run.payload) == 9


def test_a_run_is_found_whatever_the_case_of_its_id(world: World) -> None:
    world.create_run("COMPLETED", RUN_ID.upper())

    assert seen(world, RUN_ID)["id"] == RUN_ID.upper()


def test_an_id_is_used_once(world: World) -> None:
    world.create_run("COMPLETED", RUN_ID)

    with pytest.raises(ValueError, match="already"):
        world.create_run("COMPLETED", RUN_ID.upper())


def test_only_the_last_stays_of_a_long_script_are_kept(world: World, clock: MovableClock) -> None:
    run_id = world.create_run(", ".join(["PENDING 1s"] * KEPT_STAYS) + ", IN_PROGRESS 1s, COMPLETED")
    clock.advance(KEPT_STAYS + 1)

    stays = world.find(run_id).stays

    assert len(stays) == KEPT_STAYS
    assert [stay.step.status for stay in stays][-3:] == ["PENDING", "IN_PROGRESS", "COMPLETED"]


def test_only_the_last_spoilt_answers_are_kept(world: World, clock: MovableClock) -> None:
    world.add_faults(f"500, 502 x{KEPT_SPOILT}")
    for _ in range(KEPT_SPOILT + 1):
        world.take_fault(RUN_ID)

    assert [str(spoilt.fault) for spoilt in world.spoilt] == ["502"] * KEPT_SPOILT


def test_the_changes_of_all_runs_are_reported_once_and_in_order(world: World, clock: MovableClock) -> None:
    first = world.create_run("PENDING 4s, COMPLETED")
    second = world.create_run("PENDING 1s, FAILED")
    world.take_changes()
    clock.advance(10)

    assert [(change.run_id, change.status) for change in world.take_changes()] == [
        (second, "FAILED"),
        (first, "COMPLETED"),
    ]
    assert world.take_changes() == []


def test_the_faults_of_a_run_go_before_those_of_all(world: World) -> None:
    world.add_faults("500")
    world.add_faults("501", RUN_ID.upper())

    faults = [world.take_fault(RUN_ID), world.take_fault(RUN_ID), world.take_fault(RUN_ID)]

    assert [fault and fault.status for fault in faults] == [501, 500, None]


def test_an_outage_ends_by_the_clock(world: World, clock: MovableClock) -> None:
    world.start_outage(OutageKind.REFUSED, 30)
    clock.advance(29)
    left = world.outage_left
    clock.advance(1)

    assert left == pytest.approx(1)
    assert world.outage is None
    assert world.outage_left == 0


def test_only_so_many_arrivals_are_kept(world: World) -> None:
    for number in range(KEPT + 5):
        world.counters.record(None, {}, number)

    assert len(world.counters.arrivals) == KEPT
    assert world.counters.requests == KEPT + 5


def test_time_does_not_go_back(clock: MovableClock) -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)


def test_a_reset_forgets_everything(world: World) -> None:
    world.create_run("COMPLETED", RUN_ID)
    world.add_faults("503")
    world.start_outage(OutageKind.UNAVAILABLE)
    world.counters.record(RUN_ID, {}, 0)

    world.reset()

    assert (world.runs, world.faults_left, world.outage, world.counters.requests) == ({}, 0, None, 0)
    assert world.take_changes() == []
