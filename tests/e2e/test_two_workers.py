"""Clients behind two workers that take turns: there is no affinity, and none is needed.

A session's id names the worker that owns it, or the store does, and whichever worker a request comes to hands
it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.engines import nats_server, redis_server
from tests.nodes import balanced, nodes
from tests.serving import DEADLINE_S, Site
from tests.socket_wires import SOCKJS_TRANSPORTS, SocketIo, SockJs

CLIENTS: Final = 50
"""A thousand are in ``tests/soak``."""
FEWER: Final = 6


async def connect_many(clients: int) -> None:
    """Let clients that poll connect, one after the other, and say something."""
    async with nodes(2) as sites, balanced(sites) as url:
        for number in range(clients):
            socket = SocketIo(url, "polling")
            try:
                await socket.connect()
                answer = (await socket.call("subscribe", f"channel-{number}"))[0]
                assert answer["channel"] == f"channel-{number}"
            finally:
                await socket.abort()


async def test_clients_that_poll_connect_without_an_error() -> None:
    async with asyncio.timeout(6 * DEADLINE_S):
        await connect_many(CLIENTS)


@pytest.mark.parametrize("transport", SOCKJS_TRANSPORTS)
async def test_sessions_of_sockjs_are_found_from_anywhere(transport: str) -> None:
    async with nodes(3) as sites, balanced(sites) as url, asyncio.timeout(3 * DEADLINE_S):
        for number in range(FEWER):
            session = SockJs(url, transport)
            try:
                await session.connect()
                await session.send(f'{{"id":1,"connect":{{"name":"client {number}"}}}}')
                assert '"connect"' in await session.take()
                await session.send('{"id":2,"ping":{}}')
                assert '"id":2' in await session.take()
            finally:
                await session.abort()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_client_recovers_on_another_worker(transport: str) -> None:
    """Its connection was cut, and its owner is gone: what it was is in the broker, and so are the events."""
    async with nodes(2, broker="sqlite:") as (here, there), asyncio.timeout(3 * DEADLINE_S):
        first = SocketIo(here.url, transport)
        await first.connect()
        await first.call("subscribe", "news")
        await there.publish("news", 1)
        assert (await first.event())[1] == 1
        await first.abort()
        await here.wire.close()
        await there.publish("news", 2)
        again = SocketIo(there.url, transport)
        await again.connect(first.pid, first.offset)
        assert again.is_recovered and again.sid == first.sid
        assert (await again.event())[1] == 2
        await again.abort()


@contextmanager
def address_of(engine: str, folder: Path) -> Iterator[str]:
    """Run an engine, and give its address."""
    if engine == "redis":
        with redis_server(folder) as redis:
            yield f"redis://127.0.0.1:{redis.port}/0"
    elif engine == "nats":
        with nats_server(folder) as nats:
            yield f"nats://127.0.0.1:{nats.port}"
    else:
        yield "sqlite:"


@pytest.mark.xdist_group("engines")
@pytest.mark.parametrize("engine", ["sqlite", "redis", "nats"])
async def test_clients_are_served_over_a_real_broker(engine: str, tmp_path: Path) -> None:
    with address_of(engine, tmp_path) as broker:
        async with (
            nodes(3, broker=broker) as sites,
            balanced(sites) as url,
            asyncio.timeout(3 * DEADLINE_S),
        ):
            for number in range(FEWER):
                await hear_one(sites[number % 3], url, number)


async def hear_one(publisher: Site, url: str, number: int) -> None:
    """Let a client of each kind come, hear something, and leave."""
    reader = SocketIo(url, "polling")
    session = SockJs(url, "xhr")
    try:
        await reader.connect()
        await reader.call("subscribe", "crowd")
        await session.connect()
        await session.send('{"id":1,"connect":{}}')
        assert '"connect"' in await session.take()
        await session.send('{"id":2,"subscribe":{"channel":"crowd"}}')
        assert '"id":2' in await session.take()
        await publisher.publish("crowd", number)
        assert (await reader.event())[1] == number
        assert f'"data":{number}' in await session.take()
    finally:
        await reader.abort()
        await session.abort()
