"""The channels' logs in Redis; see `everywire.brokers.base.Log`.

Streams keep the publications, under ids that are their offsets; `everywire.brokers.redis.channels` says
how. What this node appends it tells its own sink at once when the answer is there, and passes over the hint
that comes back. Where others published in between, whose hints are still on their way, it waits for the
hint instead: hints come in the order of the log, and the sink need not read what it is about to hear.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from everywire.brokers.base import Appended, Head, Page, Sink
from everywire.brokers.record import unpack
from everywire.brokers.redis.address import Names
from everywire.brokers.redis.bus import Bus
from everywire.brokers.redis.channels import HEADS, KEEP, READ, REPAIR, TRIM
from everywire.brokers.redis.lanes import Item, Lane, Lanes, hint_bytes
from everywire.brokers.redis.link import Argument, Reply
from everywire.brokers.redis.registry import Registry, epoch_of
from everywire.brokers.redis.servers import Servers
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.position import MAX_OFFSET
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable, Window

__all__ = ["RedisLog"]

_WATCH_MS: Final = 60_000
"""How long a channel counts as watched after a node that watches it asked where it stands."""
_HEADS_AT_ONCE: Final = 100
_PAUSE_S: Final = 0.02

_log: Final = logging.getLogger("everywire.brokers")


class Watch:
    """A channel that is watched here: how often, and how far the sink was told."""

    __slots__ = ("count", "epoch", "told")

    def __init__(self) -> None:
        self.count = 1
        self.epoch = ""
        self.told = 0


class RedisLog:
    """The log of one node; its parts are made by `everywire.brokers.redis.RedisBroker`."""

    is_local = False

    def __init__(
        self,
        names: Names,
        servers: Servers,
        registry: Registry,
        bus: Bus,
        lanes: Lanes,
        limits: Limits,
        settings: SettingsTable,
        now: Callable[[], Argument],
    ) -> None:
        self.sink: Sink | None = None
        self.watched: dict[str, Watch] = {}
        self.hints_sent = self.hints_lost = self.bytes_out = 0
        self.make_room: Callable[[], Coroutine[Any, Any, None]]
        """Forgets a channel so that another has room; given by whoever forgets."""
        self._names = names
        self._servers = servers
        self._registry = registry
        self._bus = bus
        self._lanes = lanes
        self._limits = limits
        self._settings = settings
        self._now = now
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._asked: list[tuple[Lane, asyncio.Future[tuple[Argument, Argument]]]] = []
        lanes.make, lanes.repair, lanes.appended = self._make, self._repair, self._appended

    # -- appending ----------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append the drafts in order; `BrokerBusy` at once when too many are unfinished."""
        self._lanes.append(drafts, done)

    def _appended(
        self,
        lane: Lane,
        items: Sequence[Item],
        epoch: str,
        previous: int,
        time_ms: int,
        results: Sequence[int],
    ) -> None:
        channel = lane.channel
        new = [(item, offset) for item, offset in zip(items, results, strict=True) if offset > 0]
        if not new:
            return
        self.hints_sent += 1
        self.bytes_out += hint_bytes([item.record for item, _ in new])
        if not self._registry.marks.saw(channel, epoch, new[-1][1], new[-1][0].record):
            watch = self.watched.get(channel)
            if watch is None or watch.told < new[-1][1]:
                self._registry.suspect(channel)
        watch = self.watched.get(channel)
        if watch is None or self.sink is None or (epoch == watch.epoch and new[-1][1] <= watch.told):
            return
        has_hole = epoch == watch.epoch and previous not in (0, watch.told)
        if has_hole and self._bus.is_heard(lane.subject):
            return
        publications = [_publication(item.draft, offset, time_ms) for item, offset in new]
        watch.epoch, watch.told = epoch, new[-1][1]
        self.sink.published(channel, epoch, publications, previous)

    async def _make(self, lane: Lane) -> tuple[Argument, Argument]:
        """Get leave to make a channel, together with all others that are to be made now."""
        future: asyncio.Future[tuple[Argument, Argument]] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            raise BrokerError("the broker is closed")
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._start, self._register, _ignore)
        self._asked.append((lane, future))
        return await future

    async def _register(self) -> None:
        asked, self._asked = self._asked, []
        try:
            await self._grant(asked)
        except EverywireError as error:
            for _, future in asked:
                if not future.done():
                    future.set_exception(type(error)(error.sentence))
        finally:
            for _, future in asked:
                future.cancel()

    async def _grant(self, asked: Sequence[tuple[Lane, asyncio.Future[tuple[Argument, Argument]]]]) -> None:
        registry, left = self._registry, list(asked)
        for attempt in range(3):
            age_s = max(lane.window.max_age_s for lane, _ in left)
            grant, has_room = await registry.register([lane.channel for lane, _ in left], age_s)
            refused = []
            for one, is_in in zip(left, has_room, strict=True):
                if not is_in:
                    refused.append(one)
                elif not one[1].done():
                    one[1].set_result((grant.floor, grant.ticket))
            left = refused
            if not left:
                return
            if attempt < 2:
                await self.make_room()
        for _, future in left:
            if not future.done():
                future.set_exception(BrokerBusy("the store holds as many channels as it may"))

    async def _repair(self, lane: Lane) -> None:
        if self._names.is_cluster:
            await asyncio.sleep(_PAUSE_S)  # a slot is being moved
        else:
            _log.warning("Redis evicted a part of a channel; its memory policy has to be noeviction")
            await self._servers.ask(lane.slot, ("EVALSHA", REPAIR.sha, 1, lane.meta))

    # -- reading --------------------------------------------------------------------

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read the publications after an offset, oldest first."""
        lane = self._lanes.lane(channel)
        bounds = (min(after, 2**53), max_publications, max_bytes)

        async def read() -> Page:
            reply = await self._insist(lane, lambda: self._read(lane, *bounds))
            return await self._page(reply, max_bytes)

        self._start(read, done)

    def _read(self, lane: Lane, after: int, max_publications: int, max_bytes: int) -> Sequence[Argument]:
        state = (self._registry.epoch, self._now(), *_bounds(lane.window))
        return ("EVALSHA", READ.sha, 1, lane.meta, *state, after, max_publications, max_bytes)

    async def _page(self, reply: Reply, max_bytes: int) -> Page:
        if not reply:
            return Page(await self._absent(), ())
        publications = []
        for offset, time_ms, record in reply[1]:
            publication = unpack(offset, record)
            publication.time_ms = time_ms
            publications.append(publication)
        return Page(_head(reply[0]), publications)

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand; those that are watched here are not forgotten for a while."""
        names = list(dict.fromkeys(channels))

        async def heads() -> Mapping[str, Head]:
            await self._bus.until_heard([self._names.subject(name) for name in names if name in self.watched])
            return await self._heads(names)

        self._start(heads, done)

    async def _heads(self, channels: Sequence[str]) -> Mapping[str, Head]:
        # Before the question: hints overtake the answer.
        seen = self._registry.marks.offsets(channels)
        parts = list(self._parts([self._lanes.lane(channel) for channel in channels]))
        answers = await asyncio.gather(
            *(self._insist(part[0], partial(self._ask_heads, part)) for part in parts)
        )
        found: dict[str, Head] = {}
        for part, answer in zip(parts, answers, strict=True):
            for lane, one in zip(part, answer, strict=True):
                if one:
                    found[lane.channel] = _head(one)
        if len(found) < len(channels):
            absent = await self._absent()
            found.update((channel, absent) for channel in channels if channel not in found)
        for channel, (epoch, offset) in seen.items():
            if found[channel].epoch == epoch and found[channel].last < offset:
                self._registry.suspect(channel)
        return found

    def _parts(self, lanes: Iterable[Lane]) -> Iterable[list[Lane]]:
        """Put together what one script may look at."""
        by_slot: dict[int, list[Lane]] = {}
        for lane in lanes:
            by_slot.setdefault(lane.slot, []).append(lane)
        # While a slot is moved, its channels may be on either side.
        most = 1 if self._names.is_cluster else _HEADS_AT_ONCE
        for part in by_slot.values():
            for at in range(0, len(part), most):
                yield part[at : at + most]

    def _ask_heads(self, lanes: Sequence[Lane]) -> Sequence[Argument]:
        keys = [lane.meta for lane in lanes]
        command: list[Argument] = ["EVALSHA", HEADS.sha, len(keys), *keys]
        command += (self._registry.epoch, self._now(), _WATCH_MS)
        for lane in lanes:
            command += (*_bounds(lane.window), int(lane.channel in self.watched))
        return command

    async def _absent(self) -> Head:
        epoch, floor = await self._registry.where()
        return Head(epoch, floor + 1, floor, exists=False)

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop all publications of a channel; its offsets go on."""
        lane = self._lanes.lane(channel)

        async def trim() -> Head:
            reply = await self._insist(
                lane, lambda: ("EVALSHA", TRIM.sha, 1, lane.meta, self._registry.epoch)
            )
            return _head(reply) if reply else await self._absent()

        self._start(trim, done)

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own; it is made if there is none."""
        lane = self._lanes.lane(channel)
        own = (*_bounds(window), int(ttl_s * 1000), int(anew), *_bounds(lane.window))
        leave: tuple[Argument, Argument] = ("", "")

        def command() -> Sequence[Argument]:
            return ("EVALSHA", KEEP.sha, 1, lane.meta, self._registry.epoch, self._now(), *leave, *own)

        async def keep() -> Head:
            nonlocal leave
            while True:
                reply = await self._insist(lane, command)
                if reply[0] == b"ok":
                    return _head(reply[1:])
                if reply[0] == b"epoch":
                    await self._registry.heard_of(reply[1].decode())
                else:
                    leave = await self._make(lane)

        self._start(keep, done)

    # -- asking -----------------------------------------------------------------------

    async def _insist(self, lane: Lane, command: Callable[[], Sequence[Argument]]) -> Reply:
        """Ask until there is an answer; whoever calls bounds the time."""
        while True:
            reply = await self._registry.ask(lane.slot, command)
            if not reply or reply[0] != b"again":
                return reply
            await self._repair(lane)

    def _start(self, ask: Callable[[], Coroutine[Any, Any, Any]], done: Callable[[Any], None]) -> None:
        """Ask within the time, and tell ``done`` in any case, even when the broker is closed meanwhile."""
        task = asyncio.get_running_loop().create_task(self._in_time(ask), name="question to Redis")
        self._tasks.add(task)
        task.add_done_callback(partial(self._tell, done))

    async def _in_time(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._is_closed:
            raise BrokerError("the broker is closed")
        try:
            async with asyncio.timeout(self._limits.broker_timeout_s):
                return await ask()
        except TimeoutError:
            raise BrokerError("Redis does not answer in time") from None

    def _tell(self, done: Callable[[Any], None], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            done(BrokerError("the broker is closed"))
            return
        error = task.exception()
        if error is None:
            done(task.result())
        elif isinstance(error, EverywireError):
            done(error)
        else:
            _log.error("a question to Redis failed", exc_info=error)
            done(BrokerError("the question to Redis failed"))

    # -- hints ------------------------------------------------------------------------

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel."""
        watch = self.watched.get(channel)
        if watch is not None:
            watch.count += 1
            return
        self.watched[channel] = Watch()
        self._bus.listen(self._names.subject(channel))

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel."""
        watch = self.watched.get(channel)
        if watch is not None:
            watch.count -= 1
            if not watch.count:
                del self.watched[channel]
                self._bus.leave(self._names.subject(channel))

    def heard(self, channel: str, payload: bytes) -> None:
        """Take a hint from the bus."""
        watch, sink = self.watched.get(channel), self.sink
        if watch is None or sink is None:
            return
        if not self._registry.is_verified:
            # It may tell of another past than the one this node knows; `catch_up` reads what it was.
            self.hints_lost += 1
            return
        line, _, body = payload.partition(b"\n")
        try:
            name, before, at, time = line.split(b" ")[:4]
            epoch = epoch_of(name)
            previous, last, time_ms = int(before), int(at), int(time)
            if not 0 <= previous < last <= MAX_OFFSET or not 0 <= time_ms <= MAX_OFFSET:
                raise ValueError
            records = list(_records(body))
            first = last - len(records) + 1
            if records and previous not in (0, first - 1):
                raise ValueError
            publications = [_timed(first + place, record, time_ms) for place, record in enumerate(records)]
        except (ValueError, struct.error, BrokerError):
            _log.warning("what came as a hint of a channel is none")
            return
        if epoch == watch.epoch and last <= watch.told:
            return
        if epoch == watch.epoch and previous not in (0, watch.told):
            self.hints_lost += 1
        watch.epoch, watch.told = epoch, last
        self._registry.marks.saw(channel, epoch, last, records[-1] if records else None)
        if publications:
            sink.published(channel, epoch, publications, previous)
        else:
            sink.advanced(channel, epoch, last)

    def catch_up(self) -> None:
        """Look where all watched channels stand, after hints may have been lost."""
        channels = list(self.watched)

        def know(found: Mapping[str, Head] | EverywireError) -> None:
            if isinstance(found, EverywireError) or self.sink is None:
                return  # heads are compared again soon
            for channel, head in found.items():
                watch = self.watched.get(channel)
                if watch is not None and head.exists and (head.epoch, head.last) != (watch.epoch, watch.told):
                    watch.epoch, watch.told = head.epoch, max(head.last, watch.told)
                    self.sink.advanced(channel, head.epoch, head.last)

        if channels:
            self.heads(channels, know)

    async def close(self) -> None:
        """End what is unfinished."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ignore(result: object) -> None:
    """Hear what nobody waits for."""


def _bounds(window: Window) -> tuple[int, int, int]:
    return window.max_publications, window.max_bytes, int(window.max_age_s * 1000)


def _head(found: Reply) -> Head:
    return Head(epoch_of(found[0]), int(found[1]), int(found[2]), is_whole=bool(found[3]))


def _publication(draft: Draft, offset: int, time_ms: int) -> Publication:
    return Publication(offset, draft.data, time_ms, draft.content_type, draft.event, draft.tags, draft.info)


def _timed(offset: int, record: bytes, time_ms: int) -> Publication:
    publication = unpack(offset, record)
    publication.time_ms = time_ms
    return publication


def _records(body: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from(">I", body, at)
        at += 4 + size
        yield body[at - size : at]
