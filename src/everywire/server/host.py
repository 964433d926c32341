"""What all connections of one server share, and the slow clock that they live by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from everywire.access.quotas import counted
from everywire.codecs.http.forwarded import Trust
from everywire.codecs.http.request import HeadReader
from everywire.codecs.http.response import Dates, WholeResponse
from everywire.core.limits import Limits
from everywire.core.wheel import Wheel, next_beat
from everywire.server.log import Log
from everywire.server.metrics import HostMetrics
from everywire.server.options import ServerOptions
from everywire.transports.exchange import Handler

__all__ = ["CLOSE", "CONNECTION_FIELDS", "KEEP", "KEEP_OLD", "TICK_S", "Connection", "Host", "Listener"]

TICK_S: Final = 0.25
"""Resolution of deadlines, and of the Date field."""
_SAMPLE_S: Final = 0.05
_BUSY_SAMPLE_S: Final = 0.01
_BUSY_TURN_S: Final = 0.002
"""How often the length of the event loop's turns is looked at; the latter after a turn that was long."""
_MAX_FRAMINGS: Final = 256

CONNECTION_FIELDS: Final = (b"", b"connection: close\r\n", b"connection: keep-alive\r\n")
KEEP: Final = 0
CLOSE: Final = 1
KEEP_OLD: Final = 2
"""What the answer says about the connection; the last is for HTTP/1.0, where closing is the rule."""


class Connection(Protocol):
    """What a host may ask of an open connection."""

    transport_name: str | None
    """The name of the transport that it carries, or carried last."""

    def drain(self, retry_ms: int) -> None:
        """Leave as soon as the answer in progress allows."""

    def abort(self, reason: str) -> None:
        """Leave now."""


class Host:
    """One server's shared parts."""

    __slots__ = (
        "_due_s",
        "_framings",
        "_next_tick_s",
        "_of_address",
        "_sampler",
        "connections",
        "dates",
        "deflate",
        "handler",
        "handshaking",
        "heads",
        "idle_due_s",
        "is_draining",
        "last_id",
        "limits",
        "log",
        "loop",
        "metrics",
        "trust",
        "wheel",
    )

    def __init__(self, handler: Handler, options: ServerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.handler = handler
        self.limits: Limits = options.limits
        self.deflate = options.deflate
        self.loop = loop
        self.metrics = HostMetrics()
        self.log = Log(options.log_fd, time.time, options.log_level, worker=options.worker)
        self.trust = Trust(options.trusted_proxies)
        self.heads = HeadReader(options.limits.max_headers)
        self.wheel = Wheel(TICK_S, loop.time())
        self.dates = Dates(time.time())
        self.connections: set[Connection] = set()
        self.handshaking = 0
        """Connections whose TLS handshake goes on."""
        self._of_address: dict[str, int] = {}
        self.is_draining = False
        self.last_id = 0
        self.idle_due_s = self.wheel.now_s + options.limits.keep_alive_timeout_s
        """When a connection that becomes idle now has been so for too long, on the wheel's own clock."""
        self._framings: dict[tuple[int, tuple[tuple[bytes, bytes], ...], int, bool], WholeResponse] = {}
        self._sampler: asyncio.TimerHandle | None = None
        self._due_s = self._next_tick_s = 0.0

    # -- who is connected ---------------------------------------------------------

    def has_room_for(self, peer: str) -> bool:
        """Say whether an address may open one more connection, before anything is known of it: as many as
        may last (`Limits.max_connections_per_address`), and as many again that are idle, or slow to ask."""
        most = 2 * self.limits.max_connections_per_address
        return not most or self._of_address.get(self._counted(peer), 0) < most

    def enter(self, connection: Connection, peer: str) -> None:
        """Count a connection in."""
        self.connections.add(connection)
        address = self._counted(peer)
        if address:
            self._of_address[address] = self._of_address.get(address, 0) + 1

    def leave(self, connection: Connection, peer: str) -> None:
        """Count a connection out, if it was counted in."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        address = self._counted(peer)
        if address:
            left = self._of_address[address] - 1
            if left:
                self._of_address[address] = left
            else:
                del self._of_address[address]

    def _counted(self, peer: str) -> str:
        return "" if self.trust and self.trust.trusts(peer) else counted(peer)

    # -- the clock ----------------------------------------------------------------

    def start(self) -> None:
        """Start the clock."""
        now = self.loop.time()
        self._next_tick_s = now
        self._due_s = next_beat(now, _SAMPLE_S)
        self._sampler = self.loop.call_at(self._due_s, self._sample)

    def stop(self) -> None:
        """Stop the clock and write out the log."""
        if self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None
        self.log.close()

    def _sample(self) -> None:
        now = self.loop.time()
        late_s = now - self._due_s
        metrics = self.metrics
        if late_s > metrics.loop_turn_max_s:
            metrics.loop_turn_max_s = late_s
        self._due_s = now + _BUSY_SAMPLE_S if late_s > _BUSY_TURN_S else next_beat(now, _SAMPLE_S)
        self._sampler = self.loop.call_at(self._due_s, self._sample)
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            if late_s > 1.0:
                self.log.warning("loop_blocked", seconds=round(late_s, 3))
            self._tick(now)

    def _tick(self, now_s: float) -> None:
        wheel = self.wheel
        wheel.advance(now_s)
        self.dates.turn(time.time())
        self.idle_due_s = now_s - wheel.lost_s + self.limits.keep_alive_timeout_s
        log = self.log
        self.metrics.log_lines_dropped = log.dropped
        log.flush()

    def response_framing(
        self, status: int, fields: Sequence[tuple[bytes, bytes]], connection: int, is_head_only: bool
    ) -> WholeResponse:
        """Return the framing of whole responses with this head: one object for equal heads."""
        key = (status, tuple(fields), connection, is_head_only)
        framing = self._framings.get(key)
        if framing is None:
            framing = WholeResponse(status, fields, self.dates, CONNECTION_FIELDS[connection], is_head_only)
            if len(self._framings) >= _MAX_FRAMINGS:
                del self._framings[next(iter(self._framings))]
            self._framings[key] = framing
        return framing


class Listener:
    """One listening socket, as far as its connections need to know it."""

    __slots__ = ("host", "is_tls", "scheme")

    def __init__(self, host: Host, *, is_tls: bool) -> None:
        self.host = host
        self.is_tls = is_tls
        self.scheme = "https" if is_tls else "http"
