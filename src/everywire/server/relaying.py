"""This node's part in forwarding between nodes: its private addresses, and the way to those of the others."""

from __future__ import annotations

from pathlib import Path

from everywire.server.private import PrivateServer, remove_left_behind
from everywire.sessions.shared import Shared
from everywire.sockets.engines import label_of
from everywire.transports.exchange import Handler
from everywire.transports.relay_letters import Seal
from everywire.transports.relay_peers import lease_value
from everywire.transports.relay_private import PrivateSide
from everywire.transports.relay_way import PeerRelay

__all__ = ["Relaying"]


class Relaying:
    """Listens for other nodes and reaches them, between `start` and `close`."""

    def __init__(self, handler: Handler, advertise: str, log_fd: int | None) -> None:
        self._handler = handler
        self._advertise = advertise
        self._log_fd = log_fd
        self._server: PrivateServer | None = None
        self.relay: PeerRelay | None = None
        self.private: PrivateSide | None = None

    async def start(self, shared: Shared, directory: Path | None) -> PeerRelay:
        """Listen, have the node's lease tell where, and return the way to the others; before the lease is
        made. ``directory`` is where the workers of this machine have their sockets; None for none."""
        if directory is not None:
            remove_left_behind(directory)
        broker = shared.hub.broker
        label = label_of(broker.node)
        seal = Seal()
        await seal.agree(broker.store)
        self.private = PrivateSide(self._handler, seal, label, shared.hub.time)
        server = PrivateServer(
            self.private,
            directory,
            label,
            advertise=self._advertise,
            limits=shared.limits,
            log_fd=self._log_fd,
        )
        await server.start()
        self._server = server
        shared.registry.nodes.value = lease_value(server.unix, server.tcp)
        self.relay = PeerRelay(shared, seal)
        return self.relay

    def leave(self) -> None:
        """Take no more requests of other nodes: the sessions here are about to end. What they still say goes
        out until `close`."""
        if self.private is not None:
            self.private.is_leaving = True
        if self._server is not None:
            self._server.stop_listening()

    async def close(self, drain_s: float) -> None:
        """Take leave of the other nodes, after all sessions have ended."""
        server, self._server = self._server, None
        if self.relay is not None:
            self.relay.close()
        if server is not None:
            await server.drain(drain_s)
            await server.close()
