"""What an Engine.IO connection says, in one order, whatever carries it.

While a connection polls, everything goes into one queue, which the next poll takes: packets that were posted,
and what readers of the hub write while a poll is here (between two polls readers are stalled, and wait in the
log). A poll is answered one turn of the event loop after there was something to say, so that what is said in
one turn goes together. Over WebSocket readers write to the socket itself, and the queue holds only what
was posted while the socket was full. Nothing is taken out of the queue but for a poll, or for the socket that
carries the connection.

Bounded: the queue, by what readers write at once (`Limits.max_write_bytes`), and in what is posted by
`Limits.max_session_queue_bytes`; above it no packets of the client are taken, and above twice as much the
connection ends (3008).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from everywire.codecs.engineio import payload_v3, payload_v4
from everywire.codecs.engineio.packets import Wire
from everywire.core import codes
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sessions.shared import Shared
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engine_parts import NOBODY, Poll, WebSocket
from everywire.sockets.heartbeat import Heartbeat
from everywire.sockets.link import POLLING, WEBSOCKET, Packets, Upper

__all__ = ["EngineOutlet"]


_PACKET_BYTES: Final = 64
"""What a packet that waits costs besides its data: there may be very many empty ones."""


def _bytes_of(packets: Packets) -> int:
    return sum([len(data) for _, data in packets]) + _PACKET_BYTES * len(packets)


def _is_binary(packet: Wire) -> bool:
    return packet[0]


class _AsPackets:
    """The framing of what polls take: packets, until it is known which go together."""

    __slots__ = ()

    def frame(self, payload: Packets) -> Packets:
        """Return the packets."""
        return payload


_AS_PACKETS: Final = _AsPackets()


class EngineOutlet(Heartbeat):
    """The way to the client of one connection."""

    __slots__ = (
        "_is_answering",
        "_is_said_stalled",
        "_out",
        "is_base64",
        "is_ended",
        "is_full",
        "limits",
        "pending_poll",
        "queued_bytes",
        "socket",
        "upper",
    )

    def __init__(
        self, shared: Shared, options: EngineOptions, protocol: int, socket: WebSocket | None
    ) -> None:
        super().__init__(shared.hub, options, protocol)
        self._out: list[Wire] = []
        self._is_answering = False
        """Whether a poll is answered in the next turn."""
        self._is_said_stalled = socket is None
        """What the upper was told last."""
        self.limits = shared.limits
        self.socket = socket
        """What carries the connection; None while it polls."""
        self.pending_poll: Poll | None = None
        self.queued_bytes = 0
        self.is_base64 = False
        """Whether the client cannot take binary payloads (version 3)."""
        self.is_ended = False
        self.is_full = False
        """Whether the socket holds unsent bytes."""
        self.upper: Upper = NOBODY

    # -- what the rest of the connection does -----------------------------------------

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """End."""
        raise NotImplementedError

    def look_whether_to_read(self) -> None:
        """Hear that the queue grew, or shrank."""
        raise NotImplementedError

    # -- what the upper sees (Link) ----------------------------------------------------

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``."""
        return POLLING if self.socket is None else WEBSOCKET

    @property
    def is_stalled(self) -> bool:
        """Whether the carrier takes nothing at the moment."""
        if self.socket is not None:
            return self.is_full
        return self.pending_poll is None or self.queued_bytes >= self.limits.max_write_bytes

    @property
    def framing(self) -> Framing:
        """Frames packets for what carries it at the moment."""
        return _AS_PACKETS if self.socket is None else self.socket.framing

    @property
    def send(self) -> Callable[[Any], int]:
        """Take framed packets of readers."""
        return self.collect if self.socket is None else self.socket.send

    def write(self, framed: Any, /) -> None:
        """Take framed packets of readers, or the rest of them."""
        if self.socket is not None:
            self.socket.write(framed)
        else:
            self.collect(framed)

    def post(self, packets: Packets) -> None:
        """Send packets, now or when the carrier takes them."""
        if self.is_ended:
            return
        socket = self.socket
        if socket is not None and not self.is_full:
            socket.write(socket.framing.frame(packets))
        elif self.is_stalled and self.queued_bytes > 2 * self.limits.max_session_queue_bytes:
            self.close(codes.SLOW)
        else:
            self.collect(packets)
            if self.queued_bytes > self.limits.max_session_queue_bytes:
                self.look_whether_to_read()

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line; nothing where no request is open."""
        carrier = self.socket or self.pending_poll
        if carrier is not None:
            carrier.note(messages_out, code)

    # -- the queue ---------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether anything waits."""
        return bool(self._out)

    def collect(self, framed: Packets) -> int:
        """Put packets into the queue."""
        self._out.extend(framed)
        self.queued_bytes += _bytes_of(framed)
        if self.pending_poll is not None:
            self.answer_soon()
            if self.queued_bytes >= self.limits.max_write_bytes:
                self.tell_upper()
        return len(framed)

    def answer_soon(self) -> None:
        """Answer the pending poll in the next turn."""
        if not self._is_answering:
            self._is_answering = True
            asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        self._is_answering = False
        poll = self.pending_poll
        if poll is not None and self._out:
            packets = self.take_out(poll.max_packets)
            self.pending_poll = None
            self.tell_upper()
            if self.protocol == 3 and not (self.is_base64 or poll.is_text) and any(map(_is_binary, packets)):
                poll.answer(payload_v3.encode_binary_payload(packets), binary=True)
            else:
                poll.answer(self.encode_payload(packets))
            self.look_whether_to_read()

    def take_out(self, most: int | None = None) -> list[Wire]:
        """Take packets out of the queue: all of them, or only so many."""
        out = self._out
        if most is None or len(out) <= most:
            self._out = []
            self.queued_bytes = 0
            return out
        self._out = out[most:]
        del out[most:]
        self.queued_bytes = _bytes_of(self._out)
        return out

    def encode_payload(self, packets: Packets) -> bytes:
        """Return packets as a payload of text."""
        if self.protocol == 3:
            return payload_v3.encode_payload(packets)
        return payload_v4.encode_payload(packets)

    def flush(self) -> None:
        """Write what waits to a socket that takes it."""
        socket = self.socket
        if self._out and socket is not None and not self.is_full:
            socket.write(socket.framing.frame(self.take_out()))
            self.look_whether_to_read()

    def tell_upper(self) -> None:
        """Tell the upper whether the carrier takes anything, if that has changed."""
        is_stalled = self.is_stalled
        if is_stalled != self._is_said_stalled and not self.is_ended:
            self._is_said_stalled = is_stalled
            if is_stalled:
                self.upper.stalled()
            else:
                self.upper.writable()

    def tell_moved(self) -> None:
        """Tell the upper that the carrier is another one, whether or not that takes anything."""
        self._is_said_stalled = self.is_stalled
        self.upper.moved()
