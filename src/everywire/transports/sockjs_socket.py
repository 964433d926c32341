"""SockJS over WebSocket: ``/<server>/<session>/websocket`` with frames, and ``/websocket`` without.

Here a connection is a session: it begins and ends with it, and the ids in the address mean nothing. With
frames the client is told ``o``, ``a[…]``, ``h`` and ``c[…]`` as on any other transport, and sends arrays of
strings; what is none closes the connection (1002). Without them each WebSocket message is a message, and the
close code is WebSocket's own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from everywire.access.identity import AuthRequest, Identity
from everywire.access.quotas import Admission
from everywire.codecs.sockjs import HEARTBEAT, OPEN, decode_messages, encode_messages
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.wheel import Slot
from everywire.hub.interfaces import Framing
from everywire.sessions.pushes import framed_bytes
from everywire.sockets.link import FORCED, PARSE_ERROR, TRANSPORT_CLOSE, Packets, Upper
from everywire.sockets.sockjs_link import ELEMENTS, Accept, close_frame, without_secrets
from everywire.sockets.sockjs_table import SockJsTable
from everywire.transports.exchange import MessageChannel

__all__ = ["FramedSocket", "RawSocket"]

_NORMAL: Final = 1000
_PROTOCOL_ERROR: Final = 1002
_MAX_REASON_BYTES: Final = 123
"""What a close frame holds besides its code (RFC 6455 §5.5)."""
_MOST_KINDS: Final = 64


class _SockJsFraming:
    """A WebSocket message with one frame of SockJS in it, in a host's framing."""

    __slots__ = ("host",)

    def __init__(self, host: Framing) -> None:
        self.host = host

    def frame(self, payload: Packets) -> Any:
        """Return the frame of messages."""
        return self.host.frame([(False, encode_messages((ELEMENTS.frame(payload),)))])



@lru_cache(maxsize=_MOST_KINDS)
def _framing_over(host: Any) -> _SockJsFraming:
    """Return one object for each of the host's framings, so that readers group."""
    return _SockJsFraming(host)


class RawSocket:
    """A WebSocket without frames: the message channel's driver, and a link."""

    __slots__ = (
        "__weakref__",
        "_admission",
        "_heartbeat_s",
        "_max_queue_bytes",
        "_slot",
        "_table",
        "_upper",
        "channel",
        "framing",
        "identity",
        "is_stalled",
        "queued_bytes",
        "request",
        "sid",
    )

    protocol = 0
    carries_bytes = True
    transport = "websocket"
    name = "sockjs-raw-websocket"
    """What log and metrics call it."""

    channel: MessageChannel
    framing: Framing

    def __init__(
        self,
        table: SockJsTable,
        request: AuthRequest,
        identity: Identity | EverywireError,
        admission: Admission,
    ) -> None:
        self._table = table
        self._admission = admission
        self._max_queue_bytes = 2 * table.limits.max_session_queue_bytes
        self._upper: Upper | None = None
        self._slot: Slot | None = None
        self.request = request
        self.identity = identity
        self.sid = secrets.token_urlsafe(16)
        self.is_stalled = False
        self.queued_bytes = 0

    def begin(self, channel: MessageChannel, accept: Accept) -> None:
        """Speak over the open channel."""
        self.channel = channel
        self.framing = self._framing_of(channel)
        self._opened()
        self._arm()
        upper = accept(self)
        if self._slot is None:
            upper.gone(FORCED)
        else:
            self._upper = upper

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.request.peer

    # -- what the frames are -----------------------------------------------------------

    def _framing_of(self, channel: MessageChannel) -> Framing:
        return channel.framing

    def _opened(self) -> None:
        """Tell nothing: it is open."""

    def _beat(self) -> None:
        self.channel.beat()

    def _farewell(self, code: Code | None, reason: str) -> tuple[int, str]:
        """Return what the close frame says."""
        if code is None:
            return _NORMAL, reason or "Normal closure"
        return code.number, reason or code.sentence

    def message(self, data: bytes, binary: bool) -> None:
        """Pass on a message."""
        if self._upper is not None:
            self._upper.message(data, binary)

    # -- what is written (Link) -----------------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write frames as far as it goes: the host's own."""
        return self.channel.send

    def write(self, framed: Any, /) -> None:
        """Write frames; what the peer does not take waits in the host, within bounds."""
        if self._slot is None:
            return
        if self.is_stalled:
            if self.queued_bytes > self._max_queue_bytes:
                self.close(codes.SLOW)
                return
            self.queued_bytes += framed_bytes(framed)
        self.channel.write(framed)

    def post(self, packets: Packets) -> None:
        """Write messages; in text, half a surrogate pair becomes a question mark, as WebSocket wants it."""
        whole = [(binary, data if binary else _whole(data)) for binary, data in packets]
        self.write(self.framing.frame(whole))

    def settle(self) -> None:
        """Give back the place of a client who is not known yet, and keep nothing of what it has shown."""
        self._admission.release()
        self.request = without_secrets(self.request)

    def claim(self, user: str) -> None:
        """Do nothing: no other connection speaks here."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
        self.channel.note(messages_out, code)

    def pause_reading(self) -> None:
        """Hear no more messages."""
        self.channel.pause_reading()

    def resume_reading(self) -> None:
        """Hear messages again."""
        self.channel.resume_reading()

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """Say why, and close."""
        if self._slot is None:
            return
        number, told = self._farewell(code, reason)
        self._release()
        self.channel.close(number, _shortened(told))
        self._leave(FORCED)

    # -- what the host tells ---------------------------------------------------------------

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        if not self.is_stalled:
            self.is_stalled = True
            if self._upper is not None:
                self._upper.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.queued_bytes = 0
        if self.is_stalled:
            self.is_stalled = False
            if self._upper is not None:
                self._upper.writable()

    def gone(self, reason: str) -> None:
        """Pass on that the peer is gone."""
        self._release()
        self._leave(TRANSPORT_CLOSE)

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        if self._upper is not None:
            self._upper.drain(retry_ms)
        self.close(codes.SHUTDOWN, f"the server is shutting down; come back in {retry_ms} ms")

    def _release(self) -> None:
        if self._slot is not None:
            self._table.hub.deadlines.disarm(self, self._slot)
            self._slot = None
        self._admission.release()

    def _leave(self, reason: str) -> None:
        upper, self._upper = self._upper, None
        if upper is not None:
            upper.gone(reason)

    # -- the clockwork ------------------------------------------------------------------------

    def _arm(self) -> None:
        hub = self._table.hub
        self._slot = hub.deadlines.arm(self, hub.time() + self._table.heartbeat_s, RawSocket._is_due)

    def _is_due(self) -> None:
        self._arm()
        self._beat()


class FramedSocket(RawSocket):
    """A WebSocket with SockJS's frames in its messages."""

    __slots__ = ()

    carries_bytes = False
    name = "sockjs-websocket"

    def _framing_of(self, channel: MessageChannel) -> Framing:
        host: Any = channel.framing
        return _framing_over(host)

    def _tell(self, frame: bytes) -> None:
        self.channel.write(self.channel.framing.frame([(False, frame)]))

    def _opened(self) -> None:
        self._tell(OPEN)

    def post(self, packets: Packets) -> None:
        """Write messages."""
        self.write(self.framing.frame(packets))

    def _beat(self) -> None:
        if not self.is_stalled:
            self._tell(HEARTBEAT)
        self.channel.beat()

    def _farewell(self, code: Code | None, reason: str) -> tuple[int, str]:
        """Tell the frame; WebSocket's own close is a normal one."""
        self._tell(close_frame(code, reason))
        return _NORMAL, ""

    def message(self, data: bytes, binary: bool) -> None:
        """Pass on the messages of an array; an empty message is none."""
        if not data:
            return
        try:
            messages = decode_messages(data, self._table.limits.max_sockjs_messages)
        except BadRequest as error:
            # The protocol wants no frame here: who sends this would not understand one.
            if self._slot is not None:
                self._release()
                self.channel.close(_PROTOCOL_ERROR, _shortened(error.sentence))
                self._leave(PARSE_ERROR)
            return
        for message in messages:
            if self._upper is not None:
                self._upper.message(message, False)


def _whole(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "surrogatepass").encode("utf-8", "replace")
    return text


def _shortened(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
