"""The one interface between hosts and transports.

A host (our own server, or an ASGI server's application) owns the sockets. For each
request it makes an `Exchange` and hands it to the router; a transport answers over
it. A WebSocket becomes a `MessageChannel`. Transports see neither sockets nor an
ASGI scope, and never wait: every write returns at once, and a peer that does not
keep up is told by `Driver.stalled` and `Driver.writable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from everywire.core.codes import Code
from everywire.hub.interfaces import Framing

__all__ = ["Driver", "Exchange", "Handler", "Headers", "MessageChannel", "MessageDriver", "Request"]

Headers = Sequence[tuple[bytes, bytes]]


class Request:
    """The head of one request, as the host checked it.

    ``path`` and ``query`` are as they came, not percent-decoded. ``headers`` maps lower-case
    names to values, repeated fields joined by ``", "``. ``scheme``, ``host`` and ``peer`` are
    those of the client, seen through trusted proxies; ``is_local`` is True only when the peer
    is on loopback and no proxy spoke for someone else. ``is_upgrade`` says that the client asks
    for WebSocket.

    ``memo`` is for whoever works something out of scheme, host and headers alone: a host gives
    the same dict to requests in which these are the same (but for ``Sec-WebSocket-Key``), since a
    client sends the same fields over and over.
    """

    __slots__ = (
        "headers",
        "host",
        "is_local",
        "is_upgrade",
        "memo",
        "method",
        "path",
        "peer",
        "query",
        "scheme",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[bytes, bytes],
        *,
        scheme: str = "http",
        host: str = "",
        peer: str = "",
        is_local: bool = False,
        is_upgrade: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.scheme = scheme
        self.host = host
        self.peer = peer
        self.is_local = is_local
        self.is_upgrade = is_upgrade
        self.memo: dict[object, Any] = {}

    def header(self, name: bytes) -> str | None:
        """Return a header field's value as text (latin-1), or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Driver(Protocol):
    """What a host tells whoever answers an exchange. All are plain calls from the event loop."""

    def stalled(self) -> None:
        """Hear that bytes remain unsent: write nothing more until `writable`."""

    def writable(self) -> None:
        """Hear that all bytes were taken by the kernel."""

    def gone(self, reason: str) -> None:
        """Hear that the peer is gone; the exchange is dead. Called once, also after `Exchange.abort`,
        but not after the exchange ended by `respond`, `answer` or `finish`."""

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops: tell the peer in the transport's own words to come back after
        ``retry_ms``, and end the exchange."""


class MessageDriver(Driver, Protocol):
    """What a host tells whoever drives a WebSocket."""

    def message(self, data: bytes, binary: bool) -> None:
        """Hear one whole message; text is valid UTF-8."""


class MessageChannel(Protocol):
    """An open WebSocket."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on."""

    @property
    def framing(self) -> Framing:
        """Frames a payload that is a list of ``(binary, data)`` messages; shared by all channels whose
        frames are the same (no extension, or the same deflate parameters)."""

    @property
    def send(self) -> Callable[[Any], int]:
        """Write what `framing` made as far as it goes at once; see `Exchange.send`."""

    @property
    def write(self) -> Callable[[Any], object]:
        """Write what `framing` made."""

    def beat(self) -> None:
        """Send a ping, or end the connection when the last one was never answered."""

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; no more messages are heard. `Driver.gone` follows."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line at close how many publications went out, and why it ended."""

    def pause_reading(self) -> None:
        """Stop hearing messages until `resume_reading`: the publisher is ahead of the store."""

    def resume_reading(self) -> None:
        """Hear messages again."""


class Exchange(Protocol):
    """One request and its answer.

    The answer is one of: `respond` (whole), `answer` (whole, framed before), `start` with any
    number of `write` and a `finish` (streamed), or `upgrade` (a WebSocket). After an error
    before the head was sent the host answers by itself.
    """

    @property
    def request(self) -> Request:
        """The head of the request."""

    @property
    def framing(self) -> Framing:
        """Frames a payload of bytes as one chunk of a streamed body, shared by all exchanges
        whose chunks look the same."""

    @property
    def send(self) -> Callable[[Any], int]:
        """Write what `framing` made as far as it goes at once, as `socket.send` does: returns how much of
        its length was taken, or raises OSError when nothing was. The rest is to be given to `write`. Only
        while the driver is not stalled; looked up once after `start` and called for every joined write."""

    @property
    def write(self) -> Callable[[Any], object]:
        """Write what `framing` made, after `start`. Unsent bytes are told by `Driver.stalled` before
        this returns."""

    def attend(self, driver: Driver, transport: str) -> None:
        """Name who hears about this exchange, and its transport's name for log and metrics."""

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer as a whole; Content-Length, Date and Connection are the host's. HEAD gets no body."""

    def response_framing(self, status: int, headers: Headers) -> Framing:
        """Return the framing that makes whole responses of payload bytes, for `answer`; the same object
        for every exchange that would answer with these bytes."""

    def answer(self, framed: Any, /) -> None:
        """Answer with a whole response that `response_framing` made."""

    def start(self, status: int, headers: Headers, first: Any = None) -> None:
        """Begin a streamed answer: the head goes out at once, joined with the first framed chunk."""

    def finish(self, last: Any = None) -> None:
        """End a streamed answer, joined with a last framed chunk."""

    def abort(self, reason: str) -> None:
        """Cut the connection."""

    def read_body(self, max_bytes: int, done: Callable[[bytes], None]) -> None:
        """Collect the request body and hand it over whole. The host answers a larger one (413), a slow
        one (408) and a malformed one (400) by itself, and ``done`` is then never called."""

    def upgrade(
        self, driver: MessageDriver, transport: str, subprotocols: Sequence[str]
    ) -> MessageChannel | None:
        """Do the opening handshake (RFC 6455 §4.2); None when it was wrong and has been answered."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line at close how many publications went out, and why it ended."""


Handler = Callable[[Exchange], None]
"""Answers an exchange; what the router hands requests to."""
