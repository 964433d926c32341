"""Connections of Engine.IO as a server has them: readers, shutdown, quotas, other nodes, leaks."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import pytest
import websockets

from everywire.access.quotas import Quotas
from everywire.core import codes
from everywire.core.errors import Forbidden
from everywire.core.limits import Limits
from everywire.sockets.engine import Engine
from everywire.sockets.engines import label_of, owner_of
from everywire.sockets.link import FORCED, SHUTDOWN, Upper
from everywire.transports.exchange import Exchange
from tests.serving import Site, serving_wire, until
from tests.transports.engines import (
    PATH,
    Echo,
    EngineWire,
    Listener,
    Polling,
    Talker,
    open_polling,
    open_socket,
)
from tests.transports.test_engineio import ServeEngines, serve_engines, site, wire_of

__all__ = ["serve_engines", "site"]


# -- readers ----------------------------------------------------------------------


async def test_publications_come_by_poll_those_between_two_polls_too(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Listener)
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        await site.publish("news", 1, 2)
        assert await client.poll() == "41\x1e42"
        poll = asyncio.create_task(client.poll())
        await until(lambda: not wire.upper.engine.is_stalled)
        await site.publish("news", 3)
        assert await poll == "43"
        wire.upper.say("direct")
        await site.publish("news", 4)
        assert await client.poll() == "4direct\x1e44"


async def test_publications_come_by_websocket(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(upper=Listener)) as site, open_socket(site) as socket:
        await socket.recv()
        await site.publish("news", *range(100))
        assert [await socket.recv() for _ in range(100)] == [f"4{number}" for number in range(100)]


async def test_a_backlog_comes_in_answers_of_bounded_size(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Listener, limits=Limits(max_write_bytes=8192))
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        await site.publish("news", *["x" * 1000 for _ in range(100)])
        assert wire.upper.engine.queued_bytes == 0  # it waits in the log
        heard = 0
        while heard < 100:
            payload = await client.poll()
            assert len(payload) < 3 * 8192
            heard += payload.count("x" * 1000)
        assert heard == 100


async def test_clients_of_python_engineio_get_no_more_than_they_take(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Listener)
    async with serve_engines(wire=wire) as site:
        site.http.headers["User-Agent"] = "Python/3.11 aiohttp/3.9"
        client = await open_polling(site)
        await site.publish("news", *range(40))
        payloads = [await client.poll() for _ in range(3)]
        assert [payload.count("\x1e") + 1 for payload in payloads] == [16, 16, 8]
        assert "\x1e".join(payloads) == "\x1e".join(f"4{number}" for number in range(40))


async def test_what_was_read_for_a_poll_goes_by_the_socket_after_an_upgrade(
    serve_engines: ServeEngines,
) -> None:
    wire = EngineWire(upper=Listener)
    async with serve_engines(wire=wire) as site:
        site.http.headers["User-Agent"] = "Python/3.11 aiohttp/3.9"
        client = await open_polling(site)
        await site.publish("news", *range(40))
        assert (await client.poll()).startswith("40\x1e41\x1e")
        async with client.socket() as socket:
            await socket.send("2probe")
            await socket.recv()
            await socket.send("5")
            assert [await socket.recv() for _ in range(24)] == [f"4{number}" for number in range(16, 40)]


# -- shutdown ------------------------------------------------------------------------


async def test_a_shutdown_closes_so_that_clients_come_back(serve_engines: ServeEngines) -> None:
    wire = EngineWire()
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        poll = asyncio.create_task(client.poll())
        polling = wire.upper
        await until(lambda: not polling.engine.is_stalled)
        async with open_socket(site) as socket:
            await socket.recv()
            drain = asyncio.create_task(site.drain())
            assert await poll == "1"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await drain
        for upper in wire.uppers:
            assert upper.told[-1] == "drain"
            assert upper.reasons == [SHUTDOWN]


async def test_connections_without_a_request_end_with_the_server(certificate: tuple[str, str]) -> None:
    wire = EngineWire()
    async with serving_wire("own", wire, certificate) as site:
        await open_polling(site)
        assert wire.upper.reasons == []
    assert wire.upper.reasons == [SHUTDOWN]


# -- who may come ----------------------------------------------------------------------


class Refusing(Echo):
    """An upper that takes nobody."""

    def __init__(self, engine: Engine) -> None:
        raise Forbidden("not today")


class Closing(Echo):
    """An upper that says one thing and closes."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.say("bye")
        engine.close(codes.DISCONNECTED)


async def test_an_upper_can_refuse(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Refusing)
    async with serve_engines(wire=wire) as site:
        answer = await site.http.get(f"{PATH}?EIO=4&transport=polling")
        assert (answer.status_code, answer.json()) == (403, {"code": 4, "message": "not today"})
        async with open_socket(site) as socket:
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await socket.recv()
        assert len(wire.engines) == 0


async def test_an_upper_can_close_at_once(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Closing)
    async with serve_engines(wire=wire) as site:
        answer = await site.http.get(f"{PATH}?EIO=4&transport=polling")
        opened, *rest = answer.text.split("\x1e")
        assert opened.startswith("0")
        assert rest == ["4bye", "1"]
        async with open_socket(site) as socket:
            assert (await socket.recv()).startswith("0")
            assert await socket.recv() == "4bye"
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
        assert [upper.reasons for upper in wire.uppers] == [[FORCED], [FORCED]]
        assert len(wire.engines) == 0


async def test_an_address_has_so_many_connections(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Addresses of this machine are not counted: let it look as if the clients came from elsewhere.
    monkeypatch.setattr("everywire.access.quotas.counted", lambda peer: "192.0.2.1")
    wire = EngineWire(dev=False, limits=Limits(max_connections_per_address=2))
    async with serving_wire("own", wire, certificate) as site:
        client = await open_polling(site)
        async with client.socket() as probe, open_socket(site):
            await probe.send("2probe")  # an upgrade is no other connection
            assert await probe.recv() == "3probe"
            answer = await site.http.get(f"{PATH}?EIO=4&transport=polling")
            assert answer.status_code == 429
            assert answer.json().keys() == {"code", "message"}
            with pytest.raises(websockets.InvalidStatus):
                async with open_socket(site):
                    pass
        await client.send("1")
        await until(lambda: len(wire.engines) == 0)
        assert _places(wire.shared.quotas) == {}
        await open_polling(site)


def _places(quotas: Quotas) -> dict[str, int]:
    return quotas._of_address


# -- other nodes -----------------------------------------------------------------------


class OneNode:
    """A way to one other node, which says its name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def forward(self, node: str, exchange: Exchange, lost: Callable[[], None], **more: Any) -> bool:
        """Answer in its place."""
        self.asked.append(node)
        if node != "elsewhere":
            return False
        exchange.respond(200, [(b"content-type", b"text/plain")], b"4from elsewhere")
        return True


async def test_a_request_goes_to_the_node_that_owns_its_connection(certificate: tuple[str, str]) -> None:
    relay = OneNode()
    wire = EngineWire(relay=relay)
    async with serving_wire("own", wire, certificate) as site:
        there = Polling(site, {"sid": "elsewhere.abc"})
        assert await there.poll() == "4from elsewhere"
        nowhere = Polling(site, {"sid": "gone.abc"})
        assert await nowhere.is_gone()
        here = await open_polling(site)
        await here.send("4hello")
        assert await here.poll() == "4hello"
        assert relay.asked == ["elsewhere", "gone"]


@pytest.mark.parametrize("node", ["a1b2c3d4", "node.with.dots", "ü/…", "x" * 300])
def test_an_id_names_its_node(node: str) -> None:
    label = label_of(node)
    assert owner_of(f"{label}.token") == label
    assert len(label) <= 32
    assert label_of(node) == label
    assert label.isascii()


def test_a_foreign_id_names_none() -> None:
    assert owner_of("no dot") == ""


# -- leaks -----------------------------------------------------------------------------


def _live(kinds: tuple[type, ...]) -> int:
    return sum(isinstance(thing, kinds) for thing in gc.get_objects())


def _handshake(site: Site, client: socket.socket, target: str) -> None:
    fields = (
        f"GET {target} HTTP/1.1\r\nHost: {site.authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    client.sendall(fields.encode())


def _text_frame(text: bytes) -> bytes:
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


async def test_connections_that_are_aborted_in_any_way_leave_nothing(certificate: tuple[str, str]) -> None:
    wire = EngineWire(upper=Listener)
    async with serving_wire("own", wire, certificate) as site:
        loop = asyncio.get_running_loop()

        async def in_thread(act: Callable[[socket.socket], None]) -> None:
            def run() -> None:
                client = site.connect_blocking()
                act(client)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                client.close()  # RST

            await loop.run_in_executor(None, run)

        async def cancel_a_poll() -> None:
            client = await open_polling(site)
            head = f"GET {client.target} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode()
            engine = wire.upper.engine

            def poll(connection: socket.socket) -> None:
                connection.sendall(head)
                while engine.is_stalled and not engine.is_ended:
                    pass

            await in_thread(poll)

        async def cut_a_socket() -> None:
            def talk(connection: socket.socket) -> None:
                _handshake(site, connection, f"{PATH}?EIO=4&transport=websocket")
                connection.recv(4096)

            await in_thread(talk)

        async def cut_an_upgrade() -> None:
            client = await open_polling(site)

            def talk(connection: socket.socket) -> None:
                _handshake(site, connection, client.target.replace("=polling", "=websocket"))
                connection.recv(4096)
                connection.sendall(_text_frame(b"2probe"))
                connection.recv(4096)

            await in_thread(talk)
            await client.send("1")

        async def cut_after_an_upgrade() -> None:
            client = await open_polling(site)

            def talk(connection: socket.socket) -> None:
                _handshake(site, connection, client.target.replace("=polling", "=websocket"))
                connection.recv(4096)
                connection.sendall(_text_frame(b"2probe"))
                connection.recv(4096)
                connection.sendall(_text_frame(b"5") + _text_frame(b"4x"))

            await in_thread(talk)

        async def cut_a_post() -> None:
            client = await open_polling(site)
            head = f"POST {client.target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 9\r\n\r\n4x"
            await in_thread(lambda connection: connection.sendall(head.encode()))
            if len(wire.engines):
                await client.post("1")

        async def round_of_aborts() -> None:
            for abort in (cancel_a_poll, cut_a_socket, cut_an_upgrade, cut_after_an_upgrade, cut_a_post):
                await abort()
                await until(lambda: len(wire.engines) == 0)
            wire.uppers.clear()

        def count() -> tuple[int, int, int]:
            gc.collect()
            return (
                _live((Engine, Talker)),
                len(asyncio.all_tasks()),
                wire.hub.subscribers("news"),
            )

        await round_of_aborts()
        before = count()
        for _ in range(10):
            await round_of_aborts()
        await until(lambda: count() == before)
        gc.disable()
        try:
            await round_of_aborts()
            # Nothing waits for the garbage collector either: what knew each other was parted.
            await until(lambda: _live((Engine,)) == before[0])
        finally:
            gc.enable()


async def test_an_upper_that_is_gone_is_told_nothing_more(site: Site) -> None:
    await open_polling(site)
    upper: Upper = wire_of(site).upper
    engine = wire_of(site).upper.engine
    engine.close(codes.DISCONNECTED, "enough")
    engine.close()
    engine.post([(False, b"4x")])
    engine.drain(1)
    engine.pause_reading()
    engine.resume_reading()
    assert wire_of(site).upper.reasons == ["enough"]
    assert engine.upper is not upper
    assert engine.queued_bytes == 0
