"""Server-sent events, the writing side: blocks of ``text/event-stream``.

By the WHATWG HTML standard, §9.2.5 and §9.2.6. Whatever a field holds, it cannot
end the field, the event or the stream: line ends in data become further ``data:``
lines, and CR, LF and NUL in any other field are refused. The reading side is
`everywire.codecs.sse_decoder`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTENT_TYPE", "encode_comment", "encode_event", "encode_id", "encode_retry"]

CONTENT_TYPE: Final = b"text/event-stream"

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


def _checked(field: str, value: str) -> str:
    if _FORBIDDEN.search(value):
        raise ValueError(f"an SSE {field} cannot hold CR, LF or NUL")
    return value


def encode_event(data: bytes, *, event: str | None = None, event_id: str | None = None) -> bytes:
    """Encode one event. ``data`` is UTF-8; its line ends all come out as LF."""
    parts: list[bytes] = []
    if event_id is not None:
        parts.append(b"id: %s\n" % _checked("id", event_id).encode())
    if event is not None:
        parts.append(b"event: %s\n" % _checked("event name", event).encode())
    if b"\n" in data or b"\r" in data:
        parts += [b"data: %s\n" % line for line in _LINE_END.split(data)]
        parts.append(b"\n")
    else:
        parts.append(b"data: %s\n\n" % data)
    return b"".join(parts)


def encode_id(event_id: str) -> bytes:
    """Encode a block that only sets the last event id; it fires no event."""
    return b"id: %s\n\n" % _checked("id", event_id).encode()


def encode_retry(retry_ms: int) -> bytes:
    """Encode a block that only sets the reconnection time."""
    return b"retry: %d\n\n" % retry_ms


def encode_comment(text: str = "") -> bytes:
    """Encode a comment, which readers ignore; an empty one is the heartbeat."""
    return b":%s\n\n" % _checked("comment", text).encode()
