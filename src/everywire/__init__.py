"""Everywire: one channel, every wire.

A server for the real-time web whose channels are reached by polling, long
polling, HTTP streaming, server-sent events and WebSocket, all with the same
positions and the same recovery, so that a client may change transports in the
middle of a stream and miss nothing.
"""

from typing import TYPE_CHECKING, Any

from everywire.core.version import __version__

if TYPE_CHECKING:
    from everywire.access.hooks import ConnectDecision as ConnectDecision
    from everywire.access.hooks import SubscribeDecision as SubscribeDecision
    from everywire.access.identity import Action as Action
    from everywire.access.identity import AuthRequest as AuthRequest
    from everywire.access.identity import Identity as Identity
    from everywire.application import Everywire as Everywire
    from everywire.core.errors import EverywireError as EverywireError
    from everywire.handlers.refused import Refused as Refused
    from everywire.handlers.run import Run as Run
    from everywire.handlers.runs import Produced as Produced
    from everywire.handlers.session import Session as Session
    from everywire.handlers.socketio_session import SocketSession as SocketSession
    from everywire.publishing.order import Published as Published
    from everywire.publishing.process import configure as configure
    from everywire.publishing.process import publish as publish
    from everywire.sockets.handling import ConnectionRefused as ConnectionRefused
    from everywire.sockets.settings import SocketSettings as SocketSettings

_HOMES = {
    "Action": "access.identity",
    "AuthRequest": "access.identity",
    "ConnectDecision": "access.hooks",
    "ConnectionRefused": "sockets.handling",
    "Everywire": "application",
    "EverywireError": "core.errors",
    "Identity": "access.identity",
    "Produced": "handlers.runs",
    "Published": "publishing.order",
    "Refused": "handlers.refused",
    "Run": "handlers.run",
    "Session": "handlers.session",
    "SocketSession": "handlers.socketio_session",
    "SocketSettings": "sockets.settings",
    "SubscribeDecision": "access.hooks",
    "configure": "publishing.process",
    "publish": "publishing.process",
}

__all__ = [
    "Action",
    "AuthRequest",
    "ConnectDecision",
    "ConnectionRefused",
    "Everywire",
    "EverywireError",
    "Identity",
    "Produced",
    "Published",
    "Refused",
    "Run",
    "Session",
    "SocketSession",
    "SocketSettings",
    "SubscribeDecision",
    "__version__",
    "configure",
    "publish",
]


def __getattr__(name: str) -> Any:
    # Late, so that whoever needs one inner room does not load the whole house.
    home = _HOMES.get(name)
    if home is not None:
        from importlib import import_module

        return getattr(import_module(f"everywire.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
