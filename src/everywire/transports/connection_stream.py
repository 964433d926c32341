"""Sessions over an answer that never ends: http_stream and SSE, and their one-way forms.

The request brings the first commands: in its body, or for a GET in ``cf_connect``. The answer's head goes
out at once, because clients give up after some seconds without it, and no proxy may hold it back. Further
commands come by ``/emulation``; one-way carriers hear none. There is no close code here, so the last
thing that is written is the push ``disconnect``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import Disconnect, Push
from everywire.codecs.sse import CONTENT_TYPE, encode_comment
from everywire.core.codes import Code
from everywire.core.errors import BadRequest
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import (
    HTTP_STREAM_JSON,
    HTTP_STREAM_PROTOBUF,
    SSE,
    UNI_HTTP_STREAM,
    UNI_SSE,
)
from everywire.sessions.session import Session
from everywire.transports.connection_asked import CONNECT, Asked, marked, wants_protobuf
from everywire.transports.service import refuse, stream_headers

__all__ = [
    "BINARY_TYPE",
    "LINES_TYPE",
    "StreamCarrier",
    "serve_http_stream",
    "serve_sse",
    "serve_uni_http_stream",
    "serve_uni_sse",
]

LINES_TYPE: Final = b"application/x-ndjson"
BINARY_TYPE: Final = b"application/octet-stream"
_SSE_TYPE: Final = CONTENT_TYPE + b"; charset=utf-8"
_SSE_OPENING: Final = encode_comment()
_NO_CONNECT: Final = b"{}"


def serve_http_stream(asked: Asked) -> None:
    """Carry a session whose replies are lines, or messages with their lengths."""
    if wants_protobuf(asked):
        _serve_body(asked, HTTP_STREAM_PROTOBUF, BINARY_TYPE)
    else:
        _serve_body(asked, HTTP_STREAM_JSON, LINES_TYPE)


def serve_uni_http_stream(asked: Asked) -> None:
    """Carry a one-way session whose pushes are lines."""
    _serve_body(asked, UNI_HTTP_STREAM, LINES_TYPE)


def serve_sse(asked: Asked) -> None:
    """Carry a session whose replies are events."""
    if asked.exchange.request.method == "GET":
        _serve_query(asked, SSE)
    else:
        _serve_body(asked, SSE, _SSE_TYPE)


def serve_uni_sse(asked: Asked) -> None:
    """Carry a one-way session whose pushes are events; a GET needs to say nothing."""
    if asked.exchange.request.method == "GET":
        _serve_query(asked, UNI_SSE)
    else:
        _serve_body(asked, UNI_SSE, _SSE_TYPE)


def _serve_body(asked: Asked, dialect: Dialect, content_type: bytes) -> None:
    auth = asked.auth()
    carrier = StreamCarrier(asked, dialect)

    def take(body: bytes) -> None:
        if body.strip():
            carrier.begin(auth, content_type, body)
        else:
            carrier.refuse(BadRequest("the body holds the first command, which is connect"))

    asked.exchange.read_body(asked.service.limits.max_body_bytes, take)


def _serve_query(asked: Asked, dialect: Dialect) -> None:
    auth = asked.auth()
    text = auth.query.get(CONNECT)
    if text is None and not dialect.is_one_way:
        raise BadRequest(f"{CONNECT} is missing: the connect command, URL-encoded")
    data = _NO_CONNECT if text is None else text.encode("utf-8", "surrogatepass")
    StreamCarrier(asked, dialect).begin(marked(auth, dialect, data), _SSE_TYPE, data)


class StreamCarrier:
    """A streamed answer that carries a session: the exchange's driver."""

    __slots__ = (
        "_asked",
        "_retry_ms",
        "dialect",
        "exchange",
        "framing",
        "is_emulated",
        "session",
        "transport",
    )

    def __init__(self, asked: Asked, dialect: Dialect) -> None:
        self._asked = asked
        self._retry_ms: int | None = None
        self.transport = asked.transport
        self.dialect = dialect
        self.is_emulated = not dialect.is_one_way
        self.exchange = asked.exchange
        self.framing: Framing = asked.exchange.framing
        self.session: Session | None = None
        asked.exchange.attend(self, asked.transport)

    def begin(self, auth: AuthRequest, content_type: bytes, data: bytes) -> None:
        """Send the head, and hand over the first commands."""
        asked = self._asked
        first = self.framing.frame(_SSE_OPENING) if content_type is _SSE_TYPE else None
        self.exchange.start(200, stream_headers(content_type, asked.cors), first)
        session = self.session = Session(asked.service.shared, self, auth)
        if self._retry_ms is None:
            session.receive_bytes(data)
        else:
            session.drain(self._retry_ms)

    def refuse(self, error: BadRequest) -> None:
        """Answer with an error; there is no session."""
        refuse(self.exchange, error, self._asked.cors)

    # -- what the session asks (Carrier) ----------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write a chunk as far as it goes: the host's own."""
        return self.exchange.send

    def write(self, framed: Any, /) -> None:
        """Write a chunk."""
        self.exchange.write(framed)

    def beat(self) -> None:
        """Do nothing: there are no pings but the protocol's."""

    def close(self, code: Code, reason: str) -> None:
        """Say why, and end the answer."""
        told = Push(disconnect=Disconnect(code=code.number, reason=reason))
        self.exchange.finish(self.framing.frame(self.dialect.push(told)))

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
        self.exchange.note(messages_out, code)

    def pause_reading(self) -> None:
        """Do nothing: commands come by other requests."""

    def resume_reading(self) -> None:
        """Do nothing."""

    # -- what the host tells -------------------------------------------------------------

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        if self.session is not None:
            self.session.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        if self.session is not None:
            self.session.writable()

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        if self.session is not None:
            self.session.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        if self.session is None:
            self._retry_ms = retry_ms  # the first commands are still on their way
        else:
            self.session.drain(retry_ms)
