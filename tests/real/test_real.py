"""
Every way of waiting in a real Airflow: its database, its next tasks and its logs are the judge.

What the imitation in ``carry_out.py`` takes for granted is judged here:

- a trigger's arguments and its event travel as JSON, beside what the task keeps: ``*_deferred``, ``many_*``;
- without a worker, arguments are rendered in the triggerer, and the trigger knows its end: ``*_without_worker``;
- an event ends a task, passed or skipped, with the XCom and the link that the trigger has written;
- each start has an object of its own, and a rescheduled one knows when the first began: ``late_reschedule``;
- the task state store keeps what the last start knew: ``asked_reschedule``;
- the run's failure and a timeout are not tried again, lost contact is; ``soft_fail`` skips: ``every_end``;
- a run that a task returns, and an id that is a UUID, arrive as what they are: ``values``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from scenario import EXAMPLE_DAGS, KNOWN_TRACEBACKS, OWN, Outcome
from variants import STARTS, STARTS_ON_WORKER

# One Airflow for all of them, on one worker of pytest's.
pytestmark = [pytest.mark.timeout(700), pytest.mark.xdist_group("real"), pytest.mark.unmeasured]

HOLD = timedelta(seconds=10)
FAILED, LATE, LOST = "AnonWorkflowRunFailedError", "AnonWaitTimeoutError", "AnonUnavailableError"
# How a task ends, in which try, and what errors its log has.
ENDS = {
    "failed_poke": ("failed", 1, [FAILED]),
    "failed_deferred": ("failed", 1, [FAILED]),
    "failed_without_worker": ("failed", 1, [FAILED]),
    "failed_many": ("failed", 1, [FAILED]),
    "failed_softly": ("skipped", 1, []),
    "late_poke": ("failed", 1, [LATE]),
    "late_reschedule": ("failed", 1, [LATE]),
    "late_deferred": ("failed", 1, [LATE]),
    "late_without_worker": ("failed", 1, [LATE]),
    "nothing_poke": ("skipped", 1, []),
    "nothing_without_worker": ("skipped", 1, []),
    "lost_without_worker": ("success", 2, [LOST]),
    "asked_reschedule": ("success", 1, []),
    "asked_deferred": ("success", 1, []),
}
# All other tasks of the examples pass.
SKIPPED_IN_EXAMPLES = {"anon_branch_on_no_action": {"tell_nobody": "skipped"}}


def ways(played: Outcome) -> dict[str, list[tuple[str, str, int]]]:
    """Return the waits of ``every_way`` by their way of waiting; mapped tasks cannot start without a worker."""
    found = defaultdict(list)
    for key in played.tasks:
        _, _, way = key[1].partition("_")
        if key[0] == "every_way" and way in STARTS:
            found[key[1] if key[1] == "mapped_without_worker" else way].append(key)
    assert set(found) == set(STARTS)
    return found


def right_xcom(played: Outcome, key: tuple[str, str, int]) -> Any:
    """Return what a wait of ``every_way`` has to hand on."""
    runs = played.conf["every_way"]["runs"]
    _, task_id, map_index = key
    if task_id.startswith("many_"):
        return [runs[f"{task_id}_0"], runs[f"{task_id}_1"]]
    return runs[f"{task_id}_{map_index}" if task_id.startswith("mapped_") else task_id]


def test_no_process_of_airflows_ends(played):
    assert played.ended == ""


def test_every_dag_can_be_imported(played):
    assert played.import_errors == []


def test_every_way_of_waiting_passes_and_a_next_task_finds_the_run(played):
    states = played.states("every_way")

    assert states == dict.fromkeys(states, "success")


def test_the_xcom_is_in_the_database_as_the_run_and_not_as_its_text_in_every_way(played):
    due = {key: right_xcom(played, key) for keys in ways(played).values() for key in keys}

    assert {key: played.xcoms.get(key) for key in due} == due


def test_each_wait_for_one_run_has_a_link_to_it(played):
    due = {key: right_xcom(played, key) for keys in ways(played).values() for key in keys}
    wrong = {
        key: played.links.get(key)
        for key, run in due.items()
        if isinstance(run, dict) and not str(played.links.get(key)).endswith(f"/{run['id']}")
    }

    assert wrong == {}


def test_a_wait_is_on_a_worker_as_often_as_it_must(played, variant):
    starts = {key: len(played.starts[key]) for keys in ways(played).values() for key in keys}

    due = STARTS | variant.starts
    assert starts == {key: due[way] for way, keys in ways(played).items() for key in keys}


def test_a_wait_that_needs_a_worker_all_the_same_says_why(played, variant):
    silent = {
        key
        for way, text in variant.says.items()
        for key in ways(played)[way]
        if text not in played.said(*key)
    }

    assert silent == set()


def test_between_two_starts_are_at_least_ten_seconds(played):
    waits = {
        key: sorted(starts) for key, starts in played.starts.items() if played.tasks[key]["try_number"] < 2
    }
    quick = {
        key for key, starts in waits.items() if any(later - start < HOLD for start, later in pairwise(starts))
    }

    assert any(len(starts) > 1 for starts in waits.values())
    assert quick == set()


def test_the_scheduler_takes_no_end_of_a_start_for_that_of_the_next(played):
    assert played.mixed_up == []


def test_every_other_end_is_what_airflow_records_and_none_is_tried_again_in_vain(played):
    found = {
        key[1]: (task["state"], task["try_number"], played.errors(key))
        for key, task in played.tasks.items()
        if key[0] == "every_end"
    }

    assert found == ENDS


def test_user_input_is_asked_for_once(played):
    asked = {
        task_id: played.said("every_end", task_id).count("asked in state approve")
        for task_id in ("asked_reschedule", "asked_deferred")
    }

    assert set(asked.values()) == {1}, asked


def test_a_sensor_with_a_required_param_starts_on_a_worker_and_says_why(played, variant):
    assert played.states("required_param") == {"wait": "success", "use_run": "success"}
    assert STARTS_ON_WORKER in played.said("required_param", "wait")
    starts = (STARTS | variant.starts)["ends_in_triggerer"]
    assert len(played.starts["required_param", "wait", -1]) == starts


def test_a_run_that_a_task_returns_and_ids_that_are_uuids_arrive(played):
    states = played.states("values")

    assert states == dict.fromkeys(("literal", "make_id", "handed_on", "poll", "use_run"), "success")
    assert "received a run that is COMPLETED" in played.said("values", "use_run")


def test_every_example_ends_as_it_says(played, variant):
    if not variant.with_examples:
        pytest.skip("they take minutes: `nox -s real` runs them")
    found = {dag_id: played.states(dag_id) for dag_id in EXAMPLE_DAGS}

    assert found == {
        dag_id: dict.fromkeys(states, "success") | SKIPPED_IN_EXAMPLES.get(dag_id, {})
        for dag_id, states in found.items()
    }
    assert all(found.values())


def test_no_log_has_a_traceback_but_of_the_errors_that_are_due(played):
    dags = {*OWN, *EXAMPLE_DAGS}
    found = {key: played.errors(key) for key in played.tasks if key[0] in dags and key[0] != "every_end"}

    assert {key: errors for key, errors in found.items() if errors} == {}
    counts = Counter(played.tracebacks)
    assert {line: count for line, count in counts.items() if count > KNOWN_TRACEBACKS.get(line, 0)} == {}
