"""The log of the SQLite broker: what the hub asks, handed to the writing or the reading thread.

A channel that is watched here is registered in the store, so that other nodes send hints of it, and do not
forget it. Whoever asks for heads of a channel that is being registered is answered after that, so that no
publication falls between the answer and the first hint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from everywire.brokers.base import Appended, Head, Page, Sink
from everywire.brokers.sqlite.channels import Run
from everywire.brokers.sqlite.reader import View
from everywire.brokers.sqlite.thread import Call, Work, WorkThread
from everywire.brokers.sqlite.writer import Transaction
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import Window

__all__ = ["SqliteLog"]

_HEADS_AT_ONCE: Final = 1_000
"""So that other readers have their turn between the parts of a comparison of all heads."""
_MAX_WATCHES: Final = 2_000
"""Changes that are registered in one transaction."""


class _Append(Work):
    """Drafts to append, and who hears of it."""

    __slots__ = ("_done", "_drafts", "_log", "_results", "size_bytes")

    def __init__(
        self,
        log: SqliteLog,
        drafts: Sequence[Draft],
        size_bytes: int,
        done: Callable[[Sequence[Appended | EverywireError]], None],
    ) -> None:
        super().__init__(len(drafts))
        self.size_bytes = size_bytes
        self._log = log
        self._drafts = drafts
        self._done = done
        self._results: Sequence[Appended | EverywireError] = ()

    def run(self, at: Transaction) -> None:
        append = at.ledger.append
        self._results = [append(draft) for draft in self._drafts]

    def finish(self, error: BrokerError | None) -> None:
        self._log.appended(self, self._results if error is None else None)
        self._done(self._results if error is None else [error] * len(self._drafts))


class SqliteLog:
    """The logs of all channels; see `everywire.brokers.base.Log`."""

    is_local = False

    def __init__(self, limits: Limits, node: str, writer: WorkThread, reader: WorkThread) -> None:
        self.sink: Sink | None = None
        self.appends = self.appends_failed = 0
        self._limits = limits
        self._node = node
        self._writer = writer
        self._reader = reader
        self._unfinished_bytes = 0
        self._watched: dict[str, int] = {}
        self._changes: dict[str, bool] = {}
        """Channels whose watching has begun or ended and is not registered yet."""
        self._settling: frozenset[str] = frozenset()
        """Those that are being registered now."""
        self._held: list[tuple[Sequence[str], Callable[[Mapping[str, Head] | EverywireError], None]]] = []

    # -- appending ---------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append drafts in the next transaction; `BrokerBusy` at once when too much is unfinished."""
        size = sum(len(draft.data) for draft in drafts)
        if self._unfinished_bytes and self._unfinished_bytes + size > self._limits.max_publishing_bytes:
            self.appends_failed += len(drafts)
            done([BrokerBusy()] * len(drafts))
            return
        self._unfinished_bytes += size
        self._writer.submit(_Append(self, drafts, size, done))

    def appended(self, append: _Append, results: Sequence[Appended | EverywireError] | None) -> None:
        """Hear of an append that is finished."""
        self._unfinished_bytes -= append.size_bytes
        if results is None:
            self.appends_failed += append.weight
        else:
            self.appends += append.weight

    def committed(self, epoch: str, runs: Sequence[Run]) -> None:
        """Tell the own sink what this node appended."""
        sink = self.sink
        if sink is not None:
            for run in runs:
                if run.channel in self._watched:
                    sink.published(run.channel, epoch, run.publications, run.previous)

    # -- reading -----------------------------------------------------------------

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read what is kept after an offset."""

        def read(view: View) -> Page:
            return view.read(channel, after, max_publications, max_bytes)

        self._reader.submit(Call(read, done))

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand."""
        if (self._changes or self._settling) and not self._is_settled(channels):
            self._held.append((channels, done))
            self.register()
        else:
            self._ask_heads(channels, done)

    def _ask_heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        if len(channels) <= _HEADS_AT_ONCE:
            self._reader.submit(Call(lambda view: view.heads(channels), done, weight=max(len(channels), 1)))
        else:
            _ManyHeads(self._reader, channels, done).go_on()

    def _is_settled(self, channels: Sequence[str]) -> bool:
        return self._changes.keys().isdisjoint(channels) and self._settling.isdisjoint(channels)

    # -- the rest ------------------------------------------------------------------

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop the publications of a channel."""

        def trim(at: Transaction) -> Head:
            return at.ledger.trim(channel)

        self._writer.submit(Call(trim, done))

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own."""

        def keep(at: Transaction) -> Head | EverywireError:
            return at.ledger.keep(channel, window, ttl_s, anew=anew)

        self._writer.submit(Call(keep, done))

    # -- watching --------------------------------------------------------------------

    def is_watched(self, channel: str) -> bool:
        """Say whether the sink wants to hear of a channel."""
        return channel in self._watched

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel."""
        count = self._watched.get(channel, 0)
        self._watched[channel] = count + 1
        if not count:
            self._change(channel, True)

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel."""
        count = self._watched.get(channel, 0) - 1
        if count > 0:
            self._watched[channel] = count
        elif self._watched.pop(channel, None) is not None:
            self._change(channel, False)

    def register_all(self) -> None:
        """Register anew all that is watched: others may have taken this node for dead."""
        self._changes |= dict.fromkeys(self._watched, True)
        self.register()

    def _change(self, channel: str, is_begun: bool) -> None:
        self._changes[channel] = is_begun
        self.register()

    def register(self) -> None:
        """Register the next changes, unless some are under way."""
        if self._settling or not self._changes:
            return
        names = list(self._changes)[:_MAX_WATCHES]
        changes = [(name, self._changes.pop(name)) for name in names]
        self._settling = frozenset(names)

        def settle(at: Transaction) -> None:
            at.connection.executemany(
                "insert or ignore into watches values (?, ?)",
                [(name, self._node) for name, is_begun in changes if is_begun],
            )
            at.connection.executemany(
                "delete from watches where channel = ? and node = ?",
                [(name, self._node) for name, is_begun in changes if not is_begun],
            )

        def settled(result: BrokerError | None) -> None:
            self._settling = frozenset()
            held, self._held = self._held, []
            if result is not None:
                # The next sweep tries again; until then the comparison of heads is what there is.
                self._changes = dict(changes) | self._changes
                for channels, done in held:
                    self._ask_heads(channels, done)
                return
            self.register()
            for channels, done in held:
                self.heads(channels, done)

        self._writer.submit(Call(settle, settled))


class _ManyHeads:
    """A comparison of many heads, a part at a time."""

    def __init__(
        self,
        reader: WorkThread,
        channels: Sequence[str],
        done: Callable[[Mapping[str, Head] | EverywireError], None],
    ) -> None:
        self._reader = reader
        self._channels = channels
        self._done = done
        self._found: dict[str, Head] = {}
        self._begin = 0

    def go_on(self) -> None:
        part = self._channels[self._begin : self._begin + _HEADS_AT_ONCE]
        if not part:
            self._done(self._found)
            return
        self._begin += len(part)
        self._reader.submit(Call(lambda view: view.heads(part), self._take, weight=len(part)))

    def _take(self, heads: Mapping[str, Head] | EverywireError) -> None:
        if isinstance(heads, EverywireError):
            self._done(heads)
            return
        self._found.update(heads)
        self.go_on()
