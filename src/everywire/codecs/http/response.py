"""Response heads and the framing of bodies (RFC 9112 §4, §6, §7.1).

A head is put together from parts that are made once: the status line, the block of fields
(remembered by its content), the Date of this second. Names and values are checked, so that a
bug cannot split a response; what fails is a ValueError of ours, never of the peer's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final

__all__ = [
    "CHUNKED",
    "IDENTITY",
    "LAST_CHUNK",
    "STATUS_LINES",
    "ChunkedFraming",
    "IdentityFraming",
    "WholeResponse",
    "date_line",
    "encode_fields",
    "has_body",
]

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
"""Status lines by status. A server says HTTP/1.1 also to HTTP/1.0 clients (RFC 9110 §6.2)."""

LAST_CHUNK: Final = b"0\r\n\r\n"


@lru_cache(maxsize=1024)
def _encode(fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for name, value in fields:
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a header field")
        if _NOT_IN_VALUES.search(value) is not None:
            raise ValueError(f"the value of {name!r} has control characters")
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def encode_fields(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return header fields as they stand in a head; raise ValueError for what cannot stand there."""
    return _encode(tuple(fields))


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_line(now_s: int) -> bytes:
    """Return the Date field for a Unix time (RFC 9110 §5.6.7); to be kept for a second."""
    at = time.gmtime(now_s)
    return (
        f"date: {_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT\r\n"
    ).encode()


def has_body(status: int) -> bool:
    """Whether a response with this status may have a body and a Content-Length (RFC 9110 §6.4.1)."""
    return status >= 200 and status != 204 and status != 304


class WholeResponse:
    """Frames payloads as whole responses that differ only in their body.

    ``dates`` is asked for the Date field as each is made; ``connection`` is a Connection field
    or empty; to HEAD, the head tells the length of the payload that is not sent.
    """

    __slots__ = ("_after_date", "_before_date", "_dates", "_is_head_only", "status")

    def __init__(
        self,
        status: int,
        fields: Sequence[tuple[bytes, bytes]],
        dates: Dates,
        connection: bytes = b"",
        is_head_only: bool = False,
    ) -> None:
        self.status = status
        self._dates = dates
        self._before_date = STATUS_LINES[status] + encode_fields(fields) + connection
        self._after_date = b"content-length: %d\r\n\r\n" if has_body(status) else b"\r\n"
        self._is_head_only = is_head_only or not has_body(status)

    def frame(self, payload: bytes) -> bytes:
        """Return the response with this payload."""
        after = self._after_date
        if len(after) > 2:
            after %= len(payload)
        if self._is_head_only:
            payload = b""
        return b"".join((self._before_date, self._dates.line, after, payload))


class Dates:
    """Holds the Date field of this second."""

    __slots__ = ("_second", "line")

    def __init__(self, now_s: float) -> None:
        self._second = int(now_s)
        self.line = date_line(self._second)

    def turn(self, now_s: float) -> None:
        """Hear what time it is; make a new line when the second is another one."""
        if int(now_s) != self._second:
            self._second = int(now_s)
            self.line = date_line(self._second)


class ChunkedFraming:
    """Frames a payload as one chunk."""

    __slots__ = ()

    def frame(self, payload: bytes) -> bytes:
        """Return the chunk; an empty payload makes no chunk, for that would end the body."""
        return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


class IdentityFraming:
    """Leaves a payload as it is: the body ends with the connection (HTTP/1.0)."""

    __slots__ = ()

    def frame(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload


CHUNKED: Final = ChunkedFraming()
IDENTITY: Final = IdentityFraming()
