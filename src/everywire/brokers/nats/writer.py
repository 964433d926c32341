"""Appending to channels in JetStream: group commit per channel, by compare and set.

What waits on a channel goes as one message. Its offsets go on from the newest message that this node knows,
and the engine takes it only if that is the newest indeed; else the newest is read and it is tried again. So
offsets have no holes, keys that were used are known before anything is appended, and eight nodes on one
channel pay with retries, not with one message each (docs/decisions/0013-nats.md has figures). What was sent
when a link ended is looked for in the log before it is sent again: so a buffer, with which drafts wait
longer than a request may take, needs no more than patience.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple, Protocol

import msgspec

from everywire.brokers.base import Appended
from everywire.brokers.nats.channels import Call, Channel, Pending, digest
from everywire.brokers.nats.link import LinkLost, NotThere
from everywire.brokers.nats.message import Key, Large, Message, State, floor_of
from everywire.brokers.nats.parts import Parts
from everywire.brokers.nats.streams import Conflict
from everywire.brokers.record import pack
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError, KeyReused
from everywire.core.publication import Draft, Publication

__all__ = ["SET_ASIDE", "Writer", "following"]

_MAX_DRAFTS: Final = 500
_MAX_MESSAGE_BYTES: Final = 64 * 1024
"""A message with several records, which every node with readers is sent."""
_MAX_SMALL_BYTES: Final = 48 * 1024
"""A record above this is stored beside the log, and goes by reference."""
_PIECE_BYTES: Final = 256 * 1024
_PAUSE_S: Final = 0.001
_MAX_PAUSE_S: Final = 0.008
_CONTENDED_S: Final = 1.0
"""How long after a lost race others are let go first."""
_log: Final = logging.getLogger("everywire.brokers")

SET_ASIDE: Final = msgspec.msgpack.Decoder(tuple[Key, ...])
"""Reads the keys of trimmed messages that were set aside."""


class _Plan(NamedTuple):
    """A message to append, and what comes of each draft when it is."""

    message: Message | None
    results: Sequence[Appended | EverywireError]
    publications: Sequence[Publication]


def following(channel: Channel, now_ms: int, epoch: str) -> State:
    """Return the state of a channel that exists, as a message that follows now begins with it."""
    state = channel.state
    assert state is not None
    first = floor_of(state, channel.window, now_ms)
    is_over = state.kept is not None and state.kept.until_ms <= now_ms
    seq = state.first_seq
    if first > state.last:
        seq = channel.seq + 1
    else:
        for mark in channel.marks:
            if mark.before >= first:
                break
            seq = max(seq, mark.seq)
    has_keys = state.keys_until_ms > now_ms
    return msgspec.structs.replace(
        state,
        epoch=epoch,
        first=first,
        first_seq=seq,
        kept=None if is_over else state.kept,
        keys_from=state.keys_from if has_keys else 0,
        keys_until_ms=state.keys_until_ms if has_keys else 0,
    )


class Room(Protocol):
    """Room in the store for channels that are made."""

    async def make(self, channel: Channel) -> None:
        """Hold room for a channel; `BrokerBusy` when there is none."""

    def release(self, channel: Channel) -> None:
        """Give back what is held for a channel that was not made."""


class Writer:
    """One node's."""

    def __init__(self, parts: Parts, room: Room) -> None:
        self.unfinished = 0
        self.lost_a_race: Callable[[Channel], None] = lambda channel: None
        """Called when another node wrote first."""
        self._parts = parts
        self._room = room
        self._random = Random()
        self._is_closed = False
        limits = parts.limits
        self._most = max(limits.max_unfinished_appends, parts.buffer)
        self._patience_s = limits.idempotency_ttl_s / 2 if parts.buffer else limits.broker_timeout_s

    # -- drafts ---------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append drafts; see `everywire.brokers.base.Log.append`."""
        parts = self._parts
        if not drafts:
            done([])
            return
        if self._is_closed or self.unfinished >= self._most:
            error = BrokerBusy("too many appends are unfinished")
            done([BrokerError("the broker is closed") if self._is_closed else error] * len(drafts))
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._patience_s
        call = Call(len(drafts), done)
        if parts.buffer and not parts.link.is_up:
            parts.counters.buffered += len(drafts)
        for index, draft in enumerate(drafts):
            try:
                channel = parts.channels.of(draft.channel, is_use=True)
            except EverywireError as error:
                call.put(index, error)
                continue
            self.unfinished += 1
            channel.queue.append(Pending(call, index, draft, deadline_s))
            if channel.task is None:
                channel.task = loop.create_task(self._run(channel), name="append to a channel")

    async def close(self) -> None:
        """Fail what is unfinished."""
        self._is_closed = True
        tasks = [channel.task for channel in self._parts.channels if channel.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._parts.channels:
            batch = list(channel.queue)
            channel.queue.clear()
            self._fail(batch, BrokerError("this node is leaving"))

    async def _run(self, channel: Channel) -> None:
        batch: list[Pending] = []
        loop = asyncio.get_running_loop()
        try:
            while channel.queue:
                batch = self._take(channel)
                deadline_s = min(pending.deadline_s for pending in batch)
                try:
                    async with asyncio.timeout_at(deadline_s), channel.lock:
                        plan = await self._commit(channel, batch)
                except (BrokerError, TimeoutError) as error:
                    failed, batch = batch, []
                    self._parts.counters.errors += len(failed)
                    self._fail(failed, error if isinstance(error, BrokerError) else _late(self._parts))
                else:
                    finished, batch = batch, []
                    self._finish(finished, plan.results)
                    if loop.time() < channel.contended_s + _CONTENDED_S:
                        # Who has won once lets others go first; meanwhile more comes together here.
                        await asyncio.sleep(self._random.uniform(0, _MAX_PAUSE_S))
        except asyncio.CancelledError:
            self._fail(batch, BrokerError("this node is leaving"))
            raise
        except Exception:
            # The top of a task: whoever waits hears that it went wrong, and our log hears how.
            _log.exception("an append failed")
            self._fail(batch, BrokerError("the append failed"))
        finally:
            channel.task = None
            self._room.release(channel)
            if channel.queue and not self._is_closed:
                channel.task = asyncio.get_running_loop().create_task(self._run(channel))

    def _take(self, channel: Channel) -> list[Pending]:
        """Take as many of those who wait as go into one message."""
        queue = channel.queue
        batch: list[Pending] = []
        now_ms = self._parts.clock_ms()
        size = 0
        while queue and len(batch) < _MAX_DRAFTS:
            pending = queue[0]
            pending.time_ms, pending.record = now_ms, pack(pending.draft, now_ms)
            length = len(pending.record)
            size += length if length <= _MAX_SMALL_BYTES else 100
            if batch and size > _MAX_MESSAGE_BYTES:
                break
            batch.append(queue.popleft())
        return batch

    def _finish(self, batch: Sequence[Pending], results: Sequence[Appended | EverywireError]) -> None:
        self.unfinished -= len(batch)
        for pending, result in zip(batch, results, strict=True):
            pending.call.put(pending.index, result)

    def _fail(self, batch: Sequence[Pending], error: EverywireError) -> None:
        self._finish(batch, [error] * len(batch))

    # -- one message -------------------------------------------------------------------

    async def _commit(self, channel: Channel, batch: Sequence[Pending]) -> _Plan:
        parts = self._parts
        attempts: dict[int, _Plan] = {}
        since_seq, epoch, tries = channel.seq, parts.epochs.epoch, 0
        while True:
            await parts.link.ready(self._patience_s)
            if epoch != parts.epochs.epoch:
                # What was sent to the store that was lost is lost with it.
                attempts.clear()
                epoch, since_seq = parts.epochs.epoch, -1
            try:
                if attempts and (found := await self._look_for(channel, since_seq, attempts)) is not None:
                    return found
                plan = await self._prepare(channel, batch)
                message = plan.message
                if message is None:
                    return plan
                if not attempts:
                    since_seq = channel.seq
                attempts[message.number] = plan
                try:
                    expected_seq = message.previous_seq
                    seq = await parts.streams.append(channel.subject, message.encode(), expected_seq)
                except Conflict as conflict:
                    del attempts[message.number]  # this one was refused for certain
                    tries += 1
                    if 0 < conflict.seq < expected_seq:
                        await self._fell_behind(tries)
                        continue
                    parts.counters.conflicts += 1
                    await self._lost_the_race(channel, conflict.seq, tries, batch)
                    continue
            except (LinkLost, NotThere) as error:
                # It may have arrived: the next round looks for it.
                if isinstance(error, NotThere):
                    parts.link.renew("a stream is missing")
                await asyncio.sleep(0.01)
            else:
                self._landed(channel, seq, plan)
                return plan

    async def _lost_the_race(
        self, channel: Channel, newest_seq: int, tries: int, batch: Sequence[Pending]
    ) -> None:
        """Learn what somebody else wrote."""
        parts = self._parts
        # From now on its hints tell, before the engine even refuses; then nobody has an advantage.
        channel.contended_s = asyncio.get_running_loop().time()
        self.lost_a_race(channel)
        if tries > 2:
            await asyncio.sleep(self._random.uniform(0, min(_PAUSE_S * 2**tries, _MAX_PAUSE_S)))
        has_keys = any(pending.draft.key is not None for pending in batch)
        knows_keys = channel.seq >= 0 and channel.keys_seq == channel.seq
        if channel.seq >= newest_seq > 0 and (knows_keys or not has_keys):
            return
        if knows_keys and has_keys:
            await parts.messages(channel, channel.seq, newest_seq)
        else:
            await parts.newest(channel)

    async def _fell_behind(self, tries: int) -> None:
        """Look whether the store lost what it had acknowledged; a new leader of replicas is only late."""
        if self._parts.streams.is_single or not tries % 20:
            self._parts.link.renew("the store fell behind what it had acknowledged")
        else:
            await asyncio.sleep(0.1)

    async def _look_for(self, channel: Channel, since_seq: int, attempts: dict[int, _Plan]) -> _Plan | None:
        """Return the attempt that arrived, though nobody said so; `BrokerError` when nobody can know."""
        parts = self._parts
        since_seq = max(since_seq, 0)
        messages = await parts.messages(channel, since_seq)
        for seq, message in messages:
            if message.writer == parts.writer_name and message.number in attempts:
                plan = attempts[message.number]
                self._landed(channel, seq, plan)
                return plan
        if messages and messages[0][1].previous_seq > since_seq:
            raise BrokerError("it may have been published: what came at that time is not kept any more")
        return None

    def _landed(self, channel: Channel, seq: int, plan: _Plan) -> None:
        parts, message = self._parts, plan.message
        assert message is not None
        channel.has_room = channel.has_room and not message.is_made
        parts.take(channel, seq, message)
        channel.verified_s = asyncio.get_running_loop().time()
        parts.counters.appends += len(message.records)
        parts.counters.batches += 1
        parts.counters.hints_sent += 1
        parts.tell(channel, message, plan.publications)

    async def _prepare(self, channel: Channel, batch: Sequence[Pending]) -> _Plan:
        """Find out what can be appended, and how it follows the newest message."""
        parts = self._parts
        if channel.seq < 0:
            await parts.newest(channel)
        before = 0
        if not channel.exists:
            await self._room.make(channel)
            # Read after the channel was found to be absent: it is at least what that one stood at.
            before = await parts.epochs.forgotten()
            if channel.state is not None:
                before = max(before, channel.state.last)
            for pending in batch:
                pending.large = ()  # it may have been dropped with the channel
        elif any(pending.draft.key is not None for pending in batch):
            await self._learn_keys(channel)
        for pending in batch:
            if len(pending.record) > _MAX_SMALL_BYTES and not pending.large:
                pending.large = await self._set_beside(channel, pending.record)
        return self._plan(channel, batch, before)

    async def _set_beside(self, channel: Channel, record: bytes) -> tuple[int, ...]:
        parts = self._parts
        subject = parts.names.large_subject(channel.name)
        pieces = [record[at : at + _PIECE_BYTES] for at in range(0, len(record), _PIECE_BYTES)]
        return tuple(await asyncio.gather(*[parts.streams.append(subject, piece) for piece in pieces]))

    async def _learn_keys(self, channel: Channel) -> None:
        """Know all keys of a channel that count."""
        parts, state = self._parts, channel.state
        assert state is not None
        if channel.keys_seq == channel.seq:
            return
        if state.keys_until_ms > parts.clock_ms():
            await parts.messages(channel, max(state.keys_from, 1) - 1)
            # What was trimmed before it could be read had been set aside before.
            stream, subject = parts.names.keys_stream, parts.names.keys_subject(channel.name)
            if await parts.streams.last(stream, subject, is_newest=True) is not None:
                now_ms = parts.clock_ms()
                for stored in await parts.streams.page(stream, subject, 1, 10_000):
                    for key in SET_ASIDE.decode(stored.data):
                        parts.keys.add(channel.name, key, now_ms)
        channel.keys_seq = channel.seq

    # -- what a message says --------------------------------------------------------------

    def _plan(self, channel: Channel, batch: Sequence[Pending], forgotten: int) -> _Plan:
        parts = self._parts
        now_ms, epoch = parts.clock_ms(), parts.epochs.epoch
        ttl_ms = int(parts.limits.idempotency_ttl_s * 1000)
        is_made = not channel.exists
        if is_made:
            state = State(epoch, forgotten, forgotten + 1, channel.seq + 1, forgotten)
        else:
            state = following(channel, now_ms, epoch)
        offset, cost = state.last, state.cost_bytes
        results: list[Appended | EverywireError] = []
        records: list[bytes | Large] = []
        publications: list[Publication] = []
        keys: dict[bytes, Key] = {}
        for pending in batch:
            draft = pending.draft
            if draft.key is not None:
                name = digest(draft.key)
                known = keys.get(name) or (
                    None if is_made else parts.keys.find(channel.name, draft.key, now_ms)
                )
                if known is not None:
                    is_same = known.fingerprint == draft.fingerprint
                    results.append(Appended(epoch, known.offset, True) if is_same else KeyReused())
                    continue
                if ttl_ms > 0 and parts.limits.max_idempotency_keys > 0:
                    keys[name] = Key(offset + 1, name, draft.fingerprint, now_ms + ttl_ms)
            offset += 1
            publication = _publication(offset, draft, pending.time_ms)
            cost += publication.cost_bytes
            publications.append(publication)
            records.append(
                Large(pending.large, publication.cost_bytes, pending.time_ms)
                if pending.large
                else pending.record
            )
            results.append(Appended(epoch, offset))
        if not records:
            return _Plan(None, results, ())
        time_ms = publications[0].time_ms
        state = msgspec.structs.replace(
            state,
            last=offset,
            began_ms=state.began_ms if state.last > state.began else time_ms,
            last_ms=time_ms,
            cost_bytes=cost,
            keys_from=(state.keys_from or channel.seq + 1) if keys else state.keys_from,
            keys_until_ms=now_ms + ttl_ms if keys else state.keys_until_ms,
        )
        identity = (parts.writer_name, next(parts.numbers))
        message = Message.make(
            identity, channel.seq, state, tuple(records), tuple(keys.values()), is_made=is_made
        )
        return _Plan(message, results, publications)

    # -- messages without records -----------------------------------------------------------

    async def change(
        self, channel: Channel, make: Callable[[Channel, int], State | None], *, is_made: bool = False
    ) -> State | None:
        """Append a message that only changes the state; return the channel's.

        ``make`` gives it, by what the channel is and the highest offset that the store forgot, or None when
        there is nothing to change."""
        try:
            async with channel.lock:
                return await self._change(channel, make, is_made)
        finally:
            self._room.release(channel)

    async def _change(
        self, channel: Channel, make: Callable[[Channel, int], State | None], is_made: bool
    ) -> State | None:
        parts = self._parts
        for tries in range(20):
            await parts.newest(channel)
            forgotten = 0
            if not channel.exists:
                if is_made:
                    await self._room.make(channel)
                forgotten = await parts.epochs.forgotten()
                if channel.state is not None:
                    forgotten = max(forgotten, channel.state.last)
            state = make(channel, forgotten)
            if state is None:
                return channel.state
            identity = (parts.writer_name, next(parts.numbers))
            message = Message.make(identity, channel.seq, state, is_made=not channel.exists)
            try:
                seq = await parts.streams.append(channel.subject, message.encode(), channel.seq)
            except Conflict:
                await asyncio.sleep(self._random.uniform(0, min(_PAUSE_S * 2**tries, _MAX_PAUSE_S)))
                continue
            channel.has_room = channel.has_room and not message.is_made
            parts.take(channel, seq, message)
            return state
        raise BrokerError("too many nodes write to the channel at the same time")


def _late(parts: Parts) -> BrokerError:
    """Return the error of what was not acknowledged in time. It may have arrived all the same."""
    reason = parts.link.reason
    return BrokerError(f"the broker did not answer in time{reason and f': {reason}'}")


def _publication(offset: int, draft: Draft, time_ms: int) -> Publication:
    tags = None if draft.tags is None else dict(draft.tags)
    return Publication(offset, draft.data, time_ms, draft.content_type, draft.event, tags, draft.info)
