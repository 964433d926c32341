"""One Engine.IO connection, whatever carries it at the moment: the `Link` of Socket.IO.

Skeleton: signatures first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from everywire.access.identity import AuthRequest
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sockets.link import Packets, Upper

__all__ = ["Engine", "EngineOptions"]


class EngineOptions(NamedTuple):
    """What one mount of Engine.IO is set to; times in seconds."""

    name: str = "socketio"
    """What log, metrics and `AuthRequest.transport` call it; carriers are named after it."""
    ping_interval_s: float = 25.0
    ping_timeout_s: float = 20.0
    upgrade_timeout_s: float = 10.0
    max_payload: int = 1_000_000
    protocols: frozenset[int] = frozenset({3, 4})
    transports: tuple[str, ...] = ("polling", "websocket")
    allow_jsonp: bool = True


class Engine:
    """One connection of Engine.IO 4 or 3."""

    sid: str
    protocol: int
    request: AuthRequest
    peer: str
    options: EngineOptions
    upper: Upper

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``."""
        raise NotImplementedError

    @property
    def is_stalled(self) -> bool:
        """Whether the carrier takes nothing at the moment."""
        raise NotImplementedError

    @property
    def is_ended(self) -> bool:
        """Whether its life is over."""
        raise NotImplementedError

    @property
    def queued_bytes(self) -> int:
        """Bytes of posted packets that wait."""
        raise NotImplementedError

    @property
    def framing(self) -> Framing:
        """Frames packets for what carries it at the moment."""
        raise NotImplementedError

    @property
    def send(self) -> Callable[[Any], int]:
        """Take framed packets of readers."""
        raise NotImplementedError

    def write(self, framed: Any, /) -> None:
        """Take framed packets of readers, or the rest of them."""
        raise NotImplementedError

    def post(self, packets: Packets) -> None:
        """Send packets, now or when the carrier takes them."""
        raise NotImplementedError

    def close(self, code: Code | None = None, reason: str = "") -> None:
        """Close and end."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Bring no more messages."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Bring messages again."""
        raise NotImplementedError

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line."""
        raise NotImplementedError
