"""Writing to channels' logs inside one transaction of SQLite: append, deduplicate, trim, keep, forget.

A `Ledger` lives as long as a transaction. It loads each channel that is touched once and writes it back
once, with all publications that the transaction brings, so that a group of appends costs little more
than their rows. What was appended is left in `Ledger.runs`, for hints.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from everywire.brokers.base import Appended, Head
from everywire.brokers.record import pack
from everywire.brokers.sqlite.schema import Meta
from everywire.core.errors import BrokerBusy, EverywireError, KeyReused
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable, Window

__all__ = ["COLUMNS", "Ledger", "Run", "Stand"]

COLUMNS: Final = (
    "id, name, first, last, began, bytes, kept_until_ms, kept_publications, kept_bytes, kept_age_ms"
)
_ROWS_PER_INSERT: Final = (64, 8, 1)
"""One statement for many rows: each call into SQLite gives the interpreter's lock away and wants it back."""
_UPDATE: Final = (
    "update channels set first = ?, last = ?, began = ?, bytes = ?, used_s = ?, kept_until_ms = ?,"
    " kept_publications = ?, kept_bytes = ?, kept_age_ms = ? where id = ?"
)
_SEARCHED: Final = 1_000
"""Channels looked at for one to forget."""


class Run:
    """Publications that were appended to a channel one after the other. ``previous`` is the offset before the
    first, or 0 when the channel was just made."""

    __slots__ = ("channel", "previous", "publications", "records", "watchers")

    def __init__(self, channel: str, previous: int) -> None:
        self.channel = channel
        self.previous = previous
        self.publications: list[Publication] = []
        self.records: list[bytes] = []
        self.watchers: Sequence[str] = ()
        """The nodes that want to hear of it."""


class Stand:
    """Where a channel stands in a transaction."""

    __slots__ = ("began", "bytes", "first", "id", "kept", "last", "name", "run", "until_ms")

    def __init__(self, row: Sequence[Any]) -> None:
        self.id: int = row[0]
        self.name: str = row[1]
        self.first: int = row[2]
        self.last: int = row[3]
        self.began: int = row[4]
        self.bytes: int = row[5]
        self.until_ms: int | None = row[6]
        """Until when it is kept by a window of its own."""
        self.kept = None if self.until_ms is None else Window(row[7], row[8], row[9] / 1000)
        self.run: Run | None = None

    def head(self, epoch: str) -> Head:
        """Return where it stands."""
        return Head(epoch, self.first, self.last, is_whole=self.first == self.began + 1)


class Ledger:
    """The channels in one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, meta: Meta, limits: Limits, settings: SettingsTable, now_ms: int
    ) -> None:
        self.runs: list[Run] = []
        self.meta = meta
        self._connection = connection
        self._limits = limits
        self._settings = settings
        self._now_ms = now_ms
        self._stands: dict[str, Stand] = {}
        self._rows: list[tuple[int, int, int, int, bytes]] = []

    # -- appending --------------------------------------------------------------

    def append(self, draft: Draft) -> Appended | EverywireError:
        """Append a draft, unless its key was used."""
        known = self._known(draft)
        if known is not None:
            return known
        stand = self._stand(draft.channel) or self._make(draft.channel)
        if stand is None:
            return BrokerBusy("the server holds as many channels as it may")
        run = stand.run
        if run is None:
            run = stand.run = Run(stand.name, stand.last)
            self.runs.append(run)
        now_ms = self._now_ms
        stand.last += 1
        publication = Publication(
            stand.last, draft.data, now_ms, draft.content_type, draft.event, draft.tags, draft.info
        )
        record = pack(draft, now_ms)
        cost = publication.cost_bytes
        stand.bytes += cost
        self.meta.bytes += cost
        run.publications.append(publication)
        run.records.append(record)
        self._rows.append((stand.id, stand.last, now_ms, cost, record))
        appended = Appended(self.meta.epoch, stand.last)
        if draft.key is not None:
            self._remember(draft, appended)
        return appended

    def _known(self, draft: Draft) -> Appended | KeyReused | None:
        if draft.key is None:
            return None
        found = self._connection.execute(
            "select fingerprint, epoch, offset from keys where channel = ? and key = ? and ends_ms > ?",
            (draft.channel, draft.key, self._now_ms),
        ).fetchone()
        if found is None:
            return None
        return Appended(found[1], found[2], True) if found[0] == draft.fingerprint else KeyReused()

    def _remember(self, draft: Draft, appended: Appended) -> None:
        execute = self._connection.execute
        ends_ms = self._now_ms + int(self._limits.idempotency_ttl_s * 1000)
        self.meta.keys -= execute(
            "delete from keys where channel = ? and key = ?", (draft.channel, draft.key)
        ).rowcount
        execute(
            "insert into keys values (?, ?, ?, ?, ?, ?)",
            (draft.channel, draft.key, draft.fingerprint, appended.epoch, appended.offset, ends_ms),
        )
        self.meta.keys += 1
        excess = self.meta.keys - self._limits.max_idempotency_keys
        if excess > 0:
            self.meta.keys -= execute(
                "delete from keys where (channel, key) in"
                " (select channel, key from keys order by ends_ms limit ?)",
                (excess,),
            ).rowcount

    # -- channels ----------------------------------------------------------------

    def _stand(self, name: str) -> Stand | None:
        """Return where a channel stands, None when there is none."""
        stand = self._stands.get(name)
        if stand is None:
            row = self._connection.execute(
                f"select {COLUMNS} from channels where name = ?", (name,)
            ).fetchone()
            if row is None:
                return None
            stand = self._stands[name] = Stand(row)
            if stand.until_ms is not None and stand.until_ms <= self._now_ms:
                self._let_go(stand)
        return stand

    def _make(self, name: str) -> Stand | None:
        meta = self.meta
        if meta.channels >= self._limits.max_channels and not self._make_room():
            return None
        after = meta.forgotten
        id = self._connection.execute(
            "insert into channels (name, first, last, began, bytes, used_s) values (?, ?, ?, ?, 0, ?)",
            (name, after + 1, after, after, self._now_ms // 1000),
        ).lastrowid
        assert id is not None
        meta.channels += 1
        stand = self._stands[name] = Stand((id, name, after + 1, after, after, 0, None))
        stand.run = Run(name, 0)
        self.runs.append(stand.run)
        return stand

    def _make_room(self) -> bool:
        """Forget the channel that was used least recently and that nobody watches."""
        self.flush()
        execute = self._connection.execute
        watched = []
        is_done = False
        for id, name, last, size, is_watched in execute(
            "select id, name, last, bytes, exists (select 1 from watches where channel = name) from channels"
            " where kept_until_ms is null order by used_s limit ?",
            (_SEARCHED,),
        ).fetchall():
            if is_watched:
                watched.append((self._now_ms // 1000, id))
                continue
            self._forget(id, name, last, size)
            is_done = True
            break
        # The next search goes on behind those that may not go.
        self._connection.executemany("update channels set used_s = ? where id = ?", watched)
        return is_done

    def _forget(self, id: int, name: str, last: int, size: int) -> None:
        self._connection.execute("delete from channels where id = ?", (id,))
        self._connection.execute("delete from publications where channel = ?", (id,))
        self.meta.bytes -= size
        self.meta.channels -= 1
        self.meta.forgotten = max(self.meta.forgotten, last)
        self._stands.pop(name, None)

    def _clear(self, stand: Stand) -> None:
        self._connection.execute("delete from publications where channel = ?", (stand.id,))
        self.meta.bytes -= stand.bytes
        stand.bytes = 0
        stand.first = stand.last + 1

    def _let_go(self, stand: Stand) -> None:
        self._clear(stand)
        stand.until_ms = stand.kept = None

    # -- writing back -----------------------------------------------------------------

    def flush(self) -> None:
        """Write back what was touched, trimmed to its windows."""
        self._insert()
        for stand in self._stands.values():
            self._trim(stand)
        self._connection.executemany(_UPDATE, [self._updated(stand) for stand in self._stands.values()])
        if self.meta.bytes > self._limits.store_budget_bytes:
            self._keep_to_budget()

    def _insert(self) -> None:
        rows, self._rows = self._rows, []
        begin = 0
        for size in _ROWS_PER_INSERT:
            statement = "insert into publications values " + ", ".join(["(?, ?, ?, ?, ?)"] * size)
            while len(rows) - begin >= size:
                part = rows[begin : begin + size]
                self._connection.execute(statement, [value for row in part for value in row])
                begin += size

    def _trim(self, stand: Stand) -> None:
        """Drop what is beyond the window: of the newest one nothing but its age."""
        if not stand.bytes:
            return
        window = stand.kept or self._settings.of(stand.name).window
        before_ms = self._now_ms - int(window.max_age_s * 1000)
        least = stand.last + 1 - window.max_publications
        first, size = stand.last + 1, stand.bytes
        rows = self._connection.execute(
            "select offset, time_ms, cost from publications where channel = ? order by offset", (stand.id,)
        )
        for offset, time_ms, cost in rows:
            is_heavy = size > window.max_bytes and offset < stand.last
            if offset >= least and not is_heavy and time_ms >= before_ms:
                first = offset
                break
            size -= cost
        rows.close()
        self._drop_before(stand, first, stand.bytes - size)

    def _drop_before(self, stand: Stand, first: int, freed: int) -> None:
        if first > stand.first:
            self._connection.execute(
                "delete from publications where channel = ? and offset < ?", (stand.id, first)
            )
            stand.first = first
            stand.bytes -= freed
            self.meta.bytes -= freed

    def _keep_to_budget(self) -> None:
        """Drop what was used least recently; a channel that is in use keeps its newest publication."""
        execute = self._connection.execute
        rows = execute(
            f"select {COLUMNS} from channels where bytes > 0 and kept_until_ms is null"
            " order by used_s limit ?",
            (_SEARCHED,),
        ).fetchall()
        for stand in [self._stands.get(row[1]) or Stand(row) for row in rows]:
            excess = self.meta.bytes - self._limits.store_budget_bytes
            if excess <= 0:
                return
            first, freed = stand.first, 0
            in_use = stand.name in self._stands
            for offset, cost in execute(
                "select offset, cost from publications where channel = ? order by offset", (stand.id,)
            ).fetchall():
                if in_use and (freed >= excess or offset == stand.last):
                    break
                first, freed = offset + 1, freed + cost
            self._drop_before(stand, first, freed)
            execute(
                "update channels set first = ?, bytes = ? where id = ?", (stand.first, stand.bytes, stand.id)
            )

    # -- the rest of the contract ---------------------------------------------------

    def trim(self, channel: str) -> Head:
        """Drop all publications of a channel."""
        stand = self._stand(channel)
        if stand is None:
            return self._nowhere()
        self._insert()
        self._clear(stand)
        return stand.head(self.meta.epoch)

    def _nowhere(self) -> Head:
        forgotten = self.meta.forgotten
        return Head(self.meta.epoch, forgotten + 1, forgotten, exists=False)

    def keep(self, channel: str, window: Window, ttl_s: float, *, anew: bool) -> Head | EverywireError:
        """Keep a channel by a window of its own; see `everywire.brokers.base.Log.keep`."""
        stand = self._stand(channel) or self._make(channel)
        if stand is None:
            return BrokerBusy("the server holds as many channels as it may")
        self._insert()
        if stand.kept is None:
            self._trim(stand)
        if anew:
            self._clear(stand)
            stand.began = stand.last
        stand.kept = window
        stand.until_ms = self._now_ms + int(ttl_s * 1000)
        return stand.head(self.meta.epoch)

    def sweep(self, after_id: int, count: int) -> int:
        """Let go what was kept long enough. Then trim by age some of the channels that follow one, and forget
        those that are empty and that nobody watches; return the last one looked at, 0 at the end."""
        self.flush()
        self._stands.clear()
        select = f"select {COLUMNS}, exists (select 1 from watches where channel = name) from channels where "
        execute = self._connection.execute
        for row in execute(select + "kept_until_ms <= ? limit ?", (self._now_ms, count)).fetchall():
            self._sweep_one(Stand(row), True)
        rows = execute(select + "id > ? order by id limit ?", (after_id, count)).fetchall()
        for row in rows:
            self._sweep_one(Stand(row), bool(row[-1]))
        return int(rows[-1][0]) if len(rows) == count else 0

    def _sweep_one(self, stand: Stand, is_watched: bool) -> None:
        was = stand.first, stand.until_ms
        if stand.until_ms is not None and stand.until_ms <= self._now_ms:
            self._let_go(stand)
        self._trim(stand)
        if stand.first > stand.last and stand.until_ms is None and not is_watched:
            self._forget(stand.id, stand.name, stand.last, stand.bytes)
        elif was != (stand.first, stand.until_ms):
            self._connection.execute(_UPDATE, self._updated(stand))

    def _updated(self, stand: Stand) -> tuple[object, ...]:
        kept = stand.kept
        by_window: tuple[object, ...] = (None, None, None)
        if kept is not None:
            by_window = (kept.max_publications, kept.max_bytes, int(kept.max_age_s * 1000))
        return (
            stand.first, stand.last, stand.began, stand.bytes, self._now_ms // 1000, stand.until_ms,
            *by_window, stand.id,
        )  # fmt: skip

    def watchers(self, runs: Iterable[Run], node: str) -> None:
        """Find out which other nodes want to hear of what was appended."""
        found: dict[str, list[str]] = {}
        for run in runs:
            if run.channel not in found:
                found[run.channel] = [
                    other
                    for (other,) in self._connection.execute(
                        "select node from watches where channel = ? and node <> ?", (run.channel, node)
                    )
                ]
            run.watchers = found[run.channel]
