"""A sensor's wait, as far as it takes place on a worker: its looks, what is kept between them, its end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    PokeReturnValue,
    context_merge,
)

from airflow_anon.exceptions import AnonUnavailableError
from airflow_anon.handoff import Handoff, Return
from airflow_anon.links import keep_link
from airflow_anon.memory import STILL_WAITING_EVERY, Memory, duration
from airflow_anon.outcomes import conclude, ended_run
from airflow_anon.protocol import Look, Outcome, Plan, Sleep, ending, last_seen, take_look
from airflow_anon.runs import normalise_id
from airflow_anon.shortcuts import template_for_triggerer, why_not_end, why_not_start

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import StartTriggerArgs

    from airflow_anon.runs import WorkflowRun
    from airflow_anon.sensors import AnonWorkflowRunSensor

STORE_KEY = "anon_wait"
# What dag.test() makes of an event that ends a task in the triggerer: there is none, and it goes on with this.
ENDS_IN_TRIGGERER = ("success", "skipped")


class Wait:
    """
    The wait of one sensor.

    :param sensor: with its arguments rendered, except for what concerns its start.
    """

    def __init__(self, sensor: AnonWorkflowRunSensor) -> None:
        self.sensor = sensor
        self.plan: Plan | None = None
        self.memory = Memory()
        self.pause = Sleep(0.0)

    def poke(self, context: Context) -> PokeReturnValue:
        """Take one look at the run."""
        plan = self.plan or self._begin(context)
        memory = self.memory
        self.pause = Sleep(plan.interval(time.time()))
        self._keep_link(context, plan)
        look = self.sensor.hook.converse(take_look(plan, memory))
        self._keep_link(context, plan, look)
        if look.asks_user and look.run is not None:
            self._ask_user(context, look.run)
        if look.outcome is not Outcome.WAITING:
            return PokeReturnValue(is_done=True, xcom_value=self._conclude(plan, memory, look))
        if self.sensor.deferrable:
            self._go_on_in_triggerer(context, plan, memory, look.at + look.pause.seconds)
        self.pause = look.pause
        self._keep(context, memory)
        return PokeReturnValue(is_done=False)

    def seconds_to_next_look(self) -> float:
        """Return how long the run is to be left alone now."""
        return self.pause.seconds + random.uniform(0.0, self.pause.spread)  # noqa: S311  spreads load

    def resume(self, context: Context, event: Any) -> dict[str, Any]:
        """Judge what the trigger saw."""
        return self._by_the_rules(context, lambda: self._resume(context, event))

    def replace_trigger(self, context: Context, error: str, traceback: list[str] | None) -> dict[str, Any]:
        """Look at the run in place of a trigger that broke off, or was not run in time."""
        if traceback:
            self.sensor.log.error("The trigger failed:\n%s", "".join(traceback))
        return self._by_the_rules(context, lambda: self._replace_trigger(context, error))

    def why_not_start(self) -> str | None:
        """Say why the wait cannot start in the triggerer; None if it can."""
        return why_not_start(self.sensor)

    def tell_why_on_worker(self, context: Context) -> None:
        """Tell the log why a sensor that was to start in the triggerer is on a worker."""
        mapped = "start_from_trigger" in vars(self.sensor) and _map_index(context) >= 0
        obstacle = self.sensor.starts_on_worker_because or ("it is mapped" if mapped else None)
        if obstacle:
            self.sensor.log.info("The sensor starts on a worker, not in the triggerer: %s.", obstacle)

    def start_trigger_args(self) -> StartTriggerArgs:
        """Return what the scheduler starts the trigger with, before anything is rendered."""
        from airflow.triggers.base import StartTriggerArgs

        from airflow_anon.triggers import TRIGGER_GRACE, AnonWorkflowRunTrigger

        sensor = self.sensor
        workflow_run_id, anon_conn_id = map(
            template_for_triggerer, (sensor.workflow_run_id, sensor.anon_conn_id)
        )
        plan = self._make_plan(0.0, workflow_run_id=workflow_run_id)
        kwargs = {
            **self._trigger_kwargs(plan, Memory()),
            "anon_conn_id": anon_conn_id,
            "timeout": sensor.timeout,
        }
        path, kwargs = AnonWorkflowRunTrigger(**{**kwargs, "started_at": None, "deadline": None}).serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=kwargs,
            next_method=sensor.execute_complete.__name__,
            timeout=timedelta(seconds=sensor.timeout + TRIGGER_GRACE),
        )

    def _conclude(self, plan: Plan, memory: Memory, look: Look) -> dict[str, Any]:
        run = ended_run(plan, memory, look)
        self.sensor.hook.tell(ending(memory, run))
        if run.took_no_action and self.sensor.skip_on_no_action:
            raise AirflowSkipException(f"Workflow run {run.id} completed without taking any action.")
        return conclude(run)

    def _by_the_rules(self, context: Context, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do on resumption what Airflow's loop does between two pokes."""
        try:
            with self.sensor.hook:
                return act()
        except AirflowSkipException:
            raise
        except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout) as error:
            if self.sensor.soft_fail or self.sensor.never_fail:
                raise AirflowSkipException(f"Skipping, as soft_fail or never_fail asks: {error}") from error
            raise
        except Exception as error:
            if self.sensor.silent_fail:
                self.sensor.log.exception("The wait goes on in spite of this, as silent_fail asks.")
                plan = self.plan or self._make_plan(_started_at(context))
                self._go_on_in_triggerer(context, plan, self.memory, time.time() + plan.interval(time.time()))
            if self.sensor.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def _resume(self, context: Context, event: Any) -> dict[str, Any]:
        if event in ENDS_IN_TRIGGERER:
            return self._replace_trigger(context, f"it ended the task as {event}")
        returned = Return.from_event(event, self._make_plan)
        plan, memory = self.plan, self.memory = returned.plan, returned.memory
        look = returned.look
        if look is None or look.run is None:
            look = self._look_once_more(context, returned)
        if look.asks_user and look.run is not None:
            self._ask_user(context, look.run)
        if look.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, plan, memory, look.at + plan.interval(look.at))
        if self.sensor.end_from_trigger and (obstacle := why_not_end(self.sensor, _map_index(context))):
            self.sensor.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
        return self._conclude(plan, memory, look)

    def _look_once_more(self, context: Context, returned: Return) -> Look:
        """Look from the worker before silence is believed: it may be the triggerer's trouble alone."""
        if returned.memory.seen_at is None:  # else the link was kept when the run was seen
            self._keep_link(context, returned.plan)
        if returned.error is not None and not returned.error.retryable:
            raise returned.error
        memory, seen_at = returned.memory, returned.memory.seen_at
        # The patience of a first look has been spent in the triggerer.
        memory.seen_at, memory.missed = time.time(), 0
        look = self.sensor.hook.converse(take_look(returned.plan, memory))
        self._keep_link(context, returned.plan, look)
        if look.run is None:
            memory.seen_at = seen_at
            if returned.error is not None:
                raise returned.error
        return look

    def _replace_trigger(self, context: Context, error: str) -> dict[str, Any]:
        plan = self._make_plan(_started_at(context))
        memory = Memory(seen_at=time.time())
        self._keep_link(context, plan)
        look = self.sensor.hook.converse(take_look(plan, memory))
        self._keep_link(context, plan, look)
        if look.run is None:
            memory.seen_at = None
        if look.outcome is not Outcome.WAITING:
            return self._conclude(plan, memory, look)
        if (
            self.sensor.execution_timeout
            and look.at - plan.started_at >= self.sensor.execution_timeout.total_seconds()
        ):
            limit = duration(self.sensor.execution_timeout.total_seconds())
            raise AirflowTaskTimeout(
                f"The wait for workflow run {plan.workflow_run_id} took longer than execution_timeout, {limit}; "
                f"{last_seen(memory)}. A wait is better limited by timeout."
            )
        raise AnonUnavailableError(
            f"The wait for workflow run {plan.workflow_run_id} broke off in the triggerer ({error}); {last_seen(memory)}. "
            "Is airflow-provider-anon installed there, in the version of the workers, and was it restarted since?",
            workflow_run_id=plan.workflow_run_id,
            last_status=memory.status,
            last_seen_at=memory.seen_at,
        )

    def _go_on_in_triggerer(
        self, context: Context, plan: Plan, memory: Memory, next_look_at: float
    ) -> NoReturn:
        from airflow_anon.triggers import TRIGGER_GRACE, AnonWorkflowRunTrigger

        # The trigger itself keeps the deadline, with a last look; Airflow's is for one that does not run.
        left = max(plan.deadline - time.time(), 0.0) + TRIGGER_GRACE
        kwargs = self._trigger_kwargs(plan, memory, next_look_at, _map_index(context))
        self.sensor.defer(
            trigger=AnonWorkflowRunTrigger(**kwargs),
            method_name=self.sensor.execute_complete.__name__,
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("Airflow's defer returns never")  # pragma: no cover  it raises

    def _trigger_kwargs(
        self, plan: Plan, memory: Memory, next_look_at: float = 0.0, map_index: int = -1
    ) -> dict[str, Any]:
        asks_user = bool(self.sensor.on_awaiting_user_input_callback)
        handoff = Handoff(
            self.sensor.anon_conn_id, plan, memory, next_look_at=next_look_at, asks_user=asks_user
        )
        return {
            **handoff.to_kwargs(),
            "end_from_trigger": self.sensor.end_from_trigger and why_not_end(self.sensor, map_index) is None,
            "skip_on_no_action": self.sensor.skip_on_no_action,
            "do_xcom_push": self.sensor.do_xcom_push,
        }

    def _begin(self, context: Context) -> Plan:
        now = time.time()
        rescheduled_at = _first_rescheduled_at(context) if self.sensor.reschedule else None
        started_at = now if rescheduled_at is None else rescheduled_at.timestamp()
        self.plan = self._make_plan(started_at)
        if rescheduled_at is not None:
            self.memory = self._recall(context) or self._guess(now, started_at)
        return self.plan

    def _make_plan(
        self, started_at: float, deadline: float | None = None, workflow_run_id: str | None = None
    ) -> Plan:
        return Plan(
            normalise_id(self.sensor.workflow_run_id) if workflow_run_id is None else workflow_run_id,
            started_at=started_at,
            deadline=started_at + self.sensor.timeout if deadline is None else deadline,
            poke_interval=self.sensor.poke_interval,
            exponential_backoff=bool(self.sensor.exponential_backoff),
            max_wait=_max_wait(self.sensor.max_wait),
            outage_tolerance=self.sensor.outage_tolerance,
            user_input_timeout=self.sensor.user_input_timeout,
        )

    def _keep_link(self, context: Context, plan: Plan, look: Look | None = None) -> None:
        workflow_id = look.run.workflow_id if look is not None and look.run is not None else None
        endpoint = self.sensor.hook.get_conn().endpoint
        keep_link(self.sensor, context, endpoint, plan.workflow_run_id, workflow_id)

    def _recall(self, context: Context) -> Memory | None:
        """Return what the last look of this try left in Airflow's task state store (3.3 and later)."""
        store = context.get("task_state_store")
        kept: Any = store.get(STORE_KEY) if store is not None else None
        return Memory.from_json(kept["memory"]) if kept and kept["mark"] == self._mark(context) else None

    def _guess(self, now: float, started_at: float) -> Memory:
        """Return what is known without a store: the first look saw the run, or it had not come to a second."""
        due = (now - started_at) % STILL_WAITING_EVERY < self.sensor.poke_interval
        return Memory(seen_at=now, told_at=0.0 if due else now)

    def _keep(self, context: Context, memory: Memory) -> None:
        if self.sensor.mode != "reschedule":
            return
        store = context.get("task_state_store")
        if store is not None:
            store.set(STORE_KEY, {"mark": self._mark(context), "memory": memory.to_json()})
            return
        person_matters = (
            self.sensor.on_awaiting_user_input_callback or self.sensor.user_input_timeout is not None
        )
        stays = bool(memory.missed or (memory.awaiting_since is not None and person_matters))
        if stays and not self.sensor.stays_on_worker:
            self.sensor.log.warning(
                "The sensor stays on its worker until the API answers again, or the person has answered: this "
                "version of Airflow cannot keep the time of that between two looks (3.3 and later can)."
            )
        self.sensor.stays_on_worker = stays

    def _mark(self, context: Context) -> list[Any]:
        return [self.sensor.workflow_run_id, self.sensor.anon_conn_id, context["ti"].try_number]

    def _ask_user(self, context: Context, run: WorkflowRun) -> None:
        callbacks = self.sensor.on_awaiting_user_input_callback
        if callbacks is None:
            return
        context_merge(context, {"workflow_run": run.to_payload()})
        for callback in callbacks if isinstance(callbacks, Sequence) else (callbacks,):
            try:
                callback(context)
            except Exception:
                self.sensor.log.exception("on_awaiting_user_input_callback failed; the wait goes on.")


def _map_index(context: Context) -> int:
    index = context["ti"].map_index
    return -1 if index is None else index


def _started_at(context: Context) -> float:
    """Return when the task's try began; Airflow keeps that over a deferral."""
    start: datetime | None = context["ti"].start_date
    return time.time() if start is None else start.timestamp()


def _first_rescheduled_at(context: Context) -> datetime | None:
    """Return when the wait began if the sensor has been rescheduled before, else None."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context)  # type: ignore[no-any-return]
    return _first_rescheduled_at_2(ti)  # pragma: no cover  see there


def _first_rescheduled_at_2(ti: Any) -> datetime | None:  # pragma: no cover  Airflow 2.11, where it is tested
    from airflow.sensors.base import _orig_start_date

    first_try = ti.max_tries - ti.task.retries + 1
    return _orig_start_date(  # type: ignore[no-any-return]
        dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index, try_number=first_try
    )


def _max_wait(value: timedelta | float | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
