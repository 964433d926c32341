"""SockJS's ways from the server to the client over HTTP: polls, and answers that stream.

A receiver is the driver of one exchange and tells its session what becomes of it. A poll is answered with one
frame, in the turn after the first message came, so that what is told in one turn goes along; a streamed
answer carries a frame in each chunk, and ends when it has carried `SockJsOptions.response_bytes`, because
browsers keep all of it.

Formats are shared, and what many receivers of a format are told alike is put together once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from everywire.codecs.sockjs import (
    EVENT_PRELUDE,
    HEARTBEAT,
    XHR_PRELUDE,
    as_event,
    as_line,
    as_script,
    encode_messages,
)
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sockets.sockjs import SockJsSession
from everywire.transports.exchange import Exchange, Headers

__all__ = [
    "EVENT_SOURCE",
    "HTML_FILE",
    "SCRIPT_TYPE",
    "XHR_STREAMING",
    "Format",
    "PollReceiver",
    "StreamReceiver",
]

SCRIPT_TYPE: Final = b"application/javascript; charset=UTF-8"


class Format(NamedTuple):
    """How a streamed answer looks."""

    name: str
    content_type: bytes
    prelude: bytes
    wrap: Callable[[bytes], bytes]


XHR_STREAMING: Final = Format("xhr_streaming", SCRIPT_TYPE, XHR_PRELUDE, as_line)
EVENT_SOURCE: Final = Format("eventsource", b"text/event-stream", EVENT_PRELUDE, as_event)
HTML_FILE: Final = Format("htmlfile", b"text/html; charset=UTF-8", b"", as_script)
"""Its prelude names the callback."""


class _Chunks:
    """The chunks of one format in one framing; the last one of messages is remembered, since a crowd is told
    the same."""

    __slots__ = ("_elements", "_framing", "_last", "_wrap")

    def __init__(self, wrap: Callable[[bytes], bytes], framing: Framing) -> None:
        self._wrap = wrap
        self._framing = framing
        self._elements: bytes | None = None
        self._last: tuple[Any, int] = (None, 0)

    def frame(self, frame: bytes) -> tuple[Any, int]:
        """Return the chunk of a frame, and how much it carries."""
        wrapped = self._wrap(frame)
        return self._framing.frame(wrapped), len(wrapped)

    def messages(self, elements: bytes) -> tuple[Any, int]:
        """Return the chunk of messages, and how much it carries."""
        if elements is not self._elements:
            self._last = self.frame(encode_messages((elements,)))
            self._elements = elements
        return self._last


_MOST_KINDS: Final = 32
_chunks: Final[dict[tuple[str, Framing], _Chunks]] = {}


def _chunks_of(format_: Format, framing: Framing) -> _Chunks:
    """Return what all receivers of a format on one kind of host share; there is a handful."""
    key = (format_.name, framing)
    found = _chunks.get(key)
    if found is None:
        if len(_chunks) >= _MOST_KINDS:
            _chunks.clear()
        found = _chunks[key] = _Chunks(format_.wrap, framing)
    return found


class _Answered:
    """What every receiver over HTTP has: the exchange that it answers."""

    __slots__ = ("_exchange", "_session", "is_over")

    def __init__(self, exchange: Exchange, session: SockJsSession) -> None:
        self._exchange = exchange
        self._session = session
        self.is_over = False

    def abort(self) -> None:
        """Cut it off."""
        self.is_over = True
        self._exchange.abort("stalled")

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line."""
        if not self.is_over:
            self._exchange.note(messages_out, code)

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        self._session.drain(retry_ms)

    def unheard(self) -> None:
        """Hear that the node broke down that was to give the answer."""
        self._session.lose_answer()


class StreamReceiver(_Answered):
    """A streamed answer."""

    __slots__ = ("_chunks", "_left_bytes", "is_stalled")

    def __init__(self, exchange: Exchange, format_: Format, session: SockJsSession, headers: Headers) -> None:
        """Send the head and the prelude."""
        super().__init__(exchange, session)
        self._chunks = _chunks_of(format_, exchange.framing)
        self._left_bytes = session.response_bytes
        self.is_stalled = False
        exchange.attend(self, f"sockjs-{format_.name}")
        exchange.start(200, headers, exchange.framing.frame(format_.prelude))

    # -- what the session tells (Receiver) ---------------------------------------------

    def tell(self, frame: bytes) -> None:
        """Write a frame."""
        if not self.is_over:
            self._write(*self._chunks.frame(frame))

    def take(self, elements: bytes) -> None:
        """Write messages."""
        if not self.is_over:
            self._write(*self._chunks.messages(elements))

    def _write(self, chunk: Any, size: int) -> None:
        self._left_bytes -= size
        self._exchange.write(chunk)
        self._check()

    def _check(self) -> None:
        """End when enough was carried and the peer has all of it."""
        if self._left_bytes <= 0 and not self.is_stalled and not self.is_over:
            self.finish()
            self._session.detached(self)

    def finish(self) -> None:
        """End the answer."""
        if not self.is_over:
            self.is_over = True
            self._exchange.finish()

    # -- what the host tells (Driver) ----------------------------------------------------

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.is_stalled = True
        self._session.receiver_stalled(self)

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.is_stalled = False
        self._check()
        if not self.is_over:
            self._session.receiver_writable(self)

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        self.is_over = True
        self._session.interrupted(self)

    def release(self) -> None:
        """Hear that the node stops that carries the answer to the client: it asks again elsewhere."""
        self.finish()
        self._session.detached(self)


class PollReceiver(_Answered):
    """A poll: answered with one frame, and the client asks again."""

    __slots__ = ("_elements", "_headers", "_max_bytes", "_size", "_wrap")

    def __init__(
        self,
        exchange: Exchange,
        name: str,
        session: SockJsSession,
        headers: Headers,
        wrap: Callable[[bytes], bytes],
        max_bytes: int,
    ) -> None:
        super().__init__(exchange, session)
        self._headers = headers
        self._wrap = wrap
        self._max_bytes = max_bytes
        self._elements: list[bytes] = []
        self._size = 0
        exchange.attend(self, f"sockjs-{name}")

    # -- what the session tells (Receiver) ---------------------------------------------

    @property
    def is_stalled(self) -> bool:
        """Whether the answer is full."""
        return self._size >= self._max_bytes

    def tell(self, frame: bytes) -> None:
        """Answer with a frame, unless there are messages, which go first."""
        if not self._elements:
            self._answer(frame)

    def take(self, elements: bytes) -> None:
        """Add messages to the answer, which is given in the next turn."""
        if not self._elements:
            asyncio.get_running_loop().call_soon(self.finish)
        self._elements.append(elements)
        self._size += len(elements) + 1
        if self.is_stalled:
            self._session.receiver_stalled(self)

    def finish(self) -> None:
        """Answer with the messages that there are."""
        if self._elements:
            self._answer(encode_messages(self._elements))

    def _answer(self, frame: bytes) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._elements = []
        self._exchange.respond(200, self._headers, self._wrap(frame))
        self._session.detached(self)

    # -- what the host tells (Driver) ----------------------------------------------------

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        if not self.is_over:
            self.is_over = True
            self._session.interrupted(self)

    def release(self) -> None:
        """Hear that the node stops that carries the answer to the client: it asks again elsewhere."""
        self.tell(HEARTBEAT)
