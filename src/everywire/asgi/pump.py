"""One task per request or socket that awaits ``send``: the only back-pressure ASGI has.

At most one event is on its way. As soon as another has to wait behind it, the driver hears
`stalled`, so that nothing but the log holds publications for a slow peer: what waits is what
was written by then, which is bounded, and a few replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from everywire.transports.exchange import Driver

__all__ = ["Event", "Pump"]

Event = MutableMapping[str, Any]

_MAX_OWED: Final = 4_096
"""Events that a stalled driver may add, which are replies; a peer that owes more is cut off. Sessions bound
theirs in bytes, far below; and here a driver is stalled whenever two events came in one turn."""


class Pump:
    """Sends events in order, one at a time."""

    __slots__ = (
        "_driver",
        "_idle",
        "_is_over",
        "_is_sending",
        "_is_stalled",
        "_owed",
        "_send",
        "_waiting",
        "_wake",
    )

    def __init__(self, send: Callable[[Event], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._driver: Driver | None = None
        self._is_sending = False
        self._is_stalled = False
        self._owed = 0
        self._is_over = False

    def attend(self, driver: Driver) -> None:
        """Name who hears of stalls."""
        self._driver = driver

    async def idle(self) -> None:
        """Wait until no event waits behind another."""
        await self._idle.wait()

    def offer(self, *events: Event) -> None:
        """Take events that belong together; tell the driver when they have to wait."""
        if self._is_over:
            return
        if self._is_stalled:
            # Counted by themselves: a joined write may be hundreds of events, one for each message.
            self._owed += len(events)
            if self._owed > _MAX_OWED:
                self.stop()
                return
        was_busy = self._is_sending or bool(self._waiting)
        self._waiting.extend(events)
        self._wake.set()
        if was_busy and not self._is_stalled and self._driver is not None:
            self._is_stalled = True
            self._idle.clear()
            self._driver.stalled()

    def stop(self) -> None:
        """Send nothing more; `run` returns."""
        self._is_over = True
        self._waiting.clear()
        self._idle.set()
        self._wake.set()

    def end(self) -> None:
        """Let `run` return when all was sent."""
        self._wake.set()
        self._is_over = True

    async def run(self) -> None:
        """Send until `end` or `stop`. Raises what the server raises for a peer that is gone."""
        while True:
            while self._waiting:
                self._is_sending = True
                await self._send(self._waiting.popleft())
                self._is_sending = False
            if self._is_over:
                return
            if self._is_stalled and self._driver is not None:
                self._is_stalled = False
                self._owed = 0
                self._idle.set()
                self._driver.writable()
                continue
            self._wake.clear()
            if not self._waiting:
                await self._wake.wait()
