"""How a wait ends for an Airflow task: with the run's JSON, or with an error that says what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airflow_anon.core.group import WaitGroup, counted, listed
from airflow_anon.core.messages import clipped, described, duration, facts_of, last_seen
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.exceptions import (
    AnonUnknownStatusError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.runs import WorkflowRun


def result_of(run: WorkflowRun) -> dict[str, Any]:
    """
    Return the JSON of a run that ended well.

    :raises AnonWorkflowRunFailedError: it failed.
    :raises AnonUnknownStatusError: it ended in a status that this version does not know.
    """
    if run.succeeded:
        return run.to_payload()
    raise _bad_end(run)


def _bad_end(run: WorkflowRun) -> AnonWorkflowRunFailedError | AnonUnknownStatusError:
    where = described(str(run.status), run.current_state_name)
    facts = f"Workflow run {run.id} of workflow {run.workflow_id}"
    if run.failed:
        job = f", job run {run.job_run_id}" if run.job_run_id else ""
        text = f"{facts} is {where}{job}. It ended {duration(run.seconds_run)} after its creation."
        return AnonWorkflowRunFailedError(text, run)
    return AnonUnknownStatusError(
        f"{facts} ended in {where}, which this version of airflow-provider-anon does not know. "
        "Look at the run, and for a newer version of the package.",
        workflow_run_id=run.id,
        last_status=clipped(str(run.status)),
    )


def result_of_all(group: WaitGroup, polled: PollResult) -> list[dict[str, Any]]:
    """
    Return the JSON of runs that all ended well, in the order of the ids.

    :param polled: what the last polls of all of them came to.
    :raises AnonWorkflowRunFailedError: some failed.
    :raises AnonUnknownStatusError: some ended in a status that this version does not know.
    :raises AnonWaitTimeoutError: some were not over, but the wait's time was.
    """
    bad = [_bad_end(run) for run in group.runs if not run.succeeded]
    if polled.outcome is not Outcome.OVER:
        raise _all_timed_out(group, polled, bad)
    if not bad:
        return group.payloads()
    waiting = " The wait ended with the first, as fail_fast asks." if group.unfinished else ""
    text = f"{len(bad):,} of {counted(group.size)} did not end well. {listed(map(str, bad))}{waiting}"
    for error in bad:  # what nobody knows must not be hidden by soft_fail, as a failure is
        if isinstance(error, AnonUnknownStatusError):
            raise AnonUnknownStatusError(
                text, workflow_run_id=error.workflow_run_id, last_status=error.last_status
            )
    failed = [run for run in group.runs if run.failed]
    raise AnonWorkflowRunFailedError(text, failed[0], failed)


def _all_timed_out(group: WaitGroup, polled: PollResult, bad: Sequence[Exception]) -> AnonWaitTimeoutError:
    policy = group.policy
    late = next((member for member in group.unfinished if member.outcome is polled.outcome), None)
    if late is not None and polled.outcome is Outcome.USER_INPUT_TIMEOUT:
        return _timed_out(policy, late, replace(polled, at=late.at))
    first = group.unfinished[0]
    ended_badly = f" {len(bad)} did not end well: {listed(map(str, bad))}" if bad else ""
    return AnonWaitTimeoutError(
        f"{len(group.unfinished):,} of {counted(group.size)} not over after "
        f"{duration(polled.at - policy.started_at)} (timeout is {duration(policy.timeout)}). "
        f"{group.last_seen()}{ended_badly} The runs themselves are not cancelled.",
        **facts_of(first),
    )


def ended_run(policy: WaitPolicy, state: WaitState, polled: PollResult) -> WorkflowRun:
    """
    Return the run that a wait's last poll saw at its end.

    :raises AnonWaitTimeoutError: it was not over, but the wait's time was.
    """
    if polled.outcome is not Outcome.OVER or polled.run is None:
        raise _timed_out(policy, state, polled)
    return polled.run


def _timed_out(policy: WaitPolicy, state: WaitState, polled: PollResult) -> AnonWaitTimeoutError:
    """Make the error for a wait whose time is over; it names the limit and what was seen last."""
    if polled.outcome is Outcome.USER_INPUT_TIMEOUT and state.awaiting_since is not None:
        kind: type[AnonWaitTimeoutError] = AnonUserInputTimeoutError
        waited = f"has waited for user input for {duration(polled.at - state.awaiting_since)}"
        limit = f"user_input_timeout is {duration(policy.user_input_timeout or 0.0)}"
    else:
        kind = AnonWaitTimeoutError
        waited = f"was not over after {duration(polled.at - policy.started_at)}"
        limit = f"timeout is {duration(policy.timeout)}"
    trouble = f" Since then there was no answer: {state.last_failure}." if state.last_failure else ""
    return kind(
        f"Workflow run {state.workflow_run_id} {waited} ({limit}): {last_seen(state)}.{trouble} "
        "The run itself is not cancelled.",
        **facts_of(state),
    )
