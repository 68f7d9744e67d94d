"""The wait of a sensor for many runs, as far as it takes place on a worker."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_anon.client.loop_thread import run_in_thread
from airflow_anon.core.codec import policy_kwargs
from airflow_anon.core.group import WaitGroup, counted
from airflow_anon.core.group_codec import GroupEventPayload, recall, to_json, to_kwargs
from airflow_anon.core.ids import read_ids
from airflow_anon.core.messages import facts_of
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import PollResult, poll
from airflow_anon.core.state import Outcome
from airflow_anon.task.result import result_of_all
from airflow_anon.task.waits import BaseWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_anon.core.flow import LogLine
    from airflow_anon.core.state import WaitState


class ManyWait(BaseWait[WaitGroup]):
    """
    The wait for many runs.

    The runs are polled side by side, by the client that all waits of a process share. What the
    triggerer saw of them is not brought back: at the end they are polled once more.
    """

    def _target(self) -> str:
        # What is kept between two polls stays small, so not the ids themselves.
        return sha256(",".join(read_ids(self.sensor.workflow_run_ids)).encode()).hexdigest()

    def _remember(
        self, policy: WaitPolicy, *, seen_at: float | None = None, last_logged_at: float = 0.0
    ) -> WaitGroup:
        ids = read_ids(self.sensor.workflow_run_ids)
        return WaitGroup(
            policy, ids, fail_fast=self.sensor.fail_fast, seen_at=seen_at, last_logged_at=last_logged_at
        )

    def _read(self, policy: WaitPolicy, stored: Any) -> WaitGroup:
        return recall(self._remember(policy), stored)

    def _written(self, state: WaitGroup) -> dict[str, Any]:
        return to_json(state)

    def _poll(self, context: Context, policy: WaitPolicy, state: WaitGroup) -> PollResult:
        return self._poll_round(state, was_seen=state.was_seen)

    def _poll_round(self, state: WaitGroup, *, was_seen: bool, is_last: bool = False) -> PollResult:
        return run_in_thread(lambda: self._take_round(state, was_seen=was_seen, is_last=is_last))

    async def _take_round(self, state: WaitGroup, *, was_seen: bool, is_last: bool) -> PollResult:
        for due in (state.due, state.unread):
            if members := due(time.time()):
                await self._poll_all(members, state, was_seen=was_seen, is_last=is_last)
        polled = state.result()
        if polled.outcome is Outcome.WAITING:
            self._log_lines(state.sum_up(polled.at))
        return polled

    async def _poll_all(
        self, members: dict[str, WaitState], group: WaitGroup, *, was_seen: bool, is_last: bool
    ) -> None:
        polls = {
            key: poll(group.policy_for(member), member, is_last=is_last) for key, member in members.items()
        }
        await self.sensor.hook.adrive_each(
            polls,
            group.take,
            log_line=lambda line: self._log_lines(group.pick(line)),
            retry_unreadable_connection=was_seen,
            on_worker=True,
        )

    def _log_lines(self, lines: list[LogLine]) -> None:
        for line in lines:
            self.sensor.hook.log_line(line)

    def _poll_again(self, context: Context, policy: WaitPolicy, state: WaitGroup) -> PollResult:
        was_seen, state.is_new = state.was_seen, False
        members = state.unfinished
        seen_at = [member.seen_at for member in members]
        for member in members:
            state.begin_again(member, time.time())
        polled = self._poll_round(state, was_seen=was_seen, is_last=True)
        for member, before in zip(members, seen_at, strict=True):
            if member.consecutive_failures:
                member.seen_at = before
        return polled

    def _call_back_all(self, context: Context, state: WaitGroup, polled: PollResult | None) -> None:
        for run in state.asking:
            self._call_back(context, run)
        state.asked()

    def _conclude(self, policy: WaitPolicy, state: WaitGroup, polled: PollResult) -> list[dict[str, Any]]:
        self.sensor.hook.log_line(state.ending())
        self.count.polled = state.result_for_all() if polled.outcome is Outcome.OVER else polled
        payloads = result_of_all(state, polled)
        if self.sensor.skip_on_no_action and state.took_no_action:
            raise AirflowSkipException(f"{counted(state.size)}, and all completed without taking any action.")
        return payloads

    def _resume(self, context: Context, event: Any, kept: Any) -> list[dict[str, Any]]:
        returned = GroupEventPayload.from_event(event, self._make_policy)
        policy = returned.policy
        group = self._read(policy, kept)
        self.begun = policy, group
        self._count(policy, group)
        returned.apply_to(group)
        error = returned.error
        if error is not None and not error.retryable:
            raise error
        polled = self._poll_again(context, policy, group)
        if error is not None and group.is_silent_about(error.workflow_run_id):
            raise error
        self._call_back_all(context, group, polled)
        if polled.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, policy, group, polled.at + polled.pause.seconds)
        self._tell_why_end_on_worker(context)
        return self._conclude(policy, group, polled)

    def _handed_over(
        self, policy: WaitPolicy, state: WaitGroup | None, next_poll_at: float
    ) -> dict[str, Any]:
        asks_for_input = bool(self.sensor.on_awaiting_user_input_callback)
        group = state or WaitGroup(policy, (), fail_fast=self.sensor.fail_fast)
        arguments = policy_kwargs(
            self.sensor.anon_conn_id, policy, next_poll_at, asks_for_input=asks_for_input
        )
        # If none is left to wait for, an error at the end has been ignored: all are polled again.
        all_ids = self.sensor.asked_to_end_in_triggerer or not group.unfinished
        return {**arguments, **to_kwargs(group, all_ids=all_ids)}

    def _kept(self, state: WaitGroup) -> dict[str, Any]:
        return {"kept": to_json(state)}

    def _described(self, policy: WaitPolicy, state: WaitGroup) -> tuple[str, str, dict[str, Any]]:
        first = next(iter(state.unfinished or state.members.values()))
        last_seen_as = state.last_seen().rstrip(".") or "all are over"
        return counted(state.size), last_seen_as, facts_of(first)
