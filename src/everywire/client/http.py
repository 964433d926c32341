"""A small HTTP/1.1 client on asyncio streams: one connection kept for the next request.

RFC 9112 by llhttp (`httptools`): chunked bodies, keep-alive, interim answers skipped. Everything read
has a bound and a deadline. It follows no redirect, keeps no cookie and unpacks no compression,
since it asks for none.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

import httptools

from everywire.client.address import Address
from everywire.client.errors import ConnectionLost, Refused
from everywire.core.errors import BadRequest

__all__ = ["Answer", "HttpClient", "HttpConnection", "HttpResponse", "open_stream", "request_head"]

FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
READ_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 30.0
CLOSE_TIMEOUT_S: Final = 1.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A bound on a whole answer: 32 channels of a MiB each, twice over for their escapes."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def open_stream(
    address: Address, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; raise `ConnectionLost`, or `Refused` when the certificate is not to be trusted."""
    context = (tls or ssl.create_default_context()) if address.is_tls else None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(address.host, address.port, ssl=context, limit=READ_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"{address}: the certificate is not trusted: {error.verify_message}") from None
    except TimeoutError:
        raise ConnectionLost(f"{address}: no connection within {CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:  # ssl.SSLError is one
        raise ConnectionLost(f"{address}: could not connect: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """Say why in plain words: asyncio's own text of a failed connect repeats the address."""
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error) or type(error).__name__
    return os.strerror(error.errno)


def request_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Return the head of a request; raise `BadRequest` for a field that would break out of it."""
    for name, value in fields.items():
        if not FIELD_NAME.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise BadRequest(f"{name!r} and its value cannot stand in a request's head")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


class _Events:
    """What the parser found: its callbacks, by the names that httptools gives them."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.may_be_kept = False
        self.headers: dict[str, str] = {}
        self.body: deque[bytes] = deque()
        self.head_is_complete = False
        self.is_complete = False

    def on_message_begin(self) -> None:
        # An interim answer (RFC 9110 §15.2) may stand before the real one: only the last counts.
        self.headers = {}
        self.head_is_complete = self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.head_is_complete = True
        # llhttp knows this only inside of its callbacks.
        self.may_be_kept = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


class HttpConnection:
    """One connection; carries one request at a time."""

    __slots__ = ("_address", "_reader", "_writer", "is_idle", "served")

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self.is_idle = True
        self.served = 0

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> HttpResponse:
        """Send a request and read the head of its answer. When this fails, close the connection."""
        self.is_idle = False
        fields = {
            "Host": self._address.host_header,
            "User-Agent": "everywire",
            "Accept": "*/*",
            **headers,
        }
        if body or method not in ("GET", "HEAD"):
            fields["Content-Length"] = str(len(body))
        head = request_head(method, target, fields)
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(head + body)
                await self._writer.drain()
                response = HttpResponse(self)
                await response.read_head()
        except TimeoutError:
            raise ConnectionLost(f"{self._address}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"{self._address}: {_reason(error)}") from None
        return response

    async def read_some(self, timeout_s: float | None = None) -> bytes:
        """Return bytes as they come; empty at the end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise self.lost(f"nothing was heard for {timeout_s:g} s") from None
        except OSError as error:
            raise self.lost(_reason(error)) from None

    def lost(self, sentence: str) -> ConnectionLost:
        """Make the error of a connection that broke."""
        return ConnectionLost(f"{self._address}: {sentence}")

    def finished(self, may_be_kept: bool) -> None:
        """Note that an answer was read to its end."""
        self.served += 1
        if may_be_kept:
            self.is_idle = True
        else:
            self.close()

    async def write(self, data: bytes) -> None:
        """Write bytes after an upgrade, as soon as the peer takes them."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise self.lost(_reason(error)) from None

    def close(self) -> None:
        """Drop the connection."""
        self.is_idle = False
        self._writer.transport.abort()

    async def wait_closed(self, flush: bytes = b"") -> None:
        """Drop the connection, after some last bytes if there are, and wait until it is gone."""
        if flush and not self._writer.is_closing():
            self.is_idle = False
            self._writer.write(flush)
            self._writer.close()
        else:
            self.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self.close()


class HttpResponse:
    """An answer whose body may never end."""

    __slots__ = ("_connection", "_events", "_parser", "status", "upgraded")

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._events = _Events()
        self._parser = self._events.parser
        self.status = 0
        self.upgraded: bytes | None = None
        """After 101: the bytes that came behind the head already."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The fields of the head; names in lower case, repeated ones joined by a comma."""
        return self._events.headers

    async def read_head(self) -> None:
        """Read up to the end of the head, past interim answers (RFC 9110 §15.2)."""
        size = 0
        while True:
            data = await self._connection.read_some()
            if not data:
                raise self._connection.lost("the connection was closed before an answer")
            size += len(data)
            self._feed(data)
            is_final = self._parser.get_status_code() >= 200 or self.upgraded is not None
            if self._events.head_is_complete and is_final:
                self.status = self._parser.get_status_code()
                return
            if size > MAX_HEAD_BYTES:
                raise self._connection.lost(f"the head of the answer is larger than {MAX_HEAD_BYTES} bytes")

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raise self._connection.lost(f"the answer is not HTTP/1.1: {error}") from None

    async def read_some(self, timeout_s: float | None = None) -> bytes:
        """Return the next bytes of the body, empty at its end; `ConnectionLost` when it is torn."""
        events = self._events
        while not events.body and not events.is_complete:
            data = await self._connection.read_some(timeout_s)
            if data:
                self._feed(data)
            elif "content-length" in events.headers or "transfer-encoding" in events.headers:
                raise self._connection.lost("the connection was closed in the middle of an answer")
            else:
                events.is_complete = True
        if events.body:
            data = b"".join(events.body)
            events.body.clear()
            return data
        return b""

    async def read_all(self, max_bytes: int = MAX_ANSWER_BYTES, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """Return the whole body and give the connection back."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read_some(timeout_s):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise Refused(f"the answer is larger than {max_bytes} bytes")
        self._connection.finished(self._events.may_be_kept)
        return b"".join(pieces)


class HttpClient:
    """Requests to one server, over one connection that is kept while it is idle."""

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self._headers = dict(headers or {})
        request_head("GET", "/", self._headers)  # a field that cannot be sent is told at once
        self._tls = tls
        self._connection: HttpConnection | None = None
        self._is_over = False

    async def start(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> HttpResponse:
        """Send a request and return its answer as soon as the head is there.

        A kept connection that turns out to be closed is replaced once when that is safe: the
        server closed it before it answered, and the request can be repeated.
        """
        fields = {**self._headers, **(headers or {})}
        connection = self._connection
        if connection is not None and connection.is_idle and connection.served:
            try:
                return await connection.request(method, target, fields, body, timeout_s)
            except ConnectionLost:
                if method != "GET" and "Idempotency-Key" not in fields:
                    raise
        await self.close()
        if not self._is_over:
            self._connection = HttpConnection(self.address, *await open_stream(self.address, self._tls))
        if self._is_over:  # or meanwhile
            await self.close()
            raise ConnectionLost(f"{self.address}: this connection was closed")
        return await self.connection.request(method, target, fields, body, timeout_s)

    @property
    def connection(self) -> HttpConnection:
        """The connection of the last answer, for who upgrades it."""
        if self._connection is None:
            raise ConnectionLost(f"{self.address}: there is no connection")
        return self._connection

    async def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send a request and return its whole answer."""
        try:
            response = await self.start(method, target, headers, body, timeout_s)
            return Answer(response.status, response.headers, await response.read_all())
        except BaseException:
            await self.close()  # half an answer is on its way: nothing else can follow on this connection
            raise

    async def close(self, last: bytes = b"") -> None:
        """Drop the connection, after some last bytes if there are."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.wait_closed(last)

    async def end(self, last: bytes = b"") -> None:
        """Close for good: whoever is about to connect, or will be, gets `ConnectionLost`."""
        self._is_over = True
        await self.close(last)
