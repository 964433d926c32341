"""Where a returning reader begins, and how the log is read for those who are behind.

Everything here ends in callbacks, because the log may be elsewhere; with a log in this
process they run within the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from everywire.brokers.base import Head, Log, Page
from everywire.core.errors import EverywireError
from everywire.core.position import Place, Position
from everywire.core.publication import RESET, Gap, trimmed
from everywire.hub.channel import Channel

__all__ = [
    "EARLIEST",
    "LATEST",
    "UNREADABLE",
    "Begin",
    "PageReader",
    "Start",
    "begin_at",
    "place_at",
]


class Start(NamedTuple):
    """Where a reader asks to begin: a position, or one of the words below."""

    position: Position | None
    word: str = ""


EARLIEST: Final = Start(None, "earliest")
"""With the oldest publication that is kept."""
LATEST: Final = Start(None, "latest")
"""With the next publication."""
UNREADABLE: Final = Start(None, "unreadable")
"""With a position that nobody can read: a reset, then the oldest that is kept."""


_NOWHERE: Final = Place("?", 0)
"""Where a reader with an unreadable position stands: in no epoch, so that it is told of a reset."""


class Begin(NamedTuple):
    """Where a reader begins in one channel: after ``offset``, once the gap was told."""

    offset: int
    gap: Gap | None = None
    is_new: bool = False


def begin_at(start: Start, name: str, head: Head) -> Begin:
    """Decide where a reader begins in a channel that stands at ``head``.

    A position of another epoch, or beyond the head, is a reset: this store never gave it.
    """
    if start.position is None:
        if start.word == "latest":
            return Begin(head.last)
        return Begin(head.first - 1, RESET if start.word == "unreadable" else None)
    place = start.position.place(name)
    if place is None:
        return Begin(head.last, is_new=True)
    if place.epoch != head.epoch or place.offset > head.last:
        return Begin(head.first - 1, RESET)
    if place.offset + 1 < head.first:
        return Begin(head.first - 1, trimmed(place.offset + 1, head.first - 1))
    return Begin(place.offset)


def place_at(start: Start, name: str, head: Head) -> tuple[Place, bool]:
    """Return where a reader stands in a channel before it is told anything, and whether it is new there.

    That is where its position says, even if the log has gone on or begun anew since then: it is
    told so as it reads, and until it was told, its position stays. A position beyond the head is
    nowhere: this store never gave it.
    """
    if start.position is None:
        if start.word == "unreadable":
            return _NOWHERE, False
        return Place(head.epoch, head.last if start.word == "latest" else head.first - 1), False
    place = start.position.place(name)
    if place is None:
        return Place(head.epoch, head.last), True
    is_beyond = place.epoch == head.epoch and place.offset > head.last
    return _NOWHERE if is_beyond else place, False


PageDone = Callable[[Page | EverywireError], None]


class PageReader:
    """Reads logs: from this process's tails where they reach, else from the broker, single-flight.

    Readers that ask for the same page at the same time share one read.
    """

    __slots__ = ("_channels", "_flights", "_log")

    def __init__(self, log: Log, channels: Mapping[str, Channel]) -> None:
        self._log = log
        self._channels = channels
        self._flights: dict[tuple[str, int, int, int], list[PageDone]] = {}

    def read(self, channel: str, after: int, max_publications: int, max_bytes: int, done: PageDone) -> None:
        """Read one page, as `everywire.brokers.base.Log.read` does."""
        if self._log.is_local:
            self._log.read(channel, after, max_publications, max_bytes, done)
            return
        page = self._from_tail(channel, after, max_publications, max_bytes)
        if page is not None:
            done(page)
        else:
            self.read_log(channel, after, max_publications, max_bytes, done)

    def read_log(
        self, channel: str, after: int, max_publications: int, max_bytes: int, done: PageDone
    ) -> None:
        """Read one page from the log itself: it may know of more than this process's tail."""
        key = (channel, after, max_publications, max_bytes)
        flight = self._flights.get(key)
        if flight is not None:
            flight.append(done)
            return
        self._flights[key] = [done]
        self._log.read(channel, after, max_publications, max_bytes, partial(self._land, key))

    def _land(self, key: tuple[str, int, int, int], page: Page | EverywireError) -> None:
        for done in self._flights.pop(key):
            done(page)

    def _from_tail(self, name: str, after: int, max_publications: int, max_bytes: int) -> Page | None:
        channel = self._channels.get(name)
        if channel is None or not channel.is_known or channel.tail is None:
            return None
        tail = channel.tail
        if after + 1 < tail.first or after > tail.last or tail.last != channel.head:
            return None
        head = Head(channel.epoch, tail.first, tail.last, is_whole=False)  # as far as the tail knows
        return Page(head, tail.after(after, max_publications, max_bytes))

    def read_several(
        self,
        wanted: Sequence[tuple[str, int]],
        max_publications: int,
        max_bytes: int,
        done: Callable[[list[Page] | EverywireError], None],
    ) -> None:
        """Read several channels after their offsets, each with an equal share of the bounds.

        Calls back once, with a page for each in their order, or with the first error.
        """
        pages: dict[int, Page] = {}
        left = len(wanted)
        count = max(max_publications // len(wanted), 1)
        size = max_bytes // len(wanted)

        def keep(index: int, page: Page | EverywireError) -> None:
            nonlocal left
            if left <= 0:
                return
            if isinstance(page, EverywireError):
                left = 0
                done(page)
                return
            pages[index] = page
            left -= 1
            if not left:
                done([pages[index] for index in range(len(wanted))])

        for index, (name, after) in enumerate(wanted):
            self.read(name, after, count, size, partial(keep, index))
