"""Decoding server-sent events: bytes in, events out.

By the WHATWG HTML standard, §9.2.5 and §9.2.6: UTF-8 with wrong bytes replaced, one leading BOM
skipped, lines that end with CRLF, LF or CR, an event dispatched at a blank line, and what is
unfinished at the end of the stream discarded. It sleeps and reconnects for nobody: the last
event ID and the reconnection time are there for whoever does.

It departs from the standard in one thing: an event has a largest size.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from everywire.core.errors import TooLarge

__all__ = ["SseDecoder", "SseEvent"]

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One event: its type (``message`` if none was given), data, and the last event ID as it stood."""

    event: str
    data: str
    id: str


class SseDecoder:
    """Decodes one stream; a reconnection wants a new decoder.

    ``last_event_id`` and ``retry_ms`` are as the stream has set them so far; a block that has
    only an ``id:`` sets the first without any event.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_data_bytes",
        "_event",
        "_id",
        "_line",
        "_line_bytes",
        "_max_event_bytes",
        "_skips_lf",
        "last_event_id",
        "retry_ms",
    )

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._max_event_bytes = max_event_bytes
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._data_bytes = 0
        self._line: list[bytes] = []  # an unfinished line, in the pieces it came in
        self._line_bytes = 0
        self._skips_lf = False  # the last byte was CR: a LF that follows belongs to it
        self._at_start = True

    def receive_data(self, data: bytes) -> list[SseEvent]:
        """Take bytes of the stream and return the events that they complete.

        Raises `TooLarge` when an event, or an unfinished line, grows beyond the bound; the
        decoder is of no use after that.
        """
        if self._skips_lf and data:
            self._skips_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        if not data:
            return []
        self._skips_lf = data.endswith(b"\r")
        events: list[SseEvent] = []
        *complete, rest = _LINE_END.split(data)
        for piece in complete:
            self._take_line(self._join_line(piece), events)
        if rest:
            self._line.append(rest)
            self._line_bytes += len(rest)
            self._check_size(self._line_bytes)
        return events

    def _join_line(self, piece: bytes) -> bytes:
        if self._line:
            self._line.append(piece)
            piece = b"".join(self._line)
            self._line.clear()
            self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            piece = piece.removeprefix(_BOM)
        return piece

    def _check_size(self, line_bytes: int) -> None:
        if line_bytes + self._data_bytes > self._max_event_bytes:
            raise TooLarge(f"an event is larger than {self._max_event_bytes} bytes")

    def _take_line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        if line.startswith(b":"):
            return
        self._check_size(len(line))
        name, _, value_bytes = line.partition(b":")
        value = value_bytes.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(line)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if "\0" not in value:
                self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit() and len(value) <= 15:
            self.retry_ms = int(value)

    def _dispatch(self, events: list[SseEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            events.append(SseEvent(self._event or "message", "\n".join(self._data), self._id))
            self._data.clear()
            self._data_bytes = 0
        self._event = ""
