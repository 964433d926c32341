"""Packets of which attachments are still to come: for how long, and how much of them all clients may hold.

A client announces attachments in a packet's text and sends each in a message of its own (Socket.IO
protocol 5, "Binary event"). What came so far is kept, so whoever never sends the rest costs memory for as
long as the connection is open. Hence a client whose next attachment does not come in time is closed, and
when all that waits is too much, those are closed who were heard of longest ago: whoever is in the middle of
sending is not held up by those who are not.
"""

from __future__ import annotations

from typing import Final, Protocol

from everywire.core import codes
from everywire.core.limits import Limits
from everywire.core.wheel import Slot
from everywire.hub.hub import Hub
from everywire.sockets.link import Link

__all__ = ["Incomplete"]

_MESSAGE_BYTES: Final = 256
"""What a message that waits takes besides its bytes."""


class Sender(Protocol):
    """A client, which is one key here. When its link ends it calls `Incomplete.drop`."""

    link: Link

    @property
    def is_paused(self) -> bool:
        """Whether what it sends waits on our side."""


class _Waiting:
    """What of one client is kept."""

    __slots__ = ("due_s", "size")

    def __init__(self) -> None:
        self.size = 0
        self.due_s = 0.0


class Incomplete:
    """The incomplete packets of one mount on this node."""

    __slots__ = ("_hub", "_limits", "_slot", "_waiting", "ended", "size")

    def __init__(self, hub: Hub, limits: Limits) -> None:
        self._hub = hub
        self._limits = limits
        self._waiting: dict[Sender, _Waiting] = {}
        """Who was heard of longest ago comes first."""
        self._slot: Slot | None = None
        self.size = 0
        """Bytes that are kept for all of them."""
        self.ended = 0
        """Clients that were closed because the rest did not come."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sender: Sender, size: int) -> None:
        """Hear that a part of a packet came, and was not the last one."""
        size += _MESSAGE_BYTES
        self._hear(sender, size)
        self.size += size
        while self.size > self._limits.max_incomplete_bytes:
            self._end_first()
        self._arm()

    def _hear(self, sender: Sender, size: int) -> None:
        waiting = self._waiting.pop(sender, None) or _Waiting()
        waiting.size += size
        waiting.due_s = self._now_s() + self._limits.socket_packet_timeout_s
        self._waiting[sender] = waiting

    def _now_s(self) -> float:
        """Return the time that deadlines go by: time in which the event loop was blocked does not count."""
        return self._hub.time() - self._hub.deadlines.lost_s

    def drop(self, sender: Sender) -> None:
        """Hear that nothing of a client is waited for any more; nothing happens if nothing was."""
        waiting = self._waiting.pop(sender, None)
        if waiting is not None:
            self.size -= waiting.size

    def _end_first(self) -> None:
        sender = next(iter(self._waiting))
        self.drop(sender)
        self.ended += 1
        sender.link.close(codes.STALE)

    # -- the time that they have, one deadline for all -----------------------------------

    def _arm(self) -> None:
        if self._slot is None and self._waiting:
            due_s = next(iter(self._waiting.values())).due_s
            self._slot = self._hub.deadlines.arm(self, due_s + self._hub.deadlines.lost_s, Incomplete._is_due)

    def _is_due(self) -> None:
        self._slot = None
        now_s = self._now_s()
        while self._waiting:
            sender, waiting = next(iter(self._waiting.items()))
            if waiting.due_s > now_s:
                break
            if sender.is_paused:
                self._hear(sender, 0)  # the rest may have come, and be waiting for us
            else:
                self._end_first()
        self._arm()

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._slot is not None:
            self._hub.deadlines.disarm(self, self._slot)
            self._slot = None
