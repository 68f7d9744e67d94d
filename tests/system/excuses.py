"""Why Airflow may try a task again though nothing is wrong with its wait: each cause has a proof, a name and a bound."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

PACKAGE = "airflow_anon"

# A try of a task: DAG run, task, map index, and the number of the try.
Try = tuple[str, str, int, int]

CAUSES = {
    "worker_killed": "was with the worker when it was killed",
    "database_away": "failed in Airflow's own code while the database was away",
    "mixed_up": "was taken by the scheduler for one that had ended",
}
# The scheduler mixes up few; a wait that is often mixed up provokes it.
MIXED_UP_OF_A_HUNDRED = 1


@dataclass(frozen=True)
class Failure:
    """
    A try that raised, as its task's log tells.

    :param at: when, in seconds since the epoch.
    :param is_airflows: Airflow's API did not do what Airflow's own code asked of it; nothing of ours is named.
    """

    attempt: Try
    at: float
    is_airflows: bool

    @classmethod
    def from_line(cls, line: str) -> Failure:
        """Read a line of a task's log: anything of ours in it, in whatever frame or text, makes it our failure."""
        told = json.loads(line)
        errors = told.get("error_detail") or [{}]
        is_airflows = all(
            error.get("exc_type") == "AirflowRuntimeError"
            and str(error.get("exc_value")).startswith("API_SERVER_ERROR")
            and bool(error.get("frames"))
            for error in errors
        )
        attempt = (told["run_id"], told["task_id"], told["map_index"], told["try_number"])
        at = datetime.fromisoformat(told["timestamp"].replace("Z", "+00:00")).timestamp()
        return cls(attempt, at, is_airflows=is_airflows and PACKAGE not in line)


def failures(logs: Path) -> Iterator[Failure]:
    """Return the tries that raised, by the logs of a DAG's tasks."""
    for log in logs.rglob("attempt=*.log"):
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"Task failed with exception"' in line:
                yield Failure.from_line(line)


def excuses(
    failed: Iterable[Failure],
    *,
    mixed_up: Collection[Try] = (),
    killed: Collection[Try] = (),
    away: tuple[float, float] = (0.0, 0.0),
) -> dict[str, set[Try]]:
    """
    Return the tries that prove nothing against us, by cause; never one in which our code raised.

    :param mixed_up: those that Airflow's scheduler says so of.
    :param killed: those that were with a worker when it was killed.
    :param away: from when to when the database was away, or not all had found it again.
    """
    failed = list(failed)
    not_airflows = {failure.attempt for failure in failed if not failure.is_airflows}
    unheard = {failure.attempt for failure in failed if away[0] <= failure.at <= away[1]}
    return {
        "worker_killed": set(killed) - not_airflows,
        "database_away": unheard - not_airflows,
        "mixed_up": set(mixed_up) - not_airflows,
    }


def told(results: list[dict[str, Any]], bounds: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return how many tries were excused for each cause, and how many may be; for a cause without a bound, none."""
    tasks = sum(result["tasks"] for result in results)
    most = {"mixed_up": math.ceil(tasks * MIXED_UP_OF_A_HUNDRED / 100), **bounds}
    return {
        cause: {"tries": sum(result[cause] for result in results), "at_most": most.get(cause, 0)}
        for cause in CAUSES
    }


def bounded(counts: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether no cause had to excuse more than it may."""
    return all(count["tries"] <= count["at_most"] for count in counts.values())
