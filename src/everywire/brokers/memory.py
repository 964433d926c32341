"""The memory broker: everything in one process; the default.

Every append completes within the call, and the sink hears of it before the publisher
does. What is lost when the process ends is told to readers, because the next process
has another epoch.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from everywire.brokers.base import Appended, Head, Health, Lease, Page, Sink
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError, KeyReused
from everywire.core.limits import Limits
from everywire.core.log import Budget, ChannelLog
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable, Window

__all__ = ["MemoryBroker"]

_SWEEP_ENTRIES = 1_000
"""Channels, values and leases looked at in one sweep: some 0.2 ms each."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryBroker:
    """A broker whose store is this process; ``clock_ms`` gives UNIX time in milliseconds."""

    def __init__(
        self,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        budget: Budget | None = None,
        clock_ms: Callable[[], int] = _wall_ms,
        node: str | None = None,
    ) -> None:
        limits = limits or Limits()
        self.node = node or secrets.token_hex(4)
        self.log = MemoryLog(
            limits, settings or SettingsTable(), budget or Budget(limits.log_budget_bytes), clock_ms
        )
        self.leases = MemoryLeases(limits, clock_ms)
        self.store = MemoryStore(limits, clock_ms)
        self.control = MemoryControl(self.node)

    async def start(self, sink: Sink) -> None:
        """Call the sink back from now on."""
        self.log.sink = sink
        self.control.sink = sink

    async def close(self) -> None:
        """Do nothing: there is nothing to finish."""

    def health(self) -> Health:
        """Say that it is ready, as it always is."""
        return Health(ready=True)

    def sweep(self) -> None:
        """Drop what is over its age and forget idle channels, a part at a time."""
        self.log.sweep()
        self.store.sweep()
        self.leases.sweep()


class MemoryLog:
    """The logs of all channels; see `everywire.brokers.base.Log`."""

    is_local = True

    def __init__(
        self, limits: Limits, settings: SettingsTable, budget: Budget, clock_ms: Callable[[], int]
    ) -> None:
        self.epoch = secrets.token_urlsafe(6)
        self.sink: Sink | None = None
        self.forgotten = 0
        """The highest offset of any channel forgotten so far."""
        self._limits = limits
        self._settings = settings
        self._budget = budget
        self._clock_ms = clock_ms
        self._channels: OrderedDict[str, ChannelLog] = OrderedDict()
        self._watched: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        """Channels kept by a window of their own, and until when."""
        self._keys: OrderedDict[tuple[str, str], tuple[bytes, Appended, int]] = OrderedDict()
        self._sweeping: list[str] = []

    def __len__(self) -> int:
        return len(self._channels)

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append and tell the sink; complete within the call."""
        now_ms = self._clock_ms()
        done([self._append(draft, now_ms) for draft in drafts])

    def _append(self, draft: Draft, now_ms: int) -> Appended | EverywireError:
        channel, key = draft.channel, draft.key
        if key is not None:
            known = self._keys.get((channel, key))
            if known is not None and known[2] > now_ms:
                fingerprint, appended, _ = known
                return appended._replace(replayed=True) if fingerprint == draft.fingerprint else KeyReused()
        log = self._channels.get(channel)
        if log is None:
            made = self._make(channel)
            if made is None:
                return BrokerBusy("the server holds as many channels as it may")
            log, previous = made, 0
        else:
            previous = log.last
            self._channels.move_to_end(channel)
        publication = Publication(
            log.last + 1, draft.data, now_ms, draft.content_type, draft.event, draft.tags, draft.info
        )
        log.append(publication)
        appended = Appended(self.epoch, publication.offset)
        if key is not None:
            self._remember(channel, key, draft.fingerprint, appended, now_ms)
        if self.sink is not None and channel in self._watched:
            self.sink.published(channel, self.epoch, (publication,), previous)
        return appended

    def _make(self, channel: str) -> ChannelLog | None:
        if len(self._channels) >= self._limits.max_channels and not self._make_room():
            return None
        log = ChannelLog(self._settings.of(channel).window, self._budget, after=self.forgotten)
        self._channels[channel] = log
        return log

    def _make_room(self) -> bool:
        """Forget the channel that was published to least recently and that nobody watches."""
        for name in list(islice(self._channels, _SWEEP_ENTRIES)):
            if name not in self._watched and name not in self._kept:
                self._forget(name)
                return True
            self._channels.move_to_end(name)  # so that the next search goes on behind it
        return False

    def _forget(self, channel: str) -> None:
        log = self._channels.pop(channel)
        self.forgotten = max(self.forgotten, log.last)
        self._budget.forget(log)

    def _remember(self, channel: str, key: str, fingerprint: bytes, appended: Appended, now_ms: int) -> None:
        keys = self._keys
        keys[channel, key] = (fingerprint, appended, now_ms + int(self._limits.idempotency_ttl_s * 1000))
        keys.move_to_end((channel, key))
        while keys and (
            len(keys) > self._limits.max_idempotency_keys or next(iter(keys.values()))[2] <= now_ms
        ):
            keys.popitem(last=False)

    def _current(self, channel: str) -> ChannelLog | None:
        """Return a channel's log without what is over its age."""
        log = self._channels.get(channel)
        if log is not None and len(log):
            now_ms = self._clock_ms()
            if log.is_kept and self._kept[channel] <= now_ms:
                self._let_go(channel, log)
            log.trim_before_ms(now_ms - int(log.window.max_age_s * 1000))
        return log

    def _let_go(self, channel: str, log: ChannelLog) -> None:
        del self._kept[channel]
        log.let_go(self._settings.of(channel).window)

    def _head(self, log: ChannelLog | None) -> Head:
        if log is None:
            return Head(self.epoch, self.forgotten + 1, self.forgotten, exists=False)
        return Head(self.epoch, log.first, log.last, is_whole=log.is_whole)

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read what is kept after an offset; complete within the call."""
        log = self._current(channel)
        found = log.after(after, max_publications, max_bytes) if log is not None else []
        done(Page(self._head(log), found))

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand; complete within the call."""
        done({channel: self._head(self._current(channel)) for channel in channels})

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop the publications of a channel; complete within the call."""
        log = self._channels.get(channel)
        if log is not None:
            log.clear()
        done(self._head(log))

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own; complete within the call."""
        log = self._current(channel) or self._make(channel)
        if log is None:
            done(BrokerBusy("the server holds as many channels as it may"))
            return
        if anew:
            log.begin_anew()
        log.keep(window)
        self._kept[channel] = self._clock_ms() + int(ttl_s * 1000)
        done(self._head(log))

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel."""
        self._watched[channel] = self._watched.get(channel, 0) + 1

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel."""
        count = self._watched.get(channel, 0) - 1
        if count > 0:
            self._watched[channel] = count
        else:
            self._watched.pop(channel, None)

    def sweep(self) -> None:
        """Trim by age and forget what is empty and unwatched, some channels at a time."""
        now_ms = self._clock_ms()
        for name in [name for name, until_ms in self._kept.items() if until_ms <= now_ms]:
            self._let_go(name, self._channels[name])
        if not self._sweeping:
            self._sweeping = list(self._channels)
        for _ in range(min(_SWEEP_ENTRIES, len(self._sweeping))):
            name = self._sweeping.pop()
            log = self._current(name)
            if log is not None and not len(log) and name not in self._watched and not log.is_kept:
                self._forget(name)


class MemoryStore:
    """Small values with a time to live; see `everywire.brokers.base.Store`."""

    def __init__(self, limits: Limits, clock_ms: Callable[[], int]) -> None:
        self._max = limits.max_stored_keys
        self._clock_ms = clock_ms
        self._values: OrderedDict[str, tuple[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; `BrokerBusy` when there are too many: a ban must not give way to a ticket."""
        if key not in self._values and len(self._values) >= self._max:
            self.sweep()
            if len(self._values) >= self._max:
                raise BrokerBusy("the server holds as many values as it may")
        self._values[key] = (value, self._clock_ms() + int(ttl_s * 1000))

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one, which is returned."""
        found = await self.get(key)
        if found is None:
            await self.put(key, value, ttl_s)
        return found

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        found = self._values.get(key)
        return found[0] if found is not None and found[1] > self._clock_ms() else None

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it."""
        found = self._values.pop(key, None)
        return found[0] if found is not None and found[1] > self._clock_ms() else None

    def sweep(self) -> None:
        """Drop what has run out, some entries at a time; those that last go to the end of the line."""
        now_ms = self._clock_ms()
        values = self._values
        for key in list(islice(values, _SWEEP_ENTRIES)):
            if values[key][1] <= now_ms:
                del values[key]
            else:
                values.move_to_end(key)


class MemoryLeases:
    """Memberships that run out; see `everywire.brokers.base.Leases`."""

    def __init__(self, limits: Limits, clock_ms: Callable[[], int]) -> None:
        self._max = limits.max_leases
        self._count = 0
        self._clock_ms = clock_ms
        self._groups: OrderedDict[str, dict[str, tuple[bytes, int]]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership; `BrokerBusy` when there are too many."""
        self._put(Lease(group, member, value, ttl_s))

    def _put(self, lease: Lease) -> None:
        group, member, value, ttl_s = lease
        if member not in self._groups.get(group, ()):
            if self._count >= self._max:
                self.sweep()
            if self._count >= self._max:
                raise BrokerBusy("the server holds as many leases as it may")
            self._count += 1
        members = self._groups.setdefault(group, {})
        members[member] = (value, self._clock_ms() + int(ttl_s * 1000))

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""
        members = self._groups.get(group)
        if members is not None and members.pop(member, None) is not None:
            self._count -= 1
            if not members:
                del self._groups[group]

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew what there is room for; `BrokerBusy` when there was not for all."""
        refused = None
        for lease in leases:
            if refused is not None and lease.member not in self._groups.get(lease.group, ()):
                continue  # there was no room before it
            try:
                self._put(lease)
            except BrokerBusy as error:
                refused = error
        if refused is not None:
            raise refused

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End memberships now."""
        for group, member in members:
            await self.drop(group, member)

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""
        now_ms = self._clock_ms()
        return {name: value for name, (value, ends) in self._groups.get(group, {}).items() if ends > now_ms}

    def sweep(self) -> None:
        """Drop what has run out, some groups at a time; those that last go to the end of the line."""
        now_ms = self._clock_ms()
        looked_at = 0
        for group in list(islice(self._groups, _SWEEP_ENTRIES)):
            members = self._groups[group]
            looked_at += len(members)
            for member in [name for name, (_, ends) in members.items() if ends <= now_ms]:
                del members[member]
                self._count -= 1
            if members:
                self._groups.move_to_end(group)
            else:
                del self._groups[group]
            if looked_at >= _SWEEP_ENTRIES:
                break


class MemoryControl:
    """Messages between nodes, of which there is one; see `everywire.brokers.base.Control`."""

    def __init__(self, node: str) -> None:
        self.sink: Sink | None = None
        self._node = node

    async def broadcast(self, topic: str, payload: bytes) -> None:
        """Tell the own sink."""
        if self.sink is not None:
            self.sink.broadcasted(topic, payload, self._node)

    async def ask(self, node: str, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask the own sink; any other node is not there."""
        if node != self._node or self.sink is None:
            raise BrokerError(f"there is no node {node}")
        try:
            async with asyncio.timeout(timeout_s):
                return await self.sink.asked(topic, payload, self._node)
        except TimeoutError:
            raise BrokerError(f"node {node} did not answer in time") from None
