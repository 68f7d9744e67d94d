"""A sensor's wait, as far as it takes place on a worker: its looks, what is kept between them, its end."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    PokeReturnValue,
    context_merge,
)

from airflow_anon.exceptions import AnonConfigurationError, AnonUnavailableError
from airflow_anon.handoff import SETTLED_AFTER, Handoff, Return
from airflow_anon.links import keep_link
from airflow_anon.memory import STILL_WAITING_EVERY, Memory, duration
from airflow_anon.metrics import WaitCount
from airflow_anon.outcomes import AnonWaitTimeoutError, conclude, ended_run
from airflow_anon.protocol import (
    SHORTEST_PAUSE,
    Look,
    Outcome,
    Plan,
    Sleep,
    ending,
    facts_of,
    last_seen,
    limit_of,
    take_look,
)
from airflow_anon.runs import normalise_id
from airflow_anon.sanitize import fit
from airflow_anon.shortcuts import template_for_triggerer, why_not_end, why_not_start

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import StartTriggerArgs

    from airflow_anon.group import Group
    from airflow_anon.runs import WorkflowRun
    from airflow_anon.triggers import WaitingTrigger

STORE_KEY = "anon_wait"
# By so many seconds at most Airflow's loop may have begun to count before we do.
HEAD_START = 0.1
# Airflow adds the limit of a trigger to the time; what is longer than this never ends.
LONGEST_DEFERRAL = 100 * 365 * 24 * 3600.0
# What Airflow 3 and Airflow 2 say of a trigger that was not run in time.
TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")

M = TypeVar("M", "Memory", "Group")


class BaseWait(ABC, Generic[M]):
    """
    The wait of one sensor, whatever it waits for.

    :param sensor: with its arguments rendered, except for what concerns its start.
    """

    def __init__(self, sensor: Any) -> None:
        self.sensor = sensor
        self.begun: tuple[Plan, M] | None = None
        # For what is raised, or decided by a subclass, before a look has said how long to pause.
        self.pause = Sleep(max(sensor.poke_interval, SHORTEST_PAUSE))
        self.count = WaitCount(sensor.anon_conn_id)

    # What each kind of wait has of its own.

    def _run_id(self) -> str:
        """Return the id for the plan, checked; of many runs the plan names none."""
        return ""

    @abstractmethod
    def _target(self) -> str:
        """Return what is waited for, in a word that changes with it."""

    @abstractmethod
    def _remember(self, plan: Plan, *, seen_at: float | None = None, told_at: float = 0.0) -> M:
        """Return the memory of a wait of which no more is known than this."""

    @abstractmethod
    def _read(self, plan: Plan, stored: Any) -> M:
        """Read what :meth:`_written` wrote."""

    @abstractmethod
    def _written(self, memory: M) -> dict[str, Any]:
        """Return what :meth:`_read` reads, as plain JSON."""

    @abstractmethod
    def _look(self, context: Context, plan: Plan, memory: M) -> Look:
        """Take the next look."""

    @abstractmethod
    def _look_again(self, context: Context, plan: Plan, memory: M) -> Look:
        """Take one look without the patience of a first, which has been spent in the triggerer."""

    @abstractmethod
    def _ask_users(self, context: Context, memory: M, look: Look | None) -> None:
        """Call back for whoever has begun to wait for a person; once, though *look* ended in an error."""

    @abstractmethod
    def _conclude(self, plan: Plan, memory: M, look: Look) -> Any:
        """Return the XCom of a wait that ended well; raise what ended it otherwise."""

    @abstractmethod
    def _resume(self, context: Context, event: Any, kept: Any) -> Any:
        """Judge what the trigger saw."""

    @abstractmethod
    def _trigger(self) -> type[WaitingTrigger]:
        """Return the class of the trigger."""

    @abstractmethod
    def _handed_over(self, plan: Plan, memory: M | None, next_look_at: float) -> dict[str, Any]:
        """Return the trigger's arguments; without a memory, those that are known before it is rendered."""

    @abstractmethod
    def _kept(self, memory: M) -> dict[str, Any] | None:
        """Return what the resumption is to know that the trigger does not bring back."""

    @abstractmethod
    def _described(self, plan: Plan, memory: M) -> tuple[str, str, dict[str, Any]]:
        """Return what is waited for, what was seen of it last, and the facts for an error."""

    def _count(self, plan: Plan, memory: M) -> None:
        """Let the metrics know of the wait."""
        self.count.plan = plan

    # What is the same for all.

    def poke(self, context: Context) -> PokeReturnValue:
        """Take one look."""
        plan, memory = self.begun or self._begin(context)
        self.pause = Sleep(_pause_after_error(plan))
        try:
            look = self._look_and_ask(context, plan, memory)
            left = plan.deadline - time.time()
            if look.outcome is Outcome.WAITING and left < HEAD_START:
                # Airflow would find that the time is over, and end the wait without a last look.
                time.sleep(max(left, 0.0) + 0.001)
                look = self._look_and_ask(context, plan, memory)
            if look.outcome is not Outcome.WAITING:
                return PokeReturnValue(is_done=True, xcom_value=self._conclude(plan, memory, look))
        except Exception:
            if self.sensor.silent_fail:  # the wait goes on
                self._ask_users(context, memory, None)
                self._keep(context, plan, memory)
            raise
        if self.sensor.deferrable:
            self._go_on_in_triggerer(context, plan, memory, look.at + look.pause.seconds)
        self.pause = look.pause
        self._keep(context, plan, memory)
        if limit_of(plan, memory.awaiting_since) - look.at < SETTLED_AFTER:
            self.sensor.stays_on_worker = True  # a rescheduled look would come too late
        return PokeReturnValue(is_done=False)

    def _look_and_ask(self, context: Context, plan: Plan, memory: M) -> Look:
        look = self._look(context, plan, memory)
        self._ask_users(context, memory, look)
        return look

    def seconds_to_next_look(self) -> float:
        """Return how long to leave the API alone now."""
        seconds = self.pause.seconds + random.uniform(0.0, self.pause.spread)  # noqa: S311  spreads load
        return max(seconds, SETTLED_AFTER) if self.sensor.reschedule else seconds

    def resume(self, context: Context, event: Any, kept: Any = None) -> Any:
        """Judge what the trigger saw."""
        if isinstance(event, dict) and "broke_off" in event:
            return self.replace_trigger(context, event["broke_off"], event["traceback"])
        return self._by_the_rules(context, lambda: self._resume(context, event, kept))

    def replace_trigger(self, context: Context, error: str, traceback: list[str] | None) -> Any:
        """Look in place of a trigger that broke off, or was not run in time."""
        if traceback:
            self.sensor.log.error("The trigger failed:\n%s", "".join(traceback))
        return self._by_the_rules(context, lambda: self._replace_trigger(context, error))

    def why_not_start(self) -> str | None:
        """Say why the wait cannot start in the triggerer; None if it can."""
        return why_not_start(self.sensor)

    def tell_why_on_worker(self, context: Context) -> None:
        """Tell the log why a sensor that was to start in the triggerer is on a worker."""
        if not self.sensor.asked_to_start_in_triggerer:
            return
        is_mapped = context["ti"].map_index not in (None, -1)
        if obstacle := self.why_not_start() or (is_mapped and "it is mapped"):
            self.sensor.log.info("The sensor starts on a worker, not in the triggerer: %s.", obstacle)

    def start_trigger_args(self) -> StartTriggerArgs:
        """Return what the scheduler starts the trigger with, before anything is rendered."""
        from airflow.triggers.base import StartTriggerArgs

        from airflow_anon.triggers import TRIGGER_GRACE

        sensor = self.sensor
        rendered_there = {
            name: template_for_triggerer(getattr(sensor, name)) for name in sensor.template_fields
        }
        kwargs = {
            **self._trigger_kwargs(self._make_plan(0.0, workflow_run_id=""), None),
            **rendered_there,
            "timeout": None if sensor.timeout > LONGEST_DEFERRAL else sensor.timeout,
            "started_at": None,
            "deadline": None,
            "deferred_at": None,
        }
        path, kwargs = self._trigger()(**kwargs).serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=kwargs,
            next_method=sensor.execute_complete.__name__,
            timeout=timedelta(seconds=min(sensor.timeout + TRIGGER_GRACE, LONGEST_DEFERRAL)),
        )

    def _by_the_rules(self, context: Context, act: Callable[[], Any]) -> Any:
        """Do on resumption what Airflow's loop does between two pokes."""
        try:
            with self.sensor.hook:
                return self._silently(context, act) if self.sensor.silent_fail else act()
        except AirflowSkipException:
            raise
        except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout) as error:
            if self.sensor.soft_fail or self.sensor.never_fail:
                raise AirflowSkipException(f"Skipping, as soft_fail or never_fail asks: {error}") from error
            raise
        except Exception as error:
            if self.sensor.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def _silently(self, context: Context, act: Callable[[], Any]) -> Any:
        """Do it, and go on in spite of errors of the wait until its time is over."""
        try:
            return act()
        except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout, AirflowSkipException):
            raise
        except Exception as error:
            plan, memory = self.begun or self._begin_anew(context)
            if time.time() >= plan.deadline:
                name, last_seen_as, facts = self._described(plan, memory)
                limit = duration(plan.timeout)
                raise AnonWaitTimeoutError(
                    f"The wait for {name} is over (timeout is {limit}), and its last look failed; {last_seen_as}.",
                    **facts,
                ) from error
            self._heed_execution_timeout(plan, memory, time.time())
            self.sensor.log.exception("The wait goes on in spite of this, as silent_fail asks.")
            self._ask_users(context, memory, None)
            self._go_on_in_triggerer(context, plan, memory, time.time() + _pause_after_error(plan))

    def _tell_why_end_on_worker(self, context: Context) -> None:
        if self.sensor.asked_to_end_in_triggerer and (obstacle := why_not_end(self.sensor)):
            self.sensor.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)

    def _replace_trigger(self, context: Context, error: str) -> Any:
        plan, memory = self._begin_anew(context, error)
        # What goes on in spite of an error, as silent_fail asks, has asked nobody yet.
        self.begun = plan, self._remember(plan)
        self._count(plan, memory)
        look = self._look_again(context, plan, memory)
        if look.outcome is not Outcome.WAITING:
            return self._conclude(plan, memory, look)
        self._heed_execution_timeout(plan, memory, look.at)
        name, last_seen_as, facts = self._described(plan, memory)
        raise AnonUnavailableError(
            f"The wait for {name} broke off in the triggerer ({error}); {last_seen_as}. "
            "Is airflow-provider-anon installed there, in the version of the workers, and was it restarted since?",
            **facts,
        )

    def _heed_execution_timeout(self, plan: Plan, memory: M, now: float) -> None:
        limit = self.sensor.execution_timeout
        if limit and now - plan.started_at >= limit.total_seconds():
            name, last_seen_as, _ = self._described(plan, memory)
            raise AirflowTaskTimeout(
                f"The wait for {name} took longer than execution_timeout, {duration(limit.total_seconds())}; "
                f"{last_seen_as}. A wait is better limited by timeout."
            )

    def _go_on_in_triggerer(self, context: Context, plan: Plan, memory: M, next_look_at: float) -> NoReturn:
        from airflow_anon.triggers import TRIGGER_GRACE

        # The trigger itself keeps the deadline, with a last look; Airflow's is for one that does not run.
        now = time.time()
        left = min(max(plan.deadline - now, 0.0) + TRIGGER_GRACE, LONGEST_DEFERRAL)
        if limit := self.sensor.execution_timeout:  # which Airflow 3 forgets in the triggerer
            until_limit = plan.started_at + limit.total_seconds() - now
            left = min(left, max(until_limit, SETTLED_AFTER) + SHORTEST_PAUSE)
        kwargs = self._trigger_kwargs(plan, memory, next_look_at)
        self.sensor.defer(
            trigger=self._trigger()(**kwargs),
            method_name=self.sensor.execute_complete.__name__,
            kwargs=self._kept(memory),
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("Airflow's defer returns never")  # pragma: no cover  it raises

    def _trigger_kwargs(self, plan: Plan, memory: M | None, next_look_at: float = 0.0) -> dict[str, Any]:
        return {
            **self._handed_over(plan, memory, next_look_at),
            "deferred_at": time.time(),
            "end_from_trigger": self.sensor.asked_to_end_in_triggerer and why_not_end(self.sensor) is None,
            "skip_on_no_action": self.sensor.skip_on_no_action,
            "do_xcom_push": self.sensor.do_xcom_push,
        }

    def _begin(self, context: Context) -> tuple[Plan, M]:
        now = time.time()
        rescheduled_at = _first_rescheduled_at(context) if self.sensor.reschedule else None
        started_at = now if rescheduled_at is None else rescheduled_at.timestamp()
        is_new = rescheduled_at is None or _is_new_try(context)
        self.begun = self._unseen(started_at) if is_new else self._recall(context, started_at, now)
        self._count(*self.begun)
        if is_new:
            self.count.start()
        return self.begun

    def _begin_anew(self, context: Context, error: str = "") -> tuple[Plan, M]:
        started_at = _started_at(context)
        if error in TRIGGER_TIMEOUTS:
            # Airflow 3.0 and 3.1 do not say when the try began, but now that its time is over.
            limit = self.sensor.execution_timeout or timedelta.max
            started_at = min(started_at, time.time() - min(self.sensor.timeout, limit.total_seconds()))
        return self._unseen(started_at)

    def _unseen(self, started_at: float) -> tuple[Plan, M]:
        plan = self._make_plan(started_at)
        return plan, self._remember(plan)

    def _make_plan(
        self, started_at: float, deadline: float | None = None, workflow_run_id: str | None = None
    ) -> Plan:
        return Plan(
            self._run_id() if workflow_run_id is None else workflow_run_id,
            started_at=started_at,
            deadline=started_at + self.sensor.timeout if deadline is None else deadline,
            poke_interval=self.sensor.poke_interval,
            exponential_backoff=bool(self.sensor.exponential_backoff),
            max_wait=_max_wait(self.sensor.max_wait),
            outage_tolerance=self.sensor.outage_tolerance,
            user_input_timeout=self.sensor.user_input_timeout,
        )

    def _recall(self, context: Context, started_at: float, now: float) -> tuple[Plan, M]:
        """
        Return what the last look of this try left in Airflow's task state store (3.3 and later).

        That has the time of the first look; Airflow itself only knows when the first one was over.
        What is there of another try, or of another run, says nothing of this one.
        """
        store = context.get("task_state_store")
        kept: Any = store.get(STORE_KEY) if store is not None else None
        if kept and kept["mark"] == self._mark(context):
            plan = self._make_plan(kept["started_at"])
            return plan, self._read(plan, kept["memory"])
        return self._unseen(started_at) if kept else self._guess(started_at, now)

    def _guess(self, started_at: float, now: float) -> tuple[Plan, M]:
        """Return what is known without a store: the first look saw the run, or it had not come to a second."""
        plan = self._make_plan(started_at)
        due = (now - plan.started_at) % STILL_WAITING_EVERY < self.sensor.poke_interval
        return plan, self._remember(plan, seen_at=now, told_at=0.0 if due else now)

    def _keep(self, context: Context, plan: Plan, memory: M) -> None:
        if self.sensor.mode != "reschedule":
            return
        store = context.get("task_state_store")
        if store is not None:
            kept: dict[str, Any] = {
                "mark": self._mark(context),
                "started_at": plan.started_at,
                "memory": self._written(memory),
            }
            store.set(STORE_KEY, fit(kept))
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
        return [self._target(), self.sensor.anon_conn_id, context["ti"].try_number]

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


class Wait(BaseWait[Memory]):
    """The wait for one run."""

    def _run_id(self) -> str:
        return normalise_id(self.sensor.workflow_run_id)

    def _target(self) -> str:
        return self._run_id()

    def _remember(self, plan: Plan, *, seen_at: float | None = None, told_at: float = 0.0) -> Memory:
        return Memory(seen_at=seen_at, told_at=told_at)

    def _read(self, plan: Plan, stored: Any) -> Memory:
        return Memory.from_json(stored)

    def _written(self, memory: Memory) -> dict[str, Any]:
        return memory.to_json()

    def _look(self, context: Context, plan: Plan, memory: Memory) -> Look:
        return self._look_once(context, plan, memory, was_seen=memory.seen_at is not None)

    def _look_once(
        self, context: Context, plan: Plan, memory: Memory, *, was_seen: bool, is_last: bool = False
    ) -> Look:
        self._keep_link(context, plan)
        # Airflow says that there is no such connection also when its own database is away for a moment.
        look: Look = self.sensor.hook.converse(take_look(plan, memory, is_last=is_last), patient=was_seen)
        self._keep_link(context, plan, look)
        return look

    def _keep_link(self, context: Context, plan: Plan, look: Look | None = None) -> None:
        workflow_id = look.run.workflow_id if look is not None and look.run is not None else None
        try:
            endpoint = self.sensor.hook.get_conn().endpoint
        except AnonConfigurationError:
            return  # the look will tell
        keep_link(self.sensor, context, endpoint, plan.workflow_run_id, workflow_id)

    def _look_again(self, context: Context, plan: Plan, memory: Memory) -> Look:
        seen_at = memory.seen_at
        begun_at = memory.seen_at = time.time()
        memory.missed = 0
        try:
            return self._look_once(context, plan, memory, was_seen=seen_at is not None, is_last=True)
        finally:
            if memory.seen_at == begun_at:
                memory.seen_at = seen_at

    def _ask_users(self, context: Context, memory: Memory, look: Look | None) -> None:
        if look is not None and look.asks_user and look.run is not None:
            self._ask_user(context, look.run)

    def _count(self, plan: Plan, memory: Memory) -> None:
        self.count.plan, self.count.memory = plan, memory

    def _conclude(self, plan: Plan, memory: Memory, look: Look) -> dict[str, Any]:
        self.count.look = look
        run = ended_run(plan, memory, look)
        self.sensor.hook.tell(ending(memory, run))
        if run.took_no_action and self.sensor.skip_on_no_action:
            raise AirflowSkipException(f"Workflow run {run.id} completed without taking any action.")
        return conclude(run)

    def _resume(self, context: Context, event: Any, kept: Any) -> dict[str, Any]:
        returned = Return.from_event(event, self._make_plan)
        plan, memory = self.begun = returned.plan, returned.memory
        self._count(plan, memory)
        look = returned.look
        if look is None or look.run is None:
            look = self._look_once_more(context, returned)
        self._ask_users(context, memory, look)
        if look.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, plan, memory, look.at + look.pause.seconds)
        self._tell_why_end_on_worker(context)
        return self._conclude(plan, memory, look)

    def _look_once_more(self, context: Context, returned: Return) -> Look:
        """Look from the worker before silence is believed: it may be the triggerer's trouble alone."""
        if returned.error is not None and not returned.error.retryable:
            if returned.memory.seen_at is None:  # else the link was kept when the run was seen
                self._keep_link(context, returned.plan)
            raise returned.error
        look = self._look_again(context, returned.plan, returned.memory)
        if look.run is None and returned.error is not None:
            raise returned.error
        return look

    def _trigger(self) -> type[WaitingTrigger]:
        from airflow_anon.triggers import AnonWorkflowRunTrigger

        return AnonWorkflowRunTrigger

    def _handed_over(self, plan: Plan, memory: Memory | None, next_look_at: float) -> dict[str, Any]:
        asks_user = bool(self.sensor.on_awaiting_user_input_callback)
        return Handoff(
            self.sensor.anon_conn_id,
            plan,
            memory or Memory(),
            next_look_at=next_look_at,
            asks_user=asks_user,
        ).to_kwargs()

    def _kept(self, memory: Memory) -> None:
        return None

    def _described(self, plan: Plan, memory: Memory) -> tuple[str, str, dict[str, Any]]:
        run_id = plan.workflow_run_id
        return f"workflow run {run_id}", last_seen(memory), facts_of(run_id, memory)


def _pause_after_error(plan: Plan) -> float:
    now = time.time()
    return max(min(plan.interval(now), plan.deadline - now), SHORTEST_PAUSE)


def _started_at(context: Context) -> float:
    """Return when the task's try began; Airflow keeps that over a deferral."""
    start: datetime | None = context["ti"].start_date
    return time.time() if start is None else start.timestamp()


def _first_rescheduled_at(context: Context) -> datetime | None:
    """Return when the wait began if the sensor has been rescheduled before, else None."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context)  # type: ignore[no-any-return]
    return _rescheduled_at_2(ti, ti.max_tries - ti.task.retries + 1)  # pragma: no cover  see there


def _rescheduled_at_2(ti: Any, try_number: int) -> datetime | None:  # pragma: no cover  tested on Airflow 2
    from airflow.sensors.base import _orig_start_date

    return _orig_start_date(  # type: ignore[no-any-return]
        dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index, try_number=try_number
    )


def _is_new_try(context: Context) -> bool:
    """Say whether it was not this try that was rescheduled before: Airflow 3 knows of no other."""
    ti: Any = context["ti"]
    return not hasattr(ti, "get_first_reschedule_date") and _rescheduled_at_2(ti, ti.try_number) is None


def _max_wait(value: timedelta | float | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
