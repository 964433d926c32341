"""All Engine.IO connections of this node, by their ids.

Skeleton: signatures first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from everywire.access.identity import AuthRequest
from everywire.sessions.shared import Shared
from everywire.sockets.engine import Engine, EngineOptions
from everywire.sockets.link import Upper

__all__ = ["Accept", "Engines"]

Accept: TypeAlias = Callable[[Engine], Upper]
"""Takes a connection that was opened, and returns who speaks over it. It may post packets, which go out right
behind the open packet, and raises an `everywire.core.errors.EverywireError` to refuse."""


class Engines:
    """The Engine.IO connections of this node; one for each mount."""

    def __init__(self, shared: Shared, options: EngineOptions = EngineOptions()) -> None:
        self.shared = shared
        self.options = options

    def find(self, sid: str) -> Engine | None:
        """Return the connection with an id, if it is open."""
        raise NotImplementedError

    def open(self, request: AuthRequest, protocol: int, accept: Accept) -> Engine:
        """Open a connection."""
        raise NotImplementedError

    def statistics(self) -> Mapping[str, int]:
        """Return what there is at this moment, and what was since the start."""
        raise NotImplementedError

    def close(self) -> None:
        """End all connections, before the hub is closed."""
        raise NotImplementedError
