"""Housekeeping in JetStream: dropping what windows keep no longer, forgetting channels, their number.

Whoever wrote a channel's newest message keeps its house; of what nobody keeps any more, because its writer is
gone, each node finds some now and then by walking through the streams. What is dropped is messages whole, and
lazily: readers go by the records. Keys that still count are set aside before their messages are dropped.

A channel is forgotten when nothing of it is kept, no key counts, and nobody watches it on any node (a
question to its watchers which the engine itself answers when there is none): the store first remembers how
far it stood, then a message says that it is gone, by compare and set; that message is dropped some time
later, when no append can be under way any more that was begun before it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec

from everywire.brokers.chore import Chore
from everywire.brokers.nats.channels import Channel
from everywire.brokers.nats.link import NotThere
from everywire.brokers.nats.message import Message, State, floor_of
from everywire.brokers.nats.parts import Parts
from everywire.brokers.nats.writer import Writer
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError

__all__ = ["Upkeep"]

_LOOKED_AT: Final = 500
"""Channels that one sweep looks at, without asking the engine."""
_HANDLED: Final = 50
"""Channels that one sweep asks the engine for."""
_SLACK_MESSAGES: Final = 64
"""Messages beyond the window that may wait to be purged together."""
_SETTLED_S: Final = 15.0
"""For how long a message says that a channel is gone; appends end sooner."""
_STROLL_S: Final = 30.0
"""Between two looks at a part of a stream, for channels whose writer is gone."""
_STROLL_MESSAGES: Final = 500
_MAX_KEYS_ASIDE: Final = 5_000
_encoder: Final = msgspec.msgpack.Encoder()
_log: Final = logging.getLogger("everywire.brokers")


class Upkeep:
    """One node's."""

    def __init__(self, parts: Parts) -> None:
        self.writer: Writer | None = None
        self.count = 0
        """Channels in the store, as far as is known: exact as long as no other node makes any."""
        self._parts = parts
        self._chore = Chore(self._sweep, "housekeeping at NATS")
        self._round: deque[str] = deque()
        self._gone: deque[tuple[float, Channel, int]] = deque()
        self._room = asyncio.Lock()
        self._strolled_s = 0.0
        self._shard = random.randrange(256)
        self._stroll_at: dict[str, int] = {}

    # -- the rhythm ---------------------------------------------------------------

    def sweep(self) -> None:
        """Begin a bounded part, unless one is under way."""
        if self._parts.link.is_up:
            self._chore.begin()

    async def close(self) -> None:
        """Do no more."""
        await self._chore.close()

    async def _sweep(self) -> None:
        await self._bury()
        handled = 0
        for channel in self._next_channels():
            if self._is_due(channel):
                await self._handle(channel)
                handled += 1
                if handled >= _HANDLED:
                    break
        loop = asyncio.get_running_loop()
        if loop.time() >= self._strolled_s + _STROLL_S:
            self._strolled_s = loop.time()
            await self._stroll()

    def _next_channels(self) -> Iterable[Channel]:
        if not self._round:
            self._round.extend(channel.name for channel in self._parts.channels)
        for _ in range(min(_LOOKED_AT, len(self._round))):
            channel = self._parts.channels.get(self._round.popleft())
            if channel is not None:
                yield channel

    def _is_due(self, channel: Channel) -> bool:
        """Say whether something may be dropped of a channel that is this node's to keep."""
        state = channel.state
        if state is None or state.is_gone or not channel.is_mine or channel.lock.locked():
            return False
        now_ms = self._parts.clock_ms()
        floor = max(floor_of(state, channel.window, now_ms), channel.floor)
        if floor > state.last:
            return self._may_go(channel, state, now_ms) or channel.purged_seq < channel.seq
        return self._first_seq(channel, floor) > channel.purged_seq and self._slack(channel, floor)

    def _first_seq(self, channel: Channel, floor: int) -> int:
        """Return a sequence below which nothing is kept."""
        state = channel.state
        assert state is not None
        seq = state.first_seq
        for mark in channel.marks:
            if mark.before >= floor:
                break
            seq = max(seq, mark.seq)
        return seq

    def _slack(self, channel: Channel, floor: int) -> bool:
        seq = self._first_seq(channel, floor)
        marks = channel.marks
        waiting = sum(channel.purged_seq <= mark.seq < seq for mark in marks)
        return waiting >= _SLACK_MESSAGES or (bool(marks) and seq < marks[0].seq)

    async def _handle(self, channel: Channel) -> None:
        state = channel.state
        assert state is not None
        now_ms = self._parts.clock_ms()
        if self._may_go(channel, state, now_ms):
            await self.forget(channel)
            return
        floor = max(floor_of(state, channel.window, now_ms), channel.floor)
        await self.purge(channel, channel.seq if floor > state.last else self._first_seq(channel, floor))

    # -- what the window keeps no longer ---------------------------------------------

    async def purge(self, channel: Channel, before_seq: int) -> None:
        """Drop the messages of a channel before one, which is not the newest."""
        parts, state = self._parts, channel.state
        before_seq = min(before_seq, channel.seq)
        # The engine takes a bound of 1 for none at all.
        if state is None or before_seq <= max(channel.purged_seq, 1):
            return
        now_ms = parts.clock_ms()
        if state.keys_until_ms > now_ms and state.keys_from < before_seq:
            await self._set_keys_aside(channel, before_seq, now_ms)
        large = [seq for mark in channel.marks if mark.seq < before_seq for seq in mark.large]
        await parts.streams.purge(channel.stream, channel.subject, before_seq)
        parts.counters.purges += 1
        channel.purged_seq = max(channel.purged_seq, before_seq)
        while channel.marks and channel.marks[0].seq < before_seq:
            channel.marks.popleft()
        for seq in large:
            await parts.streams.delete(parts.names.large_stream, seq)

    async def _set_keys_aside(self, channel: Channel, before_seq: int, now_ms: int) -> None:
        parts = self._parts
        assert channel.state is not None
        keys = []
        seq = max(channel.state.keys_from, 1)
        while seq < before_seq:
            portion = await parts.streams.page(channel.stream, channel.subject, seq, 256)
            for stored in portion:
                if stored.seq < before_seq:
                    keys += [key for key in Message.decode(stored.data).keys if key.until_ms > now_ms]
            if not portion:
                break
            seq = portion[-1].seq + 1
        subject = parts.names.keys_subject(channel.name)
        for at in range(0, len(keys), _MAX_KEYS_ASIDE):
            await parts.streams.append(subject, _encoder.encode(keys[at : at + _MAX_KEYS_ASIDE]))

    # -- forgetting ---------------------------------------------------------------------

    def _may_go(self, channel: Channel, state: State, now_ms: int) -> bool:
        is_kept = state.kept is not None and state.kept.until_ms > now_ms
        return (
            floor_of(state, channel.window, now_ms) > state.last
            and channel.is_idle
            and not is_kept
            and state.keys_until_ms <= now_ms
            # One that was just made to be written to has no publication yet.
            and state.last_ms <= now_ms - int(channel.window.max_age_s * 1000)
        )

    async def forget(self, channel: Channel, *, is_pressed: bool = False) -> bool:
        """Forget a channel that nobody needs; ``is_pressed`` even if something of it is still kept."""
        parts, writer = self._parts, self.writer
        assert writer is not None
        if await self._is_watched_elsewhere(channel):
            if not is_pressed:
                await self.purge(channel, channel.seq)
            return False
        was_there = False

        def make(channel: Channel, forgotten: int) -> State | None:
            nonlocal was_there
            state, now_ms = channel.state, parts.clock_ms()
            if state is None or state.is_gone or channel.watched or channel.queue:
                return None
            is_kept = state.kept is not None and state.kept.until_ms > now_ms
            if is_kept or (not is_pressed and not self._may_go_now(channel, state, now_ms)):
                return None
            if state.last > remembered:
                return None  # it was appended to meanwhile
            was_there = True
            gone = State(parts.epochs.epoch, state.last, state.last + 1, channel.seq + 1, state.last)
            return msgspec.structs.replace(gone, last_ms=now_ms, is_gone=True)

        await parts.newest(channel)
        if not channel.exists or channel.state is None:
            return False
        remembered = channel.state.last
        large_stream, large_subject = parts.names.large_stream, parts.names.large_subject(channel.name)
        large = await parts.streams.last(large_stream, large_subject, is_newest=True)
        await parts.epochs.forget(remembered)
        if channel.lock.locked():
            return False  # it is needed again; and who writes may wait for the room that this makes
        await writer.change(channel, make)
        if was_there:
            if large is not None:
                await parts.streams.purge(large_stream, large_subject, large.seq + 1)
            self.count -= 1
            parts.counters.channels_forgotten += 1
            now_s = asyncio.get_running_loop().time()
            self._gone.append((now_s + _SETTLED_S, channel, channel.seq))
            if channel.state is not None and channel.state.is_gone:
                await parts.streams.purge(channel.stream, channel.subject, channel.seq)
        return was_there

    def _may_go_now(self, channel: Channel, state: State, now_ms: int) -> bool:
        return floor_of(state, channel.window, now_ms) > state.last and state.keys_until_ms <= now_ms

    async def _is_watched_elsewhere(self, channel: Channel) -> bool:
        """Ask the watchers, if there are any."""
        parts = self._parts
        try:
            await parts.link.request(parts.names.hint_subject(channel.name), b"", 0.5)
        except NotThere:
            return False
        except BrokerError:
            return True
        return True

    async def _bury(self) -> None:
        """Drop the messages that say for long enough that a channel is gone, with what is beside it."""
        parts = self._parts
        now_s = asyncio.get_running_loop().time()
        while self._gone and self._gone[0][0] <= now_s:
            _, channel, seq = self._gone.popleft()
            await parts.streams.purge(channel.stream, channel.subject, seq + 1)
            if channel.seq == seq:
                channel.is_absent()

    # -- their number ----------------------------------------------------------------------

    def recount(self, subjects: int) -> None:
        """Take over how many channels there are, of which some just went."""
        self.count = max(subjects - len(self._gone), 0)

    async def make(self, channel: Channel) -> None:
        """Let one more channel be made; `BrokerBusy` when there are as many as may be, and none can go."""
        if channel.has_room:
            return
        async with self._room:
            if self.count >= self._parts.limits.max_channels:
                await self._make_room(channel)
            self.count += 1
            channel.has_room = True

    def release(self, channel: Channel) -> None:
        """Count a channel no more that was not made."""
        if channel.has_room:
            channel.has_room = False
            self.count -= 1

    async def _make_room(self, wanted: Channel) -> None:
        parts = self._parts
        candidates = [
            one
            for one in parts.channels
            if one is not wanted and one.exists and one.is_idle and not _is_kept(one, parts)
        ]
        for channel in islice(candidates, _HANDLED):
            if await self.forget(channel, is_pressed=True):
                return
        raise BrokerBusy("the server holds as many channels as it may")

    # -- channels whose writer is gone -------------------------------------------------------

    async def _stroll(self) -> None:
        """Look at a part of one shard's messages, and keep the house of what is old there."""
        parts = self._parts
        infos = await asyncio.gather(
            *[parts.streams.info(parts.names.log_stream(shard)) for shard in range(parts.names.shards)]
        )
        self.recount(sum(info.subjects for info in infos))
        self._shard = shard = (self._shard + 1) % parts.names.shards
        stream = parts.names.log_stream(shard)
        seq = self._stroll_at.get(stream, 1)
        subject = f"{parts.names.prefix}.c.{shard}.>"
        portion = await parts.streams.page(stream, subject, seq, _STROLL_MESSAGES, 4 * 1024 * 1024)
        self._stroll_at[stream] = portion[-1].seq + 1 if len(portion) >= _STROLL_MESSAGES else 1
        now_ms = parts.clock_ms()
        seen: set[str] = set()
        for stored in portion:
            try:
                state = Message.decode(stored.data).state
                name = parts.names.channel_of(stored.subject)
                channel = parts.channels.of(name)
            except EverywireError as error:
                _log.warning("housekeeping at NATS passes over a message: %s", error.sentence)
                continue
            grace_ms = int(channel.window.max_age_s * 1000) + 60_000
            if name in seen or state.last_ms > now_ms - grace_ms:
                continue
            seen.add(name)
            await parts.newest(channel)
            newest = channel.state
            if newest is None or newest.last_ms > now_ms - grace_ms:
                continue
            if newest.is_gone:
                await parts.streams.purge(channel.stream, channel.subject, channel.seq + 1)
            else:
                await self._handle(channel)


def _is_kept(channel: Channel, parts: Parts) -> bool:
    state = channel.state
    return state is not None and state.kept is not None and state.kept.until_ms > parts.clock_ms()
