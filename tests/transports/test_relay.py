"""Requests of Engine.IO that come to another node than their connection's: they are answered all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import pytest
import pytest_asyncio
import websockets

from everywire.core.limits import Limits
from everywire.sockets.engine_options import EngineOptions
from everywire.testing.shared_broker import SharedStore
from tests.serving import DEADLINE_S, Site, until
from tests.transports.engines import PATH, PATIENT, Polling, Upgrader, open_polling
from tests.transports.relaying import Node, at, node_of, relaying

UNKNOWN: Final = {"code": 1, "message": "Session ID unknown"}


@pytest_asyncio.fixture(params=("own", "asgi"))
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[list[Site]]:
    """Two nodes, on our own host and in an ASGI server."""
    async with relaying(host=request.param) as sites:
        yield sites


# -- polls, POSTs and sockets ---------------------------------------------------------------------


async def test_polls_and_posts_are_answered_by_the_owner(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    elsewhere = at(there, client)
    for number in range(3):
        await elsewhere.send(f"4hello {number}")
        assert await elsewhere.poll() == f"4hello {number}"
    assert len(node_of(there).engines) == 0
    assert node_of(there).relay.forwarded == node_of(here).private.taken == 6
    assert node_of(there).relay.links.opened == 1  # one connection did for all


async def test_a_poll_waits_for_what_comes(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    poll = asyncio.create_task(at(there, client).poll())
    await until(lambda: not node_of(here).upper.engine.is_stalled)
    node_of(here).upper.say("news")
    assert await poll == "4news"


async def test_answers_look_as_if_the_owner_gave_them(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    origin = here.url.replace("127.0.0.1", "localhost")
    for site in (here, there):
        node_of(here).upper.say("something")
        answer = await site.http.get(client.target, headers={"Accept-Encoding": "identity"})
        fields = {name for name in answer.headers if name not in ("date", "server")}
        assert fields >= {"content-type", "cache-control", "x-content-type-options", "vary"}, origin
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers.get_list("content-length") == [str(len(answer.content))]
        assert answer.headers.get_list("date") == answer.headers.get_list("date")[:1]


@pytest.mark.parametrize("size", [1, 60_000, 999_000])
async def test_bodies_and_answers_of_any_size_pass(pair: list[Site], size: int) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    text = "4" + "x" * size
    # At the same time: what waits for a client keeps it from sending more.
    _, heard = await asyncio.gather(client.send(text), client.poll())
    assert heard == text


async def test_a_body_without_a_length_passes(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"4in "
        await asyncio.sleep(0.05)
        yield b"pieces"

    answer = await there.http.post(client.target, content=pieces())
    assert answer.text == "ok"
    assert await at(there, client).poll() == "4in pieces"


async def test_a_body_that_is_too_large_is_refused_as_the_owner_does(pair: list[Site]) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    answer = await client.post(b"4" + b"x" * (PATIENT.max_payload + 1))
    assert answer.status_code == 413
    assert answer.json()["code"] == 3


async def test_an_upgrade_goes_through(pair: list[Site]) -> None:
    here, there = pair
    client = Upgrader(at(there, await open_polling(here)))
    await client.send("one")
    await until(lambda: client.heard == ["one"])
    await client.upgrade()
    await client.send("two")
    assert await client.hear(2) == ["one", "two"]
    assert node_of(here).engines.statistics()["websocket"] == 1
    await client.close()
    await until(lambda: len(node_of(here).engines) == 0)
    await until(lambda: node_of(here).upper.reasons == ["transport close"])


async def test_messages_of_any_kind_and_size_pass_a_socket(pair: list[Site]) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    async with client.socket(max_size=None) as socket:
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        await socket.send("5")
        for message in ("4text", b"bytes", "4" + "ü" * 100_000, b"\0" * 900_000, b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_the_owner_closes_a_socket_with_its_own_words(pair: list[Site]) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    async with client.socket() as socket:
        await socket.send("2probe")
        await socket.recv()
        await socket.send("5")
        await socket.send("9nonsense")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3501


async def test_the_owners_pings_are_answered_by_the_node_between() -> None:
    async with relaying() as (here, there):
        client = at(there, await open_polling(here))
        async with client.socket() as socket:
            await socket.send("2probe")
            await socket.recv()
            await socket.send("5")
            await until(lambda: node_of(here).upper.engine.socket is not None)
            channel = node_of(here).upper.engine.socket._channel
            channel.beat()
            await until(lambda: channel._is_heard)


# -- the end, from both sides -----------------------------------------------------------------------


async def test_a_poll_that_is_cancelled_ends_the_connection(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    poll = asyncio.create_task(at(there, client).poll())
    await until(lambda: not node_of(here).upper.engine.is_stalled)
    poll.cancel()
    await until(lambda: node_of(here).upper.reasons == ["transport close"])
    assert await at(there, client).is_gone()


async def test_a_post_that_ends_halfway_ends_the_connection(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    _, writer = await there.connect()
    head = f"POST {client.target} HTTP/1.1\r\nHost: {there.authority}\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode() + b"4half")
    await until(lambda: node_of(here).private.taken == 1)
    writer.transport.abort()
    await until(lambda: node_of(here).upper.reasons == ["transport error"])


async def test_two_polls_at_once_end_the_connection_wherever_they_came_to(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    first = asyncio.create_task(client.get())
    await until(lambda: not node_of(here).upper.engine.is_stalled)
    second = await at(there, client).get()
    assert second.status_code == 400 and second.json()["code"] == 3
    await first
    assert node_of(here).upper.reasons == ["transport error"]


async def test_a_heartbeat_that_is_missed_ends_the_connection() -> None:
    quick = EngineOptions("engineio", ping_interval_s=0.2, ping_timeout_s=0.2)
    async with relaying(options=quick) as (here, there):
        client = at(there, await open_polling(here))
        assert await client.poll() == "2"
        await client.send("3")
        assert await client.poll() == "2"
        await until(lambda: node_of(here).upper.reasons == ["ping timeout"])
        assert await client.is_gone()


# -- owners that are gone -----------------------------------------------------------------------------


async def test_a_connection_of_a_node_that_nobody_knows_is_unknown(pair: list[Site]) -> None:
    _, there = pair
    for method in ("GET", "POST"):
        answer = await there.http.request(method, f"{PATH}?EIO=4&transport=polling&sid=gone.token")
        assert (answer.status_code, answer.json()) == (400, UNKNOWN)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with there.websocket(f"{PATH}?EIO=4&transport=websocket&sid=gone.token"):
            pass
    assert refused.value.response.status_code in (400, 403)
    assert node_of(there).relay.peers.looks == 1  # the other two were remembered


async def test_a_connection_of_a_node_that_was_killed_is_unknown(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    elsewhere = at(there, client)
    await elsewhere.send("4hello")
    await node_of(here).private_server.close()  # its lease is still there
    assert await elsewhere.is_gone()
    answer = await elsewhere.post("4hello")
    assert (answer.status_code, answer.json()) == (400, UNKNOWN)


async def test_a_poll_that_waits_when_the_owner_dies_is_told_that_it_is_unknown(pair: list[Site]) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    poll = asyncio.create_task(client.get())
    await until(lambda: not node_of(here).upper.engine.is_stalled)
    await node_of(here).private_server.close()
    answer = await poll
    assert (answer.status_code, answer.json()) == (400, UNKNOWN)


async def test_a_socket_is_closed_when_the_owner_dies(pair: list[Site]) -> None:
    here, there = pair
    client = at(there, await open_polling(here))
    async with client.socket() as socket:
        await socket.send("2probe")
        await socket.recv()
        await socket.send("5")
        await until(lambda: node_of(here).engines.statistics()["websocket"])
        await node_of(here).private_server.close()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012


async def test_an_owner_that_says_nothing_is_given_up() -> None:
    limits = Limits(relay_silence_s=0.5)
    async with relaying(limits=limits) as (here, there):
        client = at(there, await open_polling(here))
        assert await client.is_gone()
        await until(lambda: node_of(here).upper.reasons == ["transport close"])


async def test_a_node_that_comes_is_found_at_once() -> None:
    store = SharedStore()
    async with relaying(1, store=store) as (here,):
        assert (await here.http.get(f"{PATH}?EIO=4&transport=polling&sid=nobody.x")).json() == UNKNOWN
        async with relaying(1, store=_After(store)) as (there,):
            client = await open_polling(there)
            await at(here, client).send("4hello")
            assert await at(here, client).poll() == "4hello"


class _After:
    """The same store, whose nodes have other names."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    def node(self, name: str) -> object:
        return self._store.node(f"after-{name}")


# -- shutting down ---------------------------------------------------------------------------------------


async def test_a_node_that_stops_gives_the_polls_back_that_it_carries(pair: list[Site]) -> None:
    here, there = pair
    client = await open_polling(here)
    poll = asyncio.create_task(at(there, client).poll())
    await until(lambda: not node_of(here).upper.engine.is_stalled)
    drain = asyncio.create_task(there.drain(DEADLINE_S))
    assert await poll == "6"  # nothing: the client asks again, and comes to another node
    await drain
    await client.send("4still here")
    assert await client.poll() == "4still here"


async def _ask_until_gone(client: Polling) -> str:
    """Poll and send without a pause; return how the connection ended."""
    while True:
        for ask in (client.get, partial(client.post, "4more")):
            answer = await ask()
            if answer.status_code != 200:
                assert (answer.status_code, answer.json()) == (400, UNKNOWN)
                return "unknown"
            if answer.text.endswith("1"):
                return "closed"


async def test_an_owner_that_stops_says_so_to_those_who_come_by_others() -> None:
    async with relaying() as (here, there):
        client = at(there, await open_polling(here))
        poll = asyncio.create_task(client.poll())
        await until(lambda: not node_of(here).upper.engine.is_stalled)
        others = [at(there, await open_polling(here)) for _ in range(20)]
        asking = [asyncio.create_task(_ask_until_gone(other)) for other in others]
        await asyncio.gather(*[other.send("4hello") for other in others])
        await node_of(here).close()
        assert await poll == "1"
        assert await client.is_gone()
        assert set(await asyncio.gather(*asking)) <= {"closed", "unknown"}


async def test_every_node_serves_the_connections_of_every_other() -> None:
    async with relaying(4) as sites:
        clients = [await open_polling(site) for site in sites]
        for number, client in enumerate(clients):
            for site in sites:
                await at(site, client).send(f"4{number}")
                assert await at(site, client).poll() == f"4{number}"
        made = [len(node_of(site).uppers) for site in sites]
        assert made == [1, 1, 1, 1]


async def test_a_store_of_this_process_alone_needs_no_private_address() -> None:
    wire = Node(dev=True)
    await wire.start()
    try:
        assert wire.relaying.relay is None
    finally:
        await wire.close()


async def test_what_is_forwarded_is_counted() -> None:
    async with relaying() as (here, there):
        client = at(there, await open_polling(here))
        await client.send("4hello")
        assert (await Polling(there, {"sid": "gone.x"}).get()).status_code == 400
        told = (await there.http.get("/metrics")).text
        assert 'everywire_relay_total{what="forwarded"} 2.0' in told
        assert 'everywire_relay_total{what="lost"} 1.0' in told
        assert "everywire_relay_connections 1.0" in told
        assert 'everywire_relay_total{what="taken"} 1.0' in (await here.http.get("/metrics")).text
