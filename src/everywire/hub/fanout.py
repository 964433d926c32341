"""Fan-out in slices: what is due for whom, a few milliseconds at a time.

All that was published in one turn of the event loop is written together in the next one.
Work is cut at cohorts and at readers that catch up; after each slice the event loop has
its turn, so that nobody else waits for a crowd.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from everywire.hub.channel import Channel
from everywire.hub.counters import Counters
from everywire.hub.group import Cohort, Group
from everywire.hub.interfaces import Scheduler
from everywire.hub.reader import Reader

__all__ = ["Fanout"]


class Fanout:
    """The hub's one queue of work; nothing in it holds publications."""

    __slots__ = (
        "_beats",
        "_behind",
        "_catch_up",
        "_counters",
        "_dirty",
        "_groups",
        "_is_scheduled",
        "_round",
        "_scheduler",
        "_slice_s",
        "_work",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        slice_s: float,
        groups: Callable[[str], Sequence[Group]],
        catch_up: Callable[[Reader], None],
        counters: Counters,
    ) -> None:
        self._scheduler = scheduler
        self._slice_s = slice_s
        self._groups = groups
        self._catch_up = catch_up
        self._counters = counters
        self._dirty: dict[Channel, None] = {}
        self._behind: deque[Reader] = deque()
        self._beats: deque[Cohort] = deque()
        self._work: Iterator[None] | None = None
        self._is_scheduled = False
        self._round = 0

    def published(self, channel: Channel) -> None:
        """Note that a channel has something fresh."""
        self._dirty[channel] = None
        if not self._is_scheduled:
            self._schedule()

    def queue(self, reader: Reader) -> None:
        """Note that a reader is to catch up; each has its turn."""
        if not reader.is_queued:
            reader.is_queued = True
            self._behind.append(reader)
            if not self._is_scheduled:
                self._schedule()

    def beat(self, cohort: Cohort) -> None:
        """Note that a cohort is to show a sign of life."""
        if not cohort.is_due:
            cohort.is_due = True
            self._beats.append(cohort)
            if not self._is_scheduled:
                self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._scheduler.call_soon(self._run)

    def _run(self) -> None:
        now = self._scheduler.time
        end_s = now() + self._slice_s
        work = self._work or self._all()
        self._work = None
        self._is_scheduled = False
        try:
            for _ in work:
                if now() >= end_s:
                    self._work = work
                    break
        finally:
            # An error is the event loop's to report; what it leaves undone has its turn again.
            is_over = self._work is None and not (self._dirty or self._behind or self._beats)
            if not is_over and not self._is_scheduled:
                self._schedule()

    def _all(self) -> Iterator[None]:
        while self._dirty or self._behind or self._beats:
            if self._dirty:
                yield from self._flush()
            for _ in range(len(self._behind)):
                reader = self._behind.popleft()
                reader.is_queued = False
                self._catch_up(reader)
                yield
                if self._dirty:
                    break
            # One at least in every round, however much there is to write.
            while self._beats:
                self._beats.popleft().beat()
                yield
                if self._dirty:
                    break

    def _flush(self) -> Iterator[None]:
        """Write what is fresh in every channel to every cohort that stands behind it."""
        dirty, self._dirty = self._dirty, {}
        heads = [(channel, channel.head) for channel in dirty]
        self._round += 1
        try:
            for channel in dirty:
                for group in tuple(self._groups(channel.name)):
                    if group.round != self._round:
                        group.round = self._round
                        yield from self._flush_group(group)
        except BaseException:
            self._dirty.update(dirty)
            raise
        for channel, head in heads:
            channel.drop_fresh(head)

    def _flush_group(self, group: Group) -> Iterator[None]:
        counters = self._counters
        for cohort in tuple(group.cohorts):
            if cohort.members:
                for delivered in cohort.flush():
                    counters.delivered += delivered
                    yield
        group.tidy()
        group.forget_burst()
