"""The two forms of Socket.IO's packets, as they come and go: JSON with attachments, and MessagePack.

A mount has one form, both ways (`everywire.sockets.happenings.Form`).
"""

from __future__ import annotations

from typing import Final, Protocol

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.socketio import msgpack_form
from everywire.codecs.socketio import packet as json_form
from everywire.codecs.socketio.decoder import Decoder
from everywire.codecs.socketio.packet import SocketPacket
from everywire.core.errors import BadPacket
from everywire.core.limits import Limits
from everywire.sockets.happenings import Form

__all__ = ["PacketDecoder", "decoder_of", "encode"]


class PacketDecoder(Protocol):
    """Puts together the packets of one connection."""

    def feed(self, data: bytes, binary: bool) -> SocketPacket | None:
        """Take one message; return the packet that it completes. Raises `BadPacket`."""

    def forget(self) -> None:
        """Let go of a packet that is not complete."""


class _JsonDecoder(Decoder):
    """Text, and binary attachments behind it."""

    __slots__ = ()

    def feed(self, data: bytes, binary: bool) -> SocketPacket | None:
        """Take one message."""
        return self.feed_binary(data) if binary else self.feed_text(data)


class _MsgpackDecoder:
    """One binary message for each packet; what one may hold is bounded by the size of a message."""

    def feed(self, data: bytes, binary: bool) -> SocketPacket | None:
        """Take one message."""
        if not binary:
            raise BadPacket("Packets are MessagePack here, each in a binary message.")
        return msgpack_form.decode(data)

    def forget(self) -> None:
        """Do nothing: no packet is ever incomplete."""


_MSGPACK_DECODER: Final = _MsgpackDecoder()


def decoder_of(form: Form, limits: Limits, max_bytes: int) -> PacketDecoder:
    """Return a decoder for one connection; ``max_bytes`` bounds a packet with all its attachments."""
    if form is Form.MSGPACK:
        return _MSGPACK_DECODER
    return _JsonDecoder(max_attachments=limits.max_socket_attachments, max_bytes=max_bytes)


def encode(form: Form, packet: SocketPacket) -> list[Wire]:
    """Return a packet as it is sent. Raises TypeError or ValueError for what the form cannot hold."""
    return msgpack_form.encode(packet) if form is Form.MSGPACK else json_form.encode(packet)
