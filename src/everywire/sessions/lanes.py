"""Lanes: in which order the application's handlers run for one connection.

A handler (rpc, message) may take its time. By default those of one connection run one after the other, in
the order in which they were called; an application may let several run at once, or in order by a key of
its own (`everywire.access.hooks.Lane`, chosen by `Hooks.lane`). Control traffic is never in a lane. What
waits is bounded by the session: it refuses calls beyond the bound, and pauses its carrier's reading before
it takes one message too many. Work may outlive its connection, so what all of it holds is counted together
(`Tasks.held_bytes`), and whoever closes lanes can hear when nothing is left of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, NamedTuple

from everywire.access.hooks import IN_ORDER, Lane
from everywire.sessions.tasks import Tasks

__all__ = ["IN_ORDER", "Lane", "Lanes", "Work"]

Work = Callable[[], Coroutine[Any, Any, None]]
"""Makes the coroutine that does the work, when its turn has come."""


class _Waiting(NamedTuple):
    """Work before its turn."""

    lane: Lane
    work: Work
    size: int


class _Track:
    """One lane in use."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.running: dict[asyncio.Task[None], _Waiting] = {}
        """Tasks, and what each was made of."""


def _nobody() -> None:
    """Do nothing: whom it concerned has gone."""


class Lanes:
    """All lanes of one connection. A lane without work costs nothing.

    ``freed`` is called when a piece of work is over, as long as the connection is there.
    """

    __slots__ = ("_done", "_freed", "_is_closed", "_tasks", "_tracks", "busy")

    def __init__(self, tasks: Tasks, freed: Callable[[], object] = _nobody) -> None:
        self._tasks = tasks
        self._freed = freed
        self._tracks: dict[Hashable, _Track] = {}
        self._is_closed = False
        self._done: Callable[[], object] = _nobody
        self.busy = 0
        """How many pieces of work wait or run."""

    def put(self, lane: Lane, work: Work, size: int = 0) -> None:
        """Do work when its turn in its lane has come, at once if nothing is before it.

        What the work raises is logged, and the next one has its turn. ``size`` is what it holds, in bytes.
        """
        track = self._tracks.get(lane.key)
        if track is None:
            track = self._tracks[lane.key] = _Track()
        self.busy += 1
        self._tasks.held_bytes += size
        track.waiting.append(_Waiting(lane, work, size))
        self._go_on(lane.key, track)

    def _go_on(self, key: Hashable, track: _Track) -> None:
        while track.waiting and len(track.running) < max(track.waiting[0].lane.concurrency, 1):
            next_one = track.waiting.popleft()
            task = self._tasks.start(next_one.work(), "the work of a handler")
            track.running[task] = next_one
            task.add_done_callback(partial(self._finished, key, track))
        if not track.running:
            del self._tracks[key]

    def _finished(self, key: Hashable, track: _Track, task: asyncio.Task[None]) -> None:
        self._tasks.held_bytes -= track.running.pop(task).size
        self.busy -= 1
        self._go_on(key, track)
        self._freed()
        if self._is_closed and not self.busy:
            done, self._done = self._done, _nobody
            done()

    def close(self, done: Callable[[], object] = _nobody) -> None:
        """Hear that the connection ended: work that asks for it is cancelled, or never begun; the rest is
        done in its order. ``done`` is called when nothing is left, at once if there is nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._freed = _nobody
        for track in tuple(self._tracks.values()):
            kept = deque(one for one in track.waiting if not one.lane.is_cancelled)
            self.busy -= len(track.waiting) - len(kept)
            self._tasks.held_bytes -= sum(one.size for one in track.waiting) - sum(one.size for one in kept)
            track.waiting = kept
            for task, begun in track.running.items():
                if begun.lane.is_cancelled:
                    task.cancel()
        if self.busy:
            self._done = done
        else:
            done()
