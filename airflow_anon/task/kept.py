"""What a rescheduled sensor knows from one poke to the next: what it has kept in Airflow, or what Airflow tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_anon.core.codec import recall, to_json
from airflow_anon.core.messages import STILL_WAITING_EVERY
from airflow_anon.core.sanitize import fit

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_anon.core.group import WaitGroup

STORE_KEY = "anon_wait"


def keep(sensor: Any, context: Context, group: WaitGroup) -> None:
    """
    Keep what is known for the next poke, in Airflow's task state store (3.3 and later).

    Without one a sensor stays on its worker as long as it has more to remember than that all is well.
    """
    if sensor.mode != "reschedule":
        return
    store = context.get("task_state_store")
    if store is not None:
        kept = {
            "mark": _mark(sensor, context),
            "started_at": group.policy.started_at,
            "state": to_json(group),
        }
        store.set(STORE_KEY, fit(kept))
        return
    input_matters = sensor.on_awaiting_user_input_callback or sensor.user_input_timeout is not None
    stays = group.has_failures or bool(group.awaiting_since is not None and input_matters)
    if stays and not sensor.stays_on_worker:
        sensor.log.warning(
            "The sensor stays on its worker until the API answers again, or the user has: this "
            "version of Airflow cannot keep the time of that between two polls (3.3 and later can)."
        )
    sensor.stays_on_worker = stays


def kept_group(
    sensor: Any, context: Context, started_at: float, make_group: Callable[..., WaitGroup]
) -> WaitGroup:
    """
    Return what the last poke of this try has kept.

    That has the time of the first poll; Airflow itself only knows when the first one was over.
    What is there of another try, or of other runs, says nothing of this one.

    :param make_group: makes the sensor's group from *started_at*, and from *seen_at* and *last_logged_at*.
    """
    store = context.get("task_state_store")
    kept: Any = store.get(STORE_KEY) if store is not None else None
    if not kept:
        return _guessed(sensor, started_at, make_group)
    group = make_group(kept["started_at"])
    if kept["mark"] != _mark(sensor, context) or kept["state"]["mark"] != group.mark:
        return make_group(started_at)
    recall(group, kept["state"])
    return group


def _guessed(sensor: Any, started_at: float, make_group: Callable[..., WaitGroup]) -> WaitGroup:
    """Return what is known without a store: the first poll saw the run, or it had not come to a second."""
    now = time.time()
    due = (now - started_at) % STILL_WAITING_EVERY < sensor.poke_interval
    return make_group(started_at, seen_at=now, last_logged_at=0.0 if due else now)


def _mark(sensor: Any, context: Context) -> list[Any]:
    return [sensor.anon_conn_id, context["ti"].try_number]


def first_rescheduled_at(context: Context) -> datetime | None:
    """Return when the wait began if the sensor has been rescheduled before, else None."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context)  # type: ignore[no-any-return]
    return _rescheduled_at_2(ti, ti.max_tries - ti.task.retries + 1)  # pragma: no cover  see there


def is_new_try(context: Context) -> bool:
    """Say whether it was not this try that was rescheduled before: Airflow 3 knows of no other."""
    ti: Any = context["ti"]
    return not hasattr(ti, "get_first_reschedule_date") and _rescheduled_at_2(ti, ti.try_number) is None


def _rescheduled_at_2(ti: Any, try_number: int) -> datetime | None:  # pragma: no cover  tested on Airflow 2
    from airflow.sensors.base import _orig_start_date

    return _orig_start_date(  # type: ignore[no-any-return]
        dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index, try_number=try_number
    )
