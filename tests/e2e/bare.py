"""Readers of bare bytes: what each transport sends, taken apart by hand and one piece at a time.

For tests that cut a reader at any byte, or stop reading: other people's clients would not let them. A
`Wire` is fed whatever the socket gave, and yields each item that is complete: ``(position, object)``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

Item = tuple[str, dict[str, Any]]

SOCKET_FIELDS: Final = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: everywire.json\r\n"
)
FIELDS: Final = {
    "poll": "",
    "long-poll": "",
    "stream": "Accept: application/x-ndjson\r\n",
    "sse": "Accept: text/event-stream\r\n",
    "websocket": SOCKET_FIELDS,
}
TRANSPORTS: Final = tuple(FIELDS)


def request(channel: str, transport: str, after: str | None = None, by_header: bool = False) -> bytes:
    """Return the head of a request for a channel by a transport."""
    query = ["wait=20"] if transport == "long-poll" else []
    fields = FIELDS[transport]
    if after is not None and by_header:
        fields += f"Last-Event-ID: {after}\r\n"
    elif after is not None:
        query.append(f"after={quote(after)}")
    elif transport == "poll":
        query.append("after=latest")
    target = f"/channels/{channel}" + ("?" + "&".join(query) if query else "")
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()


async def connect(
    url: str, tls: ssl.SSLContext | None = None, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a base URL."""
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=tls, **options)


class Wire:
    """Takes the answers of one connection apart."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.is_answered = False
        """Whether a whole answer has come (polls)."""
        self.is_over = False
        """Whether the server has ended it."""
        self.close_code = 0
        self._head: bytes | None = None
        self._length: int | None = None
        self._raw = b""
        self._body = b""

    def feed(self, data: bytes) -> Iterator[Item]:
        """Take bytes and yield what is complete."""
        self._raw += data
        if self._head is None:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return
            self._begin(head, rest)
        if self.transport == "websocket":
            yield from self._frames()
        elif self._length is not None:
            yield from self._page()
        else:
            self._dechunk()
            yield from self._lines() if self.transport == "stream" else self._events()

    def _begin(self, head: bytes, rest: bytes) -> None:
        status = b"101" if self.transport == "websocket" else b"200"
        assert head[9:12] == status, head
        self._head, self._raw = head, rest
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._length = int(line.partition(b":")[2])

    def _page(self) -> Iterator[Item]:
        assert self._length is not None
        if len(self._raw) < self._length:
            return
        answer = json.loads(self._raw[: self._length])
        self._raw, self._head, self._length = self._raw[self._length :], None, None
        self.is_answered = True
        if "gap" in answer:
            yield "", {"gap": answer["gap"]}
        for row in answer["publications"]:
            yield "", row
        yield answer["position"], {}

    def _dechunk(self) -> None:
        while True:
            size, end, rest = self._raw.partition(b"\r\n")
            if not end:
                return
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self.is_over = not length
            self._body += rest[:length]
            self._raw = rest[length + 2 :]

    def _lines(self) -> Iterator[Item]:
        *lines, self._body = self._body.split(b"\n")
        for line in lines:
            value = json.loads(line)
            if value:
                yield value.pop("position", ""), value

    def _events(self) -> Iterator[Item]:
        *blocks, self._body = self._body.split(b"\n\n")
        for block in blocks:
            fields: dict[bytes, bytes] = {}
            for line in block.split(b"\n"):
                name, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                fields[name] = fields[name] + b"\n" + value if name in fields else value
            position = fields.get(b"id", b"").decode()
            if b"data" not in fields:
                yield position, {}
            elif fields.get(b"event") == b"gap":
                yield position, {"gap": json.loads(fields[b"data"])}
            else:
                yield position, {"data": json.loads(fields[b"data"])}

    def _frames(self) -> Iterator[Item]:
        while len(self._raw) >= 2:
            opcode, length, at = self._raw[0] & 15, self._raw[1] & 127, 2
            if length > 125:
                at = 4 if length == 126 else 10
                if len(self._raw) < at:
                    return
                length = int.from_bytes(self._raw[2:at], "big")
            if len(self._raw) < at + length:
                return
            payload, self._raw = self._raw[at : at + length], self._raw[at + length :]
            if opcode == 8:
                self.is_over = True
                self.close_code = int.from_bytes(payload[:2], "big")
            elif opcode == 1:
                value = json.loads(payload)
                yield value.pop("position", ""), value
