"""How an answer goes out: whole, late, in drops, in half or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from aiohttp import web

from airflow_anon.simulator.scripts import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.abc import AbstractStreamWriter

    from airflow_anon.simulator.answers import Answer

CHUNK_BYTES = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def deliver(request: web.Request, answer: Answer, fault: Fault) -> web.StreamResponse:
    """Send *answer* as *fault* wants it sent."""
    if fault.kind not in DELIVERIES:
        return whole(answer)
    return await DELIVERIES[fault.kind](request, answer, fault.seconds)


def whole(answer: Answer) -> web.Response:
    """Send it as it should be."""
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


async def _late(_: web.Request, answer: Answer, seconds: float) -> web.StreamResponse:
    await asyncio.sleep(seconds)
    return whole(answer)


async def _never(_: web.Request, _answer: Answer, _seconds: float) -> web.StreamResponse:
    # Ends when the client goes away or the server stops: both cancel the handler.
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never


async def _dripping(request: web.Request, answer: Answer, seconds: float) -> web.StreamResponse:
    response = await _begin(request, answer)
    for byte in answer.body:
        await asyncio.sleep(seconds)
        await response.write(bytes([byte]))
    return response


async def _dripping_headers(request: web.Request, answer: Answer, seconds: float) -> web.StreamResponse:
    for byte in _on_the_wire(answer):
        await asyncio.sleep(seconds)
        _transport(request).write(bytes([byte]))
    return AlreadySent()


async def _cut(request: web.Request, answer: Answer, _: float) -> web.StreamResponse:
    response = await _begin(request, answer)
    await response.write(answer.body[: len(answer.body) // 2])
    _transport(request).close()
    return response


async def _reset(request: web.Request, _: Answer, _seconds: float) -> web.StreamResponse:
    transport = _transport(request)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
    return AlreadySent()


async def _in_chunks(request: web.Request, answer: Answer, _: float) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(answer.body), CHUNK_BYTES):
        await response.write(answer.body[start : start + CHUNK_BYTES])
    return response


DELIVERIES: Mapping[FaultKind, Callable[[web.Request, Answer, float], Awaitable[web.StreamResponse]]] = {
    FaultKind.SLOW: _late,
    FaultKind.HANG: _never,
    FaultKind.DRIP: _dripping,
    FaultKind.DRIP_HEADERS: _dripping_headers,
    FaultKind.CUT: _cut,
    FaultKind.RESET: _reset,
    FaultKind.HUGE_CHUNKED: _in_chunks,
}


class AlreadySent(web.StreamResponse):
    """Tells aiohttp that there is nothing left to send and that the connection is done with."""

    async def prepare(self, _: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send no headers."""
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no body."""


async def _begin(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    return response


def _on_the_wire(answer: Answer) -> bytes:
    headers = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


def _transport(request: web.Request) -> asyncio.Transport:
    # There is one: a handler is cancelled when its connection is lost.
    return cast("asyncio.Transport", request.transport)
