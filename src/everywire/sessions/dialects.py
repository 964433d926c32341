"""The dialects: the two forms of the session protocol, as each kind of carrier puts them.

* WebSocket, and SockJS: replies joined by newlines (JSON) or by their lengths (Protobuf), at most 16 in a
  message and few enough that no client's bound on messages is met;
* http_stream, poll and raw streams: each reply and a newline, or each with its length;
* SSE: each reply an event;
* the one-way carriers: pushes bare, one to a message, line or event.

http_stream is ASCII (``\\uXXXX``), because some clients decode chunks one by one and destroy a character
that is cut in two. Dialects are the hub's encoders for sessions, too; there is one object of each kind.
"""

from __future__ import annotations

import codecs as text_codecs
from collections.abc import Iterable, Sequence
from typing import Final

from everywire.codecs.centrifuge import json_form, protobuf_form
from everywire.codecs.centrifuge.messages import Command, Push, Reply
from everywire.core.publication import Gap
from everywire.hub.interfaces import Item

__all__ = [
    "HTTP_STREAM_JSON",
    "HTTP_STREAM_PROTOBUF",
    "LINES",
    "POLL_JSON",
    "POLL_PROTOBUF",
    "SOCKJS_JSON",
    "SSE",
    "UNI_HTTP_STREAM",
    "UNI_SSE",
    "UNI_WEBSOCKET",
    "WEBSOCKET_JSON",
    "WEBSOCKET_JSON_OWN_PINGS",
    "WEBSOCKET_PROTOBUF",
    "WEBSOCKET_PROTOBUF_OWN_PINGS",
    "MessagesDialect",
    "StreamDialect",
]

_MAX_JOINED: Final = 16
"""Replies in one WebSocket message; the reference implementation joins as many."""
_MAX_JOINED_BYTES: Final = 64 * 1024
"""Where a WebSocket message ends, unless one reply alone is larger."""

Messages = list[tuple[bool, bytes]]
"""WebSocket messages: whether they are binary, and their data."""


class _Dialect:
    """What all dialects have: one form of replies, pushes and publications, each as bytes."""

    __slots__ = ("has_own_pings", "is_binary", "is_one_way", "name")

    # What the hub asks of an encoder.
    once = False
    tells_gaps = False
    wants_positions = False
    beats_always = False

    def __init__(
        self, name: str, *, is_one_way: bool = False, is_binary: bool = False, has_own_pings: bool = False
    ) -> None:
        self.name = name
        self.is_one_way = is_one_way
        self.is_binary = is_binary
        self.has_own_pings = has_own_pings

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"

    def commands(self, data: bytes, max_commands: int) -> Sequence[Command]:
        """Decode what a client sent; raise `BadRequest` when it is nothing a client may send.

        One-way carriers hear one bare connect request; it becomes a command with the id 1.
        """
        if self.is_one_way:
            return [Command(id=1, connect=json_form.decode_connect(data))]
        if self.is_binary:
            return protobuf_form.decode_commands(data, max_commands)
        return json_form.decode_commands(data, max_commands)

    def _reply(self, reply: Reply) -> bytes:
        if self.is_one_way:
            return json_form.PING if reply.push is None else json_form.encode_push(reply.push)
        return protobuf_form.encode_reply(reply) if self.is_binary else json_form.encode_reply(reply)

    def _push(self, push: Push) -> bytes:
        return self._reply(Reply(push=push))

    def _ping(self) -> bytes:
        return protobuf_form.PING if self.is_binary else json_form.PING

    def _publication(self, item: Item) -> bytes:
        publication = item.content
        assert not isinstance(publication, Gap)  # tells_gaps is False
        if self.is_binary:
            return protobuf_form.pub_reply(item.channel, publication)
        push = json_form.pub_push(item.channel, publication)
        return push if self.is_one_way else b'{"push":%s}' % push


class MessagesDialect(_Dialect):
    """WebSocket messages: payloads are lists of ``(is_binary, data)``."""

    __slots__ = ()

    def payload(self, replies: Sequence[Reply]) -> Messages:
        """Put replies together."""
        return self._joined(map(self._reply, replies))

    def push(self, push: Push) -> Messages:
        """Return the message of one push."""
        return [(self.is_binary, self._push(push))]

    def ping(self) -> Messages:
        """Return the message of a ping."""
        return [(self.is_binary, self._ping())]

    def encode(self, items: Sequence[Item], position: str) -> Messages:
        """Return the messages of publications."""
        return self._joined(map(self._publication, items))

    def _joined(self, parts: Iterable[bytes]) -> Messages:
        is_binary = self.is_binary
        if self.is_one_way:
            return [(is_binary, part) for part in parts]
        messages: Messages = []
        joined: list[bytes] = []
        size = 0
        separator = b"" if is_binary else b"\n"
        for part in parts:
            if joined and (len(joined) == _MAX_JOINED or size + len(part) > _MAX_JOINED_BYTES):
                messages.append((is_binary, separator.join(joined)))
                joined.clear()
                size = 0
            joined.append(part)
            size += len(part) + 1
        if joined:
            messages.append((is_binary, separator.join(joined)))
        return messages


class StreamDialect(_Dialect):
    """Streams of bytes and bodies: payloads are bytes, each reply between ``before`` and ``after``."""

    __slots__ = ("_after", "_before", "_is_ascii")

    def __init__(
        self,
        name: str,
        before: bytes = b"",
        after: bytes = b"\n",
        *,
        is_ascii: bool = False,
        is_one_way: bool = False,
        is_binary: bool = False,
    ) -> None:
        super().__init__(name, is_one_way=is_one_way, is_binary=is_binary)
        self._before = before
        self._after = after
        self._is_ascii = is_ascii

    def payload(self, replies: Sequence[Reply]) -> bytes:
        """Put replies together."""
        return self._joined([self._reply(reply) for reply in replies])

    def push(self, push: Push) -> bytes:
        """Return one push."""
        return self._joined([self._push(push)])

    def ping(self) -> bytes:
        """Return a ping."""
        return self._joined([self._ping()])

    def encode(self, items: Sequence[Item], position: str) -> bytes:
        """Return publications."""
        return self._joined([self._publication(item) for item in items])

    def _joined(self, parts: Sequence[bytes]) -> bytes:
        if not parts:
            return b""
        between = self._after + self._before
        joined = self._before + between.join(parts) + self._after
        return _as_ascii(joined) if self._is_ascii and not joined.isascii() else joined


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write characters as JSON escapes (RFC 8259 §7), those beyond the first plane as surrogate pairs."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be")
    pairs = units.hex("-", 2).split("-")
    return "".join([f"\\u{unit}" for unit in pairs]), error.end


text_codecs.register_error("everywire.json", _escaped)


def _as_ascii(data: bytes) -> bytes:
    """Return JSON text without any character beyond ASCII: they stand in strings alone."""
    return data.decode("utf-8", "replace").encode("ascii", "everywire.json")


WEBSOCKET_JSON: Final = MessagesDialect("websocket-json")
WEBSOCKET_PROTOBUF: Final = MessagesDialect("websocket-protobuf", is_binary=True)
WEBSOCKET_JSON_OWN_PINGS: Final = MessagesDialect("websocket-json-own-pings", has_own_pings=True)
WEBSOCKET_PROTOBUF_OWN_PINGS: Final = MessagesDialect(
    "websocket-protobuf-own-pings", is_binary=True, has_own_pings=True
)
SOCKJS_JSON: Final = MessagesDialect("sockjs-json")
UNI_WEBSOCKET: Final = MessagesDialect("uni_websocket-json", is_one_way=True)
HTTP_STREAM_JSON: Final = StreamDialect("http_stream-json", is_ascii=True)
HTTP_STREAM_PROTOBUF: Final = StreamDialect("http_stream-protobuf", after=b"", is_binary=True)
UNI_HTTP_STREAM: Final = StreamDialect("uni_http_stream-json", is_ascii=True, is_one_way=True)
SSE: Final = StreamDialect("sse-json", b"data: ", b"\n\n")
UNI_SSE: Final = StreamDialect("uni_sse-json", b"data: ", b"\n\n", is_one_way=True)
POLL_JSON: Final = StreamDialect("poll-json")
POLL_PROTOBUF: Final = StreamDialect("poll-protobuf", after=b"", is_binary=True)
LINES: Final = StreamDialect("lines-json")
