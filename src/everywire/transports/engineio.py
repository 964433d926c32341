"""``/engine.io/`` and ``/socket.io/``: requests of Engine.IO, versions 4 and 3.

Skeleton: signatures first.
"""

from __future__ import annotations

from everywire.sockets.engine import EngineOptions
from everywire.sockets.engines import Accept, Engines
from everywire.transports.exchange import Exchange
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import Service

__all__ = ["EngineIo"]


class EngineIo:
    """Answers all requests of one mount; ``accept`` returns who speaks over each new connection.

    Routing is the caller's: every request whose path is the mount's, with or without the last slash.
    """

    def __init__(
        self,
        service: Service,
        accept: Accept,
        options: EngineOptions = EngineOptions(),
        *,
        relay: Relay = NOWHERE,
    ) -> None:
        self.engines = Engines(service.shared, options)

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        raise NotImplementedError
