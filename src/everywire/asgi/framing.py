"""Framings for a host that does not own the bytes: payloads go on as they are.

Under ASGI the server writes chunks and WebSocket frames; only whole responses are put
together here, as status, headers and body.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

__all__ = ["AS_IT_IS", "Response", "response_framing"]

Pairs = tuple[tuple[bytes, bytes], ...]


class AsItIs:
    """Leaves a payload as it is: bytes for a chunk, a list of messages for a WebSocket."""

    def frame(self, payload: Any) -> Any:
        """Return the payload."""
        return payload


AS_IT_IS: Final = AsItIs()


class Response(NamedTuple):
    """A whole response."""

    status: int
    headers: Pairs
    body: bytes


class ResponseFraming:
    """Makes whole responses with one status and set of headers."""

    __slots__ = ("_headers", "_status")

    def __init__(self, status: int, headers: Pairs) -> None:
        self._status = status
        self._headers = headers

    def frame(self, payload: bytes) -> Response:
        """Return the response with this body."""
        return Response(self._status, self._headers, payload)


@lru_cache(maxsize=256)
def response_framing(status: int, headers: Pairs) -> ResponseFraming:
    """Return the framing of responses with these headers: one object for each, so that readers group."""
    return ResponseFraming(status, headers)
