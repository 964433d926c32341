"""From the standard library's logging into the server's log: what ``everywire.*`` loggers say, as JSON lines.

Inside an application the loggers are left to it: it configures logging as it likes. `everywire serve` has
nobody who would, and its log is JSON; there a `LogBridge` stands on the ``everywire`` logger as long as the
server runs. What is said before there is a log waits, a bounded number of records of it.

A line's event is the rest of the logger's name. Messages and tracebacks are cut, and what has the shape of
a credential is hidden in them: whoever writes a record is to keep them out, this is for what slipped through.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections import deque
from types import TracebackType
from typing import Final

from everywire.server.log import LEVELS, Log

__all__ = ["LogBridge"]

_ROOT: Final = "everywire"
_MAX_WAITING: Final = 100
_MAX_MESSAGE_CHARACTERS: Final = 1_000
_MAX_TRACEBACK_CHARACTERS: Final = 8_000
_CREDENTIAL: Final = re.compile(
    r"\beyJ[\w-]{5,}(?:\.[\w-]*){1,2}"  # a JWT, or the head of one
    r"|\bt\.[\w-]{16,}"  # a ticket
    r"|(?<=bearer )\S+|(?<=apikey )\S+|(?<=basic )\S+",
    re.IGNORECASE,
)


class LogBridge(logging.Handler):
    """A handler of the ``everywire`` logger, from entering to leaving the context.

    Use it within the running event loop. Records of other threads are handed over to it.
    """

    def __init__(self, level: str) -> None:
        """Pass on records of a level, one of `everywire.server.log.LEVELS`, and above."""
        super().__init__(getattr(logging, level.upper()))
        self._log: Log | None = None
        self._waiting: deque[tuple[str, str, dict[str, str]]] = deque(maxlen=_MAX_WAITING)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._logger_level = logging.NOTSET

    def __enter__(self) -> LogBridge:
        logger = logging.getLogger(_ROOT)
        self._logger_level = logger.level
        logger.setLevel(self.level)
        logger.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger(_ROOT)
        logger.removeHandler(self)
        logger.setLevel(self._logger_level)
        if self._log is not None:
            self._log.close()  # once more: parts that close after the server have their last words
        for _, _, members in self._waiting:  # there never was a log
            sys.stderr.write(f"everywire: {members['message']}\n")
        self.close()

    def attach(self, log: Log) -> None:
        """Write to a log, what was said before first."""
        self._log = log
        while self._waiting:
            self._write(*self._waiting.popleft())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; called by the loggers, in whatever thread."""
        try:
            level, event, members = _line_of(record)
            if threading.get_ident() == self._thread:
                self._write(level, event, members)
            else:
                self._loop.call_soon_threadsafe(self._write, level, event, members)
        except Exception:  # the top of it: a message that cannot be formatted, a loop that is closed
            self.handleError(record)

    def _write(self, level: str, event: str, members: dict[str, str]) -> None:
        if self._log is None:
            self._waiting.append((level, event, members))
        else:
            getattr(self._log, level)(event, **members)


def _line_of(record: logging.LogRecord) -> tuple[str, str, dict[str, str]]:
    level = LEVELS[max(0, min(len(LEVELS) - 1, record.levelno // 10 - 1))]
    event = record.name.removeprefix(f"{_ROOT}.")
    message = _hidden(record.getMessage())
    members = {"message": _cut(message, _MAX_MESSAGE_CHARACTERS)}
    if record.exc_info and record.exc_info[0] is not None:
        told = _hidden(logging.Formatter().formatException(record.exc_info))
        members["traceback"] = told[-_MAX_TRACEBACK_CHARACTERS:]  # its end says what happened
    return level, event, members


def _hidden(text: str) -> str:
    return _CREDENTIAL.sub("***", text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"
