"""The wait inside the triggerer."""

from __future__ import annotations

import time
import traceback
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_anon.client.timer import coalesced_sleep
from airflow_anon.core.codec import (
    MOST_IN_EVENT,
    SETTLED_AFTER,
    TRIGGER_GRACE,
    from_kwargs,
    policy_from_kwargs,
    to_event,
)
from airflow_anon.core.group import LONGEST_ROUND, WaitGroup
from airflow_anon.core.ids import plain
from airflow_anon.core.policy import NEVER, OPTIONS
from airflow_anon.core.polling import FIRST_POLL_PATIENCE, PollResult, poll, wait_for_run
from airflow_anon.core.sanitize import fit
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import AnonError
from airflow_anon.hooks import AnonHook, write
from airflow_anon.links import NOT_KEPT, link_xcom, place_of, plain_xcom, run_url
from airflow_anon.task.metrics import WaitMetrics
from airflow_anon.task.zero_worker import reason_to_end_elsewhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from airflow_anon.client.shared_client import SharedClient
    from airflow_anon.core.flow import LogLine
    from airflow_anon.core.state import WaitState


class AnonWorkflowRunTrigger(BaseTrigger):
    """
    Waits until a workflow run is over, or many are, and fires one event, which the sensor judges.

    Its class path and its arguments are kept in Airflow's database: they hold plain values and no
    credential. Times are in seconds, ``started_at``, ``deadline`` and all that end in ``_at`` since the
    epoch. The options of the sensor, such as ``poke_interval`` and ``outage_tolerance``, have
    the same names here. Arguments that a later version of the package wrote are ignored.

    :param workflow_run_id: the run's UUID.
    :param workflow_run_ids: the UUIDs of many runs, in place of that.
    :param fail_fast: of many: fire with the first run that does not end well.
    :param anon_conn_id: the Airflow connection to the API.
    :param started_at: when the wait began; now, if left out.
    :param deadline: when it is to end; *timeout* after its beginning, if left out.
    :param deferred_at: when the task left its worker for the triggerer, if it did.
    :param next_poll_at: when to poll next; at once, if left out.
    :param asks_for_input: fire also when a run begins to wait for user input.
    :param seen_at: when all runs had been seen, if they had.
    :param seen_as: how they were seen then: lists of the numbers of runs in *workflow_run_ids* (such as ``0-3,7``)
        and what is known of each of them.
    :param warned_of: the unknown statuses that the log has been warned of.
    :param end_from_trigger: end the task here if its runs ended well, instead of on a worker; then
        *skip_on_no_action* and *do_xcom_push* mean what they mean for the sensor.
    """

    def __init__(
        self,
        *,
        workflow_run_id: str | None = None,
        workflow_run_ids: list[str] | str | None = None,
        fail_fast: bool = True,
        anon_conn_id: str = AnonHook.default_conn_name,
        timeout: float | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        deferred_at: float | None = None,
        next_poll_at: float = 0.0,
        asks_for_input: bool = False,
        seen_at: float | None = None,
        seen_as: list[list[Any]] | None = None,
        warned_of: list[str] | None = None,
        end_from_trigger: bool = False,
        skip_on_no_action: bool = False,
        do_xcom_push: bool = True,
        **others: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workflow_run_id = plain(workflow_run_id)
        self.workflow_run_ids = plain(workflow_run_ids)
        self.fail_fast = fail_fast
        self.anon_conn_id = anon_conn_id
        self.timeout = timeout
        self.started_at = started_at
        self.deadline = deadline
        self.deferred_at = deferred_at
        self.next_poll_at = next_poll_at
        self.asks_for_input = asks_for_input
        self.seen_at = seen_at
        self.seen_as = seen_as or []
        self.warned_of = warned_of or []
        self.end_from_trigger = end_from_trigger
        self.skip_on_no_action = skip_on_no_action
        self.do_xcom_push = do_xcom_push
        for name, default in OPTIONS.items():
            setattr(self, name, others.pop(name, default))
        if others:
            self.log.warning(
                "Ignoring arguments of another version of airflow-provider-anon: %s", sorted(others)
            )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as Airflow keeps them."""
        return "airflow_anon.triggers.AnonWorkflowRunTrigger", {
            name: fit(getattr(self, name)) for name in ARGUMENTS
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event: what the wait came to, or what ended it."""
        try:
            event = await self._wait_to_its_end()
        except Exception as error:  # noqa: BLE001  Airflow would end with one whose text it cannot hand on
            lines = fit(traceback.format_exception(error))
            self.log.error("The wait broke off:\n%s", "".join(lines))  # noqa: TRY400  the log may take no such text
            event = {"broke_off": type(error).__name__, "traceback": lines}
        if isinstance(event, dict):
            await self._let_scheduler_settle()
            runs = event.pop("runs", [])  # fit since they were read, and as deep as a run may be
            event = TriggerEvent({**fit(event), "runs": runs})
        yield event

    async def _wait_to_its_end(self) -> TriggerEvent | dict[str, Any]:
        """Return the event that ends the task, or the payload of the one with which it goes on on a worker."""
        now = time.time()
        arguments = vars(self) | self._limits()
        group, error = WaitGroup(policy_from_kwargs(now, arguments)), None
        try:
            group = from_kwargs(group.policy, arguments, now)
            await self._wait(group, self.next_poll_at - now)
        except AnonError as caught:
            error = caught
        if not self.asks_for_input:
            group.forget_questions()
        count = WaitMetrics(self.anon_conn_id, group)
        if self.started_at is None:
            # Not before: at its start a trigger cannot tell whether another triggerer had started it.
            count.start()
        if error is None and group.all_well and (end := await self._good_end(group)) is not None:
            for line in group.ending():
                self.log_line(line)
            count.polled = group.result()
            count.end()
            return end
        return to_event(group, error)

    async def _wait(self, group: WaitGroup, delay: float) -> None:
        group.room = NEVER if self.end_from_trigger else MOST_IN_EVENT
        if group.alone is not None:
            group.take(group.alone, await self._wait_for_one(group, group.alone, delay))
            return

        def log_line(line: LogLine) -> None:
            # Each run has something to say at times, which is when it may be time for a summary.
            for chosen in [*group.sum_up(time.time()), *group.pick(line)]:
                self.log_line(chosen)

        waits = {
            state.workflow_run_id: wait_for_run(
                group.policy, state, delay=delay, stop_for_input=self.asks_for_input
            )
            for state in group.unfinished
        }
        await AnonHook(self.anon_conn_id).adrive_each(
            waits,
            # What is still waiting has stopped for user input.
            lambda run_id, polled: (
                group.take(group.member(run_id), polled) or polled.outcome is Outcome.WAITING
            ),
            until=group.policy.deadline + LONGEST_ROUND,
            log_line=log_line,
            retry_unreadable_connection=True,
        )
        group.expire(time.time())

    async def _wait_for_one(self, group: WaitGroup, state: WaitState, delay: float) -> PollResult:
        """Wait for a single run, without a task of its own."""
        from airflow_anon.client.aiohttp_client import adrive

        client = AnonHook(self.anon_conn_id).acquire()
        try:
            flow = wait_for_run(
                group.policy,
                state,
                delay=delay,
                before=await self._first_poll(client, group, state) if self._limits() else None,
                stop_for_input=self.asks_for_input,
            )
            return await adrive(client, flow, log_line=self.log_line, retry_unreadable_connection=True)
        finally:
            await client.release()

    async def _first_poll(self, client: SharedClient, group: WaitGroup, state: WaitState) -> PollResult:
        """Poll, and keep the link to the run, as a sensor does that starts on a worker."""
        from airflow_anon.client.aiohttp_client import adrive

        flow = poll(group.policy, state)
        polled = await adrive(client, flow, log_line=self.log_line, retry_unreadable_connection=True)
        if self.workflow_run_ids is None and client.endpoint is not None and polled.run is not None:
            try:
                url = run_url(client.endpoint, polled.run.id, polled.run.workflow_id)
                await plain_xcom().aset(**link_xcom(self.task_instance, url))
            except Exception:
                self.log.warning(NOT_KEPT, exc_info=True)
        return polled

    async def _let_scheduler_settle(self) -> None:
        """
        Hold an event back until the scheduler has heard how the task left its worker.

        It may take the end of that start for the end of the next one, and then fails the task.
        """
        if self.deferred_at is None or self.task_instance is None:  # without a worker, or in dag.test()
            return
        left = min(self.deferred_at + SETTLED_AFTER - time.time(), SETTLED_AFTER)  # clocks may differ
        if left > 0:
            await coalesced_sleep(left)

    def _limits(self) -> dict[str, float]:
        """
        Find out when a wait began that was started without a worker: Airflow knows when it is to end.

        Another triggerer may have begun it. After the patience of a first poll it would be over, had the
        run not been seen there.
        """
        timeout_after: datetime | None = getattr(self, "timeout_after", None)
        if self.started_at is not None or self.timeout is None or timeout_after is None:
            return {}
        deadline = timeout_after.timestamp() - TRIGGER_GRACE
        started_at = deadline - self.timeout
        seen = {"seen_at": started_at} if time.time() - started_at > FIRST_POLL_PATIENCE else {}
        return {"started_at": started_at, "deadline": deadline, **seen}

    async def _good_end(self, group: WaitGroup) -> TriggerEvent | None:
        """
        End the task here, without a worker, if that is wished and loses nothing; None if it is for a worker to do.

        The XCom is written as a task does it: what an event carries would be encoded twice.
        """
        if not self.end_from_trigger:
            return None
        if obstacle := reason_to_end_elsewhere(self.task_instance):
            self.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
            return None
        if group.took_no_action and self.skip_on_no_action:
            return TaskSkippedEvent()
        if self.do_xcom_push:
            payloads = group.payloads()
            xcom = payloads[0] if self.workflow_run_ids is None else payloads
            try:
                await plain_xcom().aset("return_value", xcom, **place_of(self.task_instance))
            except Exception:
                self.log.warning("The task ends on a worker: its XCom could not be written.", exc_info=True)
                return None
        return TaskSuccessEvent()

    def log_line(self, line: LogLine) -> None:
        """Write a line of the flow to the log."""
        write(self.log, line)


ARGUMENTS = (
    *(
        name
        for name, parameter in signature(AnonWorkflowRunTrigger.__init__).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    ),
    *OPTIONS,
)
