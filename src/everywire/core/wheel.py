"""Many coarse deadlines at the price of a dictionary entry each: a timing wheel.

Time is cut into ticks; all that is due in one tick shares one slot. To arm and to disarm
costs one dictionary operation and no object, however many deadlines are pending. A callback
runs up to two ticks after its deadline, and never before it.

Only time in which somebody turned the wheel counts: when `Wheel.advance` finds that more
than `STALL_S` went by since it was last called, the event loop was blocked and could not
hear its peers, so every pending deadline moves by what was lost.

There is no clock and no timer here: whoever owns the wheel calls `Wheel.advance` about once
per tick. It refuses nothing and bounds nothing; owners arm at most one deadline each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import floor
from typing import Any, Final, TypeAlias

__all__ = ["STALL_S", "Slot", "Wheel", "next_beat"]

STALL_S: Final = 1.0
"""A pause between two calls of `Wheel.advance` that is longer than this is no time for deadlines."""

Slot: TypeAlias = dict[Any, Callable[[Any], object]]
"""What is due in one tick. To disarm a deadline is to take its owner out: `Wheel.disarm`."""


def next_beat(now_s: float, period_s: float) -> float:
    """Return the next moment, by the same clock, that all timers of a period have in common: so a loop with
    nothing to do wakes up once for all of them. It is between a tenth of the period and 1.1 of it away."""
    return (floor(now_s / period_s + 0.1) + 1) * period_s


class Wheel:
    """A timing wheel. Its clock is whatever ``now_s`` its owner gives, as long as it never goes back."""

    __slots__ = ("_per_s", "_slots", "_tick", "lost_s", "now_s", "resolution_s")

    def __init__(self, resolution_s: float, now_s: float) -> None:
        self.resolution_s = resolution_s
        self._per_s = 1 / resolution_s
        self.now_s = now_s
        """When the wheel was last turned."""
        self.lost_s = 0.0
        """How much time did not count, in all."""
        self._slots: dict[int, Slot] = {}
        self._tick = int(now_s * self._per_s)

    def arm(self, owner: Hashable, deadline_s: float, callback: Callable[[Any], object]) -> Slot:
        """Call ``callback(owner)`` once ``deadline_s`` is over; return what `disarm` wants.

        The callback is given its owner, so that a plain function will do and no bound method
        is kept. An owner that is armed twice for the same tick has one deadline.
        """
        tick = int((deadline_s - self.lost_s) * self._per_s) + 1
        if tick <= self._tick:
            tick = self._tick + 1
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
        slot[owner] = callback
        return slot

    @staticmethod
    def disarm(owner: Hashable, slot: Slot) -> None:
        """Forget a deadline; nothing happens if it was over already."""
        slot.pop(owner, None)

    @property
    def is_empty(self) -> bool:
        """Whether no deadline is pending. Turn an empty wheel once before arming it again after a rest."""
        return not any(self._slots.values())

    def advance(self, now_s: float) -> None:
        """Run what is due. A callback may arm and disarm as it likes; one that raises leaves the rest
        of its tick to the next call."""
        passed_s = now_s - self.now_s
        if passed_s > STALL_S:
            self.lost_s += passed_s - self.resolution_s
        self.now_s = now_s
        last = int((now_s - self.lost_s) * self._per_s)
        slots = self._slots
        while self._tick < last:
            slot = slots.get(self._tick + 1)
            while slot:
                owner, callback = slot.popitem()
                callback(owner)
            # Only now: until its slot is empty a tick is not over.
            self._tick += 1
            slots.pop(self._tick, None)
