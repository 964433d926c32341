"""The tasks of all sessions of a server: each has an owner, and is awaited at the end.

Most of what sessions do needs no task. One is made where the application is asked (hooks, handlers) or a
part answers by coroutine (presence). What goes wrong at a task's top is logged here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]

_log = logging.getLogger("everywire.sessions")


class Tasks:
    """Tasks under way; bounded by who starts them."""

    __slots__ = ("_running", "held_bytes")

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self.held_bytes = 0
        """What the work of handlers holds until it is done (`everywire.sessions.lanes`)."""

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start work in the running event loop; it may be cancelled by whoever holds the task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    async def close(self, grace_s: float = 0.0) -> None:
        """Wait for what is under way, then cancel what is left; nothing is started any more by then."""
        if self._running and grace_s > 0:
            await asyncio.wait(tuple(self._running), timeout=grace_s)
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
