"""One WebSocket of the host: messages, signs of life, back-pressure, and every way it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    Deflate,
    DeflateOptions,
    PingReceived,
    PongReceived,
    Role,
    TextMessage,
    WebSocketCodec,
)
from everywire.core.limits import Limits
from everywire.server.websocket import framing_for
from tests.server.driving import DEADLINE_S, Client, Driver, Handlers, Site, running, until

KEY = "AQIDBAUGBwgJCgsMDQ4PEA=="
HANDSHAKE = (
    "GET /socket HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
)


class Peer:
    """The client's end, by our own codec: for bytes that no library would send."""

    def __init__(self, client: Client, driver: Driver) -> None:
        self.client = client
        self.driver = driver
        self.codec = WebSocketCodec(Role.CLIENT, max_message_bytes=1 << 24)
        self.events: list[Any] = []

    def flush(self) -> None:
        self.client.send(self.codec.data_to_send())

    async def next(self) -> Any:
        """Return the next event; None at the end."""
        while not self.events:
            async with asyncio.timeout(DEADLINE_S):
                data = await self.client.reader.read(1 << 16)
            if not data:
                return None
            self.events += self.codec.receive_data(data)
        return self.events.pop(0)


@asynccontextmanager
async def peer(site: Site, fields: str = "", after: bytes = b"") -> AsyncIterator[Peer]:
    client = await site.connect()
    client.send(HANDSHAKE + fields + "\r\n")
    if after:
        client.send(after)
    response = await client.response()
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == "C/0nmHhBztSRGR1CwL6Tf4ZjwpY="
    yield Peer(client, site.handlers.drivers[-1])


def url(site: Site) -> str:
    return site.server.addresses[0].replace("http", "ws") + "/socket"


async def test_a_real_client_echoes() -> None:
    async with running() as site, websockets.connect(url(site), proxy=None, compression=None) as client:
        for message in ("hi", b"bytes", "", "ä" * 1000, b"x" * 1_000_000):
            await client.send(message)
            assert await client.recv() == message
        waiter = await client.ping()
        await asyncio.wait_for(waiter, DEADLINE_S)
        assert site.server.open_connections() == {"websocket": 1}
    driver = site.handlers.drivers[0]
    assert driver.heard[-1] == "gone closed 1000"


async def test_compression_when_the_server_offers_it() -> None:
    async with running(deflate=DeflateOptions()) as site:
        async with websockets.connect(url(site), proxy=None) as client:
            for message in ("again and again " * 1000, "short", b"\0" * 100_000):
                await client.send(message)
                assert await client.recv() == message
        channel = site.handlers.drivers[0].channel
        assert channel is not None
        assert channel.framing is framing_for(Deflate(15))


async def test_subprotocols() -> None:
    async with running() as site:
        async with websockets.connect(url(site), subprotocols=["no", "chat"], proxy=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "chat"
        channel = site.handlers.drivers[0].channel
        assert channel is not None
        assert channel.subprotocol == "chat"


def test_framings_are_shared() -> None:
    assert framing_for(None) is framing_for(None)
    assert framing_for(Deflate(12)) is framing_for(Deflate(12))
    assert framing_for(Deflate(12)) is not framing_for(Deflate(15))


@pytest.mark.parametrize("deflate", [None, Deflate(12)])
def test_frames_are_read_back(deflate: Deflate | None) -> None:
    messages = [(False, b"text"), (True, b"\0\1"), (False, b"long " * 100), (True, bytes(range(256)))]
    data = framing_for(deflate).frame(messages)
    codec = WebSocketCodec(Role.CLIENT, deflate=deflate)
    read = [(type(event) is BinaryMessage, event.data) for event in codec.receive_data(data)]  # type: ignore[union-attr]
    assert read == messages


async def test_messages_sent_right_behind_the_handshake_are_heard() -> None:
    early = WebSocketCodec(Role.CLIENT)
    early.send_text("early")
    async with running() as site, peer(site, after=early.data_to_send()) as one:
        assert await one.next() == TextMessage(b"early")


async def test_answers_keep_their_place() -> None:
    async with running() as site, peer(site) as one:
        one.codec.send_ping(b"1")
        one.codec.send_text("a")
        one.codec.send_ping(b"2")
        one.codec.send_binary(b"b")
        one.codec.send_close(1000, "enough")
        one.codec._out.append(b"what follows is discarded")  # type: ignore[union-attr]
        one.flush()
        assert [await one.next() for _ in range(5)] == [
            PongReceived(b"1"),
            TextMessage(b"a"),
            PongReceived(b"2"),
            BinaryMessage(b"b"),
            CloseReceived(1000, ""),
        ]
        assert await one.next() is None
        assert one.driver.heard == ["gone closed 1000 enough"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff", 1002),
        (b"\x81\x01a", 1002),
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),
        (b"\x82\xff\0\0\0\0\0\x20\0\0\0\0\0\0", 1009),
        (b"\x81\x82\0\0\0\0ok\xff\xff", 1002),
    ],
)
async def test_bad_frames_end_it_with_a_code_that_the_peer_sees(data: bytes, code: int) -> None:
    async with running() as site, peer(site) as one:
        one.client.send(data + b"x" * 50_000)
        event = await one.next()
        if b"ok" in data:
            assert event == TextMessage(b"ok")
            event = await one.next()
        assert (type(event), event.code) == (CloseReceived, code)
        one.client.close()
        await until(lambda: one.driver.is_gone)
        await until(lambda: not site.server.open_connections())
        assert len(one.driver.heard) == 1
        assert one.driver.heard[0].startswith(f"gone failed {code}")


async def test_too_many_fragments_are_1009() -> None:
    async with running(limits=Limits(max_fragments=1000)) as site, peer(site) as one:
        one.client.send(b"\x01\x81\0\0\0\0a" + b"\0\x81\0\0\0\0a" * 5000)
        event = await one.next()
        assert (type(event), event.code) == (CloseReceived, 1009)


async def test_closing_from_here() -> None:
    async with running() as site, peer(site) as one:
        channel = one.driver.channel
        assert channel is not None
        channel.close(3001, "shutdown")
        assert await one.next() == CloseReceived(3001, "shutdown")
        one.codec.send_text("too late")
        one.flush()
        await until(lambda: one.driver.is_gone)
        assert one.driver.messages == []
        assert len(one.driver.heard) == 1
        channel.close(1000, "twice")
        channel.write(b"nobody")


async def test_a_peer_that_does_not_answer_the_close_is_cut() -> None:
    async with running(limits=Limits(close_timeout_s=0.3)) as site, peer(site) as one:
        channel = one.driver.channel
        assert channel is not None
        channel.close(1000, "")
        await until(lambda: one.driver.is_gone)
        await until(lambda: not site.server.open_connections())


@pytest.mark.parametrize("how", ["close", "half"])
async def test_a_peer_that_leaves_without_a_word(how: str) -> None:
    async with running() as site, peer(site) as one:
        if how == "close":
            one.client.close()
        else:
            one.client.writer.write_eof()
        await until(lambda: one.driver.heard == ["gone left"])


async def test_beats() -> None:
    async with running() as site, peer(site) as one:
        channel = one.driver.channel
        assert channel is not None
        for _ in range(3):
            channel.beat()
            assert await one.next() == PingReceived(b"")
            one.flush()
            (connection,) = site.server._host.connections  # type: ignore[union-attr]
            await until(lambda: connection._is_heard)  # type: ignore[attr-defined]  # noqa: B023
        channel.beat()
        assert await one.next() == PingReceived(b"")
        channel.beat()  # the last one was not answered: a moment more, and then the end
        event = await one.next()
        assert event is None or (type(event), event.code) == (CloseReceived, 3012)
        await until(lambda: one.driver.is_gone)
        assert one.driver.heard == ["gone no_pong"]
        assert site.server.metrics.deadlines["pong"] == 1


async def test_an_answer_in_the_moment_of_grace_counts() -> None:
    async with running() as site, peer(site) as one:
        channel = one.driver.channel
        assert channel is not None
        channel.beat()
        channel.beat()
        assert await one.next() == PingReceived(b"")
        one.flush()
        await asyncio.sleep(2.8)
        assert one.driver.heard == []


async def test_tiny_frames_leave_others_their_turn() -> None:
    async with running() as site, peer(site) as one, peer(site) as other:
        count = 40_000
        one.driver.on_message = None
        one.client.send(b"\x81\x81\0\0\0\0a" * count)
        await until(lambda: one.driver.messages)
        other.codec.send_text("me too")
        other.flush()
        assert await other.next() == TextMessage(b"me too")
        assert len(one.driver.messages) < count
        await until(lambda: len(one.driver.messages) == count)
        one.codec.send_close(1000)
        one.flush()
        assert await one.next() == CloseReceived(1000, "")


async def test_closing_while_messages_wait_still_hears_the_peers_close() -> None:
    async with running() as site, peer(site) as one:
        channel = one.driver.channel
        assert channel is not None
        one.driver.on_message = lambda data, binary: channel.pause_reading()
        for number in range(5000):
            one.codec.send_text(f"{number} " + "x" * 50)
        one.codec.send_close(1000, "done")
        one.flush()
        await until(lambda: one.driver.messages)
        channel.close(3001, "shutdown")
        assert await one.next() == CloseReceived(3001, "shutdown")
        await until(lambda: not site.server.open_connections())
        assert len(one.driver.messages) == 1


async def test_an_echo_flood_does_not_fill_memory() -> None:
    async with running() as site, peer(site) as one:
        message = WebSocketCodec(Role.CLIENT, max_message_bytes=1 << 24)
        message.send_binary(b"x" * 60_000)
        frame = message.data_to_send()
        sent = 0
        transport = one.client.writer.transport
        one.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while sent < 60_000_000 and transport.get_write_buffer_size() < 20_000_000:
            one.client.send(frame)
            sent += len(frame)
            if sent % (50 * len(frame)) == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        (connection,) = site.server._host.connections  # type: ignore[union-attr]
        owed = connection._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert owed < 2_000_000
        assert "stalled" in one.driver.heard
        one.client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        received = 0
        while received < sent // len(frame):
            assert type(await one.next()) is BinaryMessage
            received += 1


async def test_a_paused_driver_hears_nothing_and_loses_nothing() -> None:
    handlers = Handlers()
    async with running(handlers) as site, peer(site) as one:
        driver = one.driver
        channel = driver.channel
        assert channel is not None

        def pause_at_each(data: bytes, binary: bool) -> None:
            channel.pause_reading()

        driver.on_message = pause_at_each
        total = 2000
        for number in range(total):
            one.codec.send_text(f"{number} " + "x" * 200)
        one.codec.send_ping(b"end")
        one.flush()
        for count in range(1, 6):
            await until(lambda: len(driver.messages) == count)  # noqa: B023
            await asyncio.sleep(0.01)
            assert len(driver.messages) == count
            channel.resume_reading()
        driver.on_message = None
        channel.resume_reading()
        await until(lambda: len(driver.messages) == total)
        assert [int(data.split()[0]) for data, _ in driver.messages] == list(range(total))
        assert await one.next() == PongReceived(b"end")


async def test_a_driver_that_fails_ends_its_own_connection() -> None:
    async with running() as site, peer(site) as one, peer(site) as other:

        def fail(data: bytes, binary: bool) -> None:
            raise LookupError("a bug")

        one.driver.on_message = fail
        one.codec.send_text("x")
        one.flush()
        event = await one.next()
        assert (type(event), event.code) == (CloseReceived, 1011)
        other.codec.send_text("y")
        other.flush()
        assert await other.next() == TextMessage(b"y")


async def test_drain_closes_with_the_drivers_words() -> None:
    async with running() as site, peer(site) as one:
        draining = asyncio.ensure_future(site.server.drain(DEADLINE_S))
        assert await one.next() == CloseReceived(1012, "come back")
        one.flush()
        assert await draining is True


async def test_a_reader_that_takes_nothing_is_cut() -> None:
    async with running(limits=Limits(stall_timeout_s=0.4)) as site, peer(site) as one:
        one.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        channel = one.driver.channel
        assert channel is not None
        channel.write(channel.framing.frame([(True, b"x" * 8_000_000)]))
        assert one.driver.heard == ["stalled"]
        await until(lambda: one.driver.is_gone)
