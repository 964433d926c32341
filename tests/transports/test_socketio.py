"""Socket.IO on real sockets, on every host: what its suite asks, with pings too rare to hide anything.

What needs no socket is tested in ``tests/sockets``; how applications use it in ``tests/handlers``.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import websockets

from everywire import Everywire
from everywire.handlers.socketio_session import SocketSession
from everywire.sockets.settings import SocketSettings
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve

PATIENT = SocketSettings(recovery_window_s=0, ping_interval_s=600, ping_timeout_s=600, connect_timeout_s=600)
TRANSPORTS = ("websocket", "polling")
Packet = str | bytes


class Closed(Exception):
    """The server closed the connection."""


class Raw:
    """A client that sends packets as a test has them, over either transport."""

    def __init__(self, site: Site, version: int = 4) -> None:
        self.site = site
        self.version = version
        self.opened: dict[str, Any] = {}
        self.socket: Any = None
        self._waiting: list[Packet] = []
        self.target = f"/socket.io/?EIO={version}&transport=polling"

    async def open(self) -> None:
        """Open a connection that polls."""
        [opened, *self._waiting] = self._split((await self.site.http.get(self.target)).text)
        self._take_opened(opened)
        self.target += f"&sid={self.opened['sid']}"

    def _take_opened(self, packet: Packet) -> None:
        assert isinstance(packet, str) and packet[0] == "0"
        self.opened = json.loads(packet[1:])

    async def send(self, *packets: Packet) -> None:
        """Send packets, together if it polls."""
        if self.socket is not None:
            for packet in packets:
                await self.socket.send(packet)
            return
        body = "\x1e".join(
            packet if isinstance(packet, str) else "b" + base64.b64encode(packet).decode()
            for packet in packets
        )
        answer = await self.site.http.post(self.target, content=body)
        if answer.status_code != 200:
            raise Closed

    async def next(self) -> Packet:
        """Return the next packet; raise `Closed` when there is none any more."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._waiting:
                if self.socket is not None:
                    try:
                        return await self.socket.recv()  # type: ignore[no-any-return]
                    except websockets.ConnectionClosed:
                        raise Closed from None
                answer = await self.site.http.get(self.target)
                if answer.status_code != 200:
                    raise Closed
                self._waiting = [packet for packet in self._split(answer.text) if packet != "6"]
        packet = self._waiting.pop(0)
        if packet == "1":
            raise Closed
        return packet

    def _split(self, text: str) -> list[Packet]:
        parts = [part for part in text.split("\x1e") if part]
        return [base64.b64decode(part[1:]) if part.startswith("b") else part for part in parts]

    async def expect(self, *packets: Packet) -> None:
        """Check what comes next."""
        for packet in packets:
            assert await self.next() == packet

    async def connected(self, namespace: str = "") -> None:
        """Connect to a namespace."""
        await self.send(f"40{namespace}")
        answer = str(await self.next())
        assert answer.startswith(f"40{namespace}" + ("," if namespace else "")), answer
        assert list(json.loads(answer[answer.index("{") :])) == ["sid"]

    async def is_closed(self) -> bool:
        """Wait until the server closes it, with nothing said before that."""
        with pytest.raises(Closed):
            raise AssertionError(await self.next())
        return True


@asynccontextmanager
async def raw(site: Site, transport: str, version: int = 4) -> AsyncIterator[Raw]:
    """Open a connection."""
    client = Raw(site, version)
    if transport == "polling":
        await client.open()
        yield client
        await site.http.post(client.target, content="1")
    else:
        async with site.websocket(f"/socket.io/?EIO={version}&transport=websocket") as socket:
            client.socket = socket
            client._take_opened(await socket.recv())
            yield client


def echoing(wire: Everywire) -> None:
    """Answer as the suite's server does."""
    for namespace in ("/", "/custom"):
        sio = wire.socketio.namespace(namespace)

        @sio.on("message")
        async def message(session: SocketSession, *args: Any) -> None:
            await session.emit("message-back", args)

        @sio.on("message-with-ack")
        async def with_ack(session: SocketSession, *args: Any) -> tuple[Any, ...]:
            return args


def serving(serve: Serve, **options: Any) -> AbstractAsyncContextManager[Site]:
    return serve(**{"socketio": PATIENT, **options})


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_namespaces_events_acknowledgements_and_bytes(serve: Serve, transport: str) -> None:
    async with serving(serve) as site:
        echoing(site.wire)
        async with raw(site, transport) as client:
            await client.connected()
            await client.send('42["message",1,"2",{"3":[true]}]')
            await client.expect('42["message-back",1,"2",{"3":[true]}]')
            await client.send('42456["message-with-ack",1,"2",{"3":[false]}]')
            await client.expect('43456[1,"2",{"3":[false]}]')
            places = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
            await client.send(f'452-["message",{places}]', b"\1\2\3", b"\4\5\6")
            await client.expect(f'452-["message-back",{places}]', b"\1\2\3", b"\4\5\6")
            await client.send(f'452-789["message-with-ack",{places}]', b"", b"\0")
            await client.expect(f'462-789[{places}]', b"", b"\0")
            await client.connected("/custom")
            await client.send('42/custom,["message","x"]', "41/custom,", '42["message","y"]')
            answer = await client.next()
            if answer == '42/custom,["message-back","x"]':  # or it was left before its function said anything
                answer = await client.next()
            assert answer == '42["message-back","y"]'


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_unknown_namespace_is_refused(serve: Serve, transport: str) -> None:
    async with serving(serve) as site, raw(site, transport) as client:
        await client.send("40/random")
        await client.expect('44/random,{"message":"Invalid namespace"}')
        await client.connected()


BAD = (
    "4abc",
    "42{}",
    '42abc["message-with-ack"]',
    '42["connect"]',
    '42/custom,["x"]',
    "40",
    "44",
    '4511-["x"]',
)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("packet", BAD)
async def test_what_is_out_of_place_closes_the_connection_at_once(
    serve: Serve, transport: str, packet: str
) -> None:
    async with serving(serve) as site:
        echoing(site.wire)
        async with raw(site, transport) as client:
            await client.connected()
            await client.send(packet)
            assert await client.is_closed()
        sockets = site.wire.shared.registry.statistics
        await until(lambda: sockets()["sessions"] == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_does_not_connect_in_time_is_closed(serve: Serve, transport: str) -> None:
    settings = SocketSettings(ping_interval_s=600, ping_timeout_s=600, connect_timeout_s=0.2)
    async with serving(serve, socketio=settings) as site, raw(site, transport) as client:
        assert await client.is_closed()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_version_4_over_engine_io_3(serve: Serve, transport: str) -> None:
    async with serving(serve) as site:
        echoing(site.wire)
        if transport == "polling":
            target = "/socket.io/?EIO=3&transport=polling&b64=1"
            opened = (await site.http.get(target)).text
            target += "&sid=" + json.loads(opened[opened.index("{") : opened.index("}") + 1])["sid"]
            text = opened[opened.index("}") + 1 :] or (await site.http.get(target)).text
            assert text == "2:40"
            body = '24:42["message","\N{GRINNING FACE} \N{LATIN SMALL LETTER E WITH ACUTE}"]'
            assert len(body.partition(":")[2].encode("utf-16-le")) // 2 == 20
            body = "20:" + body.partition(":")[2]
            assert (await site.http.post(target, content=body)).text == "ok"
            answer = (await site.http.get(target)).text
            assert json.loads(answer.partition(":")[2][2:]) == ["message-back", "\N{GRINNING FACE} \u00e9"]
            await site.http.post(target, content="1:1")
        else:
            async with raw(site, transport, 3) as client:
                await client.expect("40")
                await client.send('421["message-with-ack","x"]')
                await client.expect('431["x"]')
                await client.send("40/custom?token=x,")
                await client.expect("40/custom,")
                await client.send("40/random")
                await client.expect('44/random,{"message":"Invalid namespace"}')


async def test_nothing_is_lost_when_the_carrier_changes(serve: Serve) -> None:
    async with serving(serve) as site:
        echoing(site.wire)
        client = Raw(site)
        await client.open()
        await client.connected()
        told: list[int] = []

        async def publish() -> None:
            for number in range(200):
                await site.wire.socketio.emit("x", number)
                await asyncio.sleep(0)

        publishing = asyncio.ensure_future(publish())
        for _ in range(3):
            told.append(json.loads(str(await client.next())[2:])[1])
        polling = asyncio.ensure_future(client.next())
        async with site.websocket(client.target.replace("=polling", "=websocket")) as socket:
            await socket.send("2probe")
            assert await socket.recv() == "3probe"
            try:
                while True:
                    told.append(json.loads(str(await polling)[2:])[1])
                    if not client._waiting:
                        break
                    polling = asyncio.ensure_future(client.next())
            except Closed:
                raise AssertionError("the poll was refused") from None
            await socket.send("5")
            async with asyncio.timeout(DEADLINE_S):
                while len(told) < 200:
                    told.append(json.loads(str(await socket.recv())[2:])[1])
            await publishing
        assert told == list(range(200))


# The client that polls is cut off wherever it is; in the middle of a TLS handshake its transport is left to
# the collector, which warns. What the server leaves behind is counted below.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_connections_that_are_cut_leave_nothing_behind(serve: Serve, transport: str) -> None:
    # A client that is cut off between two polls is missed when its next ping is.
    settings = SocketSettings(recovery_window_s=0, ping_interval_s=1, ping_timeout_s=1)
    async with serving(serve, socketio=settings) as site:
        echoing(site.wire)

        async def come_and_go(number: int) -> None:
            if transport == "polling":
                client = Raw(site)
                await client.open()
                await client.connected()
                await client.send('42["message",1]')
                if number % 2:
                    with pytest.raises((TimeoutError, httpx.HTTPError)):
                        async with asyncio.timeout(0.05):
                            while True:  # the last one is cut off while it waits
                                await client.next()
                else:
                    await site.http.post(client.target, content="1")
                return
            async with site.websocket("/socket.io/?EIO=4&transport=websocket") as socket:
                await socket.send("40")
                if number % 2:
                    await socket.recv()
                    await socket.recv()
                    await socket.send('42["message",1]')
                socket.transport.abort()

        def count() -> dict[str, int]:
            gc.collect()
            names = ("Socket", "Client", "Connecting", "Reading", "Engine", "Lanes")
            kinds = [type(one).__name__ for one in gc.get_objects()]
            return {name: kinds.count(name) for name in names}

        def is_empty() -> bool:
            return site.wire.shared.registry.statistics()["sessions"] == 0

        await come_and_go(1)
        await until(is_empty)
        await asyncio.sleep(0.1)
        before = count()
        for start in range(0, 60, 10):
            await asyncio.gather(*(come_and_go(start + number) for number in range(10)))
        await until(is_empty)
        await until(lambda: count()["Engine"] <= before["Engine"])
        after = count()
        assert {name: after[name] for name in before if after[name] > before[name]} == {}


async def test_a_rooms_events_are_what_other_wires_read(site: Site) -> None:
    async with raw(site, "websocket") as client:
        await client.send("40")
        await client.next()
        await client.send('421["subscribe","news"]')
        assert str(await client.next()).startswith('431[{"channel":"news","position":"')
        answer = await site.http.post("/channels/news?event=hello", content=b'{"a": 1}')
        assert answer.status_code == 201
        event = json.loads(str(await client.next())[2:])
        assert event[:2] == ["hello", {"a": 1}] and isinstance(event[2], str)
        await client.send('422["publish","news",[1,2],{"event":"bye"}]')
        [first, second] = [str(await client.next()) for _ in range(2)]
        assert json.loads(first[2:] if first[1] == "2" else second[2:])[:2] == ["bye", [1, 2]]
        page = (await site.http.get("/channels/news?after=earliest")).json()
        assert [(one.get("event"), one["data"]) for one in page["publications"]] == [
            ("hello", {"a": 1}),
            ("bye", [1, 2]),
        ]
