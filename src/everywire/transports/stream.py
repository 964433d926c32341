"""HTTP streaming and server-sent events: an answer that never ends by itself.

Both begin with the position, so that a reader that is cut before its first publication
can resume. They differ in their words only: NDJSON has lines, SSE has blocks (WHATWG
HTML §9.2). Such an answer ends at a maximum age with jitter, after the reader was told to
come back, so that load re-balances between servers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from everywire.codecs.json_text import dump
from everywire.codecs.sse import CONTENT_TYPE, encode_comment, encode_event, encode_id, encode_retry
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.publication import Gap
from everywire.core.wheel import Slot
from everywire.hub.interfaces import Encoder, Framing
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST
from everywire.transports.encoders import NDJSON, SSE, opening
from everywire.transports.service import Ask, stream_headers

__all__ = ["serve_sse", "serve_stream"]

_AGE_JITTER: Final = 0.2
_SOON_MS: Final = 1_000


class Words(Protocol):
    """What a streaming format says besides publications and gaps."""

    content_type: bytes
    encoders: tuple[Encoder, Encoder]
    heartbeat: bytes

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return the beginning: where reading begins, and which channels start live."""

    def farewell(self, code: Code, retry_ms: int) -> bytes:
        """Return the last words: why it ends, and when to come back."""


class SseWords:
    """Blocks of an event stream."""

    content_type = CONTENT_TYPE
    encoders: tuple[Encoder, Encoder] = SSE
    heartbeat = encode_comment()

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return a block with only ``id:``, one with ``retry:``, and an ``open`` event for new channels."""
        named = encode_event(dump({"new": list(new)}), event="open") if new else b""
        return encode_id(position) + encode_retry(retry_ms) + named

    def farewell(self, code: Code, retry_ms: int) -> bytes:
        """Return the new reconnection time; a terminal code is told as an ``error`` event."""
        told = b"" if code.reconnect else encode_event(_reason(code), event="error")
        return encode_retry(retry_ms) + told + encode_comment(f" {code.name}")


class NdjsonWords:
    """Lines of JSON."""

    content_type = b"application/x-ndjson"
    encoders: tuple[Encoder, Encoder] = NDJSON
    heartbeat = b"{}\n"

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return a line with the position, and the new channels."""
        return opening(position, new) + b"\n"

    def farewell(self, code: Code, retry_ms: int) -> bytes:
        """Return a ``disconnect`` line with code, reason and, where it may come back, the delay."""
        return b'{"disconnect":%s}\n' % _reason(code, retry_ms)


def _reason(code: Code, retry_ms: int | None = None) -> bytes:
    reason: dict[str, object] = {"code": code.number, "reason": code.sentence}
    if retry_ms is not None and code.reconnect:
        reason["retry"] = retry_ms
    return dump(reason)


_SSE_WORDS: Final = SseWords()
_NDJSON_WORDS: Final = NdjsonWords()


def serve_sse(ask: Ask) -> None:
    """Answer with server-sent events."""
    _serve(ask, _SSE_WORDS)


def serve_stream(ask: Ask) -> None:
    """Answer with lines of JSON."""
    _serve(ask, _NDJSON_WORDS)


def _serve(ask: Ask, words: Words) -> None:
    stream = Stream(ask, words)
    exchange, hub = ask.exchange, ask.service.hub
    exchange.attend(stream, ask.transport)
    encoder = words.encoders[ask.has_several]
    stream.reader = hub.reader(ask.channels, encoder, exchange.framing, stream)
    hub.open(stream.reader, ask.start or LATEST)


class Stream:
    """One streamed answer: the exchange's driver and the hub's subscriber."""

    __slots__ = ("_cors", "_service", "_words", "deadline", "exchange", "reader")

    reader: Reader

    def __init__(self, ask: Ask, words: Words) -> None:
        self._service = ask.service
        self._words = words
        self._cors = ask.cors
        self.exchange = ask.exchange
        self.deadline: Slot | None = None

    @property
    def send(self) -> Callable[[Any], int]:
        """Write a chunk as far as it goes: the host's own."""
        return self.exchange.send

    def write(self, framed: Any, /) -> None:
        """Write a chunk."""
        self.exchange.write(framed)

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Send the head and where reading begins, and set the age at which this answer ends."""
        limits = self._service.limits
        hub = self._service.hub
        age_s = limits.max_stream_age_s * (1 - _AGE_JITTER * random.random())
        self.deadline = hub.deadlines.arm(self, hub.time() + age_s, Stream._is_of_age)
        first = self._words.opening(position, new, limits.sse_retry_ms)
        headers = stream_headers(self._words.content_type, self._cors)
        self.exchange.start(200, headers, self.exchange.framing.frame(first))

    def beat(self) -> None:
        """Write a heartbeat."""
        self.exchange.write(_heartbeat(self.exchange.framing, self._words))

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Say why the hub ended this reader, unless nothing can be written any more."""
        if code is codes.STALE:
            self._disarm()
            self.exchange.note(self.reader.delivered, code)
            self.exchange.abort(code.name)
        else:
            self._finish(code, _SOON_MS)

    def _is_of_age(self) -> None:
        self.deadline = None
        self._finish(codes.EXPIRED, random.randrange(_SOON_MS))

    def _finish(self, code: Code, retry_ms: int) -> None:
        self._disarm()
        self.reader.close()
        self.exchange.note(self.reader.delivered, code)
        self.exchange.finish(self.exchange.framing.frame(self._words.farewell(code, retry_ms)))

    def _disarm(self) -> None:
        if self.deadline is not None:
            self._service.hub.deadlines.disarm(self, self.deadline)
            self.deadline = None

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.reader.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.reader.writable()

    def gone(self, reason: str) -> None:
        """End the reader: the peer is gone."""
        self._disarm()
        self.exchange.note(self.reader.delivered)
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Tell the peer to come back later, and end."""
        self._finish(codes.SHUTDOWN, retry_ms)


_heartbeats: dict[tuple[Framing, Words], Any] = {}


def _heartbeat(framing: Framing, words: Words) -> Any:
    """Return the framed heartbeat; there are as many as ways of framing, a handful."""
    key = (framing, words)
    if key not in _heartbeats:
        _heartbeats[key] = framing.frame(words.heartbeat)
    return _heartbeats[key]
