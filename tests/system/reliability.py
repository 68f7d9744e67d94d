"""Writes docs/reliability.md from the result of a distributed run: ``python tests/system/reliability.py RESULT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from excuses import CAUSES
from report import for_each_wait
from waits import LATEST

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
KINDS = {
    "poke": '`mode="poke"`',
    "rescheduled": '`mode="reschedule"`',
    "deferred": "`deferrable=True`",
    "mapped": "`deferrable=True`, mapped with `.expand()`",
    "many": "many runs in one task, deferred",
    "from_trigger": "started and ended in the triggerer",
}
FULL = 1000
WRONG = {
    "lost": "lost: not over when its run was",
    "false_green": "false green: passed although its run failed",
    "false_red": "false red: failed although its run ended well",
    "other_state": "in any other wrong state",
    "wrong_xcom": "ended with anything but its run's JSON as its XCom",
    "wrong_read": "read wrongly by the next task",
    "too_early": "ended before its run's end was seen",
    "too_late": "ended more than {latest:.0f} minutes after its run",
    "retried": "tried again without one of the reasons below",
    "needless_starts": "on a worker although it was to use none",
}
TEXT = """\
# Reliability

What became of {waits} waits in a production-like Airflow while one thing after the other went wrong. The figures are
of {day}, taken by `{command}` and written by `nox -s reliability`.

{versions}.

## The outcome

| waits | {waits} |
|---|---|
{wrong}

Told from Airflow's own database: each task's state, its tries, its starts on workers, and its XCom as the next task
gets it. {reads} further tasks, one for each run of a DAG or mapped task, read what the waits handed on.

## What ran

PostgreSQL as metadata database, `CeleryExecutor` on Redis with two workers of {slots} slots, two triggerers, scheduler, API
server and DAG processor, each a process of its own on one machine. The API is the bundled simulator. Its runs end
well, with no action taken, or badly, a tenth of them during each fault and the rest after the last. Shares are what one
machine can start on its workers: a wait in poke mode takes a slot for all its time, and each poll in reschedule mode is
the start of a task.

| kind of wait | waits | tasks | interval | lost | false green | false red |
|---|---|---|---|---|---|---|
{kinds}

## What went wrong meanwhile

{faults}

From the first wait to the end of the last: {seconds}. {restarts}

With `retries`, Airflow tries a task again whose worker or database has gone. Such a try is excused if there is proof
that it was Airflow's alone, and nothing of this package is named in what it raised; more than these, and the test fails:

| what is excused: a try that | tries | at most |
|---|---|---|
{excuses}

None of them excuses how a task ends. A component that ends by itself while the database is away is started again, up to
three times; at any other time none may end, and no triggerer may ever tell of an error in this package's code.

## What the API was asked

A request storm would show here: in each interval a wait may poll once, be the API back after an outage or not.

| stretch | seconds | waits under way | requests | by the triggerers | most in a second | for each wait |
|---|---|---|---|---|---|---|
{windows}

The last column is held to {bound} ({old_bound} while the token is old, as a refused wait reads the connection and asks again).
While the API's socket is closed nothing arrives, so attempts to connect are counted from the packets.

## Quick ends

Airflow may take the end of a task's first start for the end of its next, if that follows within seconds, and then fails the
task: [what happens](waiting.md#a-quick-end). Counted by `python tests/real/race.py`: waits whose run ends within a second of the
deferral, or of the reschedule. Both rows were measured side by side on one machine (2 cores, load 6 to 17, PostgreSQL), five
to eight of each kind at a time; without the pause the scheduler itself told of all 91.

| waits of each kind | deferred, failed | rescheduled, failed |
|---|---|---|
| 200, if the package does not wait for the scheduler | 22 | 69 |
| 200, as it does: 10 seconds | 0 | 0 |

The scheduler heard of the end of a start after 1.2 s in the middle, and after 9.3 s at most. Ten seconds are no guarantee: at a
load of 35 on 2 cores it took up to 15 s, and waits that ended that quickly failed. `retries` help there.

## Network faults, beside other providers

Waits polled through a relay that is, at times, a bad network. All ran on loopback, each API an imitation that answers in
the provider's own format. Polls were half a second apart, and the run ended well five seconds after the first. Where
it can be set, a request had two seconds. How often one is sent again was left as it is; before that `databricks` paused
for half a second in place of ten. Each wait was run three times; a cell with one verdict is the same in all.

| contender | no fault | swallowed | 503 on old | reset | unasked | cut | one 503 | no answer | gzip |
|---|---|---|---|---|---|---|---|---|---|
| **ours**, triggerer | right | right | right | right | right | right | right | right | right |
| databricks, triggerer | right | **hangs** | **error** | right | **too early** | **error** | right | **hangs** | right |
| dbt, triggerer | right | not met | not met | not met | not met | **error** | **error** | **error** | right |
| http, triggerer | right | not met | not met | not met | not met | right | right | **error** | right |
| fivetran, triggerer | right | not met | not met | not met | not met | **error** | right | **hangs** | right |
| airbyte, triggerer | right | **error** | **error** | **error** | right | **error** | **error** | **error** | right |
| **ours**, worker | right | right | right | right | right | right | right | right | right |
| dbt, worker | right | not met | not met | not met | not met | **error** | **error** | **hangs** | right |
| http, worker | right | not met | not met | not met | not met | **error** | **error** | **error** | right |
| fivetran, worker | right | not met | not met | not met | not met | **error** | right | **hangs** | right |
| airbyte, worker | right | not met | not met | not met | not met | **error** | **error** | **error** | right |

- *right*: passed, after the run was over. *not met*: the same, but each poll has a connection of its own, so that the
  fault never came.
- Wrong: *error*, it failed though the run ended well, and *too early*, it passed while the run was under way. Airflow's
  `retries` may mend an *error*, but nothing mends a *too early*.
- *hangs*: not over 20 seconds after the run. `databricks` waits 180 seconds for an answer, and `fivetran` in the
  triggerer 300, which users cannot set. With two seconds put into its code, `databricks` ended right (one run). On a
  worker `fivetran` has no such limit, and `dbt` does not heed its own.

| fault | what happens |
|---|---|
| swallowed | a gateway has forgotten idle connections: what comes over a used one is lost without a sign |
| 503 on old | the first connection leads to an instance that is leaving: from its third request on it says 503 |
| reset | what comes over a used connection is answered with a reset |
| unasked | after the second answer on a connection comes one that nobody asked for, about another run that is over |
| cut | the third answer ends in its middle |
| one 503 | the third request is answered with 503 |
| no answer | the third request is never answered |
| gzip | all answers are compressed; the others ask for that, ours does not |

Measured on 2026-11-28 by `python benchmarks/networks.py`, which takes some eight minutes, with Airflow 3.3.2, Python
3.11.7, aiohttp 3.14.5, requests 2.34.2, httpx 0.28.1, this package 1.0.0, and the providers databricks 7.23.0, dbt-cloud 4.11.1, http 6.3.0, fivetran-async
2.4.0 and airbyte 6.2.0. The authors of this package chose the faults. `databricks` was measured in the triggerer only, as
the benchmarks have no sensor of it. `http` in the triggerer never reads a body. Other settings of a provider may do
better: `dbt` sends a request once unless `retry_limit` says more, and `HttpSensor` can be told to pass over a 503.

## Run it again

```sh
make test-system                # 80 waits, some five minutes
make test-system SIZE=--full    # 1,000 waits, every fault lasts a minute; some 15 minutes
.venv/bin/nox -s reliability    # this page, from the run before
```

Linux with Python is enough; as root, PostgreSQL and Redis are installed from Debian's packages if they are missing, and
otherwise have to be there. Everything listens on loopback and is gone afterwards. If anything is wrong, the command
fails, says what, and keeps the logs.

## What it does not show

All processes share one machine, so no network between them fails. The times after which Airflow finds a component dead
are shortened, so that the test is: {shortened}.
That in which Airflow's API server must answer a worker (`execution_api_timeout`) is 30 s instead of 5 s, as one machine
does the work of several.
"""
SHORTENED = (
    "`triggerer_health_check_threshold` 15 s",
    "`task_instance_heartbeat_timeout` 60 s",
    "`task_queued_timeout` 60 s",
    "`orphaned_tasks_check_interval` 30 s",
)


def page(result: dict[str, Any]) -> str:
    """Return the page's text."""
    kinds, windows, scale = result["results"], result["windows"], result["scale"]
    return TEXT.format(
        waits=f"{_sum(kinds, 'waits'):,}",
        day=result["day"],
        command="make test-system" + (" SIZE=--full" if scale["waits"] == FULL else ""),
        versions=", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        wrong="\n".join(
            f"| {text.format(latest=LATEST / 60)} | {_sum(kinds, name)} |" for name, text in WRONG.items()
        ),
        reads=f"{_sum(kinds, 'reads'):,}",
        slots=scale["slots"],
        kinds="\n".join(_kind(kind, result) for kind in kinds),
        faults="\n".join(f"{number}. {fault}" for number, fault in enumerate(result["faults"], 1)),
        seconds=_duration(result["seconds_of_storm"]),
        restarts=_restarts(result["restarts"]),
        excuses="\n".join(
            _row(CAUSES[cause], count["tries"], count["at_most"])
            for cause, count in result["excuses"].items()
        ),
        windows="\n".join(map(_window, windows)),
        bound=min(window["bound"] for window in windows),
        old_bound=max(window["bound"] for window in windows),
        shortened=", ".join(SHORTENED),
    )


def _kind(kind: dict[str, Any], result: dict[str, Any]) -> str:
    name = kind["scenario"]
    interval = result["scale"]["slow_interval" if name == "rescheduled" else "interval"]
    cells = [KINDS[name], f"{kind['waits']:,}", f"{result['tasks'][name]:,}", f"{interval:.0f} s"]
    return _row(*cells, *(kind[wrong] for wrong in ("lost", "false_green", "false_red")))


def _window(window: dict[str, Any]) -> str:
    told = ("waits", "requests", "by_triggerer", "second")
    cells = ("-" if window[name] is None else f"{window[name]:,}" for name in told)
    return _row(window["name"], f"{window['seconds']:.0f}", *cells, for_each_wait(window))


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _restarts(names: list[str]) -> str:
    if not names:
        return "No component ended by itself."
    return f"Ended by themselves while the database was away, and started again: {', '.join(sorted(names))}."


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def _sum(results: list[dict[str, Any]], name: str) -> int:
    return sum(result[name] for result in results)


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), encoding="utf-8")
