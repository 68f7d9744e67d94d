"""The wait inside the triggerer."""

from __future__ import annotations

import time
import traceback
from abc import abstractmethod
from functools import cache
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_anon.client.timer import coalesced_sleep
from airflow_anon.core.codec import (
    SETTLED_AFTER,
    TRIGGER_GRACE,
    EventPayload,
    TriggerArgs,
    policy_from_kwargs,
)
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.group_codec import GroupEventPayload, from_kwargs
from airflow_anon.core.ids import normalise_id, plain
from airflow_anon.core.messages import ending
from airflow_anon.core.policy import OPTIONS
from airflow_anon.core.polling import FIRST_POLL_PATIENCE, PollResult, poll, wait_for_run
from airflow_anon.core.sanitize import fit
from airflow_anon.core.state import Outcome, WaitState
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
    from airflow_anon.core.policy import WaitPolicy


class WaitingTrigger(BaseTrigger):
    """What the triggers have in common: all but what they wait for."""

    def __init__(
        self,
        *,
        anon_conn_id: str = AnonHook.default_conn_name,
        timeout: float | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        deferred_at: float | None = None,
        next_poll_at: float = 0.0,
        asks_for_input: bool = False,
        seen_at: float | None = None,
        end_from_trigger: bool = False,
        skip_on_no_action: bool = False,
        do_xcom_push: bool = True,
        **others: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.anon_conn_id = anon_conn_id
        self.timeout = timeout
        self.started_at = started_at
        self.deadline = deadline
        self.deferred_at = deferred_at
        self.next_poll_at = next_poll_at
        self.asks_for_input = asks_for_input
        self.seen_at = seen_at
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
        kind = type(self)
        return f"airflow_anon.triggers.{kind.__name__}", {
            name: fit(getattr(self, name)) for name in arguments_of(kind)
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
            event = TriggerEvent(fit(event))
        yield event

    @abstractmethod
    async def _wait_to_its_end(self) -> TriggerEvent | dict[str, Any]:
        """Return the event that ends the task, or the payload of the one with which it goes on on a worker."""

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

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments, with the times of a wait that was started without a worker."""
        return vars(self) | self._limits()

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

    async def _good_end(self, xcom: Any, *, took_no_action: bool) -> TriggerEvent | None:
        """
        End the task here, without a worker, if that is wished and loses nothing; None if it is for a worker to do.

        The XCom is written as a task does it: what an event carries would be encoded twice.
        """
        if not self.end_from_trigger:
            return None
        if obstacle := reason_to_end_elsewhere(self.task_instance):
            self.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
            return None
        if took_no_action and self.skip_on_no_action:
            return TaskSkippedEvent()
        if self.do_xcom_push:
            try:
                await plain_xcom().aset("return_value", xcom, **place_of(self.task_instance))
            except Exception:
                self.log.warning("The task ends on a worker: its XCom could not be written.", exc_info=True)
                return None
        return TaskSuccessEvent()

    def _count(self, policy: WaitPolicy, state: WaitState, polled: PollResult | None) -> WaitMetrics:
        """Return what counts the wait; one that was started without a worker is counted as started here."""
        count = WaitMetrics(self.anon_conn_id, policy, state, polled)
        if self.started_at is None:
            # Not before: at its start a trigger cannot tell whether another triggerer had started it.
            count.start()
        return count

    def log_line(self, line: LogLine) -> None:
        """Write a line of the flow to the log."""
        write(self.log, line)


@cache
def arguments_of(kind: type[WaitingTrigger]) -> tuple[str, ...]:
    """Return the names of a trigger's arguments, its own first."""
    own = (
        parameter.name
        for cls in (kind, WaitingTrigger)
        for parameter in signature(cls.__init__).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY
    )
    return *own, *OPTIONS


class AnonWorkflowRunTrigger(WaitingTrigger):
    """
    Waits until a workflow run is over, and fires one event, which the sensor judges.

    Its class path and its arguments are kept in Airflow's database: they hold plain values and no
    credential. Times are in seconds, ``started_at``, ``deadline`` and all that end in ``_at`` or
    ``_since`` since the epoch. The options of the sensor, such as ``poke_interval`` and ``outage_tolerance``, have
    the same names here. Arguments that a later version of the package wrote are ignored.

    :param workflow_run_id: the run's UUID.
    :param anon_conn_id: the Airflow connection to the API.
    :param started_at: when the wait began; now, if left out.
    :param deadline: when it is to end; *timeout* after its beginning, if left out.
    :param deferred_at: when the task left its worker for the triggerer, if it did.
    :param next_poll_at: when to poll next; at once, if left out.
    :param asks_for_input: fire also when the run begins to wait for user input.
    :param seen_at: when the run was last seen, with *last_status* and *last_state_name*.
    :param awaiting_since: when the run began to wait for user input, if it does.
    :param user_input_seconds: seconds seen waiting for user input so far.
    :param queued_seconds: seconds that the run was queued, if that was seen.
    :param warned_of: the unknown statuses that the log has been told of; at least the last, if left out.
    :param end_from_trigger: end the task here if its run ended well, instead of on a worker; then
        *skip_on_no_action* and *do_xcom_push* mean what they mean for the sensor.
    """

    def __init__(
        self,
        *,
        workflow_run_id: str,
        last_status: str | None = None,
        last_state_name: str | None = None,
        awaiting_since: float | None = None,
        user_input_seconds: float = 0.0,
        queued_seconds: float | None = None,
        warned_of: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.workflow_run_id = plain(workflow_run_id)
        self.last_status = last_status
        self.last_state_name = last_state_name
        self.awaiting_since = awaiting_since
        self.user_input_seconds = user_input_seconds
        self.queued_seconds = queued_seconds
        self.warned_of = warned_of or []

    async def _wait_to_its_end(self) -> TriggerEvent | dict[str, Any]:
        now = time.time()
        arguments = TriggerArgs.from_kwargs(now, self._arguments())
        policy, state = arguments.policy, arguments.state
        try:
            state.workflow_run_id = normalise_id(state.workflow_run_id)
            polled = await self._wait(arguments, arguments.next_poll_at - now)
            result = EventPayload(policy, state, polled)
        except AnonError as error:
            result = EventPayload(policy, state, error=error)
        count = self._count(policy, state, result.polled)
        run = result.polled.run if result.polled is not None else None
        if run is not None and run.succeeded:
            end = await self._good_end(run.to_payload(), took_no_action=run.took_no_action)
            if end is not None:
                self.log_line(ending(state, run))
                count.end()
                return end
        return result.to_event()

    async def _wait(self, arguments: TriggerArgs, delay: float) -> PollResult:
        from airflow_anon.client.aiohttp_client import adrive

        client = AnonHook(self.anon_conn_id).acquire()
        try:
            flow = wait_for_run(
                arguments.policy,
                arguments.state,
                delay=delay,
                before=await self._first_poll(client, arguments) if self._limits() else None,
                stop_for_input=arguments.asks_for_input,
            )
            return await adrive(client, flow, log_line=self.log_line, retry_unreadable_connection=True)
        finally:
            await client.release()

    async def _first_poll(self, client: SharedClient, arguments: TriggerArgs) -> PollResult:
        """Poll, and keep the link to the run, as a sensor does that starts on a worker."""
        from airflow_anon.client.aiohttp_client import adrive

        flow = poll(arguments.policy, arguments.state)
        polled = await adrive(client, flow, log_line=self.log_line, retry_unreadable_connection=True)
        if client.endpoint is not None and polled.run is not None:
            try:
                url = run_url(client.endpoint, polled.run.id, polled.run.workflow_id)
                await plain_xcom().aset(**link_xcom(self.task_instance, url))
            except Exception:
                self.log.warning(NOT_KEPT, exc_info=True)
        return polled


class AnonWorkflowRunsTrigger(WaitingTrigger):
    """
    Waits until many workflow runs are over, and fires one event, after which the sensor polls once more.

    Its arguments are those of :class:`AnonWorkflowRunTrigger`, but:

    :param workflow_run_ids: the UUIDs of the runs that are not over yet; of all, in the order of the
        XCom, with *end_from_trigger*.
    :param fail_fast: fire with the first run that does not end well.
    :param seen_at: when all runs had been seen, if they had.
    :param seen_as: how they were seen then: lists of the numbers of runs in *workflow_run_ids* (such
        as ``0-3,7``), their status, the name of their state, and since when they wait for user input.
    :param warned_of: the unknown statuses that the log has been told of.
    """

    def __init__(
        self,
        *,
        workflow_run_ids: list[str] | str,
        fail_fast: bool = True,
        seen_as: list[list[Any]] | None = None,
        warned_of: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.workflow_run_ids = plain(workflow_run_ids)
        self.fail_fast = fail_fast
        self.seen_as = seen_as or []
        self.warned_of = warned_of or []

    async def _wait_to_its_end(self) -> TriggerEvent | dict[str, Any]:
        now = time.time()
        arguments = self._arguments()
        policy = policy_from_kwargs(now, arguments)
        group = None
        try:
            group = from_kwargs(policy, arguments, now)
            await self._wait(group, self.next_poll_at - now)
            result = GroupEventPayload.of(group)
        except AnonError as error:
            result = GroupEventPayload(policy, error=error)
        count = self._count(policy, WaitState(""), None)
        if group is not None and group.all_well:
            end = await self._good_end(group.payloads(), took_no_action=group.took_no_action)
            if end is not None:
                self.log_line(group.ending())
                count.polled = group.result_for_all()
                count.end()
                return end
        return result.to_event(group)

    async def _wait(self, group: WaitGroup, delay: float) -> None:
        def log_line(line: LogLine) -> None:
            # Each run has something to say now and then, which is when it may be time for a summary.
            for told in [*group.sum_up(time.time()), *group.pick(line)]:
                self.log_line(told)

        def enough(key: str, polled: PollResult) -> bool:
            # What is still waiting has stopped for user input.
            is_enough = group.take(key, polled) or polled.outcome is Outcome.WAITING
            if not self.end_from_trigger:
                group.drop(key)
            return is_enough

        waits = {
            key: wait_for_run(
                group.policy_for(member), member, delay=delay, stop_for_input=self.asks_for_input
            )
            for key, member in group.members.items()
        }
        await AnonHook(self.anon_conn_id).adrive_each(
            waits, enough, log_line=log_line, retry_unreadable_connection=True
        )
