"""HTTP streaming and server-sent events: an answer that never ends by itself.

Both begin with the position, so that a reader that is cut before its first publication
can resume. They differ in their words only: NDJSON has lines, SSE has blocks (WHATWG
HTML §9.2). Such an answer ends at a maximum age with jitter, after the reader was told to
come back, so that load re-balances between servers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from everywire.access.quotas import Admission
from everywire.codecs.json_text import dump
from everywire.codecs.sse import CONTENT_TYPE, encode_comment, encode_event, encode_id, encode_retry
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.publication import Gap
from everywire.core.wheel import Slot
from everywire.hub.interfaces import Encoder, Framing
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST
from everywire.transports.encoders import NDJSON, SSE, opening
from everywire.transports.service import Ask, refuse, stream_headers
from everywire.transports.stay import Stay, end_of_reading

__all__ = ["serve_sse", "serve_stream"]

_AGE_JITTER: Final = 0.2
_SOON_MS: Final = 1_000


class Words(Protocol):
    """What a streaming format says besides publications and gaps."""

    content_type: bytes
    transport: str
    encoders: tuple[Encoder, Encoder]
    heartbeat: bytes

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return the beginning: where reading begins, and which channels start live."""

    def expiring(self, left_s: int) -> bytes:
        """Return what tells that the credential runs out soon."""

    def farewell(self, code: Code, retry_ms: int, reason: str) -> bytes:
        """Return the last words: why it ends, and when to come back."""


class SseWords:
    """Blocks of an event stream."""

    content_type = CONTENT_TYPE
    transport = "sse"
    encoders: tuple[Encoder, Encoder] = SSE
    heartbeat = encode_comment()

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return a block with only ``id:``, one with ``retry:``, and an ``open`` event for new channels."""
        named = encode_event(dump({"new": list(new)}), event="open") if new else b""
        return encode_id(position) + encode_retry(retry_ms) + named

    def expiring(self, left_s: int) -> bytes:
        """Return an ``open`` event, by which this wire tells what concerns the connection."""
        return encode_event(dump({"expires_in": left_s}), event="open")

    def farewell(self, code: Code, retry_ms: int, reason: str) -> bytes:
        """Return the new reconnection time; a terminal code is told as an ``error`` event."""
        told = b"" if code.reconnect else encode_event(_reason(code, reason), event="error")
        return encode_retry(retry_ms) + told + encode_comment(f" {code.name}")


class NdjsonWords:
    """Lines of JSON."""

    content_type = b"application/x-ndjson"
    transport = "stream"
    encoders: tuple[Encoder, Encoder] = NDJSON
    heartbeat = b"{}\n"

    def opening(self, position: str, new: Sequence[str], retry_ms: int) -> bytes:
        """Return a line with the position, and the new channels."""
        return opening(position, new) + b"\n"

    def expiring(self, left_s: int) -> bytes:
        """Return a line."""
        return dump({"expires_in": left_s}) + b"\n"

    def farewell(self, code: Code, retry_ms: int, reason: str) -> bytes:
        """Return a ``disconnect`` line with code, reason and, where it may come back, the delay."""
        return b'{"disconnect":%s}\n' % _reason(code, reason, retry_ms)


def _reason(code: Code, reason: str, retry_ms: int | None = None) -> bytes:
    told: dict[str, object] = {"code": code.number, "reason": reason}
    if retry_ms is not None and code.reconnect:
        told["retry"] = retry_ms
    return dump(told)


_SSE_WORDS: Final = SseWords()
_NDJSON_WORDS: Final = NdjsonWords()


def serve_sse(ask: Ask) -> None:
    """Answer with server-sent events."""
    _serve(ask, _SSE_WORDS)


def serve_stream(ask: Ask) -> None:
    """Answer with lines of JSON."""
    _serve(ask, _NDJSON_WORDS)


def _serve(ask: Ask, words: Words) -> None:
    service, exchange, identity = ask.service, ask.exchange, ask.identity
    stream = Stream(ask, words, service.admit(identity, ask.peer))
    exchange.attend(stream, ask.transport)
    hub = service.hub
    encoder = words.encoders[ask.has_several]
    stream.reader = hub.reader(ask.channels, encoder, exchange.framing, stream)
    if identity.kind:
        stream.stay = Stay(service.shared, stream, ask.channels)
    hub.open(stream.reader, ask.start or LATEST)


class Stream:
    """One streamed answer: the exchange's driver, the hub's subscriber, and a visitor if it is somebody's."""

    __slots__ = (
        "_admission",
        "_cors",
        "_ends_s",
        "_is_started",
        "_service",
        "_words",
        "deadline",
        "exchange",
        "identity",
        "peer",
        "reader",
        "stay",
    )

    client = session_id = ""
    reader: Reader

    def __init__(self, ask: Ask, words: Words, admission: Admission) -> None:
        self._service = ask.service
        self._words = words
        self._cors = ask.cors
        self._admission: Admission | None = admission
        self._ends_s = 0.0
        self._is_started = False
        self.exchange = ask.exchange
        self.identity = ask.identity
        self.peer = ask.peer
        self.deadline: Slot | None = None
        self.stay: Stay | None = None

    # -- what the hub tells -----------------------------------------------------

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
        age_s = limits.max_stream_age_s * (1 - _AGE_JITTER * random.random())
        self._ends_s = self._service.hub.time() + age_s
        self._arm()
        self._is_started = True
        first = self._words.opening(position, new, limits.sse_retry_ms)
        headers = stream_headers(self._words.content_type, self._cors)
        self.exchange.start(200, headers, self.exchange.framing.frame(first))

    def beat(self) -> None:
        """Write a heartbeat."""
        self.exchange.write(_heartbeat(self.exchange.framing, self._words))

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Say why the hub ended this reader, unless nothing can be written any more."""
        if code is codes.STALE:
            self._leave()
            self.exchange.note(self.reader.delivered, code)
            self.exchange.abort(code.name)
        else:
            self._finish(code, _SOON_MS)

    # -- its end ------------------------------------------------------------------

    def _arm(self) -> None:
        stay = self.stay
        due_s = self._ends_s if stay is None else stay.next_s(self._ends_s)
        self.deadline = self._service.hub.deadlines.arm(self, due_s, Stream._is_due)

    def _is_due(self) -> None:
        self.deadline = None
        is_of_age = self._service.hub.time() >= self._ends_s
        left_s = None if self.stay is None or is_of_age else self.stay.warning_s()
        if left_s is None:
            self._finish(codes.EXPIRED, random.randrange(_SOON_MS))
        else:
            self._arm()
            self.exchange.write(self.exchange.framing.frame(self._words.expiring(left_s)))

    def _finish(self, code: Code, retry_ms: int, reason: str = "") -> None:
        self._leave()
        self.reader.close()
        self.exchange.note(self.reader.delivered, code)
        if self._is_started:
            farewell = self._words.farewell(code, retry_ms, reason or code.sentence)
            self.exchange.finish(self.exchange.framing.frame(farewell))
        else:
            # The log did not say yet where reading begins.
            refuse(self.exchange, EverywireError(reason, code=code), self._cors)

    def _leave(self) -> None:
        if self.deadline is not None:
            self._service.hub.deadlines.disarm(self, self.deadline)
            self.deadline = None
        if self._admission is not None:
            self._admission.release()
            self._admission = None
        if self.stay is not None:
            self.stay.end()
            self.stay = None

    # -- what the host tells ------------------------------------------------------

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.reader.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.reader.writable()

    def gone(self, reason: str) -> None:
        """End the reader: the peer is gone."""
        self._leave()
        self.exchange.note(self.reader.delivered)
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Tell the peer to come back later, and end."""
        self._finish(codes.SHUTDOWN, retry_ms)

    # -- what the registry tells ----------------------------------------------------

    @property
    def transport(self) -> str:
        """The wire's name."""
        return self._words.transport

    @property
    def channels(self) -> Iterable[str]:
        """The channels that are read."""
        return [channel.name for channel in self.reader.group.channels]

    def disconnect(self, code: Code, reason: str = "") -> None:
        """Say why the server ends this, and end."""
        if not self.reader.is_closed:
            self._finish(code, _SOON_MS, reason)

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End as a whole: this reads all of its channels or none."""
        self.disconnect(*end_of_reading(channel, code))


_heartbeats: dict[tuple[Framing, Words], Any] = {}


def _heartbeat(framing: Framing, words: Words) -> Any:
    """Return the framed heartbeat; there are as many as ways of framing, a handful."""
    key = (framing, words)
    if key not in _heartbeats:
        _heartbeats[key] = framing.frame(words.heartbeat)
    return _heartbeats[key]
