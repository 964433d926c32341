"""Engine.IO over WebSocket, from the handshake or after the upgrade from polling.

Each frame is a packet. In version 4 a binary frame is the bare data of a message; in version 3 its type
stands before it as a byte, or, for clients that say ``b64=1``, it is text and base64.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from typing import Any, Final

from everywire.codecs.engineio.packets import Wire, encode_binary_v3
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sockets.engine_parts import NOBODY, WebSocketListener
from everywire.transports.exchange import Exchange, MessageChannel

__all__ = ["EngineSocket"]

_MAX_REASON_BYTES: Final = 123
"""What a close frame holds besides its code (RFC 6455 §5.5)."""


class _Version3:
    """The host's framing, for packets in the form of version 3."""

    __slots__ = ("_framing", "_is_base64")

    def __init__(self, framing: Framing, is_base64: bool) -> None:
        self._framing = framing
        self._is_base64 = is_base64

    def frame(self, payload: Sequence[Wire]) -> Any:
        """Return the frames of packets."""
        return self._framing.frame(
            [self._form(data) if binary else (False, data) for binary, data in payload]
        )

    def _form(self, data: bytes) -> Wire:
        if self._is_base64:
            return False, b"b4" + binascii.b2a_base64(data, newline=False)
        return True, encode_binary_v3(data)


_made: dict[tuple[Framing, bool], Framing] = {}


def _version_3(framing: Framing, is_base64: bool) -> Framing:
    """Return the framing around a host's: one object for each, so that readers group.

    A host has few: one for each set of compression parameters.
    """
    made = _made.get((framing, is_base64))
    if made is None:
        made = _made[framing, is_base64] = _Version3(framing, is_base64)
    return made


class EngineSocket:
    """A WebSocket: the message channel's driver, and the `WebSocket` of a connection or a probe."""

    __slots__ = ("_channel", "framing", "listener")

    _channel: MessageChannel
    framing: Framing

    def __init__(self) -> None:
        self.listener: WebSocketListener = NOBODY

    def shake_hands(self, exchange: Exchange, transport: str, protocol: int, is_base64: bool) -> bool:
        """Do the opening handshake; False when it was wrong and has been answered."""
        channel = exchange.upgrade(self, transport, ())
        if channel is None:
            return False
        self._channel = channel
        self.framing = _version_3(channel.framing, is_base64) if protocol == 3 else channel.framing
        return True

    # -- what the connection asks (Socket) -----------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write frames as far as it goes: the host's own."""
        return self._channel.send

    def write(self, framed: Any, /) -> None:
        """Write frames."""
        self._channel.write(framed)

    def close(self, code: int, reason: str) -> None:
        """Close; the close frame says why."""
        shortened = reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
        self._channel.close(code, shortened)

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line."""
        self._channel.note(messages_out, code)

    def pause_reading(self) -> None:
        """Hear no more messages."""
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Hear messages again."""
        self._channel.resume_reading()

    # -- what the host tells (MessageDriver) ---------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Pass on a message."""
        self.listener.socket_message(data, binary)

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.listener.socket_stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.listener.socket_writable()

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        listener, self.listener = self.listener, NOBODY
        listener.socket_gone()

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        self.listener.drain(retry_ms)
