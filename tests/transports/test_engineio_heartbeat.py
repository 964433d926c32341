"""Heartbeats of Engine.IO, at the pace of the protocol's own suites."""

from __future__ import annotations

import asyncio
import time

import pytest
import websockets

from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.link import PING_TIMEOUT
from tests.serving import HOSTS, serving_wire, until
from tests.transports.engines import PATH, PATIENT, QUICK, EngineWire, open_polling, open_socket

INTERVAL_S, TIMEOUT_S = QUICK.ping_interval_s, QUICK.ping_timeout_s


@pytest.fixture(params=("own", "asgi"))
def host(request: pytest.FixtureRequest) -> str:
    """The hosts: what is below a heartbeat is the same in all of each kind."""
    assert request.param in HOSTS
    return str(request.param)


async def test_polls_are_answered_by_pings(host: str, certificate: tuple[str, str]) -> None:
    async with serving_wire(host, EngineWire(QUICK), certificate) as site:
        client = await open_polling(site)
        for _ in range(3):
            assert await client.poll() == "2"
            await client.send("3")


async def test_pings_come_by_websocket(host: str, certificate: tuple[str, str]) -> None:
    async with serving_wire(host, EngineWire(QUICK), certificate) as site, open_socket(site) as socket:
        await socket.recv()
        for _ in range(3):
            assert await socket.recv() == "2"
            await socket.send("3")


async def test_a_client_that_does_not_answer_is_gone_when_it_was_said(
    host: str, certificate: tuple[str, str]
) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire(host, wire, certificate) as site:
        begun_s = time.monotonic()
        client = await open_polling(site)
        opened_s = time.monotonic()
        assert not wire.engines.find(client.sid).is_ended  # type: ignore[union-attr]
        await asyncio.sleep(INTERVAL_S + TIMEOUT_S)
        assert await client.is_gone()
        assert wire.upper.reasons == [PING_TIMEOUT]
        assert opened_s - begun_s < 10
        assert wire.engines.statistics()["ping_timeouts"] == 1


async def test_a_websocket_that_does_not_answer_is_closed(host: str, certificate: tuple[str, str]) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire(host, wire, certificate) as site, open_socket(site) as socket:
        await socket.recv()
        assert await socket.recv() == "2"
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert wire.upper.reasons == [PING_TIMEOUT]


async def test_any_message_is_a_sign_of_life(certificate: tuple[str, str]) -> None:
    options = EngineOptions("engineio", ping_interval_s=0.2, ping_timeout_s=1.0)
    wire = EngineWire(options)
    async with serving_wire("own", wire, certificate) as site, open_socket(site) as socket:
        await socket.recv()
        assert await socket.recv() == "2"
        for _ in range(25):  # longer than both times together, and no pong among it
            await asyncio.sleep(options.ping_timeout_s / 12)
            await socket.send("4x")
            assert await socket.recv() == "4x"
        assert wire.upper.reasons == []


async def test_a_flood_of_pongs_changes_nothing(certificate: tuple[str, str]) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire("own", wire, certificate) as site:
        client = await open_polling(site)
        tasks = len(asyncio.all_tasks())
        armed = len(wire.hub.deadlines._slots)
        for _ in range(20):
            await client.send("\x1e".join(["3"] * 5000))
        assert len(asyncio.all_tasks()) == tasks
        assert len(wire.hub.deadlines._slots) <= armed + 4
        # None of them was asked for: the ping comes all the same, and has to be answered.
        assert await client.poll() == "2"
        await until(lambda: wire.upper.reasons == [PING_TIMEOUT])


async def test_idle_connections_cost_no_task_and_no_timer(certificate: tuple[str, str]) -> None:
    wire = EngineWire(PATIENT)
    async with serving_wire("own", wire, certificate) as site:
        tasks = len(asyncio.all_tasks())
        for _ in range(200):
            await open_polling(site)
        assert len(wire.engines) == 200
        assert len(asyncio.all_tasks()) == tasks


async def test_time_in_which_the_server_was_blocked_does_not_count(certificate: tuple[str, str]) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire("own", wire, certificate) as site:
        client = await open_polling(site)
        assert await client.poll() == "2"
        time.sleep(1.5)  # noqa: ASYNC251 (it is what is tested: the loop hears nobody)
        await client.send("3")
        assert wire.upper.reasons == []


async def test_version_3_pings_by_itself(host: str, certificate: tuple[str, str]) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire(host, wire, certificate) as site:
        answer = await site.http.get(f"{PATH}?EIO=3&transport=polling")
        sid = answer.text.partition('"sid":"')[2].partition('"')[0]
        target = f"{PATH}?EIO=3&transport=polling&sid={sid}"
        for _ in range(3):
            await site.http.post(target, content=b"1:2")
            assert (await site.http.get(target)).text == "1:3"
        await asyncio.sleep(INTERVAL_S + TIMEOUT_S)
        assert (await site.http.get(target)).json()["code"] == 1


async def test_version_3_pings_by_websocket(host: str, certificate: tuple[str, str]) -> None:
    wire = EngineWire(QUICK)
    async with serving_wire(host, wire, certificate) as site, open_socket(site, version=3) as socket:
        await socket.recv()
        for _ in range(4):
            await asyncio.sleep(INTERVAL_S / 2)
            await socket.send("2x")
            assert await socket.recv() == "3x"
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert wire.upper.reasons == [PING_TIMEOUT]
