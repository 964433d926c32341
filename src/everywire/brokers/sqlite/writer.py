"""The one thread of a process that writes to the SQLite broker's file: group commit, and healing.

All works that wait when the process has its turn go into one transaction, and are told of when it is
committed. When it fails, all of them fail; when one of them is to blame, the others are done without it.
Before each transaction the file is looked at: one that was removed or replaced under way is opened anew, and
a store that stands behind what was seen of it gets a new epoch.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from everywire.brokers.sqlite.channels import Ledger, Run
from everywire.brokers.sqlite.schema import (
    Identity,
    Mark,
    Meta,
    identify,
    new_epoch,
    next_serial,
    open_database,
    trouble,
)
from everywire.brokers.sqlite.thread import Work, WorkThread
from everywire.brokers.sqlite.turns import Turns
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["Transaction", "Witness", "Writer"]

_GROUP: Final = 256
"""Weight of one transaction: some milliseconds, so that others have their turn soon."""
_MARK_S: Final = 1.0
_MAX_WAL_BYTES: Final = 64 * 1024 * 1024
"""A write-ahead log that readers have kept from being copied; then they are waited for."""
_WAL_CHECK_S: Final = 5.0
_WAL_WAIT_MS: Final = 50

_log: Final = logging.getLogger("everywire.brokers")

_Done: TypeAlias = tuple[str, Sequence[Run], Sequence[Work], BrokerError | None]
"""Of a transaction: the epoch, what was appended, the works, and what was wrong."""


class Witness:
    """What this process has seen of the store, from whichever thread."""

    def __init__(self) -> None:
        self.serial = 0
        """The highest that was seen."""
        self.identity: Identity | None = None
        """The file that the writer has open."""
        self._lock = threading.Lock()

    def saw(self, serial: int) -> None:
        """Remember a serial."""
        with self._lock:
            self.serial = max(self.serial, serial)


class Transaction:
    """What works are run at."""

    __slots__ = ("connection", "ledger", "limits", "meta", "now_ms")

    def __init__(
        self,
        connection: sqlite3.Connection,
        meta: Meta,
        limits: Limits,
        settings: SettingsTable,
        now_ms: int,
    ) -> None:
        self.connection = connection
        self.meta = meta
        self.limits = limits
        self.now_ms = now_ms
        self.ledger = Ledger(connection, meta, limits, settings, now_ms)


class Writer:
    """The thread and its connection. ``committed`` is called in the loop with the epoch and what was
    appended, before the works are finished; ``is_last`` in the thread at the end: whether no other node is
    left."""

    def __init__(
        self,
        path: Path,
        node: str,
        limits: Limits,
        settings: SettingsTable,
        clock_ms: Callable[[], int],
        witness: Witness,
        committed: Callable[[str, Sequence[Run]], None],
        is_last: Callable[[], bool],
        *,
        is_full: bool,
    ) -> None:
        self.transactions = self.failures = self.new_epochs = 0
        self.turns = Turns(path)
        self.thread = WorkThread(
            "everywire sqlite writer", self._serve, self._close, max_weight=2 * limits.max_unfinished_appends,
            timeout_s=limits.broker_timeout_s,
        )  # fmt: skip
        self._path = path
        self._node = node
        self._limits = limits
        self._settings = settings
        self._clock_ms = clock_ms
        self._witness = witness
        self._committed = committed
        self._is_last = is_last
        self._is_full = is_full
        self._mark = Mark(path.with_name(path.name + "-mark"))
        self._marked_s = self._wal_checked_s = 0.0
        self._connection: sqlite3.Connection | None = None
        self._beside: tuple[Identity | None, Identity | None] = (None, None)
        self._trouble = ""
        self._is_moved = False
        """Whether the files of turns may be others by now."""

    # -- serving ------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            if self._is_moved:
                self._is_moved = False
                self.turns.close()
            self.turns.take()
        except OSError as error:
            self._failed(error)
            self.thread.served(self.thread.take(_GROUP), BrokerError("the log store cannot be opened"))
            return
        # Only now, so that what came while others had their turn goes along.
        works = self.thread.take(_GROUP)
        done: list[_Done] = []
        try:
            if works:
                self._do(works, done)
            self._look_after()
        finally:
            self.turns.leave()
            # Last: the loop wakes up at once, and wants the interpreter that this thread would still hold.
            if done:
                self.thread.call(self._tell, done)

    def _tell(self, done: Sequence[_Done]) -> None:
        for epoch, runs, works, error in done:
            try:
                if runs:
                    self._committed(epoch, runs)
            finally:
                self.thread.finish(works, error)

    def _do(self, works: Sequence[Work], done: list[_Done]) -> None:
        try:
            epoch, runs = self._commit(works)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            done.append(("", (), works, trouble(error)))
        except Exception as error:
            # The top of what works do: one that cannot be done must not take the others along.
            self._roll_back()
            if len(works) > 1:
                for work in works:
                    self._do((work,), done)
                return
            _log.exception("the log store could not do what it was given")
            done.append(("", (), works, trouble(error)))
        else:
            if self._trouble:
                self._trouble = ""
                _log.info("the log store %s works", self._path)
            done.append((epoch, runs, works, None))

    def _commit(self, works: Sequence[Work]) -> tuple[str, Sequence[Run]]:
        connection = self._opened()
        connection.execute("begin immediate")
        meta = Meta(connection)
        if meta.serial < self._witness.serial:
            self._begin_anew(meta)
        transaction = Transaction(connection, meta, self._limits, self._settings, self._clock_ms())
        for work in works:
            work.run(transaction)
        ledger = transaction.ledger
        ledger.flush()
        ledger.watchers(ledger.runs, self._node)
        meta.save(connection)
        connection.execute("commit")
        self._witness.saw(meta.serial)
        self.transactions += 1
        return meta.epoch, ledger.runs

    def _begin_anew(self, meta: Meta) -> None:
        """Give a store that fell behind a new epoch: offsets that it gives now were given before."""
        _log.warning("the log store %s stands behind what was seen of it; it begins a new epoch", self._path)
        meta.epoch = new_epoch()
        meta.serial = next_serial(self._witness.serial)
        self.new_epochs += 1

    # -- the connection --------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        found = identify(self._path)
        if self._connection is not None:
            if found is not None and found == self._witness.identity:
                return self._connection
            _log.warning("the log store's file %s was removed or replaced; it is opened anew", self._path)
            self._close_connection()
            if found is not None:
                self._remove_left_overs()
            self._is_moved = True
        self._connection = open_database(
            self._path,
            is_full=self._is_full,
            busy_timeout_s=self._limits.broker_timeout_s,
            seen=max(self._witness.serial, self._mark.read()),
        )
        self._witness.identity = identify(self._path)
        self._beside = (identify(f"{self._path}-wal"), identify(f"{self._path}-shm"))
        return self._connection

    def _remove_left_overs(self) -> None:
        """Remove the write-ahead log of the file that was replaced, before it is taken for the new one's."""
        wal, index = f"{self._path}-wal", f"{self._path}-shm"
        for path, known in zip((wal, index), self._beside, strict=True):
            if known is not None and identify(path) == known:
                Path(path).unlink(missing_ok=True)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("the log store %s failed: %s", self._path, error)
        self._roll_back()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
            self._close_connection()

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("rollback")
            except sqlite3.Error:
                self._close_connection()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._witness.identity = None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.warning("the log store %s could not be closed: %s", self._path, error)

    def _look_after(self) -> None:
        """Note the serial now and then, and see that the write-ahead log does not grow for ever."""
        now_s = time.monotonic()
        if now_s - self._marked_s >= _MARK_S and self._connection is not None:
            self._marked_s = now_s
            self._mark.write(self._witness.serial)
        if now_s - self._wal_checked_s >= _WAL_CHECK_S and self._connection is not None:
            self._wal_checked_s = now_s
            try:
                if Path(f"{self._path}-wal").stat().st_size > _MAX_WAL_BYTES:
                    self._shorten_wal(self._connection)
            except (sqlite3.Error, OSError) as error:
                _log.warning("the write-ahead log of %s could not be shortened: %s", self._path, error)

    def _shorten_wal(self, connection: sqlite3.Connection) -> None:
        """Wait a moment for readers; one that stays, such as a backup, must not hold up the writers."""
        connection.execute(f"pragma busy_timeout = {_WAL_WAIT_MS}").fetchone()
        try:
            connection.execute("pragma wal_checkpoint(truncate)").fetchone()
        finally:
            busy_ms = int(self._limits.broker_timeout_s * 1000)
            connection.execute(f"pragma busy_timeout = {busy_ms}").fetchone()

    def _close(self) -> None:
        """Leave the file so that the last one out has lost nothing."""
        connection = self._connection
        is_there = connection is not None and self._witness.identity == identify(self._path)
        if connection is not None and is_there:
            self.turns.take()
            try:
                connection.execute("delete from watches where node = ?", (self._node,))
                if self._is_last():
                    connection.execute("update meta set is_clean = 1")
                    (is_busy, _, _) = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
                    connection.execute("update meta set is_clean = 0 where ?", (is_busy,))
                self._mark.write(self._witness.serial)
            except sqlite3.Error as error:
                _log.warning("the log store %s was not left clean: %s", self._path, error)
            finally:
                self.turns.leave()
        self._close_connection()
        self.turns.close()
