"""Leases and values of the SQLite broker: written in the writer's transactions, read as of one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from everywire.brokers.base import Lease
from everywire.brokers.sqlite.reader import View
from everywire.brokers.sqlite.thread import WorkThread
from everywire.brokers.sqlite.writer import Transaction
from everywire.core.errors import BrokerBusy, BrokerError

__all__ = ["SqliteLeases", "SqliteStore", "sweep"]

_SWEPT: Final = 1_000
"""Rows of each kind that one sweep removes."""


class SqliteLeases:
    """Memberships that run out; see `everywire.brokers.base.Leases`."""

    def __init__(self, writer: WorkThread, reader: WorkThread) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership; `BrokerBusy` when there are too many."""
        await self.put_many([Lease(group, member, value, ttl_s)])

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""
        await self.drop_many([(group, member)])

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew what there is room for; `BrokerBusy` when there was not for all."""
        if leases and not await self._writer.ask(lambda at: _put_leases(at, leases)):
            raise BrokerBusy("the server holds as many leases as it may")

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End memberships now."""
        if members:
            await self._writer.ask(lambda at: _drop_leases(at, members))

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""

        def found(view: View) -> dict[str, bytes]:
            rows = view.connection.execute(
                "select member, value from leases where family = ? and ends_ms > ?", (group, view.now_ms)
            )
            return dict(rows.fetchall())

        members: dict[str, bytes] = await self._reader.ask(found)
        return members


def _put_leases(at: Transaction, leases: Sequence[Lease]) -> bool:
    is_complete = True
    execute = at.connection.execute
    for group, member, value, ttl_s in leases:
        ends_ms = at.now_ms + int(ttl_s * 1000)
        if execute(
            "update leases set value = ?, ends_ms = ? where family = ? and member = ?",
            (value, ends_ms, group, member),
        ).rowcount:
            continue
        if at.meta.leases >= at.limits.max_leases:
            _sweep_leases(at)
        if at.meta.leases >= at.limits.max_leases:
            is_complete = False
            continue
        execute("insert into leases values (?, ?, ?, ?)", (group, member, value, ends_ms))
        at.meta.leases += 1
    return is_complete


def _drop_leases(at: Transaction, members: Sequence[tuple[str, str]]) -> None:
    at.meta.leases -= at.connection.executemany(
        "delete from leases where family = ? and member = ?", members
    ).rowcount


def _sweep_leases(at: Transaction) -> None:
    at.meta.leases -= at.connection.execute(
        "delete from leases where (family, member) in"
        " (select family, member from leases where ends_ms <= ? order by ends_ms limit ?)",
        (at.now_ms, _SWEPT),
    ).rowcount


class SqliteStore:
    """Small values with a time to live; see `everywire.brokers.base.Store`."""

    def __init__(self, writer: WorkThread, reader: WorkThread) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; `BrokerBusy` when there are too many."""
        if not await self._writer.ask(lambda at: _put_entry(at, key, value, ttl_s)):
            raise BrokerBusy("the server holds as many values as it may")

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one, which is returned."""

        def put(at: Transaction) -> bytes | BrokerError | None:
            found = at.connection.execute(
                "select value from entries where key = ? and ends_ms > ?", (key, at.now_ms)
            ).fetchone()
            if found is not None:
                return bytes(found[0])
            is_kept = _put_entry(at, key, value, ttl_s)
            return None if is_kept else BrokerBusy("the server holds as many values as it may")

        standing: bytes | None = await self._writer.ask(put)
        return standing

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""

        def find(view: View) -> bytes | None:
            found = view.connection.execute(
                "select value from entries where key = ? and ends_ms > ?", (key, view.now_ms)
            ).fetchone()
            return None if found is None else bytes(found[0])

        value: bytes | None = await self._reader.ask(find)
        return value

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it."""

        def take(at: Transaction) -> bytes | None:
            execute = at.connection.execute
            found = execute("select value, ends_ms from entries where key = ?", (key,)).fetchone()
            if found is None:
                return None
            execute("delete from entries where key = ?", (key,))
            at.meta.entries -= 1
            return bytes(found[0]) if found[1] > at.now_ms else None

        value: bytes | None = await self._writer.ask(take)
        return value


def _put_entry(at: Transaction, key: str, value: bytes, ttl_s: float) -> bool:
    execute = at.connection.execute
    ends_ms = at.now_ms + int(ttl_s * 1000)
    if execute("update entries set value = ?, ends_ms = ? where key = ?", (value, ends_ms, key)).rowcount:
        return True
    if at.meta.entries >= at.limits.max_stored_keys:
        _sweep_entries(at)
    if at.meta.entries >= at.limits.max_stored_keys:
        return False
    execute("insert into entries values (?, ?, ?)", (key, value, ends_ms))
    at.meta.entries += 1
    return True


def _sweep_entries(at: Transaction) -> None:
    at.meta.entries -= at.connection.execute(
        "delete from entries where key in"
        " (select key from entries where ends_ms <= ? order by ends_ms limit ?)",
        (at.now_ms, _SWEPT),
    ).rowcount


def sweep(at: Transaction) -> None:
    """Remove what has run out, some of each kind: each row goes in one transaction, and so only once."""
    _sweep_leases(at)
    _sweep_entries(at)
    execute = at.connection.execute
    at.meta.keys -= execute(
        "delete from keys where (channel, key) in"
        " (select channel, key from keys where ends_ms <= ? order by ends_ms limit ?)",
        (at.now_ms, _SWEPT),
    ).rowcount
    execute("delete from letters where ends_ms <= ?", (at.now_ms,))
