"""A sensor's wait, as far as it takes place on a worker: its polls, what is kept between them, its end."""

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

from airflow_anon.core.codec import NO_LIMIT, SETTLED_AFTER, EventPayload, TriggerArgs, longest_deferral
from airflow_anon.core.errors import AnonConfigurationError, AnonUnavailableError
from airflow_anon.core.flow import Sleep
from airflow_anon.core.ids import normalise_id
from airflow_anon.core.messages import STILL_WAITING_EVERY, duration, ending, facts_of, last_seen
from airflow_anon.core.policy import SHORTEST_PAUSE, WaitPolicy, limit_of, options_of
from airflow_anon.core.polling import PollResult, poll
from airflow_anon.core.sanitize import fit
from airflow_anon.core.state import Outcome, WaitState
from airflow_anon.exceptions import AnonWaitTimeoutError
from airflow_anon.links import keep_link
from airflow_anon.task.metrics import WaitMetrics
from airflow_anon.task.result import ended_run, result_of
from airflow_anon.task.zero_worker import (
    reason_to_end_on_worker,
    reason_to_start_on_worker,
    template_for_triggerer,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import StartTriggerArgs

    from airflow_anon.core.group import WaitGroup
    from airflow_anon.runs import WorkflowRun

STORE_KEY = "anon_wait"
# By so many seconds at most Airflow's loop may have begun to count before we do.
HEAD_START = 0.1
# What Airflow 3 and Airflow 2 say of a trigger that was not run in time.
TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")

M = TypeVar("M", "WaitState", "WaitGroup")


class BaseWait(ABC, Generic[M]):
    """
    The wait of one sensor, whatever it waits for.

    :param sensor: with its arguments rendered, except for what concerns its start.
    """

    def __init__(self, sensor: Any) -> None:
        self.sensor = sensor
        self.begun: tuple[WaitPolicy, M] | None = None
        # For what is raised, or decided by a subclass, before a poll has said how long to pause.
        self.pause = Sleep(max(sensor.poke_interval, SHORTEST_PAUSE))
        self.count = WaitMetrics(sensor.anon_conn_id)

    # What each kind of wait has of its own.

    @abstractmethod
    def _target(self) -> str:
        """Return what is waited for, in a word that changes with it."""

    @abstractmethod
    def _remember(
        self, policy: WaitPolicy, *, seen_at: float | None = None, last_logged_at: float = 0.0
    ) -> M:
        """Return the state of a wait of which no more is known than this."""

    @abstractmethod
    def _read(self, policy: WaitPolicy, stored: Any) -> M:
        """Read what :meth:`_written` wrote."""

    @abstractmethod
    def _written(self, state: M) -> dict[str, Any]:
        """Return what :meth:`_read` reads, as plain JSON."""

    @abstractmethod
    def _poll(self, context: Context, policy: WaitPolicy, state: M) -> PollResult:
        """Take the next poll."""

    @abstractmethod
    def _poll_again(self, context: Context, policy: WaitPolicy, state: M) -> PollResult:
        """Poll once without the patience of a first, which has been spent in the triggerer."""

    @abstractmethod
    def _call_back_all(self, context: Context, state: M, polled: PollResult | None) -> None:
        """Call back for whoever has begun to wait for user input; once, though the poll ended in an error."""

    @abstractmethod
    def _conclude(self, policy: WaitPolicy, state: M, polled: PollResult) -> Any:
        """Return the XCom of a wait that ended well; raise what ended it otherwise."""

    @abstractmethod
    def _resume(self, context: Context, event: Any, kept: Any) -> Any:
        """Judge what the trigger saw."""

    @abstractmethod
    def _handed_over(self, policy: WaitPolicy, state: M | None, next_poll_at: float) -> dict[str, Any]:
        """Return the trigger's arguments; without a state, those that are known before it is rendered."""

    @abstractmethod
    def _kept(self, state: M) -> dict[str, Any] | None:
        """Return what the resumption is to know that the trigger does not bring back."""

    @abstractmethod
    def _described(self, policy: WaitPolicy, state: M) -> tuple[str, str, dict[str, Any]]:
        """Return what is waited for, what was seen of it last, and the facts for an error."""

    def _count(self, policy: WaitPolicy, state: M) -> None:
        """Let the metrics know of the wait."""
        self.count.policy = policy

    # What is the same for all.

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once."""
        policy, state = self.begun or self._begin(context)
        self.pause = Sleep(_pause_after_error(policy))
        try:
            polled = self._poll_and_ask(context, policy, state)
            left = policy.deadline - time.time()
            if polled.outcome is Outcome.WAITING and left < HEAD_START:
                # Airflow would find that the time is over, and end the wait without a last poll.
                time.sleep(max(left, 0.0) + 0.001)
                polled = self._poll_and_ask(context, policy, state)
            if polled.outcome is not Outcome.WAITING:
                return PokeReturnValue(is_done=True, xcom_value=self._conclude(policy, state, polled))
        except Exception:
            if self.sensor.silent_fail:  # the wait goes on
                self._call_back_all(context, state, None)
                self._keep(context, policy, state)
            raise
        if self.sensor.deferrable:
            self._go_on_in_triggerer(context, policy, state, polled.at + polled.pause.seconds)
        self.pause = polled.pause
        self._keep(context, policy, state)
        if limit_of(policy, state.awaiting_since) - polled.at < SETTLED_AFTER:
            self.sensor.stays_on_worker = True  # a rescheduled poll would come too late
        return PokeReturnValue(is_done=False)

    def _poll_and_ask(self, context: Context, policy: WaitPolicy, state: M) -> PollResult:
        polled = self._poll(context, policy, state)
        self._call_back_all(context, state, polled)
        return polled

    def seconds_to_next_poll(self) -> float:
        """Return how long to leave the API alone now."""
        seconds = self.pause.seconds + random.uniform(0.0, self.pause.spread)  # noqa: S311  spreads load
        return max(seconds, SETTLED_AFTER) if self.sensor.reschedule else seconds

    def resume(self, context: Context, event: Any, kept: Any = None) -> Any:
        """Judge what the trigger saw."""
        if isinstance(event, dict) and "broke_off" in event:
            return self.replace_trigger(context, event["broke_off"], event["traceback"])
        return self._by_the_rules(context, lambda: self._resume(context, event, kept))

    def replace_trigger(self, context: Context, error: str, traceback: list[str] | None) -> Any:
        """Poll in place of a trigger that broke off, or was not run in time."""
        if traceback:
            self.sensor.log.error("The trigger failed:\n%s", "".join(traceback))
        return self._by_the_rules(context, lambda: self._replace_trigger(context, error))

    def reason_to_start_on_worker(self) -> str | None:
        """Say why the wait cannot start in the triggerer; None if it can."""
        return reason_to_start_on_worker(self.sensor)

    def tell_why_on_worker(self, context: Context) -> None:
        """Tell the log why a sensor that was to start in the triggerer is on a worker."""
        if not self.sensor.asked_to_start_in_triggerer:
            return
        is_mapped = context["ti"].map_index not in (None, -1)
        if obstacle := self.reason_to_start_on_worker() or (is_mapped and "it is mapped"):
            self.sensor.log.info("The sensor starts on a worker, not in the triggerer: %s.", obstacle)

    def start_trigger_args(self) -> StartTriggerArgs:
        """Return what the scheduler starts the trigger with, before anything is rendered."""
        from airflow.triggers.base import StartTriggerArgs

        sensor = self.sensor
        rendered_there = {
            name: template_for_triggerer(getattr(sensor, name)) for name in sensor.template_fields
        }
        kwargs = {
            **self._trigger_kwargs(self._make_policy(0.0), None),
            **rendered_there,
            "timeout": None if sensor.timeout > NO_LIMIT else sensor.timeout,
            "started_at": None,
            "deadline": None,
            "deferred_at": None,
        }
        path, kwargs = self.sensor.trigger_class(**kwargs).serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=kwargs,
            next_method=sensor.execute_complete.__name__,
            timeout=timedelta(seconds=longest_deferral(sensor.timeout)),
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
            policy, state = self.begun or self._begin_anew(context)
            if time.time() >= policy.deadline:
                name, last_seen_as, facts = self._described(policy, state)
                limit = duration(policy.timeout)
                raise AnonWaitTimeoutError(
                    f"The wait for {name} is over (timeout is {limit}), and its last poll failed; {last_seen_as}.",
                    **facts,
                ) from error
            self._heed_execution_timeout(policy, state, time.time())
            self.sensor.log.exception("The wait goes on in spite of this, as silent_fail asks.")
            self._call_back_all(context, state, None)
            self._go_on_in_triggerer(context, policy, state, time.time() + _pause_after_error(policy))

    def _tell_why_end_on_worker(self, context: Context) -> None:
        if self.sensor.asked_to_end_in_triggerer and (obstacle := reason_to_end_on_worker(self.sensor)):
            self.sensor.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)

    def _replace_trigger(self, context: Context, error: str) -> Any:
        policy, state = self._begin_anew(context, error)
        # What goes on in spite of an error, as silent_fail asks, has asked nobody yet.
        self.begun = policy, self._remember(policy)
        self._count(policy, state)
        polled = self._poll_again(context, policy, state)
        if polled.outcome is not Outcome.WAITING:
            return self._conclude(policy, state, polled)
        self._heed_execution_timeout(policy, state, polled.at)
        name, last_seen_as, facts = self._described(policy, state)
        raise AnonUnavailableError(
            f"The wait for {name} broke off in the triggerer ({error}); {last_seen_as}. "
            "Is airflow-provider-anon installed there, in the version of the workers, and was it restarted since?",
            **facts,
        )

    def _heed_execution_timeout(self, policy: WaitPolicy, state: M, now: float) -> None:
        limit = self.sensor.execution_timeout
        if limit and now - policy.started_at >= limit.total_seconds():
            name, last_seen_as, _ = self._described(policy, state)
            raise AirflowTaskTimeout(
                f"The wait for {name} took longer than execution_timeout, {duration(limit.total_seconds())}; "
                f"{last_seen_as}. A wait is better limited by timeout."
            )

    def _go_on_in_triggerer(
        self, context: Context, policy: WaitPolicy, state: M, next_poll_at: float
    ) -> NoReturn:
        # The trigger itself keeps the deadline, with a last poll; Airflow's is for one that does not run.
        now = time.time()
        left = longest_deferral(policy.deadline - now)
        if limit := self.sensor.execution_timeout:  # which Airflow 3 forgets in the triggerer
            until_limit = policy.started_at + limit.total_seconds() - now
            left = min(left, max(until_limit, SETTLED_AFTER) + SHORTEST_PAUSE)
        kwargs = self._trigger_kwargs(policy, state, next_poll_at)
        self.sensor.defer(
            trigger=self.sensor.trigger_class(**kwargs),
            method_name=self.sensor.execute_complete.__name__,
            kwargs=self._kept(state),
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("Airflow's defer returns never")  # pragma: no cover  it raises

    def _trigger_kwargs(
        self, policy: WaitPolicy, state: M | None, next_poll_at: float = 0.0
    ) -> dict[str, Any]:
        return {
            **self._handed_over(policy, state, next_poll_at),
            "deferred_at": time.time(),
            "end_from_trigger": self.sensor.asked_to_end_in_triggerer
            and reason_to_end_on_worker(self.sensor) is None,
            "skip_on_no_action": self.sensor.skip_on_no_action,
            "do_xcom_push": self.sensor.do_xcom_push,
        }

    def _begin(self, context: Context) -> tuple[WaitPolicy, M]:
        now = time.time()
        rescheduled_at = _first_rescheduled_at(context) if self.sensor.reschedule else None
        started_at = now if rescheduled_at is None else rescheduled_at.timestamp()
        is_new = rescheduled_at is None or _is_new_try(context)
        self.begun = self._unseen(started_at) if is_new else self._recall(context, started_at, now)
        self._count(*self.begun)
        if is_new:
            self.count.start()
        return self.begun

    def _begin_anew(self, context: Context, error: str = "") -> tuple[WaitPolicy, M]:
        started_at = _started_at(context)
        if error in TRIGGER_TIMEOUTS:
            # Airflow 3.0 and 3.1 do not say when the try began, but now that its time is over.
            limit = self.sensor.execution_timeout or timedelta.max
            started_at = min(started_at, time.time() - min(self.sensor.timeout, limit.total_seconds()))
        return self._unseen(started_at)

    def _unseen(self, started_at: float) -> tuple[WaitPolicy, M]:
        policy = self._make_policy(started_at)
        return policy, self._remember(policy)

    def _make_policy(self, started_at: float, deadline: float | None = None) -> WaitPolicy:
        return WaitPolicy(
            started_at=started_at,
            deadline=started_at + self.sensor.timeout if deadline is None else deadline,
            **options_of(self.sensor),
        )

    def _recall(self, context: Context, started_at: float, now: float) -> tuple[WaitPolicy, M]:
        """
        Return what the last poll of this try left in Airflow's task state store (3.3 and later).

        That has the time of the first poll; Airflow itself only knows when the first one was over.
        What is there of another try, or of another run, says nothing of this one.
        """
        store = context.get("task_state_store")
        kept: Any = store.get(STORE_KEY) if store is not None else None
        if kept and kept["mark"] == self._mark(context):
            policy = self._make_policy(kept["started_at"])
            return policy, self._read(policy, kept["state"])
        return self._unseen(started_at) if kept else self._guess(started_at, now)

    def _guess(self, started_at: float, now: float) -> tuple[WaitPolicy, M]:
        """Return what is known without a store: the first poll saw the run, or it had not come to a second."""
        policy = self._make_policy(started_at)
        due = (now - policy.started_at) % STILL_WAITING_EVERY < self.sensor.poke_interval
        return policy, self._remember(policy, seen_at=now, last_logged_at=0.0 if due else now)

    def _keep(self, context: Context, policy: WaitPolicy, state: M) -> None:
        if self.sensor.mode != "reschedule":
            return
        store = context.get("task_state_store")
        if store is not None:
            kept: dict[str, Any] = {
                "mark": self._mark(context),
                "started_at": policy.started_at,
                "state": self._written(state),
            }
            store.set(STORE_KEY, fit(kept))
            return
        person_matters = (
            self.sensor.on_awaiting_user_input_callback or self.sensor.user_input_timeout is not None
        )
        stays = bool(state.consecutive_failures or (state.awaiting_since is not None and person_matters))
        if stays and not self.sensor.stays_on_worker:
            self.sensor.log.warning(
                "The sensor stays on its worker until the API answers again, or the user has: this "
                "version of Airflow cannot keep the time of that between two polls (3.3 and later can)."
            )
        self.sensor.stays_on_worker = stays

    def _mark(self, context: Context) -> list[Any]:
        return [self._target(), self.sensor.anon_conn_id, context["ti"].try_number]

    def _call_back(self, context: Context, run: WorkflowRun) -> None:
        callbacks = self.sensor.on_awaiting_user_input_callback
        if callbacks is None:
            return
        context_merge(context, {"workflow_run": run.to_payload()})
        for callback in callbacks if isinstance(callbacks, Sequence) else (callbacks,):
            try:
                callback(context)
            except Exception:
                self.sensor.log.exception("on_awaiting_user_input_callback failed; the wait goes on.")


class Wait(BaseWait[WaitState]):
    """The wait for one run."""

    def _target(self) -> str:
        return normalise_id(self.sensor.workflow_run_id)

    def _remember(
        self, policy: WaitPolicy, *, seen_at: float | None = None, last_logged_at: float = 0.0
    ) -> WaitState:
        return WaitState(self._target(), seen_at=seen_at, last_logged_at=last_logged_at)

    def _read(self, policy: WaitPolicy, stored: Any) -> WaitState:
        return WaitState.from_json(self._target(), stored)

    def _written(self, state: WaitState) -> dict[str, Any]:
        return state.to_json()

    def _poll(self, context: Context, policy: WaitPolicy, state: WaitState) -> PollResult:
        return self._poll_once(context, policy, state, was_seen=state.seen_at is not None)

    def _poll_once(
        self, context: Context, policy: WaitPolicy, state: WaitState, *, was_seen: bool, is_last: bool = False
    ) -> PollResult:
        self._keep_link(context, policy)
        # Airflow says that there is no such connection also when its own database is away for a moment.
        polled: PollResult = self.sensor.hook.drive(
            poll(policy, state, is_last=is_last), retry_unreadable_connection=was_seen
        )
        self._keep_link(context, policy, polled)
        return polled

    def _keep_link(self, context: Context, policy: WaitPolicy, polled: PollResult | None = None) -> None:
        workflow_id = polled.run.workflow_id if polled is not None and polled.run is not None else None
        try:
            endpoint = self.sensor.hook.get_conn().endpoint
        except AnonConfigurationError:
            return  # the poll will tell
        stays = not (self.sensor.deferrable or self.sensor.reschedule)
        keep_link(self.sensor, context, endpoint, self._target(), workflow_id, stays=stays)

    def _poll_again(self, context: Context, policy: WaitPolicy, state: WaitState) -> PollResult:
        seen_at = state.seen_at
        begun_at = state.seen_at = time.time()
        state.consecutive_failures = 0
        try:
            return self._poll_once(context, policy, state, was_seen=seen_at is not None, is_last=True)
        finally:
            if state.seen_at == begun_at:
                state.seen_at = seen_at

    def _call_back_all(self, context: Context, state: WaitState, polled: PollResult | None) -> None:
        if polled is not None and polled.asks_for_input and polled.run is not None:
            self._call_back(context, polled.run)

    def _count(self, policy: WaitPolicy, state: WaitState) -> None:
        self.count.policy, self.count.state = policy, state

    def _conclude(self, policy: WaitPolicy, state: WaitState, polled: PollResult) -> dict[str, Any]:
        self.count.polled = polled
        run = ended_run(policy, state, polled)
        self.sensor.hook.log_line(ending(state, run))
        if run.took_no_action and self.sensor.skip_on_no_action:
            raise AirflowSkipException(f"Workflow run {run.id} completed without taking any action.")
        return result_of(run)

    def _resume(self, context: Context, event: Any, kept: Any) -> dict[str, Any]:
        returned = EventPayload.from_event(event, self._target(), self._make_policy)
        policy, state = self.begun = returned.policy, returned.state
        self._count(policy, state)
        polled = returned.polled
        if polled is None or polled.run is None:
            polled = self._poll_once_more(context, returned)
        self._call_back_all(context, state, polled)
        if polled.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, policy, state, polled.at + polled.pause.seconds)
        self._tell_why_end_on_worker(context)
        return self._conclude(policy, state, polled)

    def _poll_once_more(self, context: Context, returned: EventPayload) -> PollResult:
        """Poll from the worker before silence is believed: it may be the triggerer's trouble alone."""
        if returned.error is not None and not returned.error.retryable:
            if returned.state.seen_at is None:  # else the link was kept when the run was seen
                self._keep_link(context, returned.policy)
            raise returned.error
        polled = self._poll_again(context, returned.policy, returned.state)
        if polled.run is None and returned.error is not None:
            raise returned.error
        return polled

    def _handed_over(
        self, policy: WaitPolicy, state: WaitState | None, next_poll_at: float
    ) -> dict[str, Any]:
        asks_for_input = bool(self.sensor.on_awaiting_user_input_callback)
        return TriggerArgs(
            self.sensor.anon_conn_id,
            policy,
            state or WaitState(""),
            next_poll_at=next_poll_at,
            asks_for_input=asks_for_input,
        ).to_kwargs()

    def _kept(self, state: WaitState) -> None:
        return None

    def _described(self, policy: WaitPolicy, state: WaitState) -> tuple[str, str, dict[str, Any]]:
        return f"workflow run {state.workflow_run_id}", last_seen(state), facts_of(state)


def _pause_after_error(policy: WaitPolicy) -> float:
    now = time.time()
    return max(min(policy.interval(now), policy.deadline - now), SHORTEST_PAUSE)


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
