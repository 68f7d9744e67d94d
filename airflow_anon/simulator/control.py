"""The control API: what a person or a script outside Python steers the simulator with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator.world import OutageKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from airflow_anon.simulator.scripted_run import Stay
    from airflow_anon.simulator.server import Server

ENDS: Mapping[str, WorkflowRunStatus] = {
    "complete": WorkflowRunStatus.COMPLETED,
    "fail": WorkflowRunStatus.FAILED,
}
NEWEST = 50
Reply = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Control:
    """What can be done; each method answers with an HTTP status and JSON."""

    server: Server

    async def create_run(self, request: web.Request) -> Reply:
        """Take ``{"script": ..., "id": ..., "workflow_id": ...}``, all optional."""
        wish = await _wish(request, script=str, id=str, workflow_id=str)
        script = wish.get("script", WorkflowRunStatus.COMPLETED.value)
        return 201, self._shown(self.server.world.create_run(script, wish.get("id"), wish.get("workflow_id")))

    async def list_runs(self, _: web.Request) -> Reply:
        """List the runs as they stand now, which is no poll of them."""
        return 200, {"runs": [self._shown(run.id) for run in self.server.world.runs.values()]}

    async def move_run(self, request: web.Request) -> Reply:
        """Answer, complete or fail a run."""
        run_id, move = request.match_info["id"], request.match_info["move"]
        if move in ENDS:
            self.server.world.end(run_id, ENDS[move])
        else:
            self.server.world.answer(run_id)
        return 200, self._shown(run_id)

    async def add_faults(self, request: web.Request) -> Reply:
        """Take ``{"faults": "503 x3", "run": id}``; without a run, they are for any."""
        wish = await _wish(request, faults=str, run=str)
        self.server.world.add_faults(wish.get("faults", ""), wish.get("run"))
        return 200, {"faults_left": self.server.world.faults_left}

    async def outage(self, request: web.Request) -> Reply:
        """Take ``{"seconds": 30, "kind": "refused", "retry_after": "7"}``; only the first is needed."""
        wish = await _wish(request, seconds=(int, float), kind=str, retry_after=(str, int))
        kind = OutageKind.parse(wish.get("kind", OutageKind.REFUSED.value))
        if "seconds" not in wish:
            raise ValueError("seconds: how long the outage lasts")
        retry_after = str(wish["retry_after"]) if "retry_after" in wish else None
        self.server.world.start_outage(kind, wish["seconds"], retry_after)
        return 202, {"kind": kind.value, "seconds": wish["seconds"]}

    async def stop_outage(self, _: web.Request) -> Reply:
        """End the outage, if one lasts."""
        self.server.world.stop_outage()
        return 200, {}

    async def overview(self, _: web.Request) -> Reply:
        """Tell what the page shows: the newest runs first, what goes wrong, what was counted."""
        world = self.server.world
        newest = list(world.runs.values())[: -NEWEST - 1 : -1]
        spoilt = [{"at": one.at, "run_id": one.run_id, "fault": str(one.fault)} for one in world.spoilt]
        return 200, {
            "now": world.clock.now(),
            "runs": [self._shown(run.id) for run in newest],
            "older_runs": len(world.runs) - len(newest),
            "outage": self._outage(),
            "faults_left": world.faults_left,
            "spoilt": spoilt,
            "requests": world.counters.requests,
            "connections": world.counters.connections,
        }

    async def stats(self, _: web.Request) -> Reply:
        """Tell what was counted."""
        counters = self.server.world.counters
        return 200, {
            "requests": counters.requests,
            "connections": counters.connections,
            "requests_by_run": counters.requests_by_run,
            "faults_left": self.server.world.faults_left,
            "arrivals": list(counters.arrivals),
            "last_headers": counters.last_headers,
        }

    async def reset(self, _: web.Request) -> Reply:
        """Forget runs, faults, outages and counts."""
        self.server.world.reset()
        return 200, {}

    def _shown(self, run_id: str) -> dict[str, Any]:
        run = self.server.world.find(run_id)
        url = f"{self.server.url}/api/v2/workflow-runs/{run.id}"
        return {
            "id": run.id,
            "workflow_id": run.workflow_id,
            "url": url,
            "script": run.script,
            "polls": run.polls,
            "waits_for_answer": run.step.until_answered,
            "history": [_told(stay) for stay in run.stays],
            "run": run.payload(),
        }

    def _outage(self) -> dict[str, Any] | None:
        outage, left = self.server.world.outage, self.server.world.outage_left
        if outage is None:
            return None
        # One without an end has no number of seconds that JSON could hold.
        return {"kind": outage.kind.value, "seconds_left": left if isfinite(left) else None}


def _told(stay: Stay) -> dict[str, Any]:
    step = stay.step
    return {
        "status": step.status,
        "state": step.state,
        "since": stay.since,
        "polls": stay.polls,
        "ended": step.ended,
    }


def control_routes(server: Server) -> list[web.RouteDef]:
    """Return the routes under ``/_control/``."""
    control = Control(server)
    return [
        web.post("/_control/runs", _in_json(control.create_run)),
        web.get("/_control/runs", _in_json(control.list_runs)),
        web.post("/_control/runs/{id}/{move:answer|complete|fail}", _in_json(control.move_run)),
        web.post("/_control/faults", _in_json(control.add_faults)),
        web.post("/_control/outage", _then_follow(server, _in_json(control.outage))),
        web.delete("/_control/outage", _then_follow(server, _in_json(control.stop_outage))),
        web.get("/_control/overview", _in_json(control.overview)),
        web.get("/_control/stats", _in_json(control.stats)),
        web.delete("/_control/", _then_follow(server, _in_json(control.reset))),
    ]


def _in_json(
    act: Callable[[web.Request], Awaitable[Reply]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        try:
            status, content = await act(request)
        except LookupError as error:
            status, content = 404, {"message": error.args[0]}
        except ValueError as error:
            status, content = 400, {"message": str(error)}
        return web.json_response(content, status=status)

    return handler


def _then_follow(
    server: Server,
    handle: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        response = await handle(request)
        # The answer leaves first: an outage breaks this very connection too.
        await response.prepare(request)
        await response.write_eof()
        await server.follow_outage()
        return response

    return handler


async def _wish(request: web.Request, **types: type | tuple[type, ...]) -> dict[str, Any]:
    text = await request.text()
    wish = json.loads(text) if text else {}
    if not isinstance(wish, dict):
        raise ValueError(f"a JSON object is expected, with any of {', '.join(types)}")  # noqa: TRY004
    for name, value in wish.items():
        if name not in types:
            raise ValueError(f"{name!r} is not known here; right are {', '.join(types)}")
        if not isinstance(value, types[name]):
            raise ValueError(f"{name}: {value!r} is of the wrong kind")  # noqa: TRY004
    return wish
