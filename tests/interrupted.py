"""
Lets alarms go off at random moments of a sensor's rounds, as execution_timeout does.

It is run as a process of its own, as a task is: an alarm that is lost leaves it looking for ever.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import random
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_anon.sensors import AnonWorkflowRunsSensor

if AIRFLOW_V_3_0_PLUS:
    from airflow.sdk.execution_time.timeout import timeout
else:
    from airflow.utils.timeout import timeout

LOST_AFTER = 30
LONGEST_ROUND = 0.04


class TaskInstance:
    start_date = datetime.now(tz=timezone.utc)
    map_index = -1


def polled(ids: list[str], rounds: float) -> None:
    sensor = AnonWorkflowRunsSensor(task_id="wait", workflow_run_ids=ids)
    while rounds > 0:
        sensor.poke({"ti": TaskInstance()})
        for member in sensor._wait.group.members.values():
            member.due_at = 0.0
        rounds -= 1


def let_alarms_go_off(ids: list[str], alarms: int, seed: int) -> int:
    """Return how many of them ended the polling; Python's own watch ends what has not ended by then."""
    chance, ended = random.Random(seed), 0
    for _ in range(alarms):
        faulthandler.dump_traceback_later(LOST_AFTER, exit=True)
        try:
            with timeout(chance.uniform(0.0001, LONGEST_ROUND)):
                polled(ids, rounds=float("inf"))
        except AirflowTaskTimeout:
            ended += 1
    faulthandler.cancel_dump_traceback_later()
    return ended


async def let_alarms_go_off_in_a_loop(ids: list[str], alarms: int, seed: int) -> int:
    return let_alarms_go_off(ids, alarms, seed)


def open_files() -> int:
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def main(alarms: int, seed: int, *ids: str) -> None:
    polled(list(ids), rounds=1)  # which loads all that a round needs
    before = open_files()
    ended = let_alarms_go_off(list(ids), alarms, seed)
    in_a_loop = asyncio.run(let_alarms_go_off_in_a_loop(list(ids), alarms, seed))
    sys.stdout.write(f"{ended} {in_a_loop} {threading.active_count()} {open_files() - before}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
