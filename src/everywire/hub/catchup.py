"""Readers that are behind: one joined write from the log at a time, until they reach the head.

A reader comes here when it begins at an older position, and after a stall, once its
socket has taken all bytes. Its channels share each write equally, so that a busy one does
not hold up the others. When the window has moved past the reader, the settings decide
what happens, and it is told in any case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final

from everywire.brokers.base import Head, Page
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.publication import RESET, Gap, trimmed
from everywire.core.settings import SlowReader
from everywire.hub.batch import Batch, Chunk
from everywire.hub.channel import Channel
from everywire.hub.counters import Counters
from everywire.hub.interfaces import Scheduler
from everywire.hub.reader import Reader
from everywire.hub.recovery import PageReader

__all__ = ["CatchUp"]

_KEPT_CHUNKS: Final = 32
"""Joined writes kept for the next reader at the same place: at most 32 times 64 KiB."""
_RETRY_S: Final = 1.0
_SOON_S: Final = 0.1


class CatchUp:
    """Moves one reader one write further."""

    __slots__ = ("_chunks", "_compare", "_counters", "_pages", "_queue", "_scheduler")

    def __init__(
        self,
        scheduler: Scheduler,
        pages: PageReader,
        counters: Counters,
        queue: Callable[[Reader], None],
        compare: Callable[[Channel, Head], None],
    ) -> None:
        self._scheduler = scheduler
        self._pages = pages
        self._counters = counters
        self._queue = queue
        self._compare = compare
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()

    def step(self, reader: Reader) -> None:
        """Write once, or join the live members when the reader stands at the head."""
        if reader.is_closed or reader.is_stalled or reader.is_reading or reader.cohort is not None:
            return
        if not reader.offsets:
            return  # it was stalled before it began, which it does when its channels are known
        behind = self._behind(reader)
        if not behind:
            reader.join(reader.offsets)
            return
        chunk = self._chunks.get(_key(reader))
        if chunk is not None:
            self._deliver(reader, chunk)
            return
        # Another channel comes first every time, and each has an equal share of the write.
        reader.turn = turn = (reader.turn + 1) % len(behind)
        behind = behind[turn:] + behind[:turn]
        reader.is_reading = True
        group = reader.group
        wanted = [(group.channels[index].name, _read_from(reader, index)) for index in behind]
        done = partial(self._got, reader, behind)
        self._pages.read_several(wanted, group.max_publications, group.max_bytes, done)

    def _behind(self, reader: Reader) -> list[int]:
        """Return the channels, by index, in which a reader does not stand at the head."""
        channels, offsets, epochs = reader.group.channels, reader.offsets, reader.epochs
        behind = []
        for index, channel in enumerate(channels):
            if epochs[index] != channel.epoch:
                behind.append(index)
            elif offsets[index] != channel.head:
                settled = channel.settled(offsets[index])
                if settled != offsets[index]:
                    reader.offsets = offsets = (*offsets[:index], settled, *offsets[index + 1 :])
                if settled != channel.head:
                    behind.append(index)
        return behind

    def _got(self, reader: Reader, behind: list[int], pages: list[Page] | EverywireError) -> None:
        reader.is_reading = False
        if reader.is_closed or reader.is_stalled:
            return  # once its socket has taken all bytes it reads again
        if isinstance(pages, EverywireError):
            self._scheduler.call_later(_RETRY_S, partial(self._queue, reader))
            return
        chunk = self._chunks.get(_key(reader))
        if chunk is not None:  # made for another reader that waited for the same page
            self._deliver(reader, chunk)
            return
        batch = Batch(reader.group, reader.offsets, reader.epochs)
        found = dict(zip(behind, pages, strict=True))
        for index in sorted(behind):
            channel, head = reader.group.channels[index], found[index].head
            # Whoever sees the log ahead of what this node heard says so: everyone wants to know.
            self._compare(channel, head)
            if head.epoch != channel.epoch or _lags(reader, index, head):
                del found[index]
                continue
            gap = _gap(reader, index, head)
            if gap is not None:
                code = self._end_code(reader, channel, gap)
                if code is not None:
                    self._end(reader, code, gap)
                    return
                batch.add_gap(index, gap, head.epoch, head.first - 1 if gap.last is None else gap.last)
        for index, page in found.items():
            if not _fill(batch, index, page, reader.group.channels[index].head):
                break
        self._send(reader, batch)

    def _end_code(self, reader: Reader, channel: Channel, gap: Gap) -> codes.Code | None:
        """Return with what code a gap ends its reader, or None when it is told."""
        is_slow = gap is not RESET and not reader.is_beginning
        if is_slow and channel.settings.slow_reader is SlowReader.DISCONNECT:
            return codes.SLOW
        return None if reader.group.encoder.tells_gaps else codes.INSUFFICIENT_STATE

    def _send(self, reader: Reader, batch: Batch) -> None:
        if not batch.items:
            # The log says more than this node has heard of yet.
            self._scheduler.call_later(_SOON_S, partial(self._queue, reader))
            return
        chunk = batch.chunk()
        if not reader.group.encoder.once and batch.is_small:
            self._chunks[_key(reader)] = chunk
            if len(self._chunks) > _KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        self._deliver(reader, chunk)

    def _deliver(self, reader: Reader, chunk: Chunk) -> None:
        counters = self._counters
        counters.delivered += chunk.publications
        counters.gaps_told += chunk.gaps
        counters.resets_told += chunk.resets
        counters.missed += chunk.missed
        reader.stand_at(chunk.offsets, chunk.epochs)
        reader.count(chunk.publications, chunk.missed)
        group = reader.group
        if group.encoder.once:
            write = reader.subscriber.write
            reader.close()
            write(chunk.framed)
            return
        if chunk.framed:
            reader.write(chunk.framed)
        if reader.is_closed or reader.is_stalled:
            return
        if chunk.offsets == group.heads() and chunk.epochs == group.epochs:
            reader.join(chunk.offsets)
        else:
            self._queue(reader)

    def _end(self, reader: Reader, code: codes.Code, gap: Gap) -> None:
        counters = self._counters
        counters.readers_ended += 1
        counters.gaps_told += 1
        counters.resets_told += gap is RESET
        counters.missed += gap.missed
        reader.count(0, gap.missed)
        subscriber = reader.subscriber
        reader.close()
        subscriber.ended(code, gap)

    def forget(self) -> None:
        """Let go of the kept writes; called now and then."""
        self._chunks.clear()


def _key(reader: Reader) -> Hashable:
    """Name all that decides what a reader is told next."""
    return (reader.group.key, reader.offsets, reader.epochs, reader.is_beginning)


def _read_from(reader: Reader, index: int) -> int:
    """Return the offset to read after: all that is kept when the reader stands in another epoch."""
    is_past = reader.epochs[index] != reader.group.channels[index].epoch
    return 0 if is_past else reader.offsets[index]


def _lags(reader: Reader, index: int, head: Head) -> bool:
    """Say whether the log answered from before what its reader was told already."""
    return reader.epochs[index] == head.epoch and head.last < reader.offsets[index]


def _gap(reader: Reader, index: int, head: Head) -> Gap | None:
    """Return what a reader missed in a channel that stands at ``head``."""
    offset = reader.offsets[index]
    if reader.epochs[index] != head.epoch:
        return RESET
    if offset + 1 >= head.first:
        return None
    policy = reader.group.channels[index].settings.slow_reader
    if policy is SlowReader.LATEST and not reader.is_beginning:
        # The newest one follows: with it the next page begins.
        return trimmed(offset + 1, max(head.last - 1, head.first - 1))
    return trimmed(offset + 1, head.first - 1)


def _fill(batch: Batch, index: int, page: Page, head: int) -> bool:
    """Tell what follows in a channel, up to what this node heard of; say whether the write has room yet."""
    for publication in page.publications:
        if publication.offset <= batch.offsets[index]:
            continue
        if publication.offset != batch.offsets[index] + 1 or publication.offset > head:
            break
        if not batch.has_room(publication):
            return False
        batch.add(index, publication)
    return True
