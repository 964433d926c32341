"""A server on a real socket that answers as a test's script says, one connection at a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

DEADLINE_S = 20.0


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[Asked]
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._asked = asked

    async def request(self) -> Asked:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)
        }
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        asked = Asked(method, parts.path, query, headers, body)
        self._asked.append(asked)
        return asked

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, **fields: str) -> None:
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        await self.send(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)

    async def start(self, content_type: str, *chunks: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await self.send(head.encode())
        for chunk in chunks:
            await self.chunk(chunk)

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def hang(self) -> None:
        """Stay silent until the client goes away."""
        while await self.reader.read(65536):
            pass


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer(NamedTuple):
    """Where it listens, and what it was asked."""

    url: str
    asked: list[Asked]
    connections: list[int]


@asynccontextmanager
async def scripted(*scripts: Script, tls: ssl.SSLContext | None = None):
    """Serve: the nth connection by the nth script, and all later ones by the last."""
    asked: list[Asked] = []
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = scripts[min(len(connections), len(scripts) - 1)]
        connections.append(len(connections))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await script(Peer(reader, writer, asked))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield ScriptedServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}", asked, connections)
