"""What carries a conversation that outlives its requests, and what is said over it: `Link` and `Upper`.

A link is one client's logical connection (an Engine.IO connection, a SockJS session): polls come and go
below it, and a WebSocket may take their place. Whoever speaks over it (a Socket.IO client, an application's
handler, a session) is its upper, and does not care what carries it.

Publications go from the hub to the link's carrier directly: a reader's subscriber takes `Link.send` and
`Link.write` for its own, and hears through its upper when the carrier takes no more. What is no publication
is given to `Link.post`, at any time, and waits in the link when it must, bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from everywire.access.identity import AuthRequest
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing

__all__ = [
    "CLIENT_CLOSED",
    "FORCED",
    "PARSE_ERROR",
    "PING_TIMEOUT",
    "POLLING",
    "SHUTDOWN",
    "TRANSPORT_CLOSE",
    "TRANSPORT_ERROR",
    "WEBSOCKET",
    "Link",
    "Packets",
    "Upper",
]

Packets: TypeAlias = Sequence[tuple[bool, bytes]]
"""``(is_binary, bytes)`` pairs. Text packets have their Engine.IO type digit in front (``b"42[…]"``), binary
ones are the bare data of a message."""

POLLING: Final = "polling"
WEBSOCKET: Final = "websocket"

# Why a link ended, as `Upper.gone` hears it: the words of the protocol's own servers where they have one.
TRANSPORT_CLOSE: Final = "transport close"
"""The client's connection ended without a word, or its poll was cancelled."""
TRANSPORT_ERROR: Final = "transport error"
"""The client broke the rules of its transport: two polls at once, a POST that ended halfway."""
PING_TIMEOUT: Final = "ping timeout"
PARSE_ERROR: Final = "parse error"
"""The client sent what is no packet, or no packet that it may send."""
CLIENT_CLOSED: Final = "client closed"
"""The client sent a close packet, or closed its WebSocket in good order."""
FORCED: Final = "forced close"
"""The upper closed the link without giving a reason."""
SHUTDOWN: Final = "server shutting down"


class Upper(Protocol):
    """Who speaks over a link. All are plain calls from the event loop; none may raise."""

    def message(self, data: bytes, binary: bool) -> None:
        """Hear one message; text is valid UTF-8. Not called after `gone`."""

    def stalled(self) -> None:
        """Hear that the carrier takes no more: let no reader write until `writable`."""

    def writable(self) -> None:
        """Hear that the carrier takes more. What was posted meanwhile went first."""

    def moved(self) -> None:
        """Hear that the carrier changed: `Link.framing` and `Link.send` are others now. Open readers anew
        where they stand, before this returns; what they wrote went out by the old carrier. `Link.is_stalled`
        says whether the new one takes anything yet."""

    def gone(self, reason: str) -> None:
        """Hear that the link ended; called once, after `Link.close` too (before it returns)."""

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops: say what there is to say, by `Link.post`. The link closes when this
        returns, in its own words, so that its client comes back by itself."""


class Link(Protocol):
    """One client's logical connection, as its upper sees it."""

    @property
    def sid(self) -> str:
        """The id that the client's requests name it by; a secret."""

    @property
    def protocol(self) -> int:
        """The version of Engine.IO, 4 or 3; 0 for SockJS."""

    @property
    def transport(self) -> str:
        """What carries it at the moment: ``polling``, ``websocket``; SockJS has names of its own."""

    @property
    def request(self) -> AuthRequest:
        """What the first request brought to be known by."""

    @property
    def peer(self) -> str:
        """The client's address, seen through trusted proxies."""

    @property
    def is_stalled(self) -> bool:
        """Whether the carrier takes nothing at the moment; between two polls it never does."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait, with what each packet costs besides its data."""

    @property
    def framing(self) -> Framing:
        """Frames `Packets`; one object for all links whose bytes are the same. Another one after
        `Upper.moved`."""

    @property
    def send(self) -> Callable[[Any], int]:
        """What takes framed packets at once, for readers of the hub while the link is not stalled; see
        `everywire.hub.interfaces.Subscriber.send`. Another after `Upper.moved`."""

    def write(self, framed: Any, /) -> None:
        """Take framed packets, or the rest of them, from readers of the hub while the link is not stalled.
        If that is all it takes, `Upper.stalled` is called before this returns."""

    def post(self, packets: Packets) -> None:
        """Send packets that belong together, at any time and in their order. While the link is stalled they
        wait here; above twice `Limits.max_session_queue_bytes` the link is closed (3008)."""

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """Say what was posted, close in the carrier's own words, and end; `Upper.gone` is called with the
        reason before this returns. A second time does nothing."""

    def pause_reading(self) -> None:
        """Bring no more messages until `resume_reading`; those that have come already wait in the carrier."""

    def resume_reading(self) -> None:
        """Bring messages again, soon but not before this returns."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
