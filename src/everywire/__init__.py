"""Everywire: one channel, every wire.

A server for the real-time web whose channels are reached by polling, long
polling, HTTP streaming, server-sent events and WebSocket, all with the same
positions and the same recovery, so that a client may change transports in the
middle of a stream and miss nothing.
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everywire.application import Everywire as Everywire
    from everywire.application import Published as Published

__all__ = ["Everywire", "Published", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, so that whoever needs one inner room does not load the whole house.
    if name in ("Everywire", "Published"):
        from everywire import application

        return getattr(application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
