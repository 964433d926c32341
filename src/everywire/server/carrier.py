"""What every connection has, whatever it speaks: a transport, deadlines, back-pressure, its log lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import SocketType
from typing import Any

from everywire.core.codes import Code
from everywire.core.wheel import Slot
from everywire.server.host import Host, Listener
from everywire.server.log import loggable
from everywire.server.peers import bytes_of, unsent_bytes
from everywire.transports.exchange import Driver

__all__ = ["Carrier", "discard"]


def discard(data: Any) -> None:
    """Write nothing: the answer has no body, or nobody is there."""


class Carrier(asyncio.Protocol):
    """The common part of connections. A subclass says what its deadline means and what ends it."""

    __slots__ = (
        "_driver",
        "_due_s",
        "_host",
        "_id",
        "_is_reading",
        "_is_stalled",
        "_listener",
        "_mark",
        "_messages_out",
        "_opened_s",
        "_path",
        "_peer",
        "_reason",
        "_requests",
        "_socket",
        "_timer",
        "_transport",
        "transport_name",
        "write",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._host: Host = listener.host
        self._transport: asyncio.Transport | None = None
        self._socket: SocketType | None = None
        self.write: Callable[[Any], object] = discard
        self._driver: Driver | None = None
        self._timer: Slot | None = None
        self._due_s = 0.0
        self._is_stalled = False
        self._is_reading = True
        self._mark = -1
        self._id = 0
        self._peer = ""
        self._path = ""
        self._opened_s = 0.0
        self._requests = 0
        self._messages_out = 0
        self._reason: str | None = None
        self.transport_name: str | None = None

    # -- the end --------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell the driver, and write the log line."""
        self._disarm()
        host = self._host
        host.leave(self, self._peer)
        self.write = discard
        if self._reason is None:
            self._reason = "left" if exc is None else "reset"
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.gone(self._reason)
        if self._socket is not None:
            # The event loop closes the descriptor right after this, and the kernel may give its number
            # to another connection: from here on nothing is sent past the transport.
            self._socket.detach()
            self._socket = None
        transport, self._transport = self._transport, None
        if transport is not None:
            self._log_close(bytes_of(transport))

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        if self._transport is not None:
            if self._reason is None:
                self._reason = reason
            self._transport.abort()

    def drain(self, retry_ms: int) -> None:
        """Leave as soon as possible; the peer is told to come back."""
        if self._driver is not None:
            self._driver.drain(retry_ms)

    # -- writing ------------------------------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write what goes at once, past the transport: `socket.send` costs a fifth less than its write.

        Right only while the transport holds nothing back: then `pause_writing` was not called. With TLS
        the transport must encrypt.
        """
        transport = self._transport
        if transport is None or self.write is discard or self._listener.is_tls:
            return self._send_by_transport
        if self._socket is None:
            known = transport.get_extra_info("socket")
            if known is None:
                return self._send_by_transport
            self._socket = SocketType(known.family, known.type, known.proto, known.fileno())
        return self._socket.send

    def write_past(self, framed: bytes) -> None:
        """Write to a connection that is not stalled, by `send` as far as it goes."""
        try:
            taken = self.send(framed)
        except OSError:
            taken = 0
        if taken != len(framed):
            self.write(framed[taken:])

    def _send_by_transport(self, framed: bytes) -> int:
        self.write(framed)
        return len(framed)

    # -- back-pressure ----------------------------------------------------------------

    def pause_writing(self) -> None:
        """Hear that bytes remain unsent."""
        self._is_stalled = True
        self._mark = -1
        self._arm(self._host.limits.stall_timeout_s)
        if self._driver is not None:
            self._driver.stalled()

    def resume_writing(self) -> None:
        """Hear that all bytes were taken."""
        self._is_stalled = False
        self._disarm()
        if self._driver is not None:
            self._driver.writable()

    def _pause(self) -> None:
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    # -- deadlines --------------------------------------------------------------------

    def _arm(self, timeout_s: float) -> None:
        """Set the one deadline that this connection has."""
        wheel = self._host.wheel
        if self._timer is not None:
            self._timer.pop(self, None)
        deadline_s = wheel.now_s + timeout_s
        self._due_s = deadline_s - wheel.lost_s
        self._timer = wheel.arm(self, deadline_s, Carrier._time_is_over)

    def _arm_at(self, due_s: float) -> None:
        """Set the deadline to a time on the wheel's own clock."""
        wheel = self._host.wheel
        self._due_s = due_s
        self._timer = wheel.arm(self, due_s + wheel.lost_s, Carrier._time_is_over)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.pop(self, None)
            self._timer = None

    def _time_is_over(self) -> None:
        self._timer = None
        wheel = self._host.wheel
        if self._due_s > wheel.now_s - wheel.lost_s:
            # Whoever moves its deadline to later need not touch the wheel: it is armed again here.
            self._arm_at(self._due_s)
        else:
            self._missed_deadline()

    def _missed_deadline(self) -> None:
        """Act on a deadline that has passed."""
        raise NotImplementedError

    def _miss(self, kind: str) -> None:
        self._host.metrics.deadlines[kind] += 1

    def _look_for_progress(self) -> None:
        """Cut a stalled connection whose peer has taken no byte for the time it may."""
        assert self._transport is not None
        unsent = unsent_bytes(self._transport)
        if unsent == self._mark:
            self._miss("stall")
            self.abort("stalled")
        else:
            self._arm(self._host.limits.stall_timeout_s)
            self._mark = unsent

    # -- log lines ----------------------------------------------------------------------

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note what the log line at close shall tell."""
        self._messages_out += messages_out
        if code is not None and self._reason is None:
            self._reason = code.name

    def _log_open(self, transport: str, peer: str, path: str, query: str) -> None:
        host = self._host
        self._opened_s = host.loop.time()
        self._path = loggable(path, query)
        host.log.opened(self._id, peer, transport, self._path)

    def _log_close(self, moved: tuple[int, int] | None) -> None:
        host = self._host
        received, sent = moved or (None, None)
        if moved is not None:
            host.metrics.bytes_received += moved[0]
            host.metrics.bytes_sent += moved[1]
        if self.transport_name is not None:
            host.log.closed(
                (self._id, self._peer, self.transport_name, self._path),
                round(host.loop.time() - self._opened_s, 3),
                self._requests,
                self._messages_out,
                received,
                sent,
                self._reason,
            )
