"""What the authority remembers, for a bounded time and in a bounded number, and what it must forget.

`Remembered` is a table whose entries all live equally long, so that the oldest stands first. `Forgotten` says
whether something learned earlier was to be forgotten since: a mark for each user (and channel), instead
of a search through all that is remembered, which also reaches answers that are still under way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["Forgotten", "Remembered"]

_Value = TypeVar("_Value")

_MAX_MARKS: Final = 10_000


class _Entry(NamedTuple, Generic[_Value]):
    value: _Value
    until_s: float
    learned: int
    """What `Forgotten.now` said before it was asked for."""


class Remembered(Generic[_Value]):
    """Values by key, for ``ttl_s`` each."""

    __slots__ = ("_clock", "_entries", "_max", "_ttl_s")

    def __init__(self, max_entries: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._max = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: dict[Hashable, _Entry[_Value]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> _Entry[_Value] | None:
        """Return what is remembered and not too old."""
        entry = self._entries.get(key)
        if entry is not None and entry.until_s <= self._clock():
            del self._entries[key]
            return None
        return entry

    def put(self, key: Hashable, value: _Value, learned: int) -> None:
        """Remember a value, from now on."""
        now_s = self._clock()
        entries = self._entries
        entries.pop(key, None)
        # Two go for each that comes, as long as the oldest are over: so the table empties itself.
        for _ in range(2):
            oldest = next(iter(entries), None)
            if oldest is None or (entries[oldest].until_s > now_s and len(entries) < self._max):
                break
            del entries[oldest]
        entries[key] = _Entry(value, now_s + self._ttl_s, learned)

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        self._entries.pop(key, None)


class Forgotten:
    """Marks of what was to be forgotten, and when, in a count that only grows.

    ``keep_s`` is how long what was learned before a mark may still turn up. When there are too many marks,
    all that was learned before counts as forgotten.
    """

    __slots__ = ("_clock", "_floor", "_keep_s", "_marks", "now")

    def __init__(self, keep_s: float, clock: Callable[[], float]) -> None:
        self.now = 0
        """The count, to be kept with what is learned from now on."""
        self._keep_s = keep_s
        self._clock = clock
        self._floor = 0
        self._marks: dict[tuple[str, str], tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, user: str, channel: str = "") -> None:
        """Forget what was learned of a user, or of a user and a channel, until now."""
        self.now += 1
        now_s = self._clock()
        marks = self._marks
        marks.pop((user, channel), None)
        while marks and next(iter(marks.values()))[1] <= now_s:
            del marks[next(iter(marks))]
        if len(marks) >= _MAX_MARKS:
            marks.clear()
            self._floor = self.now
        marks[user, channel] = (self.now, now_s + self._keep_s)

    def since(self, learned: int, user: str, channel: str = "") -> bool:
        """Whether what was learned then of a user (and a channel) was to be forgotten since."""
        if learned < self._floor:
            return True
        marks = self._marks
        if not marks:
            return False
        mark = marks.get((user, ""))
        if mark is not None and mark[0] > learned:
            return True
        mark = marks.get((user, channel)) if channel else None
        return mark is not None and mark[0] > learned
