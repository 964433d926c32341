"""Appends on their way: one call of the script at a time per channel, many channels at once.

What is published to a channel while a call for it is on its way goes out with the next one, together. So
the order within a channel is kept whatever has to be tried again, and many who publish to one channel share
calls.

A call that Redis answered with "not so" (the channel is to be made, a slot has moved, …) did nothing and is
tried again until its time is over. One whose link broke may have been done: its publishers get an error.
With a buffer it is tried again, under keys made here where the publisher gave none, so that it is done
once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from everywire.brokers.base import Appended
from everywire.brokers.record import pack
from everywire.brokers.redis.address import Names
from everywire.brokers.redis.channels import APPEND
from everywire.brokers.redis.link import Argument, Reply
from everywire.brokers.redis.registry import Registry
from everywire.brokers.redis.servers import Servers
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError, KeyReused
from everywire.core.limits import Limits
from everywire.core.publication import OVERHEAD_BYTES, TAG_OVERHEAD_BYTES, Draft
from everywire.core.settings import SettingsTable, Window

__all__ = ["Item", "Lane", "Lanes", "hint_bytes"]

_MOST_ITEMS: Final = 128
_MOST_BYTES: Final = 512 * 1024
_MOST_HINT_BYTES: Final = 16 * 1024
"""Publications that are larger together are not on the bus: the hint says only how far the channel is."""
_IDLE_LANES: Final = 10_000
_RETRY_S: Final = 0.1

_log: Final = logging.getLogger("everywire.brokers")

Results = Sequence[Appended | EverywireError]
Done = Callable[[Results], None]


class Call:
    """One call of `append`: its results as they come, and whom to tell."""

    __slots__ = ("done", "left", "results")

    def __init__(self, count: int, done: Done) -> None:
        self.done = done
        self.left = count
        self.results: list[Appended | EverywireError] = [_UNFINISHED] * count


_UNFINISHED: Final = BrokerError("the append is not finished")


class Item(NamedTuple):
    """One draft of a call, and its record."""

    draft: Draft
    record: bytes
    key: str
    call: Call
    place: int
    """Which of the call's drafts it is."""


class Lane:
    """The appends to one channel."""

    __slots__ = ("channel", "is_busy", "meta", "slot", "subject", "waiting", "window")

    def __init__(self, channel: str, names: Names, window: Window) -> None:
        self.channel = channel
        self.meta = names.meta(channel)
        self.slot = names.slot(self.meta)
        self.subject = names.subject(channel)
        self.window = window
        self.waiting: deque[Item] = deque()
        self.is_busy = False


Making = Callable[[Lane], Awaitable[tuple[Argument, Argument]]]


class Lanes:
    """All lanes of a node.

    ``make`` gets leave to make a channel, as the script wants it, or raises; ``repair`` makes good what was
    evicted of one; ``appended`` hears what a call did before its publishers do.
    """

    def __init__(
        self,
        names: Names,
        servers: Servers,
        registry: Registry,
        limits: Limits,
        settings: SettingsTable,
        node: str,
        now: Callable[[], Argument],
    ) -> None:
        self.unfinished = 0
        self.appends = self.calls = self.errors = self.buffered = 0
        self.make: Making
        self.repair: Callable[[Lane], Awaitable[None]]
        self.appended: Callable[[Lane, Sequence[Item], str, int, int, Sequence[int]], None]
        self._names = names
        self._servers = servers
        self._registry = registry
        self._limits = limits
        self._settings = settings
        self._node = node
        self._now = now
        self._verb = "SPUBLISH" if names.is_cluster else "PUBLISH"
        self._buffer = servers.address.buffer
        self._most = max(limits.max_unfinished_appends, self._buffer)
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._ready: list[Lane] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def lane(self, channel: str) -> Lane:
        """Return the lane of a channel."""
        lane = self._lanes.get(channel)
        if lane is None:
            lane = Lane(channel, self._names, self._settings.of(channel).window)
            if len(self._lanes) >= _IDLE_LANES:
                self._make_room()
            self._lanes[channel] = lane
        return lane

    def _make_room(self) -> None:
        for _ in range(len(self._lanes)):
            channel, lane = self._lanes.popitem(last=False)
            if not lane.is_busy and not lane.waiting:
                return
            self._lanes[channel] = lane

    # -- the straight way -----------------------------------------------------------

    def append(self, drafts: Sequence[Draft], done: Done) -> None:
        """Append; ``done`` is called later, or at once when there are too many or nothing."""
        if self._is_closed or self.unfinished + len(drafts) > self._most:
            error = BrokerError("the broker is closed") if self._is_closed else BrokerBusy()
            done([error] * len(drafts))
            return
        if not drafts:
            done([])
            return
        self.unfinished += len(drafts)
        call = Call(len(drafts), done)
        for index, draft in enumerate(drafts):
            lane = self.lane(draft.channel)
            key = "" if draft.key is None else "k" + draft.key
            if not key and self._buffer:
                key = "b" + secrets.token_urlsafe(12)
            lane.waiting.append(Item(draft, pack(draft, 0), key, call, index))
            if not lane.is_busy:
                lane.is_busy = True
                if not self._ready:
                    asyncio.get_running_loop().call_soon(self._go)
                self._ready.append(lane)

    def _go(self) -> None:
        ready, self._ready = self._ready, []
        for lane in ready:
            self._send(lane)

    def _send(self, lane: Lane) -> None:
        items: list[Item] = []
        size = 0
        while lane.waiting and len(items) < _MOST_ITEMS and size < _MOST_BYTES:
            items.append(lane.waiting.popleft())
            size += len(items[-1].record)
        if not items:  # the broker was closed meanwhile
            lane.is_busy = False
            return
        link = self._servers.link_now(lane.slot) if self._registry.is_verified else None
        if link is None:
            self._spawn(lane, items)
        else:
            self.calls += 1
            link.call(self._command(lane, items), partial(self._answered, lane, items))

    def _command(
        self, lane: Lane, items: Sequence[Item], floor: Argument = "", ticket: Argument = ""
    ) -> Sequence[Argument]:
        window, limits = lane.window, self._limits
        command: list[Argument] = [
            "EVALSHA", APPEND.sha, 1, lane.meta, self._registry.epoch, self._now(),
            window.max_publications, window.max_bytes, int(window.max_age_s * 1000),
            int(limits.idempotency_ttl_s * 1000), limits.max_idempotency_keys,
            lane.subject, self._verb, self._node, _MOST_HINT_BYTES, floor, ticket,
        ]  # fmt: skip
        for draft, record, key, _, _ in items:
            command += (record, _cost(draft), len(draft.data), key, draft.fingerprint)
        return command

    def _answered(self, lane: Lane, items: Sequence[Item], reply: Reply) -> None:
        if isinstance(reply, list) and reply[0] == b"ok":
            self._finish(lane, items, reply)
        elif isinstance(reply, BrokerError) and not self._buffer:
            self._fail(lane, items, reply)
        else:
            self._spawn(lane, items)

    def _finish(self, lane: Lane, items: Sequence[Item], reply: Reply) -> None:
        epoch, previous, time_ms, results = reply[1].decode(), int(reply[2]), int(reply[3]), reply[4:]
        self.appends += len(items)
        self.appended(lane, items, epoch, previous, time_ms, results)
        for item, result in zip(items, results, strict=True):
            if result > 0:
                self._tell(item, Appended(epoch, result))
            elif result < 0:
                self._tell(item, Appended(epoch, -result, item.key[0] == "k"))
            else:
                self._tell(item, KeyReused())
        self._next(lane)

    def _fail(self, lane: Lane, items: Sequence[Item], error: EverywireError) -> None:
        self.errors += len(items)
        for item in items:
            self._tell(item, error)
        self._next(lane)

    def _tell(self, item: Item, result: Appended | EverywireError) -> None:
        call = item.call
        call.results[item.place] = result
        call.left -= 1
        self.unfinished -= 1
        if not call.left:
            call.done(call.results)

    def _next(self, lane: Lane) -> None:
        lane.is_busy = False
        if lane.waiting and not self._is_closed:
            lane.is_busy = True
            self._send(lane)

    # -- the long way -----------------------------------------------------------------

    def _spawn(self, lane: Lane, items: Sequence[Item]) -> None:
        if self._is_closed:
            self._fail(lane, items, BrokerError("the broker is closed"))
            return
        task = asyncio.get_running_loop().create_task(self._insist(lane, items), name="append to Redis")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, lane, items))

    def _ended(self, lane: Lane, items: Sequence[Item], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._fail(lane, items, BrokerError("the broker is closed"))
        elif (error := task.exception()) is not None:
            _log.error("an append to Redis failed", exc_info=error)
            self._fail(lane, items, BrokerError("the append failed"))

    async def _insist(self, lane: Lane, items: Sequence[Item]) -> None:
        """Append what the straight way did not; fail within the time, or go on for the buffer's."""
        loop = asyncio.get_running_loop()
        # A key is known for so long; half of it leaves time for the last attempt.
        give_up = loop.time() + (self._limits.idempotency_ttl_s / 2 if self._buffer else 0.0)
        while True:
            try:
                async with asyncio.timeout(self._limits.broker_timeout_s):
                    reply = await self._try(lane, items)
            except TimeoutError:
                error: EverywireError = BrokerError("Redis does not answer in time")
            except EverywireError as caught:
                error = caught
            else:
                self._finish(lane, items, reply)
                return
            if isinstance(error, BrokerBusy) or loop.time() >= give_up:
                self._fail(lane, items, error)
                return
            self.buffered += 1
            await asyncio.sleep(_RETRY_S)

    async def _try(self, lane: Lane, items: Sequence[Item]) -> Reply:
        floor: Argument = ""
        ticket: Argument = ""
        while True:
            self.calls += 1
            command = partial(self._command, lane, items, floor, ticket)
            reply = await self._registry.ask(lane.slot, command)
            if reply[0] == b"ok":
                return reply
            if reply[0] == b"epoch":
                await self._registry.heard_of(reply[1].decode())
            elif reply[0] == b"again":
                await self.repair(lane)
            else:
                floor, ticket = await self.make(lane)

    async def close(self) -> None:
        """Fail what is not finished, and take no more."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            while lane.waiting:
                self._tell(lane.waiting.popleft(), BrokerError("the broker is closed"))


def hint_bytes(records: Sequence[bytes]) -> int:
    """Return how much a hint of these records puts on the bus, about."""
    size = sum(len(record) for record in records)
    return 60 + (size + 4 * len(records) if size <= _MOST_HINT_BYTES else 0)


def _cost(draft: Draft) -> int:
    """Return what a draft will count against its window, as `Publication.cost_bytes` says."""
    cost = len(draft.data) + len(draft.content_type) + OVERHEAD_BYTES
    if draft.tags:
        cost += sum(len(key) + len(value) + TAG_OVERHEAD_BYTES for key, value in draft.tags.items())
    return cost if draft.info is None else cost + len(draft.info)
