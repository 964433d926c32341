"""The upgrade from polling to WebSocket: to the letter of the protocol, and without losing anything."""

from __future__ import annotations

import asyncio
import random

import pytest
import websockets

from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.link import TRANSPORT_CLOSE
from tests.serving import Site, until
from tests.transports.engines import EngineWire, Listener, Upgrader, open_polling
from tests.transports.test_engineio import ServeEngines, serve_engines, site, until_polled, wire_of

__all__ = ["serve_engines", "site"]


async def test_an_upgrade_step_by_step(site: Site) -> None:
    client = await open_polling(site)
    poll = asyncio.create_task(client.poll())
    await until_polled(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        assert await poll == "6"  # at once, so that the client can go on
        assert await client.poll() == "6"  # one that crossed the answer to the probe, too
        await socket.send("5")
        await socket.send("4hello")
        assert await socket.recv() == "4hello"
        assert wire_of(site).upper.engine.transport == "websocket"
        assert wire_of(site).upper.told[-1] == "moved"
        assert not wire_of(site).upper.engine.is_stalled
        assert wire_of(site).upper.reasons == []
    await until(lambda: wire_of(site).upper.reasons == [TRANSPORT_CLOSE])


async def test_no_message_goes_by_the_socket_before_the_client_is_ready(site: Site) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        wire_of(site).upper.say("one")
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        wire_of(site).upper.say("two")
        await asyncio.sleep(0.05)
        await socket.send("5")
        assert await socket.recv() == "4one"
        assert await socket.recv() == "4two"


async def test_a_poll_takes_what_waits_also_while_an_upgrade_is_under_way(site: Site) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        wire_of(site).upper.say("one", "two")
        assert await client.poll() == "4one\x1e4two"
        await socket.send("5")
        wire_of(site).upper.say("three")
        assert await socket.recv() == "4three"


async def test_http_of_an_upgraded_connection_is_refused(site: Site) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        await socket.recv()
        await socket.send("5")
        await until(lambda: wire_of(site).upper.engine.transport == "websocket")
        for answer in (await client.get(), await client.post("4lost")):
            assert (answer.status_code, answer.json()) == (400, {"code": 3, "message": "Bad request"})
        await socket.send("4hello")
        assert await socket.recv() == "4hello"
        assert wire_of(site).upper.heard == [(False, b"hello")]


async def test_a_second_socket_is_closed_after_its_handshake(site: Site) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        await socket.recv()
        for is_upgraded in (False, True):
            if is_upgraded:
                await socket.send("5")
                await until(lambda: wire_of(site).upper.engine.transport == "websocket")
            async with client.socket() as second:
                with pytest.raises(websockets.ConnectionClosed):
                    await second.recv()
        await socket.send("4hello")
        assert await socket.recv() == "4hello"


@pytest.mark.parametrize(
    "frames", [["4hello"], ["5"], ["2"], ["2probe", "2probe"], [b"2probe"], ["2probe", "x"]]
)
async def test_a_probe_that_goes_wrong_is_closed_and_polling_goes_on(site: Site, frames: list[str]) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        for frame in frames:
            await socket.send(frame)
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                assert await socket.recv() == "3probe"
    await client.send("4hello")
    assert await client.poll() in ("4hello", "6")
    assert wire_of(site).engines.statistics()["upgrades_failed"] == 1
    assert len(wire_of(site).upper.heard) == 1


async def test_a_probe_that_is_cut_leaves_polling_as_it_was(site: Site) -> None:
    client = await open_polling(site)
    for _ in range(3):
        async with client.socket() as socket:
            await socket.send("2probe")
            await socket.recv()
            socket.transport.abort()
    await until(lambda: wire_of(site).engines.statistics()["upgrades_failed"] == 3)
    await client.send("4hello")
    assert await client.poll() == "4hello"


async def test_an_upgrade_that_is_not_finished_in_time_is_given_up(serve_engines: ServeEngines) -> None:
    wire = EngineWire(EngineOptions("engineio", upgrade_timeout_s=0.3))
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        async with client.socket() as socket:
            await socket.send("2probe")
            assert await socket.recv() == "3probe"
            assert await client.poll() == "6"
            # Held for a moment, so that a client that never got the answer does not poll in a circle.
            assert await client.poll() == "6"
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
        await client.send("4hello")
        assert await client.poll() == "4hello"
        assert wire.upper.reasons == []


async def test_the_end_of_a_connection_ends_its_probe(site: Site) -> None:
    client = await open_polling(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        await socket.recv()
        await client.send("1")
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()


async def test_upgrades_while_messages_flow_both_ways_lose_and_double_nothing(
    serve_engines: ServeEngines,
) -> None:
    publications, sent, clients = 60, 12, 16
    wire = EngineWire(upper=Listener)
    async with serve_engines(wire=wire) as site:
        going = [Upgrader(await open_polling(site)) for _ in range(clients)]

        async def publish() -> None:
            for number in range(publications):
                await site.publish("news", number)
                if number % 3 == 0:
                    for upper in wire.uppers:
                        upper.say(f"direct {number}")
                await asyncio.sleep(0.005)

        async def move(client: Upgrader, chance: random.Random) -> None:
            at = chance.randrange(sent)
            for number in range(sent):
                if number == at:
                    await asyncio.sleep(chance.random() * 0.1)
                    await client.upgrade()
                await client.send(str(number))

        chance = random.Random(4)
        moves = [move(client, random.Random(chance.random())) for client in going]
        await asyncio.gather(publish(), *moves)
        expected = [str(number) for number in range(publications)]
        direct = [f"direct {number}" for number in range(0, publications, 3)]
        for client in going:
            heard = await client.hear(publications + len(direct))
            assert [text for text in heard if not text.startswith("direct")] == expected
            assert [text for text in heard if text.startswith("direct")] == direct
        await until(lambda: all(len(upper.heard) == sent for upper in wire.uppers))
        for upper in wire.uppers:
            assert [data for _, data in upper.heard] == [b"%d" % number for number in range(sent)]
        assert wire.engines.statistics()["upgraded"] == clients
        for client in going:
            await client.close()
        await until(lambda: len(wire.engines) == 0)
        assert wire.hub.subscribers("news") == 0
