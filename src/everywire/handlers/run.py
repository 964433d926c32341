"""A run as the application holds it: on this node, or on another one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from everywire.core import codes
from everywire.core.errors import BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.handlers.runs import End, Record, Status, Writer, discard, iterator_of
from everywire.handlers.session import DONE, Done
from everywire.hub.hub import Hub

__all__ = ["DistantRun", "LocalRun", "Run"]

_log = logging.getLogger("everywire.handlers")

_CLOSE_TIMEOUT_S: Final = 5.0
_LOOK_S: Final = 0.5


class Run(Protocol):
    """One run of a producer; see `everywire.application.Everywire.produce`."""

    @property
    def channel(self) -> str:
        """Where its output is."""

    @property
    def id(self) -> str:
        """Its name among all runs."""

    @property
    def status(self) -> Status:
        """``running``, ``done``, ``failed`` or ``cancelled``, as far as this node knows."""

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this node."""

    def cancel(self, reason: str = "") -> Awaitable[None]:
        """Stop the producer; the mark of its end says ``cancelled``. Nothing happens after its end. Begun at
        once; awaited, it returns when the node that runs it has heard."""

    async def finished(self) -> Status:
        """Wait for its end, and return how it ended."""


class LocalRun:
    """A run on this node."""

    __slots__ = (
        "_end",
        "_ended",
        "_limits",
        "_reason",
        "_source",
        "_writer",
        "ended_s",
        "grace_s",
        "record",
        "task",
    )

    is_here = True

    def __init__(
        self,
        hub: Hub,
        channel: str,
        source: Any,
        limits: Limits,
        grace_s: float,
        may_grow: Callable[[int], bool],
    ) -> None:
        self.record = Record(secrets.token_hex(8), hub.broker.node)
        self.grace_s = grace_s
        self.ended_s: float | None = None
        """When it ended, on the event loop's clock."""
        self._source = source
        self._limits = limits
        self._writer = Writer(hub, channel, self.record.id, limits, may_grow)
        self._end: End | None = None
        self._ended = asyncio.Event()
        self._reason: End | None = None
        self.task: asyncio.Task[None] | None = None
        """What reads the producer."""

    @property
    def channel(self) -> str:
        """Where its output is."""
        return self._writer.channel

    @property
    def id(self) -> str:
        """Its name among all runs."""
        return self.record.id

    @property
    def status(self) -> Status:
        """How it stands."""
        return "running" if self._end is None else self._end.status

    @property
    def count(self) -> int:
        """How many items were published."""
        return self._writer.count

    @property
    def cost_bytes(self) -> int:
        """What they cost their log."""
        return self._writer.cost_bytes

    def cancel(self, reason: str = "") -> Done:
        """Stop the producer."""
        self.stop(End("cancelled", reason=reason))
        return DONE

    def stop(self, end: End) -> None:
        """Stop the producer, and say why."""
        if self._reason is None and self._end is None:
            self._reason = end
            if self.task is not None:
                self.task.cancel()

    async def finished(self) -> Status:
        """Wait for its end."""
        await self._ended.wait()
        return self.status

    def start(self, ended: Callable[[LocalRun, Status], Awaitable[None]]) -> asyncio.Task[None]:
        """Begin; ``ended`` is awaited behind the mark of the end, before anybody is told of it."""
        self.task = asyncio.get_running_loop().create_task(self._live(ended), name=f"run of {self.channel}")
        return self.task

    async def _live(self, ended: Callable[[LocalRun, Status], Awaitable[None]]) -> None:
        end = await self._work()
        task = asyncio.current_task()
        while task is not None and task.uncancel():
            pass  # whoever cancelled the producer is told by its end
        if end.is_told:
            try:
                await self._writer.end(end)
            except EverywireError as error:
                _log.error("the end of a run in channel %s could not be told: %s", self.channel, error)
            await ended(self, end.status)
        self._end = end
        self.ended_s = asyncio.get_running_loop().time()
        self._ended.set()

    async def _work(self) -> End:
        """Read the producer to its end; return how that came."""
        source = self._source
        self._source = None
        try:
            if self._is_stopped():
                raise asyncio.CancelledError
            async with asyncio.timeout(self._limits.max_run_s) as deadline:
                source = iterator = await iterator_of(source)
                async for item in iterator:
                    if self._is_stopped():
                        raise asyncio.CancelledError  # it was cancelled, and did not care
                    await self._writer.write(item)
            return End("done")
        except asyncio.CancelledError:
            return self._reason or End("cancelled")
        except EverywireError as error:
            return End("failed", error)
        except Exception as error:  # the top of the producer's work: nothing of it may leak
            if isinstance(error, TimeoutError) and deadline.expired():
                sentence = f"a run takes at most {self._limits.max_run_s:g} s"
                return End("failed", EverywireError(sentence, code=codes.LIMIT_EXCEEDED))
            _log.error("the producer of channel %s failed", self.channel, exc_info=error)
            return End("failed", EverywireError(code=codes.INTERNAL))
        finally:
            await self._close(source)

    def _is_stopped(self) -> bool:
        return self._reason is not None

    async def _close(self, source: Any) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await discard(source)
        except TimeoutError:
            _log.warning("the producer of channel %s did not close in time", self.channel)


class DistantRun:
    """A run on another node."""

    __slots__ = ("_cancel", "_look", "channel", "record")

    is_here = False

    def __init__(
        self,
        channel: str,
        record: Record,
        cancel: Callable[[DistantRun, str], Awaitable[None]],
        look: Callable[[str], Awaitable[Record | None]],
    ) -> None:
        self.channel = channel
        self.record = record
        self._cancel = cancel
        self._look = look

    @property
    def id(self) -> str:
        """Its name among all runs."""
        return self.record.id

    @property
    def status(self) -> Status:
        """How it stood when this node looked last."""
        return self.record.status

    def cancel(self, reason: str = "") -> Awaitable[None]:
        """Have the producer stopped."""
        return self._cancel(self, reason)

    async def finished(self) -> Status:
        """Wait for its end; a run whose node was not heard of any more has failed."""
        while self.record.status == "running":
            await asyncio.sleep(_LOOK_S)
            try:
                found = await self._look(self.channel)
            except BrokerError:
                continue
            if found is None or found.id != self.id:
                self.record = Record(self.id, self.record.node, "failed")
            else:
                self.record = found
        return self.record.status
