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

from everywire.brokers.base import Page
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.position import Place
from everywire.core.publication import RESET, Gap, trimmed
from everywire.core.settings import SlowReader
from everywire.hub.channel import Channel
from everywire.hub.counters import Counters
from everywire.hub.group import Batch, Chunk, Untold
from everywire.hub.interfaces import Scheduler
from everywire.hub.reader import Reader
from everywire.hub.recovery import PageReader

__all__ = ["CatchUp"]

_KEPT_CHUNKS: Final = 32
"""Joined writes kept for the next reader at the same place: at most 32 times 64 KiB."""
_RETRY_S: Final = 1.0
BEFORE_ALL: Final = -1
"""The offset of a reader that is to begin with the oldest that is kept."""


class CatchUp:
    """Moves one reader one write further."""

    __slots__ = ("_advanced", "_chunks", "_counters", "_pages", "_queue", "_scheduler")

    def __init__(
        self,
        scheduler: Scheduler,
        pages: PageReader,
        counters: Counters,
        queue: Callable[[Reader], None],
        advanced: Callable[[Channel, str, int], None],
    ) -> None:
        self._scheduler = scheduler
        self._pages = pages
        self._counters = counters
        self._queue = queue
        self._advanced = advanced
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()

    def step(self, reader: Reader) -> None:
        """Write once, or join the live members when the reader stands at the head."""
        if reader.is_closed or reader.is_stalled or reader.is_reading or reader.cohort is not None:
            return
        group = reader.group
        epochs = group.epochs()
        if reader.epochs != epochs:
            self._reset(reader, epochs)
        behind = [
            index for index, channel in enumerate(group.channels) if reader.offsets[index] != channel.head
        ]
        if not behind and not reader.untold:
            reader.join(reader.offsets)
            return
        if not behind:
            self._build(reader, [], [])
            return
        if not reader.untold and not group.encoder.once:
            chunk = self._chunks.get((group.key, epochs, reader.offsets))
            if chunk is not None:
                self._deliver(reader, chunk)
                return
        # Another channel comes first every time, and each has an equal share of the write.
        reader.turn = turn = (reader.turn + 1) % len(behind)
        behind = behind[turn:] + behind[:turn]
        reader.is_reading = True
        wanted = [(group.channels[index].name, reader.offsets[index]) for index in behind]
        done = partial(self._got, reader, behind)
        self._pages.read_several(wanted, group.max_publications, group.max_bytes, done)

    def _reset(self, reader: Reader, epochs: tuple[str, ...]) -> None:
        """Have a reader told that a channel has another epoch; it goes on with the oldest that is kept."""
        untold = {row.nth: row for row in reader.untold}
        offsets = list(reader.offsets)
        for nth, (known, epoch) in enumerate(zip(reader.epochs, epochs, strict=True)):
            if known != epoch:
                place = untold[nth].place if nth in untold else Place(known, offsets[nth])
                untold[nth] = Untold(nth, RESET, place)
                offsets[nth] = BEFORE_ALL
                self._counters.resets_told += 1
        reader.untold = list(untold.values())
        reader.offsets = tuple(offsets)
        reader.epochs = epochs

    def _got(self, reader: Reader, behind: list[int], pages: list[Page] | EverywireError) -> None:
        reader.is_reading = False
        if reader.is_closed:
            return
        if isinstance(pages, EverywireError):
            self._scheduler.call_later(_RETRY_S, partial(self._queue, reader))
            return
        self._build(reader, behind, pages)

    def _build(self, reader: Reader, behind: list[int], pages: list[Page]) -> None:
        """Make one write of what the reader was not told yet and of what the pages hold."""
        group = reader.group
        key = None if reader.untold or group.encoder.once else (group.key, reader.epochs, reader.offsets)
        if reader.epochs != group.epochs():
            self._queue(reader)  # while the pages were read a channel got another epoch
            return
        offsets = list(reader.offsets)
        for index, page in zip(behind, pages, strict=True):
            if offsets[index] == BEFORE_ALL:
                offsets[index] = page.head.first - 1
        batch = Batch(group, offsets, reader.untold)
        for row in reader.untold:
            batch.tell_gap(row.nth, row.gap)
        reader.untold = ()
        for index, page in zip(behind, pages, strict=True):
            channel = group.channels[index]
            if page.head.epoch != channel.epoch or page.head.last < offsets[index]:
                # Another epoch than the one known here, or a store that lags: look again.
                self._advanced(channel, page.head.epoch, page.head.last)
                continue
            gap = self._gap(channel, offsets[index], page)
            if gap is not None:
                if channel.settings.slow_reader is SlowReader.DISCONNECT:
                    self._end(reader, codes.SLOW, gap)
                    return
                assert gap.last is not None
                offsets[index] = gap.last
                batch.tell_gap(index, gap)
            if page.head.last > channel.head:
                # The log is ahead of what this node heard: everyone on the channel wants to know.
                self._advanced(channel, page.head.epoch, page.head.last)
            for publication in page.publications:
                if offsets[index] < publication.offset <= channel.head:
                    batch.tell(index, publication)
        self._finish(reader, batch, key)

    def _finish(self, reader: Reader, batch: Batch, key: Hashable) -> None:
        if not batch.items:
            # Nothing yet of what this node heard of: the log lags, or is being read for everyone.
            self._scheduler.call_later(_RETRY_S / 10, partial(self._queue, reader))
            return
        if batch.gaps and not reader.group.encoder.tells_gaps:
            gap = next(item.content for item in batch.items if isinstance(item.content, Gap))
            self._end(reader, codes.INSUFFICIENT_STATE, gap)
            return
        chunk = batch.chunk()
        if key is not None:
            self._chunks[key] = chunk
            if len(self._chunks) > _KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        self._deliver(reader, chunk)

    def _gap(self, channel: Channel, offset: int, page: Page) -> Gap | None:
        head = page.head
        if offset + 1 >= head.first:
            return None
        if channel.settings.slow_reader is SlowReader.LATEST:
            # The newest one follows: with it the next page begins.
            return trimmed(offset + 1, max(head.last - 1, head.first - 1))
        return trimmed(offset + 1, head.first - 1)

    def _deliver(self, reader: Reader, chunk: Chunk) -> None:
        counters = self._counters
        counters.delivered += chunk.publications
        counters.gaps_told += chunk.gaps
        counters.missed += chunk.missed
        reader.offsets = chunk.offsets
        reader.count(chunk.publications, chunk.missed)
        if reader.group.encoder.once:
            write = reader.subscriber.write
            reader.close()
            write(chunk.framed)
            return
        reader.write(chunk.framed)
        if reader.is_closed or reader.is_stalled:
            return
        if chunk.offsets == reader.group.heads():
            reader.join(chunk.offsets)
        else:
            self._queue(reader)

    def _end(self, reader: Reader, code: codes.Code, gap: Gap) -> None:
        self._counters.readers_ended += 1
        self._counters.gaps_told += 1
        self._counters.missed += gap.missed
        reader.missed += gap.missed
        subscriber = reader.subscriber
        reader.close()
        subscriber.ended(code, gap)

    def forget(self) -> None:
        """Let go of the kept writes; called now and then."""
        self._chunks.clear()
