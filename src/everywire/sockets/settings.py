"""What a mount of Socket.IO can be set to. Bounds that are everybody's are in `everywire.core.limits`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from everywire.core.errors import SettingsError

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

    def __post_init__(self) -> None:
        """Check what types cannot say; raises `SettingsError`."""
        if self.parser not in ("json", "msgpack"):
            raise SettingsError(f"{self.parser!r} is no parser; expected json or msgpack")
        for name in ("connect_timeout_s", "ping_interval_s", "ping_timeout_s", "max_payload"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name}: expected a number above 0")
        if not 0 <= self.recovery_window_s < math.inf:
            raise SettingsError("recovery_window_s: expected a number above 0, or 0 for none")

    @property
    def has_recovery(self) -> bool:
        """Whether clients are given what they need to come back as who they were."""
        return self.recovery_window_s > 0
