"""What has brought other servers of Socket.IO down, over real sockets.

The connection that did it is closed in the protocol's own form, and nobody else hears of it. What Engine.IO
makes of such is in ``test_engineio_bad_input.py``; the tests of the codecs and ``tests/sockets`` look closer.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
import pytest
import websockets

from everywire.core.limits import Limits
from everywire.sockets.settings import SocketSettings
from tests.serving import Site, serving, until
from tests.transports.test_socketio import PATIENT, TRANSPORTS, Packet, Raw, echoing, raw

HOSTS = ("own", "asgi")
DEEP = 100_000
PLACE = '{"_placeholder":true,"num":0}'

HOSTILE: dict[str, list[Packet]] = {
    "deep lists": ['42["message",' + "[" * DEEP + "]" * DEEP + "]"],
    "deep objects": ['42["message",' + '{"a":' * DEEP + "1" + "}" * DEEP + "]"],
    "deep and never closed": ['42["message",' + "[" * 9 * DEEP],
    "a deep acknowledgement": ["430" + "[" * DEEP + "]" * DEEP],
    "a deep answer to nothing": ['40/custom,{"a":' + "[" * DEEP + "]" * DEEP + "}"],
    "a number without end": ['42["message",' + "1" * 900_000 + "]"],
    "an id without end": ["42" + "1" * 900_000 + '["message"]'],
    "half an escape": ['42["message","' + "\\" * 900_001 + '"]'],
    "a reserved name": ['42["disconnect"]'],
    "another reserved name": ['42["newListener"]'],
    "a name that is null": ["42[null]"],
    "a name that is true": ["42[true]"],
    "a name that is an object": ['42[{"toString":"x"}]'],
    "a name that is a list": ['42[["message"]]'],
    "a name that is infinite": ["42[1e999]"],
    "an event without a name": ["42[]"],
    "an event that is an object": ['42{"0":"message","length":1}'],
    "an event that is text": ['42"message"'],
    "eleven attachments": [f'4511-["message",{PLACE}]'],
    "very many attachments": [f'4599999999-["message",{PLACE}]'],
    "attachments without end": ["45" + "1" * 900_000],
    "attachments less than none": [f'45-1-["message",{PLACE}]'],
    "attachments in other digits": [f'45١-["message",{PLACE}]'],
    "an attachment unasked": [b"x"],
    "text in place of an attachment": [f'451-["message",{PLACE}]', '42["message"]'],
    "a placeholder below nought": ['451-["message",{"_placeholder":true,"num":-1}]', b"x"],
    "a placeholder beyond": ['451-["message",{"_placeholder":true,"num":1}]', b"x"],
    "a huge placeholder": ['451-["message",{"_placeholder":true,"num":1e99}]', b"x"],
    "a placeholder in words": ['451-["message",{"_placeholder":true,"num":"__proto__"}]', b"x"],
    "a placeholder that is true": ['451-["message",{"_placeholder":true,"num":true}]', b"x"],
    "a placeholder twice": [f'451-["message",{PLACE},{PLACE}]', b"x"],
    "a placeholder nowhere": ['451-["message"]', b"x"],
    "a placeholder as a key": ['451-["message",{"{\\"_placeholder\\":true,\\"num\\":0}":1}]', b"x"],
    "a placeholder as a name": [f"451-[{PLACE}]", b"disconnect"],
    "a placeholder in a placeholder": ['451-["message",{"_placeholder":true,"num":' + PLACE + "}]", b"x"],
}
HARMLESS = ("__proto__", "constructor", "toString", "error", "*", "", "\\u0000", "everywire", "n" * 100_000)


async def works_on(client: Raw) -> None:
    """Check that a client notices nothing."""
    await client.send('421["message-with-ack",1]')
    await client.expect("431[1]")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_is_hostile_is_closed_and_nobody_else(host: str, transport: str) -> None:
    async with serving(host, ("", ""), socketio=PATIENT) as site:
        echoing(site.wire)
        async with raw(site, "websocket") as other:
            await other.connected()
            for packets in HOSTILE.values():
                async with raw(site, transport) as client:
                    await client.connected()
                    await client.send(*packets)
                    assert await client.is_closed(), packets[0][:40]
            await works_on(other)
        await until(lambda: not site.wire.socketio.sockets.statistics()["connections"])
        assert site.wire.socketio.sockets.statistics()["incomplete"] == 0


@pytest.mark.parametrize("host", HOSTS)
async def test_names_that_are_special_elsewhere_are_names(host: str) -> None:
    async with serving(host, ("", ""), socketio=PATIENT) as site:
        echoing(site.wire)
        async with raw(site, "websocket") as client:
            await client.connected()
            for name in HARMLESS:
                await client.send(f'42["{name}",{{"__proto__":{{"admin":true}}}}]')
            await works_on(client)


async def test_a_hundred_clients_with_attachments_that_never_come() -> None:
    settings = SocketSettings(recovery_window_s=0, max_payload=100_000)
    limits = Limits(max_incomplete_bytes=2_000_000, socket_packet_timeout_s=0.5)
    async with serving("own", ("", ""), socketio=settings, limits=limits) as site:
        echoing(site.wire)
        incomplete = site.wire.socketio.sockets._local.incomplete
        async with raw(site, "websocket") as other:
            await other.connected()
            sockets = [site.websocket("/socket.io/?EIO=4&transport=websocket") for _ in range(100)]
            clients = await asyncio.gather(*sockets)
            for client in clients:
                await client.recv()
                await client.send("40")
                await client.recv()
                await client.send(f'452-["message",{PLACE},{PLACE.replace("0", "1")}]')
                await client.send(b"x" * 90_000)
                assert incomplete.size <= limits.max_incomplete_bytes
            await until(lambda: incomplete.ended == 100)
            assert incomplete.size == 0
            await asyncio.gather(*(client.wait_closed() for client in clients))
            await works_on(other)


def event(data: bytes) -> bytes:
    """Return an event with data of one's own."""
    return b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data" + data


MESSAGE = msgspec.msgpack.encode("message")
HOSTILE_BYTES = {
    "text": "42",
    "nothing": b"",
    "no map": b"\xc0",
    "deep": event(b"\x92" + MESSAGE + b"\x91" * DEEP + b"\xc0"),
    "deep maps": event(b"\x92" + MESSAGE + b"\x81\xa1a" * DEEP + b"\xc0"),
    "a list of four thousand million": event(b"\xdd\xff\xff\xff\xff" + MESSAGE),
    "many such lists": event(b"\x92" + MESSAGE + b"\xdd\x7f\xff\xff\xff" * DEEP),
    "text of four gigabytes": event(b"\x92" + MESSAGE + b"\xdb\xff\xff\xff\xff"),
    "an extension of four gigabytes": event(b"\x92" + MESSAGE + b"\xc9\xff\xff\xff\xff\x00"),
    "an unknown extension": event(b"\x92" + MESSAGE + b"\xd4\x05\x00"),
    "a damaged date": event(b"\x92" + MESSAGE + b"\xd4\xff\xff"),
    "a key that is a number": event(b"\x92" + MESSAGE + b"\x81\x01\x02"),
    "a key that is a list": event(b"\x92" + MESSAGE + b"\x81\x90\x02"),
    "a name that is bytes": event(b"\x91\xc4\x07message"),
    "a reserved name": event(b"\x91" + msgspec.msgpack.encode("disconnect")),
    "more behind it": event(b"\x91" + MESSAGE) + b"\xc0",
    "a type of another form": msgspec.msgpack.encode({"type": 5, "nsp": "/", "data": ["message"]}),
    "a type of text": msgspec.msgpack.encode({"type": "2", "nsp": "/", "data": ["message"]}),
    "an id below nought": msgspec.msgpack.encode({"type": 2, "nsp": "/", "data": ["message"], "id": -1}),
}


@pytest.mark.parametrize("host", HOSTS)
async def test_hostile_messagepack(host: str) -> None:
    settings = SocketSettings(recovery_window_s=0, ping_interval_s=600, ping_timeout_s=600, parser="msgpack")

    async def connected(site: Site) -> Any:
        socket = await site.websocket("/socket.io/?EIO=4&transport=websocket")
        await socket.recv()
        await socket.send(msgspec.msgpack.encode({"type": 0, "nsp": "/"}))
        assert msgspec.msgpack.decode(await socket.recv())["type"] == 0
        return socket

    async with serving(host, ("", ""), socketio=settings) as site:
        echoing(site.wire)
        other = await connected(site)
        for what, message in HOSTILE_BYTES.items():
            client = await connected(site)
            await client.send(message)
            with pytest.raises(websockets.ConnectionClosed):
                raise AssertionError(what, await client.recv())
        big = 200_000
        await other.send(event(b"\xdd" + struct.pack(">I", big + 1) + MESSAGE + b"\x90" * big))
        echoed = msgspec.msgpack.decode(await other.recv())
        assert len(echoed["data"]) == big + 1
        await other.close()


UPGRADES = ("websocket", "WebSocket, h2c", "h2c", "TLS/1.0, HTTP/1.1", "websocket\tx", ",,,", "\x7f")
PLACES = (
    "/", "/livez", "/metrics", "/nothing", "/channels/a", "/channels/a?poll", "/socket.io", "/socket.io/",
    "/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=3&transport=polling", "/connection/http_stream",
    "/connection/sse", "/connection/websocket", "/connection/emulation", "/sockjs", "/sockjs/info",
    "/sockjs/a/b/xhr_send", "/sockjs/a/b/nothing", "/ticket", "/api/publish",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
async def test_an_upgrade_anywhere_is_answered_and_harms_nobody(host: str) -> None:
    async with serving(host, ("", ""), socketio=PATIENT) as site:
        echoing(site.wire)
        async with raw(site, "websocket") as other:
            await other.connected()

            async def ask(method: str, place: str, upgrade: str) -> None:
                reader, writer = await site.connect()
                head = (
                    f"{method} {place} HTTP/1.1\r\nHost: {site.authority}\r\nConnection: Upgrade\r\n"
                    f"Upgrade: {upgrade}\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                writer.write(head.encode("latin-1"))
                line = await asyncio.wait_for(reader.readline(), 20)
                writer.transport.abort()
                if line:  # a server that is not ours may hang up instead
                    status = int(line.split()[1])
                    # SockJS says 500 to who sends no messages.
                    assert status < 500 or (status, place) == (500, "/sockjs/a/b/xhr_send"), (head, line)
                else:
                    assert host == "asgi", head

            for place in PLACES:
                asked = [ask(method, place, upgrade) for method in ("GET", "POST") for upgrade in UPGRADES]
                await asyncio.gather(*asked)
            await works_on(other)
