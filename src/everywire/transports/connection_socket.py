"""Sessions over WebSocket, and one-way ones: replies and pushes out, commands in.

The form is JSON unless Protobuf is asked for, by ``cf_protocol=protobuf`` or ``format=protobuf`` in the URL
or by the subprotocol ``centrifuge-protobuf``. With ``cf_ws_frame_ping_pong=true`` WebSocket's own pings take
the place of the protocol's, for clients that know nothing of these. The close frame says why it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import Disconnect, Push
from everywire.core import codes
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import (
    UNI_WEBSOCKET,
    WEBSOCKET_JSON,
    WEBSOCKET_JSON_OWN_PINGS,
    WEBSOCKET_PROTOBUF,
    WEBSOCKET_PROTOBUF_OWN_PINGS,
)
from everywire.sessions.session import Session
from everywire.sessions.shared import Shared
from everywire.transports.connection_asked import CONNECT, Asked, marked
from everywire.transports.exchange import MessageChannel

__all__ = ["SocketCarrier", "serve_uni_websocket", "serve_websocket"]

JSON: Final = "centrifuge-json"
PROTOBUF: Final = "centrifuge-protobuf"
_MAX_REASON_BYTES: Final = 123
"""What a close frame holds besides its code (RFC 6455 §5.5)."""


def serve_websocket(asked: Asked) -> None:
    """Shake hands, and carry a session."""
    auth = asked.auth()
    is_binary = "protobuf" in (auth.query.get("cf_protocol"), auth.query.get("format"))
    has_own_pings = auth.query.get("cf_ws_frame_ping_pong") == "true"
    carrier = SocketCarrier()
    subprotocols = (PROTOBUF,) if is_binary else (JSON, PROTOBUF)
    channel = asked.exchange.upgrade(carrier, asked.transport, subprotocols)
    if channel is None:
        return
    if is_binary or channel.subprotocol == PROTOBUF:
        dialect = WEBSOCKET_PROTOBUF_OWN_PINGS if has_own_pings else WEBSOCKET_PROTOBUF
    else:
        dialect = WEBSOCKET_JSON_OWN_PINGS if has_own_pings else WEBSOCKET_JSON
    carrier.begin(asked.service.shared, channel, dialect, auth)


def serve_uni_websocket(asked: Asked) -> None:
    """Shake hands, and carry a one-way session; it begins with ``cf_connect``, or the first message."""
    auth = asked.auth()
    text = auth.query.get(CONNECT)
    data = None if text is None else text.encode("utf-8", "surrogatepass")
    if data is not None:
        auth = marked(auth, UNI_WEBSOCKET, data)
    carrier = UniSocketCarrier()
    channel = asked.exchange.upgrade(carrier, asked.transport, (JSON,))
    if channel is None:
        return
    carrier.begin(asked.service.shared, channel, UNI_WEBSOCKET, auth)
    if data is not None:
        carrier.message(data, False)


class SocketCarrier:
    """A WebSocket that carries a session: the message channel's driver."""

    __slots__ = ("channel", "dialect", "framing", "session")

    transport = "websocket"
    is_emulated = False

    channel: MessageChannel
    dialect: Dialect
    framing: Framing
    session: Session

    def begin(self, shared: Shared, channel: MessageChannel, dialect: Dialect, auth: AuthRequest) -> None:
        """Carry a session over the open channel."""
        self.channel = channel
        self.framing = channel.framing
        self.dialect = dialect
        self.session = Session(shared, self, auth)

    # -- what the session asks (Carrier) ----------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write frames as far as it goes: the host's own."""
        return self.channel.send

    def write(self, framed: Any, /) -> None:
        """Write frames."""
        self.channel.write(framed)

    def beat(self) -> None:
        """Send WebSocket's own ping."""
        self.channel.beat()

    def close(self, code: Code, reason: str) -> None:
        """Close; the close frame says why."""
        shortened = reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
        self.channel.close(code.number, shortened)

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
        self.channel.note(messages_out, code)

    def pause_reading(self) -> None:
        """Hear no more messages."""
        self.channel.pause_reading()

    def resume_reading(self) -> None:
        """Hear messages again."""
        self.channel.resume_reading()

    # -- what the host tells -------------------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Hand over the commands of a message."""
        if self.dialect.is_binary and not binary:
            self.session.disconnect(codes.BAD_PROTOCOL, "this connection has binary messages")
        else:
            self.session.receive_bytes(data)

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.session.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.session.writable()

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        self.session.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        self.session.drain(retry_ms)


class UniSocketCarrier(SocketCarrier):
    """A one-way WebSocket: after the connect request nothing is heard."""

    __slots__ = ("_is_asked",)

    transport = "uni_websocket"

    def begin(self, shared: Shared, channel: MessageChannel, dialect: Dialect, auth: AuthRequest) -> None:
        """Carry a session over the open channel."""
        self._is_asked = False
        super().begin(shared, channel, dialect, auth)

    def message(self, data: bytes, binary: bool) -> None:
        """Take the first message for the connect request."""
        if not self._is_asked:
            self._is_asked = True
            self.session.receive_bytes(data)

    def close(self, code: Code, reason: str) -> None:
        """Say why by a push, too, and close."""
        told = Push(disconnect=Disconnect(code=code.number, reason=reason))
        self.write(self.framing.frame(self.dialect.push(told)))
        super().close(code, reason)
