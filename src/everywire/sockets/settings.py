"""What a mount of Socket.IO can be set to. Bounds that are everybody's are in `everywire.core.limits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SocketSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSettings:
    """One mount of Socket.IO; times in seconds, sizes in bytes."""

    recovery_window_s: float = 120.0
    """How long a client that was cut off may come back as who it was, with what it missed; 0 is never (and
    no event carries a position then)."""
    connect_timeout_s: float = 10.0
    """For a client to connect to a namespace after the handshake; then the connection is closed."""
    ping_interval_s: float = 25.0
    """Between two pings of Engine.IO."""
    ping_timeout_s: float = 20.0
    """For a client to answer one; then the connection is closed."""
    max_payload: int = 1_000_000
    """The largest message or polling payload of a client."""
    parser: Literal["json", "msgpack"] = "json"
    """The form of packets: ``msgpack`` is the one of the package socket.io-msgpack-parser, on both sides."""

    @property
    def has_recovery(self) -> bool:
        """Whether clients are given what they need to come back as who they were."""
        return self.recovery_window_s > 0
