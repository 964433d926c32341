"""The tables of the SQLite broker, and how its file is opened.

One file in WAL mode (sqlite.org/wal.html): readers never wait for writers, and a commit survives the death
of the process at any moment. With ``synchronous=normal`` the machine's own death may take the last commits
along; then the store's epoch is changed at the next opening, so that no offset is read twice with different
content. ``full`` waits for the disk at each commit.

A store has a serial that grows with every transaction and never falls. Whoever finds a lower one than was
seen before has an older copy of the file before it: that, too, gets a new epoch. The highest serial is also
noted in a small file beside it (`Mark`), for who was not there when the copy was put in place.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from everywire.core.errors import BrokerError

__all__ = ["Identity", "Mark", "Meta", "identify", "new_epoch", "next_serial", "open_database", "trouble"]

_VERSION: Final = 1
_APPLICATION_ID: Final = 0x45767277
_WAL_PAGES: Final = 1_000
"""Pages in the write-ahead log at which a commit copies them into the database: some 4 MiB."""
_WAL_KEPT_BYTES: Final = 8 * 1024 * 1024
"""What is left of a write-ahead log that had grown beyond it."""

_TABLES: Final = f"""
create table meta (
    id integer primary key check (id = 1), epoch text not null, serial integer not null,
    forgotten integer not null, channels integer not null, bytes integer not null, keys integer not null,
    leases integer not null, entries integer not null, boot text not null, is_lossy integer not null,
    is_clean integer not null);
create table channels (
    id integer primary key, name text not null unique, first integer not null, last integer not null,
    began integer not null, bytes integer not null, used_s integer not null,
    kept_until_ms integer, kept_publications integer, kept_bytes integer, kept_age_ms integer);
create index channels_by_use on channels (used_s);
create index channels_kept on channels (kept_until_ms) where kept_until_ms is not null;
create table publications (
    channel integer not null, offset integer not null, time_ms integer not null, cost integer not null,
    record blob not null, primary key (channel, offset)) without rowid;
create table keys (
    channel text not null, key text not null, fingerprint blob not null, epoch text not null,
    offset integer not null, ends_ms integer not null, primary key (channel, key)) without rowid;
create index keys_by_end on keys (ends_ms);
create table leases (
    family text not null, member text not null, value blob not null, ends_ms integer not null,
    primary key (family, member)) without rowid;
create index leases_by_end on leases (ends_ms);
create table entries (key text primary key, value blob not null, ends_ms integer not null) without rowid;
create index entries_by_end on entries (ends_ms);
create table watches (channel text not null, node text not null, primary key (channel, node)) without rowid;
create table letters (id integer primary key, frame blob not null, ends_ms integer not null);
pragma user_version = {_VERSION};
pragma application_id = {_APPLICATION_ID};
"""


_log: Final = logging.getLogger("everywire.brokers")


class Identity(NamedTuple):
    """Which file a path names."""

    device: int
    inode: int


def identify(path: Path | str) -> Identity | None:
    """Return which file is at a path; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Identity(found.st_dev, found.st_ino)


def trouble(error: Exception) -> BrokerError:
    """Return what publishers are told of an error of SQLite: what is internal stays in our log."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return BrokerError(
        {
            sqlite3.SQLITE_FULL: "the disk of the log store is full",
            sqlite3.SQLITE_BUSY: "the log store is locked by another program",
            sqlite3.SQLITE_LOCKED: "the log store is locked by another program",
            sqlite3.SQLITE_CORRUPT: "the file of the log store is damaged",
            sqlite3.SQLITE_NOTADB: "the file of the log store is damaged",
            sqlite3.SQLITE_READONLY: "the log store cannot be written to",
            sqlite3.SQLITE_IOERR: "the log store's file cannot be read or written",
            sqlite3.SQLITE_CANTOPEN: "the log store cannot be opened",
        }.get(code, "the log store failed")
    )


def new_epoch() -> str:
    """Make an epoch that there never was."""
    return secrets.token_urlsafe(6)


def next_serial(known: int) -> int:
    """Return a serial above all that were ever given: no store makes a million transactions a second."""
    return max(known + 1, time.time_ns() // 1_000)


def _boot() -> str:
    """Return what changes when the machine starts anew; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def open_database(
    path: Path, *, is_full: bool, busy_timeout_s: float, seen: int = 0, is_reader: bool = False
) -> sqlite3.Connection:
    """Open the file, made if there is none, for the thread that calls; raise `sqlite3.Error`. When it stands
    behind the serial that was seen of it, it begins a new epoch."""
    if not is_reader:
        _make_private(path)
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?mode=rw", uri=True, timeout=busy_timeout_s, isolation_level=None,
        cached_statements=256,
    )  # fmt: skip
    try:
        if is_reader:
            connection.execute("pragma query_only = on")
            return connection
        (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("this file system cannot hold a write-ahead log")
        connection.execute(f"pragma wal_autocheckpoint = {_WAL_PAGES}").fetchone()
        connection.execute(f"pragma journal_size_limit = {_WAL_KEPT_BYTES}").fetchone()
        # Full for the note that commits may be lost from now on, without which a loss goes unnoticed.
        connection.execute("pragma synchronous = full")
        _prepare(connection, is_full, seen)
        if not is_full:
            connection.execute("pragma synchronous = normal")
    except BaseException:
        connection.close()
        raise
    return connection


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _make_private(path: Path) -> None:
    """Make the file, if there is none, for its owner alone, and take others' rights from one that is there.

    It is made under another name and then linked: whoever closes a descriptor of the database gives up all
    POSIX locks of this process on it, those of its connections included (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_own(path)
        if not path.exists():
            # They belong to a file that was removed, and would be taken for the new one's.
            for left_over in ("-wal", "-shm"):
                path.with_name(path.name + left_over).unlink(missing_ok=True)
            fresh = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                os.unlink(fresh)
        elif stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise sqlite3.OperationalError(f"{path}: {error.strerror}") from None


def _check_own(path: Path) -> None:
    """Refuse what somebody else has put in the place of the file or of its directory, under way or before."""
    for found in (os.stat(path.parent), *([os.lstat(path)] if os.path.lexists(path) else [])):
        if found.st_uid not in (os.geteuid(), 0):
            raise sqlite3.OperationalError(f"{path} belongs to another user (uid {found.st_uid})")


def _prepare(connection: sqlite3.Connection, is_full: bool, seen: int) -> None:
    """Make the tables of an empty file; note the machine's start, and change the epoch if it lost commits."""
    connection.execute("begin immediate")
    try:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.OperationalError(f"the store is of a later version ({version})")
        if not version:
            for statement in _TABLES.split(";"):
                if statement.strip():
                    connection.execute(statement)
            row = (new_epoch(), next_serial(0))
            connection.execute("insert into meta values (1, ?, ?, 0, 0, 0, 0, 0, 0, '', 0, 1)", row)
        boot = _boot()
        row = connection.execute("select epoch, serial, boot, is_lossy, is_clean from meta").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("the store has lost its one row")
        epoch, serial, had_boot, is_lossy, is_clean = row
        serial += 1
        if (had_boot and had_boot != boot and is_lossy and not is_clean) or serial <= seen:
            _log.warning("the log store may have lost publications; it begins a new epoch")
            epoch, serial = new_epoch(), next_serial(max(seen, serial))
        is_lossy = not is_full or (is_lossy and had_boot == boot)
        connection.execute(
            "update meta set epoch = ?, serial = ?, boot = ?, is_lossy = ?, is_clean = 0",
            (epoch, serial, boot, is_lossy),
        )
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


class Meta:
    """The store's one row, as a transaction reads it and writes it back."""

    __slots__ = ("bytes", "channels", "entries", "epoch", "forgotten", "keys", "leases", "serial")

    def __init__(self, connection: sqlite3.Connection) -> None:
        row = connection.execute(
            "select epoch, serial, forgotten, channels, bytes, keys, leases, entries from meta"
        ).fetchone()
        if row is None:
            raise sqlite3.DatabaseError("the store has lost its one row")
        self.epoch: str = row[0]
        self.serial: int = row[1]
        self.forgotten: int = row[2]
        """The highest offset of any channel forgotten so far."""
        self.channels: int = row[3]
        self.bytes: int = row[4]
        self.keys: int = row[5]
        self.leases: int = row[6]
        self.entries: int = row[7]

    def save(self, connection: sqlite3.Connection) -> None:
        """Write it back, with the next serial."""
        self.serial += 1
        connection.execute(
            "update meta set epoch = ?, serial = ?, forgotten = ?, channels = ?, bytes = ?, keys = ?,"
            " leases = ?, entries = ?",
            (self.epoch, self.serial, self.forgotten, self.channels, self.bytes, self.keys, self.leases,
             self.entries),
        )  # fmt: skip


class Mark:
    """The highest serial that was ever noted beside a store, in a file of its own. It is only a witness:
    what cannot be read counts as nothing, and nothing waits for the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        """Return it; 0 when there is none."""
        try:
            return int(self._path.read_bytes()[:32])
        except (OSError, ValueError):
            return 0

    def write(self, serial: int) -> None:
        """Note a serial; the caller has the turn, so that none overtakes another."""
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(handle, b"%-32d" % serial, 0)
            finally:
                os.close(handle)
        except OSError:
            pass
