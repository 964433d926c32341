"""What a SockJS session is to others: its options, what it begins with, and the link that it makes.

Sessions over HTTP are in `everywire.sockets.sockjs`, those over WebSocket in
`everywire.transports.sockjs_socket`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from everywire.access.identity import AuthRequest, Identity
from everywire.codecs.sockjs import encode_close, quote
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.sockets.link import Link, Packets, Upper

__all__ = [
    "ELEMENTS",
    "Accept",
    "Opening",
    "SockJsLink",
    "SockJsOptions",
    "close_frame",
    "without_secrets",
]

_NORMAL: Final = 1000


class Elements:
    """The framing of all sessions over HTTP: messages as quoted strings with commas between them."""

    def frame(self, payload: Packets) -> bytes:
        """Return the inside of a frame; SockJS knows no binary messages, so that all count as text."""
        return b",".join([quote(data) for _, data in payload])


ELEMENTS: Final = Elements()


@dataclass(frozen=True, slots=True)
class SockJsOptions:
    """What may differ between mounts; None is what the limits say."""

    response_bytes: int | None = None
    """How much one streamed answer carries before the client has to ask again."""
    heartbeat_s: float | None = None
    """Between two heartbeats."""
    disconnect_delay_s: float | None = None
    """How long a session waits for its client."""
    has_websocket: bool = True
    """Whether there is WebSocket, for those who may have it."""
    has_jsonp: bool = True
    """Whether there is JSONP, for browsers that can reach other origins by nothing else. Any page can read
    its answers, so no cookie counts there unless the browser says that the page is ours."""
    needs_cookie: bool = False
    """Whether a cookie ``JSESSIONID`` is set, for the sake of a load balancer that goes by it."""
    client_url: str = ""
    """Where the page for iframes has its client from; ``/…`` is this server. Without it there is no such
    page: it is of our origin, so whoever serves the script speaks for our users."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session begins with."""

    session_id: str
    """The client's own name for it: never told to the application."""
    owner: str
    """Whose it is, as far as its first request proved it; others with the same id have their own sessions."""
    mark: bytes
    """Stands for the credential of its first request: who shows it again need not be asked about."""
    request: AuthRequest
    identity: Identity | EverywireError
    """Whom it proved, or why it proved nobody. A ticket proves nothing here where it is to be used later."""
    transport: str
    """``xhr``, ``xhr_streaming``, ``eventsource``, ``htmlfile``, ``jsonp`` or ``websocket``."""


Accept: TypeAlias = Callable[["SockJsLink"], Upper]
"""Begins what speaks over a new link, which was told to be open."""


class SockJsLink(Link, Protocol):
    """A link that is a SockJS session, whatever carries it."""

    @property
    def identity(self) -> Identity | EverywireError:
        """See `Opening.identity`."""

    @property
    def carries_bytes(self) -> bool:
        """Whether it knows binary messages, as only ``/websocket`` does."""

    def settle(self) -> None:
        """Give back the place that is taken for a client who is not known yet: whoever speaks takes a
        place of its own."""

    def claim(self, user: str) -> None:
        """Hear which user speaks over it, as its messages proved: requests that prove another are not its
        client's."""


def close_frame(code: Code | None, reason: str) -> bytes:
    """Return the frame that tells a code, by default 1000."""
    if code is None:
        return encode_close(_NORMAL, reason or "Normal closure")
    return encode_close(code.number, reason or code.sentence)


def without_secrets(request: AuthRequest) -> AuthRequest:
    """Return what may be kept for as long as a session lasts."""
    return AuthRequest(
        transport=request.transport, peer=request.peer, origin=request.origin, method=request.method
    )
