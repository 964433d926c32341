"""One publication on its way from wherever it was made to where it stands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from everywire.access.drafts import check_event, check_tags, make_draft
from everywire.brokers.base import Appended
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.names import check_name
from everywire.core.position import Place, encode_position
from everywire.core.publication import Draft
from everywire.handlers.outside import LateError
from everywire.handlers.payloads import encode

__all__ = ["BINARY_TYPE", "Order", "Published", "draft_of", "published_at"]

BINARY_TYPE = "application/octet-stream"


class Published(NamedTuple):
    """Where a publication came to stand. ``replayed``: it stood there already, under the same key."""

    offset: int
    epoch: str
    position: str
    replayed: bool


def draft_of(
    limits: Limits,
    channel: str,
    data: Any,
    *,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    content_type: str = BINARY_TYPE,
    key: str | None = None,
) -> Draft:
    """Check what is to be published, and encode it; raise `BadRequest` or `TooLarge`."""
    check_name(channel)
    is_binary = isinstance(data, bytes | bytearray | memoryview)
    return make_draft(
        channel,
        bytes(data) if is_binary else encode(data),
        limits,
        content_type=content_type if is_binary else "",
        event=None if event is None else check_event(event, limits),
        tags=None if tags is None else check_tags(dict(tags), limits),
        key=None if key is None else f"\0{key}",
    )


def published_at(channel: str, appended: Appended) -> Published:
    """Return what a publisher is told of an append."""
    position = encode_position([(channel, Place(appended.epoch, appended.offset))])
    return Published(appended.offset, appended.epoch, position, appended.replayed)


class Order:
    """A draft, who waits for it, and until when. All but ``future`` is for the publishing loop alone."""

    __slots__ = ("_finished", "_gate", "_timer", "author", "draft", "ends_s", "future", "is_done")

    def __init__(self, draft: Draft, author: int, finished: Callable[[Order], None]) -> None:
        self.draft = draft
        self.author = author
        """The thread it comes from: publications of one author to one channel keep their order."""
        self.future: Future[Published] = Future()
        # Whoever waits for it cannot stop it, only not wait for it.
        self.future.set_running_or_notify_cancel()
        self.is_done = False
        self.ends_s = 0.0
        self._finished = finished
        # A future's own lock is held now and then by whoever waits, and the loop needs it: when a handler of
        # a signal publishes just then, each would wait for the other.
        self._gate = threading.Lock()
        self._gate.acquire()
        self.future.add_done_callback(self._open)
        self._timer: asyncio.TimerHandle | None = None

    def _open(self, _: object) -> None:
        self._gate.release()

    def wait(self, timeout_s: float) -> Published:
        """Wait in a thread, once, until it is finished; return where it stands, or raise why it does not."""
        if not self._gate.acquire(timeout=timeout_s):
            raise LateError(f"this was not done within {timeout_s:g} s; it may still be done")
        return self.future.result()

    @property
    def size(self) -> int:
        """Bytes of data."""
        return len(self.draft.data)

    def begin(
        self, loop: asyncio.AbstractEventLoop, timeout_s: float, late: Callable[[], EverywireError]
    ) -> None:
        """Set the deadline; when it passes, the order ends with the error that ``late`` makes."""
        self.ends_s = loop.time() + timeout_s
        self._timer = loop.call_at(self.ends_s, lambda: self.finish(late()))

    def finish(self, result: Published | BaseException) -> None:
        """Tell whoever waits, once; what comes later is passed over."""
        if self.is_done:
            return
        self.is_done = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)
        self._finished(self)
