"""One Engine.IO connection, version 4 or 3, whatever carries it: the `Link` that Socket.IO lives on.

After the Engine.IO protocol (versions 4 and 3) and what its suites ask. What it says, in which order and how
much of it may wait, is `everywire.sockets.engine_outlet`; the heartbeat `everywire.sockets.heartbeat`; the
upgrade `everywire.sockets.upgrade`. Here is what the client says, and the end.

Refused, and the connection ended: what is no packet, or none that a client may send; two polls or two POSTs
at once; messages above ``max_payload``.
"""

from __future__ import annotations

from typing import Final, Protocol

from everywire.access.identity import AuthRequest
from everywire.access.quotas import Admission
from everywire.codecs.engineio import payload_v3, payload_v4
from everywire.codecs.engineio.packets import (
    CLOSE,
    NOOP,
    PING,
    BadPacket,
    Packet,
    PacketType,
    Wire,
    decode_binary_v3,
    decode_text,
)
from everywire.core import codes
from everywire.core.codes import Code
from everywire.sessions.shared import Shared
from everywire.sockets.engine_options import DEFAULTS, EngineOptions
from everywire.sockets.engine_outlet import EngineOutlet
from everywire.sockets.engine_parts import NOBODY, Poll, Post, WebSocket
from everywire.sockets.incoming import Incoming
from everywire.sockets.link import (
    CLIENT_CLOSED,
    FORCED,
    PARSE_ERROR,
    PING_TIMEOUT,
    SHUTDOWN,
    TRANSPORT_CLOSE,
    TRANSPORT_ERROR,
    Upper,
)
from everywire.sockets.upgrade import Probe

__all__ = ["DEFAULTS", "Engine", "EngineOptions", "Home"]

_NORMAL: Final = 1000
_POLICY: Final = 1008
_TOO_BIG: Final = 1009


class Home(Protocol):
    """What a connection asks of the table that holds it."""

    shared: Shared
    options: EngineOptions

    def forget(self, engine: Engine, reason: str) -> None:
        """Hear that a connection ended."""

    def leave_word(self, sid: str, payload: bytes) -> None:
        """Keep the last words of a connection for the poll that its client is about to send."""

    def note_upgrade(self, is_done: bool) -> None:
        """Count an upgrade that was done, or came to nothing."""


def _close_number(code: Code | None) -> int:
    """Return what a close frame says (RFC 6455 §7.4); codes that answer requests are below its numbers."""
    if code is None:
        return _NORMAL
    if code is codes.TOO_LARGE:
        return _TOO_BIG
    return code.number if code.number >= _NORMAL else _POLICY


class Engine(EngineOutlet):
    """One connection of Engine.IO, made by `everywire.sockets.engines.Engines.open`."""

    __slots__ = (
        "_admission",
        "_home",
        "_incoming",
        "_is_held",
        "_is_posting",
        "_is_reading",
        "_probe",
        "peer",
        "request",
        "sid",
    )

    def __init__(
        self,
        home: Home,
        sid: str,
        request: AuthRequest,
        protocol: int,
        admission: Admission,
        socket: WebSocket | None,
    ) -> None:
        super().__init__(home.shared, home.options, protocol, socket)
        self._home = home
        self._admission = admission
        self._probe: Probe | None = None
        self._incoming: Incoming | None = None
        self._is_held = False
        """Whether the upper wants no messages now."""
        self._is_reading = True
        self._is_posting = False
        self.sid = sid
        self.request = request
        self.peer = request.peer
        if socket is not None:
            socket.listener = self

    # -- what the upper sees (Link) --------------------------------------------------

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """Say what was posted, close, and end."""
        if not self.is_ended:
            reason = reason or (FORCED if code is None else code.name)
            self.note(0, code)
            self._end(reason, CLOSE, code, has_last_words=True)

    def pause_reading(self) -> None:
        """Bring no more messages."""
        self._is_held = True
        self.look_whether_to_read()

    def resume_reading(self) -> None:
        """Bring messages again."""
        self._is_held = False
        self.look_whether_to_read()

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops: the upper says what it has to say, and the connection closes."""
        if not self.is_ended:
            self.upper.drain(retry_ms)
            if not self.is_ended:
                self.note(0, codes.SHUTDOWN)
                self._end(SHUTDOWN, CLOSE, codes.SERVICE_RESTART, has_last_words=True)

    # -- polls -------------------------------------------------------------------------

    def begin_with(self, upper: Upper) -> None:
        """Begin, with whoever speaks over it."""
        self.upper = upper
        self.begin()
        self.tell_upper()

    def take_poll(self, poll: Poll) -> None:
        """Take a poll, and answer it when there is something to say."""
        if self.pending_poll is not None:
            poll.refuse()
            self.fail(TRANSPORT_ERROR)
            return
        self.pending_poll = poll
        # Readers write what they have in the next turn, before the poll is answered.
        self.tell_upper()
        if self.has_news:
            self.answer_soon()
        elif self._probe is not None:
            self._probe.poll_came()

    def lose_poll(self, poll: Poll) -> None:
        """Hear that a poll was cancelled."""
        if poll is self.pending_poll:
            self.pending_poll = None
            self._end(TRANSPORT_CLOSE, CLOSE, None)

    def lose_answer(self) -> None:
        """Hear that the answer to a poll may never have arrived."""
        self._end(TRANSPORT_CLOSE, CLOSE, None)

    def release_poll(self) -> None:
        """Answer a pending poll one turn later, with nothing if there is nothing to say."""
        if self.pending_poll is not None and not self.is_ended:
            if not self.has_news:
                self.collect([NOOP])
            self.answer_soon()

    # -- POSTs -------------------------------------------------------------------------

    def begin_post(self, post: Post) -> bool:
        """Hear that a POST begins; False when it was refused."""
        if self._is_posting:
            post.refuse()
            self.fail(TRANSPORT_ERROR)
            return False
        self._is_posting = True
        return True

    def lose_post(self) -> None:
        """Hear that a POST ended halfway."""
        self.fail(TRANSPORT_ERROR)

    def take_post(self, body: bytes, post: Post, *, binary: bool) -> None:
        """Take the packets of a POST, and answer it when all are taken. ``binary`` is a form of version 3."""
        if self.is_ended or self.socket is not None:
            post.refuse()
            return
        most = self.limits.max_payload_packets
        try:
            if self.protocol == 3:
                packets = payload_v3.decode_payload(body, max_packets=most, binary=binary)
            elif binary:
                raise BadPacket("A payload is text.")
            else:
                packets = payload_v4.decode_payload(body, max_packets=most)
        except BadPacket:
            post.refuse()
            self.fail(PARSE_ERROR)
            return
        self._incoming = Incoming(self, post, packets)
        self._incoming.go_on()

    def taken(self) -> None:
        """Answer a POST all of whose packets were taken."""
        incoming, self._incoming = self._incoming, None
        self._is_posting = False
        if incoming is not None:
            incoming.post.accept()

    # -- packets -----------------------------------------------------------------------

    def take(self, packet: Packet) -> None:
        """Take a packet that the client sent."""
        kind = packet.type
        if kind is PacketType.MESSAGE:
            self.heard()
            self.upper.message(packet.data, packet.binary)
        elif kind is PacketType.PONG and self.protocol != 3:
            self.ponged()
        elif kind is PacketType.PING and self.protocol == 3:
            self.pinged()
            self.post([(False, b"3" + packet.data)])
        elif kind is PacketType.CLOSE:
            self._end(CLIENT_CLOSED, NOOP, None, has_last_words=True)
        elif kind is not PacketType.NOOP:
            self.fail(PARSE_ERROR)

    @property
    def is_reading(self) -> bool:
        """Whether packets of the client are taken."""
        return self._is_reading

    def look_whether_to_read(self) -> None:
        is_reading = not self._is_held and self.queued_bytes <= self.limits.max_session_queue_bytes
        if is_reading == self._is_reading or self.is_ended:
            return
        self._is_reading = is_reading
        if self.socket is not None:
            if is_reading:
                self.socket.resume_reading()
            else:
                self.socket.pause_reading()
        elif is_reading and self._incoming is not None:
            self._incoming.go_on_soon()

    # -- the socket (WebSocketListener), and the way to it ----------------------------------

    def take_socket(self, socket: WebSocket) -> None:
        """Take a WebSocket that is to carry this connection, if nothing else does or is about to."""
        if self.socket is not None or self._probe is not None:
            socket.close(_NORMAL, "")
        else:
            self._probe = Probe(self, socket, self._hub.deadlines, self.options.upgrade_timeout_s)

    def upgrade(self, socket: WebSocket, is_stalled: bool) -> None:
        """Go on over a socket: first with what waits."""
        self._probe = None
        poll, self.pending_poll = self.pending_poll, None
        if poll is not None:
            poll.answer(self.encode_payload([NOOP]))
        self.socket = socket
        socket.listener = self
        self.is_full = is_stalled
        if not self._is_reading:
            socket.pause_reading()
        self._home.note_upgrade(True)
        self.flush()
        self.tell_moved()
        self.tell_upper()

    def not_upgraded(self) -> None:
        """Hear that an upgrade came to nothing; polling goes on."""
        self._probe = None
        self._home.note_upgrade(False)

    def socket_message(self, data: bytes, binary: bool) -> None:
        """Take a packet over WebSocket."""
        if len(data) > self.options.max_payload:
            self._end(PARSE_ERROR, CLOSE, codes.TOO_LARGE)
            return
        try:
            packet = self._decode(data, binary)
        except BadPacket:
            self.fail(PARSE_ERROR)
        else:
            self.take(packet)

    def _decode(self, data: bytes, binary: bool) -> Packet:
        if not binary:
            if not data.startswith(b"b"):
                return decode_text(data)
            # Base64, from clients that have no binary frames.
            text = data[2:] if self.protocol == 3 else data[1:]
            if self.protocol == 3 and not data.startswith(b"b4"):
                raise BadPacket("Only messages can be binary.")
            return Packet(PacketType.MESSAGE, payload_v4.decode_base64(text), True)
        return decode_binary_v3(data) if self.protocol == 3 else Packet(PacketType.MESSAGE, data, True)

    def socket_stalled(self) -> None:
        """Hear that the socket holds unsent bytes."""
        self.is_full = True
        self.tell_upper()

    def socket_writable(self) -> None:
        """Hear that it holds none any more: what waits goes first."""
        self.is_full = False
        self.flush()
        self.tell_upper()

    def socket_gone(self) -> None:
        """Hear that the socket is closed."""
        self._end(TRANSPORT_CLOSE, CLOSE, None)

    # -- the heartbeat -------------------------------------------------------------------

    @property
    def is_hearing(self) -> bool:
        """Whether the client's answer would be heard: it is not behind what it does not read, or we do not,
        nor behind a POST that is on its way."""
        return self._is_reading and not self._is_posting and not (self.is_full and self.socket is not None)

    def ping(self) -> None:
        """Send a ping."""
        self.post([PING])

    def missed(self) -> None:
        """End: the client was not heard in time."""
        self.note(0, codes.NO_PONG)
        self._end(PING_TIMEOUT, CLOSE, codes.NO_PONG)

    # -- the end -------------------------------------------------------------------------

    def fail(self, reason: str) -> None:
        """End: the client did what the protocol does not allow."""
        self.note(0, codes.BAD_PROTOCOL)
        self._end(reason, CLOSE, codes.BAD_PROTOCOL)

    def _end(self, reason: str, last: Wire, code: Code | None, *, has_last_words: bool = False) -> None:
        """End. With last words what waits is still said, to a poll that is yet to come if none is here."""
        if self.is_ended:
            return
        self.is_ended = True
        self.stop()
        poll, self.pending_poll = self.pending_poll, None
        socket, self.socket = self.socket, None
        probe, self._probe = self._probe, None
        incoming, self._incoming = self._incoming, None
        out = self.take_out() if has_last_words and code is not codes.SLOW else []
        if socket is not None:
            socket.listener = NOBODY
            if out:
                socket.write(socket.framing.frame(out))
            socket.close(_close_number(code), "" if code is None else code.sentence)
        else:
            payload = self.encode_payload([*out, last])
            if poll is not None:
                poll.answer(payload)
            elif has_last_words:
                self._home.leave_word(self.sid, payload)
        if probe is not None:
            probe.abandon()
        if incoming is not None:
            if has_last_words:
                incoming.post.accept()
            else:
                incoming.post.refuse()
        self._home.forget(self, reason)
        self._admission.release()
        upper, self.upper = self.upper, NOBODY
        upper.gone(reason)
