"""What the suite of the Engine.IO protocol 4 asks, with ping times so long that they cannot hide an answer
that never came. Heartbeats are in test_engineio_heartbeat.py, the upgrade in test_engineio_upgrade.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
import pytest_asyncio
import websockets

from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.link import CLIENT_CLOSED, PARSE_ERROR, TRANSPORT_CLOSE, TRANSPORT_ERROR
from tests.serving import HOSTS, Site, serving_wire, until
from tests.transports.engines import PATH, QUICK, EngineWire, open_polling, open_socket

ServeEngines = Callable[..., AbstractAsyncContextManager[Site]]
BAD_REQUEST = {"code": 3, "message": "Bad request"}


@pytest.fixture(params=HOSTS)
def serve_engines(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> ServeEngines:
    """Start a server for an `EngineWire`."""
    return partial(serving_wire, request.param, certificate=certificate)


@pytest_asyncio.fixture
async def site(serve_engines: ServeEngines) -> AsyncIterator[Site]:
    """A server that echoes, and waits long for pongs."""
    async with serve_engines(wire=EngineWire()) as site:
        yield site


def wire_of(site: Site) -> EngineWire:
    """Return the server's application."""
    assert isinstance(site.wire, EngineWire)
    return site.wire


async def until_polled(site: Site) -> None:
    """Wait until a poll of the last connection is here."""
    await until(lambda: not wire_of(site).upper.engine.is_stalled)


# -- handshake -------------------------------------------------------------------


async def test_polling_is_opened_with_exactly_five_members(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(QUICK)) as site:
        answer = await site.http.get(f"{PATH}?EIO=4&transport=polling")
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        opened = json.loads(answer.text.removeprefix("0"))
        sid = opened.pop("sid")
        assert opened == {
            "upgrades": ["websocket"],
            "pingInterval": 300,
            "pingTimeout": 200,
            "maxPayload": 1_000_000,
        }
        node, _, token = sid.partition(".")
        assert node == wire_of(site).engines.label
        assert len(token) >= 22  # 128 bits and more


async def test_websocket_is_opened_with_exactly_five_members(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(QUICK)) as site, open_socket(site) as socket:
        opened = json.loads((await socket.recv()).removeprefix("0"))
        assert opened.pop("sid")
        assert opened == {"upgrades": [], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}


@pytest.mark.parametrize(
    ("method", "query", "code"),
    [
        ("GET", "transport=polling", 5),
        ("GET", "EIO=abc&transport=polling", 5),
        ("GET", "EIO=5&transport=polling", 5),
        ("GET", "EIO=4", 0),
        ("GET", "EIO=4&transport=abc", 0),
        ("POST", "EIO=4&transport=polling", 2),
        ("PUT", "EIO=4&transport=polling", 2),
        ("DELETE", "EIO=4&transport=polling", 2),
        ("PUT", "EIO=4&transport=polling&sid=x", 2),
        ("GET", "EIO=4&transport=websocket", 3),
        ("GET", "EIO=4&transport=polling&sid=x", 1),
        ("POST", "EIO=4&transport=polling&sid=x", 1),
        ("GET", "EIO=4&transport=polling&sid=", 1),
    ],
)
async def test_a_wrong_handshake_is_refused_in_the_protocols_form(
    site: Site, method: str, query: str, code: int
) -> None:
    answer = await site.http.request(method, f"{PATH}?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"code", "message"}
    assert answer.json()["code"] == code
    assert len(wire_of(site).engines) == 0


@pytest.mark.parametrize(
    "query", ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"]
)
async def test_a_wrong_handshake_of_websocket_is_refused(site: Site, query: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with site.websocket(f"{PATH}?{query}"):
            pass
    assert refused.value.response.status_code == 400
    assert len(wire_of(site).engines) == 0


async def test_a_version_that_is_off_is_refused(serve_engines: ServeEngines) -> None:
    options = EngineOptions("engineio", protocols=frozenset({4}))
    async with serve_engines(wire=EngineWire(options)) as site:
        answer = await site.http.get(f"{PATH}?EIO=3&transport=polling")
        assert (answer.status_code, answer.json()["code"]) == (400, 5)
        await open_polling(site)


async def test_a_transport_that_is_off_is_refused_and_not_offered(serve_engines: ServeEngines) -> None:
    options = EngineOptions("engineio", transports=("polling",))
    async with serve_engines(wire=EngineWire(options)) as site:
        client = await open_polling(site)
        assert client.opened["upgrades"] == []
        with pytest.raises(websockets.InvalidStatus):
            async with client.socket():
                pass


# -- messages by polling -----------------------------------------------------------


@pytest.mark.parametrize(
    "payload", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4ü€😀\x1e4"]
)
async def test_packets_come_back_in_one_poll(site: Site, payload: str) -> None:
    client = await open_polling(site)
    await client.send(payload)
    assert await client.poll() == payload


async def test_what_waits_for_a_poll_is_told_at_once(site: Site) -> None:
    client = await open_polling(site)
    poll = asyncio.create_task(client.poll())
    await until_polled(site)
    await client.send("4a")
    assert await poll == "4a"


async def test_what_is_no_packet_ends_the_connection(site: Site) -> None:
    client = await open_polling(site)
    answer = await client.post("abc")
    assert (answer.status_code, answer.json()) == (400, BAD_REQUEST)
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [PARSE_ERROR]


async def test_two_polls_at_once_end_the_connection(site: Site) -> None:
    client = await open_polling(site)
    first = asyncio.create_task(client.poll())
    await until_polled(site)
    second = await client.get("&t=burst")
    assert (second.status_code, second.json()) == (400, BAD_REQUEST)
    assert await first == "1"
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [TRANSPORT_ERROR]


async def test_a_cancelled_poll_ends_the_connection_at_once(site: Site) -> None:
    client = await open_polling(site)
    _, writer = await site.connect()
    writer.write(f"GET {client.target} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
    await until_polled(site)
    writer.transport.abort()
    await until(lambda: wire_of(site).upper.reasons == [TRANSPORT_CLOSE])
    assert await client.is_gone()


# -- messages by websocket ----------------------------------------------------------


async def test_packets_come_back_by_websocket(site: Site) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        for message in ("4hello", b"\x01\x02\x03\x04", "4ü€😀", b"", "4"):
            await socket.send(message)
            assert await socket.recv() == message


@pytest.mark.parametrize("frame", ["abc", "", "2", "2probe", "0", "5", "7", "b4", "bA"])
async def test_what_is_no_packet_for_a_server_closes_the_websocket(site: Site, frame: str) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        await socket.send(frame)
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
    await until(lambda: len(wire_of(site).engines) == 0)
    assert wire_of(site).upper.heard == []


async def test_binary_may_come_as_base64(site: Site) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        await socket.send("bAQIDBA==")
        assert await socket.recv() == b"\x01\x02\x03\x04"


async def test_a_message_above_the_limit_closes_the_websocket(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(EngineOptions("engineio", max_payload=1000))) as site:
        async with open_socket(site) as socket:
            await socket.recv()
            await socket.send("4" + 999 * "x")
            assert len(await socket.recv()) == 1000
            await socket.send("4" + 1000 * "x")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


# -- the end --------------------------------------------------------------------------


async def test_a_close_packet_is_answered_by_the_pending_poll(site: Site) -> None:
    client = await open_polling(site)
    poll = asyncio.create_task(client.poll())
    await until_polled(site)
    await client.send("1")
    assert await poll == "6"
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [CLIENT_CLOSED]


async def test_a_close_packet_that_overtook_the_poll_is_answered_all_the_same(site: Site) -> None:
    client = await open_polling(site)
    await client.send("1")
    assert await client.poll() == "6"
    assert await client.is_gone()


async def test_packets_before_a_close_packet_count_and_those_behind_it_do_not(site: Site) -> None:
    client = await open_polling(site)
    await client.send("4a\x1e1\x1e4b")
    assert wire_of(site).upper.heard == [(False, b"a")]
    assert await client.poll() == "4a\x1e6"


async def test_a_close_packet_closes_the_websocket(site: Site) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        await socket.send("1")
        with pytest.raises(websockets.ConnectionClosedOK):
            await socket.recv()
    assert wire_of(site).upper.reasons == [CLIENT_CLOSED]


async def test_a_websocket_that_is_cut_ends_the_connection(site: Site) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        socket.transport.abort()
    await until(lambda: wire_of(site).upper.reasons == [TRANSPORT_CLOSE])


async def test_the_server_closes_with_what_it_has_to_say_first(site: Site) -> None:
    client = await open_polling(site)
    poll = asyncio.create_task(client.poll())
    wire = wire_of(site)
    await until_polled(site)
    wire.upper.say("a")
    wire.upper.engine.close()
    assert await poll == "4a\x1e1"
    assert await client.is_gone()


async def test_a_client_between_two_polls_hears_that_the_server_closed(site: Site) -> None:
    client = await open_polling(site)
    wire_of(site).upper.say("a")
    wire_of(site).upper.engine.close()
    assert wire_of(site).upper.reasons == ["forced close"]
    await client.send("4never mind")
    assert await client.poll() == "4a\x1e1"
    assert await client.is_gone()


async def test_the_server_closes_a_websocket(site: Site) -> None:
    async with open_socket(site) as socket:
        await socket.recv()
        wire_of(site).upper.say("a")
        wire_of(site).upper.engine.close()
        assert await socket.recv() == "4a"
        with pytest.raises(websockets.ConnectionClosedOK):
            await socket.recv()
