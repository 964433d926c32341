"""Reading the logs in JetStream: pages, and where channels stand.

The newest message of a channel tells where it stands; what its window still keeps follows from the records.
Where in the stream a page begins is known from the messages seen lately, or found by halving: a get for the
first message from a sequence on answers in one round trip. Runs come through a consumer made for the page.

Whether a channel that was known has moved is asked by a get for what follows its newest message: the answer
is a few bytes when nothing does. The hub asks for all its channels every second; those heard of a moment ago
are not asked for, and no more than so many a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from everywire.brokers.base import Head, Page
from everywire.brokers.nats.channels import Channel
from everywire.brokers.nats.message import Large, Message, head_of, visible, window_of
from everywire.brokers.nats.parts import Parts
from everywire.core.publication import OVERHEAD_BYTES, Publication

__all__ = ["Reading"]

_FEW: Final = 3
"""Messages that are got one by one rather than through a consumer."""
_PORTION: Final = 256
_MAX_VERIFIED_PER_S: Final = 1_000
"""Channels that are asked for in a second when the hub compares all it has; a get costs some 40 us here."""
_CONCURRENT: Final = 500
_TRUSTED_S: Final = 5.0
"""That nothing follows what was known longer ago may mean that all is gone; a channel that is forgotten says
so for longer than this."""


class Reading:
    """One node's."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- heads ------------------------------------------------------------------------

    async def heads(self, names: Sequence[str]) -> Mapping[str, Head]:
        """Tell where channels stand."""
        parts = self._parts
        now_s = asyncio.get_running_loop().time()
        channels = [parts.channels.of(name) for name in dict.fromkeys(names)]
        # One that is asked for alone is asked for indeed.
        fresh_s = 0.0 if len(channels) < 100 else max(1.0, len(channels) / _MAX_VERIFIED_PER_S)
        asked = [one for one in channels if one.seq <= 0 or one.verified_s + fresh_s <= now_s]
        for at in range(0, len(asked), _CONCURRENT):
            await asyncio.gather(*[self._verify(one) for one in asked[at : at + _CONCURRENT]])
        forgotten = -1
        found: dict[str, Head] = {}
        for channel in channels:
            if channel.exists:
                found[channel.name] = self._head(channel)
                continue
            if forgotten < 0:
                forgotten = await parts.epochs.forgotten()
            found[channel.name] = self._absent(channel, forgotten)
        return found

    async def _verify(self, channel: Channel) -> None:
        """Learn where a channel stands, by a few bytes if it stands where it did."""
        parts = self._parts
        if channel.seq <= 0 or channel.verified_s + _TRUSTED_S < asyncio.get_running_loop().time():
            await parts.newest(channel)
            return
        stored = await parts.streams.next(channel.stream, channel.subject, channel.seq + 1)
        if stored is None:
            channel.verified_s = asyncio.get_running_loop().time()
            return
        parts.learn(channel, stored)
        await parts.newest(channel)

    def _head(self, channel: Channel) -> Head:
        assert channel.state is not None
        parts = self._parts
        return head_of(parts.epochs.epoch, channel.state, channel.window, parts.clock_ms(), channel.floor)

    def _absent(self, channel: Channel, forgotten: int) -> Head:
        if channel.state is not None:
            forgotten = max(forgotten, channel.state.last)
        return Head(self._parts.epochs.epoch, forgotten + 1, forgotten, exists=False)

    async def head(self, channel: Channel) -> Head:
        """Tell where a channel stands that was looked at just now."""
        if channel.exists:
            return self._head(channel)
        return self._absent(channel, await self._parts.epochs.forgotten())

    # -- pages --------------------------------------------------------------------------

    async def page(self, name: str, after: int, max_publications: int, max_bytes: int) -> Page:
        """Read what is kept after an offset."""
        parts = self._parts
        channel = parts.channels.of(name)
        await parts.newest(channel)
        if not channel.exists:
            return Page(await self.head(channel), [])
        head = self._head(channel)
        start = max(after + 1, head.first)
        if start > head.last:
            return Page(head, [])
        newest_seq, state = channel.seq, channel.state
        assert state is not None
        records = await self._records(channel, start, max_publications, max_bytes)
        publications = await self._fetch(records, max_publications, max_bytes)
        if channel.state is not state and channel.seq == newest_seq:
            return Page(await self.head(channel), [])  # the store is another one
        if publications and publications[0].offset > after + 1:
            # What lies between is kept no longer: over its age, or too much.
            channel.floor = max(channel.floor, publications[0].offset)
            head = head._replace(first=max(head.first, publications[0].offset))
        elif not records:
            channel.floor = max(channel.floor, head.last + 1)
            head = head._replace(first=head.last + 1)
        if head.first > state.began + 1:
            head = head._replace(is_whole=False)
        return Page(head, publications)

    async def _records(
        self, channel: Channel, start: int, max_publications: int, max_bytes: int
    ) -> list[tuple[int, bytes | Large]]:
        """Return records from the first kept at or behind an offset on, without holes, up to the newest known
        now; enough for a page, if there are so many."""
        parts, newest, newest_seq = self._parts, channel.state, channel.seq
        assert newest is not None
        now_ms = parts.clock_ms()
        seq = await self._locate(channel, start, now_ms)
        found: list[tuple[int, bytes | Large]] = []
        size = 0
        marks = channel.marks
        one_by_one = bool(marks) and marks[0].seq <= seq and sum(mark.seq >= seq for mark in marks) <= _FEW
        while seq <= newest_seq:
            if one_by_one:
                one = await parts.streams.next(channel.stream, channel.subject, seq)
                portion = [] if one is None else [one]
            else:
                portion = list(
                    await parts.streams.page(
                        channel.stream, channel.subject, seq, min(_PORTION, max_publications + 8), max_bytes
                    )
                )
            if not portion:
                break
            for stored in portion:
                if stored.seq > newest_seq:
                    break
                message = Message.decode(stored.data)
                for offset, record in visible(message, newest, channel.window, now_ms):
                    if offset < start or (found and offset != found[-1][0] + 1):
                        continue
                    found.append((offset, record))
                    size += _size(record)
                if len(found) >= max_publications or size > max_bytes + OVERHEAD_BYTES * len(found):
                    return found
            seq = portion[-1].seq + 1
        return found

    async def _locate(self, channel: Channel, start: int, now_ms: int) -> int:
        """Return the sequence of a message such that nothing kept at or behind an offset is before it."""
        parts, newest = self._parts, channel.state
        assert newest is not None
        low, high = max(newest.first_seq, channel.purged_seq, 1), channel.seq
        after = high
        for mark in channel.marks:
            if mark.before >= start:
                after = mark.seq
                break
            low = max(low, mark.seq)
        window = window_of(newest, channel.window, now_ms)
        oldest_ms = now_ms - int(window.max_age_s * 1000)
        is_cut = newest.began_ms < oldest_ms or newest.cost_bytes > window.max_bytes
        is_exact = bool(channel.marks) and channel.marks[0].before < start
        if not is_cut and (is_exact or start <= newest.first):
            return low
        if not is_cut:
            high = after
        best, middle = high, low
        while low < high:
            stored = await parts.streams.next(channel.stream, channel.subject, middle)
            if stored is None:
                break
            kept = visible(Message.decode(stored.data), newest, channel.window, now_ms)
            if any(offset >= start for offset, _ in kept):
                best, high = stored.seq, middle
            else:
                low = stored.seq + 1
            middle = (low + high) // 2
        return best

    async def _fetch(
        self, records: Sequence[tuple[int, bytes | Large]], max_publications: int, max_bytes: int
    ) -> list[Publication]:
        """Return the publications of a page."""
        size = 0
        wanted: list[tuple[int, bytes | Large]] = []
        for offset, record in records[:max_publications]:
            size += max(_size(record) - OVERHEAD_BYTES, 0) if isinstance(record, Large) else 0
            if wanted and size > max_bytes:
                break
            wanted.append((offset, record))
        found = await asyncio.gather(*[self._parts.fetch(offset, record) for offset, record in wanted])
        publications: list[Publication] = []
        total = 0
        for publication in found:
            if publication is None:
                if publications:
                    break  # the next page begins behind what was trimmed meanwhile
                continue
            total += len(publication.data)
            if publications and total > max_bytes:
                break
            publications.append(publication)
        return publications


def _size(record: bytes | Large) -> int:
    return record.cost_bytes if isinstance(record, Large) else len(record)
