"""Publishing straight to a server's broker: the log gives the offset, and its hints reach every server.

Orders of one turn of the loop are appended with one call. A broker that cannot be reached is opened anew for
the next order; what waits meanwhile hears why.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from everywire.brokers.base import Appended, Broker
from everywire.brokers.opening import open_broker
from everywire.core import codes
from everywire.core.errors import BrokerError, EverywireError
from everywire.core.publication import Publication
from everywire.core.settings import SettingsTable
from everywire.publishing.channels import find_channels
from everywire.publishing.destination import Destination
from everywire.publishing.order import Order, published_at

__all__ = ["BrokerRoute"]

_log = logging.getLogger("everywire.publishing")

_MAX_BATCH: Final = 128
_SWEEP_S: Final = 1.0
_LEARN_S: Final = 30.0


class BrokerRoute:
    """The way to one broker."""

    def __init__(self, destination: Destination, loop: asyncio.AbstractEventLoop) -> None:
        self._destination = destination
        self._loop = loop
        self._waiting: deque[Order] = deque()
        self._broker: Broker | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_marked = False
        self._channels = SettingsTable()
        self._learning: asyncio.Task[None] | None = None
        self._learned_s = loop.time()
        self._sweeper: asyncio.TimerHandle | None = None

    def send(self, order: Order) -> None:
        """Append an order in the next turn of the loop, with all that came in this one."""
        self._waiting.append(order)
        if self._broker is not None:
            if not self._is_marked:
                self._is_marked = True
                self._loop.call_soon(self._flush)
        elif self._opening is None:
            self._opening = self._loop.create_task(self._open())

    def _flush(self) -> None:
        self._is_marked = False
        broker, waiting = self._broker, self._waiting
        while broker is not None and waiting:
            batch: list[Order] = []
            while waiting and len(batch) < _MAX_BATCH:
                order = waiting.popleft()
                if not order.is_done:
                    batch.append(order)
            if batch:
                broker.log.append([order.draft for order in batch], partial(_finish, batch))

    async def _open(self) -> None:
        destination = self._destination
        broker: Broker | None = None
        try:
            self._channels = destination.channels or SettingsTable()
            broker = open_broker(destination.url, destination.limits, self._channels)
            async with asyncio.timeout(destination.limits.broker_timeout_s):
                await broker.start(_NobodyReads())
                await self._learn(broker)
        except BaseException as error:
            await self._fail(broker, error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._opening = None
        self._broker = broker
        self._sweep()
        self._flush()

    async def _fail(self, broker: Broker | None, error: BaseException) -> None:
        if isinstance(error, EverywireError):
            told = error
        elif isinstance(error, TimeoutError | OSError):
            detail = "" if broker is None else broker.health().detail
            told = BrokerError(f"the broker cannot be reached{detail and f': {detail}'}")
        elif isinstance(error, asyncio.CancelledError):
            told = EverywireError("this process stops publishing", code=codes.NOT_AVAILABLE)
        else:
            _log.error("the broker could not be opened", exc_info=error)
            told = BrokerError("the broker could not be opened")
        waiting, self._waiting = self._waiting, deque()
        for order in waiting:
            order.finish(told)
        if broker is not None:
            await _close(broker)

    async def _learn(self, broker: Broker) -> None:
        """Take over the servers' settings of channels, unless the application gave some."""
        if self._destination.channels is None and (found := await find_channels(broker.store)):
            self._channels.become(found)

    async def _learn_again(self, broker: Broker) -> None:
        try:
            await self._learn(broker)
        except EverywireError:
            pass  # the next time will do
        finally:
            self._learning = None

    def _sweep(self) -> None:
        """Let the broker keep its house, as a hub does once a second, and look now and then whether the
        servers have come back with other settings."""
        if self._broker is None:
            return
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        self._broker.sweep()
        if self._loop.time() >= self._learned_s + _LEARN_S and self._learning is None:
            self._learned_s = self._loop.time()
            self._learning = self._loop.create_task(self._learn_again(self._broker))

    async def close(self) -> None:
        """Disconnect."""
        for task in (self._opening, self._learning):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        broker, self._broker = self._broker, None
        if broker is not None:
            await _close(broker)


def _finish(batch: Sequence[Order], results: Sequence[Appended | EverywireError]) -> None:
    for order, result in zip(batch, results, strict=True):
        if isinstance(result, EverywireError):
            order.finish(result)
        else:
            order.finish(published_at(order.draft.channel, result))


async def _close(broker: Broker) -> None:
    try:
        await broker.close()
    except Exception:  # it is given up anyway
        _log.exception("the broker was not closed well")


class _NobodyReads:
    """The sink of a process that has no readers; see `everywire.brokers.base.Sink`."""

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Pass it over."""

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Pass it over."""

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Pass it over."""

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Say that nobody is here to answer."""
        raise EverywireError("this process only publishes", code=codes.NOT_AVAILABLE)
