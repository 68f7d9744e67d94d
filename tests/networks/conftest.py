"""Both clients, each driven by flows of the core, and a run to ask for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from airflow_anon.client.aiohttp_client import AsyncClient, adrive
from airflow_anon.client.endpoint import Endpoint
from airflow_anon.client.requests_client import Client, drive
from airflow_anon.simulator import Simulator

if TYPE_CHECKING:
    from typing_extensions import Self

TOKEN = "let-me-in"
Between = Callable[[], None]


def endpoint_of(url: str, **extra: Any) -> Endpoint:
    return Endpoint.from_connection(
        "anon_default", host=url, password=TOKEN, extra=json.dumps({"timeout": 1, **extra})
    )


def with_requests(endpoint: Endpoint, *flows: Any, between: Between = lambda: None) -> list[Any]:
    client = Client(endpoint)
    results = []
    try:
        for number, flow in enumerate(flows):
            if number:
                between()
            results.append(drive(client.send, flow, log_line=print, reload=lambda: False))
    finally:
        client.close()
    return results


def with_aiohttp(endpoint: Endpoint, *flows: Any, between: Between = lambda: None) -> list[Any]:
    async def ask() -> list[Any]:
        client = await AsyncClient.open(endpoint)
        client.reload = lambda: asyncio.sleep(0)
        client.place = "here"
        results = []
        try:
            for number, flow in enumerate(flows):
                if number:
                    between()
                    await asyncio.sleep(0.01)  # what has come meanwhile is heard of
                results.append(await adrive(client, flow, log_line=print))
        finally:
            await client.close()
        return results

    return asyncio.run(ask())


BOTH = {"requests": with_requests, "aiohttp": with_aiohttp}


@pytest.fixture(params=BOTH)
def carry_out(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Carry flows out, one after the other, over one client."""
    return BOTH[request.param]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(token=TOKEN) as simulator:
        yield simulator


class Timed:
    """How long something took."""

    def __enter__(self) -> Self:
        self.begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.begun
