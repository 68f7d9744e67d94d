"""The sensor that waits for a run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
    context_merge,
)

from airflow_anon.exceptions import AnonUnavailableError
from airflow_anon.handoff import Handoff, Return
from airflow_anon.hooks import AnonHook
from airflow_anon.memory import STILL_WAITING_EVERY, Memory, duration
from airflow_anon.outcomes import conclude, timed_out
from airflow_anon.protocol import Look, Outcome, Plan, Sleep, ending, last_seen, take_look
from airflow_anon.runs import normalise_id
from airflow_anon.shortcuts import template_for_triggerer, why_not_end, why_not_start

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_anon.runs import WorkflowRun

UserInputCallback = Callable[["Context"], Any]

STORE_KEY = "anon_wait"


class AnonWorkflowRunSensor(BaseSensorOperator):
    """
    Waits until a workflow run is over.

    Passes when the run has completed, fails when it has failed, and hands the run's JSON on as the
    XCom ``return_value``. Airflow's own parameters (``poke_interval``, ``timeout``, ``mode``,
    ``exponential_backoff``, ``max_wait``, ``soft_fail``, ...) keep their meaning.

    :param workflow_run_id: the run's UUID. (templated)
    :param anon_conn_id: the Airflow connection to the API. (templated)
    :param skip_on_no_action: skip the task, instead of passing it, when the run completed without
        taking any action.
    :param outage_tolerance: how long the API may be out of reach, counted from the last good look,
        before the wait gives up; seconds or a ``timedelta``.
    :param on_awaiting_user_input_callback: called with the task's context each time the run begins
        to wait for a person: a callable, an Airflow notifier, or a list of these. The run's JSON is
        in the context as ``workflow_run``.
    :param user_input_timeout: how long the run may wait for a person before the task fails; seconds
        or a ``timedelta``, without limit if None.
    :param deferrable: wait in the triggerer, without a worker; ``[operators] default_deferrable``
        if left out.
    :param start_from_trigger: start in the triggerer, without a worker; implies *deferrable*. Where
        Airflow cannot, the sensor starts on a worker and says so.
    :param end_from_trigger: end in the triggerer, without a worker, if the run ended well; implies
        *deferrable*. Where anything would be lost, the sensor ends on a worker and says so.
    """

    template_fields: Sequence[str] = ("workflow_run_id", "anon_conn_id")

    _plan: Plan | None = None
    _pause = Sleep(0.0)
    _stays = False

    def __init__(
        self,
        *,
        workflow_run_id: str,
        anon_conn_id: str = AnonHook.default_conn_name,
        skip_on_no_action: bool = False,
        outage_tolerance: float | timedelta = 600.0,
        on_awaiting_user_input_callback: UserInputCallback | Sequence[UserInputCallback] | None = None,
        user_input_timeout: float | timedelta | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_run_id = workflow_run_id
        self.anon_conn_id = anon_conn_id
        self.skip_on_no_action = skip_on_no_action
        self.outage_tolerance = _seconds("outage_tolerance", outage_tolerance)
        self.on_awaiting_user_input_callback = on_awaiting_user_input_callback
        self.user_input_timeout = (
            None if user_input_timeout is None else _seconds("user_input_timeout", user_input_timeout)
        )
        self.deferrable = deferrable or start_from_trigger or end_from_trigger
        self.end_from_trigger = end_from_trigger
        self._memory = Memory()
        self._wants_to_start_from_trigger = start_from_trigger
        self._why_on_worker = why_not_start(self) if start_from_trigger else None
        if start_from_trigger and self._why_on_worker is None:
            self._start_from_trigger()

    @cached_property
    def hook(self) -> AnonHook:
        """The hook for the sensor's connection."""
        return AnonHook(self.anon_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait as Airflow's sensors do, and close the connection to the API at the end."""
        obstacle = self._why_on_worker or ("it is mapped" if _map_index(context) >= 0 else None)
        if self._wants_to_start_from_trigger and obstacle:
            self.log.info("The sensor starts on a worker, not in the triggerer: %s.", obstacle)
        with self.hook:
            return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Take one look at the run; a deferrable sensor goes on in the triggerer if it is not over."""
        plan = self._plan or self._begin(context)
        memory = self._memory
        self._pause = Sleep(plan.interval(time.time()))
        look = self.hook.converse(take_look(plan, memory))
        if look.asks_user and look.run is not None:
            self._ask_user(context, look.run)
        if look.outcome is not Outcome.WAITING:
            return PokeReturnValue(is_done=True, xcom_value=self._conclude(plan, memory, look))
        if self.deferrable:
            self._go_on_in_triggerer(context, plan, memory, look.at + look.pause.seconds)
        self._pause = look.pause
        self._keep(context, memory)
        return PokeReturnValue(is_done=False)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Judge what the trigger saw, by the rules of a sensor that looks for itself."""
        return self._by_the_rules(context, lambda: self._resume(context, event))

    def execute_failed(self, context: Context, error: str = "", traceback: list[str] | None = None) -> Any:
        """Look at the run once more after the trigger broke off, or was not run in time."""
        if traceback:
            self.log.error("The trigger failed:\n%s", "".join(traceback))
        return self._by_the_rules(context, lambda: self._replace_trigger(context, error))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the triggerer; what Airflow itself has to tell of a trigger is judged here, too."""
        if next_method == "__fail__":
            next_method = self.execute_failed.__name__
        return super().resume_execution(next_method, next_kwargs, context)

    @property
    def reschedule(self) -> bool:
        """Whether the sensor leaves its worker between two looks."""
        return self.mode == "reschedule" and not self._stays

    def _get_next_poke_interval(self, *args: Any, **kwargs: Any) -> float:
        # The pause comes from the look just taken, which knows of Retry-After, backoff and the deadline.
        return self._pause.seconds + random.uniform(0.0, self._pause.spread)  # noqa: S311

    def _conclude(self, plan: Plan, memory: Memory, look: Look) -> dict[str, Any]:
        if look.outcome is not Outcome.OVER or look.run is None:
            raise timed_out(plan, memory, look)
        self.hook.tell(ending(memory, look.run))
        if look.run.took_no_action and self.skip_on_no_action:
            raise AirflowSkipException(f"Workflow run {look.run.id} completed without taking any action.")
        return conclude(look.run)

    def _by_the_rules(self, context: Context, act: Callable[[], Any]) -> Any:
        """Do on resumption what Airflow's loop does between two pokes."""
        try:
            with self.hook:
                return act()
        except AirflowSkipException:
            raise
        except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipping, as soft_fail or never_fail asks: {error}") from error
            raise
        except Exception as error:
            if self.silent_fail:
                self.log.exception("The wait goes on in spite of this, as silent_fail asks.")
                plan = self._plan or self._make_plan(_started_at(context))
                self._go_on_in_triggerer(context, plan, self._memory, time.time() + plan.interval(time.time()))
            if self.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise

    def _resume(self, context: Context, event: Any) -> dict[str, Any]:
        returned = Return.from_event(event, self._make_plan)
        plan, memory = self._plan, self._memory = returned.plan, returned.memory
        look = returned.look
        if look is None or look.run is None:
            look = self._look_once_more(returned)
        if look.asks_user and look.run is not None:
            self._ask_user(context, look.run)
        if look.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, plan, memory, look.at + plan.interval(look.at))
        if self.end_from_trigger and (obstacle := why_not_end(self, _map_index(context))):
            self.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
        return self._conclude(plan, memory, look)

    def _look_once_more(self, returned: Return) -> Look:
        """Look from the worker before silence is believed: it may be the triggerer's trouble alone."""
        if returned.error is not None and not returned.error.retryable:
            raise returned.error
        memory, seen_at = returned.memory, returned.memory.seen_at
        # The patience of a first look has been spent in the triggerer.
        memory.seen_at = time.time()
        look = self.hook.converse(take_look(returned.plan, memory))
        if look.run is None:
            memory.seen_at = seen_at
            if returned.error is not None:
                raise returned.error
        return look

    def _replace_trigger(self, context: Context, error: str) -> dict[str, Any]:
        plan = self._make_plan(_started_at(context))
        memory = Memory(seen_at=time.time())
        look = self.hook.converse(take_look(plan, memory))
        if look.outcome is not Outcome.WAITING:
            return self._conclude(plan, memory, look)
        if self.execution_timeout and look.at - plan.started_at >= self.execution_timeout.total_seconds():
            limit = duration(self.execution_timeout.total_seconds())
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

    def _start_from_trigger(self) -> None:
        from airflow.triggers.base import StartTriggerArgs

        from airflow_anon.triggers import TRIGGER_GRACE, AnonWorkflowRunTrigger

        workflow_run_id, anon_conn_id = map(template_for_triggerer, (self.workflow_run_id, self.anon_conn_id))
        plan = self._make_plan(0.0, workflow_run_id=workflow_run_id)
        kwargs = {**self._trigger_kwargs(plan, Memory()), "anon_conn_id": anon_conn_id, "timeout": self.timeout}
        path, kwargs = AnonWorkflowRunTrigger(**{**kwargs, "started_at": None, "deadline": None}).serialize()
        self.start_from_trigger = True
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=kwargs,
            next_method=self.execute_complete.__name__,
            timeout=timedelta(seconds=self.timeout + TRIGGER_GRACE),
        )

    def _go_on_in_triggerer(self, context: Context, plan: Plan, memory: Memory, next_look_at: float) -> NoReturn:
        from airflow_anon.triggers import TRIGGER_GRACE, AnonWorkflowRunTrigger

        # The trigger itself keeps the deadline, with a last look; Airflow's is for one that does not run.
        left = max(plan.deadline - time.time(), 0.0) + TRIGGER_GRACE
        kwargs = self._trigger_kwargs(plan, memory, next_look_at, _map_index(context))
        self.defer(
            trigger=AnonWorkflowRunTrigger(**kwargs),
            method_name=self.execute_complete.__name__,
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("Airflow's defer returns never")

    def _trigger_kwargs(
        self, plan: Plan, memory: Memory, next_look_at: float = 0.0, map_index: int = -1
    ) -> dict[str, Any]:
        asks_user = bool(self.on_awaiting_user_input_callback)
        handoff = Handoff(self.anon_conn_id, plan, memory, next_look_at=next_look_at, asks_user=asks_user)
        return {
            **handoff.to_kwargs(),
            "end_from_trigger": self.end_from_trigger and why_not_end(self, map_index) is None,
            "skip_on_no_action": self.skip_on_no_action,
            "do_xcom_push": self.do_xcom_push,
        }

    def _begin(self, context: Context) -> Plan:
        now = time.time()
        rescheduled_at = _first_rescheduled_at(context) if self.reschedule else None
        started_at = now if rescheduled_at is None else rescheduled_at.timestamp()
        self._plan = self._make_plan(started_at)
        if rescheduled_at is not None:
            self._memory = self._recall(context) or self._guess(now, started_at)
        return self._plan

    def _make_plan(
        self, started_at: float, deadline: float | None = None, workflow_run_id: str | None = None
    ) -> Plan:
        return Plan(
            normalise_id(self.workflow_run_id) if workflow_run_id is None else workflow_run_id,
            started_at=started_at,
            deadline=started_at + self.timeout if deadline is None else deadline,
            poke_interval=self.poke_interval,
            exponential_backoff=bool(self.exponential_backoff),
            max_wait=None if self.max_wait is None else _seconds("max_wait", self.max_wait),
            outage_tolerance=self.outage_tolerance,
            user_input_timeout=self.user_input_timeout,
        )

    def _recall(self, context: Context) -> Memory | None:
        """Return what the last look of this try left in Airflow's task state store (3.3 and later)."""
        store = context.get("task_state_store")
        kept: Any = store.get(STORE_KEY) if store is not None else None
        return Memory.from_json(kept["memory"]) if kept and kept["mark"] == self._mark(context) else None

    def _guess(self, now: float, started_at: float) -> Memory:
        """Return what is known without a store: the first look saw the run, or it had not come to a second."""
        due = (now - started_at) % STILL_WAITING_EVERY < self.poke_interval
        return Memory(seen_at=now, told_at=0.0 if due else now)

    def _keep(self, context: Context, memory: Memory) -> None:
        if self.mode != "reschedule":
            return
        store = context.get("task_state_store")
        if store is not None:
            store.set(STORE_KEY, {"mark": self._mark(context), "memory": memory.to_json()})
            return
        person_matters = self.on_awaiting_user_input_callback or self.user_input_timeout is not None
        stays = bool(memory.missed or (memory.awaiting_since is not None and person_matters))
        if stays and not self._stays:
            self.log.warning(
                "The sensor stays on its worker until the API answers again, or the person has answered: this "
                "version of Airflow cannot keep the time of that between two looks (3.3 and later can)."
            )
        self._stays = stays

    def _mark(self, context: Context) -> list[Any]:
        return [self.workflow_run_id, self.anon_conn_id, context["ti"].try_number]

    def _ask_user(self, context: Context, run: WorkflowRun) -> None:
        callbacks = self.on_awaiting_user_input_callback
        if callbacks is None:
            return
        context_merge(context, {"workflow_run": run.to_payload()})
        for callback in callbacks if isinstance(callbacks, Sequence) else (callbacks,):
            try:
                callback(context)
            except Exception:
                self.log.exception("on_awaiting_user_input_callback failed; the wait goes on.")


def _seconds(name: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be a timedelta, or a number of seconds of at least 0, not {value!r}")
    return float(seconds)


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
    from airflow.sensors.base import _orig_start_date  # Airflow 2.11

    first_try = ti.max_tries - ti.task.retries + 1
    return _orig_start_date(  # type: ignore[no-any-return]
        dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index, try_number=first_try
    )
