"""One open WebSocket: the codec, the transport and a driver, and nothing else (RFC 6455).

Takes a connection over after the opening handshake. Messages go to the driver one by one, as
long as it does not ask to pause; what the codec owes (pongs, the close frame) leaves in its place
between the driver's own answers. Fan-out does not pass here: ``write`` is the transport's own.

Signs of life are asked for by `beat`: a peer that was silent since the last ping gets a moment
more, so that a loop that was blocked does not take unread answers for silence, and is then cut.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    Deflate,
    Handshake,
    Opcode,
    Role,
    TextMessage,
    WebSocketCodec,
    encode_frame,
)
from everywire.codecs.websocket.events import Event, Failed
from everywire.core import codes
from everywire.hub.interfaces import Framing
from everywire.server.carrier import Carrier, discard
from everywire.transports.exchange import MessageDriver

__all__ = ["DeflateFraming", "PlainFraming", "WebSocketConnection", "framing_for"]

_PING: Final = encode_frame(Opcode.PING, b"")
_GRACE_S: Final = 2.0
"""For an answer to a ping that may be waiting unread."""
_MIN_COMPRESSED_BYTES: Final = 64
_BYTES_PER_TURN: Final = 16 * 1024

_OPEN: Final = 0
_CLOSING: Final = 1
"""We sent a close frame, or the peer broke the protocol: no more messages are heard."""
_DISCARDING: Final = 2
"""All is said; what still comes is thrown away until the peer has seen our close frame."""


class PlainFraming:
    """Frames messages without extension."""

    __slots__ = ()

    def frame(self, payload: Sequence[tuple[bool, bytes]]) -> bytes:
        """Return the frames of ``(binary, data)`` messages, joined."""
        frames = [encode_frame(Opcode.BINARY if binary else Opcode.TEXT, data) for binary, data in payload]
        return frames[0] if len(frames) == 1 else b"".join(frames)


class DeflateFraming:
    """Frames messages, compressed once for all readers that agreed on the same parameters."""

    __slots__ = ("_deflate",)

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate

    def frame(self, payload: Sequence[tuple[bool, bytes]]) -> bytes:
        """Return the frames of ``(binary, data)`` messages, joined."""
        frames = []
        for binary, data in payload:
            opcode = Opcode.BINARY if binary else Opcode.TEXT
            packed = self._deflate.compress(data) if len(data) >= _MIN_COMPRESSED_BYTES else data
            if len(packed) < len(data):
                frames.append(encode_frame(opcode, packed, rsv1=True))
            else:
                frames.append(encode_frame(opcode, data))
        return b"".join(frames)


_PLAIN: Final = PlainFraming()
_deflating: dict[Deflate, DeflateFraming] = {}


def framing_for(deflate: Deflate | None) -> Framing:
    """Return the framing for what a handshake agreed on: one object for equal parameters."""
    if deflate is None:
        return _PLAIN
    framing = _deflating.get(deflate)
    if framing is None:
        framing = _deflating[deflate] = DeflateFraming(deflate)
    return framing


class WebSocketConnection(Carrier):
    """A WebSocket; the message channel of its driver."""

    __slots__ = (
        "_codec",
        "_events",
        "_held",
        "_is_heard",
        "_is_paused",
        "_is_pinged",
        "_lingers",
        "_state",
        "framing",
        "subprotocol",
    )

    def __init__(self, carrier: Carrier, agreed: Handshake, driver: MessageDriver, lingers: bool) -> None:
        # Not through the base's own: every attribute is set once.
        transport = carrier._transport
        assert transport is not None
        host = self._host = carrier._host
        self._listener = carrier._listener
        self._timer = None
        self._due_s = 0.0
        self._mark = -1
        self._messages_out = 0
        self._reason = None
        self._transport = transport
        self._socket, carrier._socket = carrier._socket, None
        self.write = carrier.write
        self._driver = driver
        self._codec = WebSocketCodec(
            Role.SERVER,
            max_message_bytes=host.limits.max_message_bytes,
            max_fragments=host.limits.max_fragments,
            deflate=agreed.deflate,
        )
        self.framing: Framing = framing_for(agreed.deflate)
        self.subprotocol: str | None = agreed.subprotocol
        self._lingers = lingers
        self._events: Iterator[Event] | None = None
        self._held = b""
        self._state = _OPEN
        self._is_paused = False
        self._is_heard = True
        self._is_pinged = False
        self._is_stalled = carrier._is_stalled
        self._is_reading = carrier._is_reading
        self._id = carrier._id
        self._peer = carrier._peer
        self._path = carrier._path
        self._opened_s = carrier._opened_s
        self._requests = carrier._requests
        self.transport_name = carrier.transport_name
        host.connections.discard(carrier)
        host.connections.add(self)
        transport.set_protocol(self)
        self._resume()

    # -- reading ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes and hand the messages in them to the driver."""
        self._is_heard = True
        if self._state == _DISCARDING:
            return
        if self._held or self._events is not None:
            self._held += data  # its turn comes after what waits already
        elif len(data) > _BYTES_PER_TURN:
            # Tiny frames cost some 4 µs each: let others have their turn.
            self._held = data
            self._pause()
            self._go_on()
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        if not self._is_stalled:
            self._hand_out(iter(self._codec.receive_data(data)))
        elif self._transport is not None:
            # A peer that sends and does not read: what it makes us owe is bounded by not hearing more.
            before = self._transport.get_write_buffer_size()
            self._hand_out(iter(self._codec.receive_data(data)))
            if self._transport is not None and self._transport.get_write_buffer_size() > before:
                self._pause()

    def _go_on(self) -> None:
        """Hand out what waits, and read on when nothing does any more."""
        if self._state == _DISCARDING:
            return
        if not self._is_paused:
            self._hand_out_next()
        if self._is_paused or self._is_stalled or self._events is not None:
            return  # `resume_reading` or `resume_writing` goes on
        if self._held:
            self._host.loop.call_soon(self._go_on)
        else:
            self._resume()

    def _hand_out_next(self) -> None:
        """Hand out the messages that were read already, then those of the next bytes."""
        events, self._events = self._events, None
        if events is not None:
            self._hand_out(events)
        if self._events is None and self._held:
            data, self._held = self._held[:_BYTES_PER_TURN], self._held[_BYTES_PER_TURN:]
            self._read(data)

    def _hand_out(self, events: Iterator[Event]) -> None:
        codec = self._codec
        owes = False
        for event in events:
            kind = type(event)
            if kind is TextMessage or kind is BinaryMessage:
                if self._state != _OPEN:
                    continue
                if owes:
                    owes = False
                    self.write(codec.data_to_send())
                try:
                    self._driver.message(event.data, kind is BinaryMessage)  # type: ignore[union-attr]
                except Exception:
                    # The top of a message's work: it takes its own connection along, no other.
                    self._fail()
                if self._is_paused:
                    self._events = events
                    return
            else:
                owes = True
                if kind is CloseReceived or kind is Failed:
                    self._end(event)  # type: ignore[arg-type]
                    return
        if owes:
            self.write(codec.data_to_send())

    def _fail(self) -> None:
        self._host.log.error("handler_failed", path=self._path, traceback=traceback.format_exc())
        self.close(1011, codes.INTERNAL.sentence)

    def _end(self, event: CloseReceived | Failed) -> None:
        """Answer a close frame or a broken peer, and close the transport."""
        if self._reason is None:
            what = "closed" if type(event) is CloseReceived else "failed"
            self._reason = f"{what} {event.code} {event.reason}".rstrip()
        out = self._codec.data_to_send()
        if out:
            self.write(out)
        self._state = _DISCARDING
        self._disarm()
        transport = self._transport
        if transport is not None:
            if self._lingers and type(event) is Failed:
                # A peer that still sends must be able to read our close frame: see the codec's notes.
                transport.write_eof()
                self._resume()
            else:
                transport.close()
            self._arm(self._host.limits.close_timeout_s)
        self._tell_gone()

    def _tell_gone(self) -> None:
        self.write = discard
        self._events = None
        self._held = b""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.gone(self._reason or "left")

    def eof_received(self) -> bool:
        """Hear that the peer sends nothing more: it has gone without a close frame, or after it."""
        if self._state == _OPEN:
            self.abort("left")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End, if this has not been told before."""
        self._state = _DISCARDING
        self._events = None
        super().connection_lost(exc)

    # -- back-pressure ----------------------------------------------------------------

    def resume_writing(self) -> None:
        """Hear that all bytes were taken."""
        if self._state == _OPEN:
            super().resume_writing()
            self._go_on()
        else:
            self._is_stalled = False  # the deadline for closing stays

    def pause_writing(self) -> None:
        """Hear that bytes remain unsent."""
        if self._state == _OPEN:
            super().pause_writing()
        else:
            self._is_stalled = True

    def tell_stalled(self) -> None:
        """Tell a driver that came to a socket which could not even take the handshake."""
        if self._is_stalled and self._driver is not None:
            self._driver.stalled()

    def pause_reading(self) -> None:
        """Hand out no more messages until `resume_reading`."""
        self._is_paused = True
        self._pause()

    def resume_reading(self) -> None:
        """Hand out messages again, those first that have come already."""
        if self._is_paused:
            self._is_paused = False
            # Not from within whatever the driver does now.
            self._host.loop.call_soon(self._go_on)

    # -- signs of life ------------------------------------------------------------------

    def beat(self) -> None:
        """Send a ping, or end the connection when nothing was heard since the last one."""
        if self._state != _OPEN or self._is_stalled:
            return  # the deadline for closing, or for stalled readers, is under way
        if self._is_pinged and not self._is_heard and not self._is_paused:
            self._arm(_GRACE_S)
            return
        self._is_heard = False
        self._is_pinged = True
        self.write(_PING)

    def _missed_deadline(self) -> None:
        if self._state != _OPEN:
            self.abort("did not close in time")
        elif self._is_stalled:
            self._look_for_progress()
        elif not self._is_heard:
            self._miss("pong")
            self._reason = self._reason or codes.NO_PONG.name
            self.close(codes.NO_PONG.number, codes.NO_PONG.sentence)
            self.abort(codes.NO_PONG.name)

    # -- the end --------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; no more messages are heard."""
        if self._state != _OPEN:
            return
        self._state = _CLOSING
        if self._codec.send_close(code, reason):
            self.write(self._codec.data_to_send())
        self._reason = self._reason or f"closed by us {code} {reason}"
        # The peer's close frame may be among what waits.
        self._is_paused = False
        self._host.loop.call_soon(self._go_on)
        self._arm(self._host.limits.close_timeout_s)
