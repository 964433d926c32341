"""Leases and values in Redis; see `everywire.brokers.base.Leases` and `everywire.brokers.base.Store`.

The leases of a group are one hash, in which every entry begins with the time it ends; what has ended is
never told, and dropped in passing. A value is a key with Redis' own time to live, and begins with the time
it ends when the broker was given a clock (0 otherwise). How many values there may be is for Redis'
``maxmemory`` to bound, as their number cannot be known on a cluster; `Limits.max_leases` bounds each group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from everywire.brokers.base import Lease
from everywire.brokers.redis.address import Names
from everywire.brokers.redis.link import Argument, Reply
from everywire.brokers.redis.scripts import LEASE, MEMBERS, ONCE
from everywire.brokers.redis.servers import Servers
from everywire.core.errors import BrokerBusy

__all__ = ["RedisLeases", "RedisStore"]

_AT_ONCE: Final = 500
"""Leases in one call of the script."""


class RedisLeases:
    """Memberships that run out."""

    def __init__(self, names: Names, servers: Servers, most: int, now: Callable[[], Argument]) -> None:
        self._names = names
        self._servers = servers
        self._most = most
        self._now = now

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership; `BrokerBusy` when the group has too many."""
        await self.put_many([Lease(group, member, value, ttl_s)])

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""
        await self.drop_many([(group, member)])

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew what there is room for; `BrokerBusy` when there was not for all."""
        groups: dict[str, list[Argument]] = {}
        for lease in leases:
            entry = (lease.member, lease.value, max(1, int(lease.ttl_s * 1000)))
            groups.setdefault(lease.group, []).extend(entry)
        calls = [
            self._put(group, entries[at : at + 3 * _AT_ONCE])
            for group, entries in groups.items()
            for at in range(0, len(entries), 3 * _AT_ONCE)
        ]
        if any(await asyncio.gather(*calls)):
            raise BrokerBusy("a group has as many members as it may")

    async def _put(self, group: str, entries: Sequence[Argument]) -> int:
        key = self._names.group(group)
        command = ("EVALSHA", LEASE.sha, 1, key, self._now(), self._most, *entries)
        return int(await self._servers.ask(self._names.slot(key), command))

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End memberships now."""
        groups: dict[str, list[str]] = {}
        for group, member in members:
            groups.setdefault(group, []).append(member)
        await asyncio.gather(*(self._drop(group, gone) for group, gone in groups.items()))

    async def _drop(self, group: str, members: Sequence[str]) -> None:
        key = self._names.group(group)
        await self._servers.ask(self._names.slot(key), ("HDEL", key, *members))

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""
        key = self._names.group(group)
        command = ("EVALSHA", MEMBERS.sha, 1, key, self._now())
        found = await self._servers.ask(self._names.slot(key), command)
        return {
            member.decode("utf-8", "replace"): value
            for member, value in zip(found[::2], found[1::2], strict=True)
        }


class RedisStore:
    """Small values with a time to live."""

    def __init__(self, names: Names, servers: Servers, clock_ms: Callable[[], int] | None) -> None:
        self._names = names
        self._servers = servers
        self._clock_ms = clock_ms

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value under a key."""
        ttl_ms, entry = self._entry(value, ttl_s)
        await self._ask(key, "SET", entry, "PX", ttl_ms)

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one, which is returned."""
        name = self._names.value(key)
        ttl_ms, entry = self._entry(value, ttl_s)
        now: Argument = "" if self._clock_ms is None else self._clock_ms()
        command = ("EVALSHA", ONCE.sha, 1, name, now, entry, ttl_ms)
        return self._value(await self._servers.ask(self._names.slot(name), command))

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        return self._value(await self._ask(key, "GET"))

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it, as one step."""
        return self._value(await self._ask(key, "GETDEL"))

    async def _ask(self, key: str, command: str, *more: Argument) -> Reply:
        name = self._names.value(key)
        return await self._servers.ask(self._names.slot(name), (command, name, *more))

    def _entry(self, value: bytes, ttl_s: float) -> tuple[int, bytes]:
        ttl_ms = max(1, int(ttl_s * 1000))
        ends_ms = 0 if self._clock_ms is None else self._clock_ms() + ttl_ms
        return ttl_ms, b"%d %s" % (ends_ms, value)

    def _value(self, found: bytes | None) -> bytes | None:
        if found is None:
            return None
        ends, _, value = found.partition(b" ")
        if self._clock_ms is not None and int(ends) <= self._clock_ms():
            return None
        return value
