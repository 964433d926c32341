"""The log: one JSON object a line, written by a thread, so that a blocked reader never stalls the loop.

Lines wait in a bounded list until `Log.flush`, which hands all of them to the thread at once. When the
list is full, lines are dropped; how many is told in the next line that fits, and counted. JSON
escapes control characters, so no line can forge another or speak to a terminal.

Credentials are never written: `loggable` hides the values of query parameters that look like some.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from select import PIPE_BUF
from typing import Any, Final

import msgspec

__all__ = ["LEVELS", "Log", "loggable"]

LEVELS: Final = ("debug", "info", "warning", "error")
MAX_WAITING_BYTES: Final = 1024 * 1024
_FLUSHED_BYTES: Final = 64 * 1024
"""So much is handed over without waiting for the next flush."""
_MAX_PATH_CHARACTERS: Final = 512
_WORDS: Final = "token|ticket|key|secret|passw|auth|jwt|sig|sid|credential|session|cf_connect|%"
"""What stands in the names of parameters whose values may be secret. ``cf_connect`` holds a whole connect
command; a name that is percent-encoded may be any of these."""
_MAY_BE_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_SECRET: Final = re.compile(rf"((?:^|[?&;])[^=&;]*(?:{_WORDS})[^=&;]*=)[^&;]*", re.IGNORECASE)

_encode = msgspec.json.Encoder().encode


def loggable(path: str, query: str) -> str:
    """Return a target as it may stand in a log: secrets hidden, and not too long."""
    if query:
        if _MAY_BE_SECRET.search(query) is not None:
            query = _SECRET.sub(r"\1***", query)
        path = f"{path}?{query}"
    return path if len(path) <= _MAX_PATH_CHARACTERS else path[:_MAX_PATH_CHARACTERS] + "…"


class _Opened(msgspec.Struct, gc=False):
    """The line at open. A struct costs a quarter of a dictionary (0.3 µs)."""

    time: str
    level: str
    event: str
    connection: int
    peer: str
    transport: str
    path: str
    worker: int | msgspec.UnsetType = msgspec.UNSET


class _Closed(msgspec.Struct, gc=False):
    """The line at close."""

    time: str
    level: str
    event: str
    connection: int
    peer: str
    transport: str
    path: str
    duration_s: float
    requests: int
    messages_out: int
    bytes_in: int | None
    bytes_out: int | None
    reason: str | None
    worker: int | msgspec.UnsetType = msgspec.UNSET


def _pieces(data: bytes) -> Iterator[memoryview]:
    """Cut whole lines into pieces that a pipe takes as a whole: several workers write to it (pipe(7)).

    A single line above `PIPE_BUF`, such as a long traceback, may still meet another's.
    """
    view = memoryview(data)
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + PIPE_BUF) + 1
        if not end:
            end = data.find(b"\n", start) + 1 or len(data)
        yield view[start:end]
        start = end


class Log:
    """Writes lines to a file descriptor, which stays its owner's.

    Args:
        fd: where to write; None writes nothing.
        level: the least important lines that are written, one of `LEVELS`.
        clock: the time of a line, in seconds since the Unix epoch.
        max_waiting_bytes: how much may wait to be written.
        worker: the number of the worker that this process is, for every line.
    """

    __slots__ = (
        "_clock",
        "_fd",
        "_is_writing",
        "_lines",
        "_now_ms",
        "_queue",
        "_second",
        "_second_text",
        "_taken_bytes",
        "_text",
        "_thread",
        "_worker",
        "_written_bytes",
        "dropped",
        "level",
        "max_waiting_bytes",
        "told",
    )

    def __init__(
        self,
        fd: int | None,
        clock: Callable[[], float],
        level: str = "info",
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        *,
        worker: int | None = None,
    ) -> None:
        self._fd = fd
        self._worker: int | msgspec.UnsetType = msgspec.UNSET if worker is None else worker
        self._clock = clock
        self.level = LEVELS.index(level) if fd is not None else len(LEVELS)
        self.max_waiting_bytes = max_waiting_bytes
        self.dropped = 0
        """Lines dropped in all."""
        self.told = 0
        """How many of them have been told."""
        self._lines: list[bytes] = []
        # Two counters, because each is changed by one thread only.
        self._taken_bytes = 0
        self._written_bytes = 0
        self._is_writing = False
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._now_ms = self._second = -1
        self._second_text = self._text = ""

    def debug(self, event: str, **members: Any) -> None:
        """Write what only helps to find faults."""
        if self.level <= 0:
            self._add("debug", event, members)

    def info(self, event: str, **members: Any) -> None:
        """Write what happened."""
        if self.level <= 1:
            self._add("info", event, members)

    def warning(self, event: str, **members: Any) -> None:
        """Write what somebody should look at."""
        if self.level <= 2:
            self._add("warning", event, members)

    def error(self, event: str, **members: Any) -> None:
        """Write what is broken."""
        if self.level <= 3:
            self._add("error", event, members)

    def opened(self, connection: int, peer: str, transport: str, path: str) -> None:
        """Write that a connection carries a transport now."""
        if self.level <= 1:
            line = _Opened(self._stamp(), "info", "open", connection, peer, transport, path, self._worker)
            self._take(_encode(line))

    def closed(self, about: tuple[int, str, str, str], *figures: Any) -> None:
        """Write that a connection ended; first what `opened` was told, then the members of `_Closed`."""
        if self.level <= 1:
            line = _Closed(self._stamp(), "info", "close", *about, *figures)
            line.worker = self._worker
            self._take(_encode(line))

    def _add(self, level: str, event: str, members: dict[str, Any]) -> None:
        self._take(self._line(level, event, members))

    def _line(self, level: str, event: str, members: dict[str, Any]) -> bytes:
        line: dict[str, Any] = {"time": self._stamp(), "level": level, "event": event} | members
        if self._worker is not msgspec.UNSET:
            line["worker"] = self._worker
        return _encode(line)

    def _stamp(self) -> str:
        now_ms = int(self._clock() * 1000)
        if now_ms != self._now_ms:
            self._now_ms = now_ms
            second, milli = divmod(now_ms, 1000)
            if second != self._second:
                self._second = second
                self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._text = f"{self._second_text}.{milli:03}Z"
        return self._text

    def _take(self, line: bytes) -> None:
        waiting_bytes = self._taken_bytes - self._written_bytes + len(line)
        if waiting_bytes > self.max_waiting_bytes:
            self.dropped += 1
            return
        self._taken_bytes += len(line) + 1
        self._lines.append(line)
        if self.dropped != self.told:
            # Not through here again: there is always room to say what had none.
            count, self.told = self.dropped - self.told, self.dropped
            notice = self._line("warning", "log_lines_dropped", {"count": count})
            self._taken_bytes += len(notice) + 1
            self._lines.append(notice)
        if waiting_bytes > _FLUSHED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what waits to the thread, unless it is still busy with what it was given before."""
        if not self._lines or self._is_writing:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="everywire-log", daemon=True)
            self._thread.start()
        data = self._joined()
        self._is_writing = True
        self._queue.put(data)

    def _joined(self) -> bytes:
        self._lines.append(b"")
        data = b"\n".join(self._lines)
        self._lines.clear()
        return data

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is left, for a bounded time, and end the thread."""
        thread = self._thread
        if thread is None and self._lines:
            self.flush()
            thread = self._thread
        if thread is None:
            return
        if self._lines:
            self._queue.put(self._joined())
        self._queue.put(None)
        thread.join(timeout_s)
        self._thread = None

    def _write(self) -> None:
        """Run in the thread: write what comes, whole."""
        fd = self._fd
        assert fd is not None
        while (data := self._queue.get()) is not None:
            size = len(data)
            try:
                for view in [memoryview(data)] if self._worker is msgspec.UNSET else _pieces(data):
                    while view:
                        view = view[os.write(fd, view) :]
            except OSError:
                pass  # nobody reads any more; there is no other place to say so
            self._written_bytes += size
            self._is_writing = False
