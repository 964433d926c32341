"""A long poll over a log that is elsewhere and slow to answer."""

from __future__ import annotations

import asyncio

import httpx

from everywire import Everywire
from everywire.testing.delayed_broker import DelayedBroker, Faults


async def test_a_long_poll_is_told_that_the_log_did_not_answer_in_time() -> None:
    broker = DelayedBroker(asyncio.get_running_loop(), seed=1, faults=Faults(max_delay_s=600.0))
    wire = Everywire(broker, dev=True)
    transport = httpx.ASGITransport(app=wire.asgi)
    async with wire.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/channels/a?wait=0.1", timeout=20)
    assert answer.status_code == 503
    assert answer.json()["error"]["name"] == "busy"
    assert answer.headers["retry-after"]
