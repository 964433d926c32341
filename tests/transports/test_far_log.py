"""Readers of a log that is elsewhere and slow to answer: what ends them before they could begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from everywire import Everywire
from everywire.core import codes
from everywire.testing.delayed_broker import DelayedBroker, Faults
from tests.serving import until
from tests.transports.known import bearer, knowing

WAITING = {
    "stream": ("/channels/a", {"Accept": "application/x-ndjson"}),
    "sse": ("/channels/a", {"Accept": "text/event-stream"}),
    "long-poll": ("/channels/a?wait=20", {}),
}


@asynccontextmanager
async def far(**options: Any) -> AsyncIterator[tuple[Everywire, httpx.AsyncClient]]:
    """Serve from a log that does not answer for minutes."""
    broker = DelayedBroker(asyncio.get_running_loop(), seed=1, faults=Faults(max_delay_s=600.0))
    wire = Everywire(broker, **(options or {"dev": True}))
    transport = httpx.ASGITransport(app=wire.asgi)
    async with wire.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield wire, client


async def test_a_long_poll_is_told_that_the_log_did_not_answer_in_time() -> None:
    async with far() as (_, client):
        answer = await client.get("/channels/a?wait=0.1", timeout=20)
    assert answer.status_code == 503
    assert answer.json()["error"]["name"] == "busy"
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("name", WAITING)
async def test_who_waits_for_the_log_when_the_server_stops_is_answered(name: str) -> None:
    path, headers = WAITING[name]
    async with far() as (wire, client):
        reading = asyncio.ensure_future(client.get(path, headers=headers, timeout=20))
        await until(lambda: wire.hub.subscribers("a"))
        wire.asgi.drain()
        answer = await reading
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("name", WAITING)
async def test_who_waits_for_the_log_can_be_disconnected(name: str) -> None:
    path, headers = WAITING[name]
    async with far(**knowing()) as (wire, client):
        headers = {**headers, **bearer("ann", jti="hers")}
        reading = asyncio.ensure_future(client.get(path, headers=headers, timeout=20))
        await until(lambda: wire.hub.subscribers("a"))
        for visitor in wire.shared.registry.of_user("ann"):
            visitor.unsubscribe("a", codes.UNSUBSCRIBED)
        answer = await reading
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, 3503)
        assert wire.hub.subscribers("a") == 0
        assert not wire.shared.registry.of_user("ann")
