"""The history command: what a channel keeps, from either end.

``limit`` 0 is the position alone, -1 all, at most `Limits.max_history_publications` and
`Limits.max_page_bytes`; ``since`` is exclusive, and with ``reverse`` those before it follow, newest first. A
range that is not kept any more, or is of another epoch, is error 112.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from everywire.access.identity import Action
from everywire.brokers.base import Head, Page
from everywire.codecs.centrifuge.messages import HistoryRequest, HistoryResult, Reply, StreamPosition
from everywire.codecs.centrifuge.publication import as_pub
from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError
from everywire.core.limits import Limits
from everywire.core.publication import Publication
from everywire.hub.hub import Hub
from everywire.sessions.commands import check_channel, check_room, if_allowed
from everywire.sessions.line import Line

__all__ = ["HistoryReading", "Kept", "history_result", "read_history"]

_ATTEMPTS: Final = 3


def read_history(line: Line, command_id: int, request: HistoryRequest) -> None:
    """Answer with what is kept."""
    check_channel(request.channel)
    check_room(line)
    shared = line.shared
    reading = HistoryReading(shared.hub, shared.limits, request, partial(_answer, line, command_id))
    if_allowed(line, command_id, Action.READ, request.channel, reading.begin)


def _answer(line: Line, command_id: int, found: Kept | EverywireError) -> None:
    if line.is_ended:
        return
    if isinstance(found, EverywireError):
        line.fail(command_id, found)
    else:
        result = history_result(found, is_binary=line.carrier.dialect.is_binary)
        line.reply(Reply(id=command_id, history=result), is_large=True)
    line.finish()


def history_result(found: Kept, *, is_binary: bool) -> HistoryResult:
    """Return what was read as a message; ``is_binary`` as in `as_pub`."""
    return HistoryResult(
        publications=[as_pub(one, is_binary) for one in found.publications],
        epoch=found.head.epoch,
        offset=found.head.last,
    )


def _unrecoverable() -> EverywireError:
    return RequestError("what follows this position is gone", code=codes.UNRECOVERABLE)


class Kept(NamedTuple):
    """What a channel keeps of a range, in the order that was asked for, and where the channel stands."""

    publications: Sequence[Publication]
    head: Head


class HistoryReading:
    """One reading under way; ``done`` is called once, within `begin` if the log is in this process."""

    __slots__ = (
        "_attempts",
        "_done",
        "_end",
        "_found",
        "_head",
        "_hub",
        "_is_reading",
        "_limits",
        "_next",
        "_request",
        "_size",
    )

    def __init__(
        self,
        hub: Hub,
        limits: Limits,
        request: HistoryRequest,
        done: Callable[[Kept | EverywireError], object],
    ) -> None:
        self._hub = hub
        self._limits = limits
        self._request = request
        self._done = done
        self._attempts = 0
        self._head = Head("", 1, 0)
        self._end = 0
        """The offset of the last publication that is wanted."""
        self._found: deque[Publication] = deque()
        self._size = 0
        self._is_reading = False
        self._next: int | None = None
        """The offset after which the next page begins, if there is to be one."""

    def begin(self) -> None:
        """Find out where the channel stands."""
        self._attempts += 1
        self._found.clear()
        self._size = 0
        self._hub.broker.log.heads((self._request.channel,), self._heads_known)

    def _heads_known(self, heads: Mapping[str, Head] | EverywireError) -> None:
        if isinstance(heads, EverywireError):
            self._done(heads)
            return
        self._head = head = heads[self._request.channel]
        try:
            after, self._end = _range(self._request, head, self._limits.max_history_publications)
        except EverywireError as error:
            self._done(error)
            return
        self._read(after)

    def _read(self, after: int) -> None:
        self._next = after
        if self._is_reading:
            return
        # A log in this process answers within the call: hundreds of pages must not stand on one another.
        self._is_reading = True
        while self._next is not None:
            after, self._next = self._next, None
            self._read_page(after)
        self._is_reading = False

    def _read_page(self, after: int) -> None:
        if after >= self._end:
            self._finish()
            return
        limits = self._limits
        count = min(self._end - after, limits.max_history_publications)
        self._hub.read(self._request.channel, after, count, limits.max_page_bytes, self._page_read)

    def _page_read(self, page: Page | EverywireError) -> None:
        if isinstance(page, EverywireError):
            self._done(page)
            return
        wanted = [one for one in page.publications if one.offset <= self._end]
        if page.head.epoch != self._head.epoch or (wanted and not self._follows(wanted[0])):
            # The log has gone on, or begun anew, since its head was asked for.
            if self._attempts < _ATTEMPTS:
                self.begin()
            else:
                self._done(_unrecoverable())
            return
        self._keep(wanted)
        if self._request.reverse and wanted and wanted[-1].offset < self._end:
            self._read(wanted[-1].offset)
        else:
            self._finish()

    def _follows(self, publication: Publication) -> bool:
        """Whether nothing is missing before it."""
        if self._found:
            return publication.offset == self._found[-1].offset + 1
        since = self._request.since
        if since is None or self._request.reverse:
            return True
        return publication.offset <= max(since.offset + 1, self._head.first)

    def _keep(self, publications: Sequence[Publication]) -> None:
        """Keep within the bounds what is to be told: of a range that takes several pages, its end."""
        max_bytes = self._limits.max_page_bytes
        for one in publications:
            self._found.append(one)
            self._size += len(one.data)
        while self._size > max_bytes and len(self._found) > 1:
            self._size -= len(self._found.popleft().data)

    def _finish(self) -> None:
        found = list(self._found)
        if self._request.reverse:
            found.reverse()
        self._done(Kept(found, self._head))


def _range(request: HistoryRequest, head: Head, most: int) -> tuple[int, int]:
    """Return the offset after which to read, and the last one that is wanted."""
    count = most if request.limit < 0 else min(request.limit, most)
    if not count:
        return head.last, head.last
    since = request.since
    if since is not None:
        _check_since(since, head, request.reverse)
    if request.reverse:
        end = head.last if since is None else since.offset - 1
        return max(end - count, head.first - 1), end
    after = head.first - 1 if since is None else max(since.offset, head.first - 1)
    return after, min(after + count, head.last)


def _check_since(since: StreamPosition, head: Head, reverse: bool) -> None:
    if since.epoch and since.epoch != head.epoch:
        raise _unrecoverable()
    is_beginning = not since.offset and head.is_whole
    if reverse:
        # What is before it must be kept still, unless there never was anything.
        is_first = since.offset <= 1 or head.is_whole
        if since.offset > head.last + 1 or (since.offset <= head.first and not is_first):
            raise _unrecoverable()
    elif not is_beginning and not head.first - 1 <= since.offset <= head.last:
        raise _unrecoverable()
