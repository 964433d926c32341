"""Request bodies, by length or chunked, whatever the pieces in which they arrive (RFC 9112 §6, §7.1).

Chunked ones are read strictly. Bounded: the body, the length of a size line, the bytes that are
not data (extensions and needlessly small chunks), and the trailer section, which is checked and
thrown away. Bare LF, signs, spaces and anything else that two parsers might read differently is
refused.
"""

from __future__ import annotations

import re
from typing import Final

from everywire.core.errors import BadRequest, TooLarge

__all__ = ["MAX_TRAILERS", "MAX_TRAILER_BYTES", "ChunkedDecoder", "LengthDecoder"]

MAX_LINE_BYTES: Final = 256
"""A chunk's size with its extensions."""
MAX_OVERHEAD_BYTES: Final = 16 * 1024
"""Extensions of all chunks together. As in Go's net/http, 16 bytes a chunk and twice its data are free."""
MAX_TRAILER_BYTES: Final = 8 * 1024
MAX_TRAILERS: Final = 32

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")

_AT_SIZE: Final = 0
_IN_DATA: Final = 1
_AFTER_DATA: Final = 2
_IN_TRAILERS: Final = 3
_DONE: Final = 4


class LengthDecoder:
    """Collects one body of a known length.

    Attributes:
        body: the data so far.
        remaining: how many bytes are missing.
    """

    __slots__ = ("body", "remaining")

    def __init__(self, length: int) -> None:
        self.body = bytearray()
        self.remaining = length

    @property
    def is_done(self) -> bool:
        """Whether the body is complete."""
        return not self.remaining

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return those after the end of the body."""
        taken = data[: self.remaining]
        self.body += taken
        self.remaining -= len(taken)
        return data[len(taken) :]


class ChunkedDecoder:
    """Collects one chunked body.

    Attributes:
        body: the data so far.
    """

    __slots__ = (
        "_max_bytes",
        "_overhead",
        "_remaining",
        "_state",
        "_tail",
        "_trailer_bytes",
        "_trailers",
        "body",
    )

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        self._max_bytes = max_bytes
        self._state = _AT_SIZE
        self._tail = b""
        self._remaining = 0
        self._overhead = 0
        self._trailers = 0
        self._trailer_bytes = 0

    @property
    def is_done(self) -> bool:
        """Whether the body and its trailers have ended."""
        return self._state == _DONE

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return those after the end of the body.

        Raises:
            BadRequest: the body is malformed.
            TooLarge: it is larger than ``max_bytes``; told before its data is read.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at = 0
        end = len(data)
        while at < end:
            state = self._state
            if state == _IN_DATA:
                taken = min(self._remaining, end - at)
                self.body += data[at : at + taken]
                at += taken
                self._remaining -= taken
                if not self._remaining:
                    self._state = _AFTER_DATA
            elif state == _AFTER_DATA:
                if data[at : at + 2] != b"\r\n":
                    if end - at < 2 and data[at] == 13:
                        break
                    raise BadRequest("a chunk does not end where its size says")
                at += 2
                self._state = _AT_SIZE
            elif state == _AT_SIZE:
                match = _SIZE.match(data, at)
                if match is None:
                    self._check_unfinished(data, at, MAX_LINE_BYTES)
                    break
                at = match.end()
                self._start_chunk(int(match[1], 16), at - match.start())
            elif state == _IN_TRAILERS:
                line_end = data.find(b"\r\n", at)
                if line_end < 0:
                    self._check_unfinished(data, at, MAX_TRAILER_BYTES)
                    break
                self._take_trailer(data[at:line_end])
                at = line_end + 2
            else:
                return data[at:]
        self._tail = data[at:]
        return b""

    def _check_unfinished(self, data: bytes, at: int, max_bytes: int) -> None:
        """Refuse a line that is whole and wrong, or too long; wait for the rest of any other."""
        line_end = data.find(b"\r\n", at)
        length = (line_end if line_end >= 0 else len(data) - data.endswith(b"\r")) - at
        if length > max_bytes:
            raise BadRequest("a line of the chunked body is too long")
        if line_end >= 0:
            raise BadRequest("a chunk size is malformed")

    def _start_chunk(self, size: int, line_bytes: int) -> None:
        if line_bytes > MAX_LINE_BYTES + 2:
            raise BadRequest("a line of the chunked body is too long")
        if size == 0:
            self._state = _IN_TRAILERS
            return
        if len(self.body) + size > self._max_bytes:
            raise TooLarge(f"the body is larger than {self._max_bytes} bytes")
        self._overhead = max(0, self._overhead + line_bytes - 16 - 2 * size)
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise BadRequest("the chunked body is mostly extensions")
        self._remaining = size
        self._state = _IN_DATA

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            return
        self._trailers += 1
        self._trailer_bytes += len(line) + 2
        if self._trailers > MAX_TRAILERS or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise BadRequest("too many trailer fields")
        if _TRAILER.fullmatch(line) is None:
            raise BadRequest("a trailer field is malformed")
