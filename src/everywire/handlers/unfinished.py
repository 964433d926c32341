"""How much was begun in an event loop by other threads and is not done, and the end of it."""

from __future__ import annotations

import math
import threading

__all__ = ["Unfinished"]


class Unfinished:
    """A count with a bound. Begun is counted by those who begin, from any thread, under a lock; done by the
    event loop alone, which must never wait for one."""

    __slots__ = ("_begun", "_begun_bytes", "_done", "_done_bytes", "_lock", "_most", "_most_bytes")

    def __init__(self, most: int, most_bytes: float = math.inf) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.RLock()  # a handler of a signal may come in between
        self._begun = self._begun_bytes = 0
        self._done = self._done_bytes = 0

    def begin(self, size: int = 0) -> bool:
        """Count one that begins, of so many bytes; False when there is no room. One alone has."""
        with self._lock:
            count = self._begun - self._done
            held = self._begun_bytes - self._done_bytes + size
            if count and (count >= self._most or held > self._most_bytes):
                return False
            self._begun += 1
            self._begun_bytes += size
        return True

    def end(self, size: int = 0) -> None:
        """Count one that is done; in the loop."""
        self._done += 1
        self._done_bytes += size
