"""How a wait ends for an Airflow task: with the runs' JSON, or with an error that says what happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_anon.core.group import WaitGroup, counted, listed
from airflow_anon.core.messages import (
    clipped,
    described,
    duration,
    facts_of,
    last_seen_since,
    of_its_workflow,
)
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import (
    AnonUnknownStatusError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.runs import WorkflowRun


def result_of(group: WaitGroup) -> list[dict[str, Any]]:
    """
    Return the JSON of runs that all ended well, in the order of the ids.

    :raises AnonWorkflowRunFailedError: some failed.
    :raises AnonUnknownStatusError: some ended in a status that this version does not know.
    :raises AnonWaitTimeoutError: some were not over, but the wait's time was.
    """
    bad = [_bad_end(run) for run in group.runs if not run.succeeded]
    if group.result().outcome is not Outcome.OVER:
        raise _timed_out(group, bad)
    if not bad:
        return group.payloads()
    if group.alone is not None:
        raise bad[0]
    waiting = " The wait ended with the first, as fail_fast asks." if group.unfinished else ""
    text = f"{len(bad):,} of {counted(group.size)} did not end well. {listed(map(str, bad))}{waiting}"
    for error in bad:  # what nobody knows must not be hidden by soft_fail, as a failure is
        if isinstance(error, AnonUnknownStatusError):
            raise AnonUnknownStatusError(
                text, workflow_run_id=error.workflow_run_id, last_status=error.last_status
            )
    failed = [run for run in group.runs if run.failed]
    raise AnonWorkflowRunFailedError(text, failed[0], failed)


def _bad_end(run: WorkflowRun) -> AnonWorkflowRunFailedError | AnonUnknownStatusError:
    where = described(str(run.status), run.current_state_name)
    facts = f"Workflow run {run.id}{of_its_workflow(run)}"
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


def _timed_out(group: WaitGroup, bad: Sequence[Exception]) -> AnonWaitTimeoutError:
    """Make the error for a wait whose time is over; it names the limit and what was seen last."""
    polled, policy = group.result(), group.policy
    late = next((state for state in group.unfinished if state.outcome is polled.outcome), group.unfinished[0])
    if polled.outcome is Outcome.USER_INPUT_TIMEOUT and late.awaiting_since is not None:
        waited = duration(late.at - late.awaiting_since)
        limit = duration(policy.user_input_timeout or 0.0)
        return AnonUserInputTimeoutError(
            f"Workflow run {late.workflow_run_id} has waited for user input for {waited} (user_input_timeout is "
            f"{limit}): {last_seen_since(late)}. The run itself is not cancelled.",
            **facts_of(late),
        )
    return AnonWaitTimeoutError(_not_over(group, policy, polled.at, bad), **group.facts())


def _not_over(group: WaitGroup, policy: WaitPolicy, at: float, bad: Sequence[Exception]) -> str:
    limit = f"after {duration(at - policy.started_at)} (timeout is {duration(policy.timeout)})"
    if group.alone is not None:
        run_id = group.alone.workflow_run_id
        return (
            f"Workflow run {run_id} was not over {limit}: {last_seen_since(group.alone)}. "
            "The run itself is not cancelled."
        )
    ended_badly = f" {len(bad)} did not end well: {listed(map(str, bad))}" if bad else ""
    return (
        f"{len(group.unfinished):,} of {counted(group.size)} not over {limit}. "
        f"{group.last_seen()}{ended_badly} The runs themselves are not cancelled."
    )
