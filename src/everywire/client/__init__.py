"""The client side: channels over sessions on any wire, reading plain transports, and publishing.

The names here are made when they are first asked for, so that the command line begins quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from everywire.client.client import Client
    from everywire.client.errors import Busy, ClientError, CommandError, ConnectionLost, Refused
    from everywire.client.items import Missed, Received
    from everywire.client.subscription import Joined, Left, Snapshot, Subscription
    from everywire.client.sync import SyncClient, SyncSubscription
    from everywire.core.position import Place

__all__ = [
    "Busy",
    "Client",
    "ClientError",
    "CommandError",
    "ConnectionLost",
    "Joined",
    "Left",
    "Missed",
    "Place",
    "Received",
    "Refused",
    "Snapshot",
    "Subscription",
    "SyncClient",
    "SyncSubscription",
]

_HOMES: Final = {
    "Client": "client.client",
    **dict.fromkeys(("Busy", "ClientError", "CommandError", "ConnectionLost", "Refused"), "client.errors"),
    **dict.fromkeys(("Missed", "Received"), "client.items"),
    **dict.fromkeys(("Joined", "Left", "Snapshot", "Subscription"), "client.subscription"),
    **dict.fromkeys(("SyncClient", "SyncSubscription"), "client.sync"),
    "Place": "core.position",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"everywire.{home}"), name)
