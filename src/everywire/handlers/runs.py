"""Runs: one producer's output in a channel of its own, whoever reads it or not.

A run is an asynchronous iterator that is read once, by one task on one node. What it yields is published
to the run's channel as it comes, at the producer's pace: readers have the channel's log and never slow it.
The last publication of a run is its mark: event ``end``, with data such as ``{"status": "done", "count":
2000}``; ``failed`` brings an ``error``, ``cancelled`` a ``reason``.

Runs refuse synchronous generators, which would block the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from everywire.core import codes
from everywire.core.errors import BadRequest, BrokerError, EverywireError, SettingsError, TooLarge
from everywire.core.limits import Limits
from everywire.core.publication import JSON, OVERHEAD_BYTES, RESERVED_EVENTS, Draft
from everywire.handlers.payloads import encode
from everywire.hub.called import called
from everywire.hub.hub import Hub

__all__ = ["END", "End", "Produced", "Record", "Source", "Status", "Writer", "discard", "iterator_of"]

_log = logging.getLogger("everywire.handlers")

END: Final = "end"
"""The event of a run's last publication."""

Status: TypeAlias = Literal["running", "done", "failed", "cancelled"]

Source: TypeAlias = AsyncIterator[Any] | Callable[[], AsyncIterator[Any] | Awaitable[AsyncIterator[Any]]]
"""An asynchronous iterator, or a function that returns one, or a coroutine function that does."""

_TURN: Final = 32
"""Publications after which the event loop has its turn, if the producer does not give it one."""
_RETRY_S: Final = 0.05
_PATIENCE_S: Final = 10.0
"""How long a run waits for a log that cannot take its publications."""


class Produced(NamedTuple):
    """One item of a producer that is more than data; yield it instead of the data."""

    data: Any
    event: str | None = None
    tags: Mapping[str, str] | None = None


class Record(msgspec.Struct, frozen=True):
    """What nodes know of a run, in the broker's store: there is one for each channel."""

    id: str
    node: str
    status: Status = "running"


class End(NamedTuple):
    """How a run ended."""

    status: Status
    error: EverywireError | None = None
    reason: str = ""
    is_told: bool = True
    """Whether readers are told; not when the channel is another run's by now."""

    def data(self, count: int) -> bytes:
        """Return the data of the mark, of a run that has published so many items."""
        told: dict[str, Any] = {"status": self.status, "count": count}
        if self.error is not None:
            code = self.error.code
            told["error"] = {"code": code.number, "name": code.name, "message": self.error.sentence}
        if self.reason:
            told["reason"] = self.reason
        return encode(told)


class Writer:
    """Publishes what a run yields, one after the other, within its bounds."""

    __slots__ = (
        "_has_keys",
        "_hub",
        "_id",
        "_limits",
        "_may_grow",
        "channel",
        "cost_bytes",
        "count",
        "size_bytes",
    )

    def __init__(
        self, hub: Hub, channel: str, run_id: str, limits: Limits, may_grow: Callable[[int], bool]
    ) -> None:
        self.channel = channel
        self.count = 0
        """Items published."""
        self.size_bytes = 0
        """Their data."""
        self.cost_bytes = 0
        """What they cost their log."""
        self._hub = hub
        self._id = run_id
        self._limits = limits
        self._may_grow = may_grow
        # A log elsewhere may have taken what it seems to have refused: under a key it stands once.
        self._has_keys = not hub.broker.log.is_local

    async def write(self, item: Any) -> None:
        """Publish an item; raises when the run is larger than it may be, or the log takes no more."""
        draft = self._draft(item)
        limits = self._limits
        if self.size_bytes + len(draft.data) > limits.max_run_bytes:
            raise TooLarge(f"a run makes at most {limits.max_run_bytes} bytes", code=codes.LIMIT_EXCEEDED)
        if self.count >= limits.max_run_publications:
            sentence = f"a run makes at most {limits.max_run_publications} publications"
            raise TooLarge(sentence, code=codes.LIMIT_EXCEEDED)
        cost = len(draft.data) + OVERHEAD_BYTES
        if not self._may_grow(cost):
            raise TooLarge("the server has no room for more of this run", code=codes.LIMIT_EXCEEDED)
        self.cost_bytes += cost
        await self._append(draft)
        self.count += 1
        self.size_bytes += len(draft.data)
        if not self.count % _TURN:
            await asyncio.sleep(0)

    async def end(self, end: End) -> None:
        """Publish the mark."""
        await self._append(Draft(self.channel, end.data(self.count), event=END))

    def _draft(self, item: Any) -> Draft:
        event, tags = None, None
        if isinstance(item, Produced):
            item, event, tags = item
            if event is not None and (
                event in RESERVED_EVENTS or event == END or not event or not event.isprintable()
            ):
                raise BadRequest(f"a producer cannot use the event name {event!r}")
        if isinstance(item, bytes | bytearray | memoryview):
            data, content_type = bytes(item), "application/octet-stream"
        else:
            data, content_type = encode(item), JSON
        if len(data) > self._limits.max_body_bytes:
            raise TooLarge(f"a publication is at most {self._limits.max_body_bytes} bytes")
        return Draft(self.channel, data, content_type, event, tags)

    async def _append(self, draft: Draft) -> None:
        if self._has_keys:
            draft = draft._replace(key=f"\0run\0{self._id}\0{self.count}", fingerprint=b"run")
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + _PATIENCE_S
        while True:
            try:
                await called(partial(self._hub.publish, draft))
                return
            except BrokerError:
                if loop.time() > give_up_s:
                    raise
            await asyncio.sleep(_RETRY_S)


async def iterator_of(source: Any) -> AsyncIterator[Any]:
    """Return the asynchronous iterator that a source is, or makes."""
    if not hasattr(source, "__aiter__") and callable(source):
        source = source()
    if inspect.isawaitable(source):
        source = await source
    if not hasattr(source, "__aiter__"):
        kind = type(source).__name__
        raise SettingsError(
            f"a producer is an asynchronous generator or a function that returns one, no {kind}"
        )
    iterator: AsyncIterator[Any] = source.__aiter__()
    return iterator


async def discard(source: Any) -> None:
    """Let go of a source that is not read, or not to its end."""
    close = getattr(source, "aclose", None)
    if close is not None:
        try:
            await close()
        except Exception as error:  # the producer's own clean-up
            _log.error("a producer failed as it was closed", exc_info=error)
    elif inspect.iscoroutine(source):
        source.close()
