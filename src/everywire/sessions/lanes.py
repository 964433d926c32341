"""Lanes: in which order the application's handlers run for one connection.

A handler (rpc, message) may take its time. By default those of one connection run one after the other, in
the order in which they were called; an application may let several run at once, or in order by a key of
its own (`everywire.access.hooks.Lane`, chosen by `Hooks.lane`). Control traffic is never in a lane. What
waits is bounded by the session: it pauses its carrier's reading, and refuses what comes all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from everywire.access.hooks import IN_ORDER, Lane
from everywire.sessions.tasks import Tasks

__all__ = ["IN_ORDER", "Lane", "Lanes"]

Work = Callable[[], Coroutine[Any, Any, None]]
"""Makes the coroutine that does the work, when its turn has come."""


class Lanes:
    """All lanes of one connection. A lane without work costs nothing."""

    def __init__(self, tasks: Tasks) -> None:
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """How many pieces of work wait or run."""
        raise NotImplementedError

    def put(self, lane: Lane, work: Work) -> None:
        """Do work when its turn in its lane has come, at once if nothing is before it.

        The work ends by itself: what it raises is logged, and the next one has its turn.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Hear that the connection ended: work that asks for it is cancelled, or never begun; the rest is
        done in its order."""
        raise NotImplementedError
