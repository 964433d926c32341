"""A proxy between client and server that does what real ones do to streams and WebSockets.

It speaks HTTP/1.1 on both sides (h11), one connection to the server for each request. Its faults can be
changed while it runs; a request has those of the moment it came in. A request for ``/cut`` cuts all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import h11

HELD_BYTES: Final = 4096
_READ_BYTES: Final = 65_536
_FORBIDDEN: Final = b"<html><body>Your administrator does not allow this.</body></html>"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong; nothing by default."""

    strips_upgrade: bool = False
    """``Upgrade`` does not reach the server, as through a proxy that knows no WebSocket."""
    forbids_upgrade: bool = False
    """Whoever asks for an upgrade gets 403 with somebody else's words."""
    is_silent: bool = False
    """The handshake goes through, and then nothing, either way."""
    cut_s: float | None = None
    """A request or WebSocket older than this is cut."""
    held_bytes: int | None = None
    """A body is held back until there are so many bytes, or its end; the head goes through."""
    holds_all: bool = False
    """An answer is held back to its end, with its head, as by a scanner for viruses."""


class HostileProxy:
    """The proxy; see `proxying`."""

    def __init__(self, host: str, port: int, faults: Faults) -> None:
        self._upstream = (host, port)
        self.faults = faults
        self.url = ""
        self.requests: dict[str, int] = {}
        """How many requests came, by path."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def change(self, **faults: Any) -> None:
        """Set faults of the requests from now on."""
        self.faults = replace(self.faults, **faults)

    def cut(self) -> None:
        """Cut every connection, now."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Cut everything, and wait until all is over."""
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a client's connection."""
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            client = _Peer(h11.Connection(h11.SERVER), reader, writer)
            while await self._relay_request(client):
                client.http.start_next_cycle()
        except (OSError, h11.ProtocolError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _relay_request(self, client: _Peer) -> bool:
        """Relay one request; true when another may follow on the same connection."""
        head = await client.next_event()
        if not isinstance(head, h11.Request):
            return False
        body = b""
        while isinstance(event := await client.next_event(), h11.Data):
            body += bytes(event.data)
        faults = self.faults
        path = head.target.decode().partition("?")[0]
        self.requests[path] = self.requests.get(path, 0) + 1
        if path == "/cut":
            self._writers.discard(client.writer)
            self.cut()
            await client.answer(200, b"")
            return False
        wants_upgrade = any(name == b"upgrade" for name, _ in head.headers)
        if wants_upgrade and faults.forbids_upgrade:
            await client.answer(403, _FORBIDDEN)
            return True
        reader, writer = await asyncio.open_connection(*self._upstream)
        self._writers.add(writer)
        try:
            async with asyncio.timeout(faults.cut_s):
                if wants_upgrade and not faults.strips_upgrade:
                    await _relay_socket(head, client, reader, writer, faults)
                    return False
                server = _Peer(h11.Connection(h11.CLIENT), reader, writer)
                return await _relay_answer(_plain(head), body, client, server, faults)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class _Peer:
    """One side: an HTTP connection over a socket."""

    def __init__(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.http = http
        self.reader = reader
        self.writer = writer

    async def next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(_READ_BYTES))
        return event

    async def send(self, *events: Any) -> None:
        self.writer.write(b"".join(self.http.send(event) or b"" for event in events))
        await self.writer.drain()

    async def answer(self, status: int, body: bytes) -> None:
        head = h11.Response(
            status_code=status, headers=[("content-type", "text/html"), ("content-length", str(len(body)))]
        )
        await self.send(head, h11.Data(data=body), h11.EndOfMessage())


def _plain(head: h11.Request) -> h11.Request:
    """Return the request without what asks for an upgrade, and for one exchange only."""
    dropped = (b"upgrade", b"connection", b"transfer-encoding")
    headers = [(name, value) for name, value in head.headers if name not in dropped]
    return h11.Request(method=head.method, target=head.target, headers=[*headers, (b"connection", b"close")])


async def _relay_answer(head: h11.Request, body: bytes, client: _Peer, server: _Peer, faults: Faults) -> bool:
    data = [h11.Data(data=body)] if body else []
    await server.send(head, *data, h11.EndOfMessage())
    # A client that goes away ends the request; nothing else may come from it meanwhile.
    leaving = asyncio.ensure_future(client.reader.read(_READ_BYTES))
    relaying = asyncio.ensure_future(_relay_body(client, server, faults))
    try:
        await asyncio.wait([leaving, relaying], return_when=asyncio.FIRST_COMPLETED)
        if not relaying.done():
            return False
        relaying.result()
        if leaving.done():
            data_after = leaving.result()
            client.http.receive_data(data_after)
            return bool(data_after)
        return True
    finally:
        for task in (leaving, relaying):
            task.cancel()
        await asyncio.gather(leaving, relaying, return_exceptions=True)


async def _relay_body(client: _Peer, server: _Peer, faults: Faults) -> None:
    response = await server.next_event()
    while isinstance(response, h11.InformationalResponse):
        response = await server.next_event()
    dropped = (b"connection", b"transfer-encoding", b"keep-alive")
    headers = [(name, value) for name, value in response.headers if name not in dropped]
    held: list[Any] = [h11.Response(status_code=response.status_code, headers=headers)]
    held_bytes = 0
    if not faults.holds_all:
        await client.send(*held)
        held = []
    while isinstance(event := await server.next_event(), h11.Data):
        held.append(h11.Data(data=bytes(event.data)))
        held_bytes += len(event.data)
        if not faults.holds_all and held_bytes >= (faults.held_bytes or 0):
            await client.send(*held)
            held, held_bytes = [], 0
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionError("the server broke off")
    await client.send(*held, h11.EndOfMessage())


async def _relay_socket(
    head: h11.Request,
    client: _Peer,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    faults: Faults,
) -> None:
    """Relay a handshake and what follows; a silent path takes everything and gives nothing."""
    lines = [head.method + b" " + head.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in head.headers.raw_items()]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    client.writer.write(await reader.readuntil(b"\r\n\r\n"))
    trailing, _ = client.http.trailing_data
    writer.write(b"" if faults.is_silent else trailing)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_READ_BYTES):
            if not faults.is_silent:
                target.write(data)
                await target.drain()

    pumps = [
        asyncio.ensure_future(pump(client.reader, writer)),
        asyncio.ensure_future(pump(reader, client.writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


@asynccontextmanager
async def proxying(url: str, faults: Faults | None = None) -> AsyncIterator[HostileProxy]:
    """Run a proxy in front of the server at ``url``, on a free port."""
    host, _, port = url.partition("://")[2].rstrip("/").rpartition(":")
    proxy = HostileProxy(host, int(port), faults or Faults())
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
