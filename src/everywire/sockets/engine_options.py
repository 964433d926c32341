"""What one mount of Engine.IO is set to."""

from __future__ import annotations

from typing import Final, NamedTuple

from everywire.sockets.link import POLLING, WEBSOCKET

__all__ = ["DEFAULTS", "EngineOptions"]


class EngineOptions(NamedTuple):
    """Times, sizes, and what is offered. Clients are told the times in whole milliseconds."""

    name: str = "socketio"
    """What `AuthRequest.transport` calls it; log and metrics add what carries it: ``socketio-polling``."""
    ping_interval_s: float = 25.0
    """From one sign of life to the next ping."""
    ping_timeout_s: float = 20.0
    """For the answer to a ping; in version 3, how late a client's ping may be."""
    upgrade_timeout_s: float = 10.0
    """From the handshake of a WebSocket that is to take over until it has."""
    max_payload: int = 1_000_000
    """Bytes of one POST, and of one WebSocket message, that a client may send."""
    protocols: frozenset[int] = frozenset({3, 4})
    """The versions of Engine.IO that are spoken."""
    transports: tuple[str, ...] = (POLLING, WEBSOCKET)
    allow_jsonp: bool = True
    """Whether polls may come as scripts and forms; see `everywire.transports.engineio_jsonp`."""


DEFAULTS: Final = EngineOptions()
