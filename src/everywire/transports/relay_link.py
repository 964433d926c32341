"""A connection to another node's private address: HTTP/1.1 as a client (RFC 9112), one request at a time.

Answers are read by llhttp (`httptools`) and handed on piece by piece; after 101 bytes are handed on as they
are. Everything is a plain call from the event loop. Bounded: the head of an answer and its trailers, and how
long a peer may be silent while it is asked for something, until the connection becomes a WebSocket's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, cast

import httptools

from everywire.codecs.http.response import STATUS_LINES
from everywire.core.wheel import Slot
from everywire.hub.hub import Hub

__all__ = ["CONFIRMATION", "RELEASE", "AnswerHead", "Hearing", "PeerLink"]

RELEASE: Final = b"\r\n"
"""Sent while an answer is waited for, it asks the owner to end it (`everywire.transports.relay.Releasable`).
If the answer was on its way already, it is an empty line before the next request, which means nothing."""

CONFIRMATION: Final = RELEASE
"""Sent when the answer was given to the client (`everywire.transports.relay.Confirmable`): the same bytes,
which mean this while nothing is waited for."""

_MAX_HEAD_BYTES: Final = 64 * 1024
_WRITE_HIGH_BYTES: Final = 64 * 1024
_SWITCHING: Final = 101


class AnswerHead(NamedTuple):
    """The head of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Names in lower case, repeated fields as they came."""
    length: int | None
    """The Content-Length; None when the answer is chunked, or ends with its connection."""


class Hearing(Protocol):
    """Who hears about one request."""

    def answered(self, head: AnswerHead, data: bytes) -> None:
        """Hear the head of the answer, and what of its body came along."""

    def data(self, data: bytes) -> None:
        """Hear more of the body, or what came after an upgrade."""

    def ended(self) -> None:
        """Hear that the answer is complete; the link is somebody else's now."""

    def upgraded(self, head: AnswerHead, data: bytes) -> None:
        """Hear that the peer agreed to speak WebSocket, and what it has said already."""

    def broken(self, reason: str) -> None:
        """Hear that the connection is gone, or was no good."""

    def full(self) -> None:
        """Hear that bytes written remain unsent."""

    def ready(self) -> None:
        """Hear that they were taken."""


class _Answer:
    """What the parser found: its callbacks, by the names that httptools gives them."""

    __slots__ = ("data", "has_head", "headers", "is_complete", "keeps_alive", "length", "parser")

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.data: list[bytes] = []
        self.length: int | None = None
        self.has_head = self.is_complete = self.keeps_alive = False

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("more than one answer")  # whose would it be?

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers go no further
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.keeps_alive = self.parser.should_keep_alive()
        if 100 <= self.parser.get_status_code() < 200 and self.parser.get_status_code() != _SWITCHING:
            self.headers = []
            return
        self.has_head = True
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self.length = int(lengths[0]) if lengths else None

    def on_body(self, data: bytes) -> None:
        self.data.append(data)

    def on_message_complete(self) -> None:
        self.is_complete = self.has_head

    def head(self) -> AnswerHead:
        return AnswerHead(self.parser.get_status_code(), self.headers, self.length)


class PeerLink(asyncio.Protocol):
    """One connection; ``on_idle`` and ``on_closed`` are its pool's."""

    __slots__ = (
        "_answer",
        "_head_bytes",
        "_heard_s",
        "_hearing",
        "_hub",
        "_is_reading",
        "_is_told",
        "_is_upgraded",
        "_is_whole",
        "_on_closed",
        "_on_idle",
        "_silence_s",
        "_timer",
        "_transport",
        "idle_s",
    )

    def __init__(
        self, hub: Hub, on_idle: Callable[[PeerLink], None], on_closed: Callable[[PeerLink], None]
    ) -> None:
        self._hub = hub
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._hearing: Hearing | None = None
        self._answer: _Answer | None = None
        self._timer: Slot | None = None
        self._silence_s = hub.limits.relay_silence_s
        self._heard_s = self.idle_s = 0.0
        self._head_bytes = 0
        self._is_told = self._is_upgraded = self._is_whole = False
        self._is_reading = True

    # -- what its user calls --------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, hearing: Hearing, head: bytes, *, is_whole: bool) -> None:
        """Send the head of a request; ``is_whole`` says that it is all of it."""
        self._hearing = hearing
        self._answer = _Answer()
        self._head_bytes = 0
        self._is_told = False
        self._is_whole = is_whole
        self._heard_s = self._hub.time()
        self._timer = self._hub.deadlines.arm(self, self._heard_s + self._silence_s, PeerLink._look)
        self.write(head)

    def write(self, data: bytes, *, is_whole: bool | None = None) -> None:
        """Send bytes; with ``is_whole`` the request is complete."""
        if is_whole is not None:
            self._is_whole = is_whole
        if self._transport is not None:
            self._transport.write(data)

    @property
    def is_asked(self) -> bool:
        """Whether all of the request was sent, and its answer is not complete."""
        return self._hearing is not None and self._is_whole and not self._is_upgraded

    def hand_over(self, hearing: Hearing) -> None:
        """Have another one hear from now on."""
        self._hearing = hearing

    def pause(self) -> None:
        """Hear no more until `resume`."""
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Hear more."""
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._heard_s = self._hub.time()
            self._transport.resume_reading()

    def close(self) -> None:
        """Close after what was written has left; nothing more is heard."""
        self._forget()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut it; nothing more is heard."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    # -- what the event loop calls -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own have no common base
        self._transport.set_write_buffer_limits(_WRITE_HIGH_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        hearing = self._forget()
        self._on_closed(self)
        if hearing is not None:
            hearing.broken("left" if exc is None else "reset")

    def pause_writing(self) -> None:
        """Pass on that bytes remain unsent."""
        if self._hearing is not None:
            self._hearing.full()

    def resume_writing(self) -> None:
        """Pass on that they were taken."""
        if self._hearing is not None:
            self._hearing.ready()

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self._heard_s = self._hub.time()
        hearing, answer = self._hearing, self._answer
        if hearing is None or answer is None:
            self.abort()  # nobody asked
        elif self._is_upgraded:
            hearing.data(data)
        else:
            try:
                answer.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._is_upgraded = True
                self._disarm()
                hearing.upgraded(answer.head(), data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._fail("sent no HTTP")
            else:
                self._tell(hearing, answer, len(data))

    def _tell(self, hearing: Hearing, answer: _Answer, size: int) -> None:
        if answer.has_head and answer.parser.get_status_code() not in STATUS_LINES:
            self._fail("sent a status that nobody knows")
            return
        data = b"".join(answer.data)
        answer.data.clear()
        # Also what comes between pieces of a body and after it.
        self._head_bytes = 0 if data else self._head_bytes + size
        if self._head_bytes > _MAX_HEAD_BYTES and not answer.is_complete:
            self._fail("sent too large a head")
            return
        if not answer.has_head:
            return
        if answer.is_complete:
            self._forget()
        if not self._is_told:
            self._is_told = True
            hearing.answered(answer.head(), data)
        elif data:
            hearing.data(data)
        if answer.is_complete:
            hearing.ended()
            self._finish(answer.keeps_alive and self._is_whole)

    def _finish(self, can_be_kept: bool) -> None:
        """Confirm the answer, and let the next request have the connection."""
        self.write(CONFIRMATION)
        if can_be_kept and self.is_open:
            self.resume()
            self.idle_s = self._heard_s
            self._on_idle(self)
        else:
            self.close()

    def _fail(self, reason: str) -> None:
        hearing = self._hearing
        self.abort()
        if hearing is not None:
            hearing.broken(reason)

    # -- silence -----------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = None
        due_s = self._heard_s + self._silence_s
        now_s = self._hub.time()
        if not self._is_reading or now_s < due_s:
            self._timer = self._hub.deadlines.arm(self, max(due_s, now_s + 1.0), PeerLink._look)
        else:
            self._fail("silent")

    def _disarm(self) -> None:
        if self._timer is not None:
            self._hub.deadlines.disarm(self, self._timer)
            self._timer = None

    def _forget(self) -> Hearing | None:
        self._disarm()
        hearing, self._hearing = self._hearing, None
        self._answer = None
        return hearing
