"""A TCP proxy between a client and a server, whose cable can be pulled."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Cable", "through"]

_PIECE: Final = 65_536
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""Lingering for no time: what is closed so is reset."""


class Cable:
    """All connections that go through one proxy."""

    def __init__(self, host: str, port: int) -> None:
        self.url = ""
        self.is_cut = False
        self.connections = 0
        """How many were let through."""
        self._to = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, *, resets: bool = False) -> None:
        """Abort every connection, and let none through until `mend`; with a reset if that is asked for."""
        self.is_cut = True
        for writer in tuple(self._writers):
            if resets and not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self.is_cut = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        if self.is_cut:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        finally:
            for one in both:
                one.transport.abort()
            self._writers -= both
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_PIECE):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            writer.transport.abort()

    async def close(self) -> None:
        """End every connection, and wait until they are over."""
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def through(url: str) -> AsyncIterator[Cable]:
    """Start a proxy to a server at ``http://host:port``; its own address is `Cable.url`."""
    host, _, port = url.partition("://")[2].rpartition(":")
    cable = Cable(host, int(port))
    server = await asyncio.start_server(cable.accept, "127.0.0.1", 0)
    cable.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cable
    finally:
        server.close()
        await cable.close()
        await server.wait_closed()
