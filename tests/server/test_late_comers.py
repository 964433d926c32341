"""Who connected just before the server began to leave: it is answered, told as the others are, and let go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from everywire.server.options import Address
from tests.server.driving import Client, Site, running, until

HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


@asynccontextmanager
async def draining(site: Site, *, drain_s: float = 5) -> AsyncIterator[asyncio.Task[bool]]:
    """Let a server leave; what the block does, it does while that goes on."""
    leaving = asyncio.create_task(site.server.drain(drain_s))
    await until(lambda: site.server.is_draining)
    yield leaving
    assert await leaving


async def late(site: Site) -> Client:
    """Connect, and wait until the server knows of it."""
    known = sum(site.server.open_connections().values())
    client = await site.connect()
    await until(lambda: sum(site.server.open_connections().values()) == known + 1)
    return client


async def test_its_first_request_is_answered_and_is_its_last() -> None:
    async with running() as site:
        client = await late(site)
        async with draining(site):
            client.send(site.get("/about"))
            answer = await client.response()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.is_closed()


async def test_one_that_asks_for_nothing_is_let_go_soon() -> None:
    async with running() as site:
        silent = await late(site)
        async with asyncio.timeout(10):
            async with draining(site, drain_s=60):
                assert await silent.is_closed()


async def test_one_that_has_asked_before_is_closed_at_once() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/"))
        await client.response()
        async with draining(site):
            assert await client.is_closed()


async def test_a_stream_that_begins_now_is_told_to_end() -> None:
    async with running() as site:
        client = await late(site)
        async with draining(site):
            client.send(site.get("/stream"))
            assert (await client.response()).body == b"first bye"


async def test_a_long_poll_that_begins_now_is_told_to_end() -> None:
    async with running() as site:
        client = await late(site)
        async with draining(site):
            client.send(site.get("/hold"))
            await until(lambda: site.handlers.drivers and "drain" in site.handlers.drivers[0].heard)
            site.handlers.held[0].respond(200, ())
            assert (await client.response()).status == 200


async def test_a_websocket_that_begins_now_is_told_to_end() -> None:
    async with running() as site:
        client = await late(site)
        async with draining(site):
            client.send(site.get("/socket", *HANDSHAKE))
            assert (await client.response()).status == 101
            close = await client.reader.readexactly(2)
            assert close[0] == 0x88
            assert (await client.reader.readexactly(close[1]))[:2] == (1012).to_bytes(2, "big")
            client.send(b"\x88\x82\0\0\0\0" + (1012).to_bytes(2, "big"))


async def test_a_handshake_in_progress_is_waited_for(certificate: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    address = Address(port=0, tls_cert=certificate[0], tls_key=certificate[1])
    async with running(listen=(address,)) as site:
        bare = await site.connect()
        await asyncio.sleep(0.2)  # it was accepted, and has said nothing yet
        async with draining(site, drain_s=15):
            await asyncio.sleep(0.1)
            transport = await asyncio.get_running_loop().start_tls(
                bare.writer.transport,
                asyncio.StreamReaderProtocol(reader := asyncio.StreamReader()),
                context,
                server_hostname="127.0.0.1",
            )
            assert transport is not None
            reader.set_transport(transport)
            transport.write(site.get("/about"))
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            transport.abort()


async def test_a_handshake_that_never_ends_does_not_hold_the_server(certificate: tuple[str, str]) -> None:
    address = Address(port=0, tls_cert=certificate[0], tls_key=certificate[1])
    async with running(listen=(address,)) as site:
        await site.connect()
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await site.server.drain(0.5)


@pytest.mark.parametrize("count", [300])
async def test_whoever_was_accepted_is_answered(count: int) -> None:
    """The server begins to leave while connections come in: each is answered, or was never accepted."""
    async with running(drain_s=10) as site:

        async def ask() -> str:
            try:
                client = await site.connect()
            except ConnectionRefusedError:
                return "refused"
            client.send(site.get("/about"))
            try:
                return str((await client.response()).status)
            except ConnectionResetError:
                return "reset in the queue"

        asking = [asyncio.create_task(ask()) for _ in range(count)]
        await until(lambda: len(site.handlers.requests) > 20)
        async with draining(site):
            outcomes = await asyncio.gather(*asking)
        assert outcomes.count("200") == site.server.metrics.accepted
