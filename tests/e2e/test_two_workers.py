"""Socket.IO clients that poll, behind two workers that take turns: there is no affinity, and none is needed.

A session's id names the worker that owns it, and whichever worker a request comes to hands it over.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest

from tests.serving import DEADLINE_S, Site, serving
from tests.socket_wires import Ended, SocketIo

CLIENTS: Final = 1_000
_PIECE: Final = 65_536


class Balancer:
    """Carries each connection to the next worker."""

    def __init__(self, sites: list[Site]) -> None:
        self._ports = itertools.cycle([int(site.url.rpartition(":")[2]) for site in sites])

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", next(self._ports))
        try:
            await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))
        finally:
            for one in (writer, far_writer):
                one.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):
        writer.transport.abort()


@asynccontextmanager
async def two_workers() -> AsyncIterator[str]:
    """Run two servers that know of each other, and give the address of what stands before them."""
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(serving("own", ("", ""))) for _ in range(2)]
        server = await asyncio.start_server(Balancer(sites).accept, "127.0.0.1", 0)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.xfail(
    raises=Ended, strict=True, reason="workers learn of each other with the brokers between processes"
)
async def test_a_thousand_clients_connect_without_an_error() -> None:
    async with two_workers() as url, asyncio.timeout(6 * DEADLINE_S):
        for number in range(CLIENTS):
            socket = SocketIo(url, "polling")
            try:
                await socket.connect()
                answer = (await socket.call("subscribe", f"channel-{number}"))[0]
                assert answer["channel"] == f"channel-{number}"
            finally:
                await socket.abort()
