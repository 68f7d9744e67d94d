"""
The one server that all contenders poll: raw asyncio protocols, bodies made beforehand, counters.

It answers each contender in the shape of its own API, first that the run is still under way, later
that it is over, and can turn faulty for a while. It runs in a process of its own and is told what
to do over a third port, whose requests are not counted.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trustme

BODY_LENGTH = 440
USER = "9f1d0c52-7d0a-4b8e-9c11-0a4f6f3f2b10"
CREATED = "2024-05-06T07:08:09Z"
Shape = tuple[int, dict[str, Any]]


def anon(key: str, *, is_over: bool) -> Shape:
    """Answer about a workflow run."""
    return 200, {
        "id": key,
        "workflowId": "3c90c3cc-0d44-4b50-8888-8dd25736052a",
        "status": "COMPLETED" if is_over else "IN_PROGRESS",
        "completedAt": "2024-05-06T08:00:00Z" if is_over else None,
        "createdAt": CREATED,
        "updatedAt": "2024-05-06T07:09:00Z",
        "createdByUserId": USER,
        "jobRunId": None,
        "currentStateName": "review_invoice",
    }


def dbt(key: str, *, is_over: bool) -> Shape:
    """Answer about a job run of dbt Cloud."""
    return 200, {"status": {"code": 200}, "data": {"id": int(key), "status": 10 if is_over else 3}}


def databricks(key: str, *, is_over: bool) -> Shape:
    """Answer about a run of Databricks."""
    state = {"life_cycle_state": "RUNNING", "state_message": "In run"}
    if is_over:
        state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS", "state_message": ""}
    return 200, {"run_id": key, "state": state, "tasks": []}


def airbyte(key: str, *, is_over: bool) -> Shape:
    """Answer about a job of Airbyte."""
    status = "succeeded" if is_over else "running"
    job = {"jobId": int(key), "status": status, "jobType": "sync", "startTime": CREATED, "connectionId": USER}
    return 200, job


def fivetran(key: str, *, is_over: bool) -> Shape:
    """Answer about a connector of Fivetran."""
    times = {"succeeded_at": "2024-05-06T08:00:00Z" if is_over else CREATED, "failed_at": CREATED}
    status = {"sync_state": "scheduled" if is_over else "syncing"}
    data = {"id": key, "service": "s", "schema": "s", "schedule_type": "auto", "status": status, **times}
    return 200, {"code": "Success", "data": data}


def http(key: str, *, is_over: bool) -> Shape:
    """Answer as HttpSensorTrigger wants it: 404 for as long as there is nothing."""
    return 200 if is_over else 404, {"id": key}


SHAPES: dict[str, Callable[..., Shape]] = {
    "/api/v2/workflow-runs/": anon,
    "/api/v2/accounts/1/runs/": dbt,
    "/api/2.2/jobs/runs/get": databricks,
    "/jobs/": airbyte,
    "/v1/connections/": fivetran,
    "/v1/connectors/": fivetran,
    "/http/": http,
}


def packed(status: int, payload: object, headers: str = "", *, length: int = 0) -> bytes:
    """Make a whole answer, its body padded with blanks to *length*."""
    body = json.dumps(payload).ljust(length).encode()
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@lru_cache(maxsize=50_000)
def answer(path: str, body: bytes, is_over: bool) -> bytes:  # noqa: FBT001
    """Answer a poll; nearly always from the cache."""
    for prefix, shape in SHAPES.items():
        if path.startswith(prefix):
            key = path[len(prefix) :].strip("/") or str(json.loads(body or b"{}").get("run_id", 0))
            return packed(*shape(key, is_over=is_over), length=BODY_LENGTH)
    return packed(404, {"unknown": path})


@dataclass
class World:
    """What the server has been told to do, and what it has counted."""

    is_over: bool = False
    fault: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    opened: int = 0
    open: int = 0
    most_open: int = 0
    polls: Counter[str] = field(default_factory=Counter)
    last: dict[str, float] = field(default_factory=dict)
    shortest_gap: float = float("inf")

    def count(self, key: str) -> None:
        """Count one poll of *key*."""
        now = time.monotonic()
        if key in self.last:
            self.shortest_gap = min(self.shortest_gap, now - self.last[key])
        self.last[key] = now
        self.polls[key] += 1

    def stats(self) -> dict[str, Any]:
        """Say what has been counted."""
        return {
            "polls": self.polls.total(),
            "waits": len(self.polls),
            "most_polls": max(self.polls.values(), default=0),
            "shortest_gap": self.shortest_gap if self.shortest_gap < float("inf") else None,
            "opened": self.opened,
            "open": self.open,
            "most_open": self.most_open,
        }

    def reset(self) -> None:
        """Begin to count anew; what is open stays counted as open."""
        self.opened, self.most_open = 0, self.open
        self.polls.clear()
        self.last.clear()
        self.shortest_gap = float("inf")


class Connection(asyncio.Protocol):
    """One connection of a contender."""

    transport: asyncio.Transport

    def __init__(self, world: World) -> None:
        self.world = world
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self.transport = transport  # type: ignore[assignment]
        self.world.opened += 1
        self.world.open += 1
        self.world.most_open = max(self.world.most_open, self.world.open)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it out."""
        self.world.open -= 1

    def data_received(self, data: bytes) -> None:
        """Answer every request that is there as a whole."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            start = end + 4
            length = _content_length(head)
            if len(self.buffer) < start + length:
                return
            body, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
            self.answer(head[: head.index(b" HTTP/")].split(b" ", 1)[1].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        """Answer one request."""
        world = self.world
        world.count(path + body.decode())
        if world.fault:
            self.be_faulty(path)
        elif world.delay:
            asyncio.get_running_loop().call_later(
                world.delay, self.transport.write, answer(path, body, world.is_over)
            )
        else:
            self.transport.write(answer(path, body, world.is_over))

    def be_faulty(self, path: str) -> None:
        """Answer with the fault of the hour."""
        kind = self.world.fault["kind"]
        if kind == "cut":
            self.transport.abort()
        elif kind == "garbage":
            self.transport.write(packed(200, "no run"))
        elif kind == "other":
            self.transport.write(packed(200, anon(USER, is_over=False)[1]))
        else:
            after = self.world.fault.get("retry_after")
            self.transport.write(
                packed(int(kind), {"path": path}, f"Retry-After: {after}\r\n" if after else "")
            )


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


class Control(Connection):
    """A connection of the harness: the path is the command."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Do not count it."""
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        """Do not count it out."""

    def answer(self, path: str, body: bytes) -> None:
        """Obey, and say what has been counted so far."""
        parts = urlsplit(path)
        values = dict(parse_qsl(parts.query))
        stats = self.world.stats()
        getattr(self, parts.path.strip("/"))(**values)
        self.transport.write(packed(200, stats))

    def stats(self) -> None:
        """Only say what has been counted."""

    def reset(self) -> None:
        """Let all runs be under way again, and count anew."""
        self.world.is_over, self.world.fault, self.world.delay = False, {}, 0.0
        self.world.reset()

    def recount(self) -> None:
        """Count anew."""
        self.world.reset()

    def over(self) -> None:
        """Let all runs be over."""
        self.world.is_over = True

    def delay(self, seconds: str) -> None:
        """Answer later."""
        self.world.delay = float(seconds)

    def fault(self, **values: str) -> None:
        """Be faulty, for so many *seconds* if that is said, and count anew."""
        self.world.reset()
        self.world.fault = values if values.get("kind") else {}
        if "seconds" in values:
            asyncio.get_running_loop().call_later(float(values["seconds"]), self.recover)

    def recover(self) -> None:
        """Be well again."""
        self.world.fault = {}


async def serve(ca_file: str) -> None:
    """Listen on three free ports of the loopback, tell them on standard output, and serve until killed."""
    world = World()
    loop = asyncio.get_running_loop()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    ports = {}
    for name, kind, tls in (
        ("http", Connection, None),
        ("https", Connection, context),
        ("control", Control, None),
    ):
        listener = await loop.create_server(
            lambda kind=kind: kind(world), "127.0.0.1", 0, ssl=tls, backlog=4096
        )
        ports[name] = listener.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the harness


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
