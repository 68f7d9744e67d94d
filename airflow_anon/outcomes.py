"""How a wait ends for an Airflow task: with the run's JSON, or with an error that says what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from airflow_anon.exceptions import AnonUnknownStatusError
from airflow_anon.group import Group, counted, listed
from airflow_anon.memory import Memory, clipped, described, duration
from airflow_anon.protocol import Look, Outcome, Plan, facts_of, last_seen
from airflow_anon.runs import WorkflowRun

# Where the errors are imported from, and what the log of a failed task calls them.
PUBLIC_HOME = "airflow_anon.exceptions"


class AnonWorkflowRunFailedError(AirflowFailException):
    """
    The run failed. Its id will never do anything else, so the task is not retried.

    :param run: the run as it was last seen; the first of them, where many were waited for.
    :param runs: all that failed.
    """

    __module__ = PUBLIC_HOME

    retryable = False

    def __init__(
        self, message: str, run: WorkflowRun | None = None, runs: Sequence[WorkflowRun] = ()
    ) -> None:
        super().__init__(message)
        self.run = run
        self.runs = tuple(runs) or ((run,) if run else ())
        self.workflow_run_id = run.id if run else None
        self.last_status = clipped(str(run.status)) if run else None


class AnonWaitTimeoutError(AirflowSensorTimeout):
    """
    The wait took longer than ``timeout``.

    :param last_status: the run's status when it was last seen, if it ever was.
    :param last_seen_at: when that was, in seconds since the epoch.
    """

    __module__ = PUBLIC_HOME

    retryable = False

    def __init__(
        self,
        message: str,
        workflow_run_id: str | None = None,
        last_status: str | None = None,
        last_seen_at: float | None = None,
    ) -> None:
        super().__init__(message)
        self.workflow_run_id = workflow_run_id
        self.last_status = last_status
        self.last_seen_at = last_seen_at


class AnonUserInputTimeoutError(AnonWaitTimeoutError):
    """The run waited for a person for longer than ``user_input_timeout``."""

    __module__ = PUBLIC_HOME


def conclude(run: WorkflowRun) -> dict[str, Any]:
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


def conclude_all(group: Group, look: Look) -> list[dict[str, Any]]:
    """
    Return the JSON of runs that all ended well, in the order of the ids.

    :param look: what the last looks at all of them came to.
    :raises AnonWorkflowRunFailedError: some failed.
    :raises AnonUnknownStatusError: some ended in a status that this version does not know.
    :raises AnonWaitTimeoutError: some were not over, but the wait's time was.
    """
    bad = [_bad_end(run) for run in group.runs if not run.succeeded]
    if look.outcome is not Outcome.OVER:
        raise _all_timed_out(group, look, bad)
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


def _all_timed_out(group: Group, look: Look, bad: Sequence[Exception]) -> AnonWaitTimeoutError:
    late = next((member for member in group.unfinished if member.outcome is look.outcome), None)
    if late is not None and look.outcome is Outcome.USER_INPUT_TIMEOUT:
        return _timed_out(late.plan, late.memory, replace(look, at=late.at))
    plan, first = group.plan, group.unfinished[0]
    ended_badly = f" {len(bad)} did not end well: {listed(map(str, bad))}" if bad else ""
    return AnonWaitTimeoutError(
        f"{len(group.unfinished):,} of {counted(group.size)} not over after "
        f"{duration(look.at - plan.started_at)} (timeout is {duration(plan.timeout)}). "
        f"{group.last_seen()}{ended_badly} The runs themselves are not cancelled.",
        **facts_of(first.plan.workflow_run_id, first.memory),
    )


def ended_run(plan: Plan, memory: Memory, look: Look) -> WorkflowRun:
    """
    Return the run that a wait's last look saw at its end.

    :raises AnonWaitTimeoutError: it was not over, but the wait's time was.
    """
    if look.outcome is not Outcome.OVER or look.run is None:
        raise _timed_out(plan, memory, look)
    return look.run


def _timed_out(plan: Plan, memory: Memory, look: Look) -> AnonWaitTimeoutError:
    """Make the error for a wait whose time is over; it names the limit and what was seen last."""
    if look.outcome is Outcome.USER_INPUT_TIMEOUT and memory.awaiting_since is not None:
        kind: type[AnonWaitTimeoutError] = AnonUserInputTimeoutError
        waited = f"has waited for a person for {duration(look.at - memory.awaiting_since)}"
        limit = f"user_input_timeout is {duration(plan.user_input_timeout or 0.0)}"
    else:
        kind = AnonWaitTimeoutError
        waited = f"was not over after {duration(look.at - plan.started_at)}"
        limit = f"timeout is {duration(plan.timeout)}"
    trouble = f" Since then there was no answer: {memory.trouble}." if memory.trouble else ""
    return kind(
        f"Workflow run {plan.workflow_run_id} {waited} ({limit}): {last_seen(memory)}.{trouble} "
        "The run itself is not cancelled.",
        **facts_of(plan.workflow_run_id, memory),
    )
