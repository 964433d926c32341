"""Turns: who may write to the file next, fairly among processes.

SQLite's own way of waiting sleeps ever longer, so that of four busy writers one may wait for a second; and
whoever lets go of a plain ``flock`` takes it again before those who wait have woken up. Here a writer
that has had its turn lets all who wait go first. Who waits says so by holding a shared lock on a second file,
so that nothing is left behind by a process that is killed, and whoever has had a turn tries that file for
itself alone: as long as it cannot have it, somebody is waiting. So turns go round. Only
fairness hangs on these locks; SQLite's own keep the file whole.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from everywire.brokers.sqlite.forking import let_go_after_fork

__all__ = ["Turns"]

_PAUSE_S: Final = 0.0001
_MAX_PAUSE_S: Final = 0.0004
_MAX_COURTESY_S: Final = 0.1
"""Some turns of others; longer waits only who was stopped while it waited."""
_NO_COURTESY_S: Final = 1.0
"""How long nobody is let go first after one that did not go."""


class Turns:
    """One process's part in it; all calls from its writing thread."""

    def __init__(self, path: Path) -> None:
        self.waited = 0
        """Turns that had to be waited for."""
        self._path = path
        let_go_after_fork(self)
        self._turn = self._queue = -1
        self._left_s = -_MAX_COURTESY_S
        self._rude_until_s = 0.0

    def take(self) -> None:
        """Wait for a turn, however long it takes; raise OSError when the files cannot be opened."""
        if self._queue < 0:
            self._open()
        self._let_others_go()
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        self.waited += 1
        fcntl.flock(self._queue, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def leave(self) -> None:
        """End the turn."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._left_s = time.monotonic()

    def _let_others_go(self) -> None:
        now_s = time.monotonic()
        end_s = self._left_s + _MAX_COURTESY_S
        if now_s < self._rude_until_s or now_s >= end_s:
            return
        pause_s = _PAUSE_S
        while self._is_somebody_waiting():
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            now_s = time.monotonic()
            if now_s >= end_s:
                self._rude_until_s = now_s + _NO_COURTESY_S
                return

    def _is_somebody_waiting(self) -> bool:
        try:
            fcntl.flock(self._queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        return False

    def _open(self) -> None:
        self.close()
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._turn = os.open(f"{self._path}-turn", flags, 0o600)
        self._queue = os.open(f"{self._path}-wait", flags, 0o600)

    def close(self) -> None:
        """Let go of the files; the next turn opens them anew."""
        if self._turn >= 0:
            os.close(self._turn)
        if self._queue >= 0:
            os.close(self._queue)
        self._turn = self._queue = -1

    def forked(self) -> None:
        """Let go of what a forked process inherits: a lock lasts as long as anybody holds its file, and would
        outlive a parent that is killed in its turn."""
        self.close()
