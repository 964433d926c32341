"""The one thread of a process that reads from the SQLite broker's file; it waits for no writer.

Each work sees the store as of one moment. What is over its age, and not trimmed yet, is passed over.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from everywire.brokers.base import Head, Page
from everywire.brokers.record import unpack
from everywire.brokers.sqlite.schema import Identity, identify, open_database, trouble
from everywire.brokers.sqlite.thread import Work, WorkThread
from everywire.brokers.sqlite.writer import Witness
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.publication import Publication
from everywire.core.settings import SettingsTable

__all__ = ["Reader", "View"]

_MAX_WAITING: Final = 100_000
"""Weight of what waits to be read; a channel asked for weighs 1."""
_AT_ONCE: Final = 1_000

_log: Final = logging.getLogger("everywire.brokers")


class View:
    """The store as of one moment: what reading works are run at."""

    __slots__ = ("_epoch", "_forgotten", "_settings", "connection", "now_ms")

    def __init__(
        self, connection: sqlite3.Connection, epoch: str, forgotten: int, settings: SettingsTable, now_ms: int
    ) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self._epoch = epoch
        self._forgotten = forgotten
        self._settings = settings

    def heads(self, channels: Sequence[str]) -> Mapping[str, Head]:
        """Return where channels stand."""
        return {channel: self._head(channel)[1] for channel in channels}

    def _head(self, channel: str) -> tuple[int, Head]:
        execute = self.connection.execute
        row = execute(
            "select id, first, last, began, kept_until_ms, kept_age_ms,"
            " (select time_ms from publications where channel = id order by offset limit 1)"
            " from channels where name = ?",
            (channel,),
        ).fetchone()
        if row is None:
            return 0, Head(self._epoch, self._forgotten + 1, self._forgotten, exists=False)
        id, first, last, began, until_ms, age_ms, oldest_ms = row
        if until_ms is not None and until_ms <= self.now_ms:
            first = last + 1
        elif oldest_ms is not None:
            if until_ms is None:
                age_ms = int(self._settings.of(channel).window.max_age_s * 1000)
            if oldest_ms < self.now_ms - age_ms:
                first = self._first_since(id, self.now_ms - age_ms) or last + 1
        return id, Head(self._epoch, first, last, is_whole=first == began + 1)

    def _first_since(self, id: int, time_ms: int) -> int | None:
        found = self.connection.execute(
            "select offset from publications where channel = ? and time_ms >= ? order by offset limit 1",
            (id, time_ms),
        ).fetchone()
        return None if found is None else int(found[0])

    def read(self, channel: str, after: int, max_publications: int, max_bytes: int) -> Page:
        """Return the publications after an offset."""
        id, head = self._head(channel)
        found: list[Publication] = []
        begin = max(after + 1, head.first)
        if begin > head.last:
            return Page(head, found)
        rows = self.connection.execute(
            "select offset, record from publications where channel = ? and offset >= ?"
            " order by offset limit ?",
            (id, begin, max_publications),
        )
        total = 0
        for offset, record in rows:
            publication = unpack(offset, record)
            total += len(publication.data)
            if total > max_bytes and found:
                break
            found.append(publication)
        rows.close()
        return Page(head, found)


class Reader:
    """The thread and its connection. ``fell_behind`` is called in the loop when the file is not the one that
    the writer has open, or stands behind what was seen of it: the writer has to put it right."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        settings: SettingsTable,
        clock_ms: Callable[[], int],
        witness: Witness,
        fell_behind: Callable[[], None],
    ) -> None:
        self.failures = 0
        self.thread = WorkThread(
            "everywire sqlite reader", self._serve, self._close, max_weight=_MAX_WAITING,
            timeout_s=limits.broker_timeout_s,
        )  # fmt: skip
        self._path = path
        self._limits = limits
        self._settings = settings
        self._clock_ms = clock_ms
        self._witness = witness
        self._fell_behind = fell_behind
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity | None = None

    def _serve(self) -> None:
        works = self.thread.take(_AT_ONCE)
        try:
            self._view(works)
        except Exception as error:
            # The top of the thread's work: what is found there may be anything.
            if not isinstance(error, sqlite3.Error | BrokerError):
                _log.exception("the log store could not be read")
            self.failures += 1
            self._close()
            self.thread.call(self._fell_behind)
            self.thread.served(works, error if isinstance(error, BrokerError) else trouble(error))

    def _view(self, works: Sequence[Work]) -> None:
        connection = self._opened()
        # Before the view begins: the writer may commit and tell of it right after.
        seen = self._witness.serial
        connection.execute("begin")
        try:
            epoch, serial, forgotten = connection.execute(
                "select epoch, serial, forgotten from meta"
            ).fetchone()
            if serial < seen:
                raise BrokerError("the log store fell behind; it is being put right")
            self._witness.saw(serial)
            view = View(connection, epoch, forgotten, self._settings, self._clock_ms())
            for work in works:
                self._run(work, view)
        finally:
            if connection.in_transaction:
                connection.execute("commit")

    def _run(self, work: Work, view: View) -> None:
        error = None
        try:
            work.run(view)
        except sqlite3.Error:
            raise
        except BrokerError as failure:
            error = failure
        except Exception as failure:
            # The top of what a work does: it must not take the thread along.
            _log.exception("the log store could not read what it was asked for")
            error = trouble(failure)
        self.thread.served((work,), error)

    def _opened(self) -> sqlite3.Connection:
        found = identify(self._path)
        if found is None or found != self._witness.identity:
            raise BrokerError("the log store's file is being opened")
        if self._connection is None or self._identity != found:
            self._close()
            self._connection = open_database(
                self._path, is_full=False, busy_timeout_s=self._limits.broker_timeout_s, is_reader=True
            )
            self._identity = found
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
