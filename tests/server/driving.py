"""Drives the host in tests: small handlers over exchanges, and a client that sends whatever it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import httptools

from everywire.core.limits import Limits
from everywire.server.options import Address, ServerOptions
from everywire.server.server import Server
from everywire.transports.exchange import Exchange, MessageChannel

DEADLINE_S: Final = 20.0
"""A generous bound on liveness."""

TEXT: Final = ((b"content-type", b"text/plain"),)


class Response:
    """One response, as llhttp hears it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


class Client:
    """A bare connection that understands responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = b""

    def send(self, data: bytes | str) -> None:
        """Write bytes."""
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    async def response(self, *, is_head: bool = False) -> Response:
        """Read one response; of an interim one, only its head."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._until(b"\r\n\r\n")
            heard = _Heard()
            parser = httptools.HttpResponseParser(heard)
            with suppress(httptools.HttpParserUpgrade):
                parser.feed_data(head)
            response = heard.response
            response.status = parser.get_status_code()
            if is_head or response.status in (100, 101, 204, 304):
                return response
            if "content-length" in response.headers:
                response.body = await self._exactly(int(response.headers["content-length"]))
            elif response.headers.get("transfer-encoding") == "chunked":
                while size := int(await self._until(b"\r\n"), 16):
                    response.body += (await self._exactly(size + 2))[:-2]
                await self._exactly(2)
            else:
                response.body = await self.rest()
            response.is_complete = True
            return response

    async def _until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    async def _exactly(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Read until the server closes; a reset counts as a failure."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    async def is_closed(self) -> bool:
        """Wait until the server closes or resets; say whether nothing came before."""
        try:
            return not await self.rest()
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close."""
        self.writer.close()


class _Heard:
    def __init__(self) -> None:
        self.response = Response()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.response.headers[name.decode().lower()] = value.decode()


class Driver:
    """Notes what it hears."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self.exchange = exchange
        self.heard: list[str] = []
        self.messages: list[tuple[bytes, bool]] = []
        self.channel: MessageChannel | None = None
        self.on_message: Callable[[bytes, bool], None] | None = None
        self.on_drain: Callable[[int], None] | None = None

    def stalled(self) -> None:
        self.heard.append("stalled")

    def writable(self) -> None:
        self.heard.append("writable")

    def gone(self, reason: str) -> None:
        self.heard.append(f"gone {reason}")

    def drain(self, retry_ms: int) -> None:
        self.heard.append("drain")
        if self.on_drain is not None:
            self.on_drain(retry_ms)

    def message(self, data: bytes, binary: bool) -> None:
        self.messages.append((data, binary))
        if self.on_message is not None:
            self.on_message(data, binary)

    @property
    def is_gone(self) -> bool:
        return any(word.startswith("gone") for word in self.heard)


class Handlers:
    """A handler of many small ones, by path."""

    def __init__(self) -> None:
        self.drivers: list[Driver] = []
        self.held: list[Exchange] = []
        self.requests: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        self.requests.append(exchange.request.path)
        path = exchange.request.path.strip("/").partition("/")[0]
        getattr(self, f"on_{path or 'plain'}")(exchange)

    def on_plain(self, exchange: Exchange) -> None:
        exchange.respond(200, TEXT, exchange.request.path.encode())

    def on_echo(self, exchange: Exchange) -> None:
        exchange.read_body(100_000, lambda body: exchange.respond(200, TEXT, body))

    def on_framed(self, exchange: Exchange) -> None:
        exchange.answer(exchange.response_framing(200, TEXT).frame(b"framed"))

    def on_hold(self, exchange: Exchange) -> None:
        """Wait until the test answers."""
        self._attend(exchange, "long-poll")
        self.held.append(exchange)

    def on_brief(self, exchange: Exchange) -> None:
        """The same, of a transport whose answer is on its way."""
        self._attend(exchange, "publish")
        self.held.append(exchange)

    def on_stream(self, exchange: Exchange) -> None:
        driver = self._attend(exchange, "sse")
        exchange.start(200, TEXT, exchange.framing.frame(b"first "))
        driver.on_drain = lambda retry_ms: exchange.finish(exchange.framing.frame(b"bye"))

    def on_whole(self, exchange: Exchange) -> None:
        """Stream an answer that is over at once."""
        exchange.start(200, TEXT, exchange.framing.frame(b"one "))
        exchange.write(exchange.framing.frame(b"two "))
        exchange.finish(exchange.framing.frame(b"three"))

    def on_empty(self, exchange: Exchange) -> None:
        exchange.respond(204, ())

    def on_fail(self, exchange: Exchange) -> None:
        raise LookupError("a bug")

    def on_about(self, exchange: Exchange) -> None:
        request = exchange.request
        told = f"{request.scheme} {request.host} {request.peer} {request.is_local} {request.method}"
        exchange.respond(200, TEXT, told.encode())

    def on_socket(self, exchange: Exchange) -> None:
        """Echo messages."""
        driver = Driver(exchange)
        self.drivers.append(driver)
        channel = exchange.upgrade(driver, "websocket", ("chat",))
        if channel is None:
            return
        driver.channel = channel
        driver.on_message = lambda data, binary: self._echo(channel, data, binary)
        driver.on_drain = lambda retry_ms: channel.close(1012, "come back")

    def _echo(self, channel: MessageChannel, data: bytes, binary: bool) -> None:
        channel.write(channel.framing.frame([(binary, data)]))

    def _attend(self, exchange: Exchange, transport: str) -> Driver:
        driver = Driver(exchange)
        self.drivers.append(driver)
        exchange.attend(driver, transport)
        return driver


class Site:
    """A running server, its handlers, and connections to it."""

    def __init__(self, server: Server, handlers: Handlers) -> None:
        self.server = server
        self.handlers = handlers
        self.clients: list[Client] = []

    @property
    def port(self) -> int:
        return int(self.server.addresses[0].rpartition(":")[2])

    async def connect(self, **options: Any) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes | str) -> Response:
        """Send a request on a connection of its own and read its answer."""
        client = await self.connect()
        client.send(request)
        return await client.response(is_head=request[:4] in (b"HEAD", "HEAD"))

    def get(self, path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
        lines = [f"{method} {path} HTTP/{version}", "Host: a.test", *fields, "", ""]
        return "\r\n".join(lines).encode("latin-1")


@asynccontextmanager
async def running(
    handlers: Handlers | None = None, *, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Site]:
    """Run a server on a free port; ``options`` are those of `ServerOptions`."""
    handlers = handlers or Handlers()
    made = ServerOptions(listen=(Address(port=0),), limits=limits or Limits(), log_fd=None)
    server = Server(handlers, replace(made, **options))
    await server.start()
    site = Site(server, handlers)
    try:
        yield site
    finally:
        for client in site.clients:
            client.close()
        await server.close()


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something is so; fail if it does not become so in time."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def narrow(client: Client, size: int = 4096) -> None:
    """Let a client's socket take little."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
