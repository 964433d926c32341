"""How a session speaks on one kind of carrier: the form of its messages and how they are put together.

A dialect is the hub's encoder for session subscriptions, too, so that a publication is encoded once for
all sessions of a channel that speak the same dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from everywire.codecs.centrifuge.messages import Command, Push, Reply
from everywire.hub.interfaces import Encoder

__all__ = ["Dialect"]


class Dialect(Encoder, Protocol):
    """One kind of carrier's words; shared, compared by identity."""

    name: str
    """Such as ``websocket-json``."""
    is_one_way: bool
    """Whether pushes are sent bare, and nothing but the connect request is heard."""
    has_own_pings: bool
    """Whether the carrier's own pings (WebSocket frames) take the place of the protocol's."""
    is_binary: bool
    """Whether fields of bytes may hold anything (Protobuf), or JSON text only."""

    def commands(self, data: bytes, max_commands: int) -> Sequence[Command]:
        """Decode what a client sent; raise `BadRequest` when it is nothing a client may send."""

    def payload(self, replies: Sequence[Reply]) -> Any:
        """Put replies together as one payload for the carrier's framing."""

    def push(self, push: Push) -> Any:
        """Return the payload of one push; on one-way carriers it is bare."""

    def ping(self) -> Any:
        """Return the payload of a ping."""
