"""A sensor's wait, as far as it takes place on a worker: its polls, its way to the triggerer and back, its end."""

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

from airflow_anon.core.codec import NO_LIMIT, SETTLED_AFTER, longest_deferral, read_event, to_kwargs
from airflow_anon.core.errors import AnonConfigurationError, AnonUnavailableError
from airflow_anon.core.flow import Sleep
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.messages import duration
from airflow_anon.core.policy import SHORTEST_PAUSE, WaitPolicy, limit_of, options_of
from airflow_anon.core.polling import PollResult, poll
from airflow_anon.core.state import Outcome
from airflow_anon.exceptions import AnonWaitTimeoutError
from airflow_anon.links import keep_link
from airflow_anon.task.kept import first_rescheduled_at, is_new_try, keep, kept_group
from airflow_anon.task.metrics import WaitMetrics
from airflow_anon.task.result import result_of
from airflow_anon.task.zero_worker import (
    reason_to_end_on_worker,
    reason_to_start_on_worker,
    template_for_triggerer,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import StartTriggerArgs

    from airflow_anon.core.flow import LogLine
    from airflow_anon.core.state import WaitState
    from airflow_anon.runs import WorkflowRun

# By so many seconds at most Airflow's loop may have begun to count before we do.
HEAD_START = 0.1
# What Airflow 3 and Airflow 2 say of a trigger that was not run in time.
TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")


class Wait:
    """
    The wait of one sensor, for one run or many.

    :param sensor: with its arguments rendered, except for what concerns its start.
    """

    def __init__(self, sensor: Any) -> None:
        self.sensor = sensor
        self.group: WaitGroup | None = None
        # For what is raised, or decided by a subclass, before a poll has said how long to pause.
        self.pause = Sleep(max(sensor.poke_interval, SHORTEST_PAUSE))
        self.count = WaitMetrics(sensor.anon_conn_id)

    # On a worker.

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once."""
        group = self.group or self._begin(context)
        self.pause = Sleep(_pause_after_error(group.policy))
        try:
            polled = self._poll(context, group)
            left = group.policy.deadline - time.time()
            if polled.outcome is Outcome.WAITING and left < HEAD_START:
                # Airflow would find that the time is over, and end the wait without a last poll.
                time.sleep(max(left, 0.0) + 0.001)
                polled = self._poll(context, group)
            if polled.outcome is not Outcome.WAITING:
                return PokeReturnValue(is_done=True, xcom_value=self._conclude(group))
        except Exception:
            if self.sensor.silent_fail:  # the wait goes on
                self._call_back_all(context, group)
                keep(self.sensor, context, group)
            raise
        if self.sensor.deferrable:
            self._go_on_in_triggerer(context, group, polled.at + polled.pause.seconds)
        self.pause = polled.pause
        keep(self.sensor, context, group)
        if limit_of(group.policy, group.awaiting_since) - polled.at < SETTLED_AFTER:
            self.sensor.stays_on_worker = True  # a rescheduled poll would come too late
        return PokeReturnValue(is_done=False)

    def seconds_to_next_poll(self) -> float:
        """Return how long to leave the API alone now."""
        seconds = self.pause.seconds + random.uniform(0.0, self.pause.spread)  # noqa: S311  spreads load
        return max(seconds, SETTLED_AFTER) if self.sensor.reschedule else seconds

    def tell_why_on_worker(self, context: Context) -> None:
        """Say in the log why a sensor that was to start in the triggerer is on a worker."""
        if not self.sensor.asked_to_start_in_triggerer:
            return
        is_mapped = context["ti"].map_index not in (None, -1)
        if obstacle := self.reason_to_start_on_worker() or (is_mapped and "it is mapped"):
            self.sensor.log.info("The sensor starts on a worker, not in the triggerer: %s.", obstacle)

    def _poll(self, context: Context, group: WaitGroup) -> PollResult:
        self._poll_all(context, group, group.due(time.time()), was_seen=group.was_seen)
        self._call_back_all(context, group)
        return group.result()

    def _poll_again(self, context: Context, group: WaitGroup) -> PollResult:
        """Poll once without the patience of a first poll, which has been spent in the triggerer."""
        was_seen = group.was_seen
        seen_at = [(state, state.seen_at) for state in group.members.values()]
        self._poll_all(context, group, group.lacking(time.time()), was_seen=was_seen, is_last=True)
        for state, before in seen_at:
            if state.consecutive_failures:
                state.seen_at = before
        return group.result()

    def _poll_all(
        self,
        context: Context,
        group: WaitGroup,
        states: list[WaitState],
        *,
        was_seen: bool,
        is_last: bool = False,
    ) -> None:
        """
        Poll runs: a single one over a connection that is kept between two polls, many of them side by side.

        :param was_seen: whether the connection to the API could be read before: then it is Airflow's own trouble if
            it cannot be read now.
        """
        from airflow_anon.client.loop_thread import run_in_thread

        how = {"was_seen": was_seen, "is_last": is_last}
        if group.alone is None:
            run_in_thread(lambda: self._take_round(group, states, **how))
        elif states or group.unread(time.time()):
            self._poll_one(context, group, group.alone, **how)

    def _poll_one(
        self, context: Context, group: WaitGroup, state: WaitState, *, was_seen: bool, is_last: bool
    ) -> None:
        self._keep_link(context, state)
        polled: PollResult = self.sensor.hook.drive(
            poll(group.policy_for(state), state, is_last=is_last), retry_unreadable_connection=was_seen
        )
        group.take(state, polled)
        self._keep_link(context, state, polled.run)

    async def _take_round(self, group: WaitGroup, states: list[WaitState], **how: bool) -> None:
        await self._poll_each(group, states, **how)
        await self._poll_each(group, group.unread(time.time()), **how)
        group.expire(time.time())
        if group.result().outcome is Outcome.WAITING:
            self._log_lines(group.sum_up(time.time()))

    async def _poll_each(
        self, group: WaitGroup, states: list[WaitState], *, was_seen: bool, is_last: bool
    ) -> None:
        await self.sensor.hook.adrive_each(
            {
                state.workflow_run_id: poll(group.policy_for(state), state, is_last=is_last)
                for state in states
            },
            lambda run_id, polled: group.take(group.member(run_id), polled),
            until=group.round_ends(time.time()),
            log_line=lambda line: self._log_lines(group.pick(line)),
            retry_unreadable_connection=was_seen,
            on_worker=True,
        )

    def _log_lines(self, lines: list[LogLine]) -> None:
        for line in lines:
            self.sensor.hook.log_line(line)

    def _keep_link(self, context: Context, state: WaitState, run: WorkflowRun | None = None) -> None:
        if not self.sensor.operator_extra_links:
            return
        try:
            endpoint = self.sensor.hook.get_conn().endpoint
        except AnonConfigurationError:
            return  # the poll will tell
        stays = not (self.sensor.deferrable or self.sensor.reschedule)
        workflow_id = None if run is None else run.workflow_id
        keep_link(self.sensor, context, endpoint, state.workflow_run_id, workflow_id, stays=stays)

    def _call_back_all(self, context: Context, group: WaitGroup) -> None:
        """Call back for whoever has begun to wait for user input; once, though the poll ended in an error."""
        for run in group.asking:
            self._call_back(context, run)
        group.asked()

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

    def _conclude(self, group: WaitGroup) -> Any:
        """Return the XCom of a wait that ended well; raise what ended it otherwise."""
        self.count.polled = group.result()
        self._log_lines(group.ending())
        payloads = result_of(group)
        if self.sensor.skip_on_no_action and group.took_no_action:
            raise AirflowSkipException(
                f"Skipping, as skip_on_no_action asks: {group.described()} completed without taking any action."
            )
        return self.sensor.shaped(payloads)

    # Its beginning.

    def _begin(self, context: Context) -> WaitGroup:
        rescheduled_at = first_rescheduled_at(context) if self.sensor.reschedule else None
        started_at = time.time() if rescheduled_at is None else rescheduled_at.timestamp()
        is_new = rescheduled_at is None or is_new_try(context)
        if is_new:
            self.group = self._make_group(started_at)
        else:
            self.group = kept_group(self.sensor, context, started_at, self._make_group)
        self.count.group = self.group
        if is_new:
            self.count.start()
        return self.group

    def _begin_anew(self, context: Context, error: str = "") -> WaitGroup:
        started_at = _started_at(context)
        if error in TRIGGER_TIMEOUTS:
            # Airflow 3.0 and 3.1 do not say when the try began, but now that its time is over.
            limit = self.sensor.execution_timeout or timedelta.max
            started_at = min(started_at, time.time() - min(self.sensor.timeout, limit.total_seconds()))
        return self._make_group(started_at)

    def _make_group(self, started_at: float, deadline: float | None = None, **seen: float) -> WaitGroup:
        """
        Make a group of which no more is known than this.

        :raises AnonInvalidIdError: an id is none.
        """
        policy = self._make_policy(started_at, deadline)
        return WaitGroup(policy, self.sensor.ids(), fail_fast=self.sensor.fail_fast, **seen)

    def _make_policy(self, started_at: float, deadline: float | None = None) -> WaitPolicy:
        return WaitPolicy(
            started_at=started_at,
            deadline=started_at + self.sensor.timeout if deadline is None else deadline,
            **options_of(self.sensor),
        )

    # To the triggerer.

    def reason_to_start_on_worker(self) -> str | None:
        """Say why the wait cannot start in the triggerer; None if it can."""
        return reason_to_start_on_worker(self.sensor)

    def start_trigger_args(self) -> StartTriggerArgs:
        """Return what the scheduler starts the trigger with, before anything is rendered."""
        from airflow.triggers.base import StartTriggerArgs

        sensor = self.sensor
        group = WaitGroup(self._make_policy(0.0), fail_fast=sensor.fail_fast)
        kwargs = {
            **self._trigger_kwargs(group),
            **{name: template_for_triggerer(getattr(sensor, name)) for name in sensor.template_fields},
            "timeout": None if sensor.timeout > NO_LIMIT else sensor.timeout,
            "started_at": None,
            "deadline": None,
            "deferred_at": None,
        }
        path, kwargs = sensor.trigger_class(**kwargs).serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=kwargs,
            next_method=sensor.execute_complete.__name__,
            timeout=timedelta(seconds=longest_deferral(sensor.timeout)),
        )

    def _go_on_in_triggerer(self, context: Context, group: WaitGroup, next_poll_at: float) -> NoReturn:
        # The trigger itself keeps the deadline, with a last poll; Airflow's is for one that does not run.
        sensor, now = self.sensor, time.time()
        left = longest_deferral(group.policy.deadline - now)
        if limit := sensor.execution_timeout:  # which Airflow 3 forgets in the triggerer
            until_limit = group.policy.started_at + limit.total_seconds() - now
            left = min(left, max(until_limit, SETTLED_AFTER) + SHORTEST_PAUSE)
        kwargs = self._trigger_kwargs(group, next_poll_at)
        kwargs[sensor.ids_parameter] = sensor.shaped(list(group.ids))
        sensor.defer(
            trigger=sensor.trigger_class(**kwargs),
            method_name=sensor.execute_complete.__name__,
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("Airflow's defer returns never")  # pragma: no cover  it raises

    def _trigger_kwargs(self, group: WaitGroup, next_poll_at: float = 0.0) -> dict[str, Any]:
        sensor = self.sensor
        return {
            # If none is left to wait for, an error at the end has been ignored: all are polled again.
            **to_kwargs(group, all_again=sensor.asked_to_end_in_triggerer or not group.unfinished),
            "anon_conn_id": sensor.anon_conn_id,
            "next_poll_at": next_poll_at,
            "deferred_at": time.time(),
            "asks_for_input": bool(sensor.on_awaiting_user_input_callback),
            "end_from_trigger": sensor.asked_to_end_in_triggerer and reason_to_end_on_worker(sensor) is None,
            "skip_on_no_action": sensor.skip_on_no_action,
            "do_xcom_push": sensor.do_xcom_push,
        }

    # Back from it.

    def resume(self, context: Context, event: Any) -> Any:
        """Judge what the trigger saw."""
        if isinstance(event, dict) and "broke_off" in event:
            return self.replace_trigger(context, event["broke_off"], event["traceback"])
        return self._by_the_rules(context, lambda: self._resume(context, event))

    def replace_trigger(self, context: Context, error: str, traceback: list[str] | None) -> Any:
        """Poll in place of a trigger that broke off, or was not run in time."""
        if traceback:
            self.sensor.log.error("The trigger failed:\n%s", "".join(traceback))
        return self._by_the_rules(context, lambda: self._replace_trigger(context, error))

    def _resume(self, context: Context, event: Any) -> Any:
        group, error = read_event(event, self._make_group)
        self.group = self.count.group = group
        if error is not None and not error.retryable:
            if group.alone is not None and not group.was_seen:  # else the link was kept when the run was seen
                self._keep_link(context, group.alone)
            raise error
        # Silence is polled once more before it is believed: it may be the triggerer's trouble alone.
        polled = self._poll_again(context, group)
        if error is not None and group.is_silent_about(error.workflow_run_id):
            raise error
        self._call_back_all(context, group)
        if polled.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, group, polled.at + polled.pause.seconds)
        if self.sensor.asked_to_end_in_triggerer and (obstacle := reason_to_end_on_worker(self.sensor)):
            self.sensor.log.info("The task ends on a worker, not in the triggerer: %s.", obstacle)
        return self._conclude(group)

    def _replace_trigger(self, context: Context, error: str) -> Any:
        group = self._begin_anew(context, error)
        # What goes on in spite of an error, as silent_fail asks, has asked nobody yet.
        self.group = self._make_group(group.policy.started_at)
        self.count.group = group
        polled = self._poll_again(context, group)
        if polled.outcome is not Outcome.WAITING:
            return self._conclude(group)
        self._heed_execution_timeout(group, polled.at)
        raise AnonUnavailableError(
            f"The wait for {group.described()} broke off in the triggerer ({error}); {group.last_seen()} "
            "Is airflow-provider-anon installed there, in the version of the workers, and was it restarted since?",
            **group.facts(),
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
            group = self.group or self._begin_anew(context)
            policy, now = group.policy, time.time()
            if now >= policy.deadline:
                raise AnonWaitTimeoutError(
                    f"The wait for {group.described()} is over (timeout is {duration(policy.timeout)}), "
                    f"and its last poll failed; {group.last_seen()}",
                    **group.facts(),
                ) from error
            self._heed_execution_timeout(group, now)
            self.sensor.log.exception("The wait goes on in spite of this, as silent_fail asks.")
            self._call_back_all(context, group)
            self._go_on_in_triggerer(context, group, time.time() + _pause_after_error(policy))

    def _heed_execution_timeout(self, group: WaitGroup, now: float) -> None:
        limit = self.sensor.execution_timeout
        if limit and now - group.policy.started_at >= limit.total_seconds():
            raise AirflowTaskTimeout(
                f"The wait for {group.described()} took longer than execution_timeout, "
                f"{duration(limit.total_seconds())}; {group.last_seen()} A wait is better limited by timeout."
            )


def _pause_after_error(policy: WaitPolicy) -> float:
    now = time.time()
    return max(min(policy.interval(now), policy.deadline - now), SHORTEST_PAUSE)


def _started_at(context: Context) -> float:
    """Return when the task's try began; Airflow keeps that over a deferral."""
    start: datetime | None = context["ti"].start_date
    return time.time() if start is None else start.timestamp()
