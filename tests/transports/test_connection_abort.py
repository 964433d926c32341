"""Clients that leave at any moment leave nothing behind: no session, no carrier, no deadline, no task."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct

import pytest

from everywire.sessions.session import Session
from everywire.transports.connection_poll import PollCarrier
from everywire.transports.connection_socket import SocketCarrier
from everywire.transports.connection_stream import StreamCarrier
from tests.serving import Site, until

COMMANDS = b'{"id":1,"connect":{"ticks":3}}\n{"id":2,"subscribe":{"channel":"a","recover":true}}'
HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = b"POST /connection/%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s"
GET = b"GET /connection/%s HTTP/1.1\r\nHost: %s\r\n\r\n"
CYCLES = 12


def requests(host: bytes) -> list[bytes]:
    """What clients send; one after the other is cut short at every length."""
    mask = bytes([0x81, 0x80 | len(COMMANDS), 0, 0, 0, 0])
    return [
        HANDSHAKE % host + mask + COMMANDS,
        *[POST % (path, host, len(COMMANDS), COMMANDS) for path in (b"http_stream", b"sse", b"poll?wait=9")],
        POST % (b"uni_http_stream", host, 2, b"{}"),
        GET % (b"uni_sse", host),
    ]


def left() -> int:
    gc.collect()
    kinds = (Session, PollCarrier, SocketCarrier, StreamCarrier)
    return sum(isinstance(one, kinds) for one in gc.get_objects())


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_nothing_is_left(site: Site, how: str) -> None:
    await site.publish("a", 1)
    assert not left()
    for request in requests(site.authority.encode()):
        for cycle in range(CYCLES):
            reader, writer = await site.connect()
            writer.write(request if cycle % 2 else request[: len(request) * cycle // CYCLES])
            await writer.drain()
            if cycle % 3:
                try:
                    async with asyncio.timeout(0.05):
                        await reader.read(65536)
                except (TimeoutError, OSError):
                    pass
            if how == "RST" and site.tls is None and site.unix is None:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "RST":
                writer.transport.abort()
            else:
                writer.close()
            del reader, writer
    shared = site.wire.shared
    await until(lambda: not shared.registry.statistics()["visitors"] and not site.wire.hub.subscribers("a"))
    await until(lambda: not left())
    assert not len(shared.tasks)
