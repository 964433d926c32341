"""Housekeeping in the background: one part at a time, begun again and again, and never in the way.

What goes wrong is logged, and the next part is begun as if nothing had been.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from everywire.core.errors import BrokerError

__all__ = ["Chore"]

_log: Final = logging.getLogger("everywire.brokers")


class Chore:
    """One kind of housekeeping; ``work`` does a bounded part of it, ``name`` says in the log what it is."""

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, None]], name: str, level: int = logging.INFO
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        """The part that was begun last."""
        self._work = work
        self._name = name
        self._level = level
        """Of the line that says that it waits for the engine."""

    def begin(self) -> None:
        """Begin a part, unless one is under way."""
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def _run(self) -> None:
        try:
            await self._work()
        except BrokerError as error:
            _log.log(self._level, "%s waits: %s", self._name, error.sentence)
        except Exception:
            # The top of a task, begun again a second later.
            _log.exception("%s failed", self._name)

    async def close(self) -> None:
        """Do no more."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
