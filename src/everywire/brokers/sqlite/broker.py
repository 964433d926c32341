"""The sqlite broker: one machine, many workers, nothing else to install; survives restarts.

The log, leases and values are one file of SQLite in WAL mode (`everywire.brokers.sqlite.schema`). Each
process writes with one thread, a group at a time and in fair turns (`writer`, `turns`), and
reads with another (`reader`); nothing waits for the disk on the event loop. Nodes tell each other by
Unix datagrams what they appended, and send letters the same way (`bus`); what is lost there is found
when heads are compared. It does not span machines, and refuses files on network file systems.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from everywire.brokers.base import Health, Sink
from everywire.brokers.canary import Canary
from everywire.brokers.post import Post
from everywire.brokers.sqlite.bus import Bus
from everywire.brokers.sqlite.channels import Run
from everywire.brokers.sqlite.lane import MAX_DATAGRAM_BYTES
from everywire.brokers.sqlite.log import SqliteLog
from everywire.brokers.sqlite.reader import Reader, View
from everywire.brokers.sqlite.thread import Call
from everywire.brokers.sqlite.values import SqliteLeases, SqliteStore, sweep
from everywire.brokers.sqlite.writer import Transaction, Witness, Writer
from everywire.brokers.state import check_local, state_dir
from everywire.core.errors import BrokerError, SettingsError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["FILE_NAME", "SqliteBroker"]

FILE_NAME: Final = "everywire.sqlite3"
"""The file, where only a directory is named."""

_SUFFIXES: Final = (".sqlite3", ".sqlite", ".db")
_SWEPT_CHANNELS: Final = 500
_PRUNE_EVERY: Final = 15
"""Sweeps between two looks at which nodes are gone."""
_MAX_LETTER_BYTES: Final = 16 * 1024 * 1024
_MAX_STORED_BYTES: Final = 64 * 1024 * 1024
_LETTER_TTL_MS: Final = 30_000

_log: Final = logging.getLogger("everywire.brokers")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class SqliteBroker:
    """A broker whose store is a file of this machine; ``clock_ms`` gives UNIX time in milliseconds.

    ``synchronous`` is "normal" (survives the death of any process at any moment) or "full" (also the
    machine's, and waits for the disk). The file's directory must be the server's own: see
    `everywire.brokers.state.state_dir`.
    """

    def __init__(
        self,
        path: str | Path,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        synchronous: str = "normal",
        clock_ms: Callable[[], int] = _wall_ms,
        node: str | None = None,
    ) -> None:
        if synchronous not in ("normal", "full"):
            raise SettingsError("expected synchronous=normal or synchronous=full")
        self.node = node or secrets.token_hex(4)
        limits = limits or Limits()
        settings = settings or SettingsTable()
        self._path = Path(path)
        self._witness = Witness()
        self._bus = Bus(
            self._path.with_name(self._path.name + "-nodes"), self.node, self._is_watched, self._letter,
            self._stored_letter, self._heard, self._forget_node,
        )  # fmt: skip
        self._writer = Writer(
            self._path, self.node, limits, settings, clock_ms, self._witness, self._committed,
            self._bus.is_alone, is_full=synchronous == "full",
        )  # fmt: skip
        self._reader = Reader(self._path, limits, settings, clock_ms, self._witness, self._look)
        self.log = SqliteLog(limits, self.node, self._writer.thread, self._reader.thread)
        self.leases = SqliteLeases(self._writer.thread, self._reader.thread)
        self.store = SqliteStore(self._writer.thread, self._reader.thread)
        self.control = Post(self.node, self._send)
        self._canary = Canary(
            self._chirp, interval_s=limits.canary_interval_s, timeout_s=limits.canary_timeout_s,
            missed=self._missed, healed=self._healed,
        )  # fmt: skip
        self._first = asyncio.Event()
        self._first_s = limits.canary_timeout_s
        self._is_sweeping = self._is_looking = self._has_chirped = False
        self._swept_id = 0
        self._sweeps = 0

    @classmethod
    def from_url(
        cls,
        url: str,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        node: str | None = None,
        clock_ms: Callable[[], int] = _wall_ms,
    ) -> SqliteBroker:
        """Make the broker of an address: ``sqlite:`` for the state directory, ``sqlite:///PATH`` for a
        directory or a file (``.sqlite3``, ``.sqlite`` or ``.db``), with ``?synchronous=full`` to wait for the
        disk. The directory is made if there is none; `SettingsError` when it will not do."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        synchronous = options.pop("synchronous", "normal")
        given = unquote(parts.path)
        if parts.scheme != "sqlite" or parts.netloc or options or (given and not given.startswith("/")):
            raise SettingsError("expected sqlite: or sqlite:///PATH, with ?synchronous=full or nothing")
        path = Path(given)
        if given and (path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir())):
            file = state_dir(str(path.parent)) / path.name
        else:
            file = state_dir(given) / FILE_NAME
        return cls(file, limits, settings, synchronous=synchronous, clock_ms=clock_ms, node=node)

    # -- life ------------------------------------------------------------------------

    async def start(self, sink: Sink) -> None:
        """Open the file and the socket, and call the sink back from now on.

        Returns when the store has answered for the first time, or has failed to: then `health` says so, and
        it is tried again. Raises `SettingsError` on a network file system, `BrokerError` when no socket can
        be made."""
        check_local(self._path.parent)
        self._bus.open()
        self.log.sink = self.control.sink = self._bus.sink = sink
        self._writer.thread.start()
        self._reader.thread.start()
        self._prune()
        self._canary.start()
        try:
            async with asyncio.timeout(self._first_s):
                await self._first.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Finish or fail what is unfinished, and leave the file clean if this is the last node."""
        await self._canary.close()
        await self.control.close()
        await self._reader.thread.close()
        await self._writer.thread.close()
        self._bus.close()

    def health(self) -> Health:
        """Say whether the store can be written to, and datagrams come through."""
        return self._canary.health()

    def sweep(self) -> None:
        """Remove what has run out, trim by age, forget idle channels: a part at a time."""
        self.log.register()
        self._sweeps += 1
        if self._sweeps % _PRUNE_EVERY == 0:
            self._prune()
        if self._is_sweeping:
            return
        self._is_sweeping = True
        after = self._swept_id

        def swept_up(at: Transaction) -> int:
            sweep(at)
            return at.ledger.sweep(after, _SWEPT_CHANNELS)

        self._writer.thread.submit(Call(swept_up, self._swept))

    def _swept(self, last: int | BrokerError) -> None:
        self._is_sweeping = False
        if isinstance(last, int):
            self._swept_id = last

    def _prune(self) -> None:
        """Forget nodes that died: their lanes, and what they watched."""
        self._bus.prune()

        def prune(at: Transaction) -> None:
            execute = at.connection.execute
            for (node,) in execute("select distinct node from watches").fetchall():
                if node != self.node and not self._bus.is_alive(node):
                    execute("delete from watches where node = ?", (node,))

        self._writer.thread.submit(Call(prune, lambda _: None))

    def _forget_node(self, node: str) -> None:
        def forget(at: Transaction) -> None:
            at.connection.execute("delete from watches where node = ?", (node,))

        self._writer.thread.submit(Call(forget, lambda _: None))

    def statistics(self) -> Mapping[str, int]:
        """Return what was counted since the start."""
        bus, writer, log = self._bus, self._writer, self.log
        return {
            "appends": log.appends,
            "appends_failed": log.appends_failed,
            "batches": writer.transactions,
            "errors": writer.failures + self._reader.failures,
            "timed_out": writer.thread.timed_out + self._reader.thread.timed_out,
            "turns_waited": writer.turns.waited,
            "new_epochs": writer.new_epochs,
            "hints_sent": bus.hints_sent,
            "hints_received": bus.hints_received,
            "hints_lost": bus.dropped(),
            "posts_dropped": bus.letters_lost + self.control.dropped,
            "bus_bytes_out": bus.bytes_out,
            "bus_bytes_in": bus.bytes_in,
            "reconnects": bus.rebound,
            "canaries_sent": self._canary.sent,
            "canaries_lost": self._canary.lost,
        }

    # -- hints -------------------------------------------------------------------------

    def _is_watched(self, channel: str) -> bool:
        return self.log.is_watched(channel)

    def _committed(self, epoch: str, runs: Sequence[Run]) -> None:
        self.log.committed(epoch, runs)
        self._bus.hint(epoch, runs)

    def _look(self) -> None:
        """Let the writer look at the file, which the reader found to be another, or to stand behind."""
        if not self._is_looking:
            self._is_looking = True
            self._writer.thread.submit(Call(lambda at: None, self._looked))

    def _looked(self, _: Any) -> None:
        self._is_looking = False

    # -- the canary ----------------------------------------------------------------------

    async def _chirp(self, token: bytes) -> None:
        self._has_chirped = False
        try:
            await self._writer.thread.ask(lambda at: None)
        except BrokerError:
            # So that the reader lets go of a file that is no more: SQLite shares what belongs to an inode
            # within a process, and the writer could not open one that is put back.
            with contextlib.suppress(BrokerError):
                await self._reader.thread.ask(lambda view: None)
            raise
        await self._reader.thread.ask(lambda view: None)
        self._has_chirped = True
        self._bus.chirp(token)

    def _heard(self, token: bytes) -> None:
        self._canary.heard(token)

    def _missed(self, reason: str) -> None:
        self._first.set()
        if not self._has_chirped:
            return  # it is the store that fails, and is opened anew by the writing thread
        try:
            self._bus.open_anew()
        except BrokerError as error:
            _log.warning("%s", error.sentence)

    def _healed(self) -> None:
        self._first.set()
        self.log.register_all()

    # -- letters ---------------------------------------------------------------------------

    async def _send(self, node: str | None, frame: bytes) -> None:
        """Send a letter to a node, or to all that are there; a large one goes by the store."""
        if len(frame) > _MAX_LETTER_BYTES:
            raise BrokerError(f"a message between nodes has at most {_MAX_LETTER_BYTES} bytes")
        nodes = self._bus.nodes() if node is None else [node]
        id = None
        if nodes and len(frame) > MAX_DATAGRAM_BYTES:
            id = await self._writer.thread.ask(lambda at: _keep_letter(at, frame))
        for each in nodes:
            try:
                if id is None:
                    self._bus.send(each, frame)
                else:
                    self._bus.send_stored(each, id)
            except BrokerError:
                # Of a letter to all, it is counted where it was lost.
                if node is not None:
                    raise

    def _letter(self, frame: bytes) -> None:
        self.control.received(frame)

    def _stored_letter(self, id: int) -> None:
        def find(view: View) -> bytes | None:
            found = view.connection.execute("select frame from letters where id = ?", (id,)).fetchone()
            return None if found is None else bytes(found[0])

        def found(frame: bytes | BrokerError | None) -> None:
            if isinstance(frame, bytes):
                self.control.received(frame)

        self._reader.thread.submit(Call(find, found))


def _keep_letter(at: Transaction, frame: bytes) -> int | BrokerError:
    execute = at.connection.execute
    execute("delete from letters where ends_ms <= ?", (at.now_ms,))
    (size,) = execute("select coalesce(sum(length(frame)), 0) from letters").fetchone()
    if size + len(frame) > _MAX_STORED_BYTES:
        return BrokerError("too many large messages between nodes are under way")
    id = execute(
        "insert into letters (frame, ends_ms) values (?, ?)", (frame, at.now_ms + _LETTER_TTL_MS)
    ).lastrowid
    assert id is not None
    return id
