"""A WebSocket carried through: the client's ends here, and another goes to the owner of its session.

Messages pass one by one in both directions; each side negotiates its own compression, and pings are answered
where they come to: what speaks above has signs of life of its own. Who does not keep up pauses who sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everywire.codecs.websocket import BinaryMessage, CloseReceived, Role, TextMessage, WebSocketCodec
from everywire.codecs.websocket.events import Failed
from everywire.codecs.websocket.frames import may_be_sent
from everywire.codecs.websocket.handshake import HandshakeError, check_response
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.transports.exchange import Exchange, MessageChannel
from everywire.transports.relay_link import AnswerHead, PeerLink

__all__ = ["TRANSPORT", "carry_socket"]

TRANSPORT: Final = "forwarded-websocket"
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_RESTART: Final = 1012
_MOST_TIMES: Final = 16
"""How much larger than a client's a message of the owner may be: what it says is bounded there."""


def carry_socket(
    exchange: Exchange, link: PeerLink, limits: Limits, head: AnswerHead, key: bytes, data: bytes
) -> bool:
    """Shake hands with the client as the owner did with us, and carry messages; False when that failed."""
    headers: Mapping[bytes, bytes] = dict(head.headers)
    try:
        check_response(head.status, headers, key=key)
    except HandshakeError:
        link.abort()
        exchange.abort("owner gone")
        return False
    socket = _CarriedSocket(link, limits)
    channel = exchange.upgrade(socket, TRANSPORT, ())
    if channel is None:
        link.abort()
        return True
    socket.begin(channel, data)
    return True


class _CarriedSocket:
    """The client's WebSocket and the way to the owner: driver of one, and who hears the other."""

    __slots__ = ("_channel", "_codec", "_link")

    _channel: MessageChannel

    def __init__(self, link: PeerLink, limits: Limits) -> None:
        self._link: PeerLink | None = link
        self._codec = WebSocketCodec(
            Role.CLIENT,
            max_message_bytes=_MOST_TIMES * limits.max_message_bytes,
            max_fragments=limits.max_fragments,
        )

    def begin(self, channel: MessageChannel, data: bytes) -> None:
        """Carry messages; ``data`` is what the owner has said already."""
        self._channel = channel
        if self._link is not None:
            self._link.hand_over(self)
            if data:
                self.data(data)

    # -- from the client (MessageDriver) -----------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Send a message to the owner."""
        if self._link is not None:
            if binary:
                self._codec.send_binary(data)
            else:
                self._codec.send_text(data)
            self._link.write(self._codec.data_to_send())

    def stalled(self) -> None:
        """Let the owner wait for the client."""
        if self._link is not None:
            self._link.pause()

    def writable(self) -> None:
        """Let the owner go on."""
        if self._link is not None:
            self._link.resume()

    def gone(self, reason: str) -> None:
        """Close the way to the owner."""
        link, self._link = self._link, None
        if link is not None:
            self._codec.send_close(_GOING_AWAY, "")
            link.write(self._codec.data_to_send())
            link.close()

    def drain(self, retry_ms: int) -> None:
        """Close: the client comes back by another node."""
        self._channel.close(_RESTART, codes.SERVICE_RESTART.sentence)

    # -- from the owner (Hearing) --------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """Pass on messages, or the end."""
        codec = self._codec
        messages: list[tuple[bool, bytes]] = []
        end: CloseReceived | Failed | None = None
        for event in codec.receive_data(data):
            if isinstance(event, TextMessage | BinaryMessage):
                messages.append((isinstance(event, BinaryMessage), event.data))
            elif isinstance(event, CloseReceived | Failed):
                end = event
        if messages:
            self._channel.write(self._channel.framing.frame(messages))
        owed = codec.data_to_send()
        if owed and self._link is not None:
            self._link.write(owed)
        if end is not None:
            self._end(end)

    def _end(self, end: CloseReceived | Failed) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        code = end.code if may_be_sent(end.code) else _NORMAL
        self._channel.close(_RESTART if isinstance(end, Failed) else code, end.reason)

    def answered(self, head: AnswerHead, data: bytes) -> None:
        """Hear nothing: there is no answer after an upgrade."""

    def upgraded(self, head: AnswerHead, data: bytes) -> None:
        """Hear nothing: it was."""

    def ended(self) -> None:
        """Hear nothing: bytes have no end but the connection's."""

    def broken(self, reason: str) -> None:
        """Close: the owner is gone."""
        self._link = None
        self._channel.close(_RESTART, codes.SERVICE_RESTART.sentence)

    def full(self) -> None:
        """Let the client wait for the owner."""
        self._channel.pause_reading()

    def ready(self) -> None:
        """Let the client go on."""
        self._channel.resume_reading()
