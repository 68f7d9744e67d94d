"""The wait of a sensor for many runs, as far as it takes place on a worker."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_anon.group import Group, counted, read_ids
from airflow_anon.handoff import Handoff
from airflow_anon.loop_thread import run_in_thread
from airflow_anon.outcomes import conclude_all
from airflow_anon.passing import GroupReturn, recall, to_json, to_kwargs
from airflow_anon.protocol import Look, Outcome, Plan, facts_of, take_look
from airflow_anon.waits import BaseWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_anon.group import Member
    from airflow_anon.memory import News
    from airflow_anon.triggers import WaitingTrigger


class ManyWait(BaseWait[Group]):
    """
    The wait for many runs.

    The runs are looked at side by side, by the client that all waits of a process share. What the
    triggerer saw of them is not brought back: at the end they are looked at once more.
    """

    def _target(self) -> str:
        # What is kept between two looks stays small, so not the ids themselves.
        return sha256(",".join(read_ids(self.sensor.workflow_run_ids)).encode()).hexdigest()

    def _remember(self, plan: Plan, *, seen_at: float | None = None, told_at: float = 0.0) -> Group:
        ids = read_ids(self.sensor.workflow_run_ids)
        return Group(plan, ids, fail_fast=self.sensor.fail_fast, seen_at=seen_at, told_at=told_at)

    def _read(self, plan: Plan, stored: Any) -> Group:
        return recall(self._remember(plan), stored)

    def _written(self, memory: Group) -> dict[str, Any]:
        return to_json(memory)

    def _look(self, context: Context, plan: Plan, memory: Group) -> Look:
        return self._look_round(memory, was_seen=memory.was_seen)

    def _look_round(self, memory: Group, *, was_seen: bool, is_last: bool = False) -> Look:
        return run_in_thread(lambda: self._take_round(memory, was_seen=was_seen, is_last=is_last))

    async def _take_round(self, memory: Group, *, was_seen: bool, is_last: bool) -> Look:
        for due in (memory.due, memory.unread):
            if members := due(time.time()):
                await self._look_at(members, memory, was_seen=was_seen, is_last=is_last)
        look = memory.look()
        if look.outcome is Outcome.WAITING:
            self._tell(memory.sum_up(look.at))
        return look

    async def _look_at(
        self, members: dict[str, Member], group: Group, *, was_seen: bool, is_last: bool
    ) -> None:
        looks = {
            key: take_look(member.plan, member.memory, is_last=is_last) for key, member in members.items()
        }
        await self.sensor.hook.aconverse_each(
            looks,
            group.take,
            tell=lambda news: self._tell(group.hear(news)),
            patient="the worker" if was_seen else None,
            on_worker=True,
        )

    def _tell(self, lines: list[News]) -> None:
        for news in lines:
            self.sensor.hook.tell(news)

    def _look_again(self, context: Context, plan: Plan, memory: Group) -> Look:
        was_seen, memory.is_new = memory.was_seen, False
        members = memory.unfinished
        seen_at = [member.memory.seen_at for member in members]
        for member in members:
            member.begin_again(time.time())
        look = self._look_round(memory, was_seen=was_seen, is_last=True)
        for member, before in zip(members, seen_at, strict=True):
            if member.memory.missed:
                member.memory.seen_at = before
        return look

    def _ask_users(self, context: Context, memory: Group, look: Look | None) -> None:
        for run in memory.asking:
            self._ask_user(context, run)
        memory.asked()

    def _conclude(self, plan: Plan, memory: Group, look: Look) -> list[dict[str, Any]]:
        self.sensor.hook.tell(memory.ending())
        self.count.look = memory.look_for_all() if look.outcome is Outcome.OVER else look
        payloads = conclude_all(memory, look)
        if self.sensor.skip_on_no_action and memory.took_no_action:
            raise AirflowSkipException(
                f"{counted(memory.size)}, and all completed without taking any action."
            )
        return payloads

    def _resume(self, context: Context, event: Any, kept: Any) -> list[dict[str, Any]]:
        returned = GroupReturn.from_event(event, self._make_plan)
        plan = returned.plan
        group = self._read(plan, kept)
        self.begun = plan, group
        self._count(plan, group)
        returned.tell(group)
        error = returned.error
        if error is not None and not error.retryable:
            raise error
        look = self._look_again(context, plan, group)
        if error is not None and group.is_silent_about(error.workflow_run_id):
            raise error
        self._ask_users(context, group, look)
        if look.outcome is Outcome.WAITING:
            self._go_on_in_triggerer(context, plan, group, look.at + look.pause.seconds)
        self._tell_why_end_on_worker(context)
        return self._conclude(plan, group, look)

    def _trigger(self) -> type[WaitingTrigger]:
        from airflow_anon.triggers import AnonWorkflowRunsTrigger

        return AnonWorkflowRunsTrigger

    def _handed_over(self, plan: Plan, memory: Group | None, next_look_at: float) -> dict[str, Any]:
        asks_user = bool(self.sensor.on_awaiting_user_input_callback)
        group = memory or Group(plan, (), fail_fast=self.sensor.fail_fast)
        handoff = Handoff(self.sensor.anon_conn_id, plan, next_look_at=next_look_at, asks_user=asks_user)
        # If none is left to wait for, an error at the end has been passed over: all are looked at again.
        all_ids = self.sensor.asked_to_end_in_triggerer or not group.unfinished
        return {**handoff.to_kwargs_of_plan(), **to_kwargs(group, all_ids=all_ids)}

    def _kept(self, memory: Group) -> dict[str, Any]:
        return {"kept": to_json(memory)}

    def _described(self, plan: Plan, memory: Group) -> tuple[str, str, dict[str, Any]]:
        first = next(iter(memory.unfinished or memory.members.values()))
        last_seen_as = memory.last_seen().rstrip(".") or "all are over"
        return counted(memory.size), last_seen_as, facts_of(first.plan.workflow_run_id, first.memory)
