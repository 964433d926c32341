"""Nodes with Engine.IO on them, of which a test asks one for the connections of another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from everywire import Everywire
from everywire.server.private import PrivateServer
from everywire.server.relaying import Relaying
from everywire.sockets.engine import Engine
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engines import Engines
from everywire.sockets.link import Upper
from everywire.transports.relay_private import PrivateSide
from everywire.transports.relay_way import PeerRelay
from tests.nodes import nodes
from tests.serving import Site
from tests.transports.engines import PATH, PATIENT, Echo, Polling

__all__ = ["Node", "at", "node_of", "relaying"]


class Node(Everywire):
    """A node whose ``/engine.io/`` is given to uppers of the test's own."""

    def __init__(
        self,
        *,
        options: EngineOptions = PATIENT,
        upper: Callable[[Engine], Upper] = Echo,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.uppers: list[Any] = []

        def accept(engine: Engine) -> Upper:
            made = upper(engine)
            self.uppers.append(made)
            return made

        self._assembly.engine_mounts.add(PATH, lambda shared: accept, options)

    @property
    def engines(self) -> Engines:
        """All connections."""
        mount = self._assembly.engine_mounts.find(PATH)
        assert mount is not None
        return mount.engines

    @property
    def upper(self) -> Any:
        """The last upper that was made."""
        return self.uppers[-1]

    @property
    def relaying(self) -> Relaying:
        """Its part in forwarding."""
        return self._assembly._relaying

    @property
    def relay(self) -> PeerRelay:
        """Its way to the others."""
        assert self.relaying.relay is not None
        return self.relaying.relay

    @property
    def private(self) -> PrivateSide:
        """What takes requests of the others."""
        assert self.relaying.private is not None
        return self.relaying.private

    @property
    def private_server(self) -> PrivateServer:
        """What listens for the others."""
        assert self.relaying._server is not None
        return self.relaying._server


def node_of(site: Site) -> Node:
    """Return a site's node."""
    return cast(Node, site.wire)


def at(site: Site, client: Polling) -> Polling:
    """Return the same client, asking another node."""
    return Polling(site, client.opened)


@asynccontextmanager
async def relaying(count: int = 2, *, host: str = "own", **options: Any) -> AsyncIterator[list[Site]]:
    """Run nodes."""
    async with nodes(count, host=host, make=Node, **options) as sites:
        yield sites
