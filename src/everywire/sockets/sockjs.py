"""SockJS sessions over HTTP: what outlives the requests that carry a client's messages.

A session is opened by the first request for what the server has to say (a *receiver*: a poll, or an answer
that streams), and lives as long as the client comes back within a few seconds of the last one. Messages of
the client come by requests of their own. Over WebSocket there is nothing of this: a connection is a session
(`everywire.transports.sockjs_socket`).

* One receiver at a time; a second is told ``c[2010,"Another connection still open"]``.
* A receiver that breaks off takes the session with it, for what was on its way may be lost: who asks is told
  ``c[1002,"Connection interrupted"]``. One that was answered, or was full, is followed by the next.
* A closed session tells its close frame to whoever asks, for as long as a live one waits for its client.
* While no receiver is there the session is *stalled*: readers of channels wait in the log, and what is no
  publication waits here. When more than twice `Limits.max_session_queue_bytes` wait and more is to, it ends
  (3008); a single message may be of any size.

Messages are bare text here, without the type digits of Engine.IO, and half a surrogate pair in one is as
`everywire.codecs.sockjs` keeps it. To the hub a session's payloads are lists of them, which `ELEMENTS` quotes
once for all sessions, whatever carries them; each kind of receiver puts its own frame around that.

Protocol: sockjs-protocol 0.3.x, "Session URLs", "Protocol and framing", "Handling close".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from everywire.access.identity import Identity
from everywire.access.quotas import Admission
from everywire.codecs.sockjs import HEARTBEAT, OPEN, encode_close
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.limits import Limits
from everywire.core.wheel import Slot
from everywire.hub.hub import Hub
from everywire.sockets.link import FORCED, TRANSPORT_CLOSE, Packets, Upper
from everywire.sockets.sockjs_link import (
    ELEMENTS,
    Accept,
    Opening,
    SockJsOptions,
    close_frame,
    without_secrets,
)

__all__ = ["Receiver", "SockJsOptions", "SockJsSession"]

_ANOTHER: Final = encode_close(2010, "Another connection still open")
_INTERRUPTED: Final = encode_close(1002, "Connection interrupted")
_MESSAGE_BYTES: Final = 64
"""What a message takes in memory besides its text."""


class Receiver(Protocol):
    """A request that waits for what its session has to say."""

    @property
    def is_stalled(self) -> bool:
        """Whether it takes no more for now: unsent bytes, or a poll's answer that is full."""

    @property
    def is_over(self) -> bool:
        """Whether it was answered."""

    def tell(self, frame: bytes) -> None:
        """Write a frame that is no message; a poll is over with it, if it holds nothing else."""

    def take(self, elements: bytes) -> None:
        """Write messages. Over then, or stalled, it says so to its session before this returns; a poll is
        answered in the next turn."""

    def finish(self) -> None:
        """End the answer, with what it holds."""

    def abort(self) -> None:
        """Cut it off."""

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line how many publications went out, and why it ended."""


class Home(Protocol):
    """What a session asks of the table that it is in."""

    @property
    def hub(self) -> Hub: ...

    @property
    def limits(self) -> Limits: ...

    response_bytes: int
    heartbeat_s: float
    disconnect_delay_s: float

    def forget(self, session: SockJsSession) -> None:
        """Find it no longer."""


class SockJsSession:
    """One session over HTTP: a `Link` for whoever speaks over it."""

    __slots__ = (
        "__weakref__",
        "_accept",
        "_admission",
        "_farewell",
        "_held",
        "_home",
        "_inbox",
        "_inbox_bytes",
        "_is_delivering",
        "_is_opened",
        "_is_paused",
        "_queue",
        "_receiver",
        "_slot",
        "_stalled_s",
        "_upper",
        "identity",
        "is_stalled",
        "key",
        "mark",
        "queued_bytes",
        "request",
        "sid",
        "transport",
        "user",
    )

    protocol = 0
    carries_bytes = False
    framing = ELEMENTS

    def __init__(self, home: Home, sid: str, opening: Opening, accept: Accept, admission: Admission) -> None:
        self._home = home
        self._accept = accept
        self._admission = admission
        self.sid = sid
        self.key = (opening.session_id, opening.owner)
        self.mark = opening.mark
        self.identity = opening.identity
        self.request = opening.request
        self.transport = opening.transport
        self.user = opening.identity.user if isinstance(opening.identity, Identity) else ""
        """The user who speaks over it, by what its requests or its messages proved."""
        self._upper: Upper | None = None
        self._receiver: Receiver | None = None
        self._farewell: bytes | None = None
        self._is_opened = self._is_paused = self._is_delivering = False
        self._slot: Slot | None = None
        self._stalled_s: float | None = None
        # To the client.
        self.is_stalled = True
        self.queued_bytes = 0
        self._queue: deque[bytes] | None = None
        # From the client.
        self._inbox: deque[bytes] | None = None
        self._inbox_bytes = 0
        self._held: list[Callable[[], None]] = []

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.request.peer

    @property
    def is_closed(self) -> bool:
        """Whether all there is left to tell is why it ended."""
        return self._farewell is not None

    @property
    def response_bytes(self) -> int:
        """How much one streamed answer carries."""
        return self._home.response_bytes

    # -- receivers come and go ----------------------------------------------------------

    def attach(self, receiver: Receiver) -> None:
        """Tell a receiver what there is to tell, and from now on what comes."""
        if self._farewell is not None:
            self._part(receiver, self._farewell)
            return
        if self._receiver is not None:
            receiver.tell(_ANOTHER)
            receiver.finish()
            return
        self._receiver = receiver
        self._arm(self._home.heartbeat_s)
        if self._is_opened:
            self._go_on()
            return
        self._is_opened = True
        receiver.tell(OPEN)
        self.is_stalled = self._receiver is None or receiver.is_stalled
        upper = self._accept(self)
        if self.is_closed:
            upper.gone(FORCED)
        else:
            self._upper = upper

    def detached(self, receiver: Receiver) -> None:
        """Hear that a receiver was answered; the client comes back for more."""
        if receiver is self._receiver:
            self._receiver = None
            self._arm(self._home.disconnect_delay_s)
            self._stall()

    def interrupted(self, receiver: Receiver) -> None:
        """Hear that a receiver's peer is gone before it was answered."""
        if receiver is self._receiver:
            self._receiver = None
            self._end(_INTERRUPTED, TRANSPORT_CLOSE)

    def lose_answer(self) -> None:
        """Hear that an answer may never have arrived."""
        self._end(_INTERRUPTED, TRANSPORT_CLOSE)

    def receiver_stalled(self, receiver: Receiver) -> None:
        """Hear that a receiver takes no more for now."""
        if receiver is self._receiver:
            self._stalled_s = self._home.hub.time()
            self._stall()

    def receiver_writable(self, receiver: Receiver) -> None:
        """Hear that a receiver takes more."""
        if receiver is self._receiver:
            self._go_on()

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops."""
        if self._upper is not None:
            self._upper.drain(retry_ms)
        self.close(codes.SHUTDOWN, f"the server is shutting down; come back in {retry_ms} ms")

    def _stall(self) -> None:
        if not self.is_stalled:
            self.is_stalled = True
            if self._upper is not None:
                self._upper.stalled()

    def _go_on(self) -> None:
        """Write what waits; once all of it is written, let the readers write."""
        receiver = self._receiver
        self._stalled_s = None
        if receiver is None:
            return
        self._write_queue(receiver)
        if receiver is self._receiver and not receiver.is_stalled and self._queue is None:
            self.is_stalled = False
            if self._upper is not None:
                self._upper.writable()

    def _write_queue(self, receiver: Receiver) -> None:
        max_bytes = self._home.limits.max_write_bytes
        while self._queue is not None and not receiver.is_stalled and not receiver.is_over:
            size = 0
            elements: list[bytes] = []
            while self._queue and (not elements or size + len(self._queue[0]) <= max_bytes):
                size += len(self._queue[0]) + 1
                elements.append(self._queue.popleft())
            self.queued_bytes -= size
            if not self._queue:
                self._queue = None
                self.queued_bytes = 0
            receiver.take(b",".join(elements))

    # -- what is written (Link) -----------------------------------------------------------

    def send(self, framed: bytes) -> int:
        """Write what `framing` made; raises OSError while nothing is taken."""
        receiver = self._receiver
        if receiver is None or self.is_stalled:
            raise BlockingIOError
        receiver.take(framed)
        return len(framed)

    def write(self, framed: bytes, /) -> None:
        """Write what `framing` made, or keep it until it can be written."""
        if self._farewell is not None or not framed:
            return
        if self._receiver is not None and not self.is_stalled:
            self._receiver.take(framed)
            return
        if self.queued_bytes > 2 * self._home.limits.max_session_queue_bytes:
            self._queue = None
            self.queued_bytes = 0
            self.close(codes.SLOW)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(framed)
        self.queued_bytes += len(framed) + 1

    def post(self, packets: Packets) -> None:
        """Write messages, or keep them until they can be written."""
        self.write(ELEMENTS.frame(packets))

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line of the receiver that is there."""
        if self._receiver is not None:
            self._receiver.note(messages_out, code)

    # -- what the client sends --------------------------------------------------------------

    def receive(self, messages: Sequence[bytes], done: Callable[[], None]) -> None:
        """Take messages of the client, and say when it may send more: at once, unless reading is paused."""
        if self._upper is None:
            done()  # a session that is closed says so to its receiver
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.extend(messages)
        self._inbox_bytes += sum(map(len, messages)) + _MESSAGE_BYTES * len(messages)
        self._held.append(done)
        if self._is_paused and self._inbox_bytes > 2 * self._home.limits.max_pending_bytes:
            self.close(codes.SLOW_DOWN)
        self._deliver()

    def pause_reading(self) -> None:
        """Hand over no more messages until `resume_reading`: the client's sending waits for its answer."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand over messages again, from the next turn on."""
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._inbox and not self._is_paused and self._upper is not None:
                message = self._inbox.popleft()
                self._inbox_bytes -= len(message) + _MESSAGE_BYTES
                self._upper.message(message, False)
        finally:
            self._is_delivering = False
        if self._upper is None or not self._is_paused:
            self._inbox = None
            self._inbox_bytes = 0
            held, self._held = self._held, []
            for done in held:
                done()

    # -- its end ------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give back the place of a client who is not known yet, and keep nothing of what it has shown."""
        self._admission.release()
        self.request = without_secrets(self.request)

    def claim(self, user: str) -> None:
        """Hear which user speaks over it."""
        self.user = user

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """Tell whoever asks why it ended; what was posted before is told first."""
        self._end(close_frame(code, reason), FORCED)

    def _end(self, farewell: bytes, reason: str) -> None:
        if self._farewell is not None:
            return
        self._farewell = farewell
        receiver, self._receiver = self._receiver, None
        self.is_stalled = True
        self._arm(self._home.disconnect_delay_s)
        if receiver is not None:
            self._part(receiver, farewell)
        upper, self._upper = self._upper, None
        if upper is not None:
            upper.gone(reason)
        self._deliver()

    def _part(self, receiver: Receiver, farewell: bytes) -> None:
        """Tell a receiver the last words; a poll that has messages to carry leaves them to the next."""
        self._write_queue(receiver)
        if not receiver.is_over:
            if self._queue is None:
                receiver.tell(farewell)
            receiver.finish()

    def _forget(self) -> None:
        self._queue = None
        self._admission.release()
        self._home.forget(self)

    # -- the clockwork --------------------------------------------------------------------------

    def _arm(self, delay_s: float) -> None:
        hub = self._home.hub
        if self._slot is not None:
            hub.deadlines.disarm(self, self._slot)
        self._slot = hub.deadlines.arm(self, hub.time() + delay_s, SockJsSession._is_due)

    def _is_due(self) -> None:
        self._slot = None
        receiver = self._receiver
        if receiver is not None:
            self._beat(receiver)
            return
        if self._farewell is None:
            self._farewell = _INTERRUPTED
            upper, self._upper = self._upper, None
            if upper is not None:
                upper.gone(TRANSPORT_CLOSE)
            self._deliver()
        self._forget()

    def _beat(self, receiver: Receiver) -> None:
        home = self._home
        stalled_s = self._stalled_s
        if stalled_s is not None and home.hub.time() - stalled_s > home.limits.stall_timeout_s:
            receiver.abort()
            self.interrupted(receiver)
            return
        self._arm(home.heartbeat_s)
        if not receiver.is_stalled:
            receiver.tell(HEARTBEAT)
