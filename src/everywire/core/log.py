"""The bounded channel log: the newest publications of one channel, in order.

It serves the memory broker as its store and every hub as the tail of a channel.
Bounds are count, bytes and age (`Window`), and one `Budget` of bytes over all
logs of a process. Offsets inside a log have no holes: publication ``n`` is
followed by ``n + 1``, so that a reader can prove that it missed nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from everywire.core.publication import Publication
from everywire.core.settings import Window

__all__ = ["Budget", "ChannelLog"]


class Budget:
    """Bytes that all logs of a process may hold together.

    When they hold more, the log that was appended to least recently is trimmed first.
    ``trimmed`` counts the publications that had to go for it.
    """

    __slots__ = ("_logs", "max_bytes", "trimmed", "used_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.trimmed = 0
        self._logs: OrderedDict[ChannelLog, None] = OrderedDict()

    def grew(self, log: ChannelLog, size: int) -> None:
        """Count bytes that a log took, and trim the least recently used beyond the budget."""
        if not log.is_kept:
            self._logs[log] = None
            self._logs.move_to_end(log)
        self.used_bytes += size
        while self.used_bytes > self.max_bytes and self._logs:
            oldest = next(iter(self._logs))
            if not len(oldest):
                del self._logs[oldest]
                continue
            # The log in use keeps all it can; any other goes whole.
            excess = self.used_bytes - self.max_bytes if oldest is log else oldest.size_bytes
            self.trimmed += oldest.drop_bytes(excess)

    def shrank(self, size: int) -> None:
        """Count bytes that a log gave back."""
        self.used_bytes -= size

    def spare(self, log: ChannelLog) -> None:
        """Trim a log no more for the sake of others; it counts all the same."""
        self._logs.pop(log, None)

    def forget(self, log: ChannelLog) -> None:
        """Drop a log that is no longer used, with what it holds."""
        log.clear()
        self._logs.pop(log, None)


class ChannelLog:
    """The newest publications of a channel within its window.

    ``first`` is the offset of the oldest kept, ``last`` that of the newest ever
    appended; an empty log has ``first == last + 1``.
    """

    __slots__ = ("_began", "_budget", "_items", "_start", "first", "is_kept", "last", "size_bytes", "window")

    def __init__(self, window: Window, budget: Budget, *, after: int = 0) -> None:
        self.window = window
        self.first = after + 1
        self.last = after
        self.size_bytes = 0
        self.is_kept = False
        """Whether it gives way to nothing but its own window."""
        self._began = after
        self._budget = budget
        # A list and the index where it begins: slices by offset cost what they return,
        # whatever the window's length; the dead front is cut off when it outgrows the rest.
        self._items: list[Publication] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._items) - self._start

    @property
    def is_whole(self) -> bool:
        """Whether all that was appended since it was made, or begun anew, is still kept."""
        return self.first == self._began + 1

    def append(self, publication: Publication) -> None:
        """Append the publication whose offset follows the last; trim to the window."""
        if publication.offset != self.last + 1:
            raise ValueError(f"offset {publication.offset} does not follow {self.last}")
        self._items.append(publication)
        self.last = publication.offset
        size = publication.cost_bytes
        self.size_bytes += size
        window = self.window
        excess = len(self._items) - self._start - window.max_publications
        if excess > 0:
            self._drop(excess)
        if self.size_bytes > window.max_bytes:
            # The newest is kept even when it is larger than the window: readers at the head get it.
            self.drop_bytes(self.size_bytes - window.max_bytes, keep=1)
        self._budget.grew(self, size)

    def after(self, offset: int, max_publications: int, max_bytes: int) -> list[Publication]:
        """Return the publications after the offset that are kept, oldest first, within the bounds.

        At least one is returned when there is one, however large.
        """
        begin = self._start + max(offset + 1 - self.first, 0)
        found = self._items[begin : begin + max_publications]
        total = 0
        for index, publication in enumerate(found):
            total += len(publication.data)
            if total > max_bytes and index:
                return found[:index]
        return found

    def newest(self, count: int) -> list[Publication]:
        """Return the newest publications, at most ``count``, oldest first."""
        return self._items[max(len(self._items) - count, self._start) :] if count > 0 else []

    def trim_before_ms(self, time_ms: int) -> None:
        """Drop what was published before a time."""
        count = 0
        items, start = self._items, self._start
        while start + count < len(items) and items[start + count].time_ms < time_ms:
            count += 1
        if count:
            self._drop(count)

    def drop_bytes(self, excess: int, *, keep: int = 0) -> int:
        """Drop the oldest until that many bytes are free; return how many were dropped."""
        count = freed = 0
        items, start = self._items, self._start
        while freed < excess and start + count < len(items) - keep:
            freed += items[start + count].cost_bytes
            count += 1
        self._drop(count)
        return count

    def clear(self) -> None:
        """Drop everything; offsets go on."""
        self._drop(len(self))

    def begin_anew(self) -> None:
        """Drop everything, and be whole from the next publication on."""
        self.clear()
        self._began = self.last

    def keep(self, window: Window) -> None:
        """Keep all that fits a window, whatever others need, until `let_go`."""
        self.window = window
        self.is_kept = True
        self._budget.spare(self)

    def let_go(self, window: Window) -> None:
        """Drop what was kept, and go by a window and the budget again."""
        self.clear()
        self.window = window
        self.is_kept = False

    def _drop(self, count: int) -> None:
        if not count:
            return
        items, start = self._items, self._start
        freed = sum(items[index].cost_bytes for index in range(start, start + count))
        items[start : start + count] = [None] * count  # type: ignore[list-item]  # free them now
        self._start = start = start + count
        self.first += count
        self.size_bytes -= freed
        self._budget.shrank(freed)
        if start > 64 and start * 2 > len(items):
            del items[:start]
            self._start = 0

    __hash__ = object.__hash__
