"""The heartbeat of Engine.IO connections: one deadline at a time on the hub's wheel, and no task.

Version 4: the server pings, and the client answers in time. The next ping is due when the interval has gone
by since the answer, so there is never more than one on its way, and pongs that nobody asked for count for
nothing. Version 3: the client pings, and the server drops it when it does not.

The wheel is a twentieth of a second coarse. So pings are armed two ticks early, and whoever looks a
connection up asks `Heartbeat.is_overdue`, which goes by the exact time; that way intervals of some hundred
milliseconds are kept, too. Time in which the event loop was blocked counts for nobody.
"""

from __future__ import annotations

import math
import random
from typing import Final

from everywire.core.wheel import STALL_S, Slot
from everywire.hub.hub import Hub
from everywire.sockets.engine_options import EngineOptions

__all__ = ["Heartbeat"]

_MANY_TICKS: Final = 4
"""A wheel that was not turned for so many ticks is about to count what was lost, or to catch up."""
_SPREAD_FROM_S: Final = 5.0
"""First pings of longer intervals come up to a fifth early: those of a crowd that came at once are spread."""


class Heartbeat:
    """The part of a connection that knows when it was last heard."""

    __slots__ = ("_hub", "_ping_due_s", "_pong_due_s", "_slot", "_slot_s", "options", "protocol")

    def __init__(self, hub: Hub, options: EngineOptions, protocol: int) -> None:
        self._hub = hub
        self._slot: Slot | None = None
        self._slot_s = math.inf
        self._ping_due_s = math.inf
        self._pong_due_s = math.inf
        self.options = options
        self.protocol = protocol

    # -- what the connection does ---------------------------------------------------

    @property
    def is_hearing(self) -> bool:
        """Whether an answer of the client would be heard now."""
        raise NotImplementedError

    def ping(self) -> None:
        """Send a ping."""
        raise NotImplementedError

    def missed(self) -> None:
        """End: nothing was heard in time."""
        raise NotImplementedError

    # -- what the connection tells ----------------------------------------------------

    def begin(self) -> None:
        """Begin with the connection."""
        options = self.options
        if self.protocol == 3:
            self.pinged()
        else:
            interval_s = options.ping_interval_s
            is_spread = interval_s > _SPREAD_FROM_S
            self._expect_ping(interval_s * random.uniform(0.8, 1.0) if is_spread else interval_s)
        self._arm()

    def pinged(self) -> None:
        """Hear the client's ping (version 3)."""
        options = self.options
        self._pong_due_s = self._now_s() + options.ping_interval_s + options.ping_timeout_s

    def ponged(self) -> None:
        """Hear the client's answer (version 4)."""
        if self._pong_due_s < math.inf:
            self._pong_due_s = math.inf
            self._expect_ping(self.options.ping_interval_s)
            if self._ping_due_s < self._slot_s:
                self._arm()

    def heard(self) -> None:
        """Hear anything else: a sign of life, which puts the deadline off."""
        if self.protocol != 3 and self._pong_due_s < math.inf:
            self._pong_due_s = self._now_s() + self.options.ping_timeout_s

    @property
    def is_overdue(self) -> bool:
        """Whether nothing was heard in time; exact, where the wheel is late by up to two ticks."""
        if self._pong_due_s == math.inf or not self.is_hearing:
            return False
        wheel = self._hub.deadlines
        now_s = self._hub.time()
        if now_s - wheel.now_s > _MANY_TICKS * wheel.resolution_s:
            return False
        return now_s - wheel.lost_s >= self._pong_due_s

    def stop(self) -> None:
        """Stop with the connection."""
        self._ping_due_s = self._pong_due_s = math.inf
        if self._slot is not None:
            self._hub.deadlines.disarm(self, self._slot)
            self._slot = None

    # -- the clockwork -----------------------------------------------------------------

    def _now_s(self) -> float:
        """Return the time on the wheel's own clock, on which what was lost did not pass."""
        wheel = self._hub.deadlines
        return min(self._hub.time(), wheel.now_s + STALL_S) - wheel.lost_s

    def _expect_ping(self, after_s: float) -> None:
        early_s = min(2 * self._hub.deadlines.resolution_s, after_s / 2)
        self._ping_due_s = self._now_s() + after_s - early_s

    def _arm(self) -> None:
        wheel = self._hub.deadlines
        if self._slot is not None:
            wheel.disarm(self, self._slot)
        self._slot_s = due_s = min(self._ping_due_s, self._pong_due_s)
        self._slot = wheel.arm(self, due_s + wheel.lost_s, Heartbeat._run_due)

    def _run_due(self) -> None:
        self._slot = None
        now_s = self._now_s()
        if now_s >= self._pong_due_s:
            if self.is_hearing:
                self.missed()
                return
            # The ping, or the answer, is behind other bytes.
            self._pong_due_s = now_s + self.options.ping_timeout_s
        elif now_s >= self._ping_due_s:
            self._ping_due_s = math.inf
            self._pong_due_s = now_s + self.options.ping_timeout_s
            self.ping()
        if min(self._ping_due_s, self._pong_due_s) < math.inf:
            self._arm()
