"""The publishing loop: one thread of a process that takes orders from everywhere.

It is made when it is first needed, and ended in three cases: at the end of the process, before a fork (a
thread cannot be forked, and what is half said on a connection belongs to one process), and when another
address is configured. Each time it finishes what it has, within a bound, and what is left fails.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from everywire.brokers.threads import LOOK_S, has_exited
from everywire.core import codes
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.publication import Draft
from everywire.handlers.unfinished import Unfinished
from everywire.publishing.destination import Destination
from everywire.publishing.order import Order
from everywire.publishing.routes import Route, open_route

__all__ = ["Background"]

_CLOSE_S: Final = 2.0
_log = logging.getLogger("everywire.publishing")


class Background:
    """The thread, its event loop, and the way that orders take from there."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._timeout_s = destination.limits.publish_timeout_s
        self.pid = os.getpid()
        self.loop: Final = _Loop()
        limits = destination.limits
        self._unfinished = Unfinished(limits.max_unfinished_appends, limits.max_publishing_bytes)
        self._orders: set[Order] = set()
        self._route: Route | None = None
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="everywire-publishing", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self.loop.close()
            raise EverywireError(
                f"no thread can be started now: {error}", code=codes.NOT_AVAILABLE
            ) from None

    @property
    def is_inside(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def post(self, draft: Draft) -> Order:
        """Take a draft from any thread; `BrokerBusy` when too much is unfinished."""
        order = Order(draft, threading.get_ident(), self._finished)
        if not self._unfinished.begin(order.size):
            raise BrokerBusy("too many publications of this process are unfinished")
        self.loop.call_soon_threadsafe(self._begin, order)
        return order

    def close(self) -> None:
        """Finish what there is, and end the thread; from any thread but its own. Nothing is posted after."""
        if self.loop.is_closed() or self.pid != os.getpid():
            return
        try:
            self.loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            pass  # somebody else was quicker
        self._thread.join(self._timeout_s + 3 * _CLOSE_S)
        end_s = time.monotonic() + _CLOSE_S
        while not has_exited(self._thread) and time.monotonic() < end_s:
            time.sleep(LOOK_S)

    # -- in the loop --------------------------------------------------------------------

    def _begin(self, order: Order) -> None:
        self._orders.add(order)
        order.begin(self.loop, self._timeout_s, self._late)
        if self._route is None:
            order.finish(_stopped())
        else:
            self._route.send(order)

    def _late(self) -> EverywireError:
        return BrokerError(f"this was not done within {self._timeout_s:g} s; it may stand, or not")

    def _finished(self, order: Order) -> None:
        self._orders.discard(order)
        self._unfinished.end(order.size)
        if not self._orders and self._stopping.is_set():
            self._settled.set()

    def _run(self) -> None:
        # Not the loop's own executor: whether that ends in time, and whether it may start a thread at the
        # end of the process, differs between versions of Python.
        names = ThreadPoolExecutor(1, thread_name_prefix="everywire-names")
        self.loop.set_default_executor(names)
        try:
            self._route = route = open_route(self.destination, self.loop)
            self.loop.run_until_complete(self._live(route))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except Exception:  # the top of a thread
            _log.exception("the publishing loop failed")
        finally:
            names.shutdown(wait=False, cancel_futures=True)
            self.loop.close()

    async def _live(self, route: Route) -> None:
        await self._stopping.wait()
        if self._orders:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._settled.wait()
            except TimeoutError:
                pass
        self._route = None
        for order in list(self._orders):
            order.finish(_stopped())
        try:
            async with asyncio.timeout(_CLOSE_S):
                await route.close()
        except TimeoutError:
            _log.warning("the way to publish was not closed in time")
        await _end_tasks()


def _stopped() -> EverywireError:
    return EverywireError(
        "the process stopped publishing before this was done; it may stand, or not", code=codes.NOT_AVAILABLE
    )


async def _end_tasks() -> None:
    """End what the route left behind, so that no task is destroyed while it waits."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLOSE_S)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that is silent in a child that was forked behind our back: there it belongs to the
    parent, and to close it would take its descriptors out of the parent's selector."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def __del__(self) -> None:
        if self._pid == os.getpid():
            super().__del__()
