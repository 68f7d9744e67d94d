"""The wait inside the triggerer."""

from __future__ import annotations

import time
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_anon.exceptions import AnonError
from airflow_anon.handoff import Handoff, Return
from airflow_anon.hooks import AnonHook, write
from airflow_anon.links import NOT_KEPT, link_xcom, plain_xcom, run_url
from airflow_anon.protocol import ending, take_look, wait_for_run
from airflow_anon.shortcuts import why_not_end_here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from airflow_anon.memory import News
    from airflow_anon.protocol import Look
    from airflow_anon.sharing import SharedClient

# Airflow ends a trigger that does not end by itself so many seconds after the wait's deadline.
TRIGGER_GRACE = 120.0


class AnonWorkflowRunTrigger(BaseTrigger):
    """
    Waits until a workflow run is over, and fires one event, which the sensor judges.

    Its class path and its arguments are kept in Airflow's database: they hold plain values and no
    credential. Times are in seconds, ``started_at``, ``deadline`` and all that end in ``_at`` or
    ``_since`` since the epoch. Arguments that a later version of the package wrote are passed over.

    :param workflow_run_id: the run's UUID.
    :param anon_conn_id: the Airflow connection to the API.
    :param poke_interval: the pause between two looks.
    :param exponential_backoff: let the pauses grow, up to *max_wait*.
    :param outage_tolerance: how long the API may be out of reach.
    :param user_input_timeout: how long the run may wait for a person.
    :param started_at: when the wait began; now, if left out.
    :param deadline: when it is to end; *timeout* after its beginning, if left out.
    :param next_look_at: when to look next; at once, if left out.
    :param asks_user: fire also when the run begins to wait for a person.
    :param seen_at: when the run was last seen, with *last_status* and *last_state_name*.
    :param awaiting_since: when the run began to wait for a person, if it does.
    :param end_from_trigger: end the task here if its run ended well, instead of on a worker; then
        *skip_on_no_action* and *do_xcom_push* mean what they mean for the sensor.
    """

    def __init__(
        self,
        *,
        workflow_run_id: str,
        anon_conn_id: str = AnonHook.default_conn_name,
        poke_interval: float = 60.0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        timeout: float | None = None,
        outage_tolerance: float = 600.0,
        user_input_timeout: float | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        next_look_at: float = 0.0,
        asks_user: bool = False,
        seen_at: float | None = None,
        last_status: str | None = None,
        last_state_name: str | None = None,
        awaiting_since: float | None = None,
        end_from_trigger: bool = False,
        skip_on_no_action: bool = False,
        do_xcom_push: bool = True,
        **later: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workflow_run_id = workflow_run_id
        self.anon_conn_id = anon_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.timeout = timeout
        self.outage_tolerance = outage_tolerance
        self.user_input_timeout = user_input_timeout
        self.started_at = started_at
        self.deadline = deadline
        self.next_look_at = next_look_at
        self.asks_user = asks_user
        self.seen_at = seen_at
        self.last_status = last_status
        self.last_state_name = last_state_name
        self.awaiting_since = awaiting_since
        self.end_from_trigger = end_from_trigger
        self.skip_on_no_action = skip_on_no_action
        self.do_xcom_push = do_xcom_push
        if later:
            self.log.warning(
                "Passing over arguments of another version of airflow-provider-anon: %s", sorted(later)
            )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as Airflow keeps them."""
        return "airflow_anon.triggers.AnonWorkflowRunTrigger", {
            name: getattr(self, name) for name in ARGUMENTS
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event: what was seen last, or the error that ended the wait."""
        now = time.time()
        limits = self._limits()
        handoff = Handoff.from_kwargs(now, vars(self) | limits)
        plan, memory = handoff.plan, handoff.memory
        try:
            look = await self._wait(handoff, handoff.next_look_at - now, keeps_link=bool(limits))
            result = Return(plan, memory, look)
        except AnonError as error:
            result = Return(plan, memory, error=error)
        yield self._end(result) or TriggerEvent(result.to_event())

    async def _wait(self, handoff: Handoff, delay: float, *, keeps_link: bool) -> Look:
        hook = AnonHook(self.anon_conn_id)
        async with hook.ajoin() as client:
            conversation = wait_for_run(
                handoff.plan,
                handoff.memory,
                delay=delay,
                before=await self._first_look(hook, client, handoff) if keeps_link else None,
                stop_to_ask_user=handoff.asks_user,
            )
            return await hook.aconverse(conversation, tell=self.tell, patient=True)

    async def _first_look(self, hook: AnonHook, client: SharedClient, handoff: Handoff) -> Look:
        """Look, and keep the link to the run, as a sensor does that starts on a worker."""
        look = await hook.aconverse(take_look(handoff.plan, handoff.memory), tell=self.tell, patient=True)
        if client.endpoint is not None and look.run is not None:
            try:
                url = run_url(client.endpoint, look.run.id, look.run.workflow_id)
                await plain_xcom().aset(**link_xcom(self.task_instance, url))
            except Exception:
                self.log.warning(NOT_KEPT, exc_info=True)
        return look

    def _limits(self) -> dict[str, float]:
        """Find out when a wait began that was started without a worker: Airflow knows when it is to end."""
        timeout_after: datetime | None = getattr(self, "timeout_after", None)
        if self.started_at is not None or self.timeout is None or timeout_after is None:
            return {}
        deadline = timeout_after.timestamp() - TRIGGER_GRACE
        return {"started_at": deadline - self.timeout, "deadline": deadline}

    def _end(self, result: Return) -> TriggerEvent | None:
        """Return the event that ends the task without a worker, if that is wished, right, and loses nothing."""
        run = result.look.run if result.look is not None else None
        if not self.end_from_trigger or run is None or not run.succeeded:
            return None
        if obstacle := why_not_end_here():
            self.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
            return None
        self.tell(ending(result.memory, run))
        if run.took_no_action and self.skip_on_no_action:
            return TaskSkippedEvent()
        return TaskSuccessEvent(xcoms={"return_value": run.to_payload()} if self.do_xcom_push else None)

    def tell(self, news: News) -> None:
        """Write a line of the conversation to the log."""
        write(self.log, news)


ARGUMENTS = tuple(
    parameter.name
    for parameter in signature(AnonWorkflowRunTrigger.__init__).parameters.values()
    if parameter.kind is Parameter.KEYWORD_ONLY
)
