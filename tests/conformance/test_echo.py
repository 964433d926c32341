"""The conformance server's echo, with the client that others wrote (``websockets``)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.client.certificates import make_certificate
from tests.conformance.run import conformance_server

DEADLINE_S = 30.0
MIB = 1024 * 1024
NO_LIMIT = 64 * MIB


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with conformance_server() as found:
        yield found


@pytest.fixture(params=[None, "deflate"], ids=["plain", "deflate"])
async def echo(url: str, request: pytest.FixtureRequest) -> AsyncIterator[ClientConnection]:
    async with connect(url, compression=request.param, max_size=NO_LIMIT, proxy=None) as connection:
        names = [extension.name for extension in connection.protocol.extensions]
        assert names == ([] if request.param is None else ["permessage-deflate"])
        yield connection


async def send_and_receive(connection: ClientConnection, message: str | bytes) -> str | bytes:
    """Send and read at once: whoever only sends a large message is not read on for ever."""
    async with asyncio.timeout(DEADLINE_S):
        sending = asyncio.create_task(connection.send(message))
        answer = await connection.recv()
        await sending
    return answer


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MIB])
async def test_messages_come_back_with_their_type(echo: ClientConnection, size: int) -> None:
    for message in ("ä" * (size // 2) + "x" * (size % 2), os.urandom(size)):
        assert await send_and_receive(echo, message) == message


async def test_a_message_of_16_mib_comes_back(echo: ClientConnection) -> None:
    message = os.urandom(MIB) * 4 + bytes(12 * MIB)
    assert await send_and_receive(echo, message) == message


async def test_fragments_come_back_as_one_message(echo: ClientConnection) -> None:
    pieces = [f"piece {number}, " for number in range(1000)]
    async with asyncio.timeout(DEADLINE_S):
        await echo.send(pieces)
        assert await echo.recv() == "".join(pieces)


async def test_a_message_of_65536_fragments_comes_back(url: str) -> None:
    async with connect(url, compression=None, max_size=NO_LIMIT, proxy=None) as connection:
        async with asyncio.timeout(2 * DEADLINE_S):
            await connection.send([b"x"] * 65_535)  # the client adds an empty one that ends the message
            assert await connection.recv() == b"x" * 65_535


@pytest.mark.parametrize("window_bits", [9, 12, 15])
@pytest.mark.parametrize("keeps_context", [True, False])
async def test_every_window_is_agreed_on(url: str, window_bits: int, keeps_context: bool) -> None:
    offer = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not keeps_context,
        client_no_context_takeover=not keeps_context,
        server_max_window_bits=window_bits,
        client_max_window_bits=window_bits,
    )
    async with connect(
        url, compression=None, extensions=[offer], max_size=NO_LIMIT, proxy=None
    ) as connection:
        assert [extension.name for extension in connection.protocol.extensions] == ["permessage-deflate"]
        for message in ("lorem ipsum " * 20_000, os.urandom(50_000)):
            assert await send_and_receive(connection, message) == message


async def test_any_origin_may_come(url: str) -> None:
    for origin in ("http://elsewhere.example", "null"):
        async with connect(url, origin=origin, proxy=None) as connection:  # type: ignore[arg-type]
            assert await send_and_receive(connection, "hello") == "hello"


async def test_both_loopback_addresses_serve(url: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")
    async with connect(url.replace("127.0.0.1", "[::1]"), proxy=None) as connection:
        assert await send_and_receive(connection, "hello") == "hello"


async def test_who_does_not_read_is_not_read_on(url: str) -> None:
    """A peer that only sends is stopped: what it may have under way is bounded."""
    async with connect(
        url, compression=None, max_size=NO_LIMIT, max_queue=1, write_limit=MIB, proxy=None
    ) as connection:
        message = os.urandom(MIB)
        sent = 0
        is_stopped = False
        while sent < 200 and not is_stopped:
            sent += 1
            try:
                await asyncio.wait_for(connection.send(message), 1.5)
            except TimeoutError:
                is_stopped = True  # this one is on its way, and goes on when answers are read
        assert is_stopped
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(sent):
                assert await connection.recv() == message


async def test_a_request_that_is_no_websocket_is_refused_or_for_sockjs(url: str) -> None:
    port = urlsplit(url).port
    for path, status in (("/any/path", b"426"), ("/echoes", b"426"), ("/echo", b"200"), ("/echo/x", b"404")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 %b " % status)
        writer.close()
        await writer.wait_closed()


async def test_it_serves_by_tls(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=cert)
    with conformance_server("--tls-cert", cert, "--tls-key", key) as url:
        assert url.startswith("wss://")
        async with connect(url, ssl=context, max_size=NO_LIMIT, proxy=None) as connection:
            for message in ("hello", os.urandom(4 * MIB)):
                assert await send_and_receive(connection, message) == message
